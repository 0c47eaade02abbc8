"""Speed against quality: measured once for a world on a device, then asked for by frames a second.

    settings = presets.apply(opened, settings)     # preset="30fps": the best measured way that is fast enough
    presets.show(opened, settings)                 # the picture, in a notebook

`python runbook.py presets -p dataset=sonic` measures a world with every number of decoding steps, greedily
and sampled, with either feedback. What was measured is kept under ``outputs/presets/`` and holds for that
world (its files), that device, that torch and that engine alone; under other conditions it is measured anew.
"""

import argparse
import hashlib
import itertools
import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.commands import printable, runbook_line
from helpers.errors import OutputError, ParameterError, RunbookError
from helpers.parameters import add_parameter_arguments, read_overrides
from helpers.play.compute import StepClock, a_core_to_spare, precision
from helpers.play.conditions import environment_facts
from helpers.play.metrics import DELTA_FRAME, Interval, delta_psnr, interval, psnr
from helpers.play.settings import Settings, checked
from helpers.play.world import OpenWorld, open_world
from helpers.report import picture, write_json
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.session import Feedback
from helpers.worlds import world

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("runbook.presets")

FOLDER = ROOT / "outputs" / "presets"
METHOD = 1
"""Changes whenever something is measured in another way, so that what was kept is measured again."""

STEPS = (1, 2, 4, 8, 10, 16)
"""Decoding steps that are tried, beside the world's own number."""

TEMPERATURES = (0.0, 1.0)
FEEDBACKS: tuple[Feedback, ...] = ("tokens", "pixels")

CLIPS, FEW_CLIPS = 16, 3
"""Clips that the command looks at, and a run that finds nothing measured and wants to go on."""

RATES = (5, 10, 15, 20, 30, 60)
"""Frames a second that a player offers, where they are reached."""

TIMED = 10
"""Steps of each way whose time counts."""

_BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"

Decoding = tuple[int, float, Feedback]
"""Decoding steps, temperature, feedback."""

BATCH = 16
"""Worlds that are rolled out together where quality is measured."""


@dataclass(frozen=True)
class Way:
    """A way of decoding, measured.

    Args:
        steps: Decoding steps a frame.
        temperature: 0 decodes greedily, 1 samples.
        feedback: As in `Session`.
        ms: Median milliseconds a frame, one world alone.
        ms_low: Lower quartile of the same.
        ms_high: Upper quartile.
        psnr: dB of the fourth generated frame against the true one, the mean over clips.
        psnr_within: Half-width of its 95% confidence interval.
        clips_psnr: The PSNR of each clip, whose mean it is.
        delta_4_psnr: Controllability in dB, `metrics.delta_psnr`; None for a world without actions.
        delta_4_psnr_within: Half-width of its 95% confidence interval; None likewise.
    """

    steps: int
    temperature: float
    feedback: Feedback
    ms: float
    ms_low: float
    ms_high: float
    psnr: float
    psnr_within: float
    clips_psnr: tuple[float, ...]
    delta_4_psnr: float | None = None
    delta_4_psnr_within: float | None = None

    @property
    def rate(self) -> float:
        """Frames a second."""
        return 1000 / self.ms

    @property
    def name(self) -> str:
        """Such as ``"4 steps, greedy, tokens"``."""
        count = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        return f"{count}, {'sampled' if self.temperature else 'greedy'}, {self.feedback}"

    def __str__(self) -> str:
        delta = "" if self.delta_4_psnr is None else f", Δ₄PSNR {self.delta_4_psnr:.2f} dB"
        return f"{self.name}: {self.rate:.1f} frames a second, {self.psnr:.2f} dB{delta}"


@dataclass(frozen=True)
class Measurement:
    """What was measured, and under which conditions it holds.

    Args:
        made_from: The conditions, as `conditions` gives them.
        machine: Facts about the machine, for people to read.
        measured: When.
        clips: How many clips quality is a mean over.
        ways: Every way that was tried.
    """

    made_from: dict[str, Any]
    machine: dict[str, str]
    measured: str
    clips: int
    ways: tuple[Way, ...]


