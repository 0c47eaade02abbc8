"""A session file replays to the bit, says where it does not, and is believed in nothing."""

import base64
import copy
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
from hypothesis import HealthCheck, example, given
from hypothesis import settings as limits
from hypothesis import strategies as some

from helpers.errors import RunbookError, SessionFileError
from helpers.play import recording as recording_module
from helpers.play.comparison import Replay
from helpers.play.game import Game
from helpers.play.recording import check, read, write
from helpers.play.replay import compare_worlds, play_again, recorded_settings
from helpers.play.rollout import play as play_settings
from helpers.play.world import OpenWorld
from helpers.run_folder import find_session

Recording = dict[str, Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenWorld:
    return small_world.small_world(tmp_path_factory.mktemp("world"))


def new(opened: OpenWorld, **changes: object) -> Game:
    chosen = small_world.settings(**changes)
    return Game(opened, small_world.clip(opened, chosen), chosen)


def play(game: Game) -> Game:
    """A little of everything."""
    for action in (0, 1, None, 3):
        game.step(action)
    game.rewind(2 * game.horizon)
    game.step(2)
    game.set(temperature=0.7, seed=11)
    game.step(2)
    game.select(0)
    game.set(feedback="pixels" if game.play.feedback == "tokens" else "tokens", steps=2)
    game.step(1)
    game.restart(24)
    game.step(3)
    game.resume(0)
    game.resume(1)
    game.rewind(0)
    game.step(0)
    return game


@pytest.fixture(scope="module")
def recording(opened: OpenWorld) -> Recording:
    return play(new(opened)).recording()


# --- equal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_was_played_replays_to_the_bit(
    opened: OpenWorld, tmp_path: Path, horizon: int, temperature: float, feedback: str
) -> None:
    changes = {"prediction_horizon": horizon, "temperature": temperature, "feedback": feedback}
    played = play(new(opened, **changes))
    write(tmp_path / "session.json", played.recording())

    recording = read(tmp_path)
    again = new(opened, **changes)
    compared, different, first = play_again(again, recording["events"])

    assert (compared, different, first) == (9 * horizon, 0, None)
    assert again.recording() == recording
    assert np.array_equal(again.frame, played.frame)
    assert again.branches == played.branches


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize(
    "source",
    [
        {"teacher_forced": True, "use_interactive_mode": False},
        {"teacher_forced": True, "actions": (1, 2)},
        {"use_gt_actions": False, "use_actions": False, "use_interactive_mode": False},
        {"use_gt_actions": False, "use_interactive_mode": False},
        {"use_interactive_mode": False, "amp": True},
    ],
    ids=str,
)
def test_every_kind_of_headless_run_replays_from_its_file(
    opened: OpenWorld, tmp_path: Path, source: dict, horizon: int
) -> None:
    chosen = small_world.settings(**source, prediction_horizon=horizon)
    played = play_settings(opened, small_world.clip(opened, chosen), chosen)
    path = tmp_path / "session.json"
    write(path, played.recording())

    settings = recorded_settings(small_world.settings(replay=str(path), start=-1, seed=9))
    again = play_settings(opened, small_world.clip(opened, settings), settings)

    assert again.replay is not None and again.replay.equal
    assert again.token_hashes == played.token_hashes
    one, two = played.rollout(), again.rollout()
    assert two.actions == one.actions
    assert np.array_equal(two.frames, one.frames)
    assert again.replay.to_dict()["frames_compared"] == played.generated == again.generated


def test_a_session_played_by_hand_replays_without_a_player(opened: OpenWorld, tmp_path: Path) -> None:
    game = play(new(opened))
    write(tmp_path / "session.json", game.recording())
    settings = recorded_settings(small_world.settings(replay=str(tmp_path), use_interactive_mode=False))
    assert settings.action_source == "given" and not settings.use_interactive_mode
    again = play_settings(opened, small_world.clip(opened, settings), settings)
    assert again.replay is not None and again.replay.equal
    assert again.token_hashes == game.token_hashes
    assert again.branches == game.branches


def test_a_game_in_which_nothing_happened_replays(opened: OpenWorld, tmp_path: Path) -> None:
    write(tmp_path / "session.json", new(opened).recording())
    settings = recorded_settings(small_world.settings(replay=str(tmp_path), use_interactive_mode=False))
    again = play_settings(opened, small_world.clip(opened, settings), settings)
    assert again.replay is not None and again.replay.equal and again.replay.compared == 0


