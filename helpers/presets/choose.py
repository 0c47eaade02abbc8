"""What was measured for a world on a device, and the decoding that a preset such as ``"30fps"`` stands for.

Measurements lie under ``outputs/presets/``; each holds for its world (its files), device, torch and engine.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.commands import printable, runbook_line
from helpers.errors import ParameterError
from helpers.play.compute import threads_for
from helpers.play.conditions import environment_facts
from helpers.play.settings import Settings, checked, names
from helpers.play.world import OpenWorld
from helpers.report import Check, Subject
from helpers.run_folder import ROOT
from helpers.worldmodel.session import Decoding, Feedback
from helpers.worlds import world

FOLDER = ROOT / "outputs" / "presets"
METHOD = 3  # changes whenever something is measured or written in another way: it is then measured again
BUSY = 0.15  # of the time that other programs take: from here on a speed is not the machine's own
FEEDBACKS: tuple[Feedback, ...] = ("tokens", "pixels")
RATES = (5, 10, 15, 20, 30, 60)  # frames a second that a player offers, where they are reached


@dataclass(frozen=True)
class MeasuredDecoding:
    """A decoding with its speed and quality; quality is that of the fourth generated frame, over clips."""

    steps: int
    temperature: float
    feedback: Feedback
    ms: float  # a frame, one world alone: the median
    ms_low: float  # lower quartile
    ms_high: float  # upper quartile
    psnr: float  # dB against the true frame, the mean
    psnr_within: float  # half-width of its 95% confidence interval
    clips_psnr: tuple[float, ...]  # one a clip
    delta_4_psnr: float | None = None  # dB, `metrics.delta_psnr`; None for a world without actions
    delta_4_psnr_within: float | None = None  # likewise

    @property
    def decoding(self) -> Decoding:
        """What was measured."""
        return Decoding(self.steps, self.temperature, self.feedback)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return 1000 / self.ms

    @property
    def name(self) -> str:
        """Such as ``"4 steps, greedy, tokens"``."""
        manner = "sampled" if self.temperature else "greedy"
        return f"{self.steps} step{'s' if self.steps > 1 else ''}, {manner}, {self.feedback}"

    def __str__(self) -> str:
        delta = "" if self.delta_4_psnr is None else f", Δ₄PSNR {self.delta_4_psnr:.2f} dB"
        return f"{self.name}: {self.rate:.1f} frames a second, {self.psnr:.2f} dB{delta}"


@dataclass(frozen=True)
class Measurement:
    """The decodings that were measured for a world, and the conditions under which that holds."""

    made_from: dict[str, Any]  # what `conditions` gives
    machine: dict[str, str]  # facts for people to read
    measured: str  # when
    clips: int  # how many quality is a mean over
    decodings: tuple[MeasuredDecoding, ...]
    waited: float = 0.0  # share of the timed steps in which other programs had the processor

    @property
    def caution(self) -> str:
        """What to know of the speeds where the machine was busy, in a sentence; empty where it was not."""
        if self.waited <= BUSY:
            return ""
        return f"Measured while other programs took {self.waited:.0%} of the time: it is faster without them."


def fastest(measurement: Measurement) -> MeasuredDecoding:
    """The fastest decoding at the world's own temperature; a `ParameterError` if there is none."""
    own = world(measurement.made_from["world"])
    lively = [row for row in measurement.decodings if row.temperature == own.temperature]
    if not lively:
        raise ParameterError(
            f"Nothing was measured at temperature {own.temperature:g}.", fix="Measure again."
        )
    return max(lively, key=lambda row: row.rate)


def frames_a_second(preset: str) -> int:
    """The number in a preset, 30 in ``"30fps"``; a `ParameterError` for what is no preset."""
    return int(checked("preset", preset).strip().lower().removesuffix("fps"))


def choose(preset: str, measurement: Measurement) -> MeasuredDecoding:
    """The best decoding that reaches a preset such as ``"30fps"``; a `ParameterError` if none is so fast.

    It is one at the world's own temperature: PSNR prefers the likeliest frame, and cannot see that free play
    by likeliest frames ends in an empty world. The best PSNR counts where the clips can tell it from others.
    Those within one standard error of it are as good; of them it is the one whose number of decoding steps is
    nearest to the world's own.
    Source: the one standard error rule of Breiman et al., "Classification and Regression Trees" (1984).
    """
    wanted = frames_a_second(preset)
    own = world(measurement.made_from["world"])
    most = fastest(measurement)
    lively = [row for row in measurement.decodings if row.temperature == own.temperature]
    fast = [decoding for decoding in lively if decoding.ms * wanted <= 1000]
    if not fast:
        reached = f"This machine reaches {most.rate:.1f} frames a second, not {wanted}."
        raise ParameterError(reached, fix="Ask for fewer.")
    best = max(fast, key=lambda decoding: decoding.psnr)
    good = []
    for decoding in fast:
        lost = np.subtract(best.clips_psnr, decoding.clips_psnr)  # dB, clip by clip
        if len(lost) < 2 or lost.mean() <= lost.std(ddof=1) / len(lost) ** 0.5:
            good.append(decoding)
    return min(good, key=lambda decoding: (abs(math.log(decoding.steps / own.steps)), -decoding.psnr))


