"""What a sweep does on a worker: a Dask task hands its job to a runner, which runs the notebook.

A runner is a child process, ``python -m helpers.batch.worker``: it reads jobs from its standard input, a
JSON line each, runs them through papermill in a kernel of its own, and answers with a line each. Papermill
changes the event loop of its process on Windows, so it gets one to itself; when its standard input closes,
because the worker ended or was killed, the runner ends its kernel and itself.
"""

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distributed import Worker, WorkerPlugin, get_worker

from helpers.batch.headless import run_notebook
from helpers.commands import child_environment
from helpers.errors import OutputError
from helpers.parameters import FOLDER
from helpers.report import write_json
from helpers.run_folder import ROOT

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem  # type: ignore[import-untyped]


ATTEMPTS = 2
"""A job whose worker is lost is tried once more, and then given up."""

_LOCK = Path(tempfile.gettempdir()) / f"runbook-{Path.home().name}-kernel-start.lock"


def open_storage(address: str) -> "tuple[FileSystem, str]":
    """The file system and the path in it that an address means: a folder, ``s3://…``, ``gs://…``, ``file://…``.

    Addresses that pyarrow does not know go to fsspec; the package that serves them must be installed.

    Raises:
        OutputError: Nothing serves such an address.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in address:
        return LocalFileSystem(), Path(address).expanduser().absolute().as_posix()
    problem: Exception | None = None
    for wanted in (address, f"fsspec+{address}"):
        try:
            found, path = FileSystem.from_uri(wanted)
            return found, path.rstrip("/")
        except (OSError, ValueError, ImportError) as error:
            problem = problem or error
    raise OutputError(
        f"{address} cannot be opened ({problem}).",
        fix="Use a folder, or install the package that serves such addresses, such as s3fs or gcsfs.",
    )


# --- on the worker ---------------------------------------------------------------------------------


class Runners(WorkerPlugin):
    """The runners of one Dask worker: as many as it has tasks at once, each kept for the next task.

    Args:
        session: Of the sweep's driver: sweeps that share a scheduler have runners of their own.
    """

    def __init__(self, session: str) -> None:
        self.name = runners_name(session)

    def setup(self, worker: Worker) -> None:
        """Called by Dask when the worker gets the plugin."""
        self._lock = threading.Lock()
        self._idle: list[Runner] = []
        self._all: list[Runner] = []

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker ends or loses the plugin."""
        with self._lock:
            for runner in self._all:
                runner.close()
            self._all, self._idle = [], []

    @contextlib.contextmanager
    def borrow(self) -> "Iterator[Runner]":
        """A runner for the length of a job; one that died is not kept."""
        with self._lock:
            runner = self._idle.pop() if self._idle else None
            if runner is None:
                runner = Runner()
                self._all.append(runner)
        try:
            yield runner
        finally:
            with self._lock:
                if runner.alive and runner in self._all:
                    self._idle.append(runner)
                else:
                    runner.close()


def runners_name(session: str) -> str:
    """What a session's plugin is called on the workers."""
    return f"runbook-runners-{session}"


class Runner:
    """The worker's end of a runner process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, kept as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.batch.worker"],
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job to its end; its status, message and seconds. A runner that dies is a failed job."""
        assert self._process.stdin is not None and self._process.stdout is not None
        answer = ""
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if answer:
            return dict(json.loads(answer))
        self._process.kill()
        status = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        what = f"The process that ran the notebook ended (status {status}). {' '.join(tail)}".strip()
        return {"status": "fail", "message": what, "seconds": 0.0}

    def close(self) -> None:
        """End the process and its kernel."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run_job(job: dict[str, Any], output: str, session: str, warm: bool) -> dict[str, Any]:
    """A Dask task: run a job's notebook, leave its folder in the output, and return its record.

    Args:
        job: ``name``, ``digest``, ``notebook``, ``parameters`` and ``varied``.
        output: The sweep's folder or address.
        session: Of the sweep's driver: attempts are counted within one.
        warm: Whether the kernel, with its suite loaded, is kept for the next job.

    Returns:
        The record that ``job.json`` holds, too; nothing is raised for what a notebook or a disk does.
    """
    began = time.monotonic()
    worker = get_worker()
    where = {"worker": worker.address, "host": socket.gethostname(), "session": session}
    record = job | where | {"status": "fail", "message": ""}
    scratch: Path | None = None
    try:
        storage, root = open_storage(output)
        if ended := _ended(storage, f"{root}/jobs/{job['name']}", session):
            return ended
        record["attempt"] = _count_attempt(storage, root, job["name"], session)
        if record["attempt"] > ATTEMPTS:
            record["message"] = f"{ATTEMPTS} workers were lost while they ran it; it is not tried again."
            return record
        local = storage.type_name == "local"
        parent = Path(root) / "jobs" if local else Path(tempfile.mkdtemp(prefix="runbook-"))
        scratch = parent / f"{job['name']}.{uuid.uuid4().hex[:8]}.part"
        scratch.mkdir(parents=True)
        with cast(Runners, worker.plugins[runners_name(session)]).borrow() as runner:
            found = runner.run({**job, "run_dir": str(scratch), "warm": warm})
        record |= {"status": found["status"], "message": found["message"], "run": read_numbers(scratch)}
        record["seconds"] = time.monotonic() - began
        write_json(scratch / "job.json", record)
        _publish(scratch, storage, f"{root}/jobs/{job['name']}")
    except (OSError, OutputError) as error:
        record["message"] = f"{record['message']} Its results could not be kept: {error}".strip()
        record["status"] = "fail"
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    record["seconds"] = time.monotonic() - began
    return record


def read_numbers(run_dir: Path) -> dict[str, Any]:
    """What a sweep's table takes from a run; empty where the notebook left no ``run.json``."""
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: record.get(name) for name in ("metrics", "timings", "frames", "device", "environment")}


