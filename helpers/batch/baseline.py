"""Baselines: `python runbook.py baseline` freezes what the notebooks generate, to be held against later.

A baseline is a folder: ``baseline.json`` (every case's parameters, token hashes, metrics, files and
environment), ``tokens.npz`` (every token) and one PNG strip of generated frames a case. `regress` runs
the same cases again and judges them.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.batch.headless import run_notebook
from helpers.errors import OutputError, ParameterError, RunbookError
from helpers.parameters import FOLDER, add_parameter_arguments, check_value, parameters_of, read_overrides
from helpers.report import write_json
from helpers.run_folder import ROOT, open_run
from helpers.worlds import world

NOTEBOOK = "05_infer"
EMBEDDED = ROOT / "helpers" / "demo" / "baseline"
FORMAT = 1

CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 3},
    "random_actions": {"use_gt_actions": False, "seed": 1},
    "given_actions": {"actions": [2, 2, 6, 6, 1, 1, 4, 0], "seed": 2},
    "no_actions": {"use_gt_actions": False, "use_actions": False},
    "pixels_feedback": {"feedback": "pixels", "context_window": 2},
    "horizon_two": {"prediction_horizon": 2, "generation_steps": 4},
    "teacher_forced": {"teacher_forced": True, "seed": 4},
    "recorded_session": {"replay": "@sampled"},
}
"""What is frozen unless a file of cases says otherwise: each way of playing once, of any world. A replay of
``@sampled`` plays the session again that the case ``sampled`` left."""

COMMON: dict[str, Any] = {"generation_steps": 8}


@dataclass(frozen=True)
class Bound:
    """How far a case may be from its baseline and still be called close.

    Args:
        tokens: Share of all tokens that may differ.
        psnr_db: PSNR that every frame must have against the baseline's.
    """

    tokens: float
    psnr_db: float


BOUNDS: dict[str, Bound] = {
    "cpu": Bound(tokens=0.02, psnr_db=30.0),
    "cuda": Bound(tokens=0.05, psnr_db=25.0),
    "mps": Bound(tokens=0.05, psnr_db=25.0),
}
"""The bounds of a case that names none, by the type of the device it runs on *now*. One token that rounding
tips over leads a rollout elsewhere, so what is called close ends where a difference has spread."""


@dataclass(frozen=True)
class Played:
    """What one case generated: read from a run's folder, or from a baseline.

    Args:
        parameters: Of the notebook.
        environment: What the numbers depend on beside parameters and files.
        files: sha256 of the dataset and of the weights, by the part's name.
        actions: One a generated frame; None where there was none.
        token_hashes: One a generated frame.
        metrics: As in ``run.json``.
        given_sha256: Of the given frames' pixels: another clip has another.
        frames: uint8 ``[T, H, W, 3]``, the generated frames.
        tokens: int32 ``[T, P]``.
        seconds: What the steps took.
    """

    parameters: dict[str, Any]
    environment: dict[str, str]
    files: dict[str, str]
    actions: list[int | None]
    token_hashes: list[str]
    metrics: dict[str, Any]
    given_sha256: str
    frames: np.ndarray
    tokens: np.ndarray
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, as plain JSON values."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in ("frames", "tokens")}


@dataclass(frozen=True)
class Case:
    """A frozen case.

    Args:
        name: Its name, also of its PNG.
        played: What it generated.
        bounds: By device type; `BOUNDS` where it has none.
    """

    name: str
    played: Played
    bounds: dict[str, Bound]

    def bound(self, device: str) -> Bound:
        """How close is close enough on a device of type ``"cpu"``, ``"cuda"`` or ``"mps"``."""
        return self.bounds.get(device) or BOUNDS.get(device) or BOUNDS["cpu"]


@dataclass(frozen=True)
class Plan:
    """A case to be played: its name, parameters and bounds."""

    name: str
    parameters: dict[str, Any]
    bounds: dict[str, Bound]


def read_plans(path: Path | None, dataset: str, overrides: Mapping[str, Any]) -> list[Plan]:
    """The cases to freeze.

    Args:
        path: A YAML file: ``parameters`` of every case, and ``cases``, each a name and what is its own,
            where ``bounds: {cuda: {tokens: 0.05, psnr_db: 25}}`` sets how close is close enough, and
            ``replay`` names a recorded session, relative to the file, or ``@case`` the one that an earlier
            case leaves; None for `CASES`.
        dataset: The world, unless a case names its own.
        overrides: Parameters of every case that come before all others.

    Raises:
        ParameterError: The file is not of that form, or a parameter is unknown or of another type.
    """
    described: dict[str, Any] = {"parameters": COMMON, "cases": CASES}
    if path is not None:
        described = _read_yaml(path)
    cases, common = described.get("cases"), described.get("parameters") or {}
    if not isinstance(cases, dict) or not cases or not isinstance(common, dict):
        raise ParameterError(f"{path} names no cases.", fix="Write `cases:` and under it a name for each.")
    plans = []
    for name, own in cases.items():
        _check_name(str(name))
        if not isinstance(own, (dict, type(None))):
            raise ParameterError(f"The case {name} is {own!r}.", fix=f"Write {name}: {{seed: 1}}.")
        own = dict(own or {})
        bounds = _bounds(own.pop("bounds", {}))
        parameters = {"dataset": dataset, **common, **own, **overrides}
        parameters = check_parameters(parameters)
        if parameters.get("replay", "@")[:1] != "@" and path is not None:
            parameters["replay"] = str((path.parent / parameters["replay"]).absolute())
        plans.append(Plan(str(name), parameters, bounds))
    return plans


def check_parameters(parameters: Mapping[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """The parameters, if the notebook knows each and they are of its types.

    Raises:
        ParameterError: One is not; the message names it.
    """
    known = parameters_of(folder / f"{NOTEBOOK}.ipynb")
    for name in parameters:
        if name not in known or name == "run_dir":
            raise ParameterError(
                f"{NOTEBOOK} knows no parameter {name!r} that a case may set.",
                fix=f"It knows {', '.join(sorted(set(known) - {'run_dir'}))}.",
            )
    checked = {name: check_value(name, value, known[name]) for name, value in parameters.items()}
    world(checked.get("dataset", "demo"))
    return checked


def play(plan: Plan, run_dir: Path) -> tuple[Played | None, str]:
    """Run the notebook headless for a case; what it left, or None and why it failed.

    A replay whose tokens are not the recorded ones fails its notebook after everything was written: that is
    for a regression to judge.
    """
    outcome = run_notebook(NOTEBOOK, run_dir, plan.parameters)
    if outcome.status == "fail" and _failed_checks(run_dir) != ["replay"]:
        return None, outcome.message
    return read_run(run_dir), ""


def _failed_checks(run_dir: Path) -> list[str]:
    """What the notebook's verdict says failed; nothing where it came to none."""
    try:
        verdict = json.loads((run_dir / f"{NOTEBOOK}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [check["id"] for check in verdict["checks"] if check["status"] == "fail"]


def with_session(plan: Plan, run: Path) -> Plan:
    """The plan with ``@case`` in place of a session file resolved to the one that this case left in ``run``.

    Raises:
        ParameterError: It left none.
    """
    replay = str(plan.parameters.get("replay", ""))
    if not replay.startswith("@"):
        return plan
    session = run / replay[1:] / "session.json"
    if not session.is_file():
        raise ParameterError(
            f"{plan.name} replays the session of {replay[1:]!r}, which was not played before it.",
            fix="Name that case before this one.",
        )
    return replace(plan, parameters=plan.parameters | {"replay": str(session)})


def read_run(run_dir: Path) -> Played:
    """What a run of 05_infer generated.

    Raises:
        OutputError: The folder does not hold a whole run.
    """
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        with np.load(run_dir / "rollout.npz") as arrays:
            frames, tokens = arrays["frames"], arrays["tokens"]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{run_dir} does not hold a whole run ({error}).", fix="Run it again.") from error
    given = len(frames) - len(tokens)
    return Played(
        parameters=record["parameters"],
        environment=record["environment"],
        files={part: file["sha256"] for part, file in record["files"].items()},
        actions=[frame["action"] for frame in record["frames"]],
        token_hashes=[frame["tokens"] for frame in record["frames"]],
        metrics=record["metrics"],
        given_sha256=hashlib.sha256(frames[:given].tobytes()).hexdigest(),
        frames=frames[given:],
        tokens=tokens,
        seconds=sum(record["timings"]["step_seconds"]),
    )


def write_baseline(cases: Sequence[Case], folder: Path) -> None:
    """Write a baseline, in place of one that is there; recorded sessions are copied into it.

    Raises:
        OutputError: Something cannot be written.
    """
    described = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        for case in cases:
            values = case.played.to_dict()
            replay = values["parameters"].get("replay")
            if replay:
                shutil.copyfile(replay, folder / f"{case.name}.session.json")
                values["parameters"]["replay"] = f"{case.name}.session.json"
            bounds = {device: asdict(bound) for device, bound in case.bounds.items()}
            described[case.name] = values | {"bounds": bounds}
            strip = np.concatenate(list(case.played.frames), axis=1)  # [H, T*W, 3]
            Image.fromarray(strip).save(folder / f"{case.name}.png", optimize=True)
        tokens = {case.name: case.played.tokens.astype(np.uint16) for case in cases}
        np.savez_compressed(folder / "tokens.npz", **tokens)  # type: ignore[arg-type]
        document = {"format": FORMAT, "frozen": time.strftime("%Y-%m-%d %H:%M:%S"), "cases": described}
        write_json(folder / "baseline.json", document)
    except OSError as error:
        raise OutputError(
            f"The baseline cannot be written to {folder} ({error.strerror or error}).",
            fix="Free some disk, or choose another folder with --to.",
        ) from error


def read_baseline(folder: Path) -> list[Case]:
    """A baseline's cases.

    Raises:
        OutputError: There is none, or it is damaged.
    """
    cases = []
    try:
        document = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise OutputError(
                f"{folder} is a baseline of format {document['format']}; this code reads {FORMAT}.",
                fix="Freeze it again: python runbook.py baseline.",
            )
        with np.load(folder / "tokens.npz") as arrays:
            tokens = {name: arrays[name].astype(np.int32) for name in arrays.files}
        for name, values in document["cases"].items():
            bounds = {device: Bound(**bound) for device, bound in values.pop("bounds").items()}
            if values["parameters"].get("replay"):
                values["parameters"]["replay"] = str(folder / values["parameters"]["replay"])
            with Image.open(folder / f"{name}.png") as strip:
                pixels = np.asarray(strip.convert("RGB"))
            frames = np.stack(np.split(pixels, len(tokens[name]), axis=1))
            cases.append(Case(name, Played(**values, frames=frames, tokens=tokens[name]), bounds))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder} holds no baseline that can be read ({error}).",
            fix="Freeze one: python runbook.py baseline.",
        ) from error
    return cases


