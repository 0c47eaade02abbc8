"""What each action id does, learned from data: nobody names the actions that a latent action model found.

    for label in label_actions(opened):
        print(label.id, label.name, label.share, label.motion)
    key_map(labels)                   # {"ArrowLeft": 1, "KeyA": 1, …, "Digit0": 0, …}

A spread sample of the dataset goes through the latent action model; for each id it is counted how often it
was inferred, measured how the player moved meanwhile, and, where the dataset holds true actions, compared
which of them it stands for. The result is kept in ``data/<world>_actions.json``, with the hashes of what it
was made from; when one of these changes, it is made again.
"""

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.pictures import to_uint8
from helpers.play.world import OpenWorld
from helpers.report import write_json
from helpers.run_folder import ROOT
from helpers.worldmodel import Suite

log = logging.getLogger("runbook.action_labels")

METHOD = 1
"""Changes whenever labels are made in another way, so that kept ones are made again."""

CLIP = 5  # frames: what latent action models are trained on
BATCH = 16
DEAD = 0.005  # of all inferred actions
MOVES = 0.25  # pixels a frame: what counts as motion
CHANGED = 0.05  # of the grey scale: what counts as a pixel that changed
SIZE = 64  # pixels: larger frames are measured at about this size
REACH = 6  # pixels of these: the farthest a picture is taken to shift between two frames

_KEYS = {
    "left": ("ArrowLeft", "KeyA"),
    "right": ("ArrowRight", "KeyD"),
    "up": ("ArrowUp", "KeyW"),
    "down": ("ArrowDown", "KeyS"),
    "jump": ("ArrowUp", "KeyW", "Space"),
    "left + jump": ("KeyQ",),
    "right + jump": ("KeyE",),
    "nothing": ("ArrowDown", "KeyS"),
}
"""Which keys (as a browser names them, ``event.code``) suggest themselves for what an action does."""


@dataclass(frozen=True)
class ActionLabel:
    """What is known of one action id.

    Args:
        id: The action id.
        name: In a word: the true action it stands for, or else how the player moves; "unused" if dead.
        count: How often it was inferred.
        share: Of all inferred actions, 0 to 1.
        dead: Whether it was never or almost never inferred (less than 1 in 200 times): what it does is then
            unknown to the models as well.
        motion: How the player moves against the world, mean pixels a frame, x to the right and y downwards.
        effect: That, less the mean over all actions: what choosing this one changes.
        true_action: Which true action it stands for; None if it is dead or there are none.
        certainty: How often, when this id was inferred, that was the true action; 0 to 1, None likewise.
        keys: Suggested keys, as ``event.code`` names them, beside its digit; () where none suggests itself.
    """

    id: int
    name: str
    count: int
    share: float
    dead: bool
    motion: tuple[float, float]
    effect: tuple[float, float]
    true_action: int | None
    certainty: float | None
    keys: tuple[str, ...]

    @property
    def arrow(self) -> str:
        """The effect as one of eight arrows; "·" for none."""
        x, y = self.effect
        if math.hypot(x, y) < MOVES:
            return "·"
        return "→↘↓↙←↖↑↗"[round(math.atan2(y, x) / (math.pi / 4)) % 8]


def label_actions(opened: OpenWorld, clips: int = 256, root: Path = ROOT) -> list[ActionLabel]:
    """The label of every action id: the kept ones, or made now (half a minute on a slow CPU) and kept.

    Args:
        opened: The world.
        clips: At most so many clips of 5 frames are looked at, spread evenly over the dataset.
        root: The folder that holds ``data/``.

    Raises:
        DatasetError: The dataset cannot be read.
    """
    kept = root / "data" / f"{opened.world.name}_actions.json"
    made_from = {
        "method": METHOD,
        "clips": clips,
        "dataset": opened.hashes["dataset"],
        "latent_actions": opened.hashes["latent_actions"],
    }
    labels = read_labels(kept, made_from, opened.suite.n_actions)
    if labels is None:
        labels = describe(*sample(opened, clips), opened.suite.n_actions, opened.world.true_actions)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"made_from": made_from, "labels": [asdict(label) for label in labels]})
        except OSError as error:
            log.info("the action labels cannot be kept in %s (%s)", kept, error.strerror or error)
    return labels


