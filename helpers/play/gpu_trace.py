"""Evidence that a GPU worked: its memory and utilisation, sampled before, during and after.

Under Windows the driver tells no process's own memory, so the whole device is watched and the difference
counts. Utilisation covers a window of up to a second: the work should last two or three.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reader = Callable[[], tuple[int, int]]
"""Reads a device once: bytes of memory in use, utilisation in percent."""


@dataclass(frozen=True)
class GpuSample:
    """One look at the device.

    Args:
        seconds: Since the work began; negative before.
        memory_bytes: Memory in use on the device, by every process.
        utilisation: Percent of the driver's last window in which a kernel ran.
        phase: ``"before"``, ``"during"`` or ``"after"`` the work.
    """

    seconds: float
    memory_bytes: int
    utilisation: int
    phase: str


class GpuTrace:
    """Watches one GPU while a block of work runs; does nothing where there is no GPU.

        with GpuTrace() as trace:
            ...                                   # the work
        trace.samples, trace.note

    Args:
        device_index: NVML's index of the device, used if ``uuid`` is empty.
        hz: Samples a second; 10 to 20 fit the driver's own window.
        uuid: The device's UUID, ``"GPU-…"``: CUDA_VISIBLE_DEVICES renumbers devices, and this stays.
        around_seconds: How long to watch before and after the work.
        reader: Reads the device instead of NVML.
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
        self._period = 1 / hz
        self._around = around_seconds
        self._phase = "before"
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-trace", daemon=True)
        self._reader: Reader | None = reader
        if reader is None:
            try:
                self._reader = nvml_reader(device_index, uuid)
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
        self._began = time.perf_counter() + (self._around if self._reader is not None else 0)
        if self._reader is not None:
            self._thread.start()
            time.sleep(max(0.0, self._began - time.perf_counter()))
        self._phase = "during"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = "after"
        if self._reader is not None:
            time.sleep(self._around)
            self._stop.set()
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        assert self._reader is not None
        while not self._stop.wait(self._period):
            phase, seconds = self._phase, time.perf_counter() - self._began
            try:
                memory_bytes, utilisation = self._reader()
            except RuntimeError as error:
                self.note = f"The trace broke off: {error}"
                return
            self._samples.append(GpuSample(seconds, memory_bytes, utilisation, phase))


def nvml_reader(device_index: int = 0, uuid: str = "") -> Reader:
    """A reader of one GPU through NVML.

    Raises:
        RuntimeError: There is no NVML, or no such GPU; the message says which.
    """
    try:
        import pynvml
    except ImportError:
        raise RuntimeError("No GPU trace: the package nvidia-ml-py is not installed.") from None
    try:
        pynvml.nvmlInit()
        handle = (
            pynvml.nvmlDeviceGetHandleByUUID(uuid)
            if uuid
            else pynvml.nvmlDeviceGetHandleByIndex(device_index)
        )
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
    """Memory and utilisation over time, the work's span shaded.

    The figure is made without pyplot, so nothing global changes; save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    seconds = [sample.seconds for sample in samples]
    work = [sample.seconds for sample in samples if sample.phase == "during"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    memory, utilisation = figure.subplots(2, 1, sharex=True)
    memory.plot(seconds, [sample.memory_bytes / 1e9 for sample in samples], color="#2a6fbb")
    memory.set_ylabel("memory in use (GB)")
    utilisation.plot(seconds, [sample.utilisation for sample in samples], color="#e08a00")
    utilisation.set_ylabel("utilisation (%)")
    utilisation.set_ylim(-5, 105)
    utilisation.set_xlabel("seconds since the work began")
    for axes in (memory, utilisation):
        if work:
            axes.axvspan(work[0], work[-1], color="#1c2430", alpha=0.06, label="the work")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    memory.set_title("The GPU before, during and after", loc="left")
    return figure
