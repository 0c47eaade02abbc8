"""A run from start to end: `play` takes the settings' actions one after the other, or replays a session."""

import numpy as np
import torch

from helpers.play.game import Game
from helpers.play.replay import play_session
from helpers.play.settings import Settings
from helpers.play.watch import watched
from helpers.play.world import Clip, OpenWorld


def play(opened: OpenWorld, clip: Clip, settings: Settings) -> Game:
    """Play a world as the settings say, with a progress bar; the GPU, if one is used, is watched meanwhile.

    Args:
        opened: The world.
        clip: What to start from.
        settings: What `replay.recorded_settings` gave.

    Returns:
        The game, standing behind its last step; a player may go on from there.

    Raises:
        RunbookError: Of the kind that fits; an ActionError for an id that the suite has not.
    """
    if settings.replay:
        return play_session(opened, clip, settings)
    game = Game(opened, clip, settings)
    with watched(game, choose_actions(opened, clip, settings), "generating", "step") as actions:
        for action in actions:
            game.step(action, settings.teacher_forced)
    return game


def choose_actions(opened: OpenWorld, clip: Clip, settings: Settings) -> list[int | None]:
    """One action a step, from wherever the settings say.

    Raises:
        ActionError: An id given is not one of the suite's.
    """
    source, suite, horizon = settings.action_source, opened.suite, settings.prediction_horizon
    count = settings.generation_steps
    if source == "given":
        suite.check_actions(torch.tensor(settings.actions, dtype=torch.int64))
        return list(settings.actions)
    if source == "none":
        return [None] * count
    if source == "random":
        return np.random.default_rng(settings.seed).integers(suite.n_actions, size=count).tolist()
    inferred = suite.infer_actions(clip.frames)[0]  # [T-1]
    first = settings.context_window - 1
    return inferred[first : first + count * horizon : horizon].tolist()
