"""How a step reports: checks make a verdict, a verdict is a table and a JSON file.

Standard library only, so that it works before anything is installed.
"""

import contextlib
import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers.errors import VerdictError
from helpers.files import written_whole

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Status = Literal["ok", "warn", "fail", "skip"]
_MARK = {"ok": "✅ ok", "warn": "⚠️ warn", "fail": "❌ fail", "skip": "➖ skip"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    id: str  # short, stable name in snake_case, such as "driver"
    status: Status  # "warn": the run can go on; "fail": it cannot; "skip": not looked at, observed says why
    observed: str  # what there is, in words and numbers
    fix: str = ""  # what to do, as a command or a click; required unless the status is ok
    expected: str = ""  # what there should be
    why: str = ""  # why it matters


@dataclass(frozen=True)
class Subject:
    """What a check looks at, declared once; an outcome then says only what was observed and what to do.

    The fields and the outcomes (``ok``, ``warn``, ``fail``, ``skip``) are those of `Check`.
    """

    id: str
    expected: str = ""
    why: str = ""

    def ok(self, observed: str) -> Check:
        """It is as it should be."""
        return self._outcome("ok", observed, "")

    def _outcome(self, status: Status, observed: str, fix: str) -> Check:
        return Check(self.id, status, observed, fix, self.expected, self.why)

    warn = partialmethod(_outcome, "warn")
    fail = partialmethod(_outcome, "fail")
    skip = partialmethod(_outcome, "skip")


@dataclass(frozen=True)
class Verdict:
    """The checks of one step, e.g. ``Verdict("00_check", checks)``."""

    step: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst status among the checks; what was skipped makes nothing worse."""
        statuses = {check.status for check in self.checks}
        return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"step": self.step, "status": self.status, "checks": [asdict(check) for check in self.checks]}

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
        filled = {name for check in self.checks for name in ("expected", "why") if getattr(check, name)}
        names = ("id", "status", "observed", "expected", "why", "fix")
        columns = [name for name in names if name in filled or name not in ("expected", "why")]
        rows = [
            [_MARK[check.status] if name == "status" else getattr(check, name) for name in columns]
            for check in checks
        ]
        return html_table([_TITLES.get(name, name) for name in columns], rows)


def html_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped, for a notebook."""

    def line(tag: str, cells: Sequence[str]) -> str:
        begin = f'<{tag} style="text-align:left;white-space:normal">'
        return f"<tr>{''.join(f'{begin}{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line('th', titles)}{''.join(line('td', row) for row in rows)}</table>"


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
    """End a step such as ``"00_check"``: show its verdict, write ``<run_dir>/<step>.json``, stop if it fails.

    Raises:
        VerdictError: A check failed; the message names every failed check and its fix. The table is shown and
            the file written, into a folder that must exist, before this is raised.
    """
    verdict = Verdict(step, tuple(checks))
    write_json(run_dir / f"{step}.json", verdict.to_dict())
    show(verdict)
    if failed := [check for check in verdict.checks if check.status == "fail"]:
        what = "; ".join(f"{check.id}: {check.observed}" for check in failed)
        raise VerdictError(
            f"{step} failed: {what}", fix=" ".join(dict.fromkeys(check.fix for check in failed))
        )


def show(verdict: Verdict) -> None:
    """Show a verdict: as a table where there is a notebook, as text elsewhere."""
    with contextlib.suppress(ImportError):
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            display(verdict)
            return
    print(verdict)


def picture(figure: "Figure", alt: str = "") -> "Image":
    """A figure of matplotlib as a notebook draws it without pyplot; ``alt`` says in words what it shows."""
    from IPython.display import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return Image(drawn.getvalue(), width=round(80 * figure.get_figwidth()), alt=alt)


def tidy_axes(axes: "Axes") -> None:
    """Give axes of matplotlib a faint grid and no frame above and on the right, as all plots here have it."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as UTF-8 JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
