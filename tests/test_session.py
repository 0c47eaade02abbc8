"""A session plays a world as the published project does, however it was batched, fed back or interrupted."""

import numpy as np
import pytest
import torch
from golden_cases import SMALL, random_frames, random_suite

from helpers.errors import ActionError, ParameterError
from helpers.worldmodel import Session, maskgit_decode
from helpers.worldmodel.session import _WORLDS, Decoding, advance

PATCHES = SMALL.grid**2


@pytest.fixture(scope="module")
def suite():
    return random_suite(2)


def play(session, actions):
    for action in actions:
        session.step(action)
    return session.frames


# --- the rollout -----------------------------------------------------------------------------------


def literal_rollout(suite, frames, actions, window, horizon, steps):
    """The published rollout, one rule a line; for one batch element, greedily."""
    frames, chosen = list(frames[0]), []  # chosen: one for each generated frame
    for action in actions:
        context = torch.stack(frames[-window:])[None]
        latents = suite.video_tokenizer.encode(context)
        conditioning = None
        if action is not None:
            ids = (chosen + [action] * horizon)[-(window + horizon - 1) :]
            missing = window + horizon - 1 - len(ids)
            padding = suite.infer_actions(context[:, : missing + 1])[0].tolist() if missing else []
            conditioning = suite.action_latents(torch.tensor([padding + ids]))
            chosen += [action] * horizon
        decoded = maskgit_decode(
            suite.dynamics, suite.video_tokenizer.quantizer, latents, conditioning, horizon, steps
        )
        frames += list(suite.video_tokenizer.detokenize(decoded)[0, -horizon:])
    return torch.stack(frames)[None]


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("actions", [[3, 0, 2, 1, 1], [None, None, None]], ids=["actions", "no actions"])
def test_a_session_shows_what_the_published_rollout_does(suite, window, horizon, actions):
    context = random_frames(1, 4)

    frames = play(Session(suite, context, window, horizon, steps=5), actions)

    expected = literal_rollout(suite, context, actions, window, horizon, steps=5)
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-4)


def test_an_action_is_held_for_every_frame_of_its_step(suite):
    session = Session(suite, random_frames(1, 2), horizon=3)
    play(session, [2, 1])
    assert session.frames.shape[1] == 2 + 6
    assert session.actions.tolist() == [[2, 1]]


def test_before_the_first_chosen_action_the_inferred_ones_are_used(suite):
    context = random_frames(1, 4)
    inferred = suite.infer_actions(context)
    session = Session(suite, context, context_window=4)
    told = Session(suite, context, context_window=4)
    told.state = told.state._replace(actions=inferred.unbind(1))

    assert torch.equal(session.step(1), told.step(1))


def test_steps_without_an_action_can_be_mixed_with_steps_with_one(suite):
    session = Session(suite, random_frames(1, 3), context_window=3)
    frames = play(session, [None, 3, None, 0])
    assert frames.shape[1] == 7
    assert session.actions.tolist() == [[-1, 3, -1, 0]]


def test_different_actions_lead_to_different_frames(suite):
    context = random_frames(1, 2)
    ends = {tuple(play(Session(suite, context), [action] * 2).flatten().tolist()) for action in range(4)}
    assert len(ends) > 1


def test_only_the_last_frames_of_a_long_context_are_seen(suite):
    context = random_frames(1, 6)
    long, short = Session(suite, context, 2), Session(suite, context[:, -2:], 2)
    assert torch.equal(long.step(1), short.step(1))
    assert long.frames.shape[1] == 7 and short.frames.shape[1] == 3


def test_under_teacher_forcing_the_given_frames_are_seen_instead(suite):
    context, truth = random_frames(1, 2), random_frames(1, 2, seed=8)
    session, forced, elsewhere = (Session(suite, start, 2) for start in (context, context, truth))

    frames = forced.step(1, context=truth)

    assert torch.equal(frames, elsewhere.step(1))
    assert not torch.equal(frames, session.step(1))
    assert torch.equal(forced.frames[:, :2], context)


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_teacher_forcing_at_every_step_does_not_depend_on_what_was_generated(suite, feedback):
    truth = random_frames(1, 6, seed=8)
    session = Session(suite, truth[:, :2], 2, feedback=feedback)
    for time in range(2, 6):
        forced = session.step(None, context=truth[:, time - 2 : time])
        assert torch.equal(forced, Session(suite, truth[:, time - 2 : time], 2).step(None))


