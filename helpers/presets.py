"""Speed against quality on this machine: measured once, then asked for by frames a second.

`python -m helpers.presets` plays the embedded world with every number of decoding steps, greedily and
sampled, with either feedback, and saves milliseconds, PSNR and Delta-4-PSNR. ``preset="30fps"`` in 05_infer
then takes the best measured way that is fast enough.
"""

import argparse
import itertools
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import ParameterError
from helpers.run_folder import ROOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (1, 2, 4, 8, 10, 16)
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


def measure(clips: int, steps: tuple[int, ...] = STEPS) -> list[Way]:
    """Play the first frames of ``clips`` unseen clips of the embedded world in every way."""
    from helpers.assets import find_suite
    from helpers.bench import rollout_seconds
    from helpers.demo.evaluate import evaluate_rollouts, read_clips
    from helpers.worldmodel import load_suite
    from helpers.worldmodel.session import Feedback

    paths = find_suite("demo")
    suite = load_suite(
        video_tokenizer=paths.video_tokenizer, latent_actions=paths.latent_actions, dynamics=paths.dynamics
    )
    frames, true = read_clips(paths.dataset, 32, clips)
    feedbacks: tuple[Feedback, ...] = ("tokens", "pixels")
    ways = []
    for count, temperature, feedback in itertools.product(steps, (0.0, 1.0), feedbacks):
        scores = evaluate_rollouts(suite, frames, true, 4, feedback, temperature, count, generated=4)
        seconds = rollout_seconds(suite, frames[:1, :4], feedback, temperature, count, 8)
        quality = scores["psnr_frame_4"].mean, scores["delta_4_psnr"].mean
        ways.append(Way(count, temperature, feedback, 1000 * seconds, *quality))
        print(ways[-1], flush=True)
    return ways


def read_ways(path: Path = SAVED) -> list[Way]:
    """What `measure` saved.

    Raises:
        ParameterError: Nothing was measured on this machine yet, or the file is not what was saved.
    """
    fix = "Measure this machine: python -m helpers.presets"
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


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--save", type=Path, default=SAVED)
    options = parser.parse_args()
    ways = measure(options.clips, tuple(options.steps))
    options.save.parent.mkdir(parents=True, exist_ok=True)
    options.save.write_text(json.dumps([asdict(way) for way in ways], indent=2) + "\n", encoding="utf-8")
    plot(ways).savefig(options.save.with_suffix(".png"))
    print(f"saved as {options.save}")


if __name__ == "__main__":
    main()
