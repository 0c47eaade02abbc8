"""A rollout from the embedded world: where its clip and its actions come from, and that it repeats."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.errors import ActionError, DatasetError, DeviceError, ParameterError
from helpers.play.compute import precision
from helpers.play.metrics import psnr
from helpers.play.rollout import choose_actions, play
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip, open_world

SHORT = Settings(dataset="coinrun", context_window=4, temperature=0.0, generation_steps=3, steps=2)


@pytest.fixture(scope="module")
def opened() -> OpenWorld:
    return open_world(SHORT)


def test_settings_are_read_from_the_variables_of_a_notebook() -> None:
    settings = Settings.read(
        {"dataset": "SONIC", "generation_steps": 3, "temperature": 1, "unrelated": object()}
    )
    assert (settings.dataset, settings.generation_steps, settings.temperature) == ("sonic", 3, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generation_steps", 0),
        ("generation_steps", "many"),
        ("context_window", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("steps", True),
        ("steps", -1),
        ("seed", -1),
        ("amp", 1),
        ("feedback", "dreams"),
        ("dataset", "tetris"),
        ("start", -2),
        ("actions", 3),
    ],
)
def test_a_parameter_out_of_its_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=str(value).split()[0].replace("[", "")):
        Settings.read({name: value})


def test_actions_must_be_whole_numbers() -> None:
    with pytest.raises(ActionError, match=r"1\.5"):
        Settings.read({"actions": [1, 1.5]})


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        (Settings(), "ground truth"),
        (Settings(use_gt_actions=False), "random"),
        (Settings(use_actions=True), "random"),
        (Settings(use_actions=True, use_gt_actions=True), "ground truth"),
        (Settings(use_gt_actions=False, use_actions=False), "none"),
        (Settings(use_interactive_mode=True), "given"),
        (Settings(actions=(1,)), "given"),
    ],
)
def test_actions_come_from_the_published_order_of_precedence(settings: Settings, source: str) -> None:
    assert settings.action_source == source


def test_an_absent_gpu_is_said_and_never_replaced_by_the_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError, match='device="cpu"'):
        open_world(replace(SHORT, device="cuda"))


def test_the_files_of_an_opened_world_are_hashed(opened: OpenWorld) -> None:
    assert set(opened.hashes) == {"dataset", "video_tokenizer", "latent_actions", "dynamics"}
    assert all(len(value) == 64 for value in opened.hashes.values())
    assert all(value[:12] in str(opened) for value in opened.hashes.values())


def test_the_seed_chooses_the_clip_and_a_start_row_fixes_it(opened: OpenWorld) -> None:
    starts = {choose_clip(opened, replace(SHORT, seed=seed)).start for seed in range(4)}
    assert len(starts) == 4
    clip = choose_clip(opened, replace(SHORT, start=64))
    assert clip.start == 64
    assert clip.frames.shape == (1, 4 + 3, 3, 64, 64)
    assert clip.true_actions is not None and clip.true_actions.shape == (6,)


def test_a_rollout_that_needs_no_truth_may_be_longer_than_any_clip(opened: OpenWorld) -> None:
    long = replace(SHORT, generation_steps=500)
    with pytest.raises(DatasetError, match="too short"):
        choose_clip(opened, long)
    clip = choose_clip(opened, replace(long, use_gt_actions=False))
    assert clip.frames.shape[1] == 32


def test_ground_truth_actions_are_those_the_latent_action_model_infers(opened: OpenWorld) -> None:
    clip = choose_clip(opened, SHORT)
    inferred = opened.suite.infer_actions(clip.frames)[0]
    assert choose_actions(opened, clip, SHORT) == inferred[3:].tolist()
    held = replace(SHORT, generation_steps=2, prediction_horizon=2)
    clip = choose_clip(opened, held)
    assert choose_actions(opened, clip, held) == opened.suite.infer_actions(clip.frames)[0, 3::2].tolist()


def test_random_actions_follow_the_seed(opened: OpenWorld) -> None:
    settings = replace(SHORT, use_actions=True, use_gt_actions=False, generation_steps=50)
    clip = choose_clip(opened, settings)
    actions = choose_actions(opened, clip, settings)
    assert set(actions) == set(range(8))
    assert actions == choose_actions(opened, clip, settings)
    assert actions != choose_actions(opened, clip, replace(settings, seed=1))


def test_an_action_id_out_of_range_is_refused_before_anything_runs(opened: OpenWorld) -> None:
    settings = replace(SHORT, actions=(0, 8))
    with pytest.raises(ActionError, match="0 to 7"):
        play(opened, choose_clip(opened, settings), settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_settings_give_the_same_frames(opened: OpenWorld, temperature: float) -> None:
    settings = replace(SHORT, temperature=temperature)
    clip = choose_clip(opened, settings)
    one, two = (play(opened, clip, settings).rollout() for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
    assert one.token_hashes == two.token_hashes
    assert len(one.token_hashes) == len(one.actions) == one.generated == 3


def test_a_horizon_of_two_holds_each_action_for_two_frames(opened: OpenWorld) -> None:
    settings = replace(SHORT, actions=(2, 6), prediction_horizon=2)
    made = play(opened, choose_clip(opened, settings), settings).rollout()
    assert made.actions == [2, 2, 6, 6]
    assert len(made.seconds) == 2


def test_teacher_forcing_shows_the_true_frames_at_every_step(opened: OpenWorld) -> None:
    settings = replace(SHORT, teacher_forced=True, context_window=1, feedback="pixels")
    clip = choose_clip(opened, settings)
    made = play(opened, clip, settings).rollout()
    assert len(made.psnr) == 3
    # With a window of one frame, the last step knows nothing but the true frame before and its action.
    alone = replace(settings, start=clip.start + 2, generation_steps=1, actions=(made.actions[-1],))
    again = play(opened, choose_clip(opened, alone), replace(alone, teacher_forced=False)).rollout()
    assert np.array_equal(again.frames[-1], made.frames[-1])


def test_without_actions_frames_are_generated_without_conditioning(opened: OpenWorld) -> None:
    settings = replace(SHORT, use_gt_actions=False, use_actions=False)
    made = play(opened, choose_clip(opened, settings), settings).rollout()
    assert made.actions == [None, None, None]
    assert made.psnr == []


def test_precision_is_put_back_after_the_block(opened: OpenWorld) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with precision(replace(SHORT, tf32=not before, amp=True), torch.device("cpu")):
        assert torch.backends.cuda.matmul.allow_tf32 is not before
        assert torch.is_autocast_enabled("cpu")
    assert torch.backends.cuda.matmul.allow_tf32 is before
    assert not torch.is_autocast_enabled("cpu")


def test_a_rollout_in_bfloat16_stays_in_the_codebook(opened: OpenWorld) -> None:
    settings = replace(SHORT, amp=True)
    made = play(opened, choose_clip(opened, settings), settings)
    tokens = made.tokens
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 4096


def test_psnr_of_known_errors() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, black) == 100
    assert psnr(grey, black) == pytest.approx(13.979, abs=1e-3)
