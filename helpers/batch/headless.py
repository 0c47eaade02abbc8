"""Headless runs: notebooks 00 to 05 in order through papermill, into one run folder.

``python runbook.py run`` hands over to this module. It imports nothing beyond the standard library until
notebooks are executed, so that arguments are checked before anything is installed.
"""

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers.errors
from helpers.commands import exit_status
from helpers.errors import TO_DO
from helpers.files import expanded
from helpers.parameters import (
    FOLDER,
    check_parameters,
    command_parser,
    find_notebook,
    list_parameters,
    parameters_of,
    read_overrides,
)
from helpers.play.settings import Settings
from helpers.run_folder import find_session, open_run
from helpers.worlds import world

NOTEBOOKS = ("00_check", "01_env", "02_torch", "03_deps", "04_assets", "05_infer")
# A kernel's own log goes past papermill to the terminal: only what kills the kernel matters there.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]
_FILES = ("replay", "import_from")
"""Parameters that name a file, beside those that end in ``_path``."""
_RESULTS = (
    *("notebooks", "contact_sheet.png", "frames", "rollout.mp4", "rollout.gif", "replay_difference.png"),
    *("session.json", "run.json", "run.log"),
)


@dataclass(frozen=True)
class Outcome:
    """How one notebook ended."""

    name: str
    status: str  # "ok", "warn" or "fail"
    seconds: float
    message: str = ""  # what went wrong, in words; empty unless it failed
    failed_checks: tuple[str, ...] = ()
    fix: str = ""  # what to do about it; the message ends with it
    warnings: tuple[str, ...] = ()  # ids of checks that warn
    replay: str = ""  # how a session that was played again compares


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py run``."""
    about = "Run the notebooks headless, in order, into one new run folder."
    meaning = "a parameter of the notebooks, such as -p generation_steps=24; may be repeated"
    arguments = command_parser("run", about, meaning, add_help=False)
    add = arguments.add_argument
    add("-h", "--help", action="store_true", help="show this, and the parameters of these notebooks")
    add("--dataset", default="crafter", help="suite to run: crafter, sonic, pong, … (default: crafter)")
    add("--only", nargs="+", default=NOTEBOOKS, metavar="NOTEBOOK", help="notebooks, such as 05_infer")
    return arguments


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of ``run``; where help is asked for it is printed, and the program ends."""
    arguments = parser().parse_args(argv)
    if arguments.help:
        names = sorted({find_notebook(text) for text in arguments.only})
        print(parser().format_help(), list_parameters(names), sep="\n", end="")
        raise SystemExit(0)
    return arguments


def plan(arguments: argparse.Namespace, folder: Path = FOLDER) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The notebooks that parsed arguments ask for, in order, and for each the parameters that it declares.

    Raises a `RunbookError` where a notebook or world does not exist, or no notebook takes a parameter so.
    """
    names = sorted({find_notebook(text, folder) for text in arguments.only})
    values = {"dataset": arguments.dataset, **read_overrides(arguments.parameter, names, folder)}
    chosen = world(values["dataset"]).from_repository(values.pop("repo", ""), values.pop("revision", ""))
    values["dataset"] = chosen.name  # all notebooks', with the repository: only 04_assets declares that alone
    values.pop("run_dir", None)
    for name in {name for name in values if name in _FILES or name.endswith("_path")}:
        values[name] = as_called(values[name], arguments.called_from)
    parameters = {}
    for notebook in names:
        declared = parameters_of(folder / f"{notebook}.ipynb")
        parameters[notebook] = {name: value for name, value in values.items() if name in declared}
        check_run(notebook, parameters[notebook], folder)
    return names, parameters


def as_called(value: Any, folder: Path) -> Any:
    """A path that the reader gave, from the folder where they are if it is one there."""
    with contextlib.suppress(OSError, TypeError, ValueError):  # no path, or one that no file can have
        if value and (path := folder / expanded(value)).exists():
            return str(path)
    return value


def in_recorded_world(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A plan's parameters; with a session to replay, each notebook's ``dataset`` is the session's world.

    Raises a `SessionFileError` where there is no such session. Needs what the notebooks need, unlike `plan`.
    """
    planned = {name: dict(values) for name, values in parameters.items()}
    if session := planned.get(NOTEBOOKS[-1], {}).get("replay"):
        find_session(session)  # which needs no torch
        from helpers.play.recording import read, read_settings

        dataset = read_settings(read(session)["settings"]).dataset
        for values in planned.values():
            if "dataset" in values:
                values["dataset"] = dataset
    return planned


