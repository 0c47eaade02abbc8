"""Baselines: `python runbook.py baseline` freezes what 05_infer generates, case by case; `regress` compares.

A baseline is a folder: ``baseline.json`` (every case's parameters, token hashes, metrics, files and
environment), ``tokens.npz`` (every token) and one PNG strip of generated frames a case.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from PIL import Image

from helpers.batch.headless import check_run, run_notebook
from helpers.commands import exit_status, printable, runbook_line
from helpers.errors import OutputError, ParameterError, RunbookError, choices, shown
from helpers.files import expanded, replace_file
from helpers.parameters import check_paths, command_parser, read_overrides, read_yaml
from helpers.play import ahead
from helpers.play.settings import Settings
from helpers.report import write_json
from helpers.run_folder import ROOT, check_names, open_run, writing
from helpers.worlds import recorded_name, world

NOTEBOOK = "05_infer"
FORMAT = 1
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    Image.DecompressionBombError,
)
_WHOLE = ".whole"  # in a baseline's folder: a newer one, written whole, that has yet to be moved out of it
CASES = Path(__file__).with_name("cases.yaml")  # that are frozen unless another file is named


@dataclass(frozen=True)
class Bound:
    """How far a case may be from its baseline and still be called close."""

    tokens: float  # share of all tokens that may differ
    psnr_db: float  # that every frame must have against the baseline's


BOUNDS = {"cpu": Bound(0.02, 30.0), "cuda": Bound(0.05, 25.0), "mps": Bound(0.05, 25.0)}
"""The bounds of a case that names none, by the type of the device it runs on *now*. One token that rounding
tips over leads a rollout elsewhere, so what is called close ends where a difference has spread."""


Plain = str | float | bool | None
"""What JSON has beside lists and objects; every int is a float here."""


@dataclass(frozen=True)
class Played:
    """A case's rollout, from a run's folder or from a baseline; T frames were generated."""

    parameters: dict[str, Plain | list[Plain]]  # of the notebook
    environment: dict[str, str]  # what the numbers depend on beside parameters and files
    files: dict[str, str]  # sha256 of the dataset and of the weights, by the part's name
    actions: list[int | None]  # T; None where there was none
    token_hashes: list[str]  # T
    metrics: dict[str, float | list[float] | dict[str, float] | None]  # as in run.json
    given_sha256: str  # of the given frames' pixels: another clip has another
    frames: np.ndarray  # uint8 [T, H, W, 3]
    tokens: np.ndarray  # int32 [T, P]
    seconds: float  # of all steps

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in ("frames", "tokens")}


@dataclass(frozen=True)
class Case:
    """A frozen case."""

    name: str
    played: Played
    bounds: dict[str, Bound]  # by device type

    def bound(self, device: str) -> Bound:
        """The case's own bound on a device of type ``"cpu"``, ``"cuda"`` or ``"mps"``, else the usual one."""
        return self.bounds.get(device) or BOUNDS.get(device) or BOUNDS["cpu"]


@dataclass(frozen=True)
class Plan:
    """A case before it is played."""

    name: str
    parameters: dict[str, Any]
    bounds: dict[str, Bound]


AnyCase = TypeVar("AnyCase", Case, Plan)


def read_plans(path: Path, dataset: str, overrides: Mapping[str, Any]) -> list[Plan]:
    """The cases of a YAML file, to be frozen; a `RunbookError` where it, or a parameter, cannot be used.

    The file has ``parameters`` of every case, and ``cases``: names and their own parameters, of which
    ``bounds: {cuda: {tokens: 0.05, psnr_db: 25}}`` sets how close is close enough, and ``replay`` is a
    recorded session, relative to the file, or ``@case`` for the session of an earlier case. A case that names
    no world has ``dataset``; ``overrides`` come before all other parameters.
    """
    form = "Write `cases:` and under it a name for each."
    described = read_yaml(path, form)
    cases, common = described.get("cases"), described.get("parameters") or {}
    if not isinstance(cases, dict) or not cases or not isinstance(common, dict):
        raise ParameterError(f"{path} names no cases.", fix=form)
    check_names(cases, "a case")
    plans = []
    for name, own in cases.items():
        if not isinstance(own, (dict, type(None))):
            raise ParameterError(f"The case {name} is {shown(own)}.", fix=f"Write {name}: {{seed: 1}}.")
        own = dict(own or {})
        bounds = _bounds(own.pop("bounds", {}))
        check_paths({**common, **own}, path)
        parameters = {"dataset": dataset, **common, **own, **overrides}
        check_run(NOTEBOOK, parameters)
        if parameters.get("replay", "@")[:1] != "@":
            parameters["replay"] = str((path.parent / parameters["replay"]).absolute())
        plans.append(Plan(name, parameters, bounds))
    return plans


