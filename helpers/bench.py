"""How long a frame takes, as ratios within one run: `python runbook.py bench`.

The yardstick is `straight_step`, the published loop written down with nothing saved: every decoding step runs
the whole window through the model and computes logits everywhere. Both take turns, and the ratio is quoted
pair by pair, so that a machine whose speed drifts does not decide the result.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from helpers.worldmodel import Session, Suite
from helpers.worldmodel.decode import greedy, unmask_counts
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer
from helpers.worldmodel.session import Feedback


@dataclass(frozen=True)
class Comparison:
    """Medians of interleaved pairs, in seconds; ``ratio`` is the median of straight/engine over the pairs."""

    engine: float
    straight: float
    ratio: float
    same_tokens: bool


def sonic_shapes(frame_size: int = 64) -> Suite:
    """A suite of the published SONIC suite's shapes; random weights, which speed does not depend on."""
    torch.manual_seed(0)
    config = ModelConfig(frame_size, 4, 128, 8, ffn_width=170, num_blocks=4, action_dim=4)
    models = VideoTokenizer(config), LatentActions(config), Dynamics(config)
    for model in models:
        model.eval().requires_grad_(False)
    return Suite(*models, torch.device("cpu"), {})


def straight_decode(
    suite: Suite, context_latents: Tensor, conditioning: Tensor | None, horizon: int, steps: int
) -> Tensor:
    """Greedy MaskGIT decoding with nothing saved; arguments and result as in `maskgit_decode`."""
    batch, known, patches, width = context_latents.shape
    positions = horizon * patches
    latents = torch.cat(
        (context_latents, suite.dynamics.mask_token.expand(batch, horizon, patches, width)), 1
    )
    masked = torch.ones(batch, positions, dtype=torch.bool)
    for count in unmask_counts(positions, steps):
        logits = suite.dynamics(latents, conditioning)[:, known:].flatten(1, 2)  # [B, N, K]
        index, confidence = greedy(logits)
        confidence = confidence.masked_fill(~masked, -math.inf)
        surest = confidence.argsort(dim=-1, descending=True, stable=True)[:, :count]
        values = suite.video_tokenizer.quantizer.indices_to_latents(index.gather(1, surest))
        new = latents[:, known:].flatten(1, 2).scatter(1, surest.unsqueeze(-1).expand(-1, -1, width), values)
        latents = torch.cat((context_latents, new.unflatten(1, (horizon, patches))), 1)
        masked.scatter_(1, surest, False)
    return latents


@torch.inference_mode()
def straight_step(suite: Suite, window: Tensor, actions: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The frame behind ``window`` ``[B, Tc, 3, H, W]`` under ``actions`` ``[B, Tc]``, and its latents."""
    context = suite.video_tokenizer.encode(window)
    latents = straight_decode(suite, context, suite.action_latents(actions), 1, steps)
    return suite.video_tokenizer.detokenize(latents)[:, -1:], latents[:, -1:]


def compare(suite: Suite, context_window: int, steps: int, pairs: int) -> Comparison:
    """Time the engine's step against `straight_step` on the same window, greedily, in turns."""
    size = suite.frame_size
    torch.manual_seed(1)
    window = torch.rand(1, context_window, 3, size, size) * 2 - 1
    actions = torch.randint(suite.n_actions, (1, context_window))

    def engine() -> Tensor:
        session = Session(suite, window, context_window, steps=steps)
        session._actions = list(actions[:, :-1].unbind(1))
        session.step(actions[:, -1])
        return session.tokens

    def straight() -> Tensor:
        return suite.video_tokenizer.quantizer.latents_to_indices(
            straight_step(suite, window, actions, steps)[1]
        )

    same = torch.equal(engine(), straight())
    timings = [(clock(engine), clock(straight)) for _ in range(pairs)]
    return Comparison(
        statistics.median(ours for ours, _ in timings),
        statistics.median(theirs for _, theirs in timings),
        statistics.median(theirs / ours for ours, theirs in timings),
        same,
    )


def rollout_seconds(
    suite: Suite, context: Tensor, feedback: Feedback, temperature: float, steps: int, frames: int
) -> float:
    """Median seconds a frame of a rollout from ``context`` ``[1, Tc, 3, H, W]`` under changing actions."""
    session = Session(
        suite, context, context.shape[1], steps=steps, temperature=temperature, feedback=feedback
    )
    session.step(0)
    return statistics.median(clock(partial(session.step, index % suite.n_actions)) for index in range(frames))


def clock(call: Callable[[], object]) -> float:
    """Seconds one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print the comparison for the SONIC shapes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs to time")
    parser.add_argument("--steps", type=int, default=10, help="decoding steps a frame")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.pairs} pairs")
    result = compare(sonic_shapes(), 2, options.steps, options.pairs)
    print(
        f"SONIC shapes, 64x64, context 2, {options.steps} steps, greedy, pixels feedback, on the CPU:\n"
        f"  straight {result.straight * 1000:.0f} ms a frame, engine {result.engine * 1000:.0f} ms a frame, "
        f"{result.ratio:.1f} times faster, tokens {'equal' if result.same_tokens else 'DIFFERENT'}"
    )


if __name__ == "__main__":
    main()
