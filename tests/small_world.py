"""A world of random weights and a dataset of random frames: all that a game needs, in milliseconds a step."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from golden_cases import random_suite

from helpers.assets import SuitePaths
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip
from helpers.worlds import world

SETTINGS = Settings(
    context_window=3, temperature=0.0, steps=3, start=5, generation_steps=4, use_interactive_mode=True
)
SHAPES = (
    {"context_window": 3, "steps": 4},
    {"context_window": 3, "steps": 3, "prediction_horizon": 2},
    {"context_window": 2, "steps": 2, "feedback": "pixels"},
)
"""Settings under which a step has as many shapes as there are."""
ROWS, EPISODE = 60, 20


def small_world(folder: Path, seed: int = 2) -> OpenWorld:
    """The world, opened, with its dataset in ``folder``: three episodes of 20 frames."""
    random = np.random.default_rng(0)
    with h5py.File(folder / "clips.h5", "w") as file:
        file["frames"] = random.integers(0, 256, (ROWS, 12, 12, 3), np.uint8)
        file["actions"] = random.integers(0, 4, ROWS, np.uint8)
        file["episodes"] = np.repeat(np.arange(ROWS // EPISODE), EPISODE)
    parts = ("video_tokenizer", "latent_actions", "dynamics")
    paths = SuitePaths(folder / "clips.h5", *(folder / f"{part}.pth" for part in parts))
    hashes = {part: f"{number + 16 * seed:064x}" for number, part in enumerate(("dataset", *parts))}
    return OpenWorld(world("coinrun"), paths, random_suite(seed), hashes, 0.0)


def settings(**changes: object) -> Settings:
    """The settings of a small game."""
    return replace(SETTINGS, **changes)


def clip(opened: OpenWorld, chosen: Settings = SETTINGS):
    """The clip that the settings choose."""
    return choose_clip(opened, chosen)
