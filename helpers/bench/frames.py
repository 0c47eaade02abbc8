"""How long a frame takes, as ratios within one run: `python runbook.py bench`.

The yardstick is `straight_step`, the published loop written down with nothing saved: every decoding step runs
the whole window through the model and computes logits everywhere. Both take turns, and the ratio is quoted
pair by pair, so that a machine whose speed drifts does not decide the result. With ``--peer DIR`` the
published project itself takes turns with the engine, on the same weights.
"""

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.bench.peer import Peer
from helpers.bench.roofline import describe, step_work
from helpers.errors import RunbookError
from helpers.report import write_json
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.decode import greedy, unmask_counts
from helpers.worldmodel.linear import linear
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer
from helpers.worldmodel.session import Feedback
from helpers.worldmodel.suite import resolve_device

CPU = torch.device("cpu")


def suite_of(config: ModelConfig, device: torch.device = CPU) -> Suite:
    """A suite of one configuration; random weights, which speed does not depend on."""
    torch.manual_seed(0)
    models = VideoTokenizer(config), LatentActions(config), Dynamics(config)
    for model in models:
        model.eval().requires_grad_(False).to(device)
    return Suite(*models, device, {})


def sonic_shapes(frame_size: int = 64, device: torch.device = CPU) -> Suite:
    """A suite of the published SONIC suite's shapes."""
    return suite_of(ModelConfig(frame_size, 4, 128, 8, ffn_width=170, num_blocks=4, action_dim=4), device)


def straight_decode(
    suite: Suite, context_latents: Tensor, conditioning: Tensor | None, horizon: int, steps: int
) -> Tensor:
    """Greedy MaskGIT decoding with nothing saved; arguments and result as in `maskgit_decode`."""
    batch, known, patches, width = context_latents.shape
    positions = horizon * patches
    hidden = suite.dynamics.mask_token.expand(batch, horizon, patches, width)
    latents = torch.cat((context_latents, hidden), 1)
    masked = torch.ones(batch, positions, dtype=torch.bool, device=latents.device)
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
    context = suite.video_tokenizer.encode(window.to(suite.device))
    latents = straight_decode(suite, context, suite.action_latents(actions), 1, steps)
    return suite.video_tokenizer.detokenize(latents)[:, -1:], latents[:, -1:]


def rollout_seconds(
    suite: Suite, context: Tensor, feedback: Feedback, temperature: float, steps: int, frames: int
) -> float:
    """Median seconds a frame of a rollout from ``context`` ``[1, Tc, 3, H, W]`` under changing actions."""
    session = Session(suite, context, context.shape[1], 1, steps, temperature, feedback=feedback)
    session.step(0)
    steps_ahead = [partial(session.step, index % suite.n_actions) for index in range(frames)]
    return statistics.median(clock(step, suite.device) for step in steps_ahead)


