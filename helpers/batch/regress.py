"""Regression: `python runbook.py regress` runs a baseline's cases again and says what has become of each.

A case is *identical* (every token and pixel), *close* (within its bound for this device), *changed*, or
*failed*. The report is one HTML file that needs nothing beside it; JUnit XML and the exit status are for CI.
"""

import argparse
import base64
import io
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from helpers.batch.baseline import (
    Bound,
    Case,
    Plan,
    Played,
    find_baseline,
    play,
    read_baseline,
)
from helpers.errors import OutputError, ParameterError, RunbookError
from helpers.parameters import add_parameter_arguments, read_overrides
from helpers.pictures import contact_sheet
from helpers.play.metrics import psnr
from helpers.run_folder import open_run
from helpers.worlds import world

Outcome = Literal["identical", "close", "changed", "failed"]
TEMPLATE = Path(__file__).with_name("regress.html")


@dataclass(frozen=True)
class Fact:
    """Something numbers depend on that is not what it was."""

    name: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} → {self.now}"


@dataclass(frozen=True)
class Judgement:
    """What became of a case.

    Args:
        case: As it was frozen.
        now: What it generates now; None where its notebook failed.
        outcome: In a word.
        why: In a sentence.
        facts: What differs beside the frames.
        different: bool ``[T, P]``, which tokens differ; T frames were generated both times.
        psnr_db: Of each frame against the baseline's; 100 where they are equal.
        bound: How far off it may be on this device.
        seconds: What running the notebook took.
    """

    case: Case
    now: Played | None
    outcome: Outcome
    why: str
    facts: tuple[Fact, ...] = ()
    different: np.ndarray | None = None
    psnr_db: tuple[float, ...] = ()
    bound: Bound | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it is as it was, or close enough."""
        return self.outcome in ("identical", "close")

    @property
    def first(self) -> int | None:
        """The first generated frame, counted from 1, that differs; None where none does."""
        differs = [number for number, value in enumerate(self.psnr_db, 1) if value < 100]
        if self.different is not None:
            differs += (np.flatnonzero(self.different.any(1)) + 1).tolist()
        return min(differs, default=None)


def judge(case: Case, now: Played) -> Judgement:
    """Hold what a case generates now against what it generated when it was frozen."""
    before = case.played
    facts = tuple(changed_facts(before, now))
    bound = case.bound(now.environment.get("device", "cpu"))

    def judged(outcome: Outcome, why: str, **found: Any) -> Judgement:
        return Judgement(case, now, outcome, why, facts, bound=bound, **found)

    if before.frames.shape != now.frames.shape or before.tokens.shape != now.tokens.shape:
        shapes = f"{list(before.frames.shape)} then, {list(now.frames.shape)} now"
        return judged("changed", f"The frames are not as many, or of another size: {shapes}.")
    different = before.tokens != now.tokens
    values = tuple(float(value) for value in psnr(now.frames, before.frames))
    found: dict[str, Any] = {"different": different, "psnr_db": values}
    if before.given_sha256 != now.given_sha256:
        return judged("changed", "The given frames are not the same: another clip was taken.", **found)
    if before.actions != now.actions:
        step = next(
            i for i, pair in enumerate(zip(before.actions, now.actions, strict=True), 1) if len({*pair}) > 1
        )
        return judged("changed", f"Other actions were taken, from generated frame {step} on.", **found)
    if not different.any() and np.array_equal(before.frames, now.frames):
        return judged("identical", "Every token and every pixel is the same.", **found)
    count, share, worst = int(different.sum()), float(different.mean()), min(values)
    device = now.environment.get("device", "cpu")
    within = share <= bound.tokens and worst >= bound.psnr_db
    return judged(
        "close" if within else "changed",
        f"{count} of {different.size} tokens differ; the worst frame has {worst:.1f} dB against the baseline "
        f"({'within' if within else 'beyond'} {bound.tokens:.1%} and {bound.psnr_db:g} dB on {device}).",
        **found,
    )


def changed_facts(before: Played, now: Played) -> list[Fact]:
    """What the numbers depend on and is not as it was: software, device, precision, weights, code."""
    facts = [
        Fact(name, before.environment.get(name, "not recorded"), now.environment.get(name, "not recorded"))
        for name in dict.fromkeys([*before.environment, *now.environment])
    ]
    facts += [
        Fact(f"sha256 of {part}", before.files.get(part, "none")[:16], now.files.get(part, "none")[:16])
        for part in dict.fromkeys([*before.files, *now.files])
    ]
    names = dict.fromkeys([*before.parameters, *now.parameters])
    for name in (name for name in names if not name.startswith("replay")):
        # A parameter that came later had its default before, whatever that was called.
        if name in before.parameters and name in now.parameters:
            facts.append(Fact(name, str(before.parameters[name]), str(now.parameters[name])))
    return [fact for fact in facts if fact.before != fact.now]


def suspects(judgement: Judgement) -> str:
    """What may have made a case differ, in a sentence; empty where nothing differs.

    A commit moves no number by itself: the engine's own hash tells whether its code is another.
    """
    if judgement.now is None or judgement.outcome == "identical":
        return ""
    named = [str(fact) for fact in judgement.facts if fact.name != "commit"]
    if named:
        return f"Not as it was: {'; '.join(named)}."
    return "Of all that is recorded beside the frames, nothing else differs."


def picture(judgement: Judgement) -> Image.Image | None:
    """Frames of the baseline, frames of now, their difference, and which tokens differ, side by side.

    The difference is made as bright as its largest value allows.
    """
    now, before = judgement.now, judgement.case.played
    captions = [f"{number}" for number in range(1, len(before.frames) + 1)]
    if now is None or judgement.different is None or judgement.outcome == "identical":
        return contact_sheet([("both" if now else "baseline", before.frames)], captions)
    gap = np.abs(before.frames.astype(np.int16) - now.frames)
    times = 255 // max(1, int(gap.max()))
    rows = [
        ("baseline", before.frames),
        ("now", now.frames),
        (f"difference x{times}", (gap * times).astype(np.uint8)),
        ("tokens", token_map(judgement.different, before.frames.shape[1])),
    ]
    return contact_sheet(rows, captions)


def token_map(different: np.ndarray, size: int) -> np.ndarray:
    """Where tokens differ: bool ``[T, P]``, row-major over a square grid -> uint8 ``[T, size, size, 3]``."""
    side = round(different.shape[1] ** 0.5)
    grid = different.reshape(len(different), side, side)
    rows = np.arange(size) * side // size
    cells = grid[:, rows[:, None], rows[None, :]]
    return np.where(cells[..., None], np.array([224, 138, 0]), np.array([236, 239, 243])).astype(np.uint8)


METRICS = (
    ("psnr_db", "PSNR against the true frames", "dB"),
    ("ssim", "SSIM against the true frames", ""),
    ("delta_4_psnr_db", "Δ₄PSNR", "dB"),
    ("motion_ratio", "motion, generated over true", ""),
    ("token_accuracy", "token accuracy, teacher forcing", ""),
    ("action_histogram", "actions by id", ""),
)


def metric_text(name: str, value: Any) -> str:
    """A metric of ``run.json`` for people: per-frame values as their mean."""
    if value is None or value == []:
        return "–"
    if name == "action_histogram":
        return " ".join(str(count) for count in value)
    if isinstance(value, dict):
        return f"{value['mean']:.2f} ± {value['half_width']:.2f}"
    digits = 2 if name == "psnr_db" else 3
    return f"{float(np.mean(value)):.{digits}f}"


def write_report(judgements: Sequence[Judgement], baseline: Path, path: Path) -> None:
    """Write the HTML report: one file, pictures inside, no script, nothing fetched."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    facts: dict[Fact, list[str]] = {}
    for judgement in judgements:
        for fact in judgement.facts:
            facts.setdefault(fact, []).append(judgement.case.name)
    counts = {outcome: sum(each.outcome == outcome for each in judgements) for outcome in get_args(Outcome)}
    run = next((each.now.environment for each in judgements if each.now), {})
    text = template.render(
        passed=all(each.passed for each in judgements),
        counts=counts,
        baseline=baseline,
        when=time.strftime("%Y-%m-%d %H:%M"),
        environment=run,
        facts=dict(sorted(facts.items(), key=lambda item: item[0].name == "commit")),
        cases=[_case_page(each) for each in judgements],
    )
    _write(path, text)