def find_baseline(given: Path | None, dataset: str) -> Path:
    """The baseline's folder: the one given; else the user's own of this world; else the embedded one.

    Raises:
        OutputError: There is none.
    """
    if given is not None:
        return given
    own = default_folder(dataset)
    if (own / "baseline.json").is_file():
        return own
    if world(dataset).embedded:
        return EMBEDDED
    raise OutputError(
        f"There is no baseline of {dataset} in {own}.",
        fix=f"Freeze one: python runbook.py baseline --dataset {dataset}.",
    )


def default_folder(dataset: str) -> Path:
    """Where a user's own baseline of a world lies."""
    return ROOT / "outputs" / f"baseline_{world(dataset).name}"


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} cannot be read as YAML ({error}).", fix="Mend the file.") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is not a YAML mapping.", fix="Write `cases:` and a name for each.")
    return content


def _bounds(described: Any) -> dict[str, Bound]:
    """Bounds by device type, from YAML."""
    write = "Write bounds: {cpu: {tokens: 0.02, psnr_db: 30}}."
    if not isinstance(described, dict):
        raise ParameterError(f"{described!r} are no bounds.", fix=write)
    bounds = {}
    for device, values in described.items():
        try:
            bounds[str(device)] = Bound(**values)
            if values["tokens"] < 0 or values["psnr_db"] < 0:
                raise ValueError("a negative number")
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{values!r} is no bound ({error}).", fix=write) from error
    return bounds


