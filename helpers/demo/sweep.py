"""Measure speed against quality on this machine: `python -m helpers.demo.sweep`; see `helpers.presets`."""

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path

from helpers.assets import find_suite
from helpers.bench import rollout_seconds
from helpers.demo.evaluate import evaluate_rollouts, read_clips
from helpers.presets import SAVED, Way, plot
from helpers.worldmodel import load_suite
from helpers.worldmodel.session import Feedback

STEPS = (1, 2, 4, 8, 10, 16)


def measure(clips: int, steps: tuple[int, ...] = STEPS) -> list[Way]:
    """Play the first frames of ``clips`` unseen clips of the embedded world in every way."""
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
