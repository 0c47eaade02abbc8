"""The NVIDIA GPUs of this machine, as ``nvidia-smi``, which comes with the driver, and NVML report them.

Standard library only, apart from NVML where it is installed.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import capture

_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "uuid")
# What a query asks for, the most telling first: a driver that lacks one field refuses the whole query.
# driver_model.current: Windows only; compute_cap: drivers from 510 on.
_QUERIES = (
    (*_FIELDS, "driver_model.current", "mig.mode.current"),
    _FIELDS,
    tuple(field for field in _FIELDS if field != "compute_cap"),
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as ``nvidia-smi`` reports it; None where it reports nothing usable."""

    name: str  # such as "NVIDIA GeForce RTX 3060 Ti"
    driver: str | None  # its version, such as "560.94"
    capability: str | None  # of computing, such as "8.6"
    memory_mib: int | None  # all of it, in MiB
    uuid: str | None  # such as "GPU-2f1c…"
    driver_model: str | None = None  # "WDDM", "TCC" or "MCDM" under Windows
    mig: bool = False  # whether it is split into instances (Multi-Instance GPU)


def detect_gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; an empty list where there is none, or no working driver."""
    return read_nvidia_smi()[0]


def read_nvidia_smi(timeout: float = 30) -> tuple[list[Gpu], str]:
    """Ask ``nvidia-smi`` for the GPUs, and wait ``timeout`` seconds; where there are none, also say why."""
    program = find_nvidia_smi()
    if program is None:
        return [], "nvidia-smi was not found, so there is no NVIDIA driver"
    problem = ""
    for fields in _QUERIES:
        command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = capture(command, timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], f"{program} gave no answer ({error})"
        gpus = parse_nvidia_smi(done.stdout, fields) if done.returncode == 0 else []
        if gpus:
            return gpus, ""
        problem = f"nvidia-smi: {(done.stdout + done.stderr).strip()[:200] or 'no output'}"
    return [], problem


def parse_nvidia_smi(text: str, fields: Sequence[str] = _FIELDS) -> list[Gpu]:
    """The GPUs in what ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits`` printed.

    Lines that are not of that form (messages, warnings) are left out; values such as ``[N/A]`` become None.
    """
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(fields):
            continue
        value = dict(zip(fields, cells, strict=True))
        driver, capability, memory = (
            number if re.fullmatch(r"\d+(\.\d+)*", number := value.get(field, "")) else None
            for field in ("driver_version", "compute_cap", "memory.total")
        )
        mib = int(float(memory)) if memory else None
        uuid = value["uuid"] if value["uuid"].startswith(("GPU-", "MIG-")) else None
        model = value.get("driver_model.current")
        model = model if model in ("WDDM", "TCC", "MCDM") else None
        mig = value.get("mig.mode.current") == "Enabled"
        gpus.append(Gpu(value["name"], driver, capability, mib, uuid, model, mig))
    return gpus


def find_nvidia_smi() -> str | None:
    """The path of ``nvidia-smi``: on PATH, or where Windows and WSL drivers put it."""
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"))
    programs = Path(os.environ.get("PROGRAMW6432", r"C:\Program Files"))
    places = [
        windows / "System32" / "nvidia-smi.exe",
        programs / "NVIDIA Corporation" / "NVSMI" / "nvidia-smi.exe",
        Path("/usr/lib/wsl/lib/nvidia-smi"),
    ]
    return shutil.which("nvidia-smi") or next((str(place) for place in places if place.is_file()), None)


def read_nvml() -> tuple[list[str], str]:
    """Each GPU's name and driver through NVML; where there are none, also why."""
    try:
        import pynvml
    except ImportError:
        return [], "nvidia-ml-py is not installed yet"
    try:
        with contextlib.ExitStack() as started:
            pynvml.nvmlInit()
            started.callback(pynvml.nvmlShutdown)
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            return [f"{_text(pynvml.nvmlDeviceGetName(handle))}, driver {driver}" for handle in handles], ""
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"


def _text(value: str | bytes) -> str:
    """NVML's older bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
