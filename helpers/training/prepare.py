"""A recording becomes a dataset, ``data/<name>_frames.h5``, and a picture of what will be trained on.

Reads the recording once, as a stream: memory does not depend on its length.
"""

import csv
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from helpers.assets.dataset import FrameDataset
from helpers.errors import DatasetError, ParameterError
from helpers.h5 import Rows, write_dataset
from helpers.report import Check, Subject, tidy_axes
from helpers.run_folder import writing
from helpers.training.video import (
    Box,
    Cutter,
    Frame,
    counted,
    glance,
    moving_box,
    read_frames,
    shrink,
)

ENOUGH, ADVISED = 5_000, 20_000
"""Frames below which nothing is trained, and from which on there is enough to learn from."""
_BLOCK = 256
_PAUSE_SECONDS = 4.0
_MOST_KEYS = 8
_MAKER = "helpers.training"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recording:
    """What to read, and how."""

    source: Path  # a video, a folder of PNGs, or an h5 with `frames`
    fps: float = 15.0
    size: int = 64  # pixels a side of the dataset's frames
    skip: int = 1  # rows of an h5 from one frame to the next: 4 of a published one, of 60 frames a second
    crop: Box | None = None  # None: without the borders in which nothing moves
    keys: Path | None = None  # a CSV of the true actions
    enough: int = ENOUGH


@dataclass(frozen=True)
class Prepared:
    """A dataset that was made of a recording."""

    path: Path
    frames: int
    episodes: int
    labels: tuple[str, ...]  # meanings of the action ids, where the true actions are known
    checks: tuple[Check, ...]


