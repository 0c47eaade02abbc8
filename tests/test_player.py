"""The player without a browser: its loop, its keys, and its two fronts, driven as a page drives them."""

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import clip, settings, small_world

from helpers.errors import ParameterError
from helpers.play import recording as session_file
from helpers.play.game import Game, Going
from helpers.play.rollout import play
from helpers.play.world import OpenWorld
from helpers.player import captures, keeping, open_player, paused
from helpers.player.keeping import Keeper
from helpers.player.keycaps import Keycaps
from helpers.player.keymap import KeyMap, action_id, default_keys, load_keys, save_keys
from helpers.player.labels import ActionLabel, label_actions
from helpers.player.loop import BEHIND, QUEUE, SILENT, Backlog, Loop, Step
from helpers.player.plain import PlainPlayer
from helpers.player.widget import Player
from helpers.presets import choose as presets
from helpers.presets import measure

SETTINGS = settings(actions=(2, 0))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenWorld:
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def game(opened: OpenWorld) -> Game:
    return play(opened, clip(opened, SETTINGS), SETTINGS)


class Output(list[Any]):
    """What a loop drew and reported."""

    def reports(self) -> list[str]:
        return [item for item in self if isinstance(item, str)]

    def steps(self) -> list[Step]:
        return [item for item in self if isinstance(item, Step)]

    def actions(self) -> list[int]:
        return [step.action for step in self.steps()]


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def loop(game: Game, output: Output) -> Iterator[Loop]:
    loop = Loop(game, output.append, output.append, fps=60, idle=0)
    yield loop
    loop.sleep()


def until(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)
    return happened()


