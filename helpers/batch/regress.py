"""Regression: `python runbook.py regress` runs a baseline's cases again and compares what they generate.

A case is *identical* (every token and pixel), *close* (within its bound for this device), *changed*, or
*failed*. The report is one HTML file that needs nothing beside it; JUnit XML and the exit status are for CI.
"""

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from helpers.assets.find import EMBEDDED
from helpers.batch import baseline
from helpers.batch.baseline import NOTEBOOK, Case, Played
from helpers.batch.headless import check_run
from helpers.commands import exit_status, runbook_line
from helpers.errors import OutputError, RunbookError, harmless
from helpers.files import expanded
from helpers.parameters import command_parser, read_overrides
from helpers.pictures import contact_sheet
from helpers.play import ahead
from helpers.play.metrics import psnr
from helpers.run_folder import open_run, writing
from helpers.worlds import world

Outcome = Literal["identical", "close", "changed", "failed"]


@dataclass(frozen=True)
class Fact:
    """A difference in what the numbers depend on."""

    name: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} → {self.now}"


@dataclass(frozen=True)
class Judgement:
    """How a case's rollout compares with the frozen one."""

    case: Case
    now: Played | None  # None where its notebook failed
    outcome: Outcome
    why: str  # in a sentence
    facts: tuple[Fact, ...] = ()  # what differs beside the frames
    different: np.ndarray | None = None  # bool [T, P], tokens; None unless T frames were generated both times
    psnr_db: tuple[float, ...] = ()  # of each frame against the baseline's; 100 where they are equal
    seconds: float = 0.0  # that the notebook took

    @property
    def passed(self) -> bool:
        """Whether the case is identical or close."""
        return self.outcome in ("identical", "close")

    @property
    def first(self) -> int | None:
        """The first generated frame, counted from 1, that differs; None where none does."""
        differs = [number for number, value in enumerate(self.psnr_db, 1) if value < 100]
        if self.different is not None:
            differs += (np.flatnonzero(self.different.any(1)) + 1).tolist()
        return min(differs, default=None)

    @property
    def suspects(self) -> str:
        """What may have made the case differ, in a sentence; empty where nothing differs.

        A commit moves no number by itself: the engine's own hash tells whether its code is another.
        """
        if self.now is None or self.outcome == "identical":
            return ""
        facts = [str(fact) for fact in self.facts if fact.name != "commit"]
        if facts:
            return f"Different from the baseline: {'; '.join(facts)}."
        return "Of all that is recorded beside the frames, nothing else differs."


def find_baseline(dataset: str) -> Path:
    """The folder of the user's own baseline of a world, else of the embedded one; raises an `OutputError`."""
    own = baseline.default_folder(dataset)
    if (own / "baseline.json").is_file():
        return own
    if (chosen := world(dataset)).embedded:
        return EMBEDDED / ("baseline" if chosen == world("demo") else f"{chosen.name}/baseline")
    fix = f"Freeze one: {runbook_line('baseline', '--dataset', dataset)}."
    raise OutputError(f"There is no baseline of {dataset} in {own}.", fix=fix)


def judge(case: Case, now: Played) -> Judgement:
    """Compare what a case generates now with what it generated when it was frozen."""
    before, device = case.played, now.environment.get("device", "cpu")
    bound = case.bound(device)
    judgement = Judgement(case, now, "changed", "", tuple(changed_facts(before, now)))
    if before.frames.shape != now.frames.shape or before.tokens.shape != now.tokens.shape:
        shapes = f"{list(before.frames.shape)} then, {list(now.frames.shape)} now"
        return replace(judgement, why=f"The frames are not as many, or of another size: {shapes}.")
    different, values = before.tokens != now.tokens, tuple(psnr(now.frames, before.frames).tolist())
    judgement = replace(judgement, different=different, psnr_db=values)
    if before.given_sha256 != now.given_sha256:
        return replace(judgement, why="The given frames are not the same: another clip was taken.")
    if before.actions != now.actions:
        pairs = zip(before.actions, now.actions, strict=True)
        step = next(number for number, (old, new) in enumerate(pairs, 1) if old != new)
        return replace(judgement, why=f"Other actions were taken, from generated frame {step} on.")
    if not different.any() and np.array_equal(before.frames, now.frames):
        return replace(judgement, outcome="identical", why="Every token and every pixel is the same.")
    close = different.mean() <= bound.tokens and min(values) >= bound.psnr_db
    limits = f"{'within' if close else 'beyond'} {bound.tokens:.1%} and {bound.psnr_db:g} dB on {device}"
    why = f"{different.sum()} of {different.size} tokens differ; the worst frame has {min(values):.1f} dB "
    why += f"against the baseline ({limits})."
    return replace(judgement, outcome="close" if close else "changed", why=why)


def changed_facts(before: Played, now: Played) -> list[Fact]:
    """Differences in what the numbers depend on: software, device, precision, weights, code."""

    def pairs(label: str, missing: str, old: dict[str, str], new: dict[str, str]) -> list[Fact]:
        both = ((label + name, old.get(name, missing), new.get(name, missing)) for name in {**old, **new})
        return [Fact(*map(harmless, texts)) for texts in both]

    digests = ({part: digest[:16] for part, digest in played.files.items()} for played in (before, now))
    # A parameter that was added later had its default before, whatever that was called.
    names = [name for name in before.parameters if name in now.parameters and not name.startswith("replay")]
    facts = pairs("", "not recorded", before.environment, now.environment)
    facts += pairs("sha256 of ", "none", *digests)
    parameters = ({name: str(played.parameters[name]) for name in names} for played in (before, now))
    facts += pairs("", "none", *parameters)
    return [fact for fact in facts if fact.before != fact.now]


