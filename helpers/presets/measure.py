"""Measures speed against quality: `python runbook.py presets`, or a run whose preset has no measurement yet.

Tried are several numbers of decoding steps, greedily and sampled as the world is, with either feedback.
"""

import contextlib
import itertools
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.commands import exit_status
from helpers.errors import ParameterError
from helpers.parameters import command_parser, read_overrides
from helpers.play.compute import StepClock, precision, stepping
from helpers.play.metrics import DELTA_FRAME, delta_psnr, delta_rollouts, interval
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, open_world
from helpers.presets import choose
from helpers.presets.choose import FEEDBACKS, FOLDER, MeasuredDecoding, Measurement
from helpers.presets.draw import CLIPS, plot, table
from helpers.report import write_json
from helpers.run_folder import writing
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.session import Decoding

log = logging.getLogger("runbook.presets")

FEW_CLIPS = 3  # that a run looks at which has a preset, no measurement, and wants to go on
STEPS = (1, 2, 4, 8, 10, 16)  # decoding steps that are tried, beside the world's own number
TIMED = 10  # steps of each decoding whose time counts


def apply(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> Settings:
    """The settings with what their preset sets; a replay takes what was recorded, and no preset.

    A world without a measurement here is measured first. Where nothing measured is so fast, the fastest is
    taken, which is logged. Raises a `DatasetError` where the dataset is too short, an `OutputError` where no
    file can be written.
    """
    if not settings.preset or settings.replay:
        return settings
    measurement = choose.read(opened, settings, folder)
    if measurement is None:
        where = f"{opened.world.title} on this device; measuring on {FEW_CLIPS} clips now"
        log.info("preset %s: nothing was measured for %s", settings.preset, where)
        measurement = measure(opened, settings, FEW_CLIPS, folder=folder)
        log.info("measured: %s", save(measurement, folder))
    chosen, note = choose.reached(settings.preset, measurement)
    log.info("preset %s: %s %s", settings.preset, chosen, note)
    return replace(settings, **chosen.decoding._asdict())


def measure(
    opened: OpenWorld,
    settings: Settings,
    clips: int = CLIPS,
    steps: Sequence[int] = STEPS,
    *,
    folder: Path = FOLDER,
) -> Measurement:
    """Play clips of the world's own dataset with every decoding, with a progress bar.

    Quality is that of the fourth generated frame under the actions inferred from the clip, and against random
    ones, over ``clips`` clips, or as many as there are. Speed is that of a single world, all decodings taking
    turns, on as many cores as the player uses. Tried are ``steps``, beside the world's own number.
    What is measured of quality is kept in ``folder`` at once: stopped, it goes on from there the next time.
    Raises a `DatasetError` where the dataset is too short.
    """
    from tqdm.auto import tqdm

    suite, window, horizon = opened.suite, settings.context_window, settings.prediction_horizon
    temperatures = 0.0, opened.world.temperature or 1.0
    tried = itertools.product(sorted({*steps, opened.world.steps}), temperatures, FEEDBACKS)
    decodings = list(itertools.starmap(Decoding, tried))
    frames = read_clips(opened, settings, clips)
    made_from = choose.conditions(opened, settings)
    kept = _Kept(_unfinished(choose.file_of(made_from, folder)), made_from, len(frames))
    acts, cpu = (
        suite.dynamics.config.action_dim is not None,
        suite.device.type == "cpu",
    )  # a GPU is waited for
    # In decoding steps of one world, a frame's other work being about one of them; a batch saves a third.
    rollout = len(frames) * (1 + acts) * -(-DELTA_FRAME // horizon) / 1.5
    work = {decoding: (decoding.steps + 1) * rollout for decoding in decodings}
    timed = TIMED * sum(decoding.steps + 1 for decoding in decodings)
    ready = sum(work[decoding] for decoding in decodings if decoding in kept)
    label = f"measuring {len(decodings)} decodings of {opened.world.title} on {suite.device}"
    shown = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"
    bar = tqdm(total=sum(work.values()) + timed, initial=ready, desc=label, bar_format=shown)
    with stepping(opened.world, spare=1), precision(settings, suite.device), bar:  # as in the player
        scores = []
        for decoding in decodings:
            if (score := kept.get(decoding)) is None:
                with Waited() as waited:
                    score = delta_rollouts(suite, frames, window, horizon, decoding)
                kept.put(decoding, score)
                if not bar.n - ready:  # the first tells how long all will take
                    left = waited.seconds / work[decoding] * (bar.total - ready)
                    bar.write(_announcement(left, len(decodings), len(frames), waited.share if cpu else 0))
                bar.update(work[decoding])
            scores.append(score)
        with Waited() as waited:
            seconds = step_seconds(suite, frames[:1], settings, decodings, bar.update)
    measured = []
    for decoding, times, (followed, random) in zip(decodings, seconds, scores, strict=True):
        frame = [1000 * step / horizon for step in times]  # ms
        low, middle, high = statistics.quantiles(frame, method="inclusive")
        quality, clip_values = interval(followed), tuple(followed.tolist())
        row = MeasuredDecoding(*decoding, middle, low, high, quality.mean, quality.half_width, clip_values)
        if random is not None:
            control = delta_psnr(followed, random[:, 0])
            row = replace(row, delta_4_psnr=control.mean, delta_4_psnr_within=control.half_width)
        measured.append(row)
    facts, when = choose.machine_facts(opened), time.strftime("%Y-%m-%d %H:%M:%S")
    share = waited.share if cpu else 0.0
    return Measurement(made_from, facts, when, len(frames), tuple(measured), share)


def _announcement(seconds: float, decodings: int, clips: int, waited: float) -> str:
    """How long it will take, and what makes it longer."""
    span = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    text = f"{decodings} decodings on {clips} clips take about {span}. After Ctrl+C the same command goes on."
    if waited > choose.BUSY:
        text += f"\nOther programs take {waited:.0%} of the time: close them, for speeds will look too low."
    return text


class Waited:
    """Times a block; ``share`` of the ``seconds`` this thread, which had work all along, did not run."""

    def __enter__(self) -> "Waited":
        self._began = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        ran = time.thread_time() - self._began[1]
        self.share = min(1.0, max(0.0, 1 - ran / max(self.seconds, 1e-9)))


Score = tuple[np.ndarray, np.ndarray | None]
"""What `delta_rollouts` gives."""


def _unfinished(path: Path) -> Path:
    """Where what was measured so far lies, of a measurement that will be ``path``."""
    return path.with_suffix(".part.json")


class _Kept:
    """The quality of decodings measured so far, in a file; of other conditions or damaged, it is empty."""

    def __init__(self, path: Path, made_from: dict[str, Any], clips: int) -> None:
        self._path, self._head = path, {"made_from": made_from, "clips": clips}
        self._scores: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            content = json.loads(path.read_text(encoding="utf-8"))
            tables = [
                np.asarray(table, float) for pair in content["scores"].values() for table in pair if table
            ]
            sound = all(len(table) == clips and np.isfinite(table).all() for table in tables)
            if sound and {name: content[name] for name in self._head} == self._head:
                self._scores = dict(content["scores"])

    def __contains__(self, decoding: Decoding) -> bool:
        return str(list(decoding)) in self._scores

    def get(self, decoding: Decoding) -> Score | None:
        """What was measured of a decoding; None if nothing was."""
        if decoding not in self:
            return None
        followed, random = self._scores[str(list(decoding))]
        return np.asarray(followed, float), None if random is None else np.asarray(random, float)

    def put(self, decoding: Decoding, score: Score) -> None:
        """Keep what was measured of a decoding; where nothing can be written, for this time only."""
        self._scores[str(list(decoding))] = [None if table is None else table.tolist() for table in score]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {**self._head, "scores": self._scores})


def step_seconds(
    suite: Suite,
    frames: Tensor,
    settings: Settings,
    decodings: Sequence[Decoding],
    advance: Callable[[int], object],
) -> list[list[float]]:
    """Seconds of steps of one world from a clip ``[1, T, 3, H, W]``: ``TIMED`` of each decoding.

    Decodings of one number of steps must stand together; ``advance`` is told how much more is done: of each
    step one more than its decoding steps.
    """
    window = settings.context_window
    acts = suite.dynamics.config.action_dim is not None
    start = Session(suite, frames[:, :window], window, settings.prediction_horizon, 1, feedback="tokens")
    for _ in range(window):  # until all that is seen was generated
        start.step(0 if acts else None)
    played = [(start.fork(keep=window), StepClock(suite.device)) for _ in decodings]
    for (session, _), decoding in zip(played, decodings, strict=True):
        session.steps, session.temperature, session.feedback = decoding
    # All take turns, step by step, so that a machine whose speed drifts favours none. A GPU keeps few
    # recorded steps at once: there only decodings of one number of steps do, in two passes over all.
    passes = 2 if suite.device.type == "cuda" else 1
    groups = itertools.groupby(played, lambda pair: pair[0].steps if passes > 1 else 0)
    for group in [list(pairs) for _, pairs in groups] * passes:
        for number in range(-1, TIMED // passes):
            for session, clock in group:
                with clock if number >= 0 else contextlib.nullcontext():  # the first one warms up
                    session.step(number % suite.n_actions if acts else None)
                advance((session.steps + 1) * int(number >= 0))
    return [clock.seconds for _, clock in played]


def read_clips(opened: OpenWorld, settings: Settings, count: int) -> Tensor:
    """Clips spread evenly over the dataset: float ``[B, context_window + 4, 3, H, W]`` in [-1, 1]."""
    chosen, length = opened.world, settings.context_window + DELTA_FRAME
    with FrameDataset(opened.paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        starts = data.starts(length)
        rows = np.unique(np.linspace(0, len(starts) - 1, count).astype(int))
        clips = np.concatenate([data.clip(int(starts[row]), length) for row in rows])  # [B*T, H, W, 3]
    frames = to_model_frames(clips, opened.suite.frame_size)[0]  # [B*T, 3, H, W]
    return torch.from_numpy(frames).unflatten(0, (-1, length))


def save(measurement: Measurement, folder: Path = FOLDER) -> Path:
    """Write a measurement, and its picture beside it; its file, or an `OutputError`."""
    path = choose.file_of(measurement.made_from, folder)
    with writing(path, fix="Free some disk and run again."):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(measurement))
        plot(measurement).savefig(path.with_suffix(".png"), dpi=150)
        _unfinished(path).unlink(missing_ok=True)
    return path


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and save; the exit status is 0 if a world was measured."""
    about = "Measure speed against quality for a world on a device; preset=30fps then chooses by it."
    meaning = "a parameter of 05_infer, such as -p dataset=sonic or -p device=cuda; may be repeated"
    parser = command_parser("presets", about, meaning)
    add = parser.add_argument
    add("--clips", type=int, default=CLIPS, help=f"clips quality is a mean over ({CLIPS})")
    add("--steps", type=int, nargs="+", default=STEPS, help="decoding steps to try, beside the world's own")
    arguments = parser.parse_args(argv)
    for name, values in (("--clips", [arguments.clips]), ("--steps", arguments.steps)):
        if min(values) < 1:
            raise ParameterError(f"{name} is {min(values)}.", fix="Use at least 1.")
    settings = Settings.read(read_overrides(arguments.parameter))
    opened = open_world(settings)
    measurement = measure(opened, settings, arguments.clips, arguments.steps)
    before = choose.read(opened, settings)
    spoilt = before and measurement.caution and not before.caution and before.clips >= measurement.clips
    path = choose.file_of(measurement.made_from) if spoilt else save(measurement)
    facts = ("device_name", "threads", "cpu_instructions", "torch", "cuda", "engine_sha256", "commit")
    print(opened, *(f"{name}: {measurement.machine[name]}" for name in facts), sep="\n")
    print(f"PSNR and Δ₄PSNR: mean over {measurement.clips} clips ± half-width of its 95% interval\n")
    print(f"{table(measurement)}\n")
    if spoilt:
        print(f"Not saved: what was measured before without other programs stays in {path}")
    else:
        print(f"Saved as {path}, drawn in {path.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
