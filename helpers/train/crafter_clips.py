"""Cut the clips that ship with the repository: ``python -m helpers.train.crafter_clips some.npz clips.h5``.

Each clip is 32 frames of an episode of its own, the liveliest half of a recording that nothing was trained,
chosen or reported on (seeds from 3,000,000). The h5, of 72x72 pixels, has the form of `helpers.h5`.
"""

import argparse
from pathlib import Path

import numpy as np

from helpers.errors import DatasetError
from helpers.h5 import Rows, write_dataset
from helpers.train.crafter_data import Recording, has_effect, read_recording
from helpers.train.crafter_measures import kinds
from helpers.train.crafter_tiles import STEPS

LENGTH = 32


def liveliness(data: Recording, start: int) -> float:
    """How much happens in the clip that begins at row ``start``: steps taken, things done, variety."""
    rows = np.arange(start, start + LENGTH - 1)
    changes = (data.tokens[rows] != data.tokens[rows + 1]).sum(1)
    walked = (changes[np.isin(data.actions[rows], list(STEPS))] > 3).sum()
    done = has_effect(data, rows).sum()
    return float(walked + 3 * min(done, 6) + 2 * kinds(data.tokens[rows]))


def choose(data: Recording, count: int, seed: int) -> np.ndarray:
    """First rows of ``count`` clips, int64: the best of some episodes, drawn among the livelier half."""
    starts = data.starts(LENGTH)
    best = []
    for episode in np.unique(data.episodes[starts]):
        own = starts[data.episodes[starts] == episode][::8]
        scores = [liveliness(data, start) for start in own]
        best.append((max(scores), int(own[int(np.argmax(scores))])))
    if len(best) < count:
        raise DatasetError(
            f"The recording has {len(best)} episodes of {LENGTH} frames; {count} clips were asked for.",
            fix="Record more frames.",
        )
    best.sort(reverse=True)
    among = np.array([start for _, start in best[: max(count, len(best) // 2)]])
    return np.sort(np.random.default_rng(seed).choice(among, count, replace=False))


def write(path: Path, data: Recording, starts: np.ndarray, source: str) -> None:
    """Write the clips that begin at ``starts``, each an episode of its own."""
    rows = (starts[:, None] + np.arange(LENGTH)).reshape(-1)
    numbers = np.repeat(np.arange(len(starts)), LENGTH)
    # Eight frames a chunk: neighbours are nearly the same, and pack together.
    write_dataset(
        path, [Rows(data.sheet.draw(data.tokens[rows]), data.actions[rows], numbers)], source, level=9
    )


def main() -> None:
    """Cut what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = read_recording(options.recording)
    source = "crafter 1.8.3, 64x64 worlds from seed 3000000, always day, helpers.train.crafter_record"
    write(options.path, data, choose(data, options.clips, options.seed), source)
    print(f"wrote {options.path}: {options.clips} clips, {options.path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
