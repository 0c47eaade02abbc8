"""Every layer's matrix products, by the fastest product at hand; several of one input as one."""

from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def _onednn_computes() -> bool:
    """Whether this torch has oneDNN's linear map on a CPU and it gives what torch's own gives."""
    numbers = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.rand(*shape, generator=numbers) for shape in ((4, 8), (6, 8), (6,)))
    try:
        product = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, F.linear(x, weight, bias))


_LARGE = 2_500_000
"""Multiplications from which on oneDNN's product is the faster one, its dearer call included."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[..., I]`` -> ``[..., O]``: what `F.linear` computes, by the fastest product at hand.

    On a CPU torch hands float32 products to MKL, which uses AVX-512 on processors of its own maker alone.
    oneDNN, which torch also brings, uses it on all of them: twice the speed at these models' sizes. Its calls
    cost more, so small products are left to MKL; so is training, as it knows no gradients, and whatever
    torch.compile traces, as that refuses the operator.
    """
    if (
        not torch.compiler.is_compiling()
        and x.numel() * len(weight) >= _LARGE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _onednn_computes()
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear map computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # torch's own name of the argument
        """``[..., I]`` -> ``[..., O]``."""
        return linear(input, self.weight, self.bias)


class _Stack(NamedTuple):
    """Several linear maps of one input as one: their weights and biases on top of each other."""

    weight: Tensor  # [sum of outputs, inputs]
    bias: Tensor  # [sum of outputs]
    widths: tuple[int, ...]


class Stacked(nn.Module):
    """A module some of whose linear maps read the same input, so that one matrix product can serve them.

    `stack` moves their parameters into one tensor of which each keeps its part, under its published name: a
    state dict is what it was, and weights changed in place are changed in both.
    """

    _stacks: dict[tuple[str, ...], _Stack]

    def __init__(self) -> None:
        super().__init__()
        self._stacks = {}

    def stack(self, *names: str) -> None:
        """Compute the linear maps ``names`` together from now on, and the last ones without the first."""
        parts = [cast(nn.Linear, getattr(self, name)) for name in names]
        widths = tuple(part.out_features for part in parts)
        weight = torch.cat([part.weight.data for part in parts])
        bias = torch.cat([part.bias.data for part in parts])
        for part, own_weight, own_bias in zip(parts, weight.split(widths), bias.split(widths), strict=True):
            part.weight.data, part.bias.data = own_weight, own_bias
        for start in range(len(names) - 1):
            row = sum(widths[:start])
            self._stacks[names[start:]] = _Stack(weight[row:], bias[row:], widths[start:])

    def project(self, x: Tensor, *names: str) -> tuple[Tensor, ...]:
        """``[..., E]`` through each of the linear maps ``names``; views of one result where stacked."""
        stack = self._stacks.get(names)
        if stack is None:
            return tuple(getattr(self, name)(x) for name in names)
        return linear(x, stack.weight, stack.bias).split(stack.widths, -1)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        """Drop the stacks: torch calls this to move or convert a module, whose parameters get new memory."""
        self._stacks = {}
        return super()._apply(*arguments, **options)
