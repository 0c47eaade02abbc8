"""How long a frame takes, as ratios within one run: `python runbook.py bench`.

The yardstick is `straight_step`, the published loop written down with nothing saved: every decoding step runs
the whole window through the model and computes logits everywhere. Both take turns, and the ratio is quoted
pair by pair, so that a machine whose speed drifts does not decide the result. With ``--peer DIR`` the
published project itself takes turns with the engine, on the same weights.
"""

import argparse
import json
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

import torch
from torch import Tensor

from helpers.bench.peer import Peer
from helpers.bench.roofline import describe, step_work
from helpers.errors import RunbookError
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.decode import greedy, unmask_counts
from helpers.worldmodel.layers import linear
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer
from helpers.worldmodel.session import Feedback
from helpers.worldmodel.suite import resolve_device

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Comparison:
    """Medians of interleaved pairs, in seconds; ``ratio`` is the median of straight/engine over the pairs."""

    engine: float
    straight: float
    ratio: float
    same_tokens: bool


def sonic_shapes(frame_size: int = 64, device: torch.device = CPU) -> Suite:
    """A suite of the published SONIC suite's shapes; random weights, which speed does not depend on."""
    torch.manual_seed(0)
    config = ModelConfig(frame_size, 4, 128, 8, ffn_width=170, num_blocks=4, action_dim=4)
    models = VideoTokenizer(config), LatentActions(config), Dynamics(config)
    for model in models:
        model.eval().requires_grad_(False).to(device)
    return Suite(*models, device, {})


def straight_decode(
    suite: Suite, context_latents: Tensor, conditioning: Tensor | None, horizon: int, steps: int
) -> Tensor:
    """Greedy MaskGIT decoding with nothing saved; arguments and result as in `maskgit_decode`."""
    batch, known, patches, width = context_latents.shape
    positions = horizon * patches
    latents = torch.cat(
        (context_latents, suite.dynamics.mask_token.expand(batch, horizon, patches, width)), 1
    )
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
    timings = [(clock(engine, suite.device), clock(straight, suite.device)) for _ in range(pairs)]
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
    return statistics.median(
        clock(partial(session.step, index % suite.n_actions), suite.device) for index in range(frames)
    )


def clock(call: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds one call takes, until ``device`` has done all that it was told to."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


# --- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table: something timed several times, and how it compares with its neighbour.

    Args:
        name: What was timed.
        seconds: A frame's, one a repetition.
        ratio: In words, against what; empty without.
    """

    name: str
    seconds: tuple[float, ...]
    ratio: str = ""

    def __str__(self) -> str:
        low, middle, high = (1000 * value for value in spread(self.seconds))
        return f"{self.name:<44}{middle:9.1f} ms  [{low:.1f}, {high:.1f}]  {self.ratio}".rstrip()


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def times(over: Sequence[float], under: Sequence[float]) -> str:
    """The median of the ratios of pairs."""
    return f"{statistics.median(a / b for a, b in zip(over, under, strict=True)):.2f} times"


def machine_facts() -> dict[str, str | int]:
    """What the numbers depend on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count() or 0,
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none: GPU rows are not measured",
    }


class Player:
    """The engine's step, again and again from the same window: what every row times."""

    def __init__(self, suite: Suite, window: int, steps: int, batch: int = 1) -> None:
        size = suite.frame_size
        numbers = torch.Generator().manual_seed(1)
        self.suite, self.steps = suite, steps
        self.window = torch.rand(batch, window, 3, size, size, generator=numbers) * 2 - 1
        self.actions = torch.randint(suite.n_actions, (batch, window), generator=numbers)

    def step(self, temperature: float = 0.0, bfloat16: bool = False) -> tuple[float, float, Tensor]:
        """Seconds and CPU seconds of one step, and its tokens int64 ``[B, 1, P]``."""
        window = self.window.shape[1]
        session = Session(self.suite, self.window, window, steps=self.steps, temperature=temperature)
        session._actions = list(self.actions[:, :-1].unbind(1))
        device = self.suite.device.type
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            cpu = time.process_time()
            seconds = clock(partial(session.step, self.actions[:, -1]), self.suite.device)
            cpu = time.process_time() - cpu
        return seconds, cpu, session.tokens.cpu()


