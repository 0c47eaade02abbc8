"""The three models give what the published project gives."""

import pytest
import torch
from golden_cases import (
    CASES,
    SMALL,
    golden_io,
    golden_suite,
    random_actions,
    random_frames,
    random_latents,
    random_suite,
)

from helpers.errors import ParameterError
from helpers.worldmodel import Session, maskgit_decode
from helpers.worldmodel.models import LatentActions, ModelConfig

EXACT = {"rtol": 0, "atol": 0}
PIXELS = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(params=CASES)
def case(request):
    """A suite, and what the published project computes with it."""
    return golden_suite(request.param), golden_io(request.param)


# --- as published ----------------------------------------------------------------------------------


def test_the_encoder_gives_the_published_latents_before_they_are_rounded(case):
    suite, io = case
    torch.testing.assert_close(suite.video_tokenizer.encoder(io["frames"]), io["encoder_output"], **PIXELS)


def test_frames_become_the_published_tokens_one_for_one(case):
    suite, io = case
    assert torch.equal(suite.video_tokenizer.tokenize(io["frames"]), io["token_indices"])


def test_tokens_become_the_published_latents_and_back(case):
    suite, io = case
    quantizer = suite.video_tokenizer.quantizer

    torch.testing.assert_close(
        quantizer.indices_to_latents(io["token_indices"]), io["token_latents"], **EXACT
    )
    torch.testing.assert_close(suite.video_tokenizer.encode(io["frames"]), io["token_latents"], **PIXELS)
    assert torch.equal(quantizer.latents_to_indices(io["token_latents"]), io["token_indices"])


def test_latents_become_the_published_pixels(case):
    suite, io = case
    tokenizer = suite.video_tokenizer

    torch.testing.assert_close(tokenizer.detokenize(io["token_latents"]), io["reconstruction"], **PIXELS)
    torch.testing.assert_close(tokenizer(io["frames"]), io["reconstruction"], **PIXELS)


def test_the_action_between_two_frames_is_the_published_one(case):
    suite, io = case
    before = suite.latent_actions.encoder(io["frames"])

    torch.testing.assert_close(before, io["action_prequant"], **PIXELS)
    torch.testing.assert_close(suite.latent_actions.encode(io["frames"]), io["action_latents"], **EXACT)
    assert torch.equal(suite.infer_actions(io["frames"]), io["action_indices"])


def test_the_action_decoder_predicts_the_published_frames(case):
    suite, io = case
    predicted = suite.latent_actions.decoder(io["frames"], io["action_latents"])
    torch.testing.assert_close(predicted, io["lam_pred_frames"], **PIXELS)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_dynamics_model_gives_the_published_logits(case, conditioned):
    suite, io = case
    logits = suite.dynamics(io["token_latents"], io["action_latents"] if conditioned else None)
    expected = io["logits_conditioned" if conditioned else "logits_unconditioned"]
    torch.testing.assert_close(logits[:1, :, ::4], expected, **PIXELS)  # what the golden data keeps


@pytest.mark.parametrize(
    ("result", "actions", "horizon", "steps"),
    [
        ("decode_h1_conditioned", "decode_actions", 1, 10),
        ("decode_h1_unconditioned", None, 1, 10),
        ("decode_h2_conditioned", "decode_h2_actions", 2, 10),
        ("decode_h1_4steps", "decode_actions", 1, 4),
    ],
)
def test_decoding_fixes_the_published_tokens_one_for_one(case, result, actions, horizon, steps):
    suite, io = case
    context, conditioning = io["token_latents"][:, :3], io[actions] if actions else None
    quantizer = suite.video_tokenizer.quantizer

    latents = maskgit_decode(suite.dynamics, quantizer, context, conditioning, horizon, steps)

    torch.testing.assert_close(latents, io[result], **EXACT)


def test_a_rollout_shows_the_published_frames(case):
    suite, io = case
    session = Session(suite, io["frames"][:1, :2], context_window=2)

    for action in io["rollout_actions"].tolist():
        session.step(action)

    torch.testing.assert_close(session.frames, io["rollout_frames"], **PIXELS)


# --- what a model takes ----------------------------------------------------------------------------


