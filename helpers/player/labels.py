"""What each action id does, learned from data: nobody names the actions that a latent action model learned.

A spread sample of the dataset goes through the latent action model. For each id, a label says how often it
was inferred, how the player moved meanwhile and, where the dataset holds true actions, which of them it
stands for. Labels are kept in ``data/<world>_actions.json`` with the hashes of the files that they were made
from; when one of these changes, they are made again.
"""

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.pictures import to_uint8
from helpers.play.world import OpenWorld
from helpers.report import write_json
from helpers.run_folder import ROOT

log = logging.getLogger("runbook.action_labels")

METHOD = 3  # raised whenever labels are made by another method, so that kept ones are made again
LABEL_CLIPS = 128  # to learn from what the actions do: some seconds on a slow CPU, once for a world
CLIP = 5  # frames: what latent action models are trained on
BATCH = 16
DEAD = 0.005  # of all inferred actions
MOVES = 0.25  # pixels a frame: what counts as motion
CHANGED = 0.05  # of the grey scale: what counts as a pixel that changed
SIZE = 64  # pixels: larger frames are measured at about this size
REACH = 9  # pixels of these: the farthest a picture is taken to shift between two frames


@dataclass(frozen=True)
class ActionLabel:
    """What is known of one action id. Motion is in pixels a frame, x to the right and y downwards."""

    id: int
    name: str  # the true action it stands for, or else how the player moves; "unused" if dead
    count: int = 0  # how often it was inferred
    share: float = 0.0  # of all inferred actions, 0 to 1
    dead: bool = False  # whether it was hardly ever inferred (`DEAD`): the models do not know it either
    motion: tuple[float, float] = (0.0, 0.0)  # how the player moves against the world, the mean
    effect: tuple[float, float] = (0.0, 0.0)  # that, less the mean over all actions: what choosing it changes
    true_action: int | None = None  # which one it stands for; None if it is dead or there are none
    certainty: float | None = None  # how often it was that one when this id was inferred, 0 to 1

    @property
    def arrow(self) -> str:
        """The effect as one of eight arrows; "·" for none."""
        return _compass(self.effect, "→↘↓↙←↖↑↗", "·")


def label_actions(opened: OpenWorld, clips: int = LABEL_CLIPS, root: Path = ROOT) -> list[ActionLabel]:
    """The label of every action id: those kept in ``root/data``, or made now (half a minute on a slow CPU).

    At most ``clips`` clips of 5 frames are looked at, spread evenly over the dataset; a `DatasetError` where
    it cannot be read.
    """
    path, count = root / "data" / f"{opened.world.name}_actions.json", opened.suite.n_actions
    hashes = {part: opened.hashes[part] for part in ("dataset", "latent_actions")}
    made_from = {"method": METHOD, "clips": clips, **hashes}
    if (labels := _read(path, made_from, count)) is None:
        labels = describe(*sample(opened, clips), count, opened.world.true_actions)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"made_from": made_from, "labels": [asdict(label) for label in labels]})
        except OSError as error:
            log.info("the action labels could not be written to %s (%s)", path, error.strerror or error)
    return labels


def _read(path: Path, made_from: dict[str, Any], count: int) -> list[ActionLabel] | None:
    """Labels kept in a file; None where there are none, or they are damaged or of other files."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        labels = [
            ActionLabel(
                id=int(entry["id"]),
                name=str(entry["name"]),
                count=int(entry["count"]),
                share=float(entry["share"]),
                dead=bool(entry["dead"]),
                motion=(float(entry["motion"][0]), float(entry["motion"][1])),
                effect=(float(entry["effect"][0]), float(entry["effect"][1])),
                true_action=None if entry["true_action"] is None else int(entry["true_action"]),
                certainty=None if entry["certainty"] is None else float(entry["certainty"]),
            )
            for entry in kept["labels"]
        ]
        if kept["made_from"] == made_from and [label.id for label in labels] == list(range(count)):
            return labels
    return None


def sample(opened: OpenWorld, clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of N pairs of frames, from clips spread over the dataset: actions, and how the player moved.

    Inferred actions are int64 ``[N]``, motion is float ``[N, 2]``, true actions are int64 ``[N]`` or None.
    """
    world, suite = opened.world, opened.suite
    inferred, motion, true = [], [], []
    with FrameDataset(opened.paths.dataset, world.skip, world.first_frame) as data:
        starts = data.starts(CLIP)
        rows = np.unique(np.linspace(0, len(starts) - 1, clips).astype(int))
        for batch in np.array_split(np.asarray(starts)[rows], math.ceil(len(rows) / BATCH)):
            read = [data.clip(int(start), CLIP) for start in batch]
            frames = np.concatenate([to_model_frames(clip, suite.frame_size) for clip in read])
            inferred.append(suite.infer_actions(torch.from_numpy(frames)).flatten().cpu().numpy())
            grey = to_uint8(frames).mean(-1) / 255  # [B, CLIP, H, W] in [0, 1]
            motion += [player_motion(*pair) for clip in grey for pair in itertools.pairwise(clip)]
            true += [data.clip_actions(int(start), CLIP) for start in batch]
    known = [actions for actions in true if actions is not None]
    return np.concatenate(inferred), np.array(motion), np.concatenate(known) if known else None


