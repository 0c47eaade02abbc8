"""The embedded world keeps the promises of its model card, on levels it was never trained on."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.assets import find_suite
from helpers.train.coinrun_evaluate import (
    evaluate_actions,
    evaluate_rollouts,
    information,
    interval,
    psnr,
    read_clips,
    reconstruct,
    roll,
)
from helpers.train.coinrun_train import CONFIGS, Trainer, blur_dead_actions, dynamics_loss, save
from helpers.worldmodel import Suite, load_suite
from helpers.worldmodel.models import Dynamics, LatentActions, VideoTokenizer

CARD = Path(__file__).resolve().parent.parent / "helpers" / "demo" / "coinrun" / "MODEL_CARD.md"


@pytest.fixture(scope="module")
def suite() -> Suite:
    paths = find_suite("coinrun")
    return load_suite(
        video_tokenizer=paths.video_tokenizer, latent_actions=paths.latent_actions, dynamics=paths.dynamics
    )


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    return read_clips(find_suite("coinrun").dataset, 32, 64)


def test_its_clips_are_whole_episodes_with_true_actions(clips: tuple[Tensor, Tensor]) -> None:
    frames, actions = clips
    assert frames.shape == (64, 32, 3, 64, 64)
    # Left and right together are never recorded.
    assert set(actions.unique().tolist()) == {0, 1, 2, 4, 5, 6}
    with h5py.File(find_suite("coinrun").dataset) as file:
        assert np.array_equal(np.bincount(file["episodes"][:]), np.full(64, 32))


def test_unseen_frames_are_reconstructed_at_30_decibels_and_more(
    suite: Suite, clips: tuple[Tensor, Tensor]
) -> None:
    found = interval(reconstruct(suite, clips[0][:16]).mean(1))
    assert found.mean - found.half_width >= 30
    assert abs(found.mean - on_the_card("reconstruction")) < 2 * found.half_width  # the card is of all clips


def test_the_latent_actions_tell_the_keys(suite: Suite, clips: tuple[Tensor, Tensor]) -> None:
    found = evaluate_actions(suite, *clips)
    assert found["information_bits"] >= 0.8
    assert found["largest_share_of_one_id"] <= 0.5


def on_the_card(row: str, column: int = 0) -> float:
    """A mean in a row of the model card, in dB; the first of the row unless another is asked for."""
    (line,) = (line for line in CARD.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {row}"))
    return float(re.findall(r"(\d+\.\d+) ± \d\.\d+", line)[column])


def test_the_model_cards_numbers_are_those_measured(suite: Suite, clips: tuple[Tensor, Tensor]) -> None:
    frames = clips[0][:, :8]
    inferred = suite.infer_actions(frames)[:, 3:].cpu()
    scores = psnr(roll(suite, frames[:, :4], inferred, "tokens", 0.0, 1), frames[:, 4:])
    still = psnr(frames[:, 3:4].expand_as(frames[:, 4:]), frames[:, 4:])
    # The card is rounded to 0.1 dB, and the last bits of a rollout differ from machine to machine.
    assert scores[:, 0].mean() == pytest.approx(on_the_card("PSNR of the 1st generated frame"), abs=0.2)
    assert still[:, 3].mean() == pytest.approx(on_the_card("of the 4th"), abs=0.2)
    assert scores[:, 3].mean() == pytest.approx(on_the_card("of the 4th", 1), abs=0.2)


def test_different_actions_visibly_do_different_things(suite: Suite, clips: tuple[Tensor, Tensor]) -> None:
    frames, actions = clips
    found = evaluate_rollouts(suite, frames[:32], actions[:32], 4, "tokens", 0.0, 10, generated=4)
    delta = found["delta_4_psnr"]
    assert delta.mean - delta.half_width > 0


def test_its_checkpoints_have_the_published_form_and_hold_weights_only() -> None:
    for kind, path in find_suite("coinrun").items():
        if kind != "dataset":
            loaded = torch.load(path, weights_only=True)
            assert {"model", "config", "step", "timestamp"} <= set(loaded)
            assert loaded["optimizer_state_dict"] == {}
            assert path.stat().st_size < 5_000_000


def test_a_checkpoint_that_training_saves_can_be_loaded(tmp_path: Path) -> None:
    paths = {}
    torch.manual_seed(0)
    for kind, model in (
        ("video_tokenizer", VideoTokenizer(CONFIGS["video_tokenizer"])),
        ("latent_actions", LatentActions(CONFIGS["latent_actions"])),
        ("dynamics", Dynamics(CONFIGS["dynamics"])),
    ):
        paths[kind] = tmp_path / f"{kind}.pth"
        save(model, CONFIGS[kind], Trainer(model, steps=1, learning_rate=1e-3), paths[kind])
        assert json.loads(paths[kind].with_suffix(".json").read_text(encoding="utf-8"))["steps"] == 0
    suite = load_suite(**paths)
    assert suite.dynamics.config == CONFIGS["dynamics"]


def test_a_few_training_steps_lower_the_dynamics_loss(suite: Suite, clips: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = Dynamics(CONFIGS["dynamics"])
    trainer = Trainer(model, steps=30, learning_rate=1e-3)
    tokens = suite.video_tokenizer.tokenize(clips[0][:1, :5])
    bits = ((clips[1][:1, :4].unsqueeze(-1) >> torch.arange(3)) & 1).float()
    losses = []
    for _ in range(30):
        loss, _ = dynamics_loss(model, suite.video_tokenizer, tokens, bits * 2 - 1)
        trainer.update(loss)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_ids_that_are_never_recorded_are_taught_as_no_direction() -> None:
    torch.manual_seed(0)
    bits = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]).expand(1000, -1, -1)
    blurred = blur_dead_actions(bits)
    both = (blurred[:, 0, :2].sum(-1) == 2).float().mean()
    assert 0.1 < both < 0.2
    assert torch.equal(blurred[:, :, 2], bits[:, :, 2])
    assert torch.equal(blurred[:, 1], bits[:, 1])


def test_psnr_information_and_intervals_follow_their_definitions() -> None:
    frames = torch.zeros(1, 2, 3, 4, 4)
    assert psnr(frames + 0.2, frames) == pytest.approx(np.full((1, 2), 20.0), abs=1e-4)
    fair = np.array([0, 1] * 50)
    assert information(fair, fair) == pytest.approx((1.0, 1.0))
    assert information(fair, np.repeat([0, 1], 50)) == pytest.approx((0.0, 1.0))
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.half_width) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)
