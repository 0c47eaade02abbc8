"""The metrics follow their definitions, and a run's numbers are those of its generated frames."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_cases import random_frames, random_suite
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from helpers.assets.dataset import to_model_frames
from helpers.play.game import Game
from helpers.play.metrics import (
    Interval,
    action_histogram,
    delta_psnr,
    delta_rollouts,
    interval,
    measure,
    motion_ratio,
    psnr,
    published_mse,
    quality_in_words,
    repeated_psnr,
    run_delta_psnr,
    ssim,
    token_accuracy,
)
from helpers.play.rollout import play
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip, open_world
from helpers.worldmodel import Session
from helpers.worldmodel.session import Decoding

SHORT = Settings(dataset="coinrun", context_window=4, temperature=0.0, generation_steps=4, steps=2)


@pytest.fixture(scope="module")
def opened() -> OpenWorld:
    return open_world(SHORT)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_is_that_of_scikit_image_and_100_where_nothing_differs() -> None:
    images, truth = noise(4, 16, 16, 3), noise(4, 16, 16, 3)[::-1]
    expected = [
        peak_signal_noise_ratio(true, image, data_range=255)
        for image, true in zip(images, truth, strict=True)
    ]
    assert psnr(images, truth) == pytest.approx(expected)
    assert psnr(truth, truth).tolist() == [100] * 4


def test_quality_is_said_beside_what_repeating_the_last_given_frame_gives(opened: OpenWorld) -> None:
    rollout = play(opened, choose_clip(opened, SHORT), SHORT).rollout()
    last, true = rollout.frames[3], rollout.truth[4:]
    assert repeated_psnr(rollout) == pytest.approx(psnr(np.stack([last] * 4), true))
    frames = rollout.frames.copy()
    frames[4], frames[5:] = true[0], last
    half = replace(rollout, frames=frames, psnr=psnr(frames[4:], true).tolist())
    assert half.psnr[0] == 100 and "repeated, in 1 of 4 frames;" in quality_in_words(half)
    assert f"in the last one {half.psnr[3]:.1f} dB against {half.psnr[3]:.1f} dB" in quality_in_words(half)


def test_the_published_mse_is_the_mean_square_of_what_frames_in_minus_one_to_one_are_off() -> None:
    images, truth = (
        np.random.default_rng(seed).integers(0, 256, (3, 8, 8, 3), np.uint8) for seed in range(2)
    )
    wrong = np.square(images / 127.5 - truth / 127.5).mean()
    assert published_mse(psnr(images, truth).tolist()) == pytest.approx(wrong)
    assert published_mse([10 * math.log10(4 / 0.0745)]) == pytest.approx(0.0745)


def test_psnr_does_not_depend_on_how_pixels_are_scaled() -> None:
    images, truth = noise(2, 8, 8, 3), noise(2, 8, 8, 3)[::-1]
    scaled = psnr(images / 127.5 - 1, truth / 127.5 - 1, data_range=2)
    assert scaled == pytest.approx(psnr(images, truth))


def test_ssim_is_1_for_equal_frames_and_averages_the_colours() -> None:
    truth = noise(2, 24, 24, 3)
    blurred = (truth // 2 + 60).astype(np.uint8)
    assert ssim(truth, truth) == pytest.approx([1, 1])
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    by_colour = [
        np.mean([structural_similarity(t[..., c], b[..., c], **options) for c in range(3)])
        for b, t in zip(blurred, truth, strict=True)
    ]
    assert ssim(blurred, truth) == pytest.approx(by_colour)


def test_frames_smaller_than_its_window_have_no_ssim() -> None:
    assert ssim(noise(2, 8, 8, 3), noise(2, 8, 8, 3)) == []


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (7, 2.3646), (30, 2.0423), (63, 1.9983)],
)
def test_few_values_have_wide_intervals(degrees: int, quantile: float) -> None:
    values = np.random.default_rng(0).normal(size=degrees + 1)
    standard_error = np.std(values, ddof=1) / (degrees + 1) ** 0.5
    assert interval(values).half_width == pytest.approx(quantile * standard_error, rel=1e-4)


def test_an_interval_is_the_mean_and_students_share_of_the_standard_error() -> None:
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.half_width) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)
    assert interval(np.array([5.0])) == Interval(5.0, math.inf)


def test_motion_is_counted_from_the_last_given_frame_on() -> None:
    truth = np.zeros((5, 4, 4, 3), np.uint8)
    truth[:, 0, 0] = np.array([9, 0, 10, 0, 10])[:, None]
    still, half = truth.copy(), truth.copy()
    still[2:] = still[1]
    half[2:] = half[2:] // 2
    assert motion_ratio(truth, truth, 2) == 1
    assert motion_ratio(still, truth, 2) == 0
    assert motion_ratio(half, truth, 2) == 0.5
    assert motion_ratio(truth, truth[:2], 2) is None
    assert motion_ratio(truth, np.zeros_like(truth), 2) is None


def test_actions_are_counted_by_id_and_frames_without_one_are_not() -> None:
    assert action_histogram([2, 2, None, 0], 4) == [1, 0, 2, 0]
    assert action_histogram([], 2) == [0, 0]


def test_delta_psnr_is_what_random_actions_lose() -> None:
    found = delta_psnr(np.array([20.0, 22.0]), np.array([18.0, 19.0]))
    assert found.mean == 2.5 and found.half_width > 0


def test_the_delta_of_a_run_compares_the_fourth_frame_of_rollouts_played_the_same_way(
    opened: OpenWorld,
) -> None:
    clip = choose_clip(opened, SHORT)
    session = Game(opened, clip, SHORT).session.fork()
    found = run_delta_psnr(session, clip.frames, draws=3)
    drawn = np.random.default_rng(0).integers(8, size=(3, 4))
    followed = opened.suite.infer_actions(clip.frames[:, :8])[0, 3:]
    scores = []
    for actions in (followed, *torch.from_numpy(drawn)):
        alone = Game(opened, clip, SHORT).session.fork()
        for action in actions:
            alone.step(int(action))
        last = ((alone.frames[:, 7].clamp(-1, 1) + 1) * 127.5).round()
        true = ((clip.frames[:, 7] + 1) * 127.5).round()
        scores.append(float(psnr(last.numpy(), true.numpy())[0]))
    assert found is not None
    assert found.mean == pytest.approx(scores[0] - np.mean(scores[1:]), abs=0.05)
    assert run_delta_psnr(session, clip.frames[:, :7]) is None


@pytest.mark.parametrize("decoding", [Decoding(2, 0.0, "tokens"), Decoding(3, 1.0, "pixels")])
def test_a_delta_rollout_is_what_its_clip_gives_alone_however_many_are_played_together(
    opened: OpenWorld, decoding: Decoding
) -> None:
    clip = choose_clip(opened, SHORT).frames[:, :8]
    clips = torch.cat([clip, clip.flip(1), clip.flip(-1)])
    followed, random = delta_rollouts(opened.suite, clips, 4, 1, decoding, seed=5, draws=2, batch=4)
    assert random is not None
    assert (followed.shape, random.shape) == ((3,), (3, 2))
    drawn = torch.from_numpy(np.random.default_rng(5).integers(8, size=(3, 2, 4)))
    for b in range(3):
        inferred = opened.suite.infer_actions(clips[b : b + 1])[0, 3:]
        for actions, value in zip((inferred, *drawn[b]), (followed[b], *random[b]), strict=True):
            steps, temperature, feedback = decoding
            alone = Session(opened.suite, clips[b : b + 1, :4], 4, 1, steps, temperature, 5 + b, feedback)
            for action in actions:
                alone.step(int(action))
            made, true = alone.frames[0, 7].clamp(-1, 1).numpy(), clips[b, 7].numpy()
            assert value == pytest.approx(float(psnr(made, true, data_range=2)), abs=1e-3)


def test_a_world_without_actions_has_no_random_rollouts() -> None:
    suite = random_suite(conditioned=False)
    followed, random = delta_rollouts(suite, random_frames(2, 6), 2, 2, Decoding(2, 0.0, "tokens"))
    assert followed.shape == (2,) and random is None


def test_token_accuracy_is_that_of_one_pass_behind_true_frames(opened: OpenWorld) -> None:
    frames = choose_clip(opened, SHORT).frames
    suite = opened.suite
    shares = []
    for first in range(4):
        piece = frames[:, first : first + 5]
        session = Session(suite, piece[:, :4], 4, steps=1)
        session.step(int(suite.infer_actions(piece)[0, -1]))
        wanted = suite.video_tokenizer.tokenize(piece)[0, -1]
        shares.append(float((session.tokens[0, 0] == wanted).float().mean()))
    assert token_accuracy(suite, frames, 4, batch=3) == pytest.approx(np.mean(shares), abs=0.005)
    assert token_accuracy(suite, frames[:, :4], 4) is None


def test_a_run_that_follows_its_clip_has_every_metric(opened: OpenWorld) -> None:
    game = play(opened, choose_clip(opened, SHORT), SHORT)
    made = game.rollout()
    found = measure(game.session, made)
    assert found["psnr_db"] == pytest.approx(made.psnr) and len(found["psnr_db"]) == 4
    assert len(found["ssim"]) == 4 and all(0 < value < 1 for value in found["ssim"])
    assert found["motion_ratio"] > 0
    assert sum(found["action_histogram"]) == 4 and len(found["action_histogram"]) == 8
    assert found["delta_4_psnr_db"]["half_width"] > 0
    assert 0 < found["token_accuracy"] < 1


def test_a_run_of_other_actions_is_not_compared_with_the_clip_frame_by_frame(opened: OpenWorld) -> None:
    settings = replace(SHORT, actions=(1, 2, 3, 4))
    game = play(opened, choose_clip(opened, settings), settings)
    made = game.rollout()
    found = measure(game.session, made, evaluate=False)
    assert found["psnr_db"] == found["ssim"] == []
    assert found["action_histogram"] == [0, 1, 1, 1, 1, 0, 0, 0]
    assert found["delta_4_psnr_db"] is None and found["token_accuracy"] is None


def test_a_clip_is_the_same_as_pixels_and_as_model_frames(opened: OpenWorld) -> None:
    made = play(opened, choose_clip(opened, SHORT), SHORT).rollout()
    clip = torch.from_numpy(to_model_frames(made.truth, 64))
    assert torch.equal(clip, choose_clip(opened, SHORT).frames)
