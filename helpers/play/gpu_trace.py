"""Evidence that a GPU worked: its memory and utilisation, sampled before, during and after.

Under Windows the driver tells no process's own memory, so the whole device is watched and the difference
counts. Utilisation covers a window of up to a second: the work should last two or three.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.report import tidy_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reader = Callable[[], tuple[int, int]]
"""Reads a device once: bytes of memory in use, utilisation in percent."""


@dataclass(frozen=True)
class GpuSample:
    """One look at the device."""

    seconds: float  # since the work began; negative before
    memory_bytes: int  # in use on the device, by every process
    utilisation: int  # percent of the driver's last window in which a kernel ran
    phase: str  # "before", "during" or "after" the work


class GpuTrace:
    """Watches one GPU while a block of work runs; does nothing where there is no GPU.

        with GpuTrace() as trace:
            ...                                   # the work
        trace.samples, trace.note

    The device is given by its UUID, ``"GPU-…"``, since CUDA_VISIBLE_DEVICES renumbers devices; else by NVML's
    index. It is read ``hz`` times a second, 10 to 20 fit the driver's own window, also for ``around_seconds``
    before and after the work; by ``reader`` instead of NVML if given.
    """

    def __init__(
        self,
        device_index: int = 0,
        hz: float = 15,
        uuid: str = "",
        around_seconds: float = 0.5,
        reader: Reader | None = None,
    ) -> None:
        self.note = ""
        self._samples: list[GpuSample] = []
        self._period, self._around = 1 / hz, around_seconds
        self._phase, self._began = "before", 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-trace", daemon=True)
        self._reader = reader
        try:
            self._reader = reader or nvml_reader(device_index, uuid)
        except RuntimeError as error:
            self.note = str(error)

    @property
    def samples(self) -> tuple[GpuSample, ...]:
        """What was seen, oldest first; empty where there is no GPU, and then ``note`` says why."""
        return tuple(self._samples)

    @property
    def memory_rise(self) -> int:
        """Most bytes in use from the work's start on, above the least before it; 0 without samples."""
        before = [sample.memory_bytes for sample in self._samples if sample.phase == "before"]
        during = [sample.memory_bytes for sample in self._samples if sample.phase == "during"]
        return max(0, max(during) - min(before)) if before and during else 0

    def __enter__(self) -> "GpuTrace":
        if self._reader:
            self._began = time.perf_counter() + self._around
            self._thread.start()
            time.sleep(self._around)
        self._phase = "during"
        return self

    def __exit__(self, *_raised: object) -> None:
        self._phase = "after"
        if self._reader:
            time.sleep(self._around)
            self._stop.set()
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        assert self._reader
        while not self._stop.wait(self._period):
            phase, seconds = self._phase, time.perf_counter() - self._began
            try:
                memory_bytes, utilisation = self._reader()
            except RuntimeError as error:
                self.note = f"The trace broke off: {error}"
                return
            self._samples.append(GpuSample(seconds, memory_bytes, utilisation, phase))


def nvml_reader(device_index: int = 0, uuid: str = "") -> Reader:
    """A reader of one GPU through NVML; a RuntimeError says why there is none, also when it is read."""
    try:
        import pynvml
    except ImportError:
        raise RuntimeError("No GPU trace: the package nvidia-ml-py is not installed.") from None
    try:
        pynvml.nvmlInit()
        by_uuid, by_index = pynvml.nvmlDeviceGetHandleByUUID, pynvml.nvmlDeviceGetHandleByIndex
        handle = by_uuid(uuid) if uuid else by_index(device_index)
    except pynvml.NVMLError as error:
        raise RuntimeError(f"No GPU trace: NVML says {str(error).rstrip('.')}.") from None

    def read() -> tuple[int, int]:
        try:
            memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
            return memory_bytes, int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except pynvml.NVMLError as error:
            raise RuntimeError(f"NVML says {str(error).rstrip('.')}.") from None

    return read


def plot_trace(samples: Sequence[GpuSample]) -> "Figure":
    """Memory and utilisation over time, the work's span shaded; without pyplot, so nothing global changes."""
    from matplotlib.figure import Figure

    seconds = [sample.seconds for sample in samples]
    work = [sample.seconds for sample in samples if sample.phase == "during"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    memory, utilisation = figure.subplots(2, 1, sharex=True)
    memory.plot(seconds, [sample.memory_bytes / 1e9 for sample in samples], color="#2a6fbb")
    memory.set(ylabel="memory in use (GB)")
    memory.set_title("The GPU before, during and after", loc="left")
    utilisation.plot(seconds, [sample.utilisation for sample in samples], color="#e08a00")
    utilisation.set(ylabel="utilisation (%)", ylim=(-5, 105), xlabel="seconds since the work began")
    for axes in (memory, utilisation):
        if work:
            axes.axvspan(work[0], work[-1], color="#1c2430", alpha=0.06, label="the work")
        tidy_axes(axes)
    return figure
