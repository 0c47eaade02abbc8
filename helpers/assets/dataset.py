"""Reads clips out of an h5 of frames, a slice at a time. Must not know torch or checkpoints.

Layout of the h5 (rows are consecutive frames of play):

    frames    uint8 [N, H, W, 3]   RGB
    actions   uint8 [N]            optional: the true action taken at this frame
    episodes  int [N]              optional: rows of one episode carry one number and lie together
"""

import bisect
import itertools
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from helpers.errors import DatasetError, ParameterError, shown
from helpers.files import impostor
from helpers.pictures import contact_sheet
from helpers.report import Check, Subject
from helpers.worlds import World

_LARGEST_SIDE = 2048  # pixels
_LARGEST_CHUNK = 64_000_000  # bytes: a chunk is read whole, whatever of it is wanted
_LARGEST_LZF = 8_000_000  # bytes: so many times as large may a chunk grow that lies about its size
_MOST_CHUNKS = 100_000  # that are read at once
_GZIP, _LZF, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF, h5py.h5z.FILTER_SHUFFLE
_FILTERS: tuple[tuple[int, ...], ...] = (
    (),
    (_SHUFFLE,),
    (_GZIP,),
    (_SHUFFLE, _GZIP),
    (_LZF,),
    (_SHUFFLE, _LZF),
)
_CHECKSUM = 4  # bytes
# What h5py raises where a file's inner structures are damaged; which of them depends on where.
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
_FETCH = "Run 04_assets to fetch it again."
_REPLACE = f"Delete it. {_FETCH}"


class FrameDataset(AbstractContextManager["FrameDataset"]):
    """A dataset of frames, opened and checked; pixels are read only when a clip is asked for.

        with FrameDataset("clips.h5") as data:
            clip = data.clip(data.starts(16)[0], 16)      # uint8 [16, H, W, 3]

    A clip takes every ``skip``-th row, at least 1, of those from ``first_frame`` to the preload limit,
    ``int(N * preload_ratio)`` with a ratio in (0, 1].

    Raises:
        DatasetError: The file is missing, damaged, of another layout, or has no usable rows.
        ParameterError: ``skip``, ``first_frame`` or ``preload_ratio`` is out of range.
    """

    def __init__(
        self, path: str | Path, skip: int = 1, first_frame: int = 0, preload_ratio: float = 1.0
    ) -> None:
        if skip < 1 or first_frame < 0 or not 0.0 < preload_ratio <= 1.0:
            what = f"skip is {skip}, first_frame is {first_frame} and preload_ratio is {preload_ratio}."
            ranges = "skip from 1, first_frame from 0, preload_ratio above 0 and up to 1 (every frame)"
            raise ParameterError(what, fix=f"Choose {ranges}.")
        self.path, self.skip, self.first_frame = Path(path), skip, first_frame
        with ExitStack() as refused, _damage_as(f"{path} is damaged: its layout makes no sense", _REPLACE):
            self._file = refused.enter_context(_open(self.path))
            self._frames = _checked_frames(self._file, self.path)
            rows = len(self._frames)
            self._actions = _column(self._file, "actions", rows, self.path)
            self._episodes = _column(self._file, "episodes", rows, self.path)
            self._end = int(rows * preload_ratio)
            if self._end <= first_frame:
                usable = f"{self._end} of its {rows} frames may be used (preload_ratio {preload_ratio})"
                what = f"{path} is too short: {usable} and the first usable one is number {first_frame}."
                raise DatasetError(what, fix="Raise preload_ratio, or choose a longer dataset.")
            refused.pop_all()  # it stays open

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Rows that may be used, skipped ones included."""
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
        """Rows, at least one, at which a clip of ``length`` frames may start without crossing an episode.

        A range, or an int64 array where the dataset has episodes; a `DatasetError` where no clip fits.
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
            clip = f"no clip of {length} frames (every {self.skip} rows) fits its {len(self)} usable rows"
            fix = "Ask for fewer frames (generation_steps, context_window), raise preload_ratio, or go on "
            fix += "without the truth (use_gt_actions and teacher_forced off)."
            raise DatasetError(f"{self.path} is too short: {clip}.", fix=fix)
        return starts

    def clip(self, start: int, length: int) -> np.ndarray:
        """The clip ``frames[start : start + length*skip : skip]``: uint8 ``[length, H, W, 3]``.

        A `DatasetError` where it leaves the usable rows, crosses an episode, or cannot be read.
        """
        self.check_clip(start, length)
        stop = start + (length - 1) * self.skip + 1
        with _damage_as(f"The clip from row {start} of {self.path} cannot be read: the file is damaged"):
            _check_chunks(self._frames, start, stop, self.path)
            return np.asarray(self._frames[start : stop : self.skip])

    def clip_actions(self, start: int, length: int) -> np.ndarray | None:
        """The true actions of a clip, int64 ``[length - 1]``: entry t led from its frame t to frame t+1.

        None if the dataset has no actions. Where rows are skipped, an entry is that of the earlier frame.
        """
        self.check_clip(start, length)
        if self._actions is None:
            return None
        return self._actions[start : start + (length - 1) * self.skip : self.skip].astype(np.int64)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Frames of usable rows whatever their episodes, uint8 ``[count, H, W, 3]``; raises as `clip`."""
        start = self.first_frame + first
        with _damage_as(f"Row {start} of {self.path} cannot be read: the file is damaged"):
            _check_chunks(self._frames, start, start + count, self.path)
            return np.asarray(self._frames[start : start + count])

    def columns(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The true actions and the episodes of the usable rows, int ``[N]`` each, or None."""
        usable = slice(self.first_frame, self._end)
        actions, episodes = self._actions, self._episodes
        return None if actions is None else actions[usable], None if episodes is None else episodes[usable]

    def check_clip(self, start: int, length: int) -> None:
        """Raise a `DatasetError` where a clip leaves the usable rows or crosses into another episode."""
        last = start + (length - 1) * self.skip
        if length < 1 or start < self.first_frame or last >= self._end:
            wrong = f"is not inside the usable rows {self.first_frame} to {self._end - 1}"
        elif self._episodes is not None and self._episodes[start] != self._episodes[last]:
            wrong = "crosses into another episode"
        else:
            return
        clip = f"The clip of {length} frames (every {self.skip} rows) from row {start} of {self.path}"
        starts = np.asarray(self.starts(max(length, 1)))
        nearest = starts[np.abs(starts - start).argmin()]
        fix = f"Use a start from {starts[0]} to {starts[-1]}; the nearest that fits is {nearest}."
        raise DatasetError(f"{clip} {wrong}.", fix=fix)