MOVES = some.lists(
    some.one_of(
        some.tuples(some.just("step"), some.sampled_from([0, 1, 2, 3, None])),
        some.tuples(some.just("rewind"), some.integers(0, 8)),
        some.tuples(some.just("select"), some.integers(0, 5)),
        some.tuples(some.just("set"), some.sampled_from([{"seed": 1}, {"temperature": 1.0}, {"steps": 2}])),
        some.tuples(some.just("restart"), some.sampled_from([None, 5, 30])),
        some.tuples(some.just("resume"), some.integers(0, 5)),
        some.tuples(some.just("foresee"), some.integers(0, 3)),
    ),
    max_size=14,
)


@given(moves=MOVES)
@limits(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_played_its_recording_is_sound_and_replays(opened: OpenWorld, moves: list) -> None:
    game = new(opened)
    for name, value in moves:
        if name == "set":
            game.set(**value)
        else:
            value = value % len(game.branches) if name == "select" else value
            value = value % game.plays if name == "resume" else value
            value = min(value, game.branches[game.branch].generated) if name == "rewind" else value
            getattr(game, name)(value)
    recording = json.loads(json.dumps(game.recording()))
    check(recording)
    again = new(opened)
    assert play_again(again, recording["events"])[1:] == (0, None)
    assert again.recording() == recording


# --- different -------------------------------------------------------------------------------------


def tampered(recording: Recording, event: int, places: list[int]) -> Recording:
    """The recording with other tokens, at these places of the first frame of an event."""
    changed = copy.deepcopy(recording)
    row = np.frombuffer(base64.b64decode(changed["events"][event]["tokens"][0]), "<u2").copy()
    row[places] = 63 - row[places]
    changed["events"][event]["tokens"][0] = base64.b64encode(row.tobytes()).decode()
    return changed


def test_the_first_frame_that_differs_is_named_counted_and_shown(
    opened: OpenWorld, recording: Recording
) -> None:
    steps = [number for number, event in enumerate(recording["events"]) if event["event"] == "step"]
    event = steps[4]  # the one that opened branch 1, at frame 2
    changed = tampered(tampered(recording, event, [0, 8]), steps[6], [3])
    check(changed)

    compared, different, first = play_again(new(opened), changed["events"])

    assert (compared, different) == (9, 2)
    assert first is not None
    assert (first.event, first.branch, first.frame, first.tokens, first.patches) == (event, 1, 2, 2, 9)
    apart = np.abs(first.recorded.astype(int) - first.replayed).max(-1) > 0  # [H, W]
    assert apart[:4, :4].any() and apart[8:, 8:].any()
    made = Replay(Path("s.json"), compared, different, first)
    assert not made.equal
    assert "frame 2 of branch 1 (event 5) by 2 of its 9 tokens" in str(made)
    assert made.to_dict()["first_difference"] == 2
    picture = made.picture()
    assert picture is not None and picture.width > 3 * 240


def test_a_hash_that_was_changed_alone_is_a_difference_too(opened: OpenWorld, recording: Recording) -> None:
    changed = copy.deepcopy(recording)
    changed["events"][1]["hashes"] = ["0" * 16]
    _, different, first = play_again(new(opened), changed["events"])
    assert different == 1 and first is not None
    assert (first.frame, first.tokens) == (1, 0)
    assert "hash alone" in str(first)


def test_other_weights_are_refused_with_both_hashes_unless_asked(
    opened: OpenWorld, recording: Recording, tmp_path: Path
) -> None:
    other = small_world.small_world(tmp_path, seed=3)
    with pytest.raises(SessionFileError) as refusal:
        compare_worlds(recording, other, False)
    assert recording["files"]["dataset"]["sha256"] in str(refusal.value)
    assert other.hashes["dataset"] in str(refusal.value)
    assert "replay_other_weights" in refusal.value.fix
    notes = compare_worlds(recording, other, True)
    assert len(notes) == 4
    _, different, first = play_again(new(other), recording["events"])
    assert different > 0 and first is not None and first.frame == 0


def test_another_device_torch_or_number_of_threads_is_noted(opened: OpenWorld, recording: Recording) -> None:
    assert compare_worlds(recording, opened, False) == []
    elsewhere = copy.deepcopy(recording)
    elsewhere["made_on"] |= {"device": "cuda:0", "torch": "1.0", "threads": 64}
    assert compare_worlds(elsewhere, opened, False) == [
        "device was 'cuda:0' and is 'cpu'",
        *[note for note in compare_worlds(elsewhere, opened, False) if note.startswith("torch was '1.0'")],
        "threads was 64 and is 1",
    ]


def test_a_world_of_another_shape_is_refused_even_if_asked(opened: OpenWorld, recording: Recording) -> None:
    other = copy.deepcopy(recording)
    other["suite"]["patches"] = 16
    with pytest.raises(SessionFileError, match="16 patches, and this one 9"):
        compare_worlds(other, opened, True)


def test_a_recorded_device_that_is_not_here_leaves_the_choice_open(
    recording: Recording, tmp_path: Path
) -> None:
    path = tmp_path / "session.json"
    for recorded, asked, taken in (
        ("cpu", "auto", "cpu"),
        ("cuda:99", "auto", "auto"),
        ("cuda:99", "cpu", "cpu"),
    ):
        write(path, recording | {"made_on": recording["made_on"] | {"device": recorded}})
        assert recorded_settings(small_world.settings(replay=str(path), device=asked)).device == taken


# --- the file --------------------------------------------------------------------------------------


def test_a_file_is_plain_json_with_one_event_a_line(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "会话 ü.json"
    write(path, recording)
    text = path.read_bytes().decode("utf-8")
    assert json.loads(text) == recording
    assert len([line for line in text.splitlines() if line.startswith('    {"event"')]) == 17
    assert list(tmp_path.iterdir()) == [path]
    assert read(path) == recording


def test_a_file_is_found_by_name_or_by_its_runs_folder(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a run"
    run.mkdir()
    write(run / "session.json", recording)
    monkeypatch.chdir(tmp_path)
    assert (
        find_session("a run")
        == find_session("a run/session.json")
        == find_session(run)
        == run / "session.json"
    )
    for name in ("nowhere.json", "nul\0name", "x" * 5000):
        with pytest.raises(SessionFileError, match="no session file"):
            find_session(name)


def test_a_file_too_large_for_the_memory_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "session.json").open("wb") as file:
        file.truncate(500_000_000)
    tracemalloc.start()
    with pytest.raises(SessionFileError, match=r"larger than any session: 500 MB\. Use one of up to 200 MB"):
        read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_reading_takes_a_few_times_the_files_size_in_memory(recording: Recording, tmp_path: Path) -> None:
    step = next(event for event in recording["events"] if event["event"] == "step")
    steps = [step | {"frame": number * len(step["hashes"])} for number in range(1000)]
    write(tmp_path / "session.json", recording | {"events": steps})
    tracemalloc.start()
    assert len(read(tmp_path)["events"]) == 1000
    assert tracemalloc.get_traced_memory()[1] < 16 * (tmp_path / "session.json").stat().st_size
    tracemalloc.stop()


def change(*keys: Any, to: Any) -> Callable[[Recording], Recording]:
    """A change to one value of a recording; ``...`` takes it out."""

    def apply(recording: Recording) -> Recording:
        changed = copy.deepcopy(recording)
        place: Any = changed
        for key in keys[:-1]:
            place = place[key]
        if to is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to
        return changed

    return apply


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (change("format", to="chess"), "'chess', not 'tinyworlds-session'"),
        (change("version", to=2), "version 2; this program reads version 1"),
        (change("version", to="1"), "version is '1', which is no int"),
        (change("settings", to=...), "has no 'settings'"),
        (change("settings", "seed", to=...), "has no 'seed'"),
        (change("settings", "seed", to=2**63), "seed is 9223372036854775808"),
        (change("settings", "steps", to=0), "steps is 0"),
        (change("settings", "temperature", to=float("inf")), "temperature is inf"),
        (change("settings", "temperature", to=float("nan")), "temperature is nan"),
        (change("settings", "prediction_horizon", to=True), "prediction_horizon is True"),
        (change("settings", "start", to=-1), "start is -1"),
        (change("settings", "dataset", to="tetris"), "no dataset 'tetris'"),
        (change("settings", "preload_ratio", to=0.0), "preload_ratio is 0.0"),
        (change("files", "dynamics", to=...), "has no 'dynamics'"),
        (change("files", "dynamics", "sha256", to="abc"), "64 hexadecimal digits"),
        (change("suite", "actions", to=0), "actions is 0"),
        (change("suite", "patches", to=10), "not 10 numbers below 64"),
        (change("suite", "codebook", to=4), "below 4"),
        (change("made_on", "device", to="//host/share"), "'//host/share', not a device"),
        (change("events", to={}), "events is {}, which is no list"),
        (change("events", 0, to=[]), "event 0 is [], not an object"),
        (change("events", 0, "event", to="jump"), "event 0 is 'jump', which nobody knows"),
        (change("events", 0, "action", to=4), "action is 4, not from 0 to 3"),
        (change("events", 0, "action", to=True), "action is True"),
        (change("events", 0, "action", to=...), "has no 'action'"),
        (change("events", 0, "frame", to=10**30), "frame is 10000"),
        (change("events", 1, "frame", to=7), "event 1 happens at frame 7, and play stands at 1"),
        (change("events", 0, "hashes", to=[]), "0 hashes"),
        (change("events", 0, "hashes", to=["Z" * 16]), "16 hexadecimal digits"),
        (change("events", 0, "tokens", to=["AAA"]), "in base64"),
        (change("events", 0, "tokens", to=[7]), "in base64"),
        (change("events", 0, "teacher_forced", to=1), "teacher_forced is 1"),
        (change("events", 4, "to", to=9), "to is 9, not from 0 to 4"),
        (change("events", 6, "seed", to="x"), "seed is 'x'"),
        (change("events", 6, "temperature", to=1e300), "temperature is 1e+300"),
        (change("events", 8, "branch", to=2), "branch is 2, not from 0 to 1"),
        (change("events", 11, "start", to=-5), "start is -5"),
    ],
)
def test_each_defect_has_its_sentence(
    recording: Recording, tmp_path: Path, defect: Callable, says: str
) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(defect(recording)), encoding="utf-8")
    with pytest.raises(SessionFileError) as refusal:
        read(path)
    assert says in str(refusal.value)
    assert "session.json" in str(refusal.value)


