"""Sweeps: `python runbook.py sweep sweep.yaml` runs a notebook for every combination of parameters, on Dask.

The way is `read_sweep` -> `open_cluster` -> `run_jobs` -> `summarise`. What happens on a worker is
`helpers.batch.worker`'s business. A sweep's folder holds ``jobs/<name>/`` for every job that ended, and the
table of all of them as ``summary.parquet`` and ``summary.csv``; what is there is not done again.

    name: temperatures                     # of the folder; the file's name otherwise
    notebook: 05_infer                     # this one, unless another is named
    parameters: {generation_steps: 8}      # of every job
    grid:                                  # every combination
      temperature: [0, 0.5, 1]
      seed: [0, 1, 2]
    list:                                  # each of these, combined with the grid
      - {name: tokens, feedback: tokens}
      - {name: pixels, feedback: pixels}
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from distributed import Client, Nanny, Scheduler, SpecCluster, as_completed
from pyarrow import csv, parquet
from pyarrow.fs import FileSelector, FileSystem  # type: ignore[import-untyped]

from helpers.batch.worker import Runners, open_storage, run_job, runners_name
from helpers.errors import OutputError, ParameterError, RunbookError
from helpers.gpu import detect_gpus
from helpers.parameters import FOLDER, check_value, find_notebook, parameters_of
from helpers.play.metrics import interval
from helpers.run_folder import ROOT
from helpers.worlds import world

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEYS = ("name", "notebook", "parameters", "grid", "list")


@dataclass(frozen=True)
class Job:
    """One run of a notebook.

    Args:
        name: Of its folder; valid on every system, and no other job's, upper and lower case being one.
        digest: Of notebook and parameters: equal for equal jobs, whatever they are called.
        notebook: Without ``.ipynb``.
        parameters: All that are set.
        varied: Those that the sweep varies.
    """

    name: str
    digest: str
    notebook: str
    parameters: dict[str, Any]
    varied: dict[str, Any]

    @property
    def device(self) -> str:
        """Where it asks to run; the notebook's ``auto`` where it does not say."""
        return str(self.parameters.get("device", "auto"))


@dataclass(frozen=True)
class Sweep:
    """What a sweep.yaml asks for.

    Args:
        name: Of its folder.
        jobs: In order; no two are equal.
        repeated: How many jobs were named more than once, and are run once.
    """

    name: str
    jobs: list[Job]
    repeated: int


