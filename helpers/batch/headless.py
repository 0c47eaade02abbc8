"""Headless runs: notebooks 00 to 05 in order through papermill, into one run folder.

``python runbook.py run`` hands over to this module. It imports nothing beyond the standard library until
notebooks are executed, so that arguments are checked before anything is installed.
"""

import argparse
import difflib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers.errors
from helpers.errors import ParameterError, RunbookError
from helpers.parameters import FOLDER, add_parameter_arguments, find_notebook, parameters_of, parse_value
from helpers.run_folder import open_run
from helpers.worlds import world

NOTEBOOKS = ("00_check", "01_env", "02_torch", "03_deps", "04_assets", "05_infer")
_RESULTS = (
    *("contact_sheet.png", "frames", "rollout.mp4", "rollout.gif", "replay_difference.png"),
    *("session.json", "run.json", "run.log"),
)


@dataclass(frozen=True)
class Outcome:
    """How one notebook ended.

    Args:
        name: The notebook.
        status: ``"ok"``, ``"warn"`` or ``"fail"``.
        seconds: How long it took.
        message: What went wrong, in words; empty unless it failed.
    """

    name: str
    status: str
    seconds: float
    message: str = ""


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py run``."""
    made = argparse.ArgumentParser(
        prog="runbook.py run", description="Run the notebooks headless, in order, into one new run folder."
    )
    made.add_argument("--dataset", default="demo", help="suite to run: demo, sonic, pong, … (default: demo)")
    made.add_argument(
        "--only",
        nargs="+",
        default=list(NOTEBOOKS),
        metavar="NOTEBOOK",
        help="notebooks to run, such as 05_infer",
    )
    add_parameter_arguments(
        made, "a parameter of the notebooks, such as -p generation_steps=24; may be repeated"
    )
    return made


def plan(arguments: argparse.Namespace, folder: Path = FOLDER) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Turn arguments into the notebooks to run and each one's parameters.

    Args:
        arguments: What :func:`parser` parsed.
        folder: Where the notebooks lie.

    Returns:
        The notebooks' names in order, and for each the parameters that it knows.

    Raises:
        ParameterError: A notebook or dataset does not exist, or a parameter is of no form, of another
            type, or known to none of the notebooks.
    """
    dataset = world(arguments.dataset).name
    names = sorted({find_notebook(text, folder) for text in arguments.only})
    known = {name: parameters_of(folder / f"{name}.ipynb") for name in names}
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in arguments.parameter:
        name, equals, value = text.partition("=")
        takers = [notebook for notebook in names if name in known[notebook]]
        if not equals:
            raise ParameterError(f"{text!r} is no parameter.", fix="Write -p name=value.")
        if not takers:
            everything = sorted(set().union(*known.values()))
            near = difflib.get_close_matches(name, everything, n=3) or everything
            raise ParameterError(
                f"No notebook of this run ({', '.join(names)}) knows a parameter {name!r}.",
                fix=f"Did you mean {', '.join(near)}?",
            )
        for notebook in takers:
            given[notebook][name] = parse_value(name, value, known[notebook][name])
            if name == "replay" and value and (arguments.called_from / value).exists():
                given[notebook][name] = str(arguments.called_from / value)
    for notebook in names:
        if "dataset" in known[notebook]:
            given[notebook]["dataset"] = world(given[notebook].get("dataset", dataset)).name
    return names, given


def run_notebooks(
    names: Sequence[str], run_dir: Path, parameters: Mapping[str, Mapping[str, Any]], folder: Path = FOLDER
) -> list[Outcome]:
    """Run notebooks one after another, stopping at the first that fails.

    Args:
        names: The notebooks, without ``.ipynb``.
        run_dir: The run's folder. The executed notebooks go to its ``notebooks/``, papermill's log to its
            ``run.log``; each notebook gets it as the parameter ``run_dir``.
        parameters: Each notebook's parameters by its name.
        folder: Where the notebooks lie; also the kernels' working folder.

    Returns:
        The outcomes so far, the failed one last. A line is printed for each.
    """
    outcomes: list[Outcome] = []
    for name in names:
        if sys.stdout.isatty():
            print(f"  {name:<10} …", end="\r", flush=True)
        outcomes.append(run_notebook(name, run_dir, parameters.get(name, {}), folder))
        print(f"  {name:<10} {outcomes[-1].status:<4} {outcomes[-1].seconds:6.1f} s", flush=True)
        if outcomes[-1].status == "fail":
            break
    return outcomes


def run_notebook(
    name: str, run_dir: Path, parameters: Mapping[str, Any], folder: Path = FOLDER, **engine: Any
) -> Outcome:
    """Run one notebook to its end; what goes wrong is in the outcome, never raised.

    Args:
        name: The notebook, without ``.ipynb``.
        run_dir: The run's folder; see `run_notebooks`.
        parameters: The notebook's parameters.
        folder: Where the notebook lies.
        engine: What papermill passes to its engine, beside what every run passes.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    (run_dir / "notebooks").mkdir(parents=True, exist_ok=True)
    executed = run_dir / "notebooks" / f"{name}.ipynb"
    started = time.monotonic()
    message = ""
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
            # What a kernel says of itself goes past papermill to the terminal: only what kills it matters.
            extra_arguments=["--IPKernelApp.log_level=50"],
            **engine,
        )
    except PapermillExecutionError as error:
        message = _sentence(error.ename, error.evalue, executed)
    except Exception as error:
        # A kernel that cannot start or dies has many exception classes, of several packages.
        message = _sentence(type(error).__name__, str(error), executed)
    finally:
        logger.removeHandler(handler)
        handler.close()
    seconds = time.monotonic() - started
    verdict = run_dir / f"{name}.json"
    if not message and not verdict.is_file():
        message = f"The notebook ended without writing {verdict}."
    status = "fail" if message else json.loads(verdict.read_text(encoding="utf-8"))["status"]
    return Outcome(name, status, seconds, message)


def _escape(path: Path) -> str:
    """Papermill passes paths through ``str.format``."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _sentence(kind: str, text: str, executed: Path) -> str:
    """What went wrong: the project's own errors speak for themselves, others need their traceback."""
    own = getattr(helpers.errors, kind, None)
    if isinstance(own, type) and issubclass(own, RunbookError):
        return text
    return f"{kind}: {text}" + (f"\nThe traceback is in {executed}." if executed.is_file() else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; the exit status is 0 unless a notebook failed."""
    arguments = parser().parse_args(argv)
    try:
        names, parameters = plan(arguments)
        given = [(name, value) for values in parameters.values() for name, value in values.items()]
        label = dict(given).get("dataset", world(arguments.dataset).name)
        run_dir = open_run(label, dict(given).get("run_dir", ""))
        print(f"Running {', '.join(names)} into {run_dir}", flush=True)
        outcomes = run_notebooks(names, run_dir, parameters)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 2
    if outcomes[-1].message:
        print(f"\n{outcomes[-1].name} failed: {outcomes[-1].message}", file=sys.stderr)
    print("\nWhat this run left:")
    for path in (run_dir / "notebooks", *(run_dir / name for name in _RESULTS)):
        if path.exists():
            print(f"  {path}")
    return 1 if outcomes[-1].status == "fail" else 0


if __name__ == "__main__":
    raise SystemExit(main())
