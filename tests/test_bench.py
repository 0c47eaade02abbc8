"""The benchmark compares like with like, and the engine does less."""

import json
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from golden_cases import random_frames, random_suite
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers.bench import frames as bench
from helpers.bench.peer import Peer, config
from helpers.bench.roofline import Device, Work, _Fused, _Traffic, step_work
from helpers.errors import ParameterError
from helpers.worldmodel import Session, linear


def test_both_sides_of_the_comparison_make_the_same_tokens():
    greedy, *_, straight = bench.engine_rows(random_suite(), "small", window=2, steps=4, pairs=1)

    assert straight.ratio.endswith("; 100.0% of the tokens are the same")
    assert greedy.seconds[0] > 0 and straight.seconds[0] > 0
    assert float(straight.ratio.split()[1]) == pytest.approx(
        straight.seconds[0] / greedy.seconds[0], abs=0.005
    )


@pytest.fixture
def countable(monkeypatch):
    """Operations that torch's counter knows: its own matrix products."""
    monkeypatch.setattr(linear, "_onednn_computes", lambda: False)


def test_the_engine_needs_less_than_half_of_the_straight_loops_arithmetic(countable):
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


def test_a_step_shorter_than_a_tick_of_windows_cpu_clock_is_timed_all_the_same(monkeypatch):
    monkeypatch.setattr(bench.time, "process_time", lambda: 0.0)

    rows = bench.engine_rows(random_suite(), "tiny", 2, 2, pairs=2)

    assert all(min(row.seconds) > 0 for row in rows)


def test_the_command_prints_the_table_and_saves_it_with_the_machines_facts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "sonic_shapes", lambda *_, **__: random_suite())
    saved = tmp_path / "new folder" / "bench.json"
    options = ["--pairs", "2", "--steps", "2", "--batch", "2", "--length", "220", "--save", str(saved)]
    monkeypatch.setattr(sys, "argv", ["bench", *options])

    bench.main()

    printed, table = capsys.readouterr().out, json.loads(saved.read_text(encoding="utf-8"))
    assert [row["name"] for row in table["rows"]] == [
        "SONIC shapes, 64x64, greedy",
        "SONIC shapes, 64x64, greedy, CPU time",
        "SONIC shapes, 64x64, sampled",
        "SONIC shapes, 64x64, greedy, bfloat16",
        "SONIC shapes, 64x64, straight loop",
        "batch of 1, a frame",
        "batch of 2, a frame",
        "a very small world, frames 10 to 109",
        "the same session, up to frame 220",
    ]
    assert all(row["name"] in printed and min(row["seconds"]) > 0 for row in table["rows"])
    assert table["machine"]["threads"] == torch.get_num_threads()
    assert sum("NOT MEASURED" in line for line in printed.splitlines()) == 2


def test_what_a_long_session_keeps_of_a_frame_is_that_frame_and_its_latents():
    _, late = bench.length_rows(300)
    kept, least = (int(number) for number in re.findall(r"(\d+) bytes kept.* are (\d+)", late.ratio)[0])
    assert least <= kept < 1.1 * least


def test_ratios_are_those_of_pairs_and_the_spread_is_the_quartiles():
    assert bench.times([4, 6, 100], [2, 2, 10]) == "3.00 times"
    assert bench.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert bench.spread([7.0]) == (7.0, 7.0, 7.0)


# --- the prediction --------------------------------------------------------------------------------


def test_the_predicted_arithmetic_is_what_a_step_really_does(countable):
    suite = random_suite()
    # The CPU's own attention kernel is one that torch's counter does not know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        session = Session(suite, random_frames(1, 2), steps=4)
        session.state = session.state._replace(actions=(torch.tensor([1]),))
        session.step(1)
    assert step_work(suite, 2, 4).flops == counted.get_total_flops()


def test_more_decoding_steps_and_larger_batches_are_more_work_but_a_batch_needs_hardly_more_launches():
    suite = random_suite()
    one, longer, wider = step_work(suite, 2, 2), step_work(suite, 2, 4), step_work(suite, 2, 2, batch=8)
    assert longer.flops > one.flops and longer.bytes > one.bytes and longer.kernels > one.kernels
    assert wider.flops == 8 * one.flops and wider.kernels < 1.2 * one.kernels