def clock(call: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds one call takes, until ``device`` has done all that it was told to."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Row:
    """One line of the table: something timed several times, and how it compares with its neighbour."""

    name: str
    seconds: tuple[float, ...]  # a frame's, one a repetition
    ratio: str = ""  # in words, against what

    def __str__(self) -> str:
        low, middle, high = (1000 * value for value in spread(self.seconds))
        return f"{self.name:<44}{middle:9.1f} ms  [{low:.1f}, {high:.1f}]  {self.ratio}".rstrip()


def spread(values: Sequence[float]) -> tuple[float, ...]:
    """Lower quartile, median and upper quartile."""
    return tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def times(over: Sequence[float], under: Sequence[float]) -> str:
    """The median of the ratios of pairs."""
    return f"{statistics.median(a / b for a, b in zip(over, under, strict=True)):.2f} times"


def share(tokens: Tensor, others: Tensor) -> str:
    """How many of the tokens agree."""
    return f"{(tokens == others).float().mean().item():.1%} of the tokens are the same"


def machine_facts() -> dict[str, str | int]:
    """What the numbers depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: GPU rows are not measured"
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count() or 0,
        "platform": platform.platform(),
        "gpu": gpu,
    }


class Player:
    """The engine's step, again and again from the same window: what every row times."""

    def __init__(self, suite: Suite, window: int, steps: int, batch: int = 1) -> None:
        self.suite, self.steps, size = suite, steps, suite.frame_size
        numbers = torch.Generator().manual_seed(1)
        self.window = torch.rand(batch, window, 3, size, size, generator=numbers) * 2 - 1
        self.actions = torch.randint(suite.n_actions, (batch, window), generator=numbers)

    def step(self, temperature: float = 0.0, bfloat16: bool = False) -> tuple[float, float, Tensor]:
        """Seconds and CPU seconds of one step, and its tokens int64 ``[B, 1, P]``."""
        window = self.window.shape[1]
        session = Session(self.suite, self.window, window, steps=self.steps, temperature=temperature)
        session.state = session.state._replace(actions=self.actions[:, :-1].unbind(1))
        with torch.autocast(self.suite.device.type, torch.bfloat16, enabled=bfloat16):
            cpu = time.process_time()
            seconds = clock(partial(session.step, self.actions[:, -1]), self.suite.device)
            cpu = time.process_time() - cpu
        return seconds, cpu, session.tokens.cpu()

    def straight_step(self) -> tuple[float, float, Tensor]:
        """The same of `straight_step`, but for the CPU seconds: 0."""
        latents: list[Tensor] = []
        step = partial(straight_step, self.suite, self.window, self.actions, self.steps)
        seconds = clock(lambda: latents.append(step()[1]), self.suite.device)
        return seconds, 0.0, self.suite.video_tokenizer.quantizer.latents_to_indices(latents[0]).cpu()


def interleave(repetitions: int, *calls: Callable[[], tuple[float, float, Tensor]]) -> list[Any]:
    """Make calls in turns, after a round that warms up: the seconds, CPU seconds and tokens of each call."""
    rounds = [[call() for call in calls] for _ in range(repetitions + 1)]
    return [tuple(zip(*turns, strict=True)) for turns in zip(*rounds[1:], strict=True)]


@torch.inference_mode()
def matrix_rate(device: torch.device, product: Callable[[Tensor, Tensor], Tensor] = linear) -> float:
    """The most floating-point operations a second in the products these models consist of, best of 30."""
    widths = 4096, 384, 340
    x, seconds = torch.randn(256, 128, device=device), 0.0
    for width in widths:
        weight = torch.randn(width, 128, device=device)
        seconds += min(clock(partial(product, x, weight), device) for _ in range(30))
    return 2 * x.numel() * sum(widths) / seconds


def engine_rows(suite: Suite, label: str, window: int, steps: int, pairs: int) -> list[Row]:
    """Greedy, sampled, bfloat16 and the straight loop, taking turns."""
    player = Player(suite, window, steps)
    calls = player.step, partial(player.step, 1.0), partial(player.step, bfloat16=True), player.straight_step
    turns = interleave(pairs, *calls)
    (greedy, cpu, tokens), (sampled, _, _), (half, _, in_half), (straight, _, by_straight) = turns
    flops = step_work(suite, window, steps).flops
    floor = flops / matrix_rate(suite.device)
    torchs = flops / matrix_rate(suite.device, torch.nn.functional.linear)
    # Windows counts CPU time in ticks of 16 ms: where a short step has none, its whole time stands for it.
    cpu = tuple(own or seconds for own, seconds in zip(cpu, greedy, strict=True))
    peak = f"{floor / min(*greedy, min(cpu) / torch.get_num_threads()):.0%} of the peak: its arithmetic alone"
    peak += f" would take {1000 * floor:.0f} ms, by torch's own products {1000 * torchs:.0f} ms"
    in_half, by_straight = share(in_half[0], tokens[0]), share(by_straight[0], tokens[0])
    return [
        Row(f"{label}, greedy", greedy, peak),
        Row(f"{label}, greedy, CPU time", cpu),
        Row(f"{label}, sampled", sampled, f"{times(sampled, greedy)} greedy"),
        Row(f"{label}, greedy, bfloat16", half, f"{times(greedy, half)} faster; {in_half}"),
        Row(f"{label}, straight loop", straight, f"engine {times(straight, greedy)} faster; {by_straight}"),
    ]


def peer_rows(
    suite: Suite, label: str, window: int, steps: int, pairs: int, checkout: Path, python: str
) -> list[Row]:
    """The published project and the engine in turns: the same weights, window, actions and threads."""
    player = Player(suite, window, steps)
    peer = Peer(checkout, python, suite, player.window, player.actions, torch.get_num_threads())
    rows = []
    for temperature, name in ((0.0, "greedy"), (0.5, "sampled")):
        (ours, our_cpu, tokens), (theirs, their_cpu, their_tokens) = interleave(
            pairs, partial(player.step, temperature), partial(peer.step, steps, temperature)
        )
        ratio = f"engine {times(theirs, ours)} faster, by CPU time {times(their_cpu, our_cpu)}"
        ratio += "" if temperature else f"; {share(tokens[0], their_tokens[0])}"
        published = Row(f"{label}, {name}, published (torch {peer.torch})", theirs, ratio)
        rows += [Row(f"{label}, {name}, engine", ours), published]
    peer.close()
    return rows


def batch_rows(suite: Suite, window: int, steps: int, largest: int, limit: float) -> list[Row]:
    """Seconds a frame for B sessions in one step, B = 1, 2, 4 … until a step takes ``limit`` seconds."""
    rows: list[Row] = []
    for batch in [2**power for power in range(largest.bit_length())]:
        ((seconds, _, _),) = interleave(3, Player(suite, window, steps, batch).step)
        frame = tuple(value / batch for value in seconds)
        ratio = f"{times(rows[0].seconds if rows else frame, frame)} the frames of batch 1"
        rows.append(Row(f"batch of {batch}, a frame", frame, ratio))
        if statistics.median(seconds) > limit:
            break
    return rows


def length_rows(frames: int) -> list[Row]:
    """One session of a very small world, at its start and ``frames`` frames later."""
    suite = suite_of(ModelConfig(12, 4, 32, 4, ffn_width=20, num_blocks=2, latent_dim=3, action_dim=2))
    session = Session(suite, torch.rand(1, 2, 3, 12, 12) * 2 - 1, 2, steps=2)
    seconds = tuple(clock(partial(session.step, index % 4)) for index in range(frames))
    start, end, state = seconds[10:110], seconds[-100:], session.state
    held = sum(tensor.untyped_storage().nbytes() for tensor in (*state.frames, *state.latents))
    ratio = f"{statistics.median(end) / statistics.median(start):.2f} times the start"
    least = state.frames[-1].nbytes + state.latents[-1].nbytes
    kept = f"{held / frames:.0f} bytes kept a frame, of which one frame and its latents are {least}"
    return [
        Row("a very small world, frames 10 to 109", start),
        Row(f"the same session, up to frame {frames}", end, f"{ratio}; {kept}"),
    ]


def main() -> None:
    """Measure what the options ask for; print the table and save it."""
    parser = argparse.ArgumentParser(prog="runbook.py bench", description=(__doc__ or "").splitlines()[0])
    option = parser.add_argument
    option("--pairs", type=int, default=9, help="interleaved repetitions of every comparison")
    option("--steps", type=int, default=10, help="decoding steps a frame")
    option("--sizes", type=int, nargs="+", default=[64], help="frame sizes, multiples of 4")
    option("--threads", type=int, help="of torch; all of the machine's without")
    option("--batch", type=int, default=16, help="the largest batch; 0 for none")
    option("--batch-limit", type=float, default=10, help="seconds a step may take")
    option("--length", type=int, default=1000, help="frames of the long session; 0 for none")
    option("--peer", type=Path, help="a checkout of the published project to time beside ours")
    option("--peer-python", default=sys.executable, help="a Python with its dependencies")
    option("--device", default="cpu", help="cpu, cuda, cuda:1 or auto")
    option("--save", type=Path, default=ROOT / "outputs" / "bench.json")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    facts, device = machine_facts(), resolve_device(options.device)
    rows: list[Row] = []

    def add(more: Sequence[Row]) -> None:
        rows.extend(more)
        print(*more, sep="\n", flush=True)

    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    print(f"{options.steps} steps, context 2, pixels feedback, on the {device}; median [quartiles]\n")
    for size in options.sizes:
        compared = sonic_shapes(size, device), f"SONIC shapes, {size}x{size}", 2, options.steps, options.pairs
        add(engine_rows(*compared))
        if options.peer:
            add(peer_rows(*compared, options.peer, options.peer_python))
    if options.batch:
        add(batch_rows(sonic_shapes(device=device), 2, options.steps, options.batch, options.batch_limit))
    if options.length:
        add(length_rows(max(options.length, 220)))
    prediction = describe(step_work(sonic_shapes(), 2, options.steps))
    print(*prediction, sep="\n")
    options.save.parent.mkdir(parents=True, exist_ok=True)
    table = {"machine": facts, "rows": [asdict(row) for row in rows], "predicted": prediction}
    write_json(options.save, table)
    print(f"\nsaved as {options.save}")


if __name__ == "__main__":
    try:
        main()
    except RunbookError as error:
        raise SystemExit(str(error)) from error
