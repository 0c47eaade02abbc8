"""Speed against quality as a picture and as a table."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.play.metrics import Interval
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld
from helpers.presets.choose import FOLDER, MeasuredDecoding, Measurement, command, offered, read
from helpers.report import picture
from helpers.worldmodel.session import Decoding
from helpers.worlds import world

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLIPS = 16
"""Clips that the command looks at; fewer are worth measuring again."""

_COLOURS = {"tokens": "#2a6fbb", "pixels": "#c26f00"}
_STYLES = {"greedy": ("o-", None), "sampled": ("o--", "white")}
_FONT = 8  # points
_OFFSETS = [
    np.array([math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)]) * distance
    for distance in (9, 13, 18, 24, 31)
    for turn in (2, 6, 1, 3, 5, 7, 0, 4)  # above and below first
]
_NEAR = 16  # of these need no line from number to point

Point = tuple[MeasuredDecoding, float]
"""A decoding and its height in a panel."""


def show(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> None:
    """Draw this world's measurement, the decoding that is played marked; else say how to measure it."""
    from IPython.display import display

    measurement = read(opened, settings, folder)
    if measurement is None:
        print(
            f"Speed against quality was not measured for {opened.world.title} here. This measures it: "
            f"{command(opened, settings)}"
        )
        return
    played = Decoding(settings.steps or opened.world.steps, settings.temperature, settings.feedback)
    display(picture(plot(measurement, played), alt=table(measurement)))
    if measurement.clips < CLIPS:
        print(f"Quality is a mean over {measurement.clips} clips. On {CLIPS}: {command(opened, settings)}")


def plot(measurement: Measurement, played: Decoding | None = None) -> "Figure":
    """PSNR and Δ₄PSNR over frames a second, lines for each feedback, greedy or sampled; ``played`` marked."""
    from matplotlib.figure import Figure

    panels = {
        "PSNR of the 4th generated frame, dB": [(row, row.psnr) for row in measurement.decodings],
        "Δ₄PSNR, dB: what actions change": [
            (row, row.delta_4_psnr) for row in measurement.decodings if row.delta_4_psnr is not None
        ],
    }
    panels = {label: points for label, points in panels.items() if points}
    machine, title = measurement.machine, world(measurement.made_from["world"]).title
    where = machine["device_name"]
    if machine["device"] == "cpu":
        where += f", {machine['threads']} thread" + "s" * (machine["threads"] != "1")
    figure = Figure(figsize=(5.6 * len(panels), 4.6), layout="constrained")
    figure.suptitle(f"{title} on {where}: mean over {measurement.clips} clips", fontsize=10.5)
    axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for panel, (label, points) in zip(axes, panels.items(), strict=True):
        panel.set_ylabel(label)
        _draw_lines(panel, points, played)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.draw_without_rendering()  # settles where everything lies
    for panel, points in zip(axes, panels.values(), strict=True):
        _label_points(panel, points, played)
    return figure


def _draw_lines(axes: "Axes", points: Sequence[Point], played: Decoding | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for (feedback, colour), (choice, (style, face)) in itertools.product(_COLOURS.items(), _STYLES.items()):
        line = [
            (row.rate, value)
            for row, value in points
            if (row.feedback, bool(row.temperature)) == (feedback, choice == "sampled")
        ]
        if line:
            label = f"{feedback} feedback, {choice}"
            axes.plot(
                *zip(*line, strict=True), style, c=colour, mfc=face or colour, ms=5, lw=1.4, label=label
            )
    for row, value in points:
        if row.decoding == played:
            axes.plot(row.rate, value, "o", ms=13, mfc="none", mec="#8b1e3f", mew=2, label="played here")
    rates = [row.rate for row, _ in points]
    axes.set(xscale="log", xlabel="frames a second (numbers at the points: decoding steps)")
    axes.set_xlim(min(*rates, 30) / 1.35, max(*rates, 30) * 1.35)
    axes.margins(y=0.12)
    axes.axvline(30, color="#6b7685", linewidth=1, linestyle=":")
    top = axes.get_xaxis_transform()
    axes.text(30, 1.01, "30 fps", transform=top, ha="center", fontsize=8.5, color="#6b7685")
    ticks = (1, 1.5, 2, 3, 5, 7) if max(rates) < 8 * min(rates) else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _label_points(axes: "Axes", points: Sequence[Point], played: Decoding | None) -> None:
    """Write its decoding steps beside each point, where they meet the fewest other numbers and points."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    def box(centre: np.ndarray, wide: float, high: float) -> Bbox:
        return Bbox([np.subtract(centre, (wide, high)), np.add(centre, (wide, high))])

    pixels = axes.transData.transform([(row.rate, value) for row, value in points])
    centres = pixels * 72 / axes.figure.dpi  # as fonts are measured
    taken = [
        box(centre, *(9, 9) if row.decoding == played else (4, 4))
        for (row, _), centre in zip(points, centres, strict=True)
    ]
    for (row, value), centre in zip(points, centres, strict=True):
        text = str(row.steps)
        boxes = [box(centre + offset, 0.31 * _FONT * len(text) + 1, 0.45 * _FONT) for offset in _OFFSETS]
        overlaps = [candidate.count_overlaps(taken) for candidate in boxes]
        best = int(np.argmin(overlaps))  # the nearest of the best
        taken.append(boxes[best])
        axes.annotate(
            *(text, (row.rate, value), tuple(_OFFSETS[best])),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="center",
            fontsize=_FONT,
            color=_COLOURS[row.feedback],
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "#b0b7c0", "linewidth": 0.6} if best >= _NEAR else None,
        )


def table(measurement: Measurement) -> str:
    """A line for each decoding, and for each preset that is reached."""
    lines = [f"{'':<28}{'ms a frame':>12}{'[quartiles]':>18}{'fps':>8}{'PSNR, dB':>16}{'Δ₄PSNR, dB':>16}"]
    for row in measurement.decodings:
        quartiles = f"[{row.ms_low:.1f}, {row.ms_high:.1f}]"
        quality, control = str(Interval(row.psnr, row.psnr_within)), ""
        if row.delta_4_psnr is not None and row.delta_4_psnr_within is not None:
            control = str(Interval(row.delta_4_psnr, row.delta_4_psnr_within))
        speed = f"{row.name:<28}{row.ms:>12.1f}{quartiles:>18}{row.rate:>8.1f}"
        lines.append(f"{speed}{quality:>16}{control:>16}")
    return "\n".join([*lines, "", *(f"{name:<8}{row}" for name, row in offered(measurement).items())])
