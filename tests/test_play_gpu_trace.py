"""The GPU trace, with a pretended device: the only hardware a test machine may lack."""

import builtins
import io
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.play.gpu_trace import GpuTrace, nvml_reader, plot_trace
from helpers.report import picture


class PretendedGpu:
    """A device whose memory and utilisation rise while ``busy``."""

    busy = False

    def read(self) -> tuple[int, int]:
        return (3_400_000_000, 90) if self.busy else (600_000_000, 1)


def traced_work() -> GpuTrace:
    gpu = PretendedGpu()
    with GpuTrace(hz=200, around_seconds=0.1, reader=gpu.read) as trace:
        gpu.busy = True
        time.sleep(0.15)
        gpu.busy = False
    return trace


def test_a_trace_shows_the_device_before_during_and_after_the_work() -> None:
    samples = traced_work().samples
    phases = [sample.phase for sample in samples]
    assert phases == sorted(phases, key=["before", "during", "after"].index)
    assert set(phases) == {"before", "during", "after"}
    assert samples[0].seconds < 0 < samples[-1].seconds
    assert max(sample.utilisation for sample in samples if sample.phase == "during") == 90
    assert samples[0].utilisation == samples[-1].utilisation == 1


def test_the_rise_in_memory_is_counted_from_before_the_work() -> None:
    assert traced_work().memory_rise == 2_800_000_000


def test_a_trace_is_plotted_without_pyplot(tmp_path: Path) -> None:
    figure = plot_trace(traced_work().samples)
    figure.savefig(tmp_path / "trace.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["memory in use (GB)", "utilisation (%)"]
    with Image.open(tmp_path / "trace.png") as saved:
        assert saved.width > 400
    shown = picture(figure, alt="memory and utilisation")  # a bare figure is mere text in a kernel
    with Image.open(io.BytesIO(shown.data)) as drawn:
        assert drawn.format == "PNG" and drawn.width > 400
    assert shown.alt == "memory and utilisation"


def test_without_nvml_the_work_runs_and_the_note_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_nvml(name: str, *args: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_nvml)
    with GpuTrace() as trace:
        worked = True
    assert worked and trace.samples == () and trace.memory_rise == 0
    assert "nvidia-ml-py is not installed" in trace.note


def test_a_device_that_does_not_exist_is_a_note_not_a_crash() -> None:
    with GpuTrace(device_index=4096) as trace:
        pass
    assert trace.samples == () and trace.note.startswith("No GPU trace: NVML says")
    with pytest.raises(RuntimeError, match="No GPU trace"):
        nvml_reader(4096)


def test_a_device_that_falls_away_leaves_what_was_seen() -> None:
    answers = iter([(1, 1)] * 3)

    def read() -> tuple[int, int]:
        try:
            return next(answers)
        except StopIteration:
            raise RuntimeError("NVML says GPU is lost.") from None

    with GpuTrace(hz=200, around_seconds=0.1, reader=read) as trace:
        pass
    assert len(trace.samples) == 3 and trace.note == "The trace broke off: NVML says GPU is lost."


def test_an_error_in_the_work_is_passed_on() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        GpuTrace(hz=200, around_seconds=0.05, reader=PretendedGpu().read) as trace,
    ):
        raise ZeroDivisionError
    assert trace.samples