def offered(measurement: Measurement, rates: Sequence[int] = RATES) -> dict[str, MeasuredDecoding]:
    """The presets among some rates that are reached, and their decodings: ``{"30fps": decoding, …}``."""
    reached = {}
    for rate in rates:
        with contextlib.suppress(ParameterError):
            reached[f"{rate}fps"] = choose(f"{rate}fps", measurement)
    return reached


def reached(preset: str, measurement: Measurement) -> tuple[MeasuredDecoding, str]:
    """What a preset stands for here, the fastest decoding where nothing reaches it; and what to know of it.

    Raises a `ParameterError` where nothing was measured at the world's own temperature.
    """
    most = fastest(measurement)
    if most.ms * frames_a_second(preset) <= 1000:
        return choose(preset, measurement), measurement.caution
    what = f"{preset} is not reached here: the fastest is played, {most.rate:.1f} frames a second."
    return most, f"{what} {measurement.caution}".strip()


def check(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> list[Check]:
    """The verdict's line about the preset that a run asked for; none without one, and none in a replay."""
    measurement = read(opened, settings, folder) if settings.preset and not settings.replay else None
    if measurement is None:
        return []
    decoding, note = reached(settings.preset, measurement)
    if decoding.rate < frames_a_second(settings.preset):
        return [Subject("preset").warn(note, f"Ask for {max(1, int(decoding.rate))}fps, or measure again.")]
    return [Subject("preset").ok(f"{settings.preset}: {decoding}. {note}".rstrip(" ."))]


def machine_facts(opened: OpenWorld) -> dict[str, str]:
    """The facts about this machine, with the number of threads that play has."""
    return environment_facts(opened.suite.device) | {"threads": str(threads_for(opened.world, spare=1))}


def conditions(opened: OpenWorld, settings: Settings) -> dict[str, Any]:
    """Everything that decides speed and quality of a decoding: a measurement holds where this is the same."""
    facts = machine_facts(opened)
    machine = ("device", "device_name", "threads", "cpu_instructions", "torch", "cuda", "engine_sha256")
    return {
        "method": METHOD,
        "world": opened.world.name,
        "files": dict(opened.hashes),
        **{name: facts[name] for name in machine},
        **{name: getattr(settings, name) for name in names("speed")},
        "compile": settings.compile and not opened.notes,  # a note says that it failed
    }


def file_of(made_from: dict[str, Any], folder: Path = FOLDER) -> Path:
    """The file of a measurement: conditions that differ have files that differ."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{made_from['world']}_{made_from['device']}_{digest}.json"


def read(opened: OpenWorld, settings: Settings, folder: Path = FOLDER) -> Measurement | None:
    """The measurement of this world under these conditions; None without one, or if its file is damaged."""
    made_from = conditions(opened, settings)
    try:
        content = json.loads(file_of(made_from, folder).read_text(encoding="utf-8"))
        rows = [row | {"clips_psnr": tuple(row["clips_psnr"])} for row in content["decodings"]]
        content["decodings"] = tuple(MeasuredDecoding(**row) for row in rows)
        measurement = Measurement(**content)
        numbers = [(row.ms, row.steps, row.psnr, *row.clips_psnr) for row in measurement.decodings]
        table = np.reshape(numbers, (len(rows), 3 + measurement.clips))  # fails where clips are missing
        sound = np.isfinite(table).all() and (table[:, 0] > 0).all() and (table[:, 1] >= 1).all()
        sound = sound and 0 <= measurement.waited <= 1
        sound = sound and {row.feedback for row in measurement.decodings} <= set(FEEDBACKS)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return measurement if rows and sound and measurement.made_from == made_from else None


def command(opened: OpenWorld, settings: Settings) -> str:
    """The line that measures this world as it is played here."""
    words = ["-p", f"dataset={opened.world.name}"]
    usual = Settings(dataset=opened.world.name)
    for name in names("place", "speed"):
        if getattr(settings, name) != getattr(usual, name):
            words += ["-p", f"{name}={getattr(settings, name)}"]
    return runbook_line("presets", printable(words))
