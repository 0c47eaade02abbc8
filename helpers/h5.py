"""The one writer of datasets: an h5 with frames, and the actions and episodes beside them.

One row a frame, in the published form that `helpers.assets.dataset.FrameDataset` and training read:

    frames    uint8 [N, H, W, 3]  RGB
    actions   uint8 [N]           the id taken *at* this frame; its effect is the next frame. May be missing
    episodes  int64 [N]           rows of one episode carry one number and lie together, in order

Needs numpy and h5py only: `helpers.train.coinrun_record` runs in an environment without torch.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from helpers.files import written_whole
from helpers.run_folder import writing


class Rows(NamedTuple):
    """Rows to append to a dataset."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    actions: np.ndarray | None  # uint8 [T]; None where nobody knows them
    episodes: int | np.ndarray  # the episode's number, or one a row, int64 [T]


def write_dataset(
    path: Path, parts: Iterable[Rows], source: str, chunk: int = 8, level: int = 4, fix: str = ""
) -> tuple[int, int]:
    """Write a dataset whole or not at all, part after part as they come; how many frames and episodes it has.

    Args:
        path: The h5; its folder is made.
        parts: At least one, with or without actions alike. Of what is written only the parts at hand, and
            the numbers beside the frames, are held in memory.
        source: Where the frames come from, in words.
        chunk: Frames stored together: several pack better, one is read faster alone.
        level: Of gzip, 0 to 9.
        fix: What to do where the disk refuses.

    Raises:
        OutputError: It cannot be written.
    """
    actions: list[np.ndarray] = []
    episodes: list[np.ndarray] = []
    with writing(path, fix or "Free some disk, or choose another place."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial, h5py.File(partial, "w") as file:
            for frames, taken, numbers in parts:
                if not episodes:
                    size = frames.shape[1:]
                    file.create_dataset(
                        *("frames", (0, *size), np.uint8),
                        chunks=(chunk, *size),
                        maxshape=(None, *size),
                        compression="gzip",
                        compression_opts=level,
                    )
                data = file["frames"]
                data.resize(len(data) + len(frames), 0)
                data[len(data) - len(frames) :] = frames
                episodes.append(np.broadcast_to(np.asarray(numbers, np.int64), len(frames)))
                if taken is not None:
                    actions.append(taken.astype(np.uint8))
            if actions:
                file["actions"] = np.concatenate(actions)
            numbers_written = np.concatenate(episodes)
            file["episodes"] = numbers_written
            file.attrs["source"] = source
    return len(numbers_written), len(np.unique(numbers_written))
