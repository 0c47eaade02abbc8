"""A game keeps every way that play went, repeats itself bit for bit, and never slows down."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import small_world

import helpers.play.game
from helpers.errors import ActionError, DatasetError, ParameterError
from helpers.play.branch import Branch, Timing
from helpers.play.game import Game
from helpers.play.rollout import play as play_settings
from helpers.play.world import OpenWorld
from helpers.worldmodel import Session

NewGame = Callable[..., Game]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenWorld:
    return small_world.small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def new(opened: OpenWorld) -> NewGame:
    def make(**changes: object) -> Game:
        chosen = small_world.settings(**changes)
        return Game(opened, small_world.clip(opened, chosen), chosen)

    return make


def play(game: Game, actions: list[int | None]) -> list[str]:
    """Step through actions; the hashes of the frames they made."""
    before = len(game.token_hashes)
    for action in actions:
        game.step(action)
    return game.token_hashes[before:]


# --- stepping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("horizon", [1, 2])
def test_a_game_makes_the_very_frames_that_a_session_makes(
    opened: OpenWorld, new: NewGame, horizon: int, temperature: float, feedback: str
) -> None:
    game = new(prediction_horizon=horizon, temperature=temperature, feedback=feedback, seed=7)
    frames = [game.step(action) for action in (1, 3, None, 0, 2)]

    context = game.clip.frames[:, :3]
    session = Session(opened.suite, context, 3, horizon, 3, temperature, 7, feedback)
    for action in (1, 3, None, 0, 2):
        session.step(action)
    played = game.rollout()

    assert np.array_equal(np.concatenate(frames), played.frames[3:])
    tokens = [helpers.play.game.token_hash(row) for row in session.tokens[0].numpy()]
    assert game.token_hashes == tokens
    assert played.token_hashes == tokens and game.generated == 5 * horizon
    assert played.actions == [a for a in (1, 3, None, 0, 2) for _ in range(horizon)]


def test_an_action_that_is_no_id_is_refused_and_nothing_happens(new: NewGame) -> None:
    game = new()
    game.step(1)
    for action in (4, -1, 1.5, "2", True):
        with pytest.raises(ActionError, match="0 to 3"):
            game.step(action)
    assert game.generated == 1
    assert len(game.recording()["events"]) == 1


def test_the_clip_is_shown_until_the_first_step(new: NewGame) -> None:
    game = new()
    assert game.generated == 0
    assert np.array_equal(game.frame, game.last_frames(1)[0][0])
    frame = game.step(2)
    assert np.array_equal(game.frame, frame[-1])
    assert game.timing.model > 0


# --- rewinding and branches ------------------------------------------------------------------------


def test_another_action_before_the_end_opens_a_branch_and_the_old_one_stays(new: NewGame) -> None:
    game = new(temperature=1.0)
    first = play(game, [0, 1, 2, 3])
    game.rewind(2)
    assert game.branch == 0 and game.generated == 2
    second = play(game, [3, 3, 3])

    assert game.branches == [Branch(0, None, 0, 4, 4), Branch(1, 0, 2, 3, 5)]
    assert game.branch == 1
    assert game.token_hashes == first[:2] + second
    game.select(0)
    assert (game.generated, game.token_hashes) == (4, first)


def test_the_same_step_again_follows_the_branch_without_running_a_model(new: NewGame) -> None:
    game = new(temperature=1.0)
    first = play(game, [0, 1, 2])
    steps = len(game.clock.seconds)
    game.rewind(0)
    assert play(game, [0, 1, 2]) == first
    assert len(game.clock.seconds) == steps
    assert game.timing == Timing(0.0, 0.0)
    assert len(game.branches) == 1


def test_a_step_that_a_branch_took_leads_onto_that_branch(new: NewGame) -> None:
    game = new()
    play(game, [0, 1, 2])
    game.rewind(1)
    game.step(3)
    game.select(0)
    game.rewind(1)
    game.step(3)
    assert game.branch == 1 and len(game.branches) == 2


def test_walking_forward_again_stays_on_the_branch_that_is_played(new: NewGame) -> None:
    game = new()
    play(game, [0, 1, 2])
    game.rewind(2)
    game.step(3)
    hashes = game.token_hashes
    game.rewind(0)
    assert play(game, [0, 1, 3]) == hashes
    assert game.branch == 1


def test_branches_of_branches_know_whom_they_left(new: NewGame) -> None:
    game = new()
    play(game, [0, 0, 0, 0])
    game.rewind(2)
    play(game, [1, 1, 1])
    game.rewind(3)
    play(game, [2])
    game.rewind(1)  # a frame that branch 0 holds
    play(game, [3])
    assert [(each.parent, each.at, each.length) for each in game.branches] == [
        (None, 0, 4),
        (0, 2, 3),
        (1, 3, 1),
        (0, 1, 1),
    ]


def test_rewinding_goes_forward_too_and_no_further_than_the_branch(new: NewGame) -> None:
    game = new(prediction_horizon=2)
    play(game, [0, 1, 2])
    game.rewind(0)
    game.rewind(4)
    assert game.generated == 4
    for frame in (-2, 8, 3, 2.0, True):
        with pytest.raises(ParameterError, match="multiple of the horizon, 2, from 0 to 6"):
            game.rewind(frame)
    with pytest.raises(ParameterError, match="no branch 1"):
        game.select(1)
    assert game.generated == 4


def state_bytes(game: Game) -> int:
    """What the state of a step takes beyond that before it."""
    state = game.session.state
    return state.frames[-1].nbytes + state.latents[-1].nbytes


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_state_that_was_let_go_of_is_stepped_again_bit_for_bit(
    new: NewGame, feedback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [0, 1, 2, 3, None, 2, 1, 0, 3, 3, 1, 2]
    whole = new(temperature=1.0, feedback=feedback)
    play(whole, actions)
    whole.rewind(7)
    expected = play(whole, [3, 2])

    monkeypatch.setattr(helpers.play.game, "STATES_BYTES", 2 * state_bytes(whole))
    monkeypatch.setattr(helpers.play.game, "LANDMARK", 5)
    game = new(temperature=1.0, feedback=feedback)
    play(game, actions)
    held = [moment.session is not None for moment in game._path()]
    assert [number for number, there in enumerate(held) if there] == [0, 5, 10, 11, 12]
    game.rewind(7)
    assert play(game, [3, 2]) == expected


def test_stepping_again_says_how_far_it_is_and_can_be_stopped_and_gone_on_with(
    new: NewGame, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = new(temperature=1.0)
    hashes = play(game, [0, 1, 2, 3, 1, 2, 0, 3])
    monkeypatch.setattr(helpers.play.game, "STATES_BYTES", 1)
    play(game, [1] * 8)
    told: list[tuple[int, int]] = []

    def going(done: int, total: int) -> bool:
        told.append((done, total))
        return done < 4

    game.rewind(7)
    assert not game.ready(going)
    assert told == [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)]
    assert game.generated == 7  # play stands there already: only its state is missing
    told.clear()
    assert game.ready(going) and told == [(0, 3), (1, 3), (2, 3)]
    assert game.ready(going) and len(told) == 3  # nothing is left to do
    assert play(game, [3]) == hashes[7:]


def test_states_are_kept_by_the_memory_that_they_take(new: NewGame, monkeypatch: pytest.MonkeyPatch) -> None:
    game = new(prediction_horizon=2)
    game.step(1)
    frames, latents = game.session.state.frames[-2:], game.session.state.latents[-2:]
    budget = 5 * sum(tensor.nbytes for tensor in (*frames, *latents))
    monkeypatch.setattr(helpers.play.game, "STATES_BYTES", budget)
    play(game, [1] * 20)
    assert sum(moment.session is not None for moment in game._path()[1:]) == 5


# --- changing while playing ------------------------------------------------------------------------


def test_what_is_set_counts_from_the_next_step_on(new: NewGame) -> None:
    game, other = new(seed=1, temperature=1.0), new(seed=2, temperature=1.0)
    first = play(game, [1, 1])
    game.rewind(0)
    game.set(seed=2)
    assert play(game, [1, 1]) == play(other, [1, 1]) != first
    assert len(game.branches) == 2
    game.set(steps=1, temperature=0, feedback="pixels")
    assert game.play == (1, 0.0, 2, "pixels")
    game.step(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"steps": 10**400},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 10**400},
        {"temperature": "hot"},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": [1]},
        {"feedback": "dreams"},
    ],
    ids=str,
)
def test_a_wrong_value_changes_nothing_not_even_half(new: NewGame, wrong: dict) -> None:
    game = new()
    before = game.play
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        game.set(**{"steps": 2, "temperature": 0.5, "seed": 3, "feedback": "pixels"} | wrong)
    assert game.play == before
    assert game.recording()["events"] == []


# --- restarting ------------------------------------------------------------------------------------


def test_a_restart_drops_the_branches_and_keeps_what_was_set(new: NewGame) -> None:
    game = new()
    first = play(game, [1, 2])
    game.set(temperature=0.5)
    game.restart(24)
    assert (game.generated, game.clip.start, len(game.branches)) == (0, 24, 1)
    assert game.play.temperature == 0.5
    assert play(game, [1, 2]) != first
    game.set(temperature=0)
    game.restart()
    assert game.clip.start == 24
    game.restart(5)
    assert play(game, [1, 2]) == first


def test_a_restart_can_be_taken_back_with_all_branches_and_that_too(new: NewGame) -> None:
    game = new(temperature=1.0)
    assert (game.plays, game.number, game.left) == (1, 0, None)
    play(game, [1, 2, 3])
    game.rewind(1)
    play(game, [0])
    hashes, branches = game.token_hashes, game.branches
    game.restart(24)
    play(game, [2])
    assert (game.plays, game.number, game.left) == (2, 1, 0)
    game.resume(0)
    assert (game.token_hashes, game.branches, game.generated, game.clip.start) == (hashes, branches, 2, 5)
    assert (game.plays, game.number, game.left) == (2, 0, 1)
    game.select(0)
    assert game.generated == 3
    game.resume(1)
    assert (game.generated, game.clip.start, len(game.branches)) == (1, 24, 1)
    for wrong in (2, -1, 0.0, True):
        with pytest.raises(ParameterError, match="no play"):
            game.resume(wrong)


@pytest.mark.parametrize(
    ("start", "error"), [(-1, ParameterError), (1.5, ParameterError), (59, DatasetError)]
)
def test_a_start_that_cannot_be_changes_nothing(new: NewGame, start: object, error: type) -> None:
    game = new()
    hashes = play(game, [1, 2])
    with pytest.raises(error):
        game.restart(start)
    assert game.token_hashes == hashes and game.clip.start == 5


def test_starts_have_a_picture_of_what_the_player_would_see(new: NewGame) -> None:
    game = new()
    starts = game.starts(4)
    assert [start.row for start in starts] == sorted({start.row for start in starts})
    assert len(starts) == 4
    for start in starts:
        game.restart(start.row)
        assert np.array_equal(game.frame, start.thumbnail)


# --- what if ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_if_shows_what_holding_each_action_would_make(new: NewGame, horizon: int, feedback: str) -> None:
    game = new(temperature=1.0, feedback=feedback, prediction_horizon=horizon)
    play(game, [0, 3])
    hashes, events = game.token_hashes, len(game.recording()["events"])

    grid = game.what_if(3)

    assert grid.shape == (4, 3, 12, 12, 3) and grid.dtype == np.uint8
    assert game.token_hashes == hashes and len(game.recording()["events"]) == events
    for action in range(4):
        game.rewind(2 * horizon)
        held = np.concatenate([game.step(action) for _ in range(3)])[:3]
        assert np.abs(held.astype(int) - grid[action]).max() <= 1  # a batch may round the last bit otherwise
    for wrong in (0, 1.5, True):
        with pytest.raises(ParameterError, match="frames"):
            game.what_if(wrong)


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_is_foreseen_is_token_for_token_what_is_then_lived_without_a_model(
    new: NewGame, horizon: int, feedback: str
) -> None:
    options = {"temperature": 1.0, "feedback": feedback, "prediction_horizon": horizon}
    game, other = new(**options), new(**options)
    for each in (game, other):
        play(each, [0, 3])
    before = game.token_hashes, game.recording()["events"], game.timing
    futures = [game.foresee(action, 3) for action in range(4)]
    assert (game.token_hashes, game.recording()["events"], game.timing) == before
    assert {future.shape for future in futures} == {(3, 12, 12, 3)}

    steps = len(game.clock.seconds)
    held = np.concatenate([game.step(2) for _ in range(-(-3 // horizon))])
    assert np.array_equal(held[:3], futures[2]) and len(game.clock.seconds) == steps
    assert play(other, [2] * -(-3 // horizon)) == game.token_hashes[2 * horizon :]
    assert play(game, [1, 0]) == play(other, [1, 0])
    for wrong in (4, -1):
        with pytest.raises(ActionError):
            game.foresee(wrong)


def test_what_was_foreseen_with_other_settings_is_not_what_is_lived(new: NewGame) -> None:
    game, other = new(temperature=1.0), new(temperature=1.0, seed=9)
    game.foresee(1, 2)
    game.set(seed=9)
    assert play(game, [1]) == play(other, [1])


# --- it never slows down ---------------------------------------------------------------------------


class Untouchable:
    """In the place of what must not be looked at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"an old frame was touched ({name})")

    def __len__(self) -> int:
        raise AssertionError("an old frame was touched")


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_no_step_looks_at_more_than_the_last_frames(new: NewGame, feedback: str) -> None:
    game = new(feedback=feedback)
    play(game, [number % 4 for number in range(40)])
    for moment in game._path()[:-4]:
        moment.frames = moment.tokens = moment.session = moment.hashes = Untouchable()  # type: ignore
    frames, actions = game.last_frames(4)
    assert frames.shape[0] == 4 and actions == [0, 1, 2, 3]
    game.step(2)
    game.set(temperature=1.0)
    game.step(1)
    game.what_if(2)
    game.rewind(41)
    game.step(0)
    assert game.frame.shape == (12, 12, 3)
    assert game.branches[-1].generated == 42


