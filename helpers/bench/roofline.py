"""What a GPU could do at best, computed from a step's shapes: a prediction, to be held against measurements.

The step runs on torch's meta device, which has shapes and no values, while its operations are counted: the
arithmetic, the bytes that each operation reads and writes, the kernels to launch. A frame then cannot take
less than its launches plus the larger of arithmetic and memory traffic at the device's peak.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from helpers.worldmodel import Suite
from helpers.worldmodel.session import step_frames


@dataclass(frozen=True)
class Device:
    """A GPU's published peaks.

    Args:
        name: Its name.
        flops: Float32 operations a second, without tensor cores.
        bandwidth: Bytes a second from and to its memory.
    """

    name: str
    flops: float
    bandwidth: float


DEVICES = (Device("RTX 3060 Ti", 16.2e12, 448e9), Device("H100 SXM", 66.9e12, 3352e9))
"""Source: NVIDIA's product pages and data sheets."""

GRAPH_LAUNCH, EAGER_LAUNCH = 2e-6, 8e-6
"""Seconds a small kernel takes within a replayed graph, and launched from Python: assumed, not measured."""


@dataclass(frozen=True)
class Work:
    """What one step costs: floating-point operations, bytes moved, kernels launched."""

    flops: int
    bytes: int
    kernels: int

    def seconds(self, device: Device, launch: float = GRAPH_LAUNCH) -> float:
        """The least time on ``device``."""
        return max(self.flops / device.flops, self.bytes / device.bandwidth) + self.kernels * launch


class _Traffic(TorchDispatchMode):
    """Counts operations that are more than a view, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.kernels = 0
        self.within = False  # an operation that is counted as one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        alias = returns[0].alias_info if returns else None
        view = func is torch.ops.aten._unsafe_view.default or (alias is not None and not alias.is_write)
        if not view and not self.within:
            self.count((args, kwargs, result))
        return result

    def count(self, of: Any) -> None:
        """One kernel that reads and writes the tensors in ``of``."""
        self.kernels += 1
        tensors = [each for each in tree_leaves(of) if isinstance(each, Tensor)]
        self.bytes += sum(each.numel() * each.element_size() for each in tensors)


class _Fused(TorchFunctionMode):
    """Has what a GPU computes in one kernel counted as one; the meta device takes it apart."""

    def __init__(self, traffic: _Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.rms_norm, F.scaled_dot_product_attention):
            return func(*args, **(kwargs or {}))
        self.traffic.within = True
        result = func(*args, **(kwargs or {}))
        self.traffic.within = False
        self.traffic.count((args, kwargs, result))
        return result


def step_work(suite: Suite, window: int, steps: int, sampled: bool = False, batch: int = 1) -> Work:
    """The work of one step with pixels feedback, horizon 1 and actions."""
    shapes = Suite(
        copy.deepcopy(suite.video_tokenizer).to("meta"),
        copy.deepcopy(suite.latent_actions).to("meta"),
        copy.deepcopy(suite.dynamics).to("meta"),
        torch.device("meta"),
        {},
    )
    size, config = suite.frame_size, suite.dynamics.config
    inputs = (
        torch.empty(batch, window, 3, size, size, device="meta"),
        None,
        torch.empty(batch, window, config.action_dim, device="meta") if config.action_dim else None,
        torch.empty(batch, steps, config.grid**2, device="meta") if sampled else None,
        torch.empty((), device="meta") if sampled else None,
    )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        step_frames(shapes, *inputs, 1, steps)
    with torch.no_grad(), _Traffic() as traffic, _Fused(traffic):
        step_frames(shapes, *inputs, 1, steps)
    return Work(flops.get_total_flops(), traffic.bytes, traffic.kernels)


def describe(work: Work) -> list[str]:
    """The work, and for each device a line with its least time, bound by what, recorded or not."""
    lines = [
        f"a frame: {work.flops / 1e9:.2f} GFLOP, {work.bytes / 1e6:.0f} MB read and written, "
        f"{work.kernels} kernels"
    ]
    for device in DEVICES:
        graph, eager = work.seconds(device), work.seconds(device, EAGER_LAUNCH)
        arithmetic, traffic = work.flops / device.flops, work.bytes / device.bandwidth
        lines.append(
            f"{device.name}: predicted {1000 * graph:.1f} ms a frame ({1 / graph:.0f}/s) as a CUDA graph, "
            f"{1000 * eager:.1f} ms launched from Python; arithmetic {1000 * arithmetic:.1f} ms, memory "
            f"{1000 * traffic:.1f} ms, launches {1000 * work.kernels * GRAPH_LAUNCH:.1f} ms; NOT MEASURED"
        )
    return lines