def _bounds(described: Any) -> dict[str, Bound]:
    """Bounds by device type, from YAML."""
    try:
        bounds = {str(device): Bound(**values) for device, values in described.items()}
        if not all(0 <= number < 1e6 for bound in bounds.values() for number in astuple(bound)):
            raise ValueError("one is negative, or too large")
    except (AttributeError, TypeError, ValueError) as error:
        fix = "Write bounds: {cpu: {tokens: 0.02, psnr_db: 30}}."
        raise ParameterError(f"{shown(described)} are no bounds ({error}).", fix=fix) from error
    return bounds


def choose(cases: Sequence[AnyCase], only: Sequence[str]) -> list[AnyCase]:
    """The cases or plans named in ``only``, or all; raises a `ParameterError` for an unknown name."""
    names = [case.name for case in cases]
    for name in only:
        if name not in names:
            raise ParameterError(f"There is no case {shown(name)}.", fix=choices(name, names))
    return [case for case in cases if not only or case.name in only]


def play(parameters: Mapping[str, Any], run_dir: Path) -> Played:
    """Run the notebook headless with a case's parameters; raises a `RunbookError` if it fails."""
    outcome = run_notebook(NOTEBOOK, run_dir, parameters)
    # A replay with other tokens fails its notebook after everything is written: a regression judges that.
    if outcome.status == "fail" and outcome.failed_checks != ("replay",):
        raise RunbookError(outcome.message)
    return read_run(run_dir)


def with_session(plan: Plan, run: Path) -> Plan:
    """The plan, and where it replays ``@case``, the session file that this case left in ``run``."""
    replay = str(plan.parameters.get("replay", ""))
    if not replay.startswith("@"):
        return plan
    check_names([replay[1:]], "a case")
    session = run / replay[1:] / "session.json"
    if not session.is_file():
        raise ParameterError(
            f"{plan.name} replays the session of {replay[1:]!r}, which was not played before it.",
            fix="Name that case before this one.",
        )
    return replace(plan, parameters=plan.parameters | {"replay": str(session)})


