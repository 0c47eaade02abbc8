"""Frames of a recording: a video, a folder of PNGs or an h5 is read as a stream, whatever its length.

Knows pixels only. What to keep of a stream, and where it is cut, is decided frame by frame, so that hours of
video need no more memory than seconds.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from helpers.errors import DatasetError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")
Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a crop, in pixels of the recording."""


class Frame(NamedTuple):
    """One frame of a recording."""

    seconds: float  # since the start
    pixels: np.ndarray  # uint8 [H, W, 3]


def read_frames(source: Path, fps: float) -> Iterator[Frame]:
    """The frames of a recording, ``fps`` a second of a video, every one of a folder of pictures.

    Raises:
        DatasetError: There is no such recording, or it cannot be read.
    """
    if source.is_dir():
        return _read_pictures(source, fps)
    if source.suffix.lower() in VIDEOS and source.is_file():
        return _read_video(source, fps)
    what = "does not exist" if not source.exists() else "is neither a video nor a folder of PNGs"
    fix = f"Give a video ({', '.join(VIDEOS)}), a folder of PNGs, or an h5 with `frames`."
    raise DatasetError(f"{source} {what}.", fix=fix)


def _read_pictures(folder: Path, fps: float) -> Iterator[Frame]:
    def natural(path: Path) -> list[object]:  # frame_10 follows frame_9
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

    paths = sorted(folder.glob("*.png"), key=natural)
    if not paths:
        raise DatasetError(f"{folder} holds no PNG.", fix="Give the folder whose pictures are the frames.")
    size = None
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(f"{path} cannot be read as a picture ({error}).", fix="Remove it.") from error
        if pixels.shape != (size := size or pixels.shape):
            raise DatasetError(f"{path} has another size than the first picture.", fix="Remove it.")
        yield Frame(number / fps, pixels)


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Turn PyAV's errors, which are OSErrors and ValueErrors, into a `DatasetError`."""
    try:
        yield
    except (OSError, ValueError, ImportError, IndexError) as error:
        fix = "See whether a video player shows it to its end; record it again, or convert it to an MP4."
        raise DatasetError(f"{path} cannot be read as a video ({error}).", fix=fix) from error


def _read_video(path: Path, fps: float) -> Iterator[Frame]:
    import av

    with _unreadable(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(30)
        taken, first = 0, None
        for number, frame in enumerate(container.decode(stream)):
            now = frame.time if frame.time is not None else float(number / rate)
            first = now if first is None else first
            # Half a frame's tolerance: times are rounded, and a 15th second must not slip to the next frame.
            if now - first >= taken / fps - float(0.5 / rate):
                yield Frame(now - first, frame.to_ndarray(format="rgb24"))
                taken = max(taken + 1, int((now - first) * fps + 0.5 + 1e-6))


def glance(source: Path, count: int = 48) -> list[np.ndarray]:
    """Some frames, uint8 ``[H, W, 3]``, spread over a recording: sought, not read through, where possible."""
    if source.is_dir():
        frames = list(source.glob("*.png"))
        step = max(1, len(frames) // count)
        every = (frame.pixels for number, frame in enumerate(read_frames(source, 1.0)) if number % step == 0)
        return list(every)[:count]
    import av

    list_of = []
    with _unreadable(source), av.open(str(source)) as container:
        duration = container.duration or 0  # microseconds
        for number in range(count):
            if duration:
                container.seek(int(duration * number / count))
            frame = next(container.decode(video=0), None)
            if frame is None:
                break
            list_of.append(frame.to_ndarray(format="rgb24"))
    if not list_of:
        raise DatasetError(f"{source} holds no frames.", fix="Record it again.")
    return list_of


STILL = 6
"""Grey levels, of 255, by which a still pixel may differ: what video compression does to it."""


def moving_box(frames: list[np.ndarray]) -> Box:
    """What is left of frames, uint8 ``[H, W, 3]`` each, without the borders in which nothing ever moves.

    Letterboxes, window frames and desktops around a game, and a strip of score that never changes. The whole
    picture where nothing moves at all, or where less than a quarter of it does.
    """
    height, width = frames[0].shape[:2]
    grey = np.stack([frame.mean(-1) for frame in frames])  # [n, H, W]
    moves = np.ptp(grey, axis=0) > STILL
    # A cursor or a speck of noise is no game: a row counts where one in a hundred of its pixels moves.
    rows = np.flatnonzero(moves.mean(1) > 0.01)
    columns = np.flatnonzero(moves.mean(0) > 0.01)
    if not len(rows) or not len(columns):
        return 0, 0, width, height
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    small = (box[2] - box[0]) * (box[3] - box[1]) < width * height / 4
    return (0, 0, width, height) if small else box


def shrink(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A frame's crop with an area filter: uint8 ``[size, size, 3]``."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


@dataclass
class Cutter:
    """Decides, frame by frame, what of a stream is play, and where an episode of it ends.

    A cut is a change from one frame to the next far above the recent ones: another level, a menu, a death.
    Where nothing has moved for ``pause`` frames it is a menu or a pause, and left out until something moves.
    """

    pause: int  # frames
    episode: int = 0
    changes: list[float] = field(default_factory=list)  # of each frame to the one before, in grey levels
    cuts: list[int] = field(default_factory=list)  # frames at which an episode begins
    left_out: list[int] = field(default_factory=list)
    _before: np.ndarray | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=150))
    _still: int = 0

    def keeps(self, pixels: np.ndarray) -> bool:
        """Whether to keep the next frame, uint8 ``[S, S, 3]``, which belongs to `episode`."""
        small = pixels.astype(np.float32)
        change = 0.0 if self._before is None else float(np.abs(small - self._before).mean())
        self._before = small
        number = len(self.changes)
        self.changes.append(change)
        usual = float(np.quantile(self._recent, 0.9)) if len(self._recent) >= 15 else 255.0
        cut = change > max(2.5 * usual, 4.0)
        if not cut:
            self._recent.append(change)
        self._still = 0 if change > 0.05 else self._still + 1
        if cut or self._still == self.pause:
            self.episode += 1
            self.cuts.append(number)
        if self._still >= self.pause:
            self.left_out.append(number)
            return False
        return True


def counted(stream: Iterable[Frame], crop: Box, size: int, cutter: Cutter) -> Iterator[tuple[Frame, int]]:
    """The frames that a cutter keeps, cropped to ``size`` pixels a side, with their episodes."""
    for frame in stream:
        pixels = shrink(frame.pixels, crop, size)
        if cutter.keeps(pixels):
            yield Frame(frame.seconds, pixels), cutter.episode
