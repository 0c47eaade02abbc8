"""The first player, driven through its widgets as JupyterLab drives them, without a browser."""

import io
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.player import WAITING, Player, open_player, played
from helpers.rollout import OpenWorld, Settings, choose_clip, open_world, roll_out

SETTINGS = Settings(use_interactive_mode=True, actions=(2, 6), steps=2)


@pytest.fixture(scope="module")
def opened() -> OpenWorld:
    return open_world(SETTINGS)


@pytest.fixture
def player(opened: OpenWorld) -> Iterator[Player]:
    clip = choose_clip(opened, SETTINGS)
    player = Player(opened, clip, SETTINGS, roll_out(opened, clip, SETTINGS))
    yield player
    player.close()


def shown(player: Player) -> np.ndarray:
    with Image.open(io.BytesIO(player.image.value)) as image:
        return np.asarray(image)


def test_it_goes_on_from_the_actions_that_were_given(player: Player) -> None:
    assert player.rollout().actions == [2, 6]
    assert shown(player).shape == (384, 384, 3)


def test_a_button_and_the_field_both_take_a_step(player: Player) -> None:
    before = shown(player)
    player.buttons[1].click()
    assert player.wait()
    player.field.value = "5"
    assert player.wait()
    assert player.rollout().actions == [2, 6, 1, 5]
    assert not np.array_equal(shown(player), before)
    assert player.field.value == ""


@pytest.mark.parametrize("text", ["8", "-1", "left", "1.5"])
def test_an_id_that_is_none_is_refused_beside_the_field_and_play_goes_on(player: Player, text: str) -> None:
    player.field.value = text
    assert "0 to 7" in player.message.value
    player.buttons[0].click()
    assert player.wait()
    assert player.rollout().actions == [2, 6, 0]


def test_reset_goes_back_to_the_clip(player: Player) -> None:
    player.reset_button.click()
    assert player.wait()
    assert player.rollout().actions == []
    player.ask(3)
    assert player.rollout().actions == [3]


def test_clicks_beyond_a_few_are_dropped_rather_than_queued(player: Player) -> None:
    for _ in range(20):
        player.ask(0)
    assert player.wait()
    assert 1 <= len(player.rollout().actions) - 2 <= WAITING + 1


def test_closing_ends_its_thread(player: Player) -> None:
    thread = next(thread for thread in threading.enumerate() if thread.name == "player" and thread.is_alive())
    player.close()
    thread.join(5)
    assert not thread.is_alive()


def test_without_interactive_mode_there_is_no_player(opened: OpenWorld) -> None:
    settings = replace(SETTINGS, use_interactive_mode=False)
    clip = choose_clip(opened, settings)
    rollout = roll_out(opened, clip, settings)
    assert open_player(opened, clip, settings, rollout) is None
    assert played(None, rollout) is rollout


def test_a_step_that_fails_is_reported_and_the_next_one_taken(
    player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(player._session, "step", lambda _: 1 / 0)
        player.ask(0)
        assert player.wait()
    assert "ZeroDivisionError" in player.message.value
    player.ask(1)
    assert player.rollout().actions == [2, 6, 1]
