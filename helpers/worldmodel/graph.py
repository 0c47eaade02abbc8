"""One launch instead of a thousand: a GPU's work recorded once as a CUDA graph and replayed.

A step of these small models is thousands of kernels of some microseconds each, so a GPU mostly waits for
Python to launch the next one. What is recorded here must never ask the GPU for a value, and its shapes must
follow from its inputs' shapes and from numbers known in advance; `helpers.worldmodel.decode` is such code.
Needs torch alone, no compiler, and so works on Windows. On any other device, and where recording is refused,
the function runs as it is.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Tensor | None, ...]
Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]

KEPT = 8
"""Graphs kept at once; each holds its own memory, and the oldest one makes room for another."""

_WARM_UP_RUNS = 3


class Graphs:
    """The recorded graphs of one function; empty, and of no use, on a CPU.

    Attributes:
        refusal: Empty while graphs are recorded and replayed. Once a driver or an operation refuses that, a
            sentence that says so and why; from then on everything runs without graphs, several times slower.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._recorded: dict[Hashable, _Graph] = {}

    def run(
        self, function: Function, numbers: tuple[int, ...], inputs: Inputs, device: torch.device
    ) -> Outputs:
        """``function(*inputs, *numbers)`` on ``device``: replayed if that can be, recorded at the first time.

        Args:
            function: What to compute, always the same; it must meet the module's conditions.
            numbers: Its whole-number arguments. Other numbers are another graph.
            inputs: Its tensor arguments, on the CPU or on ``device``. Another shape is another graph.
            device: Where the function computes.

        Returns:
            Its results, in memory of their own.

        Raises:
            RuntimeError: The memory is full (`torch.cuda.OutOfMemoryError` on a GPU), which running without
                graphs would not help; the recorded graphs are let go of.
        """
        if device.type == "cuda" and not self.refusal:
            key = (numbers, tuple(map(_form, inputs)), device, _precision(device))
            try:
                return self._graph(key, function, numbers, inputs, device).replay(inputs)
            except RuntimeError as error:  # of a driver, or of an operation that cannot be recorded
                self._recorded.clear()
                if _is_out_of_memory(error):
                    raise
                reason = (str(error).splitlines() or ["no reason given"])[0]
                self.refusal = f"The CUDA graph of a step was refused ({type(error).__name__}: {reason})."
        return function(*_on(device, inputs), *numbers)

    def _graph(
        self,
        key: Hashable,
        function: Function,
        numbers: tuple[int, ...],
        inputs: Inputs,
        device: torch.device,
    ) -> "_Graph":
        graph = self._recorded.pop(key, None)
        if graph is None:
            if len(self._recorded) >= KEPT:
                self._recorded.pop(next(iter(self._recorded)))
            graph = _Graph(function, numbers, inputs, device)
        self._recorded[key] = graph  # at the end: the one used last
        return graph


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's or the computer's memory is full; libraries say so in words only."""
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)


def _on(device: torch.device, inputs: Inputs, copy: bool = False) -> Inputs:
    return tuple(None if tensor is None else tensor.to(device, copy=copy) for tensor in inputs)


class _Graph:
    """A function recorded for inputs of one shape."""

    def __init__(
        self, function: Function, numbers: tuple[int, ...], inputs: Inputs, device: torch.device
    ) -> None:
        self._inputs = _on(device, inputs, copy=True)
        self._graph = torch.cuda.CUDAGraph()
        kind = "cuda"
        # Autocast keeps converted weights from call to call; a recording must not rely on such a cache.
        autocast = torch.autocast(
            kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )
        stream = torch.cuda.Stream(device)
        with torch.cuda.device(device), autocast:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):  # libraries allocate and choose their kernels at first use
                    function(*self._inputs, *numbers)
            torch.cuda.current_stream(device).wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self._outputs = function(*self._inputs, *numbers)

    def replay(self, inputs: Inputs) -> Outputs:
        """The results for ``inputs``."""
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given, non_blocking=True)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


def _form(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _precision(device: torch.device) -> tuple[Any, ...]:
    """What else decides which kernels run."""
    kind = device.type
    enabled = torch.is_autocast_enabled(kind)
    return (enabled and torch.get_autocast_dtype(kind), torch.backends.cuda.matmul.allow_tf32)
