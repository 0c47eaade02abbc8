"""Where a shared world may start, and what the page cannot compute: it has no model of actions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from helpers.pictures import to_uint8
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip

COUNT = 12
"""Places to choose from."""


@dataclass(frozen=True)
class Start:
    """A place to start from. What the models see of the given frames depends on their place in the window.

    So after g generated frames, fewer than the window W, entry g/H of ``tokens`` and ``actions`` holds.
    """

    row: int  # of the dataset
    frames: np.ndarray  # uint8 [W, S, S, 3]: the given ones
    tokens: list[
        np.ndarray
    ]  # int64 [W-g, P]: of the given frames that are still seen; none with pixels feedback
    actions: list[list[int]]  # W-1-g ids, inferred: what led from one of these to the next


def find_starts(opened: OpenWorld, settings: Settings, count: int = COUNT) -> list[Start]:
    """The place that the settings name or choose, then others spread over the dataset.

    A `DatasetError` where the dataset is missing or damaged, or has no clip there.
    """
    by_hand = replace(settings, use_interactive_mode=True, teacher_forced=False)
    first = choose_clip(opened, by_hand)
    rows = [start.row for start in Game(opened, first, by_hand).starts(count)]
    rows = [first.start, *(row for row in rows if row != first.start)][:count]
    clips = [choose_clip(opened, replace(by_hand, start=row)) for row in rows]
    return [_start(opened, settings, clip.start, clip.frames) for clip in clips]


def _start(opened: OpenWorld, settings: Settings, row: int, frames: Tensor) -> Start:
    """A start from frames float ``[1, T, 3, S, S]`` in [-1, 1], of which the first W are given."""
    suite, window = opened.suite, settings.context_window
    given = frames[:, :window]
    tokens, actions = [], []
    for generated in range(0, window, settings.prediction_horizon):
        seen = given[:, generated:]
        if settings.feedback == "tokens":
            with torch.inference_mode():
                tokens.append(suite.video_tokenizer.tokenize(seen)[0].numpy())
        actions.append(suite.infer_actions(seen)[0].tolist() if seen.shape[1] > 1 else [])
    return Start(row, to_uint8(given[0]), tokens, actions)
