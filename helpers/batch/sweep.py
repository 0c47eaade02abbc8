"""Sweeps: `python runbook.py sweep sweep.yaml` runs a notebook for every combination of parameters, on Dask.

The path is `read_sweep` -> `cluster.open_cluster` -> `cluster.run_jobs` -> `summary.write_summary`. A sweep's
folder holds ``jobs/<name>/`` for every job that ended, and the table of all of them as ``summary.parquet``
and ``summary.csv``; what is there is not done again.

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
import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.batch.cluster import Job, open_cluster, run_jobs
from helpers.batch.headless import check_run
from helpers.batch.storage import open_storage, read_records, remove_leftovers
from helpers.batch.summary import cost, write_summary
from helpers.commands import exit_status
from helpers.errors import ParameterError, shown
from helpers.files import expanded
from helpers.parameters import FOLDER, check_paths, command_parser, find_notebook, read_yaml
from helpers.run_folder import ROOT, folder_name

KEYS = ("name", "notebook", "parameters", "grid", "list")
MOST_JOBS = 10_000
"""A sweep has so many jobs at most: more are a slip of the hand."""


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep.yaml."""

    name: str  # of its folder
    jobs: list[Job]  # no two are equal
    repeated: int  # jobs named again, and run once


def read_sweep(path: Path, folder: Path = FOLDER) -> Sweep:
    """Read a sweep.yaml, whose form is in this module's docstring.

    Raises a `RunbookError` where it has another form, or the notebook cannot take a job's parameters.
    """
    form = f"A sweep has {', '.join(KEYS)} and nothing else."
    content = read_yaml(path, form)
    if extra := sorted(str(key) for key in set(content) - set(KEYS)):
        raise ParameterError(f"{path} has {shown(', '.join(extra))}.", fix=form)
    notebook = find_notebook(str(content.get("notebook", "05_infer")), folder)
    common, grid = content.get("parameters") or {}, content.get("grid") or {}
    entries = content.get("list") or [{}]
    if not (isinstance(common, dict) and isinstance(grid, dict) and isinstance(entries, list)):
        fix = "parameters and grid are mappings, list is a list."
        raise ParameterError(f"{path} is not a sweep.", fix=fix)
    for name, values in grid.items():
        if not (isinstance(values, list) and values):
            fix = f"Give a list of values: {name}: [1, 2]."
            raise ParameterError(f"{name} of grid is {shown(values)}.", fix=fix)
    count = len(entries) * math.prod(map(len, grid.values()))
    if count > MOST_JOBS:
        fix = f"Sweep up to {MOST_JOBS:,} at once."
        raise ParameterError(f"{path} describes {count:,} jobs.", fix=fix)
    jobs: dict[str, Job] = {}
    names: set[str] = set()
    repeated = 0
    for entry, *values in itertools.product(entries, *grid.values()):
        if not isinstance(entry, dict):
            raise ParameterError(f"{shown(entry)} of list is no mapping.", fix="Write - {seed: 1}.")
        label = [str(entry["name"])] if entry.get("name") else []
        point = dict(zip(grid, values, strict=True))
        varied = {name: value for name, value in entry.items() if name != "name"} | point
        parameters = common | varied
        check_paths(parameters, path)
        check_run(notebook, parameters, folder)
        described = json.dumps([notebook, parameters], sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(described.encode()).hexdigest()
        if digest in jobs:
            repeated += 1
            continue
        words = [f"{name}-{value}" for name, value in (point if label else varied).items()]
        job_name = unused(folder_name("_".join(label + words) or notebook), names)
        jobs[digest] = Job(job_name, digest, notebook, parameters, varied)
    return Sweep(folder_name(str(content.get("name") or path.stem)), list(jobs.values()), repeated)


def unused(name: str, names: set[str]) -> str:
    """The name, or with ``_2``, ``_3``… where it is taken; adds it to ``names``, whose case is folded."""
    numbered = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
    free = next(candidate for candidate in numbered if candidate.casefold() not in names)
    names.add(free.casefold())
    return free


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep; 0 if every job has succeeded, now or before; 1 if not; 2 for wrong arguments."""
    about = "Run a notebook for every combination of parameters. After a stop the same command continues; "
    about += "jobs that failed are tried again."
    parser = command_parser("sweep", about)
    add = parser.add_argument
    add("sweep", type=Path, help="the YAML file; its form: helpers/batch/sweep.py")
    add("--output", default="", help="folder or address such as s3://…; outputs/sweep_<name>")
    add("--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler, tcp://HOST:8786")
    add("--workers", type=int, default=0, help="CPU workers, instead of one a core")
    add("--cold", action="store_true", help="a new kernel for every job, the suite loaded anew")
    arguments = parser.parse_args(argv)
    try:
        if arguments.workers < 0:
            raise ParameterError(f"--workers is {arguments.workers}.", fix="Use 1 or more.")
        sweep = read_sweep(arguments.called_from / expanded(arguments.sweep))
        output = arguments.output or str(ROOT / "outputs" / f"sweep_{sweep.name}")
        if "://" not in output:
            output = str(arguments.called_from / expanded(output))
        return _run(sweep, output, arguments)
    except OSError as error:
        fix = "Free some disk, or close what has the file open; the same command continues."
        print(f"{error}\n{fix}", file=sys.stderr)
        return 1


def _run(sweep: Sweep, output: str, arguments: argparse.Namespace) -> int:
    """Run what is not done yet, and write the table of everything."""
    storage, root = open_storage(output)
    records = read_records(storage, root)
    before = {digest: record for digest, record in records.items() if record["status"] != "fail"}
    # A folder that another job has, of this sweep or one before, is not written over.
    taken = {record["name"].casefold() for record in before.values()}
    pending = [replace(job, name=unused(job.name, taken)) for job in sweep.jobs if job.digest not in before]
    count, again = len(sweep.jobs), f", {sweep.repeated} named twice" if sweep.repeated else ""
    print(f"{count} jobs{again}: {count - len(pending)} done before, {len(pending)} to do, into {output}")
    problem, began = "", time.monotonic()
    new: dict[str, dict[str, Any]] = {}
    try:
        if pending:
            with open_cluster(arguments.scheduler, len(pending), arguments.workers) as client:
                problem = run_jobs(client, pending, output, not arguments.cold, new)
    except KeyboardInterrupt:
        problem = "Stopped."
    finally:
        records = before | new
        if done := [records[job.digest] for job in sweep.jobs if job.digest in records]:
            write_summary(done, storage, root)
    if not problem:
        remove_leftovers(storage, root)
    if new:
        print(f"{len(new)} jobs in {time.monotonic() - began:.0f} s. {cost(list(new.values()))}")
    if new and not set(new) & set(read_records(storage, root)):
        print("The folder holds none of their results: the workers write to another disk. Share an --output.")
    failed, left = [record for record in done if record["status"] == "fail"], count - len(done)
    for record in failed[:10]:
        print(f"  {record['name']} failed: {record['message']}", file=sys.stderr)
    print(f"{len(done) - len(failed)} succeeded, {len(failed)} failed, {left} left. {problem}".rstrip())
    if done:
        print(f"Table: {output}/summary.csv" + (" (the same command continues)" if left or failed else ""))
    return 130 if problem == "Stopped." else 1 if failed or left else 0


if __name__ == "__main__":
    raise SystemExit(main())