def test_what_a_preset_set_is_replayed_where_no_preset_was_measured(
    opened: OpenWorld, tmp_path: Path
) -> None:
    game = new(opened, preset="30fps", steps=2, temperature=0.5)
    assert "preset" not in game.recording()["settings"]
    older = game.recording()
    older["settings"]["preset"] = "9999fps"
    write(tmp_path / "session.json", older)
    settings = recorded_settings(small_world.settings(replay=str(tmp_path)))
    assert (settings.steps, settings.temperature) == (2, 0.5)


def test_a_file_from_before_a_setting_existed_still_reads(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every setting that is recorded today is required; "evaluate" plays one that came later.
    assert set(recording["settings"]) == set(recording_module.RECORDED)
    monkeypatch.setattr(recording_module, "RECORDED", (*recording_module.RECORDED, "evaluate"))
    monkeypatch.setattr(recording_module, "OPTIONAL", frozenset({"evaluate"}))
    write(tmp_path / "session.json", recording)
    assert recorded_settings(small_world.settings(replay=str(tmp_path))).evaluate


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"format": "\\ud800"}', b"[" * 100_000, b"9" * 10_000, b"null"],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_session_at_all_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(data)
    with pytest.raises(SessionFileError) as refusal:
        read(path)
    str(refusal.value).encode("utf-8")


ANYTHING = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**70), 2**70)
    | some.floats()
    | some.text(max_size=20)
    | some.sampled_from(
        ["step", "rewind", "select", "set", "restart", "resume", "AAAA", 10**400, "a" * 64, "demo"]
    ),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=some.data())
@limits(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_to_a_file_gets_past_the_family_of_errors(
    opened: OpenWorld, recording: Recording, data: some.DataObject
) -> None:
    changed = copy.deepcopy(recording)
    for _ in range(data.draw(some.integers(1, 3))):
        place: Any = changed
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(some.sampled_from(list(keys)))
            inside = place[key]
            if not isinstance(inside, (dict, list)) or not inside or data.draw(some.integers(0, 3)) == 0:
                place[key] = data.draw(ANYTHING)
                break
            place = inside
    try:
        check(changed)
        compare_worlds(changed, opened, True)
        play_again(new(opened), changed["events"][:4])
    except RunbookError as error:
        assert str(error)


@given(data=some.binary(max_size=200))
@example(b'{"format": "tinyworlds-session", "version": 1e400}')
@limits(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_get_past_the_family_of_errors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(data)
    with pytest.raises(SessionFileError):
        read(path)