def read_labels(path: Path, made_from: dict[str, Any], count: int) -> list[ActionLabel] | None:
    """Labels kept in a file; None where there are none, or they are damaged or of something else."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        labels = [
            ActionLabel(
                id=int(each["id"]),
                name=str(each["name"]),
                count=int(each["count"]),
                share=float(each["share"]),
                dead=bool(each["dead"]),
                motion=(float(each["motion"][0]), float(each["motion"][1])),
                effect=(float(each["effect"][0]), float(each["effect"][1])),
                true_action=None if each["true_action"] is None else int(each["true_action"]),
                certainty=None if each["certainty"] is None else float(each["certainty"]),
                keys=tuple(map(str, each["keys"])),
            )
            for each in kept["labels"]
        ]
        if kept["made_from"] == made_from and [label.id for label in labels] == list(range(count)):
            return labels
    return None


def sample(opened: OpenWorld, clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Look at clips spread over the dataset.

    Returns:
        Of each pair of frames: the inferred action int64 ``[N]``, how the player moved float ``[N, 2]``, and
        the true action int64 ``[N]`` where there is one.
    """
    world = opened.world
    found, motion, true = [], [], []
    with FrameDataset(opened.paths.dataset, world.skip, world.first_frame) as data:
        starts = data.starts(CLIP)
        rows = np.unique(np.linspace(0, len(starts) - 1, clips).astype(int))
        for batch in np.array_split(rows, math.ceil(len(rows) / BATCH)):
            read = [data.clip(int(starts[row]), CLIP) for row in batch]
            frames = np.concatenate([to_model_frames(clip, opened.suite.frame_size) for clip in read])
            found.append(_inferred(opened.suite, frames))
            grey = to_uint8(frames).mean(-1) / 255  # [B, CLIP, H, W] in [0, 1]
            motion += [player_motion(*pair) for clip in grey for pair in itertools.pairwise(clip)]
            true += [data.clip_actions(int(starts[row]), CLIP) for row in batch]
    known = [actions for actions in true if actions is not None]
    return np.concatenate(found), np.array(motion), np.concatenate(known) if known else None


def _inferred(suite: Suite, frames: np.ndarray) -> np.ndarray:
    """The actions between the frames ``[B, T, 3, H, W]``: int64 ``[B*(T-1)]``."""
    return suite.infer_actions(torch.from_numpy(frames)).flatten().cpu().numpy()