def frames_a_second(preset: str) -> int:
    """What a preset asks for: 30 for ``"30fps"``.

    Raises:
        ParameterError: It is no such preset.
    """
    return int(checked("preset", preset).strip().lower().removesuffix("fps"))


# --- asking ----------------------------------------------------------------------------------------


def apply(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> Settings:
    """The settings with what their preset sets; a world that was not measured here is measured first.

    A replay takes what was recorded, and no preset.

    Args:
        opened: The world.
        settings: Of the run.
        folder: Where measurements are kept.

    Raises:
        ParameterError: Nothing that was measured is so fast.
        DatasetError: The dataset is too short to measure with.
        OutputError: What was measured cannot be kept.
    """
    if not settings.preset or settings.replay:
        return settings
    found = read(opened, settings, folder)
    if found is None:
        log.info(
            "preset %s: nothing was measured for %s on this device; measuring on %d clips now",
            settings.preset,
            opened.world.title,
            FEW_CLIPS,
        )
        found = measure(opened, settings, FEW_CLIPS)
        log.info("measured: %s", save(found, folder))
    way = choose(settings.preset, found)
    log.info("preset %s: %s", settings.preset, way)
    return replace(settings, steps=way.steps, temperature=way.temperature, feedback=way.feedback)


def choose(preset: str, found: Measurement) -> Way:
    """The best way among those that reach a preset such as ``"30fps"``.

    The best PSNR counts where the clips can tell it from others. Those within one standard error of it are as
    good; of them it is the one whose number of decoding steps is nearest to the world's own.
    Source: the one standard error rule of Breiman et al., "Classification and Regression Trees" (1984).

    Raises:
        ParameterError: It is no such preset, or nothing measured is so fast.
    """
    wanted = frames_a_second(preset)
    fast = [way for way in found.ways if way.ms * wanted <= 1000]
    if not fast:
        most = max(way.rate for way in found.ways)
        raise ParameterError(
            f"This machine reaches {most:.1f} frames a second, not {wanted}.", fix="Ask for fewer."
        )
    best = max(fast, key=lambda way: way.psnr)
    good = [way for way in fast if way is best or not is_better(best, way)]
    own = world(found.made_from["world"]).steps
    return min(good, key=lambda way: (abs(math.log(way.steps / own)), -way.psnr))


def is_better(one: Way, other: Way) -> bool:
    """Whether one way's PSNR is above another's, clip by clip, by more than one standard error."""
    gain = np.subtract(one.clips_psnr, other.clips_psnr)
    return len(gain) > 1 and bool(gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5)


def offered(found: Measurement, rates: Sequence[int] = RATES) -> dict[str, Way]:
    """The presets among some rates that are reached, and what each of them means: ``{"30fps": way, …}``."""
    fastest = min(way.ms for way in found.ways)
    return {f"{rate}fps": choose(f"{rate}fps", found) for rate in rates if fastest * rate <= 1000}


def conditions(opened: OpenWorld, settings: Settings) -> dict[str, Any]:
    """All that decides how fast and how good a way is: a measurement holds where this is the same."""
    facts = _facts(opened)
    machine = ("device", "device_name", "threads", "cpu_instructions", "torch", "cuda", "engine_sha256")
    return {
        "method": METHOD,
        "world": opened.world.name,
        "files": dict(opened.hashes),
        **{name: facts[name] for name in machine},
        "context_window": settings.context_window,
        "prediction_horizon": settings.prediction_horizon,
        "amp": settings.amp,
        "tf32": settings.tf32,
        "compile": settings.compile and not opened.notes,
    }


def _facts(opened: OpenWorld) -> dict[str, str]:
    """The machine's, with the number of threads that play has."""
    with a_core_to_spare():
        return environment_facts(opened.suite.device)


def kept_in(made_from: dict[str, Any], folder: Path = FOLDER) -> Path:
    """The file of a measurement: conditions that differ have files that differ."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{made_from['world']}_{made_from['device']}_{digest}.json"


def read(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> Measurement | None:
    """What was measured for this world under these conditions; None where nothing, or the file is damaged."""
    made_from = conditions(opened, settings)
    try:
        kept = json.loads(kept_in(made_from, folder).read_text(encoding="utf-8"))
        ways = tuple(Way(**each | {"clips_psnr": tuple(each["clips_psnr"])}) for each in kept["ways"])
        found = Measurement(**kept | {"ways": ways})
        sound = all(
            each.ms > 0
            and each.steps >= 1
            and each.feedback in FEEDBACKS
            and all(map(math.isfinite, (each.psnr, *each.clips_psnr)))
            and len(each.clips_psnr) == found.clips
            for each in ways
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return found if ways and sound and found.made_from == made_from else None


def save(found: Measurement, folder: Path = FOLDER) -> Path:
    """Keep a measurement, and its picture beside it; returns the file.

    Raises:
        OutputError: They cannot be written.
    """
    path = kept_in(found.made_from, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(found))
        plot(found).savefig(path.with_suffix(".png"), dpi=150)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}).", fix="Free some disk and run again."
        ) from error
    return path


def command(opened: OpenWorld, settings: Settings) -> str:
    """The line that measures this world as it is played here."""
    parts = ("video_tokenizer_path", "latent_actions_path", "dynamics_path", "use_latest_checkpoints")
    ways = ("device", "context_window", "prediction_horizon", "amp", "tf32", "compile")
    defaults = {each.name: each.default for each in fields(Settings)}
    words = ["-p", f"dataset={opened.world.name}"]
    for name in (*parts, *ways):
        value = getattr(settings, name)
        if value != defaults[name]:
            words += ["-p", f"{name}={value}"]
    return runbook_line("presets", printable(words))


# --- measuring -------------------------------------------------------------------------------------


def measure(
    opened: OpenWorld, settings: Settings, clips: int = CLIPS, steps: Sequence[int] = STEPS
) -> Measurement:
    """Play clips of the world's own dataset in every way, with a progress bar.

    Quality is that of the fourth generated frame under the actions inferred from the clip, and against random
    ones. Speed is that of a single world, all ways taking turns, on as many cores as the player uses.

    Args:
        opened: The world.
        settings: Window, horizon and precision.
        clips: How many, spread evenly over the dataset; fewer where there are fewer.
        steps: Decoding steps to try, beside the world's own number.

    Raises:
        DatasetError: The dataset is too short.
    """
    from tqdm.auto import tqdm

    suite = opened.suite
    ways: list[Decoding] = list(
        itertools.product(sorted({*steps, opened.world.steps}), TEMPERATURES, FEEDBACKS)
    )
    frames = read_clips(opened, settings, clips)
    label = f"measuring {len(ways)} ways of playing {opened.world.title} on {suite.device}"
    with (
        a_core_to_spare(),  # as in the player
        precision(settings, suite.device),
        tqdm(total=2 * TIMED * len(ways), desc=label, bar_format=_BAR) as bar,
    ):
        scores = []
        for way in ways:
            scores.append(quality(suite, frames, settings, *way))
            bar.update(TIMED)
        seconds = step_seconds(suite, frames[:1], settings, ways, bar.update)
    measured = []
    for way, each, (values, control) in zip(ways, seconds, scores, strict=True):
        frame = [1000 * step / settings.prediction_horizon for step in each]
        low, middle, high = statistics.quantiles(frame, n=4, method="inclusive")
        mean = interval(values)
        delta, within = (None, None) if control is None else (control.mean, control.half_width)
        measured.append(
            Way(*way, middle, low, high, mean.mean, mean.half_width, tuple(values.tolist()), delta, within)
        )
    return Measurement(
        conditions(opened, settings),
        _facts(opened),
        time.strftime("%Y-%m-%d %H:%M:%S"),
        len(frames),
        tuple(measured),
    )


def step_seconds(
    suite: Suite,
    frames: Tensor,
    settings: Settings,
    ways: Sequence[Decoding],
    told: Callable[[int], object],
) -> list[list[float]]:
    """Seconds of steps of one world, to the end of what they launch: ``TIMED`` of each way.

    Args:
        suite: The models.
        frames: A clip ``[1, T, 3, H, W]``.
        settings: Window and horizon.
        ways: Those of one number of decoding steps stand together.
        told: Called with how many more of these steps are done.
    """
    begun = new_session(suite, frames, settings, 1, 0.0, "tokens")
    for _ in range(settings.context_window):  # until all that is seen was generated
        begun.step(0 if takes_actions(suite) else None)
    played = []
    for steps, temperature, feedback in ways:
        session = begun.fork(keep=settings.context_window)
        session.steps, session.temperature, session.feedback = steps, temperature, feedback
        played.append((session, StepClock(suite.device)))
    # All take turns, step by step, so that a machine whose speed drifts favours none. A GPU keeps few
    # recorded steps at once: there only ways of one number of decoding steps do, in two passes over all.
    on_gpu = suite.device.type == "cuda"
    key = (lambda each: each[0].steps) if on_gpu else (lambda each: 0)
    groups = [list(group) for _, group in itertools.groupby(played, key)]
    passes = 2 if on_gpu else 1
    for group in groups * passes:
        for number in range(-1, TIMED // passes):
            for session, clock in group:
                action = number % suite.n_actions if takes_actions(suite) else None
                if number < 0:  # the first one warms up
                    session.step(action)
                    continue
                with clock:
                    session.step(action)
                told(1)
    return [clock.seconds for _, clock in played]


def read_clips(opened: OpenWorld, settings: Settings, count: int) -> Tensor:
    """Clips spread evenly over the dataset: float ``[B, context_window + 4, 3, H, W]`` in [-1, 1]."""
    chosen, length, size = opened.world, settings.context_window + DELTA_FRAME, opened.suite.frame_size
    with FrameDataset(opened.paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        starts = data.starts(length)
        rows = np.unique(np.linspace(0, len(starts) - 1, count).astype(int))
        clips = np.stack([data.clip(int(starts[row]), length) for row in rows])  # [B, T, H, W, 3]
    frames = to_model_frames(np.concatenate(clips), size)[0]  # [B*T, 3, H, W]
    return torch.from_numpy(frames).unflatten(0, clips.shape[:2])


def new_session(
    suite: Suite, frames: Tensor, settings: Settings, steps: int, temperature: float, feedback: Feedback
) -> Session:
    """A session for each clip ``[B, T, 3, H, W]``, at its context."""
    window = settings.context_window
    context = frames[:, :window]
    return Session(suite, context, window, settings.prediction_horizon, steps, temperature, 0, feedback)


def takes_actions(suite: Suite) -> bool:
    """Whether actions change anything in this world."""
    return suite.dynamics.config.action_dim is not None


@torch.inference_mode()
def quality(
    suite: Suite, frames: Tensor, settings: Settings, steps: int, temperature: float, feedback: Feedback
) -> tuple[np.ndarray, Interval | None]:
    """PSNR ``[B]`` of each clip's fourth generated frame, and Δ₄PSNR; None for a world without actions.

    The measures of the model card, for any window and horizon.

    Args:
        suite: The models.
        frames: The clips, float ``[B, context_window + 4, 3, H, W]`` in [-1, 1].
        settings: Window and horizon.
        steps: As in `Session`.
        temperature: As in `Session`.
        feedback: As in `Session`.
    """
    window, horizon = settings.context_window, settings.prediction_horizon
    last, count = window + DELTA_FRAME - 1, -(-DELTA_FRAME // horizon)
    random = torch.from_numpy(np.random.default_rng(0).integers(suite.n_actions, size=(len(frames), count)))
    acts = takes_actions(suite)
    followed: list[np.ndarray] = []
    strayed: list[np.ndarray] = []
    for part, drawn in zip(frames.split(BATCH), random.split(BATCH), strict=True):
        inferred = suite.infer_actions(part).cpu()[:, window - 1 :: horizon][:, :count]  # [B, count]
        for scores, actions in ((followed, inferred), (strayed, drawn))[: 1 + acts]:
            session = new_session(suite, part, settings, steps, temperature, feedback)
            for action in actions.unbind(1):
                session.step(action if acts else None)
            made = session.frames[:, last].float().clamp(-1, 1).cpu().numpy()  # [B, 3, H, W]
            scores.append(psnr(made, part[:, last].numpy(), data_range=2))
    control = delta_psnr(np.concatenate(followed), np.concatenate(strayed)) if acts else None
    return np.concatenate(followed), control


# --- showing ---------------------------------------------------------------------------------------


def show(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> None:
    """Draw what was measured for this world here, the way it is played marked; else say how to measure it."""
    from IPython.display import display

    found = read(opened, settings, folder)
    if found is None:
        print(
            f"Speed against quality was not measured for {opened.world.title} here. This measures it: "
            f"{command(opened, settings)}"
        )
        return
    played = settings.steps or opened.world.steps, settings.temperature, settings.feedback
    display(picture(plot(found, played), alt=table(found)))
    if found.clips < CLIPS:
        print(f"Quality is a mean over {found.clips} clips. On {CLIPS}: {command(opened, settings)}")


def plot(found: Measurement, played: tuple[int, float, str] | None = None) -> "Figure":
    """PSNR and Δ₄PSNR over frames a second; a line for each feedback and way of choosing tokens.

    Args:
        found: What was measured.
        played: Steps, temperature and feedback of the way to mark; None marks none.
    """
    from matplotlib.figure import Figure

    controlled = [way for way in found.ways if way.delta_4_psnr is not None]
    panels = [("PSNR of the 4th generated frame, dB", [(way, way.psnr) for way in found.ways])]
    if controlled:
        controls = [(way, way.delta_4_psnr or 0.0) for way in controlled]
        panels += [("Δ₄PSNR, dB: what actions change", controls)]
    figure = Figure(figsize=(5.6 * len(panels), 4.6), layout="constrained")
    machine = found.machine
    where = machine["device_name"]
    if machine["device"] == "cpu":
        where += f", {machine['threads']} thread" + "s" * (machine["threads"] != "1")
    figure.suptitle(
        f"{world(found.made_from['world']).title} on {where}: mean over {found.clips} clips", fontsize=10.5
    )
    drawn = []
    for number, (label, points) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1, xscale="log")
        axes.set_ylabel(label)
        _draw_lines(axes, points, played)
        drawn.append((axes, points))
    figure.legend(
        *drawn[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
    figure.draw_without_rendering()  # settles where everything lies
    for axes, points in drawn:
        _label_points(axes, points, played)
    return figure


_COLOURS = {"tokens": "#2a6fbb", "pixels": "#c26f00"}


def _draw_lines(
    axes: "Axes", points: Sequence[tuple[Way, float]], played: tuple[int, float, str] | None
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for feedback, temperature in itertools.product(FEEDBACKS, TEMPERATURES):
        line = [
            (way.rate, value)
            for way, value in points
            if (way.feedback, way.temperature) == (feedback, temperature)
        ]
        if line:
            axes.plot(
                *zip(*line, strict=True),
                color=_COLOURS[feedback],
                linestyle="--" if temperature else "-",
                marker="o",
                markersize=5,
                markerfacecolor="white" if temperature else _COLOURS[feedback],
                linewidth=1.4,
                label=f"{feedback} feedback, {'sampled' if temperature else 'greedy'}",
            )
    for way, value in points:
        if _is(way, played):
            axes.plot(
                *(way.rate, value, "o"),
                markersize=13,
                markerfacecolor="none",
                markeredgecolor="#8b1e3f",
                markeredgewidth=2,
                label="played here",
            )
    rates = [way.rate for way, _ in points]
    axes.set_xlim(min(*rates, 30) / 1.35, max(*rates, 30) * 1.35)
    axes.margins(y=0.12)
    axes.axvline(30, color="#6b7685", linewidth=1, linestyle=":")
    axes.annotate(
        *("30 fps", (30, 1)),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8.5,
        color="#6b7685",
    )
    axes.set_xlabel("frames a second (numbers at the points: decoding steps)")
    narrow = max(rates) < 8 * min(rates)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if narrow else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


_FONT = 8  # points


def _label_points(
    axes: "Axes", points: Sequence[tuple[Way, float]], played: tuple[int, float, str] | None
) -> None:
    """Write its number of decoding steps beside each point, off the other numbers and points."""
    from matplotlib.patheffects import withStroke

    pixels = axes.transData.transform([(way.rate, value) for way, value in points])
    places = pixels * 72 / axes.figure.dpi  # as fonts are measured
    taken = [
        _box(x, y, *(9, 9) if _is(way, played) else (4, 4))
        for (way, _), (x, y) in zip(points, places, strict=True)
    ]
    for (way, value), (x, y) in zip(points, places, strict=True):
        text = str(way.steps)
        boxes = []
        for distance in (9, 13, 18, 24, 31):
            for turn in (2, 6, 1, 3, 5, 7, 0, 4):  # above and below first
                right = distance * math.cos(turn * math.pi / 4)
                up = distance * math.sin(turn * math.pi / 4)
                box = _box(x + right, y + up, 0.31 * _FONT * len(text) + 1, 0.45 * _FONT)
                boxes.append((sum(_meet(box, other) for other in taken), distance, right, up, box))
        _, distance, right, up, box = min(boxes, key=lambda each: each[0])  # the first of the best
        taken.append(box)
        axes.annotate(
            *(text, (way.rate, value)),
            xytext=(right, up),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=_COLOURS[way.feedback],
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "#b0b7c0", "linewidth": 0.6} if distance > 13 else None,
        )


def _is(way: Way, played: tuple[int, float, str] | None) -> bool:
    return (way.steps, way.temperature, way.feedback) == played


def _box(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
    return x - wide, y - high, x + wide, y + high


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) have anything in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def table(found: Measurement) -> str:
    """What was measured, one line a way, and what each preset means."""
    lines = [f"{'':<28}{'ms a frame':>12}{'[quartiles]':>18}{'fps':>8}{'PSNR, dB':>16}{'Δ₄PSNR, dB':>16}"]
    for way in found.ways:
        quartiles = f"[{way.ms_low:.1f}, {way.ms_high:.1f}]"
        control = ""
        if way.delta_4_psnr is not None:
            control = f"{way.delta_4_psnr:.2f} ± {way.delta_4_psnr_within:.2f}"
        value = f"{way.psnr:.2f} ± {way.psnr_within:.2f}"
        lines.append(f"{way.name:<28}{way.ms:>12.1f}{quartiles:>18}{way.rate:>8.1f}{value:>16}{control:>16}")
    return "\n".join([*lines, "", *(f"{name:<8}{way}" for name, way in offered(found).items())])


# --- python runbook.py presets ---------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py presets``."""
    made = argparse.ArgumentParser(
        prog="runbook.py presets",
        description="Measure speed against quality for a world on a device; preset=30fps then chooses by it.",
    )
    made.add_argument("--clips", type=int, default=CLIPS, help=f"clips quality is a mean over ({CLIPS})")
    made.add_argument(
        "--steps", type=int, nargs="+", default=STEPS, help="decoding steps to try, beside the world's own"
    )
    add_parameter_arguments(
        made, "a parameter of 05_infer, such as -p dataset=sonic or -p device=cuda; may be repeated"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep; the exit status is 0 if a world was measured."""
    arguments = parser().parse_args(argv)
    try:
        for name, values in (("--clips", [arguments.clips]), ("--steps", arguments.steps)):
            if min(values) < 1:
                raise ParameterError(f"{name} is {min(values)}.", fix="Use at least 1.")
        settings = Settings.read(read_overrides(arguments.parameter))
        opened = open_world(settings)
        found = measure(opened, settings, arguments.clips, arguments.steps)
        path = save(found)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 2
    facts = ("device_name", "threads", "cpu_instructions", "torch", "cuda", "engine_sha256", "commit")
    print(opened, *(f"{name}: {found.machine[name]}" for name in facts), sep="\n")
    print(f"PSNR and Δ₄PSNR: mean over {found.clips} clips ± half-width of its 95% interval\n")
    print(table(found))
    print(f"\nKept in {path}, drawn in {path.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
