"""A step can be recorded by a GPU: it reads nothing back; and where recording is refused, it runs as it is.

Where there is no GPU, torch's meta device stands in for one; it has shapes and no values: what asks for a
value, or mixes in a tensor from the CPU, cannot run there, and could not be recorded either.
"""

from dataclasses import replace

import pytest
import torch
from golden_cases import SMALL, random_actions, random_frames, random_suite
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.worldmodel import Session, graph
from helpers.worldmodel.session import step_frames

CUDA = torch.device("cuda")


class OnTheDeviceAlone(TorchDispatchMode):
    """Refuses what would make a GPU's stream wait, and whatever comes from elsewhere."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not any(word in name for word in ("local_scalar", "nonzero", "masked_select", "item")), name
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, torch.Tensor):
                assert value.device.type == "meta", f"{name} takes a tensor from the {value.device}"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("kept", [0, 1, 2], ids=["pixels", "both", "tokens"])
def test_a_step_reads_no_value_back_and_takes_nothing_from_the_cpu(kept, horizon, sampled, experts):
    suite = random_suite(config=replace(SMALL, num_experts=experts)).on(torch.device("meta"))
    batch, window, patches = 3, 2, SMALL.grid**2
    inputs = {
        "frames": torch.empty(batch, window - kept, 3, 12, 12, device="meta") if kept < window else None,
        "latents": torch.empty(batch, kept, patches, SMALL.latent_dim, device="meta") if kept else None,
        "conditioning": random_actions(random_suite(), batch, window + horizon - 1).to("meta"),
        "uniform": torch.empty(batch, 4, horizon * patches, device="meta") if sampled else None,
        "temperature": torch.empty((), device="meta") if sampled else None,
    }

    with torch.inference_mode(), OnTheDeviceAlone():
        frames, latents = step_frames(suite, **inputs, horizon=horizon, steps=4)

    assert frames.shape == (batch, horizon, 3, 12, 12)
    assert latents.shape == (batch, horizon, patches, SMALL.latent_dim)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.ones(2),
        lambda x: x.nonzero(),
    ],
    ids=["a number", "a mask", "the cpu", "places"],
)
def test_that_proof_would_find_what_it_is_after(reads):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), OnTheDeviceAlone():
        reads(torch.empty(2, device="meta"))


def test_on_a_cpu_the_function_simply_runs():
    graphs = graph.Graphs()
    (result,) = graphs.run(lambda x, y, n: (x * n,), (3,), (torch.ones(2), None), torch.device("cpu"))
    assert result.tolist() == [3, 3] and not graphs.refusal


@pytest.fixture
def refuse(monkeypatch):
    """Refuses every recording with an error; the list counts the attempts."""

    def with_error(error):
        tried = []

        def record(*_arguments):
            tried.append(1)
            raise error

        monkeypatch.setattr(graph, "_Graph", record)
        return tried

    return with_error


def test_where_recording_is_refused_the_function_runs_says_why_and_recording_is_not_tried_again(refuse):
    tried = refuse(RuntimeError("operation not permitted when stream is capturing\nand more"))
    graphs = graph.Graphs()

    results = [graphs.run(lambda nothing, n: (n,), (n,), (None,), CUDA) for n in (3, 4)]

    assert results == [(3,), (4,)] and tried == [1]
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert graphs.refusal == f"The CUDA graph of a step was refused ({reason})."


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_full_memory_is_no_refusal_and_passes_through(refuse, error):
    tried = refuse(error)
    graphs = graph.Graphs()
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            graphs.run(lambda n: (n,), (1,), (), CUDA)
        assert caught.value is error
    assert tried == [1, 1] and not graphs.refusal


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: no graph was really recorded")
@pytest.mark.parametrize("feedback", ["pixels", "tokens"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_gpu_records_a_step_and_its_replays_make_the_tokens_of_the_eager_run(temperature, feedback):
    suite, eager = random_suite(2).on(CUDA), random_suite(2).on(CUDA)
    eager.graphs.refusal = "by this test"

    sessions = [
        Session(world, random_frames(1, 2), steps=4, temperature=temperature, feedback=feedback)
        for world in (suite, eager)
    ]
    for session in sessions:
        for action in (1, 0, 3, 2, 2):
            session.step(action)

    assert not suite.graphs.refusal and 1 <= len(suite.graphs._recorded) <= 3
    assert not eager.graphs._recorded
    assert torch.equal(sessions[0].tokens, sessions[1].tokens)
    torch.testing.assert_close(sessions[0].frames, sessions[1].frames, rtol=0, atol=1e-4)


def test_what_was_recorded_is_replayed_for_the_same_shapes_and_numbers_and_no_others(monkeypatch):
    recorded = []

    class Recorder:
        def __init__(self, _function, numbers, inputs, _device):
            recorded.append((numbers, tuple(inputs[0].shape)))

        def replay(self, inputs):
            return (inputs[0],)

    monkeypatch.setattr(graph, "_Graph", Recorder)
    graphs = graph.Graphs()
    for shape, steps in [(2, 10), (2, 10), (3, 10), (2, 4), (2, 10)]:
        graphs.run(lambda: (), (1, steps), (torch.ones(shape),), CUDA)
    assert recorded == [((1, 10), (2,)), ((1, 10), (3,)), ((1, 4), (2,))]

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = not before  # other kernels
    try:
        graphs.run(lambda: (), (1, 10), (torch.ones(2),), CUDA)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert len(recorded) == 4


def test_the_graph_used_longest_ago_makes_room(monkeypatch):
    monkeypatch.setattr(graph, "_Graph", lambda *_: type("Any", (), {"replay": lambda *_: ()})())
    graphs = graph.Graphs()
    for steps in [1, *range(1, graph.KEPT + 1), 1, graph.KEPT + 1]:
        graphs.run(lambda: (), (steps,), (), CUDA)
    assert len(graphs._recorded) == graph.KEPT
    assert {key[0][0] for key in graphs._recorded} == {1, *range(3, graph.KEPT + 2)}