@torch.inference_mode()
def matrix_rate(device: torch.device, product: Callable[[Tensor, Tensor], Tensor] = linear) -> float:
    """The most floating-point operations a second in the products these models consist of, best of 30."""
    shapes = [(256, 128, 4096), (256, 128, 384), (256, 128, 340)]
    operations = seconds = 0.0
    for rows, inner, columns in shapes:
        x, weight = torch.randn(rows, inner, device=device), torch.randn(columns, inner, device=device)
        operations += 2 * rows * inner * columns
        seconds += min(clock(partial(product, x, weight), device) for _ in range(30))
    return operations / seconds


def engine_rows(suite: Suite, label: str, window: int, steps: int, pairs: int) -> list[Row]:
    """Greedy, sampled, bfloat16 and the straight loop, taking turns."""
    player = Player(suite, window, steps)
    greedy_tokens = player.step()[2]
    agreement = (player.step(bfloat16=True)[2] == greedy_tokens).float().mean().item()
    player.step(1.0)
    found: dict[str, list[float]] = {"greedy": [], "sampled": [], "bfloat16": [], "straight": [], "cpu": []}
    straight = partial(straight_step, suite, player.window, player.actions, steps)
    for _ in range(pairs):
        seconds, cpu, _ = player.step()
        found["greedy"].append(seconds)
        found["cpu"].append(cpu)
        found["sampled"].append(player.step(1.0)[0])
        found["bfloat16"].append(player.step(bfloat16=True)[0])
        found["straight"].append(clock(straight, suite.device))
    flops = step_work(suite, window, steps).flops
    floor = flops / matrix_rate(suite.device)
    torchs = flops / matrix_rate(suite.device, torch.nn.functional.linear)
    best = min(*found["greedy"], min(found["cpu"]) / torch.get_num_threads())
    return [
        Row(
            f"{label}, greedy",
            tuple(found["greedy"]),
            f"{floor / best:.0%} of the peak: its arithmetic alone would take {1000 * floor:.0f} ms, "
            f"by torch's own products {1000 * torchs:.0f} ms",
        ),
        Row(f"{label}, greedy, CPU time", tuple(found["cpu"])),
        Row(
            f"{label}, sampled",
            tuple(found["sampled"]),
            f"{times(found['sampled'], found['greedy'])} greedy",
        ),
        Row(
            f"{label}, greedy, bfloat16",
            tuple(found["bfloat16"]),
            f"{times(found['greedy'], found['bfloat16'])} faster; {agreement:.1%} of the tokens are the same",
        ),
        Row(
            f"{label}, straight loop",
            tuple(found["straight"]),
            f"engine {times(found['straight'], found['greedy'])} faster",
        ),
    ]


def batch_rows(suite: Suite, window: int, steps: int, largest: int, limit: float) -> list[Row]:
    """Seconds a frame for B sessions in one step, B = 1, 2, 4 … until a step takes ``limit`` seconds."""
    rows: list[Row] = []
    batch = 1
    while batch <= largest:
        player = Player(suite, window, steps, batch)
        player.step()
        seconds = [player.step()[0] for _ in range(3)]
        each = tuple(value / batch for value in seconds)
        first = rows[0].seconds if rows else each
        rows.append(Row(f"batch of {batch}, a frame", each, f"{times(first, each)} the frames of batch 1"))
        if statistics.median(seconds) > limit:
            break
        batch *= 2
    return rows


def length_rows(frames: int) -> list[Row]:
    """One session of a very small world, at its start and ``frames`` frames later."""
    torch.manual_seed(0)
    config = ModelConfig(12, 4, 32, 4, ffn_width=20, num_blocks=2, latent_dim=3, action_dim=2)
    models = VideoTokenizer(config), LatentActions(config), Dynamics(config)
    for model in models:
        model.eval().requires_grad_(False)
    suite = Suite(*models, torch.device("cpu"), {})
    session = Session(suite, torch.rand(1, 2, 3, 12, 12) * 2 - 1, 2, steps=2)
    found = [clock(partial(session.step, index % 4)) for index in range(frames)]
    early, late = tuple(found[10:110]), tuple(found[-100:])
    held = sum(each.untyped_storage().nbytes() for each in (*session._frames, *session._latents))
    return [
        Row("a very small world, frames 10 to 109", early),
        Row(
            f"the same session, up to frame {frames}",
            late,
            f"{statistics.median(late) / statistics.median(early):.2f} times the start; "
            f"{held / frames:.0f} bytes kept a frame, of which one frame and its latents are "
            f"{session._frames[-1].nbytes + session._latents[-1].nbytes}",
        ),
    ]


