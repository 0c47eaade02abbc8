"""Reads clips out of an h5 of frames, a slice at a time. Knows numpy and h5py, nothing of torch or suites.

Layout of the h5 (rows are consecutive frames of play):

    frames    uint8 [N, H, W, 3]   RGB
    actions   uint8 [N]            optional: the true action taken at this frame
    episodes  int [N]              optional: rows of one episode carry one number and lie together
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from PIL import Image

from helpers.errors import DatasetError, ParameterError
from helpers.file_kind import impostor

_LARGEST_SIDE = 2048  # pixels
_LARGEST_CHUNK = 64_000_000  # bytes: a chunk is read whole, whatever of it is wanted
# What h5py raises where a file's inner structures are damaged; which of them depends on where.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
_FETCH = "Run 04_assets to fetch it again."


class FrameDataset:
    """A dataset of frames, opened and checked; pixels are read only when a clip is asked for.

        with FrameDataset("clips.h5") as data:
            clip = data.clip(data.starts(16)[0], 16)      # uint8 [16, H, W, 3]

    Args:
        path: The h5.
        skip: Rows from one frame of a clip to the next.
        first_frame: First row that may be used.
        preload_ratio: Use only the first ``int(N * preload_ratio)`` rows; in (0, 1].

    Raises:
        DatasetError: The file is missing, damaged, of another layout, or has no usable rows.
        ParameterError: ``skip``, ``first_frame`` or ``preload_ratio`` is out of range.
    """

    def __init__(
        self, path: str | Path, skip: int = 1, first_frame: int = 0, preload_ratio: float = 1.0
    ) -> None:
        if skip < 1 or first_frame < 0:
            raise ParameterError(
                f"skip is {skip} and first_frame is {first_frame}.",
                fix="skip must be at least 1 and first_frame at least 0.",
            )
        if not 0.0 < preload_ratio <= 1.0:
            raise ParameterError(
                f"preload_ratio is {preload_ratio}.",
                fix="Choose a value above 0 and up to 1; 1 uses every frame.",
            )
        self.path = Path(path)
        self.skip = skip
        self.first_frame = first_frame
        self._file = _open(self.path)
        try:
            self._frames = _checked_frames(self._file, self.path)
            self._actions = _column(self._file, "actions", len(self._frames), self.path)
            self._episodes = _column(self._file, "episodes", len(self._frames), self.path)
            self._end = int(len(self._frames) * preload_ratio)
            if self._end <= first_frame:
                raise DatasetError(
                    f"{self.path} is too short: {self._end} of its {len(self._frames)} frames may be used "
                    f"(preload_ratio {preload_ratio}) and the first usable one is number {first_frame}.",
                    fix="Raise preload_ratio, or choose a longer dataset.",
                )
        except _DAMAGE as error:
            self._file.close()
            raise DatasetError(
                f"{path} is damaged: its layout makes no sense ({type(error).__name__}).",
                fix=f"Delete it. {_FETCH}",
            ) from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "FrameDataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Rows that may be used, skipped ones included: those from ``first_frame`` to the preload limit."""
        return self._end - self.first_frame

    def close(self) -> None:
        """Close the file; the dataset cannot be read after this."""
        self._file.close()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return int(self._frames.shape[1]), int(self._frames.shape[2])

    @property
    def has_true_actions(self) -> bool:
        """Whether the true actions were recorded beside the frames."""
        return self._actions is not None

    def starts(self, length: int) -> Sequence[int] | np.ndarray:
        """Every row at which a clip of ``length`` frames may start; no clip crosses an episode.

        Returns:
            A range, or an int64 array where the dataset has episodes; never empty.

        Raises:
            DatasetError: No clip of this length fits.
        """
        if length < 1:
            raise ParameterError(f"A clip of {length} frames was asked for.", fix="Ask for at least 1.")
        span = (length - 1) * self.skip
        starts: Sequence[int] | np.ndarray = range(self.first_frame, self._end - span)
        if self._episodes is not None and len(starts) > 0:
            first = self._episodes[self.first_frame : self._end - span]
            last = self._episodes[self.first_frame + span : self._end]
            starts = self.first_frame + np.flatnonzero(first == last)
        if len(starts) == 0:
            raise DatasetError(
                f"{self.path} is too short: no clip of {length} frames (every {self.skip} rows) "
                f"fits into its {len(self)} usable rows.",
                fix="Ask for fewer frames (generation_steps, context_window), raise preload_ratio, or go on "
                "without the truth (use_gt_actions and teacher_forced off).",
            )
        return starts

    def clip(self, start: int, length: int) -> np.ndarray:
        """The clip that starts at row ``start``: ``frames[start : start + length*skip : skip]``.

        Returns:
            uint8 ``[length, H, W, 3]``.

        Raises:
            DatasetError: The clip leaves the usable rows, crosses an episode, or cannot be read.
        """
        self._check_clip(start, length)
        try:
            return np.asarray(self._frames[start : start + length * self.skip : self.skip])
        except _DAMAGE as error:
            raise DatasetError(
                f"The clip from row {start} of {self.path} cannot be read: the file is damaged.",
                fix=_FETCH,
            ) from error

    def clip_actions(self, start: int, length: int) -> np.ndarray | None:
        """The true actions of a clip: entry t led from its frame t to frame t+1.

        Returns:
            int64 ``[length - 1]``; None if the dataset has no actions. Where rows are skipped, an entry is
            the action taken at the earlier of its two frames.
        """
        self._check_clip(start, length)
        if self._actions is None:
            return None
        return self._actions[start : start + (length - 1) * self.skip : self.skip].astype(np.int64)

    def _check_clip(self, start: int, length: int) -> None:
        last = start + (length - 1) * self.skip
        if length < 1 or start < self.first_frame or last >= self._end:
            raise DatasetError(
                f"A clip of {length} frames from row {start} (every {self.skip} rows) is not inside "
                f"the usable rows {self.first_frame} to {self._end - 1} of {self.path}.",
                fix=f"Choose a start from starts({max(length, 1)}).",
            )
        if self._episodes is not None and self._episodes[start] != self._episodes[last]:
            raise DatasetError(
                f"The clip of {length} frames from row {start} of {self.path} crosses into another episode.",
                fix=f"Choose a start from starts({length}).",
            )


