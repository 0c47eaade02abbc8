"""The gauge tells the world's own pictures from scrambled, flat and faded ones, and finds the way back."""

from collections.abc import Callable

import numpy as np
import pytest
from small_world import clip, settings, small_world

from helpers.assets.dataset import FrameDataset, to_model_frames
from helpers.pictures import to_uint8
from helpers.play import reality
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip, open_world
from helpers.player.autopilot import CrafterPilot
from helpers.player.gauge import Gauge, calibrated


@pytest.fixture(scope="module")
def crafter() -> OpenWorld:
    return open_world(Settings(dataset="crafter"))


@pytest.fixture(scope="module")
def gauge(crafter: OpenWorld) -> Gauge:
    return calibrated(crafter, crafter.world.context_window)


@pytest.fixture(scope="module")
def frames(crafter: OpenWorld) -> np.ndarray:
    """Frames of the data that the gauge did not see: uint8 ``[30, 72, 72, 3]``."""
    with FrameDataset(crafter.paths.dataset) as data:
        rows = [data.clip(row, 1) for row in range(5, 2045, 68)]
    return np.stack([to_uint8(to_model_frames(row, 72)[0, 0]) for row in rows])


def scrambled(frame: np.ndarray) -> np.ndarray:
    patches = frame.reshape(9, 8, 9, 8, 3).swapaxes(1, 2).reshape(81, 8, 8, 3)
    patches = patches[np.random.default_rng(0).permutation(81)]
    return patches.reshape(9, 9, 8, 8, 3).swapaxes(1, 2).reshape(72, 72, 3)


@pytest.mark.parametrize(
    "spoilt",
    [
        scrambled,
        lambda frame: np.zeros_like(frame),
        lambda frame: np.full_like(frame, 128),
        lambda frame: np.tile(frame[:8, :8], (9, 9, 1)),
        lambda frame: frame // 3,
        lambda frame: np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8),
    ],
    ids=["scrambled", "black", "grey", "one tile", "faded", "noise"],
)
def test_it_fires_on_what_the_data_never_shows(
    gauge: Gauge, frames: np.ndarray, spoilt: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert min(gauge(spoilt(frame)) for frame in frames) > 0.8


def test_it_is_silent_on_the_data_and_on_a_healthy_walk(
    crafter: OpenWorld, gauge: Gauge, frames: np.ndarray
) -> None:
    assert max(map(gauge, frames)) < 0.5
    chosen = Settings(seed=3, use_interactive_mode=True, steps=1)
    game, pilot = Game(crafter, choose_clip(crafter, chosen), chosen), CrafterPilot(3)
    walk = [game.step(pilot(game.last_tokens))[-1] for _ in range(60)]
    assert max(map(gauge, walk)) < 0.5


def test_the_nearest_clip_ends_with_the_very_frame_where_the_data_has_it(
    crafter: OpenWorld, gauge: Gauge
) -> None:
    chosen = Settings(start=int(gauge.starts[7]), use_interactive_mode=True)
    assert gauge.nearest(Game(crafter, choose_clip(crafter, chosen), chosen).frame) == chosen.start


@pytest.fixture
def game(tmp_path_factory: pytest.TempPathFactory) -> Game:
    """A small world whose pictures are strange from the sixth step on."""
    opened, chosen = small_world(tmp_path_factory.mktemp("world")), settings()
    game = Game(opened, clip(opened, chosen), chosen)
    game.judge = lambda _frame: float(game.generated >= 5)
    return game


def test_a_game_counts_how_long_it_was_kept_real_and_knows_the_last_good_frame(game: Game) -> None:
    def state() -> tuple[int, float, int]:
        back = reality.last_good(game.back(), needed=3)
        return next(game.back()).real, reality.strain(game.back()), game.generated - back

    for count in range(9):
        game.step(count % 4)
    assert state() == (5, 1.0, 5)
    game.rewind(5)
    assert state() == (5, 0.0, 5)
    game.judge = lambda _frame: 0.2
    game.step(3)
    assert state() == (6, 0.05, 6)
    game.judge = lambda _frame: 1.0
    game.rewind(0)
    for _ in range(3):
        game.step(1)
    assert state() == (0, 0.75, 0)


def test_a_world_is_stuck_when_nothing_changes_whatever_is_done(game: Game) -> None:
    for count in range(30):
        game.step(count % 3)
        assert not reality.stuck(game.back())
    for moment in game.back():
        moment.hashes = ["same"]
    assert reality.stuck(game.back())
    for moment in game._path()[1:]:
        moment.move = moment.move._replace(action=1)  # one key held against a wall
    assert not reality.stuck(game.back())
