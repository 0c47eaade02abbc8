"""How a step reports: checks make a verdict, a verdict is a table and a JSON file.

Standard library only, so that it works before anything is installed.
"""

import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers.errors import VerdictError

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

Status = Literal["ok", "warn", "fail", "skip"]
_MARK = {"ok": "✅ ok", "warn": "⚠️ warn", "fail": "❌ fail", "skip": "➖ skip"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        id: Short, stable name in snake_case, such as ``"driver"``.
        status: ``"ok"``; ``"warn"`` if the run can go on; ``"fail"`` if it cannot; ``"skip"`` if it was not
            looked at, and then ``observed`` says why.
        observed: What was found, in words and numbers.
        fix: What to do, as a command or a click; required unless the status is ok.
        expected: What should be found.
        why: Why it matters.
    """

    id: str
    status: Status
    observed: str
    fix: str = ""
    expected: str = ""
    why: str = ""


@dataclass(frozen=True)
class Subject:
    """What a check looks at, declared once; each outcome then says only what was observed.

    Args:
        id: As in `Check`.
        expected: As in `Check`.
        why: As in `Check`.
    """

    id: str
    expected: str = ""
    why: str = ""

    def ok(self, observed: str) -> Check:
        """It is as it should be."""
        return Check(self.id, "ok", observed, "", self.expected, self.why)

    def warn(self, observed: str, fix: str) -> Check:
        """It is not as it should be, and the run can go on."""
        return Check(self.id, "warn", observed, fix, self.expected, self.why)

    def fail(self, observed: str, fix: str) -> Check:
        """It is not as it should be, and the run cannot go on."""
        return Check(self.id, "fail", observed, fix, self.expected, self.why)

    def skip(self, observed: str, fix: str) -> Check:
        """It was not looked at; ``observed`` says why."""
        return Check(self.id, "skip", observed, fix, self.expected, self.why)


@dataclass(frozen=True)
class Verdict:
    """The checks of one step, e.g. ``Verdict("00_check", checks)``."""

    step: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst status among the checks; what was skipped makes nothing worse."""
        found = {check.status for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"step": self.step, "status": self.status, "checks": [asdict(check) for check in self.checks]}

    @property
    def _columns(self) -> list[str]:
        """The columns of the table: what no check fills is left out."""
        optional = [
            name for name in ("expected", "why") if any(getattr(check, name) for check in self.checks)
        ]
        return ["id", "status", "observed", *optional, "fix"]

    def __str__(self) -> str:
        width = max((len(check.id) for check in self.checks), default=0)
        return "\n".join([f"{self.step}: {self.status}", *(_lines(check, width) for check in self.checks)])

    def _repr_html_(self) -> str:
        title = f"<b>{html.escape(self.step)}: {_MARK[self.status]}</b>"
        good = [check for check in self.checks if check.status == "ok"]
        if len(self.checks) <= _SHORT or not good:
            return title + self._table(self.checks)
        # A long table would hide what needs attention: that comes first, the rest is folded away.
        rest = [check for check in self.checks if check.status != "ok"]
        folded = f"<details><summary>{len(good)} ok</summary>{self._table(good)}</details>"
        return title + (self._table(rest) if rest else "") + folded

    def _table(self, checks: Sequence[Check]) -> str:
        columns = self._columns
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:left;white-space:normal">{html.escape(cell)}</td>'
                for cell in (
                    _MARK[check.status] if name == "status" else getattr(check, name) for name in columns
                )
            )
            + "</tr>"
            for check in checks
        )
        head = "".join(f'<th style="text-align:left">{_TITLES.get(name, name)}</th>' for name in columns)
        return f"<table><tr>{head}</tr>{rows}</table>"


_SHORT = 15
"""So many checks are shown in one table."""
_TITLES = {"id": "check", "fix": "what to do"}


def _lines(check: Check, width: int) -> str:
    """A check as text: one line, and more below it where something is to be done."""
    lines = [f"{check.status:<4}  {check.id:<{width}}  {check.observed}"]
    if check.status != "ok":
        details = (("expected", check.expected), ("why", check.why), ("what to do", check.fix))
        lines += [f"{'':<{width + 6}}  {title}: {text}" for title, text in details if text]
    return "\n".join(lines)


def conclude(step: str, checks: Iterable[Check], run_dir: Path) -> None:
    """End a step: show its verdict, write ``<run_dir>/<step>.json``, stop on a failed check.

    Args:
        step: The notebook's name, such as ``"00_check"``.
        checks: What the step looked at.
        run_dir: The run's folder; it must exist.

    Raises:
        VerdictError: A check failed; the message names each one and its fix. The table is shown and
            the file written before this is raised.
    """
    verdict = Verdict(step, tuple(checks))
    write_json(run_dir / f"{step}.json", verdict.to_dict())
    show(verdict)
    failed = [check for check in verdict.checks if check.status == "fail"]
    if failed:
        raise VerdictError(
            f"{step} failed: " + "; ".join(f"{check.id}: {check.observed}" for check in failed),
            fix=" ".join(dict.fromkeys(check.fix for check in failed)),
        )


def show(verdict: Verdict) -> None:
    """Show a verdict: as a table where there is a notebook, as text elsewhere."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(verdict)
        return
    if get_ipython() is None:
        print(verdict)
    else:
        display(verdict)


def picture(figure: "Figure", alt: str = "") -> "Image":
    """A figure as something that a notebook draws: by itself it does so only once pyplot is imported.

    Args:
        figure: Of matplotlib.
        alt: What it shows, in words.
    """
    from IPython.display import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return Image(drawn.getvalue(), width=round(80 * figure.get_figwidth()), alt=alt)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as UTF-8 JSON, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
