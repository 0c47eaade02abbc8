"""Speed against quality on this machine: measured once, then asked for by frames a second.

`python -m helpers.demo.sweep` plays the embedded world with every number of decoding steps, greedily and
sampled, with either feedback, and saves milliseconds, PSNR and Delta-4-PSNR. ``preset="30fps"`` in 05_infer
then takes the best measured way that is fast enough.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import ParameterError
from helpers.run_folder import ROOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAVED = ROOT / "outputs" / "presets.json"


@dataclass(frozen=True)
class Way:
    """One way of decoding, measured: milliseconds a frame, and dB at the fourth generated frame."""

    steps: int
    temperature: float
    feedback: str
    ms: float
    psnr: float
    delta_4_psnr: float


def read_ways(path: Path = SAVED) -> list[Way]:
    """What `measure` saved.

    Raises:
        ParameterError: Nothing was measured on this machine yet, or the file is not what was saved.
    """
    fix = "Measure this machine: python -m helpers.demo.sweep"
    try:
        return [Way(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError as error:
        raise ParameterError(f"No preset was measured: {path} is not there.", fix=fix) from error
    except (ValueError, TypeError) as error:
        raise ParameterError(f"{path} holds no measured presets.", fix=fix) from error


def choose(preset: str, ways: list[Way]) -> Way:
    """The way with the best PSNR among those that reach a preset such as ``"30fps"``.

    Raises:
        ParameterError: It is no such preset, or nothing measured is so fast.
    """
    match = re.fullmatch(r"([1-9]\d{0,3}) ?fps", preset.strip().lower())
    if match is None:
        raise ParameterError(
            f"preset is {preset!r}.", fix='Use a number of frames a second, such as "30fps".'
        )
    fast = [way for way in ways if way.ms * int(match[1]) <= 1000]
    if not fast:
        most = 1000 / min((way.ms for way in ways), default=float("inf"))
        raise ParameterError(
            f"This machine reaches {most:.1f} frames a second, not {match[1]}.", fix="Ask for fewer."
        )
    return max(fast, key=lambda way: way.psnr)


def overrides(preset: str, path: Path = SAVED) -> dict[str, Any]:
    """The parameters ``preset`` sets; none for an empty one."""
    if not preset:
        return {}
    way = choose(preset, read_ways(path))
    return {"steps": way.steps, "temperature": way.temperature, "feedback": way.feedback}


def plot(ways: list[Way]) -> "Figure":
    """PSNR over frames a second, a line for each feedback and way of choosing tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="frames a second", ylabel="PSNR of the fourth frame, dB", xscale="log")
    for feedback, temperature in sorted({(way.feedback, way.temperature) for way in ways}):
        line = [way for way in ways if (way.feedback, way.temperature) == (feedback, temperature)]
        label = f"{feedback}, {'sampled' if temperature else 'greedy'}"
        axes.plot([1000 / way.ms for way in line], [way.psnr for way in line], "o-", label=label)
        for way in line:
            axes.annotate(str(way.steps), (1000 / way.ms, way.psnr), fontsize=8)
    axes.legend(title="numbers: decoding steps")
    return figure
