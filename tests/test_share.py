"""A world as one file: its graph computes what the engine does, and the page holds what was put there."""

import numpy as np
import onnxruntime
import pytest
import torch
from golden_cases import random_suite
from small_world import SHAPES, settings, small_world

from helpers.assets.dataset import to_model_frames
from helpers.errors import AssetError, SuiteError
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.share.runtime import ARCHIVE, Registry, open_runtime
from helpers.share.starts import find_starts
from helpers.share.step import export
from helpers.worldmodel.session import generator


class Graph:
    """A world played by its graph alone, as the page plays it."""

    def __init__(self, opened, chosen, graph):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
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
        tokens, frames, self.margin = self.session.run(None, inputs)
        self.tokens = np.concatenate([self.tokens, tokens])
        self.frames = np.concatenate([self.frames, frames])
        self.actions += [action] * horizon


def played(opened, chosen, graph, steps):
    """The tokens of some steps by the engine and by the graph, both ``[steps * H, P]``."""
    game, graph = Game(opened, choose_clip(opened, chosen), chosen), Graph(opened, chosen, graph)
    for action in np.random.default_rng(0).integers(opened.suite.n_actions, size=steps).tolist():
        game.step(action)
        graph.step(action)
    return game.tokens, graph.tokens


@pytest.mark.parametrize(
    "changes", SHAPES, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items())
)
def test_a_worlds_graph_gives_the_engines_tokens_greedily_and_sampled(tmp_path, changes):
    opened = small_world(tmp_path)
    graph = export(opened.suite, settings(**changes))

    for temperature in (0.0, 0.7):
        by_engine, by_graph = played(opened, settings(temperature=temperature, **changes), graph, 12)
        assert np.array_equal(by_engine, by_graph)


def test_crafters_graph_gives_the_engines_tokens():
    chosen = Settings(device="cpu", use_interactive_mode=True)
    opened = open_world(chosen)
    by_engine, by_graph = played(opened, chosen, export(opened.suite, chosen), 40)

    assert np.array_equal(by_engine, by_graph)


def test_a_world_whose_dynamics_take_no_actions_cannot_be_shared():
    with pytest.raises(SuiteError, match="takes no actions"):
        export(random_suite(conditioned=False), settings())


def test_without_network_the_missing_runtime_is_named_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(AssetError, match=r"--registry, or put onnxruntime-web-\S+\.tgz into"):
        open_runtime(folder=tmp_path)


def test_the_runtime_comes_from_the_mirror_that_npm_uses(monkeypatch):
    monkeypatch.setenv("npm_config_registry", "https://mirror.example/npm/")

    assert Registry().url(ARCHIVE).startswith("https://mirror.example/npm/onnxruntime-web/-/onnxruntime-web-")
    assert (
        Registry("https://other.example").url(ARCHIVE).startswith("https://other.example/onnxruntime-web/-/")
    )
