"""A sweep's job on a Dask worker: it goes to a runner, a child process with a warm kernel, and is recorded.

The runner is `helpers.batch.kernel`: a process of its own, because papermill changes the event loop of its
process on Windows. It gets jobs as JSON lines, answers with a line each, and ends when its input closes,
because the worker ended or was killed.
"""

import json
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from distributed import Worker, WorkerPlugin, get_worker

from helpers.batch.storage import count_attempt, open_storage, partial_folder, publish, read_record
from helpers.commands import JsonProgram, child_environment
from helpers.errors import OutputError
from helpers.report import write_json
from helpers.run_folder import ROOT

ATTEMPTS = 2  # a job whose worker is lost is tried once more, and then given up


class Runners(WorkerPlugin):
    """The runners of one Dask worker: as many as it has tasks at once, each kept for the next task."""

    def __init__(self, session: str) -> None:
        self.name = f"runbook-runners-{session}"  # sweeps that share a scheduler have runners of their own

    def setup(self, worker: Worker) -> None:
        """Called by Dask when the worker gets the plugin."""
        self._idle: list[JsonProgram] = []
        self._all: list[JsonProgram] = []

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker ends or loses the plugin."""
        for runner in self._all:
            runner.close()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job to its end; its status and message. A runner that dies is a failed job, and not kept."""
        try:
            runner = self._idle.pop()  # atomic: tasks of one worker are threads
        except IndexError:
            program = [sys.executable, "-m", "helpers.batch.kernel"]
            self._all.append(runner := JsonProgram(program, cwd=ROOT, env=child_environment()))
        if answer := runner.ask(job):
            self._idle.append(runner)
            return answer
        last, status = " ".join(runner.last_lines(1)), runner.process.returncode
        message = f"The process that ran the notebook ended (status {status}). {last}".strip()
        return {"status": "fail", "message": message}


def run_job(job: dict[str, Any], output: str, session: str, warm: bool) -> dict[str, Any]:
    """A Dask task: run a job's notebook, leave its folder in the output, and return its record.

    ``job`` holds the values of a `cluster.Job`, ``output`` and ``warm`` are as in `cluster.run_jobs`, and
    attempts are counted within a ``session`` of the driver. What a notebook or a disk does is in the record.
    """
    began, worker = time.monotonic(), get_worker()
    where = {"worker": worker.address, "host": socket.gethostname(), "session": session}
    record = job | where | {"status": "fail", "message": ""}
    scratch: Path | None = None
    try:
        storage, root = open_storage(output)
        target = f"{root}/jobs/{job['name']}"
        if ended := read_record(storage, target, session):
            return ended  # Dask asks again if the worker that holds the record is lost
        record["attempt"] = count_attempt(storage, root, job["name"], session)
        if record["attempt"] > ATTEMPTS:
            record["message"] = f"{ATTEMPTS} workers were lost while they ran it; it is not tried again."
            return record
        local = storage.type_name == "local"
        parent = Path(root) / "jobs" if local else Path(tempfile.mkdtemp(prefix="runbook-"))
        scratch = parent / partial_folder(job["name"])
        scratch.mkdir(parents=True)
        runners = cast(Runners, worker.plugins[Runners(session).name])
        record |= runners.run({**job, "run_dir": str(scratch), "warm": warm})
        record |= {"run": read_numbers(scratch), "seconds": time.monotonic() - began}
        write_json(scratch / "job.json", record)
        publish(scratch, storage, target)
    except (OSError, OutputError) as error:
        record["message"] = f"{record['message']} Its results could not be kept: {error}".strip()
        record["status"] = "fail"
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    record["seconds"] = time.monotonic() - began
    return record


def read_numbers(run_dir: Path) -> dict[str, Any]:
    """The part of ``run.json`` that a sweep's table needs; empty where the notebook left none."""
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: record.get(name) for name in ("metrics", "timings", "frames", "device", "environment")}