def check_run(notebook: str, parameters: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Refuse names, types and, for 05_infer, ranges before anything is computed, with a `RunbookError`.

    Runs, baselines, regressions and sweeps all ask here; about 05_infer's values `Settings` speaks first.
    `run_notebook` asks again, whoever calls: papermill writes the names into the notebook as code.
    """
    if notebook == NOTEBOOKS[-1]:
        Settings.read(parameters)
    check_parameters(notebook, parameters, folder)


def run_notebooks(
    names: Sequence[str], run_dir: Path, parameters: Mapping[str, Mapping[str, Any]], folder: Path = FOLDER
) -> list[Outcome]:
    """Run notebooks one after another, printing a line for each; outcomes, of which only the last may fail.

    ``parameters`` are those of each notebook by its name; the others are as in `run_notebook`.
    """
    outcomes: list[Outcome] = []
    for name in names:
        if sys.stdout.isatty():
            print(f"  {name:<10} …", end="\r", flush=True)
        outcome = run_notebook(name, run_dir, parameters.get(name, {}), folder)
        outcomes.append(outcome)
        warnings = f"   {', '.join(outcome.warnings)}" if outcome.warnings else ""
        print(f"  {name:<10} {outcome.status:<4} {outcome.seconds:6.1f} s{warnings}", flush=True)
        if outcome.replay:
            print(f"             replay: {outcome.replay}", flush=True)
        if outcome.status == "fail":
            break
    return outcomes


def run_notebook(
    name: str, run_dir: Path, parameters: Mapping[str, Any], folder: Path = FOLDER, **engine: Any
) -> Outcome:
    """Run one notebook, ``folder/name.ipynb``, to its end; what goes wrong is in the outcome, never raised.

    ``run_dir`` is the run's folder and the notebook's parameter of that name, beside ``parameters``; the
    executed notebook goes to its ``notebooks/``, papermill's log to its ``run.log``. The kernel works in
    ``folder``; ``engine`` are further options of papermill's engine.
    """
    try:
        check_run(name, parameters, folder)
    except helpers.errors.RunbookError as error:
        return Outcome(name, "fail", 0.0, str(error))
    import papermill
    from papermill.exceptions import PapermillExecutionError

    (run_dir / "notebooks").mkdir(parents=True, exist_ok=True)
    executed = run_dir / "notebooks" / f"{name}.ipynb"
    started, message, fix = time.monotonic(), "", ""
    logger = logging.getLogger("papermill")
    handler = logging.FileHandler(run_dir / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        papermill.execute_notebook(
            _escape(folder / f"{name}.ipynb"),
            _escape(executed),
            parameters={**parameters, "run_dir": str(run_dir)},
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
            extra_arguments=KERNEL_ARGUMENTS,
            **engine,
        )
    except PapermillExecutionError as error:
        message = _sentence(error.ename, error.evalue, executed)
        remedies = [line.removeprefix(TO_DO) for line in error.traceback if line.startswith(TO_DO)]
        fix = remedies[-1] if remedies and message.endswith(remedies[-1]) else ""
    except Exception as error:  # of several packages, where a kernel cannot start or dies
        message = _sentence(type(error).__name__, str(error), executed)
    finally:
        logger.removeHandler(handler)
        handler.close()
    seconds, verdict = time.monotonic() - started, run_dir / f"{name}.json"
    if not verdict.is_file():
        message = message or f"The notebook ended without writing {verdict}."
        return Outcome(name, "fail", seconds, message, fix=fix)
    judged = json.loads(verdict.read_text(encoding="utf-8"))
    failed, warned = (
        tuple(check["id"] for check in judged["checks"] if check["status"] == status)
        for status in ("fail", "warn")
    )
    replay = "".join(check["observed"] for check in judged["checks"] if check["id"] == "replay")
    status = "fail" if message else judged["status"]
    return Outcome(name, status, seconds, message, failed, fix, warned, replay)


def _escape(path: Path) -> str:
    """Papermill passes paths through ``str.format``."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _sentence(kind: str, text: str, executed: Path) -> str:
    """What went wrong: the project's own errors speak for themselves, others need their traceback."""
    if hasattr(helpers.errors, kind):
        return text
    return f"{kind}: {text}" + (f"\nThe traceback is in {executed}." if executed.is_file() else "")


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; the exit status is 0 unless a notebook failed."""
    arguments = parse(argv)
    names, parameters = plan(arguments)
    parameters = in_recorded_world(parameters)
    if NOTEBOOKS[-1] in names:
        from helpers.play import ahead

        ahead.check(Settings.read(parameters[NOTEBOOKS[-1]]), fetches=NOTEBOOKS[-2] in names)
    label = parameters[names[-1]].get("dataset", world(arguments.dataset).name)
    wanted = read_overrides(arguments.parameter, names).get("run_dir", "")
    run_dir = open_run(label, arguments.called_from / expanded(wanted) if wanted else "")
    print(f"Running {', '.join(names)} into {run_dir}", flush=True)
    outcomes = run_notebooks(names, run_dir, parameters)
    last = outcomes[-1]
    if last.message:
        print(f"\n{last.name} failed: {last.message.removesuffix(last.fix).strip()}", file=sys.stderr)
        if last.fix:
            print(f"{TO_DO}{last.fix}", file=sys.stderr)
    results = (run_dir / name for name in _RESULTS)
    print("\nResults of this run:", *(path for path in results if path.exists()), sep="\n  ")
    return 1 if last.status == "fail" else 0


if __name__ == "__main__":
    raise SystemExit(main())