def test_what_is_held_for_each_state_does_not_grow(new: NewGame, monkeypatch: pytest.MonkeyPatch) -> None:
    game = new(feedback="tokens")
    game.step(0)
    monkeypatch.setattr(helpers.play.game, "STATES_BYTES", 8 * state_bytes(game))
    play(game, [number % 4 for number in range(70)])
    sessions = [moment.session for moment in game._path()[1:] if moment.session is not None]
    assert len(sessions) <= 8 + 70 // helpers.play.game.LANDMARK
    assert {session.frames.shape[1] for session in sessions} == {3}
    assert {session.tokens.shape[1] for session in sessions} == {3}


def test_the_last_frames_come_with_their_actions(new: NewGame) -> None:
    game = new(prediction_horizon=2)
    play(game, [1, None])
    whole = game.rollout().frames
    for count, actions in (
        (0, []),
        (-3, []),
        (1, [None]),
        (3, [1, None, None]),
        (5, [None, 1, 1, None, None]),
        (99, [None, None, None, 1, 1, None, None]),
        (sys.maxsize, [None, None, None, 1, 1, None, None]),
    ):
        frames, taken = game.last_frames(count)
        assert taken == actions
        assert np.array_equal(frames, whole[len(whole) - len(actions) :])


# --- going on from a rollout -----------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_game_goes_on_from_a_rollout_as_if_it_had_been_played(
    opened: OpenWorld, new: NewGame, feedback: str
) -> None:
    chosen = small_world.settings(actions=(1, 0, 3), temperature=1.0, feedback=feedback, prediction_horizon=2)
    game = play_settings(opened, small_world.clip(opened, chosen), chosen)
    assert game.generated == 6
    game.rewind(4)
    game.step(2)

    played = Game(opened, game.clip, chosen)
    play(played, [1, 0, 3])
    played.rewind(4)
    played.step(2)
    assert played.token_hashes == game.token_hashes
    assert played.recording() == game.recording()
    again = game.rollout()
    assert again.generated == 6 and len(again.seconds) == 3


def test_teacher_forcing_needs_a_clip_that_goes_on(new: NewGame) -> None:
    game = new(generation_steps=2)
    for _ in range(3):
        game.step(None, teacher_forced=True)
    with pytest.raises(ParameterError, match="too few"):
        game.step(None, teacher_forced=True)
    assert game.generated == 3


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("forced", [False, True])
def test_its_own_tokens_decode_to_its_own_pictures(new: NewGame, feedback: str, forced: bool) -> None:
    game = new(feedback=feedback, prediction_horizon=2)
    with pytest.raises(ParameterError, match="No step"):
        game.as_if(game.last_tokens)
    for _ in range(3):
        frames = game.step(1, teacher_forced=forced)
        assert np.array_equal(game.as_if(game.last_tokens), frames)
    assert not np.array_equal(game.as_if(63 - game.last_tokens), frames)


def test_a_codebook_beyond_two_bytes_gets_wider_tokens(
    opened: OpenWorld, new: NewGame, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = new()
    assert game.token_type is np.uint16
    monkeypatch.setattr(opened.suite.video_tokenizer.quantizer, "codebook_size", 2**17)
    assert game.token_type is np.uint32
