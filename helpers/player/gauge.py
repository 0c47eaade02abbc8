"""How far a picture is from what a world's dataset shows: 0 for like it, 1 for something else altogether.

It looks at the pixels alone, costs a millisecond a frame, and needs no model: a world that dreams on for long
may drift into pictures that no frame of its data resembles, such as flat, scrambled or faded ones.
"""

from dataclasses import dataclass

import numpy as np

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.pictures import to_uint8
from helpers.play.world import OpenWorld

FRAMES = 512
"""Frames of the dataset that are looked at."""

CELLS = 8
"""A picture is compared in so many rows and columns of cells."""

_FAINT = 8.0  # of 255: cells that hardly ever change may yet differ by so much
_MARGIN = 0.25  # of the data's range: so far beyond it a picture is something else


@dataclass(frozen=True)
class Gauge:
    """What a world's own frames look like."""

    starts: np.ndarray  # int64 [N]: the rows at which a clip ends with each frame below
    colours: np.ndarray  # float32 [N, 512]: the share of each of 8x8x8 colours
    mean: np.ndarray  # float [CELLS * CELLS * 3]: the colour of each cell
    spread: np.ndarray  # likewise: how much it varies
    low: np.ndarray  # float [5]: the least and the most of each feature, over frames held out
    high: np.ndarray  # float [5]
    patch: int  # pixels of a patch: what is wrong is often wrong at its border

    def __call__(self, frame: np.ndarray) -> float:
        """How far a picture, uint8 ``[H, W, 3]``, is outside of what the data shows, 0 to 1."""
        features = _features(frame, self.colours, self.mean, self.spread, self.patch)
        outside = np.maximum(features - self.high, self.low - features)
        return float(np.clip(outside / (_MARGIN * (self.high - self.low) + 1e-6), 0, 1).max())

    def nearest(self, frame: np.ndarray) -> int:
        """The row from which a clip ends with the frame of the data whose colours are most alike."""
        return int(self.starts[np.abs(self.colours - _colours(frame)).sum(1).argmin()])


def calibrated(opened: OpenWorld, window: int, count: int = FRAMES) -> Gauge:
    """The gauge of a world, from frames spread over its dataset; a `DatasetError` where it cannot be read.

    Half of the frames are what others are compared with; the other half says how far true ones are from them.
    """
    world, size = opened.world, opened.suite.frame_size
    with FrameDataset(opened.paths.dataset, world.skip, world.first_frame) as data:
        starts = np.asarray(data.starts(window))
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, count).astype(int))]
        rows = [data.clip(int(start) + window - 1, 1) for start in starts]
        frames = np.concatenate([to_uint8(to_model_frames(row, size)[0]) for row in rows])  # [N, H, W, 3]
    return gauge_of(frames, starts, size // opened.suite.video_tokenizer.config.grid)


def gauge_of(frames: np.ndarray, starts: np.ndarray, patch: int) -> Gauge:
    """The gauge of a world whose frames are these, uint8 ``[N, H, W, 3]``, N at least 2."""
    known, held_out = frames[::2], frames[1::2]
    colours = np.stack([_colours(frame) for frame in known])
    cells = np.stack([_cells(frame) for frame in known])
    mean, spread = cells.mean(0), np.maximum(cells.std(0), _FAINT)
    features = np.stack([_features(frame, colours, mean, spread, patch) for frame in held_out])
    low, high = features.min(0), features.max(0)
    return Gauge(starts[::2], colours, mean, spread, low, high, patch)


def _features(
    frame: np.ndarray, colours: np.ndarray, mean: np.ndarray, spread: np.ndarray, patch: int
) -> np.ndarray:
    """Contrast, edges between and within patches, distance to the nearest colours and the mean picture."""
    wide = frame.astype(np.int16)
    edges = [np.abs(np.diff(wide, axis=axis)).mean((1 - axis, 2)) for axis in (0, 1)]  # H-1 and W-1
    between = np.concatenate([edge[patch - 1 :: patch] for edge in edges]).mean()
    within = np.concatenate([np.delete(edge, np.s_[patch - 1 :: patch]) for edge in edges]).mean()
    unlike = np.abs(colours - _colours(frame)).sum(1).min() / 2
    odd = np.square((_cells(frame) - mean) / spread).mean()
    return np.array([frame.std(), between, within, unlike, odd])


def _colours(frame: np.ndarray) -> np.ndarray:
    """The share of each of 8x8x8 colours: float32 ``[512]``."""
    red, green, blue = (frame >> 5).astype(np.int64).reshape(-1, 3).T
    counts = np.bincount(64 * red + 8 * green + blue, minlength=512)
    return np.asarray(counts / len(red), np.float32)


def _cells(frame: np.ndarray) -> np.ndarray:
    """The mean colour of each cell: float ``[CELLS * CELLS * 3]``."""
    edges = [np.linspace(0, side, CELLS, endpoint=False).astype(int) for side in frame.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.float32), edges[0], 0), edges[1], 1)
    counts = [np.diff([*edge, side]) for edge, side in zip(edges, frame.shape, strict=False)]
    return np.asarray(sums / np.outer(*counts)[..., None]).reshape(-1)