def peer_rows(
    suite: Suite, label: str, window: int, steps: int, pairs: int, checkout: Path, python: str
) -> list[Row]:
    """The published project and the engine in turns: the same weights, window, actions and threads."""
    player = Player(suite, window, steps)
    peer = Peer(checkout, python, suite, player.window, player.actions, torch.get_num_threads())
    rows = []
    for temperature, name in ((0.0, "greedy"), (0.5, "sampled")):
        theirs = peer.step(steps, temperature)[2]
        agreement = (player.step(temperature)[2] == theirs).float().mean().item()
        ours, published = [], []
        for _ in range(pairs):
            ours.append(player.step(temperature)[:2])
            published.append(peer.step(steps, temperature)[:2])
        wall, cpu = (([each[kind] for each in ours], [each[kind] for each in published]) for kind in (0, 1))
        tokens = f"; {agreement:.1%} of the tokens are the same" if not temperature else ""
        rows += [
            Row(f"{label}, {name}, engine", tuple(wall[0])),
            Row(
                f"{label}, {name}, published (torch {peer.torch})",
                tuple(wall[1]),
                f"engine {times(wall[1], wall[0])} faster, by CPU time {times(cpu[1], cpu[0])}{tokens}",
            ),
        ]
    peer.close()
    return rows


def parser() -> argparse.ArgumentParser:
    """The options of `python runbook.py bench`."""
    options = argparse.ArgumentParser(prog="runbook.py bench", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--pairs", type=int, default=9, help="interleaved repetitions of every comparison")
    options.add_argument("--steps", type=int, default=10, help="decoding steps a frame")
    options.add_argument("--sizes", type=int, nargs="+", default=[64], help="frame sizes, multiples of 4")
    options.add_argument("--threads", type=int, help="of torch; all of the machine's without")
    options.add_argument("--batch", type=int, default=16, help="the largest batch; 0 for none")
    options.add_argument("--batch-limit", type=float, default=10, help="seconds a step may take")
    options.add_argument("--length", type=int, default=1000, help="frames of the long session; 0 for none")
    options.add_argument("--peer", type=Path, help="a checkout of the published project to time beside ours")
    options.add_argument("--peer-python", default=sys.executable, help="a Python with its dependencies")
    options.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto")
    options.add_argument("--save", type=Path, default=ROOT / "outputs" / "bench.json")
    return options


def main() -> None:
    """Measure what the options ask for; print the table and save it."""
    options = parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine_facts()
    rows: list[Row] = []
    device = resolve_device(options.device)

    def add(found: Sequence[Row]) -> None:
        rows.extend(found)
        print(*found, sep="\n", flush=True)

    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    print(f"{options.steps} steps, context 2, pixels feedback, on the {device}; median [quartiles]\n")
    for size in options.sizes:
        suite, label = sonic_shapes(size, device), f"SONIC shapes, {size}x{size}"
        add(engine_rows(suite, label, 2, options.steps, options.pairs))
        if options.peer:
            add(peer_rows(suite, label, 2, options.steps, options.pairs, options.peer, options.peer_python))
    if options.batch:
        add(batch_rows(sonic_shapes(device=device), 2, options.steps, options.batch, options.batch_limit))
    if options.length:
        add(length_rows(max(options.length, 220)))
    prediction = describe(step_work(sonic_shapes(), 2, options.steps))
    print(*prediction, sep="\n")
    options.save.parent.mkdir(parents=True, exist_ok=True)
    table = {"machine": facts, "rows": [asdict(row) for row in rows], "predicted": prediction}
    options.save.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"\nsaved as {options.save}")


if __name__ == "__main__":
    try:
        main()
    except RunbookError as error:
        raise SystemExit(str(error)) from error