def lively_starts(data: FrameDataset, length: int, count: int = 1, candidates: int = 96) -> list[int]:
    """Starts of clips in which something moves, the liveliest first: one from each equal stretch of play.

    There are ``count`` stretches, fewer where the dataset has fewer clips; of ``length`` frames, at least 2,
    ``candidates`` clips are looked at, spread evenly over the dataset.
    """
    starts = data.starts(length)
    spread = np.unique(np.linspace(0, len(starts) - 1, max(candidates, count)).astype(int))
    liveliness = {int(starts[i]): _liveliness(data.clip(int(starts[i]), length)) for i in spread}
    stretches = np.array_split(np.array(list(liveliness)), min(count, len(liveliness)))
    best = [max(stretch.tolist(), key=liveliness.__getitem__) for stretch in stretches]
    return sorted(best, key=liveliness.__getitem__, reverse=True)


def longest_clip(data: FrameDataset, start: int, shortest: int, wanted: int) -> int:
    """The most frames, up to ``wanted``, of a clip from ``start`` (-1: from anywhere); at least ``shortest``.

    Raises a `DatasetError` where not even those fit.
    """

    def too_long(length: int) -> bool:
        with suppress(DatasetError):
            starts = data.starts(length)
            return start >= 0 and start not in starts
        return True

    data.starts(shortest)
    return shortest + bisect.bisect_left(range(shortest + 1, wanted + 1), True, key=too_long)


