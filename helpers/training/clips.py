"""Clips to train on, drawn by the number of the update alone: a training that goes on draws the same ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import torch
from torch import Generator, Tensor

from helpers.errors import DatasetError

HELD_OUT = 0.05
"""Share of the frames, at the end, that nothing is trained on: the gates measure there."""
_BLOCK = 512


@dataclass(frozen=True)
class Batch:
    """What one update sees; all of it is drawn on the CPU, so that every device sees the same."""

    frames: Tensor  # uint8 [B, T, H, W, 3]
    actions: Tensor | None  # int64 [B, T-1], the true ids between frames; None where nobody knows them
    uniform: Tensor  # float32 [B, T-1, P, 4] in [0, 1): what an objective decides by chance, for each token
    share: Tensor  # float32 [B, T-1, 3] in [0, 1): the same, for each frame

    def rows(self, first: int, every: int) -> "Batch":
        """Every ``every``-th clip from ``first`` on: one process's part of a batch."""
        part = slice(first, None, every)
        actions = None if self.actions is None else self.actions[part]
        return Batch(self.frames[part], actions, self.uniform[part], self.share[part])

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        actions = None if self.actions is None else self.actions.to(device)
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.frames, self.uniform, self.share))
        frames, uniform, share = moved
        return Batch(frames, actions, uniform, share)

    @property
    def pixels(self) -> Tensor:
        """The frames as models take them: float32 ``[B, T, 3, H, W]`` in [-1, 1]."""
        return to_pixels(self.frames)


def to_pixels(frames: Tensor) -> Tensor:
    """Frames uint8 ``[B, T, H, W, 3]`` -> float32 ``[B, T, 3, H, W]`` in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


class Clips:
    """Clips of one length within one episode; still ones are drawn a tenth as often.

    Args:
        path: An h5 that `helpers.h5.write_dataset` wrote.
        length: Frames of a clip.
        seed: Of the drawing.

    Raises:
        DatasetError: No clip fits its episodes.
    """

    def __init__(self, path: Path, length: int, seed: int) -> None:
        self.path, self.length, self.seed = path, length, seed
        self.file = h5py.File(path, "r")
        self.frames: h5py.Dataset = self.file["frames"]
        self.actions = self.file["actions"][:].astype(np.int64) if "actions" in self.file else None
        episodes: np.ndarray = self.file["episodes"][:]
        whole = np.flatnonzero(episodes[length - 1 :] == episodes[: len(episodes) - length + 1])
        end = int(len(episodes) * (1 - HELD_OUT))
        self.held_out = whole[whole >= end]
        training = whole[whole + length <= end]
        if not len(training) or not len(self.held_out):
            what = f"{path} has no {length} frames in a row, without a cut, to train on and to measure on"
            raise DatasetError(f"{what}.", fix="Record longer, or without so many cuts.")
        moving = np.convolve(self._moves(end), np.ones(length - 1), "valid")[training] > 0
        kept = moving | (np.random.default_rng(seed).random(len(training)) < 0.1)
        self.starts = training[kept] if kept.any() else training

    def __enter__(self) -> "Clips":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _moves(self, end: int) -> np.ndarray:
        """Whether each frame differs from the next, bool ``[end - 1]``; a block at a time, for memory."""
        moves = []
        for first in range(0, end - 1, _BLOCK):
            block = self.frames[first : min(first + _BLOCK + 1, end), ::2, ::2].astype(np.int16)
            moves.append((np.abs(np.diff(block, axis=0)) > 8).any(axis=(1, 2, 3)))
        return np.concatenate(moves)

    def read(self, starts: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The clips from these rows: uint8 ``[B, T, H, W, 3]``, and the true ids between, or None."""
        clips = [self.frames[start : start + self.length] for start in starts.tolist()]
        rows = starts[:, None] + np.arange(self.length - 1)
        ids = None if self.actions is None else torch.from_numpy(self.actions[rows])
        return torch.from_numpy(np.stack(clips)), ids

    def draw(self, stage: int, update: int, size: int, patches: int) -> Batch:
        """The batch of an update: a function of the seed and these numbers."""
        rng = np.random.default_rng((self.seed, stage, update))
        frames, ids = self.read(rng.choice(self.starts, size))
        chance = Generator().manual_seed(int(rng.integers(2**62)))
        between = self.length - 1
        uniform = torch.rand(size, between, patches, 4, generator=chance)
        return Batch(frames, ids, uniform, torch.rand(size, between, 3, generator=chance))

    def batches(self, stage: int, first: int, size: int, patches: int) -> Iterator[Batch]:
        """Batches from update ``first`` on, without end; the next is read while one is learned from."""
        with ThreadPoolExecutor(1, "clips") as reader:
            coming = reader.submit(self.draw, stage, first, size, patches)
            while True:
                batch = coming.result()
                first += 1
                coming = reader.submit(self.draw, stage, first, size, patches)
                yield batch
