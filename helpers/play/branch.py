"""What a game hands out: its branches, a branch as a value, where it may start, how long a step took."""

from dataclasses import dataclass

import numpy as np

from helpers.play.settings import ActionSource
from helpers.play.world import Clip


@dataclass(frozen=True)
class Branch:
    """One way play went.

    Args:
        id: Its number; 0 is the first.
        parent: The branch it left; None for the first.
        at: Generated frames it shares with its parent.
        length: Generated frames of its own.
        generated: Generated frames from the start to its end: ``at + length``.
    """

    id: int
    parent: int | None
    at: int
    length: int
    generated: int


@dataclass(frozen=True)
class Rollout:
    """A branch of play as a value: what is saved, shown and measured.

    Args:
        clip: What it started from.
        given: Frames of context at the front of ``frames``.
        frames: uint8 ``[T, H, W, 3]``: the context, then the generated frames.
        truth: uint8 ``[T', H, W, 3]``, T' <= T: what the clip shows; as long as the clip.
        actions: The action that led to each generated frame; None where there was none.
        action_source: Where they came from.
        tokens: uint16 or uint32 ``[T - given, P]``: the generated frames' tokens.
        token_hashes: One a generated frame; equal tokens have equal hashes.
        seconds: Seconds each step took, the first one's warm-up included.
        psnr: dB against the truth, one a generated frame; empty where play left the clip.
        gpu_seconds: Likewise by the GPU's own clock; empty on a CPU.
        peak_memory_bytes: The most GPU memory torch held; 0 on a CPU.
    """

    clip: Clip
    given: int
    frames: np.ndarray
    truth: np.ndarray
    actions: list[int | None]
    action_source: ActionSource
    tokens: np.ndarray
    token_hashes: list[str]
    seconds: list[float]
    psnr: list[float]
    gpu_seconds: list[float]
    peak_memory_bytes: int

    @property
    def generated(self) -> int:
        """How many frames were generated."""
        return len(self.frames) - self.given


@dataclass(frozen=True)
class Start:
    """A place to start from: a row of the dataset, and the last given frame, uint8 ``[H, W, 3]``."""

    row: int
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Seconds of the last step in the models and in fetching its frames to the CPU; 0 for a step repeated."""

    model: float
    transfer: float