def preview_batch(
    chosen: World, dataset: Path, clips: int = 3, length: int = 8
) -> tuple[Image.Image | None, Check]:
    """A picture with one lively clip per row, and the check ``batch``, which says why if there is none."""
    batch = Subject("batch")
    try:
        with FrameDataset(dataset, chosen.skip, chosen.first_frame) as data:
            starts = lively_starts(data, length, clips)
            rows = [(f"row {start}", data.clip(start, length)) for start in starts]
            height, width = data.frame_size
            actions = "with" if data.has_true_actions else "without"
            holds = f"{len(data):,} usable frames of {height}x{width}, {actions} true actions"
    except DatasetError as error:
        return None, batch.fail(error.what, error.fix)
    every = f"every {chosen.skip}th row" if chosen.skip > 1 else "every row"
    picture = contact_sheet(rows, [f"frame {number}" for number in range(length)])
    return picture, batch.ok(f"{holds}; {len(rows)} clips of {length} frames shown, {every}")


def to_model_frames(clip: np.ndarray, size: int) -> np.ndarray:
    """A clip, uint8 ``[T, H, W, 3]``, as the models take it: float32 ``[1, T, 3, size, size]`` in [-1, 1].

    Frames of another size are resized with an area filter, which a warning announces.
    """
    height, width = clip.shape[1:3]
    if (height, width) != (size, size):
        sizes = f"The dataset's frames are {height}x{width}, the models take {size}x{size}"
        warnings.warn(f"{sizes}: area-resized.", stacklevel=2)
        resized = [Image.fromarray(frame).resize((size, size), Image.Resampling.BOX) for frame in clip]
        clip = np.stack([np.asarray(frame) for frame in resized])
    scaled = clip.astype(np.float32) / 255 * 2 - 1
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)[None])