# --- the loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cores", "threads"), [(2, 1), (1, 1), (None, 1), (64, 2)])
def test_a_core_is_left_to_the_browser_while_the_thread_lives(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        used: list[int] = []
        loop.put(lambda: used.append(torch.get_num_threads()))
        assert loop.wait()
        assert used == [threads]
        assert torch.get_num_threads() == 2
    finally:
        loop.sleep()
        torch.set_num_threads(before)


def test_a_tap_takes_one_step_and_tells_which_press_it_answers(loop: Loop, output: Output) -> None:
    loop.tap(3, press=7)
    assert loop.wait()
    assert [(step.action, step.press, step.generated) for step in output] == [(3, 7, 3)]


def test_a_tap_may_be_taken_several_times_and_ends_with_the_thread(loop: Loop, output: Output) -> None:
    loop.tap(3, press=7, times=4)
    assert loop.wait()
    assert [(step.action, step.generated) for step in output.steps()] == [(3, 3), (3, 4), (3, 5), (3, 6)]
    loop.tap(3, times=10_000)
    assert until(lambda: len(output.steps()) > 5)
    loop.sleep()
    assert not loop.alive and len(output.steps()) < 1000


def test_while_it_plays_the_held_action_is_taken_and_the_idle_one_without(loop: Loop, output: Output) -> None:
    loop.wake()
    loop.play(True)
    assert until(lambda: output.actions().count(0) >= 2)
    loop.hold(3)
    assert until(lambda: output.actions().count(3) >= 2)
    for step in list(output):
        loop.drawn(step.sequence)
    loop.hold(None)
    assert until(lambda: output.actions()[-1] == 0)
    loop.play(False)
    assert loop.wait()
    count = len(output)
    time.sleep(0.2)
    assert len(output) == count


def test_a_press_shorter_than_a_step_is_still_one_step(loop: Loop, output: Output) -> None:
    loop.wake()
    loop.play(True)
    assert until(lambda: len(output) >= 1)
    loop.hold(2, press=3)
    loop.hold(None)
    assert until(lambda: 2 in output.actions())
    assert [step.press for step in output if step.action == 2] == [3]


def test_it_waits_for_a_page_that_lags_and_pauses_when_it_is_gone(
    loop: Loop, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.player.loop.BEHIND", 0.2)
    monkeypatch.setattr("helpers.player.loop.SILENT", 1.0)
    loop.wake()
    loop.play(True)
    assert until(lambda: not loop.playing)  # nothing is ever reported as drawn
    assert output.reports() == ["Paused: the page has not been seen for a while."]
    count = len(output.actions())
    time.sleep(0.2)
    assert len(output.actions()) == count


def test_a_backlog_is_as_old_as_the_oldest_step_that_was_not_reported_as_drawn() -> None:
    backlog = Backlog()
    for sequence, now in ((1, 10.0), (2, 10.5), (3, 11.0)):
        backlog.append((sequence, now))
    assert backlog.age(11.2) == pytest.approx(1.2)
    backlog.drawn(2)
    assert backlog.age(11.2) == pytest.approx(0.2)
    backlog.drawn(3)
    assert backlog.age(99.0) == 0.0
    assert BEHIND < SILENT


def test_requests_beyond_a_few_are_dropped_rather_than_queued(loop: Loop) -> None:
    gate = threading.Event()
    loop.put(gate.wait)
    taken = [loop.put(lambda: None) for _ in range(30)]
    gate.set()
    assert QUEUE - 1 <= taken.count(True) <= QUEUE
    assert loop.wait()


def test_a_failing_step_is_reported_and_the_next_one_is_taken(loop: Loop, output: Output) -> None:
    loop.put(lambda: loop.game.rewind(1000))
    loop.put(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    loop.tap(1)
    assert loop.wait() and until(lambda: output.actions() == [1])
    assert "Going to frame 1000" in output.reports()[0]
    assert output.reports()[1] == "ZeroDivisionError: division by zero"


def test_long_work_says_how_far_it_is_and_another_wish_ends_it(game: Game, output: Output) -> None:
    told: list[tuple[str, float]] = []
    loop = Loop(game, output.append, output.append, fps=60, idle=0, progress=lambda *word: told.append(word))
    ended: list[bool] = []

    def work(going: Going) -> bool:
        return all(going(1, 4) for _ in iter(lambda: time.sleep(0.001), 0))

    loop.put(lambda: ended.append(loop.work("{} parts", work)))
    assert until(lambda: len(told) >= 2) and not ended
    loop.tap(3)
    assert loop.wait()
    assert ended == [False] and output.actions() == [3]
    assert told[0] == ("4 parts", 0.25) and told[-1] == ("", 1.0)
    loop.sleep()


def test_sleeping_ends_the_thread_and_waking_starts_one(loop: Loop) -> None:
    assert loop.wake() and loop.alive
    loop.sleep()
    assert not loop.alive
    loop.tap(1)
    assert loop.wait() and loop.alive


# --- keys ----------------------------------------------------------------------------------------------


def label(action: int, name: str, certainty: float | None = None) -> ActionLabel:
    return ActionLabel(action, name, 9, 0.2, certainty=certainty)


def test_keys_held_together_stand_for_two_things_done_at_once() -> None:
    labels = [label(0, "nothing"), label(1, "jump"), label(2, "right + jump"), label(3, "right")]
    keys = default_keys(labels)
    assert "Space" in keys.keys[1] and "ArrowRight" in keys.keys[3]
    assert "ArrowRight+Space" in keys.keys[2] and "Digit2" in keys.keys[2]
    assert keys.idle == 0


def test_a_key_map_is_kept_and_read_back(tmp_path: Path) -> None:
    keys = KeyMap({0: ("KeyX",), 1: ("ArrowLeft+Space", "Digit1")}, idle=1)
    path = tmp_path / "data" / "coinrun_keys.json"
    assert load_keys(path, 2) == (None, "")
    save_keys(path, keys)
    assert load_keys(path, 2) == (keys, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "A key map is"),
        ('{"keys": {"9": ["KeyA"]}}', "'9' is not an action id"),
        ('{"keys": {"0": ["rm -rf"]}}', "is not a key"),
        ('{"keys": {"0": "KeyA"}}', "are no list"),
        ('{"keys": {"0": ["KeyA"], "1": ["KeyA"]}}', "KeyA stands for two actions"),
        ('{"keys": {}, "idle": true}', "'True' is not an action id"),
        ("{", "could not be read"),
    ],
)
def test_a_key_map_that_is_none_is_left_alone_and_the_note_says_why(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content, encoding="utf-8")
    keys, note = load_keys(path, 2)
    assert keys is None
    assert reason in note and note.endswith("using the default keys.")


# --- the console ---------------------------------------------------------------------------------------


class Page:
    """What a page does to a player, and hears from it."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.heard: list[tuple[dict[str, Any], list[bytes]]] = []
        player.send = lambda content, buffers=None: self.heard.append((content, buffers or []))

    def say(self, **content: Any) -> None:
        self.player._receive(self.player, content, [])
        assert self.player.loop.wait()

    def last(self, kind: str) -> tuple[dict[str, Any], list[bytes]]:
        return next(message for message in reversed(self.heard) if message[0]["type"] == kind)

    def actions(self) -> list[int | None]:
        """The actions of the branch where play stands; play is paused."""
        with paused(self.player):
            return self.player.game.rollout().actions


@pytest.fixture
def page(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setattr("helpers.player.widget.LABEL_CLIPS", 8)
    player = Player(game, tmp_path, tmp_path)
    page = Page(player)
    page.say(type="hello")
    yield page
    player.close()


def test_it_learns_the_labels_once_and_then_is_ready(page: Page) -> None:
    state = page.player.state
    assert state["phase"] == "ready"
    assert sum(label["count"] for label in state["labels"]) == 8 * 4
    assert (page.player._root / "data" / "coinrun_actions.json").is_file()


def test_a_button_a_field_and_a_key_all_take_a_step(page: Page) -> None:
    page.say(type="tap", action=1, press=1)
    page.say(type="hold", action=3, press=2)
    page.say(type="hold", action=None)
    assert page.actions() == [2, 0, 1, 3]
    content, buffers = page.last("frame")
    assert (content["press"], content["generated"]) == (2, 4)
    assert np.array_equal(np.frombuffer(buffers[0], np.uint8), page.player.game.frame.reshape(-1))


@pytest.mark.parametrize("action", [4, -1, "2", 1.5, True])
def test_an_id_that_is_none_is_refused_and_play_goes_on(page: Page, action: Any) -> None:
    page.say(type="tap", action=action)
    assert "0 to 3" in page.last("refused")[0]["text"]
    page.say(type="tap", action=0)
    assert page.actions() == [2, 0, 0]


def test_rewinding_and_stepping_opens_a_branch_and_the_first_can_be_selected(page: Page) -> None:
    page.say(type="rewind", to=1)
    assert page.last("strip")[0]["generated"] == 1
    page.say(type="tap", action=1)
    assert (page.player.state["branch"], len(page.player.state["branches"])) == (1, 2)
    page.say(type="select", branch=0)
    assert page.actions() == [2, 0]
    page.say(type="rewind", to=10**9)
    assert page.player.state["generated"] == 2


def test_what_is_set_holds_and_what_cannot_be_is_said(page: Page) -> None:
    page.say(type="set", name="temperature", value="0.7")
    page.say(type="set", name="seed", value=str(2**62 + 1))
    page.say(type="set", name="feedback", value="pixels")
    page.say(type="set", name="fps", value="60")
    state = page.player.state
    assert (state["temperature"], state["seed"], state["feedback"], state["fps"]) == (
        0.7,
        str(2**62 + 1),
        "pixels",
        60,
    )
    page.say(type="set", name="fps", value="nan")
    assert "fps is 'nan'" in page.player.state["note"] and page.player.loop.fps == 60
    page.say(type="set", name="fps", value="61")
    assert "fps is 61. Use 1 to 60." in page.player.state["note"] and page.player.loop.fps == 60
    page.say(type="set", name="steps", value="999")
    assert "steps is 999. Use 1 to" in page.player.state["note"]
    page.say(type="set", name="steps", value="0")
    assert "steps is 0" in page.player.state["note"]
    page.say(type="set", name="steps", value="many")
    assert "steps is 'many'" in page.player.state["note"]
    assert page.player.state["steps"] == 3


def test_a_refusal_stands_until_what_it_is_about_is_mended(page: Page) -> None:
    state = lambda: (page.player.state["about"], bool(page.player.state["note"]))  # noqa: E731
    page.say(type="set", name="fps", value="500")
    assert state() == ("fps", True)
    page.say(type="set", name="seed", value="4")
    page.say(type="tap", action=1)
    assert state() == ("fps", True)
    page.say(type="set", name="fps", value="12")
    assert state() == ("", False)
    page.say(type="save", kind="everything")
    assert state() == ("", True)
    page.say(type="tap", action=1)  # whatever is done next
    assert state() == ("", False)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "run", "code": "1"},
        {"type": "tap"},
        {"type": "set", "name": "fps", "value": None},
        {"type": "set", "name": "fps", "value": "nan"},
        {"type": "save", "kind": "../x"},
        {"type": "keys", "keys": {"keys": {"0": [5]}}},
        {"type": "rewind", "to": "x"},
        {"type": "what_if", "frames": 10**400},
        {"type": "_save"},
        {},
        "play",
    ],
    ids=str,
)
def test_whatever_a_page_says_does_no_harm(page: Page, content: Any) -> None:
    page.player._receive(page.player, content, [])
    assert page.player.loop.wait() and page.player.loop.alive
    page.say(type="tap", action=3)
    assert page.actions() == [2, 0, 3]


def test_what_is_saved_can_be_opened(page: Page) -> None:
    page.say(type="tap", action=1)
    page.say(type="save", kind="film")
    assert page.last("saved")[0]["path"].split(" and ")[1].endswith("film_01.mp4")
    for kind in ("png", "mp4", "gif", "session"):
        page.say(type="save", kind=kind, overlay=True)
        path = Path(page.last("saved")[0]["path"])
        assert path.is_file()
        if kind == "png":
            with Image.open(path) as picture:
                assert picture.size == (384, 384)
        if kind == "session":
            events = session_file.read(path)["events"]
            assert [event["action"] for event in events if event["event"] == "step"] == [2, 0, 1]


def test_a_film_shows_the_branch_above_its_keys_and_the_truth_beside_it_where_it_follows_the_data(
    opened: OpenWorld, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    caps = Keycaps([ActionLabel(action, "") for action in range(4)], KeyMap({1: ("ArrowLeft",)}), 432)
    for chosen in (SETTINGS, settings(generation_steps=2)):
        game = play(opened, clip(opened, chosen), chosen)
        gif, mp4 = captures.film(game, caps, tmp_path, 8)
        with Image.open(gif) as picture, av.open(str(mp4)) as video:
            first = np.asarray(picture.convert("RGB"))[: -caps.height].astype(int)
            assert sum(1 for _ in video.decode(video=0)) == len(game.rollout().frames)
        left, right = np.split(first, 2, axis=1)
        # The given frames are the true ones: twice the same picture, or one across both halves.
        assert (np.abs(left - right).mean() < 2) == bool(game.rollout().psnr)
    assert [path.name for path in (gif, mp4)] == ["film_02.gif", "film_02.mp4"]


def test_what_if_and_the_starts_are_shown_and_change_nothing(page: Page) -> None:
    before = page.player.game.frame.copy()
    page.say(type="what_if", frames=2)
    assert page.last("what_if")[0] == {"type": "what_if", "actions": 4, "length": 2}
    futures = [message for message in page.heard if message[0]["type"] == "future"]
    assert [content["action"] for content, _ in futures] == [0, 1, 2, 3]
    assert {len(buffers) for _, buffers in futures} == {2}
    told = [content for content, _ in page.heard if content["type"] == "progress"]
    assert told[0]["text"] == "looking ahead: 4 futures" and told[-1]["text"] == ""
    page.say(type="starts")
    rows = page.last("starts")[0]["rows"]
    assert np.array_equal(page.player.game.frame, before)
    page.say(type="restart", start=rows[0])
    assert (page.player.state["start"], page.player.state["generated"]) == (rows[0], 0)


def test_a_future_that_is_lived_becomes_the_branch_frame_by_frame_and_runs_no_model(page: Page) -> None:
    page.say(type="rewind", to=1)
    page.say(type="what_if", frames=3)
    future = next(buffers for content, buffers in page.heard if content == {"type": "future", "action": 3})
    steps = len(page.player.game.clock.seconds)
    page.say(type="live", action=3, frames=3)
    assert len(page.player.game.clock.seconds) == steps
    assert page.actions() == [2, 3, 3, 3] and page.player.state["branch"] == 1
    assert page.last("strip")[1][-3:] == future
    page.say(type="live", action="3", frames=3)
    assert "0 to 3" in page.player.state["note"]


def test_a_lost_world_goes_back_to_its_last_good_frame_or_to_a_true_one(page: Page) -> None:
    game = page.player.game
    assert game.judge is not None and 0 <= page.player.state["gauge"] <= 1
    game.judge = lambda _frame: float(game.generated >= 5)
    page.say(type="tap", action=1, times=7)
    state = page.player.state
    assert (state["generated"], state["gauge"], state["stuck"]) == (9, 1.0, False)
    page.say(type="last_good")
    assert (page.player.state["generated"], page.player.state["gauge"]) == (5, 0.0)
    page.say(type="true_frame")
    state = page.player.state
    assert state["start"] in page.player._gauge.starts and (state["generated"], state["undo"]) == (0, 0)
    assert "Undo goes back" in state["note"]
    page.say(type="resume", play=0)
    assert page.player.state["generated"] == 5


# --- nothing is lost -----------------------------------------------------------------------------------


def test_reset_and_clips_can_be_undone(page: Page) -> None:
    assert page.player.state["undo"] is None
    page.say(type="rewind", to=1)
    page.say(type="tap", action=3)
    page.say(type="restart", start=24)
    assert (page.player.state["undo"], page.player.state["start"], page.actions()) == (0, 24, [])
    page.say(type="resume", play=0)
    state = page.player.state
    assert (state["start"], state["undo"], len(state["branches"])) == (5, 1, 2)
    assert page.actions() == [2, 3] and page.last("strip")[0]["generated"] == 2
    page.say(type="resume", play=7)
    assert "no play 7" in page.player.state["note"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play is kept at once, not after seconds."""
    monkeypatch.setattr(keeping, "EVERY", 0.05)
    monkeypatch.setattr(keeping, "SOON", 0.0)


def kept(path: Path) -> list[int]:
    """The actions in a session file; none before there is one."""
    if not path.exists():
        return []
    events = session_file.read(path)["events"]
    return [event["action"] for event in events if event["event"] == "step"]


def test_what_is_played_is_in_the_session_file_moments_later_and_no_thread_stays(
    quick: None, page: Page, tmp_path: Path
) -> None:
    page.player._receive(page.player, {"type": "play", "on": True}, [])
    assert until(lambda: len(kept(tmp_path / "session.json")) >= 4)
    assert page.player.loop.playing  # it was kept while it went on
    page.say(type="play", on=False)
    page.say(type="tap", action=3)
    taken = page.player.game.rollout().actions
    assert until(lambda: kept(tmp_path / "session.json") == taken)
    assert session_file.read(tmp_path) == page.player.game.recording()
    assert until(lambda: "keeper" not in {thread.name for thread in threading.enumerate()})


def test_another_session_in_the_folder_is_left_alone_and_a_beginning_is_gone_on_with(
    game: Game, opened: OpenWorld, tmp_path: Path
) -> None:
    Keeper(game, tmp_path, tmp_path).save()
    game.step(1)
    Keeper(game, tmp_path, tmp_path).save()
    other = Game(opened, clip(opened, SETTINGS), SETTINGS)
    other.step(3)
    Keeper(other, tmp_path, tmp_path).save()
    assert kept(tmp_path / "session.json") == [2, 0, 1]
    assert kept(tmp_path / "session_02.json") == [3]
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["session.json", "session_02.json"]


def test_a_disk_that_takes_nothing_is_said_and_play_goes_on(quick: None, game: Game, tmp_path: Path) -> None:
    keeper = Keeper(game, tmp_path / "gone", tmp_path)
    problems: list[str] = []
    keeper.written = problems.append
    keeper.note(soon=True)
    assert until(lambda: bool(problems))
    assert "could not be written" in problems[0] and "Free some disk" in problems[0]


def test_after_a_kernel_that_ended_play_goes_on_where_it_stood(
    opened: OpenWorld, page: Page, tmp_path: Path
) -> None:
    page.say(type="rewind", to=1)
    page.say(type="tap", action=3)
    page.say(type="restart", start=24)
    page.say(type="tap", action=1)
    page.say(type="resume", play=0)
    page.player.keeper.save()
    hashes = page.player.game.token_hashes

    settings = replace(SETTINGS, actions=())
    later = Page(Player(play(opened, clip(opened, settings), settings), tmp_path / "later", tmp_path))
    assert later.player.state["last"]["frames"] == 2
    later.say(type="go_on")
    assert later.player.state["note"] == "Going on after 2 frames."
    assert later.player.game.token_hashes == hashes and later.player.state["last"] is None
    assert len(later.player.state["branches"]) == 2
    told = [content["text"] for content, _ in later.heard if content["type"] == "progress"]
    assert told[0] == "going on: 7 events are played again" and told[-1] == ""
    later.say(type="resume", play=later.player.game.number + 1)
    assert later.actions() == [1]
    later.say(type="go_on")
    assert "Nothing was kept" in later.player.state["note"]
    later.player.close()


def test_no_other_worlds_play_is_offered(opened: OpenWorld, page: Page, tmp_path: Path) -> None:
    page.player.keeper.save()
    settings = replace(SETTINGS, actions=(), context_window=2)
    player = Player(Game(opened, clip(opened, settings), settings), tmp_path, tmp_path)
    assert player.state["last"] is None
    player.close()


def test_stepping_again_is_told(page: Page) -> None:
    game = page.player.game
    page.say(type="tap", action=1, times=20)
    page.say(type="rewind", to=0)
    page.say(type="tap", action=3)
    for moment in game._plays[0][1].lines[0].moments:
        moment.session = None  # as of states that were let go of
    page.say(type="select", branch=0)
    texts = [content["text"] for content, _ in page.heard if content["type"] == "progress"]
    assert texts[0] == "recomputing 22 frames" and texts[-1] == ""
    page.heard.clear()
    page.say(type="tap", action=2)
    assert page.actions()[-1] == 2 and "progress" not in {content["type"] for content, _ in page.heard}


def test_keys_are_edited_in_the_player_and_kept_with_the_world(page: Page) -> None:
    page.say(type="keys", keys={"idle": 2, "keys": {"1": ["KeyJ"]}})
    kept = json.loads((page.player._root / "data" / "coinrun_keys.json").read_text(encoding="utf-8"))
    assert kept == {"version": 1, "idle": 2, "keys": {"1": ["KeyJ"]}}
    assert page.player.state["idle"] == page.player.loop.idle == 2
    page.say(type="keys", keys={"idle": 2, "keys": {"1": ["KeyJ"], "2": ["KeyJ"]}})
    assert "two actions" in page.player.state["note"]
    assert page.player.state["about"] == "keys" and page.player.state["keys"] == {"1": ["KeyJ"]}
    page.say(type="keys", keys=None)
    assert page.player.state["note"] == "" and "Digit1" in page.player.state["keys"]["1"]
    assert not (page.player._root / "data" / "coinrun_keys.json").exists()


def test_a_handler_leaves_a_note_and_goes_whatever_the_loop_is_busy_with(page: Page) -> None:
    player, gate = page.player, threading.Event()
    before, keys = player.state, player._root / "data" / "coinrun_keys.json"
    player.loop.put(gate.wait)
    for content in (
        {"type": "keys", "keys": {"idle": 2, "keys": {"1": ["KeyJ"]}}},
        {"type": "set", "name": "steps", "value": "1"},
        {"type": "set", "name": "fps", "value": "12"},
        {"type": "play", "on": True},
        {"type": "play", "on": False},
    ):
        player._receive(player, content, [])
    assert player.state == before and not keys.exists()
    gate.set()
    assert player.loop.wait()
    state = player.state
    assert (state["idle"], state["steps"], state["fps"], state["playing"]) == (2, 1, 12, False)
    assert keys.is_file()


def test_the_note_of_an_unreadable_key_map_is_on_the_page(game: Game, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coinrun_keys.json").write_text("{", encoding="utf-8")
    page = Page(Player(game, tmp_path, tmp_path))
    page.say(type="hello")
    assert "coinrun_keys.json could not be read" in page.player.state["note"]
    page.player.close()


def test_keys_that_cannot_be_written_hold_for_now_and_play_goes_on(page: Page) -> None:
    (page.player._root / "data" / "coinrun_keys.json").mkdir()
    page.say(type="keys", keys={"idle": 2, "keys": {"1": ["KeyJ"]}})
    assert "The keys hold for now" in page.player.state["note"]
    assert page.player.state["idle"] == 2 and page.player.state["keys"] == {"1": ["KeyJ"]}


def test_play_stops_when_the_last_view_is_gone(page: Page) -> None:
    page.say(type="hello")
    page.player._receive(page.player, {"type": "play", "on": True}, [])
    page.player._receive(page.player, {"type": "bye"}, [])
    assert page.player.loop.playing
    page.player._receive(page.player, {"type": "bye"}, [])
    assert not page.player.loop.playing
    assert until(lambda: not page.player.loop.alive)
    page.say(type="hello")
    page.say(type="tap", action=1)
    assert page.actions()[-1] == 1


def test_a_player_that_nobody_looks_at_does_nothing(game: Game, tmp_path: Path) -> None:
    player = Player(game, tmp_path, tmp_path)
    assert not player.loop.alive
    with paused(player):
        assert game.rollout().actions == [2, 0]
    assert not player.loop.alive
    player.close()


def test_closing_leaves_no_thread(page: Page) -> None:
    page.player.close()
    assert not page.player.loop.alive


# --- presets -------------------------------------------------------------------------------------------


@pytest.fixture
def measured(opened: OpenWorld, tmp_path: Path) -> None:
    """Two ways were measured here: 4 steps at 25 frames a second, and 1 step at 100."""
    ways = (
        presets.MeasuredDecoding(4, 1.0, "tokens", 40.0, 39.0, 41.0, 22.0, 0.5, (22.5, 21.5)),
        presets.MeasuredDecoding(1, 1.0, "pixels", 10.0, 9.0, 11.0, 18.0, 0.5, (18.5, 17.5)),
    )
    machine = {"device": "cpu", "device_name": "this one", "threads": "1"}
    found = presets.Measurement(presets.conditions(opened, SETTINGS), machine, "now", 2, ways)
    measure.save(found, tmp_path / "outputs" / "presets")


def test_the_presets_on_offer_are_those_that_were_measured_to_be_reached(measured: None, page: Page) -> None:
    state = page.player.state
    assert state["preset"] == "" and state["preset_help"] == ""
    assert [name for name, _ in state["presets"]] == ["5fps", "10fps", "15fps", "20fps", "30fps", "60fps"]
    assert dict(state["presets"])["20fps"] == "4 steps, sampled, tokens: 25.0 frames a second, 22.00 dB"
    assert dict(state["presets"])["30fps"].startswith("1 step, sampled, pixels: 100.0 frames")


def test_a_preset_holds_from_the_next_step_is_recorded_as_what_it_sets_and_can_be_left(
    measured: None, page: Page, tmp_path: Path
) -> None:
    before = page.player.game.play
    page.say(type="set", name="preset", value="30fps")
    state = page.player.state
    assert (state["preset"], state["fps"]) == ("30fps", 30)
    assert (state["steps"], state["temperature"], state["feedback"]) == (1, 1.0, "pixels")
    page.say(type="tap", action=1)
    page.say(type="set", name="preset", value="20fps")
    page.say(type="set", name="preset", value="")
    assert page.player.game.play == before
    assert (page.player.state["preset"], page.player.state["fps"]) == ("", 15)
    recording = page.player.game.recording()
    changes = [event for event in recording["events"] if event["event"] == "set"]
    assert changes[0] == {"event": "set", "frame": 2, "steps": 1, "temperature": 1.0, "feedback": "pixels"}
    assert "preset" not in json.dumps(recording)
    session_file.write(tmp_path / "session.json", recording)
    session_file.read(tmp_path / "session.json")


def test_what_is_set_by_hand_is_no_preset_any_more(measured: None, page: Page) -> None:
    page.say(type="set", name="preset", value="20fps")
    page.say(type="set", name="steps", value="2")
    assert page.player.state["preset"] == ""
    page.say(type="set", name="preset", value="")
    assert page.player.state["steps"] == 2


def test_the_preset_of_the_notebook_is_the_one_that_is_chosen(
    measured: None, opened: OpenWorld, tmp_path: Path
) -> None:
    chosen = measure.apply(opened, replace(SETTINGS, preset="25 fps"), tmp_path / "outputs" / "presets")
    player = Player(Game(opened, clip(opened, chosen), chosen), tmp_path, tmp_path)
    assert player.state["preset"] == "25fps"
    assert "25fps" in dict(player.state["presets"])
    player.close()


def test_a_preset_of_the_notebook_that_is_not_reached_is_said_and_the_fastest_is_played(
    measured: None, opened: OpenWorld, tmp_path: Path
) -> None:
    chosen = measure.apply(opened, replace(SETTINGS, preset="144fps"), tmp_path / "outputs" / "presets")
    player = Player(Game(opened, clip(opened, chosen), chosen), tmp_path, tmp_path)
    assert player.state["note"].startswith("144fps is not reached here: the fastest is played")
    assert player.state["steps"] == 1
    player.close()


def test_without_a_measurement_it_says_how_and_a_page_that_comes_back_finds_one(
    page: Page, request: pytest.FixtureRequest
) -> None:
    assert page.player.state["presets"] == []
    assert "runbook.py presets -p dataset=coinrun" in page.player.state["preset_help"]
    page.say(type="set", name="preset", value="30fps")
    assert "was measured to be reached" in page.player.state["note"]
    request.getfixturevalue("measured")
    page.say(type="hello")
    assert len(page.player.state["presets"]) == 6


# --- the plain one -------------------------------------------------------------------------------------


@pytest.fixture
def plain(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainPlayer]:
    monkeypatch.setattr("helpers.player.plain.LABEL_CLIPS", 8)
    player = PlainPlayer(game, tmp_path, tmp_path)
    yield player
    player.close()


def pixels(image: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(image)) as picture:
        return np.asarray(picture)


def test_the_plain_player_plays_by_button_and_field(plain: PlainPlayer) -> None:
    before = pixels(plain.image.value)
    plain.buttons[1].click()
    assert plain.loop.wait()
    plain.field.value = "3"
    assert plain.loop.wait()
    with paused(plain):
        assert plain.game.rollout().actions == [2, 0, 1, 3]
    assert before.shape == (384, 384, 3) and not np.array_equal(pixels(plain.image.value), before)
    plain.reset_button.click()
    assert plain.loop.wait()
    assert plain.game.rollout().actions == []


@pytest.mark.parametrize("text", ["4", "-1", "left", "1.5", "٣", "9" * 400])
def test_the_plain_player_refuses_what_is_no_id(plain: PlainPlayer, text: str) -> None:
    plain.field.value = text
    assert "0 to 3" in plain.message.value
    with pytest.raises(ParameterError):
        action_id(text, 4)


def test_the_plain_player_says_why_it_is_there_what_its_buttons_do_and_what_play_would(
    plain: PlainPlayer, tmp_path: Path
) -> None:
    assert plain.loop.wait()
    assert "anywidget is missing" in plain.view.children[0].value
    names = [label.name for label in label_actions(plain.game.opened, 8, tmp_path)]
    assert [button.description for button in plain.buttons] == [
        f"{action} {name}" for action, name in enumerate(names)
    ]
    look = []
    for _ in range(2):
        look.append((plain.play_button.description, plain.play_button.icon))
        plain.play_button.click()
    assert look == [("play", "play"), ("pause", "pause")]


def test_the_plain_player_plays_by_itself_without_a_page_that_reports(plain: PlainPlayer) -> None:
    plain.play_button.click()
    assert until(lambda: plain.game.generated >= 5)
    plain.play_button.click()
    assert not plain.loop.playing


def test_the_plain_player_offers_presets_or_says_how_to_get_them(
    plain: PlainPlayer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert plain.preset.disabled and "runbook.py presets" in plain.preset.tooltip
    request.getfixturevalue("measured")
    another = PlainPlayer(plain.game, tmp_path, tmp_path)
    another.preset.value = "20fps"
    assert another.loop.wait()
    assert plain.game.play.steps == 4 and "4 steps, sampled, tokens" in another.message.value
    another.close()


# --- the notebook's two calls --------------------------------------------------------------------------


def test_without_interactive_mode_and_for_a_replay_there_is_no_player(game: Game, tmp_path: Path) -> None:
    for changes in ({"use_interactive_mode": False}, {"replay": "session.json"}):
        game.settings = replace(SETTINGS, **changes)
        assert open_player(game, tmp_path) is None
    with paused(None):
        pass


def test_what_was_played_is_in_the_very_game_that_was_given(page: Page, game: Game) -> None:
    page.player._receive(page.player, {"type": "play", "on": True}, [])
    page.player._receive(page.player, {"type": "tap", "action": 1}, [])
    assert until(lambda: game.generated >= 3)
    with paused(page.player):
        count = game.generated
        assert game.rollout().actions[:2] == [2, 0] and 1 in game.rollout().actions
        assert not page.player.state["playing"] and page.player.state["generated"] == count
        page.player._receive(page.player, {"type": "play", "on": True}, [])
        time.sleep(0.2)
        assert game.generated == count
    assert until(lambda: game.generated > count)
