"""The model card's numbers: `python runbook.py evaluate`.

Everything is measured on the clips that ship with the repository: levels that no model was trained on. A
rollout sees four frames of each clip and generates the next sixteen.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.assets import find_suite
from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.bench.frames import rollout_seconds
from helpers.play import metrics
from helpers.play.metrics import Interval, delta_psnr, interval
from helpers.worldmodel import Session, Suite, load_suite
from helpers.worldmodel.session import Feedback
from helpers.worlds import world

GENERATED = 16


def psnr(frames: Tensor, truth: Tensor) -> np.ndarray:
    """PSNR in dB of every frame: float ``[B, T, 3, H, W]`` in [-1, 1], clamped as shown -> ``[B, T]``."""
    return metrics.psnr(frames.clamp(-1, 1).cpu().numpy(), truth.cpu().numpy(), data_range=2)


def read_clips(path: Path, length: int, limit: int) -> tuple[Tensor, Tensor]:
    """Each episode's first frames, float ``[B, length, 3, H, W]`` in [-1, 1], actions ``[B, length-1]``."""
    with FrameDataset(path) as data:
        episode_length = 32
        starts = range(0, len(data), episode_length)[:limit]
        frames = [
            torch.from_numpy(to_model_frames(data.clip(start, length), data.frame_size[0]))
            for start in starts
        ]
        actions = [torch.from_numpy(data.clip_actions(start, length)) for start in starts]
    return torch.cat(frames), torch.stack(actions)


@torch.inference_mode()
def reconstruct(suite: Suite, frames: Tensor, window: int = 4) -> np.ndarray:
    """PSNR of tokenising and detokenising, frame by frame ``[B, T]``, in windows as a session uses them."""
    windows = frames.unflatten(1, (-1, window)).flatten(0, 1)
    parts = [suite.video_tokenizer(part) for part in windows.split(32)]
    return psnr(torch.cat(parts).view_as(frames), frames)


def roll(
    suite: Suite, context: Tensor, actions: Tensor, feedback: Feedback, temperature: float, steps: int
) -> Tensor:
    """Generated frames ``[B, T, 3, H, W]`` under ``actions`` ``[B, T]``, some clips at a time."""
    parts = []
    for seen, taken in zip(context.split(16), actions.split(16), strict=True):
        session = Session(suite, seen, seen.shape[1], 1, steps, temperature, feedback=feedback)
        parts.append(torch.cat([session.step(action) for action in taken.unbind(1)], 1))
    return torch.cat(parts)