def _check_name(name: str) -> None:
    if not name or set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"):
        raise ParameterError(f"{name!r} cannot name a case.", fix="Use letters, digits, _ and -.")


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py baseline``."""
    made = argparse.ArgumentParser(
        prog="runbook.py baseline",
        description="Run 05_infer for every case and freeze what it generates, to be held against later.",
    )
    made.add_argument("--dataset", default="demo", help="world of the cases (default: demo)")
    made.add_argument("--cases", type=Path, metavar="FILE", help="YAML file of cases, not the built-in ones")
    made.add_argument("--only", nargs="+", default=[], metavar="CASE", help="freeze these cases only")
    made.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to; outputs/baseline_<dataset> otherwise"
    )
    add_parameter_arguments(made, "a parameter of every case")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Freeze a baseline; the exit status is 0 if every case could be played."""
    arguments = parser().parse_args(argv)
    try:
        dataset = world(arguments.dataset).name
        here = arguments.called_from
        file = here / arguments.cases.expanduser() if arguments.cases else None
        plans = read_plans(file, dataset, read_overrides(arguments.parameter))
        plans = choose(plans, arguments.only)
        to = here / arguments.to.expanduser() if arguments.to else default_folder(dataset)
        run = open_run(f"{dataset}_baseline")
        print(f"Freezing {len(plans)} cases of {dataset}; their runs are in {run}", flush=True)
        cases = []
        for plan in (with_session(plan, run) for plan in plans):
            played, problem = play(plan, run / plan.name)
            if played is None:
                print(f"{plan.name} failed: {problem}\nNothing was frozen.", file=sys.stderr)
                return 1
            print(f"  {plan.name:<18} {len(played.frames)} frames in {played.seconds:.1f} s", flush=True)
            cases.append(Case(plan.name, played, plan.bounds))
        write_baseline(cases, to)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in to.iterdir() if path.is_file())
    shown = "" if to == default_folder(dataset) else f" {to}"
    print(f"Frozen in {to} ({size / 1000:.0f} kB). Judge by it: python runbook.py regress{shown}")
    return 0


def choose(plans: list[Plan], only: Sequence[str]) -> list[Plan]:
    """The plans named in ``only``, or all; raises a `ParameterError` for a name that is none."""
    names = [plan.name for plan in plans]
    for name in only:
        if name not in names:
            raise ParameterError(f"There is no case {name!r}.", fix=f"There are {', '.join(names)}.")
    return [plan for plan in plans if not only or plan.name in only]


if __name__ == "__main__":
    raise SystemExit(main())