def test_frames_of_any_float_type_give_the_same_tokens(case):
    suite, io = case
    assert torch.equal(suite.video_tokenizer.tokenize(io["frames"].double()), io["token_indices"])


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 2, 3, 16, 12),
        torch.zeros(1, 2, 12, 12, 3),
        torch.zeros(2, 3, 12, 12),
        torch.zeros(1, 2, 3, 12, 12, dtype=torch.uint8),
    ],
    ids=["another size", "channels last", "no batch", "bytes"],
)
def test_frames_that_do_not_fit_are_refused_with_what_would_fit(frames):
    suite = random_suite()
    for take in (suite.video_tokenizer.encode, suite.latent_actions.encode, suite.infer_actions):
        with pytest.raises(ParameterError, match=r"float frames \[B, T, 3, 12, 12\]"):
            take(frames)


def test_a_single_frame_has_no_action():
    with pytest.raises(ParameterError, match="at least two frames"):
        random_suite().latent_actions.encode(random_frames(1, 1))


def test_a_latent_action_model_without_actions_cannot_be_built():
    with pytest.raises(ParameterError, match="action_dim"):
        LatentActions(ModelConfig(12, 4, 32, 4, 20, 2))


@pytest.mark.parametrize("shape", [(1, 4, 2), (1, 1, 2), (1, 3, 3), (3, 2)])
def test_conditioning_that_fits_neither_frames_nor_model_is_refused(shape):
    suite = random_suite()
    with pytest.raises(ParameterError, match=r"takes \[B, 2 or 3, 2\]"):
        suite.dynamics(random_latents(suite, 1, 3), torch.zeros(shape))


def test_a_model_without_conditioning_says_that_it_takes_none():
    suite = random_suite(conditioned=False)
    with pytest.raises(ParameterError, match="takes None"):
        suite.dynamics(random_latents(suite, 1, 3), torch.zeros(1, 2, 2))


# --- what may depend on what -----------------------------------------------------------------------


def test_a_later_frame_changes_nothing_before_it():
    suite = random_suite()
    frames, actions = random_frames(2, 5), random_actions(suite, 2, 4)
    changed = frames.clone()
    changed[:, 3:] = random_frames(2, 2, seed=9)
    latents, changed_latents = suite.video_tokenizer.encode(frames), suite.video_tokenizer.encode(changed)

    pairs = [
        (suite.video_tokenizer.encoder(frames), suite.video_tokenizer.encoder(changed), 3),
        (suite.video_tokenizer.detokenize(latents), suite.video_tokenizer.detokenize(changed_latents), 3),
        (suite.latent_actions.encoder(frames), suite.latent_actions.encoder(changed), 2),
        (suite.dynamics(latents, actions), suite.dynamics(changed_latents, actions), 3),
    ]
    for before, after, unchanged in pairs:
        torch.testing.assert_close(after[:, :unchanged], before[:, :unchanged])
        assert (after[:, unchanged:] - before[:, unchanged:]).abs().amax() > 1e-3


def test_an_action_acts_on_the_frame_after_it_and_no_earlier():
    suite = random_suite()
    latents, actions = random_latents(suite, 1, 4), random_actions(suite, 1, 3)
    changed = actions.clone()
    changed[:, 1] = -changed[:, 1]

    difference = (suite.dynamics(latents, changed) - suite.dynamics(latents, actions)).abs().amax((0, 2, 3))

    assert (difference[:2] < 1e-5).all()
    assert (difference[2:] > 1e-3).all()


def test_the_action_decoder_in_training_sees_frame_0_alone():
    suite = random_suite()
    frames, actions = random_frames(1, 4), random_actions(suite, 1, 3)
    others = frames.clone()
    others[:, 1:] = random_frames(1, 3, seed=5)
    decoder = suite.latent_actions.decoder

    torch.testing.assert_close(decoder(others, actions, masked=True), decoder(frames, actions, masked=True))
    assert (decoder(others, actions) - decoder(frames, actions)).abs().amax() > 1e-3
    assert decoder(frames, actions).shape == (1, 3, 3, SMALL.frame_size, SMALL.frame_size)
