"""Record the embedded world's clips: CoinRun, played by a restless random policy.

OpenAI's Procgen (MIT, https://github.com/openai/procgen) has wheels for Python 3.10 only, so this
script runs in an environment of its own, from this repository's folder:

  python3.10 -m pip install procgen==0.10.7 "numpy<2" h5py
  python3.10 -m helpers.train.coinrun_record train.h5 --levels 0:20000 --frames 160000
  python3.10 -m helpers.train.coinrun_record clips.h5 --levels 1000000:1000 --frames 40000 --seed 2 --clips 64

With ``--clips`` only that many clips of 32 frames are kept, each from an episode of its own in which the
player moves most of the time: what the repository ships, from levels that no model was trained on.

It writes an h5 of 64x64 pixels in the form of `helpers.h5`, one row per environment step.

The action id is a bit set, so that every bit of the latent action means one key:
``id = 1*left + 2*right + 4*jump``. Ids 3 and 7 (left and right together) are never recorded.
"""

import argparse
from pathlib import Path

import numpy as np
from procgen import ProcgenGym3Env

from helpers.h5 import Rows, write_dataset

# Procgen's own number for each of our action ids.
PROCGEN_ACTION = {0: 4, 1: 1, 2: 7, 4: 5, 5: 2, 6: 8}
ACTION_IDS = np.array(sorted(PROCGEN_ACTION))
# A player who mostly runs right and jumps a lot gets through levels; one who picks uniformly stands still.
ACTION_WEIGHTS = np.array([0.10, 0.16, 0.30, 0.08, 0.12, 0.24])
# Keys are held for about six frames, as a person would, so that effects are visible.
CHANGE_PROBABILITY = 1 / 6
CLIP = 32


def record(first_level: int, num_levels: int, frames: int, envs: int, seed: int) -> dict[str, np.ndarray]:
    """Play ``envs`` games side by side until ``frames`` steps are recorded; the three columns of the h5."""
    game = ProcgenGym3Env(
        num=envs,
        env_name="coinrun",
        distribution_mode="easy",
        start_level=first_level,
        num_levels=num_levels,
        rand_seed=seed,
    )
    rng = np.random.default_rng(seed)
    steps = -(-frames // envs)
    seen = np.empty((envs, steps, 64, 64, 3), np.uint8)
    taken = np.empty((envs, steps), np.uint8)
    starts = np.empty((envs, steps), bool)
    held = rng.choice(ACTION_IDS, envs, p=ACTION_WEIGHTS)
    for step in range(steps):
        _, observation, first = game.observe()
        change = first | (rng.random(envs) < CHANGE_PROBABILITY)
        held = np.where(change, rng.choice(ACTION_IDS, envs, p=ACTION_WEIGHTS), held)
        seen[:, step], taken[:, step], starts[:, step] = observation["rgb"], held, first
        game.act(np.array([PROCGEN_ACTION[int(action)] for action in held], np.int32))
    starts[:, 0] = True
    return {
        "frames": seen.reshape(-1, 64, 64, 3),
        "actions": taken.reshape(-1),
        "episodes": np.cumsum(starts.reshape(-1)) - 1,
    }


def cut(columns: dict[str, np.ndarray], clips: int, seed: int) -> dict[str, np.ndarray]:
    """Keep ``clips`` clips, each from an episode of its own, drawn at random from those that move."""
    frames, episodes = columns["frames"], columns["episodes"]
    changes = np.abs(frames[1:].astype(np.int16) - frames[:-1]).mean((1, 2, 3)) > 1
    starts = []
    for episode in np.unique(episodes):
        rows = np.flatnonzero(episodes == episode)
        lively = [row for row in rows[: -CLIP + 1 or None] if changes[row : row + CLIP - 1].mean() > 0.8]
        starts += lively[len(lively) // 2 : len(lively) // 2 + 1]
    chosen = np.sort(np.random.default_rng(seed).choice(starts, clips, replace=False))
    kept = (chosen[:, None] + np.arange(CLIP)).reshape(-1)
    return {name: column[kept] for name, column in columns.items()} | {
        "episodes": np.repeat(np.arange(clips), CLIP)
    }


def main() -> None:
    """Record what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--levels", default="0:20000", help="first level : number of levels")
    parser.add_argument("--frames", type=int, default=120_000)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=0, help="keep only this many lively clips; 0 keeps all")
    options = parser.parse_args()
    first_level, num_levels = (int(part) for part in options.levels.split(":"))
    columns = record(first_level, num_levels, options.frames, options.envs, options.seed)
    if options.clips:
        columns = cut(columns, options.clips, options.seed)
    source = f"procgen 0.10.7 coinrun easy, levels {options.levels}, seed {options.seed}"
    # One frame a chunk: a reader takes clips from anywhere and pays for nothing else.
    write_dataset(options.path, [Rows(**columns)], source, chunk=1, level=9)
    print(f"wrote {options.path}")


if __name__ == "__main__":
    main()