def lively_starts(data: FrameDataset, length: int, count: int = 1, candidates: int = 96) -> list[int]:
    """Starts of clips in which something moves: the liveliest of each of ``count`` equal stretches of play.

    Args:
        data: The dataset.
        length: Frames in a clip, at least 2.
        count: How many stretches; fewer where the dataset has fewer clips.
        candidates: How many clips to look at, spread evenly over the dataset.

    Returns:
        Rows to start from, the liveliest clip first.
    """
    starts = data.starts(length)
    spread = np.unique(np.linspace(0, len(starts) - 1, max(candidates, count)).astype(int))
    liveliness = {int(starts[i]): _liveliness(data.clip(int(starts[i]), length)) for i in spread}
    stretches = np.array_split(np.array(list(liveliness)), min(count, len(liveliness)))
    best = [max(stretch.tolist(), key=liveliness.__getitem__) for stretch in stretches]
    return sorted(best, key=liveliness.__getitem__, reverse=True)


def to_model_frames(clip: np.ndarray, size: int) -> np.ndarray:
    """A clip as the models take it: ``x/255*2-1``, at the models' frame size.

    Frames of another size are resized with an area filter, which a warning announces.

    Args:
        clip: uint8 ``[T, H, W, 3]``.
        size: Height and width the models were trained on.

    Returns:
        float32 ``[1, T, 3, size, size]`` in [-1, 1].
    """
    height, width = clip.shape[1:3]
    if (height, width) != (size, size):
        warnings.warn(
            f"The dataset's frames are {height}x{width}, the models take {size}x{size}: area-resized.",
            stacklevel=2,
        )
        clip = np.stack(
            [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX)) for frame in clip]
        )
    scaled = clip.astype(np.float32) / 255 * 2 - 1
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)[None])


