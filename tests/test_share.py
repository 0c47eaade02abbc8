"""A world as one file: its graph computes what the engine does, and the page holds what was put there."""

import numpy as np
import onnxruntime
import pytest
import torch
from golden_cases import random_suite
from small_world import clip, settings, small_world

from helpers.assets.dataset import to_model_frames
from helpers.errors import SuiteError
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.share.starts import find_starts
from helpers.share.step import export
from helpers.worldmodel.session import generator


class Graph:
    """A world played by its graph alone, as the page plays it."""

    def __init__(self, opened, chosen):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = export(opened.suite, chosen)
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.start, self.settings = find_starts(opened, chosen, 1)[0], chosen
        self.frames = to_model_frames(self.start.frames, opened.suite.frame_size)[0]
        self.tokens = np.empty((0, opened.suite.dynamics.config.grid**2), np.int32)
        self.actions: list[int] = []

    def step(self, action):
        chosen, generated = self.settings, len(self.tokens)
        window, horizon = chosen.context_window, chosen.prediction_horizon
        place, some_given = generated // horizon, generated < window
        if chosen.feedback == "pixels":
            seen = self.frames[-window:]
        else:
            given = self.start.tokens[place] if some_given else self.tokens[:0]
            seen = np.concatenate([given, self.tokens])[-window:].astype(np.int32)
        known = (self.start.actions[place] if some_given else []) + self.actions
        acting = np.array([*known[len(known) - (window - 1) :], *[action] * horizon], np.int32)
        shape = self.session.get_inputs()[2].shape
        inputs = {
            "seen": seen,
            "actions": acting,
            "uniform": torch.rand(*shape, generator=generator(chosen.seed, generated)).numpy(),
            "temperature": np.array(chosen.temperature, np.float32),
        }
        tokens, frames = self.session.run(None, inputs)
        self.tokens = np.concatenate([self.tokens, tokens])
        self.frames = np.concatenate([self.frames, frames])
        self.actions += [action] * horizon


def played(opened, start, chosen, steps):
    """The tokens of some steps by the engine and by the graph, both ``[steps * H, P]``."""
    game, graph = Game(opened, start, chosen), Graph(opened, chosen)
    for action in np.random.default_rng(0).integers(opened.suite.n_actions, size=steps).tolist():
        game.step(action)
        graph.step(action)
    return game.tokens, graph.tokens


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    "changes",
    [
        {"context_window": 3, "steps": 4},
        {"context_window": 3, "steps": 3, "prediction_horizon": 2},
        {"context_window": 2, "steps": 2, "feedback": "pixels"},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_a_worlds_graph_gives_the_engines_tokens(tmp_path, changes, temperature):
    opened, chosen = small_world(tmp_path), settings(temperature=temperature, **changes)
    by_engine, by_graph = played(opened, clip(opened, chosen), chosen, 12)

    assert np.array_equal(by_engine, by_graph)


def test_crafters_graph_gives_the_engines_tokens_and_is_small():
    chosen = Settings(use_interactive_mode=True)
    opened = open_world(chosen)
    by_engine, by_graph = played(opened, choose_clip(opened, chosen), chosen, 40)

    assert np.array_equal(by_engine, by_graph)
    assert len(export(opened.suite, chosen)) < 8e6


def test_a_world_whose_dynamics_take_no_actions_cannot_be_shared():
    with pytest.raises(SuiteError, match="takes no actions"):
        export(random_suite(conditioned=False), settings())