def player_motion(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How the player moves against the world from one frame to the next.

    Where a shift explains changes all over the picture, the camera follows the player: the player moves the
    other way. Where only a part of it changes, that part is what moves, and its optical flow is the motion.

    Sources: Jain and Jain, "Displacement measurement and its application in interframe image coding" (1981),
    for the shift, by trying all of them; Le Besnerais and Champagnat, "Dense optical flow by iterative local
    window registration" (2005), in scikit-image, for the flow.

    Args:
        before: Grey values float ``[H, W]`` in [0, 1].
        after: Likewise.

    Returns:
        Pixels to the right, and downwards.
    """
    from skimage.registration import optical_flow_ilk

    every = max(1, len(before) // SIZE)
    before, after = (_smaller(image, every) for image in (before, after))
    changed = np.abs(after - before) > CHANGED
    if not changed.any():
        return 0.0, 0.0
    down, right = picture_shift(before, after)
    if (down or right) and _spread(changed) > 0.35:
        return float(-right * every), float(-down * every)
    if changed.mean() > 0.3:  # nearly all of it changed, and not by a shift: a cut, a flash
        return 0.0, 0.0
    flow = optical_flow_ilk(before, after, radius=5)  # [2, H, W], rows first
    return float(flow[1][changed].mean() * every), float(flow[0][changed].mean() * every)


def _smaller(image: np.ndarray, every: int) -> np.ndarray:
    """An image ``[H, W]`` with the mean of each square of ``every`` pixels: ``[H // every, W // every]``."""
    height, width = (side // every * every for side in image.shape)
    whole = image[:height, :width].reshape(height // every, every, width // every, every)
    return np.asarray(whole.mean((1, 3)), np.float32)


def _spread(changed: np.ndarray) -> float:
    """How much of the picture a mask ``[H, W]`` reaches: the share of its 16 tiles that have any of it."""
    tiles = [tile for rows in np.array_split(changed, 4, 0) for tile in np.array_split(rows, 4, 1)]
    return float(np.mean([tile.any() for tile in tiles]))


def picture_shift(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """By how much the whole picture moved, in pixels down and to the right; up to `REACH` each way.

    (0, 0) also where no shift explains at least a quarter of what changed.
    """
    height, width = before.shape
    if min(height, width) <= 2 * REACH:
        return 0, 0
    middle = before[REACH : height - REACH, REACH : width - REACH]
    windows = np.lib.stride_tricks.sliding_window_view(after, middle.shape)  # [2R+1, 2R+1, h, w]
    apart = np.abs(windows - middle).mean((2, 3))  # entry [REACH, REACH] is no shift
    if apart.min() > 0.75 * apart[REACH, REACH]:
        return 0, 0
    down, right = np.unravel_index(apart.argmin(), apart.shape)
    return int(down) - REACH, int(right) - REACH


def describe(
    found: np.ndarray, motion: np.ndarray, true: np.ndarray | None, count: int, names: Sequence[str] = ()
) -> list[ActionLabel]:
    """Labels from what was sampled; the arguments are as `sample` returns them.

    An id stands for the true action it coincides with most: the times both are there, of the times either is
    (Jaccard's index), which neither the commonest action nor a chance of the rarest can win.

    Args:
        found: int64 ``[N]``.
        motion: float ``[N, 2]``.
        true: int64 ``[N]`` or None.
        count: How many ids there are.
        names: Of the true actions; () if nobody knows them.
    """
    labels = []
    usual = motion.mean(0)
    for action in range(count):
        here = found == action
        share = float(here.mean())
        dead = share < DEAD
        x, y = motion[here].mean(0).tolist() if here.any() else (0.0, 0.0)
        effect = (x - float(usual[0]), y - float(usual[1])) if here.any() else (0.0, 0.0)
        stands_for, certainty = None, None
        if true is not None and not dead:
            taken = np.bincount(true)
            together = np.bincount(true[here], minlength=len(taken))
            either = here.sum() + taken - together
            stands_for = int((together / either).argmax())
            certainty = float(together[stands_for] / here.sum())
        known = stands_for is not None and stands_for < len(names)
        name = names[stands_for] if known and stands_for is not None else _direction(*effect)
        labels.append(
            ActionLabel(
                id=action,
                name="unused" if dead else name,
                count=int(here.sum()),
                share=share,
                dead=dead,
                motion=(x, y),
                effect=effect,
                true_action=stands_for,
                certainty=certainty,
                keys=(),
            )
        )
    return suggest_keys(labels)


def _direction(x: float, y: float) -> str:
    """The word for a motion: "right", "left", "down", "up", or "still"."""
    if math.hypot(x, y) < MOVES:
        return "still"
    return ("right" if x > 0 else "left") if abs(x) >= abs(y) else ("down" if y > 0 else "up")


def suggest_keys(labels: Sequence[ActionLabel]) -> list[ActionLabel]:
    """The labels with keys: for each meaning, the id that has it most surely gets the keys that suggest it.

    Which id that is: the one whose true action is the surest, or else whose effect is the largest.
    """

    def strength(label: ActionLabel) -> float:
        return math.hypot(*label.effect) if label.certainty is None else label.certainty

    free = {key for keys in _KEYS.values() for key in keys}
    keys: dict[int, tuple[str, ...]] = {}
    for label in sorted(labels, key=strength, reverse=True):
        named = "nothing" if label.name == "still" else label.name
        wanted = () if label.dead else _KEYS.get(named, ())
        if wanted and set(wanted) <= free:
            keys[label.id] = wanted
            free -= set(wanted)
    return [ActionLabel(**{**asdict(label), "keys": keys.get(label.id, ())}) for label in labels]


def key_map(labels: Sequence[ActionLabel]) -> dict[str, int]:
    """Which key takes which action: the suggested keys, and a digit, then a free letter, for every id.

    Returns:
        Action ids by key, as ``event.code`` names it: ``"ArrowLeft"``, ``"KeyA"``, ``"Space"``, ``"Digit3"``.
    """
    keys = {key: label.id for label in labels for key in label.keys}
    letters = (f"Key{letter}" for letter in "ZXCVBNMFGHJKLRTYUIOP")
    for label in labels:
        name = f"Digit{label.id}" if label.id < 10 else next(letters, "")
        if name:
            keys[name] = label.id
    return keys


def idle_action(labels: Sequence[ActionLabel]) -> int:
    """The action for when no key is down: the one that stands for nothing, or else that of least motion."""
    alive = [label for label in labels if not label.dead] or list(labels)
    named = [label for label in alive if label.name == "nothing"]
    return min(named or alive, key=lambda label: math.hypot(*label.motion)).id
