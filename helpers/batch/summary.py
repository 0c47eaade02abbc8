"""A sweep's table, a row a job, and its plot.

plot(read_summary("outputs/sweep_temperatures"))      # in a notebook; `helpers.report.picture` shows it
"""

import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import csv, parquet
from pyarrow.fs import FileSystem  # type: ignore[import-untyped]

from helpers.batch.storage import open_storage, whole_file
from helpers.errors import OutputError, ParameterError
from helpers.play.metrics import interval
from helpers.report import tidy_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURED = {
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "delta_4_psnr_db": "Δ₄PSNR (dB)",
    "motion_ratio": "motion, generated / true",
    "token_accuracy": "token accuracy",
    "ms_per_frame": "ms a frame",
}
_REPEATS = ("seed", "start")  # parameters that repeat an experiment rather than being its subject


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A job's row of the table; per-frame metrics as their mean."""
    run = record.get("run") or {}
    metrics, timings, frames = run.get("metrics") or {}, run.get("timings") or {}, run.get("frames") or []
    hashes = "".join(frame["tokens"] for frame in frames)
    return {
        "name": record["name"],
        "status": record["status"],
        **{name: _cell(value) for name, value in record["varied"].items()},
        "frames": len(frames),
        "psnr_db": statistics.fmean(metrics["psnr_db"]) if metrics.get("psnr_db") else None,
        "ssim": statistics.fmean(metrics["ssim"]) if metrics.get("ssim") else None,
        "delta_4_psnr_db": (metrics.get("delta_4_psnr_db") or {}).get("mean"),
        **{name: metrics.get(name) for name in ("motion_ratio", "token_accuracy")},
        "ms_per_frame": timings.get("median_ms_per_frame"),
        "seconds": record.get("seconds"),
        "rollout_seconds": sum(timings.get("step_seconds") or []) if timings else None,
        "metrics_seconds": metrics.get("seconds"),
        "tokens": hashlib.sha256(hashes.encode()).hexdigest()[:16] if hashes else None,
        "device": run.get("device"),
        **{name: record.get(name) for name in ("host", "worker", "attempt")},
        "message": record["message"] or None,
    }


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def summarise(records: Sequence[dict[str, Any]]) -> pa.Table:
    """The table of a sweep: a row a job, in the sweep's order."""
    rows = [row(record) for record in records]
    varied = {name for record in records for name in record["varied"]}
    columns = {}
    for name in dict.fromkeys(name for cells in rows for name in cells):
        values = [cells.get(name) for cells in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a parameter that takes numbers here and texts there
            columns[name] = pa.array([None if value is None else str(value) for value in values])
        if name not in varied and pa.types.is_null(columns[name].type):
            columns[name] = columns[name].cast(pa.float64())
    return pa.table(columns)


def write_summary(records: Sequence[dict[str, Any]], storage: FileSystem, root: str) -> None:
    """Write ``summary.parquet``, ``summary.csv`` and, where there is something to draw, ``summary.png``."""
    table = summarise(records)
    storage.create_dir(root, recursive=True)
    with whole_file(storage, f"{root}/summary.parquet") as stream:
        parquet.write_table(table, stream)
    with whole_file(storage, f"{root}/summary.csv") as stream:
        csv.write_csv(table, stream)
    if table.num_rows > 1 and varied_columns(table):
        with whole_file(storage, f"{root}/summary.png") as stream:
            plot(table).savefig(stream, format="png", dpi=110)


def read_summary(address: str | Path) -> pa.Table:
    """The table of the sweep in a folder or at an address; raises an `OutputError` where there is none."""
    storage, root = open_storage(str(address))
    try:
        with storage.open_input_file(f"{root}/summary.parquet") as stream:
            return parquet.read_table(stream)
    except OSError as error:
        raise OutputError(f"{address} holds no summary.parquet.", fix="Run the sweep first.") from error


def varied_columns(table: pa.Table) -> list[str]:
    """The parameters that a sweep's table varies and has more than one value of, in its order."""
    names = table.column_names[2 : table.column_names.index("frames")]
    return [name for name in names if len(table[name].unique()) > 1]


def plot(table: pa.Table, x: str = "", line: str = "") -> "Figure":
    """A panel for each metric of a `summarise` table: means with their 95% interval.

    ``x`` is the parameter along the axis, ``line`` the one that each line has one value of; by default the
    first and the next that vary and are no seed or start. Raises a `ParameterError` where there is none such.
    """
    from matplotlib.figure import Figure

    varied = varied_columns(table)
    if not varied or not {x, line} - {""} <= set(varied):
        raise ParameterError(
            f"There is no {x or line or 'parameter'} to draw against.",
            fix=f"This sweep varies {', '.join(varied) or 'nothing'}.",
        )
    x = x or next((name for name in sorted(varied, key=_REPEATS.__contains__) if name != line), line)
    line = line or next((name for name in varied if name not in (x, *_REPEATS)), "")
    rows = [cells for cells in table.to_pylist() if cells["status"] != "fail"]
    metrics = [name for name in _MEASURED if any(cells[name] is not None for cells in rows)]
    ticks = sorted({cells[x] for cells in rows} - {None}, key=lambda tick: (isinstance(tick, str), tick))
    numeric = all(isinstance(tick, (int, float)) and not isinstance(tick, bool) for tick in ticks)
    places = ticks if numeric else range(len(ticks))
    across = 2 if len(metrics) in (2, 4) else min(3, max(1, len(metrics)))
    down = max(1, -(-len(metrics) // across))
    figure = Figure(figsize=(4.2 * across, 3.2 * down), layout="constrained")  # no pyplot: nothing global
    for number, name in enumerate(metrics):
        axes = figure.add_subplot(down, across, number + 1)
        for index, group in enumerate(dict.fromkeys(cells[line] for cells in rows) if line else [None]):
            points = []
            for place, tick in zip(places, ticks, strict=True):
                here = [cells for cells in rows if cells[x] == tick and (not line or cells[line] == group)]
                values = np.array([cells[name] for cells in here if cells[name] is not None], float)
                if len(values):
                    mean = interval(values)
                    points.append((place, mean.mean, mean.half_width if len(values) > 1 else 0.0))
            if points:
                label = f"{line} {group}" if line else None
                at, means, widths = zip(*points, strict=True)
                axes.errorbar(at, means, widths, fmt="o-", color=f"C{index}", ms=4, capsize=3, label=label)
        axes.set_title(_MEASURED[name], loc="left", fontsize=10)
        axes.set_xlabel(x)
        if not numeric or len(ticks) <= 8:
            axes.set_xticks(places, [str(tick) for tick in ticks])
        tidy_axes(axes)
        if line and number == 0:
            axes.legend(frameon=False, fontsize=9)
    return figure


def cost(records: Sequence[dict[str, Any]]) -> str:
    """The time of a job that is neither generating nor measuring, in a sentence; empty if unknown."""
    rows = [cells for cells in map(row, records) if cells["status"] != "fail" and cells["rollout_seconds"]]
    rest = [cells["seconds"] - cells["rollout_seconds"] - (cells["metrics_seconds"] or 0) for cells in rows]
    return f"Overhead of a job: {np.median(rest):.2f} s, the median of {len(rows)}." if rows else ""