def _ended(storage: "FileSystem", folder: str, session: str) -> dict[str, Any] | None:
    """The record of a job that this session has run: Dask asks again if the worker with it is lost."""
    with contextlib.suppress(OSError, ValueError), storage.open_input_stream(f"{folder}/job.json") as stream:
        record = dict(json.loads(stream.read()))
        return record if record.get("session") == session else None
    return None


def _count_attempt(storage: "FileSystem", root: str, name: str, session: str) -> int:
    """Which attempt of this session at the job this is: 1 unless a worker was lost before."""
    from pyarrow.fs import FileSelector

    folder = f"{root}/attempts/{session}"
    storage.create_dir(folder, recursive=True)
    there = storage.get_file_info(FileSelector(folder))
    earlier = sum(info.base_name.rpartition(".")[0] == name for info in there)
    with storage.open_output_stream(f"{folder}/{name}.{earlier + 1}") as stream:
        stream.write(b"")
    return earlier + 1


def _publish(folder: Path, storage: "FileSystem", target: str) -> None:
    """Put a job's folder where it belongs, whole or not at all: ``job.json`` is what makes it whole."""
    from pyarrow.fs import FileType, LocalFileSystem, copy_files

    if storage.get_file_info(target).type != FileType.NotFound:
        storage.delete_dir(target)
    if storage.type_name == "local":
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        folder.replace(target)
        return
    record = (folder / "job.json").read_bytes()
    (folder / "job.json").unlink()
    storage.create_dir(target, recursive=True)
    copy_files(folder.as_posix(), target, LocalFileSystem(), storage, use_threads=False)
    with storage.open_output_stream(f"{target}/job.json") as stream:
        stream.write(record)


# --- in the runner process -------------------------------------------------------------------------


class Kernel:
    """A kernel that outlives a notebook; papermill's engine ``live`` runs notebooks in it."""

    def __init__(self) -> None:
        import nbformat
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.engines import NotebookExecutionManager

        self.client = PapermillNotebookClient(
            NotebookExecutionManager(nbformat.v4.new_notebook()),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
        self.client.create_kernel_manager()
        with _turn():
            self.client.start_new_kernel(cwd=str(FOLDER))
            self.client.start_new_kernel_client()

    def do(self, code: str) -> None:
        """Run a line of our own, which no notebook shows."""
        self.client.wait_for_reply(self.client.kc.execute(code, silent=True, store_history=False))

    def end(self) -> None:
        """End the kernel at once."""
        with contextlib.suppress(Exception):  # whatever is left of a dead kernel
            self.client.kc.stop_channels()
        self.kill()

    def kill(self) -> None:
        """End the kernel's process; may be called from any thread."""
        process = getattr(self.client.km.provisioner, "process", None)
        if process is not None:
            process.kill()


@contextlib.contextmanager
def _turn(patience: float = 20.0) -> Iterator[None]:
    """One kernel starts at a time on a machine: kernels that start at once may choose the same port.

    A lock file older than ``patience`` seconds was left by a process that was killed.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(_LOCK, os.O_CREAT | os.O_EXCL))
            break
        except OSError:
            with contextlib.suppress(OSError):
                if time.time() - _LOCK.stat().st_mtime > patience:
                    _LOCK.unlink()
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _LOCK.unlink()


def register_live_engine() -> None:
    """Teach papermill the engine ``live``, which runs a notebook in the kernel it is given."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class LiveEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, kernel: Kernel | None = None, **_options: Any
        ) -> Any:
            assert kernel is not None
            client = PapermillNotebookClient(
                nb_man, km=kernel.client.km, kernel_name=kernel_name, timeout=None
            )
            client.kc = kernel.client.kc
            return client.execute()

    papermill_engines.register("live", LiveEngine)


def main() -> None:
    """Serve jobs until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed must not be taken for an answer
    kernels: list[Kernel] = []
    jobs = _jobs(kernels)
    register_live_engine()
    while True:
        job = jobs.get()
        if not kernels:
            kernels.append(Kernel())
            kernels[0].do("from helpers.batch import worker; worker.keep_worlds_open()")
        outcome = run_notebook(
            job["notebook"],
            Path(job["run_dir"]),
            job["parameters"],
            engine_name="live",
            kernel=kernels[0],
        )
        keep = job["warm"] and outcome.status != "fail"  # what a failed one left must not reach the next
        try:
            kernels[0].do("from helpers.batch import worker; worker.between_jobs()")
        except Exception:  # a kernel that died has many exception classes, of several packages
            keep = False
        if not keep:
            kernels.pop().end()
        answer = {"status": outcome.status, "message": outcome.message, "seconds": outcome.seconds}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _jobs(kernels: list[Kernel]) -> "queue.Queue[dict[str, Any]]":
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


# --- in the kernel ---------------------------------------------------------------------------------


def keep_worlds_open() -> None:
    """In a kernel that serves several jobs: give a world again that was opened before, if its files are."""
    from helpers.play.world import open_worlds

    open_worlds.keep(True)


def between_jobs() -> None:
    """Forget everything of the last notebook: its variables, and the log that it kept open."""
    import gc
    import logging

    from IPython import get_ipython

    logger = logging.getLogger("runbook")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    shell = get_ipython()
    if shell is not None:
        shell.reset(new_session=True)
    if not gc.get_freeze_count():
        gc.freeze()  # torch and the suite stay; looking through them at every reset takes long


if __name__ == "__main__":
    main()