def _liveliness(clip: np.ndarray, block: int = 8) -> float:
    """How much a clip moves: the median, over its steps, of the mean change of its blocks of pixels."""
    # Blocks, so that a fine texture which shifts by a pixel does not count for more than things that move;
    # the median, so that a single cut to another scene does not make a still clip lively.
    count, height, width, _ = clip.shape
    rows, columns = max(1, height // block), max(1, width // block)
    whole = clip[:, : rows * (height // rows), : columns * (width // columns)].astype(np.float32)
    blocks = whole.reshape(count, rows, height // rows, columns, width // columns, 3).mean(axis=(2, 4))
    return float(np.median(np.abs(np.diff(blocks, axis=0)).mean(axis=(1, 2, 3))))


@contextmanager
def _damage_as(what: str, fix: str = _FETCH) -> Iterator[None]:
    """Turn what h5py raises where a file is damaged into a `DatasetError`."""
    try:
        yield
    except _DAMAGE as error:
        raise DatasetError(f"{what} ({type(error).__name__}).", fix=fix) from error


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DatasetError(f"The dataset {path} does not exist.", fix="Run 04_assets, which fetches it.")
    if kind := impostor(path):
        raise DatasetError(f"{path} is {kind}, not an h5: its download went wrong.", fix=_REPLACE)
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        what = "is cut short" if "truncated" in str(error) else "is not an h5 file, or is damaged"
        raise DatasetError(f"{path} {what}.", fix=_REPLACE) from error


def _dataset(file: h5py.File, name: str, path: Path, fix: str) -> h5py.Dataset | None:
    """The dataset of this name that lies in the file itself; None where there is none.

    None that lies in another file is opened: its path could be that of a stranger's machine, where Windows
    would log in. One that is compressed otherwise than h5py does it is refused: only this is bounded here.
    """
    link = file.get(name, getlink=True)
    filters: tuple[int, ...] = ()
    if link is None:
        return None
    if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)):
        what = "only points elsewhere"
    elif not isinstance(found := file.get(name), h5py.Dataset):
        what = "is a group, not a dataset"
    elif found.external or found.is_virtual:
        what = "lies in other files"
    elif (filters := _filters(found)) not in _FILTERS:
        what = f"is compressed by filters that are not read here ({shown(filters)})"
    elif _GZIP not in filters and filters and math.prod(found.chunks) * found.dtype.itemsize > _LARGEST_LZF:
        what = f"is in chunks of {found.chunks}, which is too much for LZF"
    else:
        return found
    raise DatasetError(f"`{name}` of {path} {what}.", fix=fix)


def _filters(data: h5py.Dataset) -> tuple[int, ...]:
    """The numbers of the filters that a chunk passes when it is written, but for the one of checksums."""
    plan = data.id.get_create_plist()
    numbers = (plan.get_filter(index)[0] for index in range(plan.get_nfilters()))
    return tuple(number for number in numbers if number != h5py.h5z.FILTER_FLETCHER32)


def _check_chunks(data: h5py.Dataset, start: int, stop: int, path: Path) -> None:
    """Refuse rows of which a chunk unpacks to more than it should hold, with a `DatasetError`.

    HDF5 compares sizes only when it has unpacked a chunk, and gzip makes up to 1032 bytes of one.
    """
    filters = _filters(data)
    if not {_GZIP, _LZF} & set(filters):
        return
    size = math.prod(data.chunks) * data.dtype.itemsize
    spans = zip([start, *[0] * (data.ndim - 1)], [stop, *data.shape[1:]], data.chunks, strict=True)
    for place in itertools.product(*(range(first // step * step, end, step) for first, end, step in spans)):
        try:
            _, packed = data.id.read_direct_chunk(place)
        except _DAMAGE:  # it was never written; or is damaged, which reading it will tell
            continue
        unpacked = 0 if _GZIP in filters else len(packed)
        if _GZIP in filters and len(packed) * 1032 > _LARGEST_CHUNK:
            with suppress(zlib.error):
                unpacked = len(zlib.decompressobj().decompress(packed, size + _CHECKSUM + 1))
        if unpacked > size + _CHECKSUM:
            what = f"A chunk of `{data.name[1:]}` of {path} unpacks to more than its {size} bytes."
            raise DatasetError(what, fix=_REPLACE)


def _checked_frames(file: h5py.File, path: Path) -> h5py.Dataset:
    fix, frames = _REPLACE, _dataset(file, "frames", path, _REPLACE)
    if frames is None:
        there = shown(", ".join(sorted(file))).strip("'") or "nothing"
        what = f"{path} has no dataset `frames`; it has {there}."
        fix = "Choose an h5 whose `frames` is uint8 [N, H, W, 3]."
    elif frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        shape = f"{shown(frames.dtype.name)[1:-1]} {list(frames.shape)}"
        what = f"`frames` of {path} is {shape}, not uint8 [N, H, W, 3]."
        fix = "Choose another h5, or rewrite this one with RGB frames of 8 bits a channel."
    elif max(frames.shape[1:3]) > _LARGEST_SIDE or _unwieldy(frames, 1):
        shape = f"{list(frames.shape)} in chunks of {frames.chunks}"
        what = f"`frames` of {path} is {shape}: far too much memory for one frame."
        fix = "Rewrite the h5 with frames of at most 2048 pixels a side and small chunks."
    else:
        return frames
    raise DatasetError(what, fix=fix)


def _unwieldy(data: h5py.Dataset, rows: int) -> bool:
    """Whether chunks are too large, or too many for some rows: HDF5 keeps a list of those that it reads."""
    chunks = data.chunks or (max(rows, 1), *data.shape[1:])
    count = math.prod(-(-size // step) for size, step in zip((rows, *data.shape[1:]), chunks, strict=True))
    return math.prod(chunks) * data.dtype.itemsize > _LARGEST_CHUNK or count > _MOST_CHUNKS


def _column(file: h5py.File, name: str, rows: int, path: Path) -> np.ndarray | None:
    """An optional column of whole numbers, one a row: int ``[rows]``."""
    fix = f"Rewrite the h5; `{name}` may be left out. {_FETCH}"
    if (column := _dataset(file, name, path, fix)) is None:
        return None
    if column.shape != (rows,) or not np.issubdtype(column.dtype, np.integer):
        kind = f"{shown(column.dtype.name)[1:-1]} {list(column.shape)}"
        raise DatasetError(f"`{name}` of {path} is {kind}, not {rows} whole numbers.", fix=fix)
    if rows * column.dtype.itemsize > _LARGEST_CHUNK or _unwieldy(column, rows):
        raise DatasetError(f"`{name}` of {path} has {rows} rows, more than are read at once.", fix=fix)
    with _damage_as(f"`{name}` of {path} cannot be read: the file is damaged"):
        _check_chunks(column, 0, rows, path)
        return np.asarray(column[:])
