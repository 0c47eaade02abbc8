"""The NVIDIA GPUs of this machine, as ``nvidia-smi`` reports them.

It comes with the driver, so it can be asked before anything is installed. Standard library only.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "uuid")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as ``nvidia-smi`` reports it; None where it reports nothing usable.

    Args:
        name: Such as ``"NVIDIA GeForce RTX 3060 Ti"``.
        driver: Driver version, such as ``"560.94"``.
        capability: Compute capability, such as ``"8.6"``.
        memory_mib: Total memory in MiB.
        uuid: Such as ``"GPU-2f1c…"``.
    """

    name: str
    driver: str | None
    capability: str | None
    memory_mib: int | None
    uuid: str | None


def detect_gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; an empty list where there is none, or no working driver."""
    return read_nvidia_smi()[0]


def read_nvidia_smi() -> tuple[list[Gpu], str]:
    """Ask ``nvidia-smi`` for the GPUs.

    Returns:
        The GPUs, and what was wrong in words where there are none (no ``nvidia-smi``, no driver answering).
    """
    program = find_nvidia_smi()
    if program is None:
        return [], "nvidia-smi was not found, so there is no NVIDIA driver"
    problem = ""
    # Drivers before 510 refuse the whole query because of compute_cap: the second query goes without it.
    for fields in (_FIELDS, tuple(field for field in _FIELDS if field != "compute_cap")):
        command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False
            )
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
        numbers = {key: value.get(key, "") for key in ("driver_version", "compute_cap", "memory.total")}
        driver, capability, memory = (
            text if re.fullmatch(r"\d+(\.\d+)*", text) else None for text in numbers.values()
        )
        uuid = value["uuid"] if value["uuid"].startswith(("GPU-", "MIG-")) else None
        gpus.append(Gpu(value["name"], driver, capability, int(float(memory)) if memory else None, uuid))
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
