"""Measures speed against quality: `python runbook.py presets`, or a run whose preset has no measurement yet.

Tried are several numbers of decoding steps, greedily and sampled as the world is, with either feedback.
"""

import contextlib
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

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

    A world without a measurement here is measured first. Raises a `ParameterError` where nothing measured is
    so fast, a `DatasetError` where the dataset is too short, an `OutputError` where no file can be written.
    """
    if not settings.preset or settings.replay:
        return settings
    measurement = choose.read(opened, settings, folder)
    if measurement is None:
        where = f"{opened.world.title} on this device; measuring on {FEW_CLIPS} clips now"
        log.info("preset %s: nothing was measured for %s", settings.preset, where)
        measurement = measure(opened, settings, FEW_CLIPS)
        log.info("measured: %s", save(measurement, folder))
    chosen = choose.choose(settings.preset, measurement)
    log.info("preset %s: %s", settings.preset, chosen)
    return replace(settings, **chosen.decoding._asdict())


def measure(
    opened: OpenWorld, settings: Settings, clips: int = CLIPS, steps: Sequence[int] = STEPS
) -> Measurement:
    """Play clips of the world's own dataset with every decoding, with a progress bar.

    Quality is that of the fourth generated frame under the actions inferred from the clip, and against random
    ones, over ``clips`` clips, or as many as there are. Speed is that of a single world, all decodings taking
    turns, on as many cores as the player uses. Tried are ``steps``, beside the world's own number.
    Raises a `DatasetError` where the dataset is too short.
    """
    from tqdm.auto import tqdm

    suite, window, horizon = opened.suite, settings.context_window, settings.prediction_horizon
    temperatures = 0.0, opened.world.temperature or 1.0
    tried = itertools.product(sorted({*steps, opened.world.steps}), temperatures, FEEDBACKS)
    decodings = list(itertools.starmap(Decoding, tried))
    frames = read_clips(opened, settings, clips)
    label = f"measuring {len(decodings)} decodings of {opened.world.title} on {suite.device}"
    bar = tqdm(total=2 * TIMED * len(decodings), desc=label)
    with stepping(opened.world, spare=1), precision(settings, suite.device), bar:  # as in the player
        scores = []
        for decoding in decodings:
            scores.append(delta_rollouts(suite, frames, window, horizon, decoding))
            bar.update(TIMED)
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
    made_from, facts = choose.conditions(opened, settings), choose.machine_facts(opened)
    return Measurement(made_from, facts, time.strftime("%Y-%m-%d %H:%M:%S"), len(frames), tuple(measured))


def step_seconds(
    suite: Suite,
    frames: Tensor,
    settings: Settings,
    decodings: Sequence[Decoding],
    advance: Callable[[int], object],
) -> list[list[float]]:
    """Seconds of steps of one world from a clip ``[1, T, 3, H, W]``: ``TIMED`` of each decoding.

    Decodings of one number of steps must stand together; ``advance`` is told how many more steps are done.
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
                advance(int(number >= 0))
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
    path = save(measurement)
    facts = ("device_name", "threads", "cpu_instructions", "torch", "cuda", "engine_sha256", "commit")
    print(opened, *(f"{name}: {measurement.machine[name]}" for name in facts), sep="\n")
    print(f"PSNR and Δ₄PSNR: mean over {measurement.clips} clips ± half-width of its 95% interval\n")
    print(f"{table(measurement)}\n\nSaved as {path}, drawn in {path.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