# --- what it keeps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16])
def test_frames_actions_and_tokens_grow_with_every_step_and_keep_their_types(suite, given):
    session = Session(suite, random_frames(2, 3).to(given), horizon=2)
    for steps in range(3):
        time = 3 + 2 * steps
        assert session.frames.shape == (2, time, 3, 12, 12) and session.frames.dtype == torch.float32
        assert session.actions.shape == (2, steps) and session.actions.dtype == torch.int64
        assert session.tokens.shape == (2, 2 * steps, PATCHES) and session.tokens.dtype == torch.int64
        assert session.step(1).shape == (2, 2, 3, 12, 12)


def test_a_single_context_frame_has_no_action_before_it(suite):
    session = Session(suite, random_frames(2, 1), context_window=1)
    assert session.actions.shape == (2, 0)
    session.step(3)
    assert session.actions.tolist() == [[3], [3]]


def test_the_frames_are_those_that_the_tokens_decode_to(suite):
    context = random_frames(1, 2)
    session = Session(suite, context)
    frame = session.step(1)
    tokens = torch.cat((suite.video_tokenizer.tokenize(context), session.tokens), 1)
    latents = suite.video_tokenizer.quantizer.indices_to_latents(tokens)
    torch.testing.assert_close(suite.video_tokenizer.detokenize(latents)[:, -1:], frame)


def test_frames_are_not_clamped(suite):
    frames = play(Session(suite, random_frames(1, 2)), [0, 1, 2])
    assert frames[:, 2:].abs().max() > 1


def test_a_session_is_not_changed_by_what_is_done_to_tensors_it_took_or_gave(suite):
    def run(meddle):
        context, action = random_frames(1, 2), torch.tensor([2])
        session = Session(suite, context)
        with torch.inference_mode():
            frame = session.step(action)
            if meddle:
                for tensor in (context, action, frame, session.frames, session.actions):
                    tensor.zero_()
        session.step(1)
        return session.frames, session.actions

    for kept, expected in zip(run(meddle=True), run(meddle=False), strict=True):
        assert torch.equal(kept, expected)


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_state_is_a_value_from_which_the_same_step_leads_to_the_same_state(suite, feedback):
    session = Session(suite, random_frames(2, 3), 3, horizon=2, feedback=feedback)
    play(session, [1, None])
    state = session.state
    before = [tensor.clone() for tensors in state[:3] for tensor in tensors]
    decoding, action = Decoding(4, 1.0, feedback), torch.tensor([3, 0])

    (one, new), (other, again) = (advance(suite, state, action, 3, 2, decoding, [5, 6]) for _ in range(2))

    assert torch.equal(new, again) and one.generated == other.generated == state.generated + 2
    for mine, yours in zip(one[:3], other[:3], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))
    after = [tensor for tensors in state[:3] for tensor in tensors]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.cat(one.frames, 1)[:, -2:], new) and session.state is state


# --- feedback --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("feedback", "encoded"), [("pixels", [2, 2, 2, 2]), ("tokens", [2, 1])])
def test_tokens_feedback_encodes_only_frames_that_were_given(suite, monkeypatch, feedback, encoded):
    lengths, encode = [], type(suite.video_tokenizer).encode
    spy = lambda self, frames: lengths.append(frames.shape[1]) or encode(self, frames)  # noqa: E731
    monkeypatch.setattr(type(suite.video_tokenizer), "encode", spy)

    play(Session(suite, random_frames(1, 2), feedback=feedback), [None] * 4)

    assert lengths == encoded


def test_tokens_feedback_sees_the_tokens_themselves_and_so_another_future_than_pixels(suite):
    context = random_frames(2, 2)
    kept, again = (Session(suite, context, feedback=feedback) for feedback in ("tokens", "pixels"))
    for session in (kept, again):
        play(session, [1, 2, 3])
    assert torch.equal(kept.tokens[:, :1], again.tokens[:, :1])
    assert not torch.equal(kept.tokens, again.tokens)

    quantizer = suite.video_tokenizer.quantizer
    latents = quantizer.indices_to_latents(kept.tokens[:, -2:])
    actions = suite.action_latents(torch.tensor([[3, 0]] * 2))
    expected = maskgit_decode(suite.dynamics, quantizer, latents, actions)
    kept.step(0)
    assert torch.equal(kept.tokens[:, -1:], quantizer.latents_to_indices(expected[:, -1:]))