def picture(judgement: Judgement) -> Image.Image:
    """Frames of the baseline, frames of now, their difference, as bright as it goes, and differing tokens."""
    now, before = judgement.now, judgement.case.played
    captions = [f"{number}" for number in range(1, len(before.frames) + 1)]
    if now is None or judgement.different is None or judgement.outcome == "identical":
        return contact_sheet([("both" if now else "baseline", before.frames)], captions)
    gap = np.abs(before.frames.astype(np.int16) - now.frames)
    times = 255 // max(1, int(gap.max()))
    difference = f"difference x{times}", (gap * times).astype(np.uint8)
    tokens = "tokens", token_map(judgement.different, before.frames.shape[1])
    return contact_sheet([("baseline", before.frames), ("now", now.frames), difference, tokens], captions)


def token_map(different: np.ndarray, size: int) -> np.ndarray:
    """Where tokens differ: bool ``[T, P]``, row-major over a square grid -> uint8 ``[T, size, size, 3]``."""
    side = round(different.shape[1] ** 0.5)
    rows = np.arange(size) * side // size
    cells = different.reshape(len(different), side, side)[:, rows[:, None], rows]
    return np.where(cells[..., None], (224, 138, 0), (236, 239, 243)).astype(np.uint8)


def metric_text(name: str, value: Any) -> str:
    """A metric of ``run.json`` for people: per-frame values as their mean."""
    if value is None or value == []:
        return "–"
    if name == "action_histogram" and isinstance(value, list):
        return " ".join(str(count) for count in value)
    if isinstance(value, dict):
        return " ± ".join(f"{value.get(name, np.nan):.2f}" for name in ("mean", "half_width"))
    return f"{np.mean(value):.{2 if name == 'psnr_db' else 3}f}"


def write_report(judgements: Sequence[Judgement], frozen: Path, path: Path) -> None:
    """Write a report: ``.html``, one file with its pictures inside, for people; ``.xml``, JUnit, for CI."""
    import jinja2

    templates = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = Path(__file__).with_name(f"regress{path.suffix}").read_text(encoding="utf-8")
    facts: dict[Fact, list[str]] = {}
    for judgement in judgements:
        for fact in judgement.facts:
            facts.setdefault(fact, []).append(judgement.case.name)
    outcomes = [judgement.outcome for judgement in judgements]
    text = templates.from_string(template).render(
        judgements=judgements,
        passed=all(judgement.passed for judgement in judgements),
        counts={outcome: outcomes.count(outcome) for outcome in get_args(Outcome)},
        baseline=frozen,
        when=time.strftime("%Y-%m-%d %H:%M"),
        environment=next((judgement.now.environment for judgement in judgements if judgement.now), {}),
        facts=dict(sorted(facts.items(), key=lambda item: item[0].name == "commit")),
        metric_text=metric_text,
        picture=_picture_as_base64,
    )
    with writing(path, "Free some disk and run again."):
        # XML cannot hold control characters, such as a terminal's colours.
        path.write_text("".join(c for c in text if c >= " " or c in "\n\t"), encoding="utf-8")


def _picture_as_base64(judgement: Judgement) -> str:
    data = io.BytesIO()
    picture(judgement).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def run_case(case: Case, run_dir: Path, overrides: dict[str, Any]) -> Judgement:
    """Run a case's notebook and judge what it generates."""
    began = time.monotonic()
    # Whether weights are others is for the report to say: a replay must not refuse them.
    fixed = {"replay_other_weights": True} if case.played.parameters.get("replay") else {}
    try:
        judgement = judge(case, baseline.play(case.played.parameters | fixed | overrides, run_dir))
    except RunbookError as error:
        judgement = Judgement(case, None, "failed", str(error))
    return replace(judgement, seconds=time.monotonic() - began)


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, write the report; 0 if all passed, 1 if one did not, 2 for wrong arguments."""
    about = "Run a baseline's cases again; the exit status is 0 if each is identical or close."
    parser = command_parser("regress", about, "a parameter to set in every case, such as -p device=cpu")
    add = parser.add_argument
    folders = "the baseline's folder; outputs/baseline_<dataset> otherwise, or an embedded world's own"
    add("baseline", nargs="?", type=Path, help=folders)
    add("--dataset", default="crafter", help="world of the baseline, unless its folder is given")
    add("--only", nargs="+", default=[], metavar="CASE", help="run these cases only")
    add("--report", type=Path, metavar="FOLDER", help="where report.html and junit.xml go")
    arguments = parser.parse_args(argv)
    here, frozen, report = arguments.called_from, arguments.baseline, arguments.report
    overrides = read_overrides(arguments.parameter)
    check_run(NOTEBOOK, overrides)
    ahead.check_device(overrides.get("device", "auto"))
    folder = here / expanded(frozen) if frozen else find_baseline(arguments.dataset)
    cases = baseline.choose(baseline.read_baseline(folder), arguments.only)
    label = f"{world(arguments.dataset).name}_regress"
    run = open_run(label, here / expanded(report) if report else "")
    print(f"Comparing {len(cases)} cases with {folder}; their runs are in {run}", flush=True)
    judgements = []
    for case in cases:
        judgements.append(run_case(case, run / case.name, overrides))
        print(f"  {case.name:<18} {judgements[-1].outcome:<10} {judgements[-1].why}", flush=True)
    write_report(judgements, folder, run / "report.html")
    write_report(judgements, folder, run / "junit.xml")
    for fact in dict.fromkeys(fact for judgement in judgements for fact in judgement.facts):
        print(f"  different from the baseline: {fact}")
    passed = sum(judgement.passed for judgement in judgements)
    print(f"{passed} of {len(judgements)} cases are identical or close. Report: {run / 'report.html'}")
    return 0 if passed == len(judgements) else 1


if __name__ == "__main__":
    raise SystemExit(main())