def player_motion(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How the player moves against the world between frames of grey values, float ``[H, W]`` in [0, 1].

    In pixels to the right, and downwards. Where a shift explains changes all over the picture, the camera
    follows the player: the player moves the other way. Where only a part of it changes, that part is what
    moves, and its optical flow is the motion.

    Sources: Jain and Jain, "Displacement measurement and its application in interframe image coding" (1981),
    for the shift, by trying all of them; Le Besnerais and Champagnat, "Dense optical flow by iterative local
    window registration" (2005), in scikit-image, for the flow.
    """
    from skimage.measure import block_reduce
    from skimage.registration import optical_flow_ilk

    scale = max(1, len(before) // SIZE)
    height, width = (side // scale * scale for side in before.shape)
    pair = [block_reduce(image[:height, :width], scale, np.mean) for image in (before, after)]
    before, after = np.asarray(pair, np.float32)
    changed = np.abs(after - before) > CHANGED
    if not changed.any():
        return 0.0, 0.0
    down, right = picture_shift(before, after)
    tiles = [tile.any() for rows in np.array_split(changed, 4, 0) for tile in np.array_split(rows, 4, 1)]
    if (down or right) and np.mean(tiles) > 0.35:
        return float(-right * scale), float(-down * scale)
    if changed.mean() > 0.3:  # nearly all of it changed, and not by a shift: a cut, a flash
        return 0.0, 0.0
    y, x = optical_flow_ilk(before, after, radius=5)  # [H, W] each
    return float(x[changed].mean() * scale), float(y[changed].mean() * scale)


def picture_shift(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """Pixels, up to `REACH`, by which the whole picture moved down and to the right.

    (0, 0) also where no shift explains at least a quarter of what changed.
    """
    if min(before.shape) <= 2 * REACH:
        return 0, 0
    middle = before[REACH:-REACH, REACH:-REACH]
    windows = np.lib.stride_tricks.sliding_window_view(after, middle.shape)  # [2R+1, 2R+1, h, w]
    difference = np.abs(windows - middle)  # entry [REACH, REACH] is no shift
    changed = difference[REACH, REACH] > CHANGED
    if not changed.any():
        return 0, 0
    # What stands still, such as an inventory, must not outvote what moved; it only decides between equals.
    difference = difference[:, :, changed].mean(2) + difference.mean((2, 3)) / 100
    if difference.min() > 0.75 * difference[REACH, REACH]:
        return 0, 0
    down, right = np.unravel_index(difference.argmin(), difference.shape)
    return int(down) - REACH, int(right) - REACH


def describe(
    inferred: np.ndarray, motion: np.ndarray, true: np.ndarray | None, count: int, names: Sequence[str] = ()
) -> list[ActionLabel]:
    """The labels of ``count`` action ids, from a `sample`; ``names`` are those of the true actions, if known.

    An id stands for the true action it coincides with most: the times both are there, of the times either is
    (Jaccard's index), which neither the commonest action nor a chance of the rarest can win. Where all ids
    stand for the true actions of their own numbers, so does one that is never inferred and yet was taken: to
    do nothing, or to walk against a wall, looks the same.
    """
    labels = []
    for action in range(count):
        here = inferred == action
        number, share = int(here.sum()), float(here.mean())
        moved = motion[here].mean(0) if number else np.zeros(2)
        effect = moved - motion.mean(0) if number else moved
        name, stands_for, certainty = _compass(effect, ("right", "down", "left", "up"), "still"), None, None
        if share < DEAD:
            name = "unused"
        elif true is not None:
            together = np.bincount(true[here], minlength=true.max() + 1)
            stands_for = int((together / (number + np.bincount(true) - together)).argmax())
            certainty = float(together[stands_for] / number)
            name = names[stands_for] if stands_for < len(names) else name
        pairs = tuple(moved.tolist()), tuple(effect.tolist())
        labels.append(ActionLabel(action, name, number, share, share < DEAD, *pairs, stands_for, certainty))
    if true is None or any(label.true_action != label.id for label in labels if not label.dead):
        return labels
    return [
        replace(label, name=names[label.id], dead=False, true_action=label.id)
        if label.dead and label.id < len(names) and label.id in true
        else label
        for label in labels
    ]


def _compass(motion: Iterable[float], points: Sequence[str], still: str) -> str:
    """Which of a compass's points, clockwise from the right, a motion goes to; ``still`` for none."""
    x, y = motion
    turn = math.atan2(y, x) / math.tau
    return still if math.hypot(x, y) < MOVES else points[round(turn * len(points)) % len(points)]