# --- chance and batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_the_same_seed_plays_the_same_frames_bit_for_bit(suite, feedback):
    first, again = (
        play(Session(suite, random_frames(2, 2), temperature=1.0, seed=5, feedback=feedback), [1, None, 2])
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_another_seed_plays_other_frames_unless_nothing_is_sampled(suite):
    for temperature, same in ((1.0, False), (0.0, True)):
        one, other = (
            play(Session(suite, random_frames(1, 2), temperature=temperature, seed=seed), [1, 2])
            for seed in (0, 1)
        )
        assert torch.equal(one, other) is same


def test_a_session_leaves_torchs_own_random_numbers_alone(suite):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    play(Session(suite, random_frames(1, 2), temperature=1.0), [1])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", [7, [7, 100, 3]], ids=["one seed", "a seed each"])
def test_a_batch_plays_what_its_elements_play_alone(suite, temperature, seed):
    context, actions = random_frames(3, 2), torch.tensor([[0, 1], [2, 2], [3, 0]])
    together = play(Session(suite, context, temperature=temperature, seed=seed), actions.unbind(1))
    for b in range(3):
        own = seed + b if isinstance(seed, int) else seed[b]
        alone = Session(suite, context[b : b + 1], temperature=temperature, seed=own)
        torch.testing.assert_close(together[b : b + 1], play(alone, actions[b].tolist()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_more_worlds_than_a_cpu_steps_together_are_still_one_batch(suite, feedback):
    batch, actions = 2 * _WORLDS + 1, [1, 2, 3]
    context = random_frames(batch, 2)
    together = play(Session(suite, context, temperature=1.0, feedback=feedback), actions)
    for b in (0, _WORLDS, batch - 1):
        alone = Session(suite, context[b : b + 1], temperature=1.0, seed=b, feedback=feedback)
        torch.testing.assert_close(together[b : b + 1], play(alone, actions), rtol=0, atol=1e-4)


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        4,
        -1,
        2**40,
        2**70,
        True,
        1.0,
        "1",
        [0, 4],
        [0],
        [0, 1, 2],
        torch.tensor([[0, 1]]),
        torch.tensor([0.0, 1.0]),
    ],
    ids=repr,
)
def test_an_action_that_is_none_is_refused_before_anything_changes(suite, action):
    session, untouched = (Session(suite, random_frames(2, 2), temperature=1.0) for _ in range(2))

    with pytest.raises(ActionError, match="Use 0 to 3"):
        session.step(action)

    assert session.frames.shape[1] == 2 and session.tokens.shape[1] == 0
    assert torch.equal(session.step(1), untouched.step(1))


@pytest.mark.parametrize(
    "action", [3, [0, 3], torch.tensor([0, 3]), torch.tensor(3, dtype=torch.uint8)], ids=repr
)
def test_one_id_or_one_for_each_batch_element_is_taken(suite, action):
    session = Session(suite, random_frames(2, 2))
    session.step(action)
    assert session.actions[:, -1].tolist() == torch.as_tensor(action).expand(2).tolist()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"context_window": 4}, "context_window is 4 and the context has 3"),
        ({"context_window": 0}, "context_window is 0"),
        ({"context_window": 2.0}, "context_window is 2.0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"feedback": "both"}, "feedback is 'both'"),
        ({"seed": [1]}, "seed is .* batch of 2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": [1, 0.5]}, "seed is"),
    ],
)
def test_a_value_out_of_its_range_is_refused_when_the_session_starts(suite, options, named):
    with pytest.raises(ParameterError, match=named):
        Session(suite, random_frames(2, 3), **options)


@pytest.mark.parametrize(
    "context",
    [
        torch.zeros(1, 2, 3, 16, 16),
        torch.zeros(2, 3, 12, 12),
        torch.zeros(1, 2, 3, 12, 12, dtype=torch.uint8),
    ],
)
def test_a_context_of_another_size_or_type_is_refused(suite, context):
    with pytest.raises(ParameterError, match=r"float frames \[B, T, 3, 12, 12\]"):
        Session(suite, context)


@pytest.mark.parametrize(
    "context", [torch.zeros(1, 3, 3, 12, 12), torch.zeros(1, 2, 3, 12, 12, dtype=torch.uint8)]
)
def test_a_teachers_context_of_another_length_or_type_is_refused_before_anything_changes(suite, context):
    session = Session(suite, random_frames(1, 2))
    with pytest.raises(ParameterError, match=r"this session sees float frames \[1, 2, 3, 12, 12\]"):
        session.step(1, context=context)
    assert session.frames.shape[1] == 2


