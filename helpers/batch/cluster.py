"""A sweep's jobs on Dask: on a cluster of this machine's GPUs or cores, or on the user's own scheduler."""

import contextlib
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distributed import Client, Nanny, Scheduler, SpecCluster, as_completed

from helpers.batch.worker import Runners, run_job
from helpers.errors import ParameterError
from helpers.gpu import detect_gpus

LOOPBACK = {
    **{"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    "worker_ttl": "365 days",
}
"""Dask's options for our own scheduler, on free ports: another sweep may run. It learns of a dead worker by
the lost connection; by the time since the last heartbeat it would give up every worker as the clock is set
forward, or the laptop wakes."""


@dataclass(frozen=True)
class Job:
    """One run of a notebook."""

    name: str  # of its folder: valid on every system, and no other job's in upper or lower case
    digest: str  # of notebook and parameters: equal for equal jobs, whatever they are called
    notebook: str  # without .ipynb
    parameters: dict[str, Any]  # all that are set
    varied: dict[str, Any]  # those that the sweep varies


@contextlib.contextmanager
def open_cluster(scheduler: str, jobs: int, workers: int = 0) -> Iterator[Client]:
    """A Dask client of ``scheduler``, such as ``tcp://127.0.0.1:8786``; if that is empty, of our own cluster.

    Our own ends with the block, is reachable from this machine only, and has the workers of `worker_options`.
    Raises a `ParameterError` where no scheduler answers.
    """
    # Dask logs every connection; what matters is in the records.
    for name in ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if scheduler:
        fix = "Start one with `dask scheduler`, or leave --scheduler out."
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise ParameterError(f"No Dask scheduler answers at {scheduler} ({error}).", fix=fix) from error
        with client:
            yield client
        return
    options = worker_options(visible_gpus(), os.cpu_count() or 1, jobs, workers)
    nannies = {str(index): {"cls": Nanny, "options": option} for index, option in enumerate(options)}
    with (
        SpecCluster(nannies, scheduler={"cls": Scheduler, "options": LOOPBACK}) as cluster,
        Client(cluster) as client,
    ):
        yield client


def visible_gpus() -> list[str]:
    """The GPUs that CUDA may use here: those that CUDA_VISIBLE_DEVICES names, or all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(len(detect_gpus()))]
    return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]


def worker_options(gpus: Sequence[str], cores: int, jobs: int, workers: int = 0) -> list[dict[str, Any]]:
    """Dask's options for workers that take one job at a time, at most as many as there are jobs.

    Each of ``gpus``, as CUDA names them, gets a worker that sees it alone. Where there are none, or a number
    of CPU workers is asked for, the workers share the cores.
    """
    common: dict[str, Any] = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "memory_limit": 0}
    common["silence_logs"] = logging.ERROR
    if gpus and not workers:
        common["resources"] = {"GPU": 1}
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts them
        return [common | {"env": order | {"CUDA_VISIBLE_DEVICES": gpu}} for gpu in gpus[:jobs]]
    count = max(1, min(workers or cores, jobs))
    names, threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), max(1, cores // count)
    return [common | {"env": dict.fromkeys(names, str(threads))} for _ in range(count)]


def run_jobs(
    client: Client, jobs: Sequence[Job], output: str, warm: bool, records: dict[str, dict[str, Any]]
) -> str:
    """Run jobs on a cluster, with a progress bar; why they ended early, else empty.

    A failed job does not stop the others. ``output`` is the sweep's folder or address as the workers see it;
    ``warm`` keeps kernels, with the suites they loaded, from job to job; ``records`` gets each job's record
    by its digest as soon as it ends.
    """
    from tqdm import tqdm

    session = uuid.uuid4().hex[:12]
    runners = Runners(session)
    client.register_plugin(runners)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    gpu = {"GPU": 1} if any(worker.get("resources", {}).get("GPU") for worker in workers) else {}
    futures: dict[Any, Job] = {}
    for job in jobs:
        resources = {} if job.parameters.get("device") == "cpu" else gpu
        options = {"key": f"{job.name}-{session}", "pure": False, "resources": resources}
        futures[client.submit(run_job, asdict(job), output, session, warm, **options)] = job
    failed = 0
    try:
        with tqdm(total=len(jobs), unit="job", dynamic_ncols=True) as bar:
            for future in as_completed(list(futures)):
                job = futures.pop(future)  # held, Dask would run it again whenever its worker is lost
                records[job.digest] = record = _result(future, job)
                failed += record["status"] == "fail"
                bar.set_postfix(failed=failed, last=job.name[:30])
                bar.update()
                if record["status"] == "fail":
                    bar.write(f"{job.name} failed: {record['message'].splitlines()[0]}", file=sys.stderr)
                if disk_is_full(record["message"]):
                    return "The disk is full."
        return ""
    finally:
        client.cancel(list(futures), force=True)
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            client.unregister_worker_plugin(runners.name)


def _result(future: Any, job: Job) -> dict[str, Any]:
    """A job's record; where Dask itself gave it up, one that says so."""
    try:
        return dict(future.result())
    except Exception as error:  # whatever a cluster, its network or its workers' environments raise
        return asdict(job) | {"status": "fail", "message": f"{type(error).__name__}: {error}", "seconds": 0.0}


def disk_is_full(message: str) -> bool:
    """Whether a failure is one that every further job would meet."""
    return any(sign in message for sign in ("No space left", "Errno 28", "WinError 112", "Disk quota"))