def _case_page(judgement: Judgement) -> dict[str, Any]:
    """What the template shows of a case."""
    case, now = judgement.case, judgement.now
    frames = []
    if judgement.different is not None:
        counts = judgement.different.sum(1).tolist()
        for number, (tokens, value) in enumerate(zip(counts, judgement.psnr_db, strict=True), 1):
            frames.append(
                {"number": number, "tokens": tokens, "psnr": "equal" if value >= 100 else f"{value:.1f}"}
            )
    made = picture(judgement)
    data = io.BytesIO()
    if made is not None:
        made.save(data, "PNG", optimize=True)
    shown = {
        name: value
        for name, value in case.played.parameters.items()
        if value not in ("", [], False, 0, -1) or name in ("temperature", "seed", "use_gt_actions")
    }
    metrics = [
        {
            "label": label,
            "unit": unit,
            "before": metric_text(name, case.played.metrics.get(name)),
            "now": metric_text(name, now.metrics.get(name)) if now else "–",
        }
        for name, label, unit in METRICS
    ]
    return {
        "name": case.name,
        "outcome": judgement.outcome,
        "why": judgement.why,
        "suspects": suspects(judgement),
        "first": judgement.first,
        "size": judgement.different.shape[1] if judgement.different is not None else 0,
        "seconds": f"{judgement.seconds:.1f}",
        "picture": base64.b64encode(data.getvalue()).decode("ascii"),
        "frames": frames,
        "metrics": metrics,
        "parameters": shown,
    }