def prepare(recording: Recording, target: Path, picture: Path, say: Say = lambda line: None) -> Prepared:
    """Write the dataset of a recording to ``target``, and the picture of it to ``picture``, a PNG.

    Raises:
        DatasetError: The recording cannot be read, or has too few frames.
        ParameterError: The crop lies outside it, or the keys cannot be read.
        OutputError: The disk refuses.
    """
    is_h5 = recording.source.suffix.lower() in (".h5", ".hdf5")
    keys = read_keys(recording.keys) if recording.keys else None
    source = f"{recording.source.name}, {_MAKER}"
    cutter = Cutter(max(2, round(_PAUSE_SECONDS * recording.fps)))
    if is_h5:
        with FrameDataset(recording.source) as data:
            height, width = data.frame_size
            first = data.clip(0, 1)[0]
            box = _checked(recording.crop or (0, 0, width, height), width, height)
            labels = _numbers(data)
            parts = said(_h5_rows(data, box, recording, cutter), say)
            frames, episodes = write_dataset(target, parts, source, chunk=1)
    else:
        stream = read_frames(recording.source, recording.fps)  # which says what is no recording
        looked = glance(recording.source)
        first = looked[len(looked) // 2]
        height, width = first.shape[:2]
        box = _checked(recording.crop or moving_box(looked), width, height)
        kept = counted(stream, box, recording.size, cutter)
        labels = keys.labels if keys else ()
        parts = said(_blocks(kept, keys), say)
        # One frame a chunk: training takes clips from anywhere, and pays for nothing else.
        frames, episodes = write_dataset(target, parts, source, chunk=1)
    check = judge_length(frames, recording)
    if check.status == "fail":
        target.unlink()
        raise DatasetError(f"{recording.source}: {check.observed}.", fix=check.fix)
    draw(picture, first, box, target, cutter, recording)
    return Prepared(
        target, frames, episodes, labels, (check, *describe(box, (width, height), cutter, frames))
    )


def prepared_here(dataset: Path) -> bool:
    """Whether a dataset was made by `prepare`, and may be made anew."""
    try:
        with h5py.File(dataset, "r") as file:
            return str(file.attrs.get("source", "")).endswith(_MAKER)
    except OSError:
        return False


def said(parts: Iterator[Rows], say: Say) -> Iterator[Rows]:
    """The parts, while it is told now and then how many frames were read; an error where there are none."""
    count = 0
    for part in parts:
        if count // 5000 != (count + len(part.frames)) // 5000:
            say(f"{count + len(part.frames):,} frames read")
        count += len(part.frames)
        yield part
    if not count:
        raise DatasetError("The recording holds no frames in which anything moves.", fix="Record it again.")


def _blocks(kept: Iterator[tuple[Frame, int]], keys: "Keys | None") -> Iterator[Rows]:
    """Frames one by one as blocks of rows."""
    while block := list(itertools.islice(kept, _BLOCK)):
        frames = np.stack([frame.pixels for frame, _ in block])
        seconds = np.array([frame.seconds for frame, _ in block])
        numbers = np.array([episode for _, episode in block])
        yield Rows(frames, keys.at(seconds) if keys else None, numbers)


def _numbers(data: FrameDataset) -> tuple[str, ...]:
    """Names of a dataset's true action ids, which it does not know: their numbers."""
    ids, _ = data.columns()
    return () if ids is None else _numbered(ids)


def _numbered(ids: np.ndarray) -> tuple[str, ...]:
    """Names of action ids: as many as bits can hold."""
    if ids.min() < 0 or ids.max() > 255:
        raise ParameterError("An action id is not from 0 to 255.", fix="Number the actions from 0.")
    return tuple(f"action {number}" for number in range(2 ** max(1, int(ids.max()).bit_length())))


def _h5_rows(data: FrameDataset, box: Box, recording: Recording, cutter: Cutter) -> Iterator[Rows]:
    """A dataset's rows at another size and rate; where it has no episodes, they are found as in a video."""
    actions, own = data.columns()
    block = max(1, _BLOCK // recording.skip) * recording.skip
    for first in range(0, len(data), block):
        taken = np.arange(first, min(first + block, len(data)), recording.skip)
        rows = data.rows(first, min(block, len(data) - first))[:: recording.skip]
        frames = np.stack([shrink(frame, box, recording.size) for frame in rows])
        keeps = np.ones(len(frames), bool)
        numbers = np.empty(len(frames), np.int64)
        for index, frame in enumerate(frames):
            keeps[index] = cutter.keeps(frame) or own is not None
            numbers[index] = cutter.episode if own is None else own[taken[index]]
        if keeps.any():
            yield Rows(frames[keeps], None if actions is None else actions[taken][keeps], numbers[keeps])


def _checked(box: Box, width: int, height: int) -> Box:
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        fix = f"Give left,top,right,bottom within 0,0,{width},{height}."
        raise ParameterError(f"The crop {box} lies outside the picture of {width}x{height}.", fix=fix)
    return box


def judge_length(frames: int, recording: Recording) -> Check:
    """Whether there are frames enough to learn from."""
    subject = Subject("length", f"{ADVISED:,} frames", "a world learns only what it has seen often")
    text = f"{frames:,} frames at {recording.fps:g} a second ({frames / recording.fps / 60:.1f} minutes)"
    if frames < recording.enough:
        return subject.fail(f"{text}; at least {recording.enough:,} are needed", "Record longer.")
    if frames < ADVISED:
        return subject.warn(text, f"Record longer: from {ADVISED:,} frames on, a world generalises.")
    return subject.ok(text)


def describe(box: Box, size: tuple[int, int], cutter: Cutter, frames: int) -> list[Check]:
    """What was found in a recording, as checks."""
    crop, cuts = Subject("crop"), Subject("cuts")
    left, top, right, bottom = box
    text = f"{right - left}x{bottom - top} of {size[0]}x{size[1]} pixels, from {left},{top}"
    out = len(cutter.left_out)
    told = f"{len(cutter.cuts)} cuts found; {out:,} still frames ({out / max(1, out + frames):.0%}) left out"
    whole = cuts.ok(told)
    if out > frames:
        whole = cuts.warn(told, "Look at the picture: record play, not menus.")
    return [crop.ok(text), whole]


# --- true actions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The true actions of a recording."""

    seconds: np.ndarray  # float64 [n], increasing: from when on
    ids: np.ndarray  # uint8 [n]: each action holds
    labels: tuple[str, ...]  # the meaning of every id

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """The ids at some moments, uint8: 0 before the first entry."""
        index = np.searchsorted(self.seconds, seconds, side="right") - 1
        return np.where(index < 0, 0, self.ids[np.maximum(index, 0)]).astype(np.uint8)


def read_keys(path: Path) -> Keys:
    """A CSV with the columns ``seconds`` and ``keys`` (such as ``left+jump``), or ``seconds`` and ``action``.

    Each line says what is held from then on; nothing where ``keys`` is empty. A key is one bit of the action
    id, in the order of appearance; an ``action`` is the id itself.

    Raises:
        ParameterError: It cannot be read, or has more than eight keys.
    """
    form = "Give lines such as `0.533,left+jump` below the heading `seconds,keys`, in order of time."
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
        seconds = np.array([float(line["seconds"]) for line in lines])
        if not len(lines) or (np.diff(seconds) < 0).any():
            raise ValueError("its times do not increase")
        if "action" in lines[0]:
            ids = np.array([int(line["action"]) for line in lines])
            return Keys(seconds, ids.astype(np.uint8), _numbered(ids))
        held = [[key.strip() for key in line["keys"].split("+") if key.strip()] for line in lines]
        names = list(dict.fromkeys(itertools.chain.from_iterable(held)))
        if not 1 <= len(names) <= _MOST_KEYS:
            raise ValueError(f"it names {len(names)} keys; 1 to {_MOST_KEYS} are possible")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ParameterError(f"{path} cannot be read as keys ({error}).", fix=form) from error
    ids = np.array([sum(1 << names.index(key) for key in set(keys)) for keys in held], np.uint8)
    every = ([key for bit, key in enumerate(names) if number >> bit & 1] for number in range(2 ** len(names)))
    return Keys(seconds, ids, tuple(" + ".join(keys) or "nothing" for keys in every))


# --- the picture ------------------------------------------------------------------------------------


def draw(
    path: Path, first: np.ndarray, box: Box, dataset: Path, cutter: Cutter, recording: Recording
) -> None:
    """One picture, a PNG: the crop, frames as the models see them, and where the recording is cut."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1.3), width_ratios=(1, 1.6))
    whole = figure.add_subplot(grid[0, 0])
    whole.imshow(Image.fromarray(first))
    left, top, right, bottom = box
    edge = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="#e08a00", lw=3)
    whole.add_patch(edge)
    whole.set_title(f"recording, {first.shape[1]}x{first.shape[0]}; the frame is what is kept", fontsize=10)
    seen = figure.add_subplot(grid[0, 1])
    with FrameDataset(dataset) as data:
        rows = np.linspace(0, len(data) - 1, 28).astype(int)
        frames = np.stack([data.clip(int(row), 1)[0] for row in rows])
    size = recording.size
    tiles = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    mosaic = tiles.reshape(4, 7, size + 2, size + 2, 3).swapaxes(1, 2).reshape(4 * (size + 2), -1, 3)
    seen.imshow(mosaic, interpolation="nearest")
    seen.set_title(f"28 of {len(data):,} frames, as the models see them ({size}x{size})", fontsize=10)
    for axes in (whole, seen):
        axes.set_axis_off()
    _draw_timeline(figure.add_subplot(grid[1, :]), cutter, recording.fps)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def _draw_timeline(axes: "object", cutter: Cutter, fps: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    changes = np.array(cutter.changes)
    bins = np.array_split(np.arange(len(changes)), min(len(changes), 1000))
    minutes = np.array([part[0] for part in bins]) / fps / 60
    axes.plot(minutes, [changes[part].max() for part in bins], lw=0.8, color="#2c5f8a", label="change")
    cuts = np.array(cutter.cuts) / fps / 60
    axes.plot(cuts, np.zeros(len(cuts)), "|", color="#e08a00", ms=14, label=f"cuts ({len(cuts)})")
    out = np.zeros(len(changes), bool)
    out[cutter.left_out] = True
    shade = [bool(out[part].any()) for part in bins]
    top = float(changes.max()) or 1.0
    axes.fill_between(minutes, 0, top, where=shade, color="#999999", alpha=0.4, lw=0, label="left out")
    axes.set_xlabel("minutes")
    axes.set_ylabel("change between frames\n(grey levels)")
    axes.legend(loc="upper right", fontsize=8, ncols=3)
    tidy_axes(axes)