def read_run(run_dir: Path) -> Played:
    """The rollout in a run's folder; raises an `OutputError` where that holds no whole run."""
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        arrays = _read_arrays(run_dir / "rollout.npz")
        frames, tokens = arrays["frames"], arrays["tokens"]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{run_dir} does not hold a whole run ({error}).", fix="Run it again.") from error
    context = len(frames) - len(tokens)
    return Played(
        parameters=record["parameters"],
        environment=record["environment"],
        files={part: file["sha256"] for part, file in record["files"].items()},
        actions=[frame["action"] for frame in record["frames"]],
        token_hashes=[frame["tokens"] for frame in record["frames"]],
        metrics=record["metrics"],
        given_sha256=hashlib.sha256(frames[:context].tobytes()).hexdigest(),
        frames=frames[context:],
        tokens=tokens,
        seconds=sum(record["timings"]["step_seconds"]),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; a ``ValueError`` where it cannot be read."""
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy have a dozen classes for damage
        raise ValueError(f"{path.name}: {error or type(error).__name__}") from error


def write_baseline(cases: Sequence[Case], folder: Path) -> None:
    """Write a baseline, with the recorded sessions that it replays, in place of one that is there.

    Killed at any moment, the folder holds the old one or the new one, as `read_baseline` reads it.
    """
    described = {}
    former = _case_names(folder)
    with writing(folder, "Free some disk, or choose another folder with --to."), _replacing(folder) as new:
        for case in cases:
            values = case.played.to_dict()
            if replay := values["parameters"].get("replay"):
                shutil.copyfile(replay, new / f"{case.name}.session.json")
                values["parameters"]["replay"] = f"{case.name}.session.json"
            bounds = {device: asdict(bound) for device, bound in case.bounds.items()}
            described[case.name] = values | {"bounds": bounds}
            strip = np.concatenate(list(case.played.frames), axis=1)  # [H, T*W, 3]
            Image.fromarray(strip).save(new / f"{case.name}.png", optimize=True)
        small = all(case.played.tokens.max(initial=0) < 2**16 for case in cases)
        tokens = {case.name: case.played.tokens.astype(np.uint16 if small else np.int32) for case in cases}
        np.savez_compressed(new / "tokens.npz", **tokens)  # type: ignore[arg-type]
        document = {"format": FORMAT, "frozen": time.strftime("%Y-%m-%d %H:%M:%S"), "cases": described}
        write_json(new / "baseline.json", document)
    for picture in folder.glob("*.png"):
        if picture.stem.casefold() in former - _case_names(folder):
            picture.unlink()


def _case_names(folder: Path) -> set[str]:
    """The names of the cases of the baseline in a folder, their case folded; empty where there is none."""
    with contextlib.suppress(*_DAMAGED):
        document = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
        return {name.casefold() for name in document["cases"]}
    return set()


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder for the block to write a baseline to, which then takes the place of the one in ``folder``."""
    _put_in_place(folder)
    new = folder / ".new"
    shutil.rmtree(new, ignore_errors=True)  # what a killed process left
    new.mkdir(parents=True)
    try:
        yield new
        replace_file(new, folder / _WHOLE)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Move a newer baseline that lies whole in ``folder`` out into it; a killed process may have begun to."""
    if not (folder / _WHOLE).is_dir():
        return
    for path in sorted((folder / _WHOLE).iterdir(), reverse=True):
        replace_file(path, folder / path.name)
    (folder / _WHOLE).rmdir()


def read_baseline(folder: Path) -> list[Case]:
    """A baseline's cases, with nothing of it outside its folder.

    Raises:
        OutputError: There is none, or it is damaged.
        ParameterError: A case has a name or bounds that none can have.
    """
    freeze = f"Freeze one: {runbook_line('baseline')}."
    cases = []
    try:
        _put_in_place(folder)
        document = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            what = f"{folder} is a baseline of format {shown(document['format'])}; this code reads {FORMAT}."
            raise OutputError(what, fix=freeze)
        arrays = _read_arrays(folder / "tokens.npz")
        json.dumps(document, ensure_ascii=False).encode()  # no halves of letters
        check_names(document["cases"], "a case")
        for name, values in document["cases"].items():
            _check_kinds(name, values, tokens := arrays[name])
            bounds = _bounds(values.pop("bounds"))
            if replay := values["parameters"].get("replay"):
                session = f"{name}.session.json"
                if replay != session:
                    raise ValueError(f"{name} replays {shown(replay)}, not {session}")
            check_paths(values["parameters"], folder / "baseline.json")
            if replay:
                values["parameters"]["replay"] = str(folder / session)
            values["parameters"]["dataset"] = recorded_name(values["parameters"]["dataset"])
            with Image.open(folder / f"{name}.png") as strip:
                pixels = np.asarray(strip.convert("RGB"))
            frames = np.stack(np.split(pixels, len(tokens), axis=1))
            cases.append(Case(name, Played(**values, frames=frames, tokens=tokens.astype(np.int32)), bounds))
    except _DAMAGED as error:
        raise OutputError(f"{folder} holds no baseline that can be read ({error}).", fix=freeze) from error
    return cases


def _check_kinds(name: str, values: Mapping[str, Any], tokens: np.ndarray) -> None:
    """Raise a ``ValueError`` where a case in a file has a value of another kind than `Played` says."""
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens of {name} are {tokens.dtype} {list(tokens.shape)}")
    for part, kind in get_type_hints(Played).items():
        if kind is not np.ndarray and not _is(values[part], kind):
            raise ValueError(f"{part} of {name} is {shown(values[part])}")
    if not len(values["actions"]) == len(values["token_hashes"]) == len(tokens):
        raise ValueError(f"{name} has another number of actions or hashes than frames")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a declared type, its parts included."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is(value, one) for one in inner)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is(part, inner[0]) for part in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is(part, inner[1]) for part in value.values())
    if type(value) is int:  # a whole number is a number; more digits than 64 bits hold overflow elsewhere
        return kind in (int, float) and abs(value) < 2**63
    return type(value) is kind


def default_folder(dataset: str) -> Path:
    """Where a user's own baseline of a world lies."""
    return ROOT / "outputs" / f"baseline_{world(dataset).name}"


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Freeze a baseline; 0 if every case could be played, 1 if one could not, 2 for wrong arguments."""
    about = "Run 05_infer for every case and freeze what it generates, to compare with later."
    parser = command_parser("baseline", about, "a parameter of every case")
    add = parser.add_argument
    add("--dataset", default="crafter", help="world of the cases (default: crafter)")
    form = "cases in the form of the built-in %(default)s"
    add("--cases", type=Path, default=CASES, metavar="FILE", help=form)
    add("--only", nargs="+", default=[], metavar="CASE", help="freeze these cases only")
    add("--to", type=Path, metavar="FOLDER", help="where to write; outputs/baseline_<dataset> otherwise")
    arguments = parser.parse_args(argv)
    here = arguments.called_from
    dataset = world(arguments.dataset).name
    file = here / expanded(arguments.cases)
    to = here / expanded(arguments.to) if arguments.to else default_folder(dataset)
    plans = choose(read_plans(file, dataset, read_overrides(arguments.parameter)), arguments.only)
    for plan in plans:
        ahead.check(Settings.read(plan.parameters))
    run = open_run(f"{dataset}_baseline")
    print(f"Freezing {len(plans)} cases of {dataset}; their runs are in {run}", flush=True)
    cases = []
    for plan in (with_session(plan, run) for plan in plans):
        try:
            played = play(plan.parameters, run / plan.name)
        except RunbookError as error:
            print(f"{plan.name} failed: {error}\nNothing was frozen.", file=sys.stderr)
            return 1
        print(f"  {plan.name:<18} {len(played.frames)} frames in {played.seconds:.1f} s", flush=True)
        cases.append(Case(plan.name, played, plan.bounds))
    write_baseline(cases, to)
    size = sum(path.stat().st_size for path in to.iterdir() if path.is_file())
    compare = runbook_line("regress", *([] if to == default_folder(dataset) else [printable([str(to)])]))
    print(f"Frozen in {to} ({size / 1000:.0f} kB). Compare with it: {compare}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
