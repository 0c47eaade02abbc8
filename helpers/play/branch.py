"""What a game hands out: its branches, a branch as a value, where it may start, how long a step took."""

from dataclasses import dataclass

import numpy as np

from helpers.play.settings import ActionSource
from helpers.play.world import Clip


@dataclass(frozen=True)
class Branch:
    """One way play went, in generated frames."""

    id: int  # 0 is the first
    parent: int | None  # the branch it left; None for the first
    at: int  # frames it shares with its parent
    length: int  # frames of its own
    generated: int  # frames from the start to its end: at + length


@dataclass(frozen=True)
class Rollout:
    """A branch of play as a value: what is saved, shown and measured."""

    clip: Clip  # what it started from
    given: int  # frames of context at the front of `frames`
    frames: np.ndarray  # uint8 [T, H, W, 3]: the context, then the generated frames
    truth: np.ndarray  # uint8 [T', H, W, 3], T' <= T: the clip, as far as it goes
    actions: list[int | None]  # what led to each generated frame; None where there was no action
    action_source: ActionSource
    tokens: np.ndarray  # uint16 or uint32 [T - given, P], of the generated frames
    token_hashes: list[str]  # one a generated frame; equal tokens have equal hashes
    seconds: list[float]  # one a step, the first one's warm-up included
    psnr: list[float]  # dB against the truth, one a generated frame; empty where play left the clip
    gpu_seconds: list[float]  # one a step, by the GPU's own clock; empty on a CPU
    peak_memory_bytes: int  # the most GPU memory torch held; 0 on a CPU

    @property
    def generated(self) -> int:
        """How many frames were generated."""
        return len(self.frames) - self.given


@dataclass(frozen=True)
class Start:
    """A place to start from."""

    row: int  # of the dataset; what `Game.restart` takes
    thumbnail: np.ndarray  # uint8 [H, W, 3]: the last given frame, which the player sees first


@dataclass(frozen=True)
class Timing:
    """Where the last step's time went, in seconds; 0 for a step that was taken before."""

    model: float  # to the end of what it launched
    transfer: float  # bringing pictures and tokens to the CPU
