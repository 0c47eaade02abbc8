"""A world is opened and a clip of it chosen: the files are found, verified and loaded, the start is fixed.

The way on is `rollout.play`. Knows the worlds' files and the engine; plays nothing.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.assets import SuitePaths, find_suite, open_suite
from helpers.assets.dataset import FrameDataset, lively_starts, longest_clip, to_model_frames
from helpers.assets.find import embedded_path
from helpers.play.compute import precision
from helpers.play.settings import Settings, names
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.compiled import compile_models
from helpers.worlds import World, world

log = logging.getLogger("runbook.play")

LIVELY_CLIPS = 16
"""Clips that the seed chooses from where no start is given."""


@dataclass(frozen=True)
class OpenWorld:
    """A world ready to play."""

    world: World  # its names and numbers
    paths: SuitePaths  # where its parts lie
    suite: Suite  # the models, loaded
    hashes: dict[str, str]  # sha256 of each part's file, by the part's name
    load_seconds: float
    notes: tuple[str, ...] = ()  # what the user should know and need not stop for

    def __str__(self) -> str:
        suite = self.suite
        lines = [f"{part:<16}{path}  sha256 {self.hashes[part][:12]}" for part, path in self.paths.items()]
        size = f"{suite.parameter_count():,} parameters on {suite.device}, {suite.n_actions} actions"
        return "\n".join([f"{self.world.title}: {size}, loaded in {self.load_seconds:.1f} s", *lines])


def action_name(opened: OpenWorld, action: int) -> str:
    """What an action is called: ``"up"`` where the suite's ids are the dataset's own, else ``"action 3"``."""
    chosen = opened.world
    own = chosen.embedded and opened.paths.latent_actions == embedded_path(chosen, "latent_actions")
    return chosen.true_actions[action] if own else f"action {action}"


@dataclass(frozen=True)
class Clip:
    """The piece of play a rollout starts from."""

    start: int  # row of the dataset
    frames: Tensor  # float32 [1, T, 3, H, W] in [-1, 1]: the context, then as far as the dataset goes
    true_actions: np.ndarray | None  # int64 [T-1] where the dataset holds them


class WorldCache:
    """Worlds and starts found before in this process, for a kernel that runs one notebook after another.

    Without effect until `keep` is called. It holds one suite: a GPU may not hold two.
    """

    def __init__(self) -> None:
        self._keeps = False
        self._world: tuple[object, list[tuple[int, int]], OpenWorld] | None = None
        self._starts: dict[object, Sequence[int]] = {}

    def keep(self, keeps: bool) -> None:
        """Keep from now on what is opened and found; False forgets everything."""
        self._keeps = keeps
        if not keeps:
            self._world = None
            self._starts.clear()

    def open(self, settings: Settings, root: Path) -> OpenWorld:
        """The world kept, if its files are unchanged and the settings mean the same; else opened anew."""
        key = root, *(getattr(settings, name) for name in ("dataset", *names("place", "speed")))
        loaded = "loaded"
        if self._world and self._world[0] == key and self._world[1] == _stamps(self._world[2]):
            opened, loaded = self._world[2], "loaded before"
        else:
            self._world = None
            opened = _open(settings, root)
            if self._keeps:
                self._world = key, _stamps(opened), opened
        for part, path in opened.paths.items():
            log.info("%s %s %s sha256 %s", loaded, part, path, opened.hashes[part])
        return opened

    def lively_starts(self, data: FrameDataset, length: int) -> Sequence[int]:
        """`lively_starts` of a dataset; looked up where its file is as it was."""
        key = data.path, data.path.stat().st_mtime_ns, data.skip, data.first_frame, len(data), length
        starts = self._starts.get(key) or lively_starts(data, length, LIVELY_CLIPS)
        if self._keeps:
            self._starts[key] = starts
        return starts


def _stamps(opened: OpenWorld) -> list[tuple[int, int]]:
    """Time and size of each of a world's files."""
    facts = [path.stat() for _, path in opened.paths.items()]
    return [(stat.st_mtime_ns, stat.st_size) for stat in facts]


open_worlds = WorldCache()
"""The cache of this process; only a sweep's kernels switch it on."""


def open_world(settings: Settings, root: Path = ROOT) -> OpenWorld:
    """Find a world's files and load its suite.

    A `RunbookError` of the kind that fits: a file is missing or wrong, or the device cannot be used.
    """
    return open_worlds.open(settings, root)


def _open(settings: Settings, root: Path) -> OpenWorld:
    chosen = world(settings.dataset)
    given = (settings.video_tokenizer_path, settings.latent_actions_path, settings.dynamics_path)
    latest = settings.use_latest_checkpoints
    paths = find_suite(chosen.name, root, *given, use_latest_checkpoints=latest)
    began = time.perf_counter()
    suite, hashes = open_suite(chosen, paths, root, settings.device)
    load_seconds = time.perf_counter() - began
    note = compile_models(suite, partial(_try_step, suite, settings)) if settings.compile else ""
    return OpenWorld(chosen, paths, suite, hashes, load_seconds, (note,) if note else ())


def _try_step(suite: Suite, settings: Settings) -> None:
    context = torch.zeros(1, settings.context_window, 3, suite.frame_size, suite.frame_size)
    with precision(settings, suite.device):
        session = Session(suite, context, settings.context_window, settings.prediction_horizon)
        session.step(None if suite.dynamics.config.action_dim is None else 0)


def choose_clip(opened: OpenWorld, settings: Settings) -> Clip:
    """The clip to start from: the row ``settings.start``, or a lively one chosen by the seed.

    Raises:
        DatasetError: The dataset is missing, damaged, or shorter than what the settings need of the truth:
            all frames to be generated with inferred actions or teacher forcing, the context otherwise.
    """
    chosen, start = opened.world, settings.start
    with FrameDataset(opened.paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        length = longest_clip(data, start, *settings.clip_lengths)
        if start < 0:
            lively = open_worlds.lively_starts(data, length)
            start = lively[settings.seed % len(lively)]
        frames = torch.from_numpy(to_model_frames(data.clip(start, length), opened.suite.frame_size))
        true_actions = data.clip_actions(start, length)
    log.info("clip of %d frames from row %d of %s", length, start, opened.paths.dataset)
    return Clip(start, frames, true_actions)