def read_sweep(path: Path, folder: Path = FOLDER) -> Sweep:
    """Read a sweep.yaml; its form is in this module's docstring.

    Raises:
        ParameterError: The file is not of that form, or a parameter is unknown to the notebook or of another
            type.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} cannot be read as YAML ({error}).", fix="Mend the file.") from error
    only = f"A sweep has {', '.join(KEYS)} and nothing else."
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is no mapping.", fix=only)
    if extra := sorted(str(key) for key in set(content) - set(KEYS)):
        raise ParameterError(f"{path} has {', '.join(extra)}.", fix=only)
    notebook = find_notebook(str(content.get("notebook", "05_infer")), folder)
    known = parameters_of(folder / f"{notebook}.ipynb")
    common, grid = content.get("parameters") or {}, content.get("grid") or {}
    entries = content.get("list") or [{}]
    if not isinstance(common, dict) or not isinstance(grid, dict) or not isinstance(entries, list):
        raise ParameterError(
            f"{path} is not a sweep.", fix="parameters and grid are mappings, list is a list."
        )
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(
                f"{name} of grid is {values!r}.", fix=f"Give a list of values: {name}: [1, 2]."
            )
    jobs: dict[str, Job] = {}
    names: set[str] = set()
    total = 0
    for entry in entries:
        if not isinstance(entry, dict):
            raise ParameterError(f"{entry!r} of list is no mapping.", fix="Write - {seed: 1}.")
        own = {name: value for name, value in entry.items() if name != "name"}
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            varied = own | point
            job = _job(notebook, common | varied, varied, known, str(entry.get("name", "")), point)
            total += 1
            if job.digest not in jobs:
                jobs[job.digest] = replace(job, name=unused(job.name, names))
    return Sweep(folder_name(str(content.get("name") or path.stem)), list(jobs.values()), total - len(jobs))


def _job(
    notebook: str,
    parameters: dict[str, Any],
    varied: dict[str, Any],
    known: dict[str, str],
    label: str,
    point: dict[str, Any],
) -> Job:
    for name, value in parameters.items():
        if name not in known or name == "run_dir":
            raise ParameterError(
                f"{notebook} knows no parameter {name!r} that a sweep may set.",
                fix=f"It knows {', '.join(sorted(set(known) - {'run_dir'}))}.",
            )
        check_value(name, value, known[name])
    if "dataset" in parameters:
        world(parameters["dataset"])
    named = point if label else varied
    text = "_".join([label] * bool(label) + [f"{name}-{value}" for name, value in named.items()])
    content = json.dumps([notebook, parameters], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Job(folder_name(text or notebook), digest, notebook, parameters, varied)


_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def folder_name(text: str, longest: int = 60) -> str:
    """A text as the name of a folder that every system allows; too long a one ends with a digest."""
    name = re.sub(r"[^\w.=-]+", "-", text).strip("-. ") or "job"
    if len(name) > longest:
        name = f"{name[: longest - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"job-{name}" if name.split(".")[0].lower() in _RESERVED else name


def unused(name: str, names: set[str]) -> str:
    """The name, or with ``_2``, ``_3``… where it is taken; adds it to ``names``, whose case is folded."""
    found, count = name, 1
    while found.casefold() in names:
        count += 1
        found = f"{name}_{count}"
    names.add(found.casefold())
    return found


# --- the cluster -----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_cluster(scheduler: str, jobs: int, workers: int = 0) -> Iterator[Client]:
    """A Dask client: of the scheduler given, or of a cluster on this machine that ends with the block.

    Args:
        scheduler: Such as ``tcp://127.0.0.1:8786``; empty for a cluster of our own, reachable from this
            machine only: one worker for each GPU, or CPU workers by cores where there is none.
        jobs: How many there are; no more workers than that are started.
        workers: How many CPU workers, instead of one for each core.

    Raises:
        ParameterError: No scheduler answers there.
    """
    # Dask tells its log of every connection; what matters is in the records.
    for name in ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if scheduler:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise ParameterError(
                f"No Dask scheduler answers at {scheduler} ({error}).",
                fix="Start one with `dask scheduler`, or leave --scheduler out.",
            ) from error
        with client:
            yield client
        return
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    specification = {
        str(index): {"cls": Nanny, "options": each}
        for index, each in enumerate(worker_options(visible_gpus(), os.cpu_count() or 1, jobs, workers))
    }
    with (
        SpecCluster(specification, scheduler={"cls": Scheduler, "options": options}) as cluster,
        Client(cluster) as client,
    ):
        yield client


def visible_gpus() -> list[str]:
    """The GPUs that CUDA may use here: those that CUDA_VISIBLE_DEVICES names, or all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    return [str(index) for index in range(len(detect_gpus()))]


