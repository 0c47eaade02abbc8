"""A sweep's warm kernel: ``python -m helpers.batch.kernel`` runs notebooks in it, one after another.

It serves jobs, a JSON line each on standard input, until that closes. The suite stays loaded from job to
job; whatever else a notebook left is forgotten.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.batch.headless import KERNEL_ARGUMENTS, run_notebook
from helpers.files import expanded
from helpers.parameters import FOLDER

ENGINE = "warm"
_LOCK = Path(tempfile.gettempdir()) / f"runbook-{expanded('~').name}-kernel-start.lock"


class Kernel:
    """A kernel that outlives a notebook."""

    def __init__(self) -> None:
        from nbclient import NotebookClient
        from nbformat.v4 import new_notebook

        options: dict[str, Any] = {"kernel_name": "python3", "extra_arguments": KERNEL_ARGUMENTS}
        notebooks = NotebookClient(new_notebook(), **options)
        self.manager = notebooks.create_kernel_manager()
        with _one_start_at_a_time():
            notebooks.start_new_kernel(cwd=str(FOLDER))
            self.client = notebooks.start_new_kernel_client()
        self._wait_for_reply = notebooks.wait_for_reply
        self.do("kernel.keep_worlds_open()")

    def do(self, call: str) -> None:
        """Call a function of this module in the kernel; no notebook shows it. Raises where that fails."""
        code = f"from helpers.batch import kernel; {call}"
        reply = self._wait_for_reply(self.client.execute(code, silent=True, store_history=False))
        if reply is None or reply["content"]["status"] != "ok":
            raise RuntimeError(f"{call} failed in the kernel: {reply and reply['content'].get('evalue')}")

    def end(self) -> None:
        """End the kernel, and wait until it is gone: Windows lets nobody move its files before."""
        with contextlib.suppress(Exception):  # whatever is left of a dead kernel
            self.client.stop_channels()
        if process := self.kill():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)

    def kill(self) -> "subprocess.Popen[bytes] | None":
        """End the kernel's process; any thread may do so, unlike with jupyter_client's own calls."""
        process: subprocess.Popen[bytes] | None = getattr(self.manager.provisioner, "process", None)
        if process is not None:  # None: it has ended
            process.kill()
        return process


@contextlib.contextmanager
def _one_start_at_a_time(patience: float = 20.0) -> Iterator[None]:
    """One kernel starts at a time on a machine: kernels that start at once may choose the same port."""
    from filelock import FileLock, Timeout

    lock = FileLock(_LOCK)
    with contextlib.suppress(Timeout, OSError):  # a start out of turn is better than none
        lock.acquire(patience)
    try:
        yield
    finally:
        lock.release()


def register_warm_engine() -> None:
    """Teach papermill the engine `ENGINE`, which runs a notebook in the `Kernel` passed as ``kernel``.

    The one place that uses papermill's own client, which papermill does not document.
    """
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class WarmEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            warm: Kernel = options["kernel"]
            client = PapermillNotebookClient(nb_man, km=warm.manager, kernel_name=kernel_name, timeout=None)
            client.kc = warm.client
            return client.execute()

    papermill_engines.register(ENGINE, WarmEngine)


def main() -> None:
    """Serve jobs until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed must not be taken for an answer
    register_warm_engine()
    kernels: list[Kernel] = []
    jobs = _read_jobs(kernels)
    while True:
        job = jobs.get()
        if not kernels:
            kernels.append(Kernel())
        engine: dict[str, Any] = {"engine_name": ENGINE, "kernel": kernels[0]}
        outcome = run_notebook(job["notebook"], Path(job["run_dir"]), job["parameters"], **engine)
        keep = job["warm"] and outcome.status != "fail"  # what a failed one left must not reach the next
        try:
            kernels[0].do("kernel.forget_notebook()")
        except Exception:  # a kernel that died has many exception classes, of several packages
            keep = False
        if not keep:
            kernels.pop().end()
        print(json.dumps({"status": outcome.status, "message": outcome.message}), file=answers, flush=True)


def _read_jobs(kernels: list[Kernel]) -> "queue.Queue[dict[str, Any]]":
    """The jobs as they come; at the end of standard input the kernels are ended, and this process."""
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        for kernel in kernels:
            kernel.kill()
        os._exit(0)  # the main thread may be in the middle of a notebook

    threading.Thread(target=read, name="jobs", daemon=True).start()
    return jobs


def keep_worlds_open() -> None:
    """Let the next notebook have the world that is open, as long as it asks for the same."""
    from helpers.play.world import open_worlds

    open_worlds.keep(True)


def forget_notebook() -> None:
    """Forget everything of the last notebook: its variables, and the log that it kept open."""
    import gc
    import logging

    from IPython import get_ipython

    logger = logging.getLogger("runbook")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    get_ipython().reset(new_session=True)
    if not gc.get_freeze_count():
        gc.freeze()  # torch and the suite stay; looking through them at every reset takes long


if __name__ == "__main__":
    main()