def test_an_action_is_refused_by_a_world_that_takes_none():
    session = Session(random_suite(conditioned=False), random_frames(1, 2))
    with pytest.raises(ParameterError, match="takes None"):
        session.step(1)
    assert session.step(None).shape == (1, 1, 3, 12, 12)


def test_numbers_may_come_from_numpy(suite):
    context = random_frames(1, 2)
    plain = play(Session(suite, context, 2, 1, 3, 1.0, seed=3), [1])
    numpy = Session(suite, context, np.int64(2), np.int64(1), np.int32(3), np.float64(1.0), seed=np.int64(3))
    assert torch.equal(play(numpy, [1]), plain)


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_fork_goes_on_from_an_earlier_frame_and_leaves_the_original_alone(suite, feedback):
    session = Session(suite, random_frames(2, 2), temperature=1.0, seed=5, feedback=feedback)
    play(session, [1, 2, 3, 0])
    before, tokens, actions = session.frames.clone(), session.tokens.clone(), session.actions.clone()

    fork = session.fork(2)
    assert fork.generated == 2
    assert torch.equal(fork.frames, before[:, :4]) and torch.equal(fork.actions, actions[:, :2])
    play(fork, [3, 0])
    assert torch.equal(fork.frames, before)  # the same actions repeat the same frames, sampled or not
    other = session.fork(2)
    play(other, [1])

    assert not torch.equal(other.frames[:, -1], before[:, 4])
    assert torch.equal(session.frames, before) and torch.equal(session.tokens, tokens)


def test_what_was_set_on_a_session_holds_from_the_next_step_on(suite):
    session = Session(suite, random_frames(1, 2), temperature=1.0, seed=5)
    first = session.step(1)
    changed, same = session.fork(), session.fork()
    changed.seed, changed.steps = 6, 4
    assert (changed.seed, session.seed, same.steps) == ([6], [5], 10)
    assert not torch.equal(changed.step(1), same.step(1))
    assert torch.equal(session.frames[:, -1:], first)
    changed.feedback = "both"
    with pytest.raises(ParameterError, match="feedback is 'both'"):
        changed.step(1)


@pytest.mark.parametrize("generated", [-1, 3, 1, True, 1.0])
def test_a_fork_where_no_step_ended_is_refused(suite, generated):
    session = Session(suite, random_frames(1, 2), horizon=2)
    session.step(1)
    with pytest.raises(ParameterError, match="from 0 to 2"):
        session.fork(generated)


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_fork_that_keeps_only_the_window_goes_on_bit_for_bit(suite, feedback, horizon):
    whole = Session(suite, random_frames(1, 4), 3, horizon, 4, 1.0, seed=5, feedback=feedback)
    short = whole.fork(keep=3)
    for action in (1, None, 3, 0, 2):
        assert torch.equal(short.step(action), whole.step(action))
        short = short.fork(keep=3)
        assert short.frames.shape[1] == 3 and short.generated == whole.generated
        assert torch.equal(short.frames, whole.frames[:, -3:])
        assert short.actions.tolist()[0] == whole.actions.tolist()[0][-short.actions.shape[1] :]


def test_a_fork_of_many_worlds_plays_each_as_it_would_play_alone(suite):
    session = Session(suite, random_frames(1, 3), 3, steps=4, temperature=1.0, seed=5, feedback="tokens")
    session.step(2)
    many = session.fork(batch=4)
    frames = torch.cat([many.step(torch.arange(4)) for _ in range(2)], 1)
    for action in range(4):
        alone = session.fork()
        expected = torch.cat([alone.step(action) for _ in range(2)], 1)
        torch.testing.assert_close(frames[action : action + 1], expected, rtol=0, atol=1e-4)
    assert session.generated == 1


def test_a_fork_refuses_what_it_cannot_keep_or_multiply(suite):
    session = Session(suite, random_frames(1, 3), 2)
    play(session, [1, 1, 1, 1])
    short = session.fork(keep=2)
    assert short.generated == 4 and short.frames.shape[1] == 2
    with pytest.raises(ParameterError, match="from 4 to 4"):
        short.fork(3)
    with pytest.raises(ParameterError, match="at least the context window, 2"):
        session.fork(keep=1)
    with pytest.raises(ParameterError, match="one world"):
        session.fork(batch=3).fork(batch=2)