def worker_options(gpus: Sequence[str], cores: int, jobs: int, workers: int = 0) -> list[dict[str, Any]]:
    """The options of each worker's nanny: a GPU each, or an equal share of the cores each.

    Args:
        gpus: As CUDA knows them; each gets a worker that sees it alone and takes one job at a time.
        cores: Of this machine.
        jobs: How many there are.
        workers: How many CPU workers; 0 for one each core.
    """
    common = {
        "nthreads": 1,
        "host": "127.0.0.1",
        "dashboard": False,
        "memory_limit": 0,
        "silence_logs": logging.ERROR,
    }
    if gpus and not workers:
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts them
        return [
            common | {"resources": {"GPU": 1}, "env": order | {"CUDA_VISIBLE_DEVICES": gpu}}
            for gpu in gpus[:jobs]
        ]
    count = max(1, min(workers or cores, jobs))
    threads = str(max(1, cores // count))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return [common | {"env": dict.fromkeys(names, threads)} for _ in range(count)]


def gpu_workers(client: Client) -> bool:
    """Whether a worker of this cluster offers the resource ``GPU``."""
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(each.get("resources", {}).get("GPU") for each in found)


# --- running ---------------------------------------------------------------------------------------


def run_jobs(
    client: Client, jobs: Sequence[Job], output: str, warm: bool, records: dict[str, dict[str, Any]]
) -> str:
    """Run jobs on a cluster, showing how far it is.

    Args:
        client: Of the cluster.
        jobs: To be run; a failed one does not stop the others.
        output: The sweep's folder or address, as the workers see it.
        warm: Keep kernels, and the suites they loaded, from job to job.
        records: Gets each job's record by its digest, as soon as it ends.

    Returns:
        Why it was broken off; empty if it was not.
    """
    from tqdm import tqdm

    session = uuid.uuid4().hex[:12]
    client.register_plugin(Runners(session))
    resources = {"GPU": 1} if gpu_workers(client) else {}
    futures = {
        client.submit(
            run_job,
            asdict(job),
            output,
            session,
            warm,
            key=f"{job.name}-{session}",
            pure=False,
            resources={} if job.device == "cpu" else resources,
        ): job
        for job in jobs
    }
    failed = 0
    try:
        with tqdm(total=len(jobs), unit="job", dynamic_ncols=True) as bar:
            for future in as_completed(list(futures)):
                job = futures.pop(future)  # held, Dask would run it again whenever its worker is lost
                record = _result(future, job)
                records[job.digest] = record
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
            client.unregister_worker_plugin(runners_name(session))


def _result(future: Any, job: Job) -> dict[str, Any]:
    """A job's record; where Dask itself gave it up, one that says so."""
    try:
        return dict(future.result())
    except Exception as error:  # whatever a cluster, its network or its workers' environments raise
        return asdict(job) | {"status": "fail", "message": f"{type(error).__name__}: {error}", "seconds": 0.0}


def disk_is_full(message: str) -> bool:
    """Whether a failure is one that every further job would meet."""
    return any(sign in message for sign in ("No space left", "Errno 28", "WinError 112", "Disk quota"))


def read_records(storage: FileSystem, root: str) -> dict[str, dict[str, Any]]:
    """The records of jobs that ended before, by digest; ``run.json`` and the rest lie beside each."""
    found: dict[str, dict[str, Any]] = {}
    for info in storage.get_file_info(FileSelector(f"{root}/jobs", allow_not_found=True)):
        if not info.base_name.endswith(".part"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                with storage.open_input_stream(f"{info.path}/job.json") as stream:
                    record = json.loads(stream.read())
                found[record["digest"]] = record
    return found


def tidy(storage: FileSystem, root: str) -> None:
    """Remove what jobs that were killed left half done."""
    with contextlib.suppress(OSError):
        storage.delete_dir(f"{root}/attempts")
    for info in storage.get_file_info(FileSelector(f"{root}/jobs", allow_not_found=True)):
        if info.base_name.endswith(".part"):
            with contextlib.suppress(OSError):
                storage.delete_dir(info.path)


# --- what came of it -------------------------------------------------------------------------------


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A job's line of the table; per-frame metrics as their mean."""
    run = record.get("run") or {}
    metrics, timings, frames = run.get("metrics") or {}, run.get("timings") or {}, run.get("frames") or []

    def mean(name: str) -> float | None:
        values = metrics.get(name)
        return float(np.mean(values)) if values else None

    rollout = sum(timings.get("step_seconds") or []) if timings else None
    hashes = "".join(frame["tokens"] for frame in frames)
    return {
        "name": record["name"],
        "status": record["status"],
        **{name: _plain(value) for name, value in record["varied"].items()},
        "frames": len(frames),
        "psnr_db": mean("psnr_db"),
        "ssim": mean("ssim"),
        "delta_4_psnr_db": (metrics.get("delta_4_psnr_db") or {}).get("mean"),
        "motion_ratio": metrics.get("motion_ratio"),
        "token_accuracy": metrics.get("token_accuracy"),
        "ms_per_frame": timings.get("median_ms_per_frame"),
        "seconds": record.get("seconds"),
        "rollout_seconds": rollout,
        "metrics_seconds": metrics.get("seconds"),
        "tokens": hashlib.sha256(hashes.encode()).hexdigest()[:16] if hashes else None,
        "device": run.get("device"),
        "host": record.get("host"),
        "worker": record.get("worker"),
        "attempt": record.get("attempt"),
        "message": record["message"] or None,
    }


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def summarise(records: Sequence[dict[str, Any]]) -> pa.Table:
    """The table of a sweep: a row a job, in the sweep's order."""
    rows = [row(record) for record in records]
    names = list(dict.fromkeys(name for each in rows for name in each))
    varied = {name for record in records for name in record["varied"]}
    columns = {}
    for name in names:
        values = [each.get(name) for each in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a parameter that takes numbers here and texts there
            columns[name] = pa.array([None if value is None else str(value) for value in values])
        if name not in varied and pa.types.is_null(columns[name].type):
            columns[name] = columns[name].cast(pa.float64())
    return pa.table(columns)


def write_summary(records: Sequence[dict[str, Any]], storage: FileSystem, root: str) -> None:
    """Write ``summary.parquet``, ``summary.csv`` and, where there is something to draw, ``summary.png``.

    Raises:
        OSError: They cannot be written.
    """
    table = summarise(records)
    storage.create_dir(root, recursive=True)
    with storage.open_output_stream(f"{root}/summary.parquet") as stream:
        parquet.write_table(table, stream)
    with storage.open_output_stream(f"{root}/summary.csv") as stream:
        csv.write_csv(table, stream)
    if table.num_rows > 1 and varied_columns(table):
        with storage.open_output_stream(f"{root}/summary.png") as stream:
            plot(table).savefig(stream, format="png", dpi=110)


def read_summary(address: str | Path) -> pa.Table:
    """A sweep's table, for a notebook: ``plot(read_summary("outputs/sweep_temperatures"))``.

    Raises:
        OutputError: There is none.
    """
    storage, root = open_storage(str(address))
    try:
        with storage.open_input_file(f"{root}/summary.parquet") as stream:
            return parquet.read_table(stream)
    except OSError as error:
        raise OutputError(f"{address} holds no summary.parquet.", fix="Run the sweep first.") from error


_MEASURED = {
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "delta_4_psnr_db": "Δ₄PSNR (dB)",
    "motion_ratio": "motion, generated / true",
    "token_accuracy": "token accuracy",
    "ms_per_frame": "ms a frame",
}


def varied_columns(table: pa.Table) -> list[str]:
    """The parameters that a sweep's table varies and has more than one value of, in its order."""
    names = table.column_names[2 : table.column_names.index("frames")]
    return [name for name in names if len(table[name].unique()) > 1]


def plot(table: pa.Table, x: str = "", line: str = "") -> "Figure":
    """A panel for each metric, against one parameter: means over all others, with their 95% interval.

    The figure is made without pyplot, so nothing global changes; `report.picture` shows it.

    Args:
        table: From `read_summary` or `summarise`.
        x: The parameter along the axis; the first that varies and is no seed or start otherwise.
        line: The parameter that each line has one value of; the next such one otherwise.

    Raises:
        ParameterError: Nothing varies, or the table has no such parameter.
    """
    from matplotlib.figure import Figure

    varied = varied_columns(table)
    if not varied or not {x, line} - {""} <= set(varied):
        raise ParameterError(
            f"There is no {x or line or 'parameter'} to draw against.",
            fix=f"This sweep varies {', '.join(varied) or 'nothing'}.",
        )
    preferred = sorted(varied, key=lambda name: name in ("seed", "start"))  # stable: else in order
    x = x or next(name for name in preferred if name != line)
    others = [name for name in preferred if name != x and name not in ("seed", "start")]
    line = line or next(iter(others), "")
    rows = [each for each in table.to_pylist() if each["status"] != "fail"]
    shown = [name for name in _MEASURED if any(each[name] is not None for each in rows)]
    across = 2 if len(shown) in (2, 4) else min(3, max(1, len(shown)))
    down = max(1, -(-len(shown) // across))
    figure = Figure(figsize=(4.2 * across, 3.2 * down), layout="constrained")
    ticks = sorted({each[x] for each in rows if each[x] is not None}, key=lambda v: (isinstance(v, str), v))
    numeric = all(isinstance(tick, (int, float)) and not isinstance(tick, bool) for tick in ticks)
    places = {tick: float(tick) if numeric else float(place) for place, tick in enumerate(ticks)}
    groups = list(dict.fromkeys(each[line] for each in rows)) if line else [None]
    colours = ("#2a6fbb", "#e08a00", "#1d7f4e", "#8b1e3f", "#6b4fa0", "#6b7685")
    for number, name in enumerate(shown):
        axes = figure.add_subplot(down, across, number + 1)
        for colour, group in zip(itertools.cycle(colours), groups, strict=False):
            points = []
            for tick in ticks:
                values = [e[name] for e in rows if e[x] == tick and (not line or e[line] == group)]
                values = [value for value in values if value is not None]
                if values:
                    found = interval(np.array(values, float))
                    points.append((places[tick], found.mean, found.half_width if len(values) > 1 else 0.0))
            if points:
                at, means, widths = zip(*points, strict=True)
                axes.errorbar(
                    at,
                    means,
                    widths,
                    marker="o",
                    markersize=4,
                    capsize=3,
                    linewidth=1.5,
                    color=colour,
                    label=f"{line} {group}" if line else None,
                )
        axes.set_title(_MEASURED[name], loc="left", fontsize=10)
        axes.set_xlabel(x)
        if not numeric or len(ticks) <= 8:
            axes.set_xticks([places[tick] for tick in ticks], [str(tick) for tick in ticks])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if line and number == 0:
            axes.legend(frameon=False, fontsize=9)
    return figure


def cost(records: Sequence[dict[str, Any]]) -> str:
    """What a job costs beside what it is for, in a sentence; empty where nothing was measured."""
    rows = [row(record) for record in records]
    rows = [each for each in rows if each["status"] != "fail" and each["rollout_seconds"] is not None]
    if not rows:
        return ""
    whole, rollout, metrics = (
        float(np.mean([each[name] or 0.0 for each in rows]))
        for name in ("seconds", "rollout_seconds", "metrics_seconds")
    )
    rest = float(np.median([e["seconds"] - e["rollout_seconds"] - (e["metrics_seconds"] or 0) for e in rows]))
    return (
        f"A job took {whole:.2f} s on its worker: {rollout:.2f} s generating, {metrics:.2f} s measuring; "
        f"the rest, overhead, has a median of {rest:.2f} s ({len(rows)} jobs)."
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py sweep``."""
    made = argparse.ArgumentParser(
        prog="runbook.py sweep",
        description="Run a notebook for every combination of parameters. The same command goes on after a "
        "stop; jobs that failed are tried again.",
    )
    made.add_argument("sweep", type=Path, help="the YAML file; its form: helpers/batch/sweep.py")
    made.add_argument("--output", default="", help="folder or address such as s3://…; outputs/sweep_<name>")
    made.add_argument("--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler, tcp://HOST:8786")
    made.add_argument("--workers", type=int, default=0, help="CPU workers, instead of one a core")
    made.add_argument("--cold", action="store_true", help="a new kernel for every job, the suite loaded anew")
    made.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep; the exit status is 0 if every job has succeeded, now or before."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.workers < 0:
            raise ParameterError(f"--workers is {arguments.workers}.", fix="Use 1 or more.")
        sweep = read_sweep(arguments.called_from / arguments.sweep.expanduser())
        output = arguments.output or str(ROOT / "outputs" / f"sweep_{sweep.name}")
        if "://" not in output:
            output = str(arguments.called_from / Path(output).expanduser())
        storage, root = open_storage(output)
        return _run(sweep, output, storage, root, arguments)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error}\nFree some disk and run the same command: it goes on from here.", file=sys.stderr)
        return 1


def _run(sweep: Sweep, output: str, storage: FileSystem, root: str, arguments: argparse.Namespace) -> int:
    """Run what is not done yet, and write the table of everything."""
    known = read_records(storage, root)
    records = {job.digest: known[job.digest] for job in sweep.jobs if job.digest in known}
    records = {digest: record for digest, record in records.items() if record["status"] != "fail"}
    # A folder that another job has, of this sweep or one before, is not written over.
    taken = {record["name"].casefold() for digest, record in known.items() if record["status"] != "fail"}
    pending = [replace(job, name=unused(job.name, taken)) for job in sweep.jobs if job.digest not in records]
    again = f", {sweep.repeated} named twice" if sweep.repeated else ""
    print(f"{len(sweep.jobs)} jobs{again}: {len(records)} done before, {len(pending)} to do, into {output}")
    problem, began = "", time.monotonic()
    new: dict[str, dict[str, Any]] = {}
    try:
        if pending:
            with open_cluster(arguments.scheduler, len(pending), arguments.workers) as client:
                problem = run_jobs(client, pending, output, not arguments.cold, new)
    except KeyboardInterrupt:
        problem = "Stopped."
    finally:
        records |= new
        done = [records[job.digest] for job in sweep.jobs if job.digest in records]
        if done:
            write_summary(done, storage, root)
    if not problem:
        tidy(storage, root)
    if new:
        print(f"{len(new)} jobs in {time.monotonic() - began:.0f} s. {cost(list(new.values()))}")
    if new and not set(new) & set(read_records(storage, root)):
        print("Nothing of them is in that folder: the workers write to another disk. Use a shared --output.")
    failed = [record for record in done if record["status"] == "fail"]
    for record in failed[:10]:
        print(f"  {record['name']} failed: {record['message']}", file=sys.stderr)
    left = len(sweep.jobs) - len(done)
    print(f"{len(done) - len(failed)} succeeded, {len(failed)} failed, {left} left. {problem}".rstrip())
    print(f"Table: {output}/summary.csv" + (" (the same command goes on)" if left or failed else ""))
    return 130 if problem == "Stopped." else 1 if failed or left else 0


if __name__ == "__main__":
    raise SystemExit(main())
