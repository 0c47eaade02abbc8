"""The pictures that explain a game show what the models really compute."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.pictures import to_uint8
from helpers.play import story
from helpers.play.game import Game
from helpers.play.rollout import play
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip, open_world
from helpers.worldmodel.decode import decode, decoding_steps, unmask_counts

SHORT = Settings(dataset="coinrun", context_window=4, temperature=0.0, generation_steps=2)


@pytest.fixture(scope="module")
def opened() -> OpenWorld:
    return open_world(SHORT)


@pytest.fixture(scope="module")
def game(opened: OpenWorld) -> Game:
    return play(opened, choose_clip(opened, SHORT), SHORT)


def test_the_models_see_the_given_frames_and_their_tokens(game: Game) -> None:
    picture = story.what_the_models_see(game)
    frames = to_uint8(game.clip.frames[0, :4])
    pixels = np.asarray(picture)
    first = frames[0].repeat(2, 0).repeat(2, 1)  # as large as it is drawn
    windows = np.lib.stride_tricks.sliding_window_view(pixels, first.shape)[:60, :200, 0]
    assert (windows == first).all(axis=(2, 3, 4)).any()
    assert picture.width > 4 * 128


def test_decoding_can_be_watched_step_by_step_to_the_very_end_of_the_decoding(opened: OpenWorld) -> None:
    suite, positions = opened.suite, opened.suite.video_tokenizer.config.grid**2
    frames = choose_clip(opened, SHORT).frames[:, :4]
    with torch.inference_mode():
        context = suite.video_tokenizer.encode(frames)
        parts = suite.dynamics, suite.video_tokenizer.quantizer, context, None
        states = list(decoding_steps(*parts, 1, 8, 0.0, None))
        whole = decode(*parts, 1, 8, 0.0, None)
    counts = np.cumsum(unmask_counts(positions, 8))
    assert [positions - masked.shape[1] for _, masked in states] == counts.tolist()
    for (before, masked), (after, _) in itertools.pairwise(states):
        fixed = [place for place in range(positions) if place not in masked[0].tolist()]
        assert torch.equal(before[:, fixed], after[:, fixed])
    assert torch.equal(whole[:, -1], states[-1][0])


def test_a_decoded_frame_is_drawn_at_every_step(game: Game) -> None:
    two, eight = story.decoding(game, 2), story.decoding(game)
    masked = np.asarray(two).reshape(-1, 3) == story._MASKED
    assert masked.all(1).any()
    assert eight.height > two.height


def test_the_effect_of_every_action_is_drawn_beside_the_one_taken(game: Game) -> None:
    events = game.recording()["events"]
    picture = story.action_effects(game, game.rollout())
    assert isinstance(picture, Image.Image) and picture.width > 8 * 128
    assert game.recording()["events"] == events


def test_one_frame_of_context_is_enough(opened: OpenWorld) -> None:
    alone = replace(SHORT, context_window=1, actions=(1,))
    clip = choose_clip(opened, alone)
    game = Game(opened, replace(clip, frames=clip.frames[:, :1]), alone)
    assert story.what_the_models_see(game).height > story.decoding(game, 2).height
    assert isinstance(story.action_effects(game, game.rollout()), Image.Image)


def test_quality_is_drawn_only_where_there_is_a_true_frame_to_compare_with(
    opened: OpenWorld, game: Game
) -> None:
    drawn = story.quality(game.rollout())
    assert drawn.alt.startswith("PSNR from ") and "the last given frame, repeated" in drawn.alt
    by_hand = replace(SHORT, actions=(1, 2))
    answer = story.quality(play(opened, choose_clip(opened, by_hand), by_hand).rollout())
    assert isinstance(answer, str) and "no true frame" in answer