@pytest.mark.parametrize(
    ("call", "kernels", "tensors"),
    [
        (lambda x: F.rms_norm(x, (8,)), 1, 2),
        (lambda x: F.scaled_dot_product_attention(x, x, x), 1, 4),
        (lambda x: (x + x).transpose(1, 2).flatten(), 2, 5),  # a sum, and a copy since the rows are apart
        (lambda x: x.view(2, 32).unsqueeze(0), 0, 0),
    ],
)
def test_what_a_gpu_computes_at_once_is_one_kernel_and_a_view_is_none(call, kernels, tensors):
    x = torch.empty(1, 2, 4, 8, device="meta")
    with _Traffic() as traffic, _Fused(traffic):
        call(x)
    assert (traffic.kernels, traffic.bytes) == (kernels, tensors * x.nbytes)


def test_the_slowest_of_arithmetic_and_memory_and_the_launches_make_the_prediction():
    device = Device("any", flops=1e12, bandwidth=1e11)
    assert Work(10**10, 10**8, 0).seconds(device) == pytest.approx(0.01)
    assert Work(10**8, 10**9, 1000).seconds(device, launch=1e-5) == pytest.approx(0.02)


# --- the published project beside ours -------------------------------------------------------------

STAND_IN = """
import torch

class Model(torch.nn.Module):
    @property
    def quantizer(self): return self
    def get_latents_from_indices(self, indices, dim=-1): return indices[..., None].float()
    def get_indices_from_latents(self, latents, dim=-1): return latents[..., 0].long()
    def tokenize(self, frames): return torch.ones(1, frames.shape[1], 9, dtype=torch.long)
    def detokenize(self, latents): return latents
    def forward_inference(self, context_latents, prediction_horizon, num_steps, index_to_latents_fn,
                          conditioning=None, schedule_k=5.0, temperature=0.0):
        return torch.cat((context_latents, torch.full((1, 1, 9, 1), float(num_steps))), 1)

def load(path, device):
    print("loading", path)
    state = torch.load(path + "/state.pt"), torch.load(path + "/model_state_dict.pt")
    assert state[0]["config"]["frame_size"] == 12 and state[1]
    return Model(), {}

load_videotokenizer_from_checkpoint = load_latent_actions_from_checkpoint = load
load_dynamics_from_checkpoint = load
"""


def checkout(folder, source):
    for name in ("utils", "models"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    (folder / "utils" / "utils.py").write_text(source, encoding="utf-8")
    return folder


def test_a_checkout_is_asked_for_frames_through_its_entry_points(tmp_path):
    folder = checkout(tmp_path / "a folder 世界", STAND_IN)
    actions = torch.zeros(1, 2, dtype=torch.int64)
    peer = Peer(folder, sys.executable, random_suite(), random_frames(1, 2), actions, threads=1)
    for steps in (3, 7):
        seconds, cpu, tokens = peer.step(steps, 0.0)
        assert seconds > 0 and cpu >= 0 and tokens.tolist() == [[[steps] * 9]]
    peer.close()
    assert peer._program.process.returncode == 0


def test_a_folder_that_is_no_checkout_and_one_that_does_not_run_are_refused_in_a_sentence(tmp_path):
    arguments = (sys.executable, random_suite(), random_frames(1, 2), torch.zeros(1, 2, dtype=torch.int64), 1)
    with pytest.raises(ParameterError, match=r"no checkout .* utils/utils.py"):
        Peer(tmp_path, *arguments)
    broken = checkout(tmp_path / "broken", "import a_package_nobody_has")
    with pytest.raises(ParameterError, match=r"could not be run: .*a_package_nobody_has"):
        Peer(broken, *arguments)


def test_the_configuration_given_to_the_peer_leads_back_to_the_same_widths():
    for suite in (random_suite(), bench.sonic_shapes()):
        settings = config(suite, "dynamics")
        assert 2 * settings["hidden_dim"] // 3 == suite.dynamics.config.ffn_width
        assert settings["conditioning_dim"] == suite.latent_actions.config.action_dim
