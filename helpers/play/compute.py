"""How this machine computes a step: number formats, threads, and clocks that wait for what was launched."""

import contextlib
import os
import time
from collections.abc import Iterator

import torch

from helpers.play.settings import Settings
from helpers.worlds import World


@contextlib.contextmanager
def precision(settings: Settings, device: torch.device) -> Iterator[None]:
    """Compute as ``amp`` and ``tf32`` say within the block, and as before after it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def threads_for(world: World, spare: int = 0) -> int:
    """How many threads torch has while a world is stepped, where so many cores are left alone.

    Torch's threads wait for each other busily, hundreds of times a frame. With one on every core, whatever
    else wants to run, such as the player's browser, makes all of them wait: play is slower than with a thread
    fewer, and stumbles. A small world is faster with fewer threads at any time.
    """
    threads = min(torch.get_num_threads(), (os.cpu_count() or 1) - spare)
    return max(1, min(threads, world.threads or threads))


@contextlib.contextmanager
def stepping(world: World, spare: int = 0) -> Iterator[None]:
    """Let torch have `threads_for` a world within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_for(world, spare))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class StepClock:
    """Times steps on a device, to the end of what they launched: ``with clock: session.step(…)``."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self.gpu_seconds: list[float] = []
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                self._events[0].record()
        self._began = time.perf_counter()

    def __exit__(self, *_raised: object) -> None:
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._events[1].record()
                self._events[1].synchronize()
            self.gpu_seconds.append(self._events[0].elapsed_time(self._events[1]) / 1000)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        self.seconds.append(time.perf_counter() - self._began)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory torch held on the GPU since this clock was made; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0


def gpu_uuid(device: torch.device) -> str:
    """The UUID by which NVML knows a CUDA device, whatever CUDA_VISIBLE_DEVICES made of its number."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
