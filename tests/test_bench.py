"""The benchmark compares like with like, and the engine does less."""

import re
import sys

import pytest
import torch
from golden_cases import random_frames, random_suite
from torch.utils.flop_counter import FlopCounterMode

from helpers import bench
from helpers.worldmodel import Session


def test_both_sides_of_the_comparison_make_the_same_tokens():
    result = bench.compare(random_suite(), context_window=2, steps=4, pairs=1)

    assert result.same_tokens
    assert result.engine > 0 and result.straight > 0
    assert result.ratio == pytest.approx(result.straight / result.engine)


def test_the_engine_needs_less_than_half_of_the_straight_loops_arithmetic():
    suite = bench.sonic_shapes()
    window, actions = random_frames(1, 2, suite.frame_size), torch.tensor([[3, 1]])
    with FlopCounterMode(display=False) as engine:
        Session(suite, window, context_window=2, steps=10).step(1)
    with FlopCounterMode(display=False) as straight:
        bench.straight_step(suite, window, actions, steps=10)

    assert 0 < engine.get_total_flops() * 2 < straight.get_total_flops()


@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
def test_a_rollout_is_timed_in_seconds_a_frame(feedback):
    seconds = bench.rollout_seconds(random_suite(), random_frames(1, 2), feedback, 0.0, steps=2, frames=3)
    assert 0 < seconds < 60


def test_the_command_prints_both_times_their_ratio_and_whether_the_tokens_are_equal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--pairs", "1", "--steps", "2"])

    bench.main()

    printed = capsys.readouterr().out
    assert re.search(
        r"straight \d+ ms a frame, engine \d+ ms a frame, [\d.]+ times faster, tokens equal", printed
    )