def information(true: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Mutual information of two discrete variables, and the entropy of the first, in bits."""
    joint, _, _ = np.histogram2d(true, found, bins=(np.arange(true.max() + 2), np.arange(found.max() + 2)))
    joint /= joint.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    marginal = joint.sum(1)
    marginal = marginal[marginal > 0]
    return float((joint[known] * np.log2(joint[known] / outer[known])).sum()), float(
        -(marginal * np.log2(marginal)).sum()
    )


def evaluate_actions(suite: Suite, frames: Tensor, true: Tensor) -> dict[str, float | list[float]]:
    """How well the latent action model tells which keys were down."""
    found = torch.cat([suite.infer_actions(part[:, :5]) for part in frames.split(32)]).cpu()
    true = true[:, : found.shape[1]]
    bits = [((found >> bit) & 1) == ((true >> bit) & 1) for bit in range(3)]
    shared, entropy = information(true.flatten().numpy(), found.flatten().numpy())
    counts = torch.bincount(found.flatten(), minlength=suite.n_actions)
    return {
        "left_right_jump_accuracy": [round(bit.float().mean().item(), 3) for bit in bits],
        "id_accuracy": round((found == true).float().mean().item(), 3),
        "information_bits": round(shared, 2),
        "true_entropy_bits": round(entropy, 2),
        "largest_share_of_one_id": round((counts.max() / counts.sum()).item(), 3),
    }


def evaluate_rollouts(
    suite: Suite,
    frames: Tensor,
    true: Tensor,
    window: int,
    feedback: Feedback,
    temperature: float,
    steps: int,
    generated: int = GENERATED,
) -> dict[str, Interval]:
    """PSNR of rollouts with inferred, true and random actions, and Genie's controllability measure.

    The measure and its source: `helpers.play.metrics.delta_psnr`, here over clips.

    Args:
        suite: The models.
        frames: ``[B, T, 3, H, W]`` in [-1, 1]; the fifth is the first to be generated.
        true: The true actions ``[B, T-1]``.
        window: Frames the models see, up to 4.
        feedback: As in `Session`.
        temperature: As in `Session`.
        steps: As in `Session`.
        generated: Frames to generate, at least 4.
    """
    last = 4 + generated
    context, truth = frames[:, 4 - window : 4], frames[:, 4:last]
    inferred = torch.cat([suite.infer_actions(part) for part in frames[:, :last].split(16)]).cpu()[:, 3:]
    random = torch.from_numpy(np.random.default_rng(0).integers(suite.n_actions, size=tuple(inferred.shape)))
    scores = {}
    # Only the inferred actions are followed to the end; the comparison is made at the fourth frame.
    for name, taken in (("inferred", inferred), ("true", true[:, 3:7]), ("random", random[:, :4])):
        rolled = roll(suite, context, taken, feedback, temperature, steps)
        scores[name] = psnr(rolled, truth[:, : rolled.shape[1]])
    still = psnr(context[:, -1:].expand_as(truth), truth)
    frame = {1: 0, 4: 3, generated: generated - 1}
    return {
        **{f"psnr_frame_{number}": interval(scores["inferred"][:, index]) for number, index in frame.items()},
        "psnr_frame_4_true_actions": interval(scores["true"][:, 3]),
        "psnr_frame_4_last_frame_repeated": interval(still[:, 3]),
        "delta_4_psnr": delta_psnr(scores["inferred"][:, 3], scores["random"][:, 3]),
        "delta_4_psnr_true_actions": delta_psnr(scores["true"][:, 3], scores["random"][:, 3]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print every number of the model card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=world("coinrun").steps)
    parser.add_argument("--windows", type=int, nargs="+", default=[4], choices=range(1, 5))
    parser.add_argument("--feedbacks", nargs="+", default=["tokens", "pixels"], choices=["tokens", "pixels"])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--save", type=Path, help="write the numbers as JSON, too")
    options = parser.parse_args(argv)
    paths = find_suite("coinrun")
    suite = load_suite(
        video_tokenizer=paths.video_tokenizer, latent_actions=paths.latent_actions, dynamics=paths.dynamics
    )
    frames, true = read_clips(paths.dataset, 32, options.clips)
    reconstruction = reconstruct(suite, frames)
    results: dict[str, object] = {
        "clips": len(frames),
        "reconstruction_psnr": asdict(interval(reconstruction.mean(1))),
        "latent_actions": evaluate_actions(suite, frames, true),
    }
    print(f"reconstruction     {interval(reconstruction.mean(1))} dB PSNR over {len(frames)} clips")
    print(f"latent actions     {results['latent_actions']}")
    for window, feedback, temperature in itertools.product(
        options.windows, options.feedbacks, options.temperatures
    ):
        measured = evaluate_rollouts(suite, frames, true, window, feedback, temperature, options.steps)
        seconds = statistics.median(
            [
                rollout_seconds(
                    suite, frames[:1, 4 - window : 4], feedback, temperature, options.steps, GENERATED
                )
                for _ in range(3)
            ]
        )
        name = f"context {window}, {feedback} feedback, temperature {temperature:g}, {options.steps} steps"
        print(f"\n{name}: {1000 * seconds:.0f} ms a frame on {torch.get_num_threads()} threads")
        for key, value in measured.items():
            print(f"  {key:<34}{value} dB")
        results[name] = {key: asdict(value) for key, value in measured.items()} | {
            "ms_per_frame": round(1000 * seconds, 1)
        }
    if options.save:
        options.save.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