def _liveliness(clip: np.ndarray, block: int = 8) -> float:
    """How much a clip moves: the median, over its steps, of the mean change of its blocks of pixels.

    Blocks, so that a fine texture which shifts by a pixel does not count for more than things that move;
    the median, so that a single cut to another scene does not make a still clip lively.
    """
    count, height, width, _ = clip.shape
    rows, columns = max(1, height // block), max(1, width // block)
    whole = clip[:, : rows * (height // rows), : columns * (width // columns)].astype(np.float32)
    blocks = whole.reshape(count, rows, height // rows, columns, width // columns, 3).mean(axis=(2, 4))
    return float(np.median(np.abs(np.diff(blocks, axis=0)).mean(axis=(1, 2, 3))))


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DatasetError(f"The dataset {path} does not exist.", fix="Run 04_assets, which fetches it.")
    if found := impostor(path):
        raise DatasetError(
            f"{path} is {found}, not an h5: its download went wrong.", fix=f"Delete it. {_FETCH}"
        )
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        what = "is cut short" if "truncated" in str(error) else "is not an h5 file, or is damaged"
        raise DatasetError(f"{path} {what}.", fix=f"Delete it. {_FETCH}") from error


def _checked_frames(file: h5py.File, path: Path) -> h5py.Dataset:
    if isinstance(file.get("frames", getlink=True), (h5py.ExternalLink, h5py.SoftLink)):
        raise DatasetError(f"`frames` of {path} only points elsewhere.", fix=f"Delete it. {_FETCH}")
    frames = file.get("frames")
    if not isinstance(frames, h5py.Dataset):
        raise DatasetError(
            f"{path} has no dataset `frames`; it has {', '.join(sorted(file)) or 'nothing'}.",
            fix="Choose an h5 whose `frames` is uint8 [N, H, W, 3].",
        )
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        raise DatasetError(
            f"`frames` of {path} is {frames.dtype} {list(frames.shape)}, not uint8 [N, H, W, 3].",
            fix="Choose another h5, or rewrite this one with RGB frames of 8 bits a channel.",
        )
    if max(frames.shape[1:3]) > _LARGEST_SIDE or math.prod(frames.chunks or (0,)) > _LARGEST_CHUNK:
        raise DatasetError(
            f"`frames` of {path} is {list(frames.shape)} in chunks of {frames.chunks}: to read one frame "
            "would take far too much memory.",
            fix="Rewrite the h5 with frames of at most 2048 pixels a side and small chunks.",
        )
    if frames.external or frames.is_virtual:
        raise DatasetError(f"`frames` of {path} lies in other files.", fix=f"Delete it. {_FETCH}")
    return frames


def _column(file: h5py.File, name: str, rows: int, path: Path) -> np.ndarray | None:
    """An optional column of whole numbers, one a row: int ``[rows]``."""
    column = file.get(name)
    if column is None:
        return None
    if not isinstance(column, h5py.Dataset):
        raise DatasetError(f"`{name}` of {path} is a group, not a dataset.", fix=f"Rewrite the h5. {_FETCH}")
    if column.shape != (rows,) or not np.issubdtype(column.dtype, np.integer):
        raise DatasetError(
            f"`{name}` of {path} is {column.dtype} {list(column.shape)}, not {rows} whole numbers.",
            fix=f"Rewrite the h5, or leave `{name}` out.",
        )
    chunk = math.prod(column.chunks or (0,)) * column.dtype.itemsize
    if rows * column.dtype.itemsize > _LARGEST_CHUNK or chunk > _LARGEST_CHUNK:
        raise DatasetError(
            f"`{name}` of {path} has {rows} rows, more than are read at once.", fix=f"Leave `{name}` out."
        )
    try:
        return np.asarray(column[:])
    except _DAMAGE as error:
        raise DatasetError(f"`{name}` of {path} cannot be read: the file is damaged.", fix=_FETCH) from error