def write_junit(judgements: Sequence[Judgement], path: Path) -> None:
    """Write JUnit XML, as CI systems read it: a case is a test, *changed* a failure, *failed* an error."""
    suite = ET.Element(
        "testsuite",
        name="regress",
        tests=str(len(judgements)),
        failures=str(sum(each.outcome == "changed" for each in judgements)),
        errors=str(sum(each.outcome == "failed" for each in judgements)),
        time=f"{sum(each.seconds for each in judgements):.3f}",
    )
    for each in judgements:
        dataset = str(each.case.played.parameters.get("dataset", ""))
        test = ET.SubElement(
            suite, "testcase", classname=dataset, name=each.case.name, time=f"{each.seconds:.3f}"
        )
        text = _xml_text(f"{each.why} {suspects(each)}".strip())
        if each.passed:
            ET.SubElement(test, "system-out").text = f"{each.outcome}: {text}"
        else:
            tag = "failure" if each.outcome == "changed" else "error"
            ET.SubElement(test, tag, message=_xml_text(each.why), type=each.outcome).text = text
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    _write(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n")


def _xml_text(text: str) -> str:
    """Without the control characters that XML has no way to hold."""
    return "".join(letter for letter in text if letter >= " " or letter in "\n\t")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}).", fix="Free some disk and run again."
        ) from error


def run_case(case: Case, run_dir: Path, overrides: dict[str, Any]) -> Judgement:
    """Run a case's notebook and judge what it generates."""
    began = time.monotonic()
    # Whether weights are others is for the report to say: a replay must not refuse them.
    fixed = {"replay_other_weights": True} if case.played.parameters.get("replay") else {}
    plan = Plan(case.name, case.played.parameters | fixed | overrides, case.bounds)
    try:
        now, problem = play(plan, run_dir)
    except OutputError as error:
        now, problem = None, str(error)
    judgement = judge(case, now) if now else Judgement(case, None, "failed", problem)
    return replace(judgement, seconds=time.monotonic() - began)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py regress``."""
    made = argparse.ArgumentParser(
        prog="runbook.py regress",
        description="Run a baseline's cases again; the exit status is 0 if each is identical or close.",
    )
    made.add_argument(
        "baseline",
        nargs="?",
        type=Path,
        help="the baseline's folder; outputs/baseline_<dataset> otherwise, and the embedded one for demo",
    )
    made.add_argument("--dataset", default="demo", help="world of the baseline, unless its folder is given")
    made.add_argument("--only", nargs="+", default=[], metavar="CASE", help="run these cases only")
    made.add_argument("--report", type=Path, metavar="FOLDER", help="where report.html and junit.xml go")
    add_parameter_arguments(
        made, "a parameter to set in every case, such as -p device=cpu, to see what it does"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, write the report; 0 if all passed, 1 if one did not, 2 for wrong arguments."""
    arguments = parser().parse_args(argv)
    try:
        overrides = read_overrides(arguments.parameter)
        here, given, report = arguments.called_from, arguments.baseline, arguments.report
        folder = find_baseline(here / given.expanduser() if given else None, arguments.dataset)
        cases = read_baseline(folder)
        names = [case.name for case in cases]
        for name in arguments.only:
            if name not in names:
                raise ParameterError(f"There is no case {name!r}.", fix=f"There are {', '.join(names)}.")
        cases = [case for case in cases if not arguments.only or case.name in arguments.only]
        run = open_run(
            f"{world(arguments.dataset).name}_regress", here / report.expanduser() if report else ""
        )
        print(f"Judging {len(cases)} cases by {folder}; their runs are in {run}", flush=True)
        judgements = []
        for case in cases:
            judgements.append(run_case(case, run / case.name, overrides))
            print(f"  {case.name:<18} {judgements[-1].outcome:<10} {judgements[-1].why}", flush=True)
        write_report(judgements, folder, run / "report.html")
        write_junit(judgements, run / "junit.xml")
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 2
    for fact in dict.fromkeys(fact for each in judgements for fact in each.facts):
        print(f"  not as it was: {fact}")
    passed = sum(each.passed for each in judgements)
    print(f"{passed} of {len(judgements)} cases are identical or close. Report: {run / 'report.html'}")
    return 0 if passed == len(judgements) else 1


if __name__ == "__main__":
    raise SystemExit(main())
