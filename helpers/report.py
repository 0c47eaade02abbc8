"""How a step reports: checks make a verdict, a verdict is a table and a JSON file.

Standard library only, so that it works before anything is installed.
"""

import html
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from helpers.errors import VerdictError

Status = Literal["ok", "warn", "fail"]
_MARK = {"ok": "✅ ok", "warn": "⚠️ warn", "fail": "❌ fail"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        id: Short, stable name in snake_case, such as ``"driver"``.
        status: ``"ok"``; ``"warn"`` if the run can go on; ``"fail"`` if it cannot.
        observed: What was found, in words and numbers.
        fix: What to do; required unless the status is ok.
    """

    id: str
    status: Status
    observed: str
    fix: str = ""


@dataclass(frozen=True)
class Verdict:
    """The checks of one step, e.g. ``Verdict("00_check", checks)``."""

    step: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst status among the checks."""
        found = {check.status for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"step": self.step, "status": self.status, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        rows = [("check", "status", "observed", "what to do")]
        rows += [(check.id, check.status, check.observed, check.fix) for check in self.checks]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}{f'  -> {row[3]}' if row[3] else ''}"
            for row in rows
        ]
        return "\n".join([f"{self.step}: {self.status}", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:left;white-space:normal">{html.escape(cell)}</td>'
                for cell in (check.id, _MARK[check.status], check.observed, check.fix)
            )
            + "</tr>"
            for check in self.checks
        )
        titles = ("check", "status", "observed", "what to do")
        head = "".join(f'<th style="text-align:left">{title}</th>' for title in titles)
        return f"<b>{html.escape(self.step)}: {_MARK[self.status]}</b><table><tr>{head}</tr>{rows}</table>"


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


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as UTF-8 JSON, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
