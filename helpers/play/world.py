"""A world is opened and a clip of it chosen: the files are found, verified and loaded, the start is fixed.

The way on is `rollout.play`. Knows the worlds' files and the engine; plays nothing.
"""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.assets.fetch import (
    SuitePaths,
    find_suite,
    require_unchanged,
    safe_checkpoints,
    weights_file,
)
from helpers.assets.hub import sha256_of
from helpers.errors import DatasetError
from helpers.play.compute import precision
from helpers.play.settings import Settings, names
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite, load_suite
from helpers.worldmodel.layers import Transformer
from helpers.worlds import World, world

log = logging.getLogger("runbook.play")

LIVELY_CLIPS = 16
"""Clips that the seed chooses from where no start is given."""


@dataclass(frozen=True)
class OpenWorld:
    """A world ready to play.

    Args:
        world: Its names and numbers.
        paths: Where its parts lie.
        suite: The models, loaded.
        hashes: sha256 of each part's file, by the part's name.
        load_seconds: How long loading took.
        notes: What the user should know and need not stop for.
    """

    world: World
    paths: SuitePaths
    suite: Suite
    hashes: dict[str, str]
    load_seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        suite = self.suite
        lines = [f"{part:<16}{path}  sha256 {self.hashes[part][:12]}" for part, path in self.paths.items()]
        size = f"{suite.parameter_count():,} parameters on {suite.device}, {suite.n_actions} actions"
        return "\n".join([f"{self.world.title}: {size}, loaded in {self.load_seconds:.1f} s", *lines])


@dataclass(frozen=True)
class Clip:
    """The piece of play a rollout starts from.

    Args:
        start: Row of the dataset.
        frames: float32 ``[1, T, 3, H, W]`` in [-1, 1]: the context and, as far as the dataset goes, the rest.
        true_actions: int64 ``[T-1]`` where the dataset holds them, else None.
    """

    start: int
    frames: Tensor
    true_actions: np.ndarray | None


class WorldCache:
    """Worlds and starts found before in this process, for a kernel that runs one notebook after another.

    Empty and without effect until `keep` is called. It holds one suite: a GPU may not hold two.
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
        if self._world is not None and self._world[0] == key and self._world[1] == _stamps(self._world[2]):
            kept = self._world[2]
            for part, path in kept.paths.items():
                log.info("loaded before %s %s sha256 %s", part, path, kept.hashes[part])
            return kept
        self._world = None
        opened = _open(settings, root)
        if self._keeps:
            self._world = key, _stamps(opened), opened
        return opened

    def lively_starts(self, data: FrameDataset, length: int) -> Sequence[int]:
        """`lively_starts` of a dataset; looked up where its file is as it was."""
        stamp = data.path.stat().st_mtime_ns
        key = data.path, stamp, data.skip, data.first_frame, len(data), length
        starts = self._starts.get(key) or lively_starts(data, length, LIVELY_CLIPS)
        if self._keeps:
            self._starts[key] = starts
        return starts


def _stamps(opened: OpenWorld) -> list[tuple[int, int]]:
    """Time and size of each of a world's files."""
    found = [path.stat() for _, path in opened.paths.items()]
    return [(stat.st_mtime_ns, stat.st_size) for stat in found]


open_worlds = WorldCache()
"""The cache of this process; only a sweep's kernels switch it on."""


def open_world(settings: Settings, root: Path = ROOT) -> OpenWorld:
    """Find a world's files and load its suite.

    Raises:
        RunbookError: Of the kind that fits: a file is missing or wrong, or the device cannot be used.
    """
    return open_worlds.open(settings, root)


def _open(settings: Settings, root: Path) -> OpenWorld:
    chosen = world(settings.dataset)
    paths = find_suite(
        chosen.name,
        root,
        settings.video_tokenizer_path,
        settings.latent_actions_path,
        settings.dynamics_path,
        use_latest_checkpoints=settings.use_latest_checkpoints,
    )
    began = time.perf_counter()
    require_unchanged(chosen, paths, root)
    checkpoints = safe_checkpoints(paths, root)
    suite = load_suite(**checkpoints, device=settings.device)
    load_seconds = time.perf_counter() - began
    hashes = {
        part: sha256_of(weights_file(path) if part != "dataset" else path) for part, path in paths.items()
    }
    for part, path in paths.items():
        log.info("loaded %s %s sha256 %s", part, path, hashes[part])
    notes = [compile_models(suite, settings)] if settings.compile else []
    return OpenWorld(chosen, paths, suite, hashes, load_seconds, tuple(note for note in notes if note))


def compile_models(suite: Suite, settings: Settings) -> str:
    """Compile the models in place and try them; where that fails, why, and they run as they were."""
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    transformers = [part for model in models for part in model.modules() if isinstance(part, Transformer)]
    for transformer in transformers:
        transformer.compile()
    size, window = suite.frame_size, settings.context_window
    try:
        with precision(settings, suite.device):
            session = Session(
                suite, torch.zeros(1, window, 3, size, size), window, settings.prediction_horizon
            )
            session.step(0)
    except Exception as error:  # torch.compile raises whatever its back ends and compilers raise
        for transformer in transformers:
            transformer._compiled_call_impl = None  # what Module.compile set; torch has no call to undo it
        return f"compile was asked for and failed ({type(error).__name__}); the models run as they are"
    return ""


def choose_clip(opened: OpenWorld, settings: Settings) -> Clip:
    """The clip to start from: the row ``settings.start``, or a lively one chosen by the seed.

    Raises:
        DatasetError: The dataset is missing, damaged, or shorter than what the settings need of the truth:
            all frames to be generated with inferred actions or teacher forcing, the context otherwise.
    """
    chosen = opened.world
    wanted = settings.context_window + settings.generation_steps * settings.prediction_horizon
    needs_truth = settings.teacher_forced or settings.action_source == "ground truth"
    with FrameDataset(opened.paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        length = wanted
        if not needs_truth:
            length = longest_clip(data, settings.start, settings.context_window, wanted)
        if settings.start >= 0:
            start = settings.start
        else:
            lively = open_worlds.lively_starts(data, length)
            start = lively[settings.seed % len(lively)]
        pixels = data.clip(start, length)
        frames = torch.from_numpy(to_model_frames(pixels, opened.suite.frame_size))
        true_actions = data.clip_actions(start, length)
    log.info("clip of %d frames from row %d of %s", length, start, opened.paths.dataset)
    return Clip(start, frames, true_actions)


def longest_clip(data: FrameDataset, start: int, shortest: int, wanted: int) -> int:
    """The most frames, up to ``wanted``, of a clip from ``start`` (-1: from anywhere); at least ``shortest``.

    Raises:
        DatasetError: Not even ``shortest`` frames fit.
    """

    def fits(length: int) -> bool:
        with contextlib.suppress(DatasetError):
            return start in data.starts(length) if start >= 0 else len(data.starts(length)) > 0
        return False

    low, high = shortest, wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    data.starts(low)
    return low
