"""Speed against quality as a picture and as a table."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import ParameterError
from helpers.play.metrics import Interval
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld
from helpers.presets.choose import FOLDER, MeasuredDecoding, Measurement, command, offered, reached, read
from helpers.report import picture, tidy_axes
from helpers.worldmodel.session import Decoding
from helpers.worlds import world

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLIPS = 16  # that the command looks at; with fewer, differences may be chance
_COLOURS = {"tokens": "#2a6fbb", "pixels": "#c26f00"}
_STYLES = {"greedy": ("o-", None), "sampled": ("o--", "white")}
_FONT = 8  # points
_OFFSETS = [
    np.array([math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)]) * distance
    for distance in (9, 13, 18, 24, 31)
    for turn in (2, 6, 1, 3, 5, 7, 0, 4)  # above and below first
]
_NEAR = 16  # of these need no line from number to point

Point = tuple[MeasuredDecoding, float, float]
"""A decoding, its height in a panel, and the half-width of that height's 95% confidence interval."""


def show(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> None:
    """Draw this world's measurement, the decoding that is played marked; else say how to measure it."""
    from IPython.display import display

    measurement, line = read(opened, settings, folder), command(opened, settings)
    if measurement is None:
        print(f"{opened.world.title}: speed against quality was not measured here. This measures it: {line}")
        return
    played = Decoding(settings.steps, settings.temperature, settings.feedback)
    display(picture(plot(measurement, played), alt=table(measurement)))
    if settings.preset:
        with contextlib.suppress(ParameterError):  # nothing was measured as the world is played
            if note := reached(settings.preset, measurement)[1]:
                print(note)
    if measurement.clips < CLIPS:
        what = f"Quality is a mean over {measurement.clips} clips, which is few: the bars are wide."
        print(f"{what} On {CLIPS} clips: {line}")


def plot(measurement: Measurement, played: Decoding | None = None) -> "Figure":
    """PSNR and Δ₄PSNR over frames a second, lines for each feedback, greedy or sampled; ``played`` marked."""
    from matplotlib.figure import Figure

    rows = measurement.decodings
    panels = {"PSNR of the 4th generated frame, dB": [(row, row.psnr, row.psnr_within) for row in rows]}
    control = [
        (row, row.delta_4_psnr, row.delta_4_psnr_within or 0.0)
        for row in rows
        if row.delta_4_psnr is not None
    ]
    if control:
        panels["Δ₄PSNR, dB: what actions change"] = control
    machine, title = measurement.machine, world(measurement.made_from["world"]).title
    where = machine["device_name"]
    if machine["device"] == "cpu":
        where += f", {machine['threads']} thread" + "s" * (machine["threads"] != "1")
    figure = Figure(figsize=(5.6 * len(panels), 4.6), layout="constrained")
    clips = f"mean over {measurement.clips} clips, bars: 95% confidence intervals"
    if measurement.clips < CLIPS:
        clips = f"only {measurement.clips} clips: differences smaller than the bars (95%) may be chance"
    words = [f"{title} on {where}", clips, *([measurement.caution] if measurement.caution else [])]
    figure.suptitle("\n".join(words), fontsize=10.5)
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
        kind = f"{choice}, {feedback}"
        line = [(row.rate, value, within) for row, value, within in points if row.name.endswith(kind)]
        if line:
            rates, values, within = np.transpose(line)
            looks: dict[str, Any] = {"c": colour, "mfc": face or colour, "ms": 5, "lw": 1.4}
            axes.plot(rates, values, style, **looks, label=f"{feedback} feedback, {choice}")
            finite = np.where(np.isfinite(within), within, np.nan)  # of one clip alone there is no interval
            axes.errorbar(rates, values, finite, fmt="none", ecolor=colour, elinewidth=1, alpha=0.3, zorder=1)
    for row, value, _ in points:
        if row.decoding == played:
            axes.plot(row.rate, value, "o", ms=13, mfc="none", mec="#8b1e3f", mew=2, label="played here")
    all_rates = [row.rate for row, *_ in points]
    axes.set(xscale="log", xlabel="frames a second (numbers at the points: decoding steps)")
    axes.set_xlim(min(*all_rates, 30) / 1.35, max(*all_rates, 30) * 1.35)
    axes.margins(y=0.12)
    axes.axvline(30, c="#6b7685", lw=1, ls=":")
    top = axes.get_xaxis_transform()
    axes.text(30, 1.01, "30 fps", transform=top, ha="center", fontsize=8.5, color="#6b7685")
    ticks = (1, 1.5, 2, 3, 5, 7) if max(all_rates) < 8 * min(all_rates) else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    tidy_axes(axes)


def _label_points(axes: "Axes", points: Sequence[Point], played: Decoding | None) -> None:
    """Write its decoding steps beside each point, where they meet the fewest other numbers and points."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    def box(centre: np.ndarray, wide: float, high: float) -> Bbox:
        return Bbox([np.subtract(centre, (wide, high)), np.add(centre, (wide, high))])

    pixels = axes.transData.transform([(row.rate, value) for row, value, _ in points])
    centres = pixels * 72 / axes.figure.dpi  # as fonts are measured
    radii = [9 if row.decoding == played else 4 for row, *_ in points]
    taken = [box(centre, radius, radius) for centre, radius in zip(centres, radii, strict=True)]
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": _FONT}
    style["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    leader = {"arrowstyle": "-", "color": "#b0b7c0", "linewidth": 0.6}
    for (row, value, _), centre in zip(points, centres, strict=True):
        text = str(row.steps)
        boxes = [box(centre + offset, 0.31 * _FONT * len(text) + 1, 0.45 * _FONT) for offset in _OFFSETS]
        best = int(np.argmin([candidate.count_overlaps(taken) for candidate in boxes]))  # the nearest of them
        taken.append(boxes[best])
        style |= {"color": _COLOURS[row.feedback], "arrowprops": leader if best >= _NEAR else None}
        axes.annotate(text, (row.rate, value), tuple(_OFFSETS[best]), **style)


def table(measurement: Measurement) -> str:
    """A line for each decoding, and for each preset that is reached."""
    form = "{:<28}{:>12}{:>18}{:>8}{:>16}{:>16}".format
    lines = [form("", "ms a frame", "[quartiles]", "fps", "PSNR, dB", "Δ₄PSNR, dB")]
    for row in measurement.decodings:
        quartiles, quality = f"[{row.ms_low:.1f}, {row.ms_high:.1f}]", Interval(row.psnr, row.psnr_within)
        control = ""
        if row.delta_4_psnr is not None and row.delta_4_psnr_within is not None:
            control = str(Interval(row.delta_4_psnr, row.delta_4_psnr_within))
        lines.append(form(row.name, f"{row.ms:.1f}", quartiles, f"{row.rate:.1f}", str(quality), control))
    if measurement.clips < CLIPS:
        few = f"{measurement.clips} clips are few: what differs by less than the ± may be chance."
        lines += ["", f"{few} On {CLIPS}: leave --clips out."]
    if measurement.caution:
        lines += ["", f"{measurement.caution} Close them and measure again."]
    return "\n".join([*lines, "", *(f"{name:<8}{row}" for name, row in offered(measurement).items())])
