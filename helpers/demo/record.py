"""Record the embedded world's clips: CoinRun, played by a restless random policy.

OpenAI's Procgen (MIT, https://github.com/openai/procgen) has wheels for Python 3.10 only, so this
script runs in an environment of its own and imports nothing of the project:

    py -3.10 -m venv .venv-record
    .venv-record/bin/python -m pip install procgen==0.10.7 "numpy<2" h5py
    .venv-record/bin/python helpers/demo/record.py train.h5 --levels 0:20000 --frames 120000
    .venv-record/bin/python helpers/demo/record.py held_out.h5 --levels 1000000:1000 --frames 40000

It writes an h5 with one row per environment step:

    frames    uint8 [N, 64, 64, 3]  RGB
    actions   uint8 [N]             the action id taken *at* this frame; its effect is the next frame
    episodes  int64 [N]             rows of one episode carry one number and lie together, in order

The action id is a bit set, so that every bit of the latent action means one key:
``id = 1*left + 2*right + 4*jump``. Ids 3 and 7 (left and right together) are never recorded.
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
from procgen import ProcgenGym3Env

# Procgen's own number for each of our action ids.
PROCGEN_ACTION = {0: 4, 1: 1, 2: 7, 4: 5, 5: 2, 6: 8}
ACTION_IDS = np.array(sorted(PROCGEN_ACTION))
# A player who mostly runs right and jumps a lot gets through levels; one who picks uniformly stands still.
ACTION_WEIGHTS = np.array([0.10, 0.16, 0.30, 0.08, 0.12, 0.24])
# Keys are held for about six frames, as a person would, so that effects are visible.
CHANGE_PROBABILITY = 1 / 6


def record(path: Path, first_level: int, num_levels: int, frames: int, envs: int, seed: int) -> None:
    """Play ``envs`` games side by side until ``frames`` steps are recorded; write them to ``path``."""
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
    with h5py.File(path, "w") as file:
        # One frame a chunk: a reader takes clips from anywhere and pays for nothing else.
        file.create_dataset(
            "frames",
            data=seen.reshape(-1, 64, 64, 3),
            chunks=(1, 64, 64, 3),
            compression="gzip",
            compression_opts=1,
        )
        file["actions"] = taken.reshape(-1)
        file["episodes"] = np.cumsum(starts.reshape(-1)) - 1
        file.attrs["source"] = f"procgen coinrun easy, levels {first_level}:{num_levels}, seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--levels", default="0:20000", help="first level : number of levels")
    parser.add_argument("--frames", type=int, default=120_000)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    first_level, num_levels = (int(part) for part in options.levels.split(":"))
    record(options.path, first_level, num_levels, options.frames, options.envs, options.seed)
    print(f"wrote {options.path}")


if __name__ == "__main__":
    main()
