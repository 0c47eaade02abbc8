"""Step 0: is this machine fit for the rest?

Standard library only, apart from NVML where it is installed: it runs before anything is installed, and
judges what it finds instead of listing it.
"""

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from helpers.gpu import Gpu, read_nvidia_smi
from helpers.report import Check

PYTHONS = ((3, 10), (3, 13))
"""The oldest and the newest Python that everything here is built for."""

_GIB = 2**30
# An environment with a CPU torch takes 1.6 GiB, one with CUDA several more; a suite and its dataset 1.
_DISK_NEEDED, _DISK_WANTED = 3 * _GIB, 10 * _GIB
_MEMORY_NEEDED, _MEMORY_WANTED = 2 * _GIB, 8 * _GIB
# Windows' limit is 260 characters, and the deepest file that torch installs adds 171 to this folder's path
# and ".venv\\Lib\\site-packages".
_LONGEST_ROOT = 260 - 171 - len(r"\.venv\Lib\site-packages" + "\\")


def check_machine(root: Path) -> list[Check]:
    """Look at the machine and judge it.

    Args:
        root: The repository's root: its disk and its path are looked at.

    Returns:
        The checks ``python``, ``system``, ``disk``, ``memory``, ``path``, ``gpu`` and ``nvml``. No GPU is
        a warning: everything runs on the CPU, only slower.
    """
    gpus, problem = read_nvidia_smi()
    names, nvml_problem = read_nvml()
    return [
        judge_python(sys.version_info[:3], struct.calcsize("P") * 8),
        Check("system", "ok", f"{platform.system()} {platform.release()} ({platform.machine()})"),
        judge_disk(shutil.disk_usage(root).free, root),
        judge_memory(total_memory()),
        judge_path(str(root), windows=sys.platform == "win32", long_paths=long_paths_enabled()),
        judge_gpus(gpus, problem),
        judge_nvml(names, nvml_problem, gpus),
    ]


def judge_python(version: tuple[int, ...], bits: int) -> Check:
    """Whether a Python of this version and word size can run the project."""
    text = f"Python {'.'.join(map(str, version))}, {bits} bits"
    oldest, newest = (".".join(map(str, limit)) for limit in PYTHONS)
    if not PYTHONS[0] <= version[:2] <= PYTHONS[1] or bits != 64:
        fix = f"Install 64-bit Python 3.11 from python.org (anything from {oldest} to {newest} will do)."
        return Check("python", "fail", text, fix)
    return Check("python", "ok", text)


def judge_disk(free: int, root: Path) -> Check:
    """Whether ``free`` bytes are enough for the environment, a suite and its runs."""
    text = f"{free / _GIB:.1f} GiB free at {root}"
    if free < _DISK_NEEDED:
        return Check("disk", "fail", text, f"Free at least {_DISK_NEEDED // _GIB} GiB there.")
    if free < _DISK_WANTED:
        return Check(
            "disk", "warn", text, f"Free {_DISK_WANTED // _GIB} GiB if torch for a GPU is to be installed."
        )
    return Check("disk", "ok", text)


def judge_memory(total: int | None) -> Check:
    """Whether ``total`` bytes of memory are enough; None is a system that does not say."""
    if total is None:
        return Check(
            "memory", "warn", "this system does not say how much there is", "At least 8 GiB are best."
        )
    text = f"{total / _GIB:.1f} GiB"
    if total < _MEMORY_NEEDED:
        return Check(
            "memory", "fail", text, f"The models need {_MEMORY_NEEDED // _GIB} GiB: use another machine."
        )
    if total < _MEMORY_WANTED:
        return Check("memory", "warn", text, "Close other programs while the notebooks run.")
    return Check("memory", "ok", text)


def judge_path(root: str, windows: bool, long_paths: bool) -> Check:
    """Whether the folder's path leaves room for what torch installs below it."""
    notes = [f"{len(root)} characters"]
    notes += ["with spaces"] if " " in root else []
    notes += [] if root.isascii() else ["with letters outside ASCII"]
    text = f"{root} ({', '.join(notes)})"
    if windows and not long_paths and len(root) > _LONGEST_ROOT:
        fix = f"Move the folder to a path of at most {_LONGEST_ROOT} characters, or turn long paths on."
        return Check("path", "warn", text, fix)
    return Check("path", "ok", text)


def judge_gpus(gpus: list[Gpu], problem: str) -> Check:
    """What ``nvidia-smi`` found; no GPU is a warning."""
    if not gpus:
        fix = "Nothing, if there is no NVIDIA GPU; else install its driver from nvidia.com/drivers."
        return Check("gpu", "warn", f"no NVIDIA GPU: {problem}. Everything runs on the CPU", fix)
    seen = (
        f"{gpu.name}, driver {gpu.driver or 'unknown'}, capability {gpu.capability or 'unknown'}, "
        f"{gpu.memory_mib or 'unknown'} MiB"
        for gpu in gpus
    )
    return Check("gpu", "ok", "; ".join(seen))


def judge_nvml(names: list[str], problem: str, gpus: list[Gpu]) -> Check:
    """What NVML found beside ``nvidia-smi``; it is what records a run's use of the GPU."""
    if names:
        return Check("nvml", "ok", "; ".join(names))
    if not gpus:
        return Check("nvml", "ok", f"{problem}: nothing to record")
    return Check(
        "nvml", "warn", problem, "Run 03_deps, which installs nvidia-ml-py; then run this notebook again."
    )


def read_nvml() -> tuple[list[str], str]:
    """The GPUs' names and the driver through NVML, and what was wrong where there are none."""
    try:
        import pynvml
    except ImportError:
        return [], "nvidia-ml-py is not installed yet"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [f"{_text(pynvml.nvmlDeviceGetName(handle))}, driver {driver}" for handle in handles], ""
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    """NVML's older bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def total_memory() -> int | None:
    """This machine's memory in bytes; None where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        done = subprocess.run(
            ["sysctl", "-n", "hw.memsize"], capture_output=True, encoding="utf-8", check=False
        )
        return int(done.stdout) if done.stdout.strip().isdigit() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


if sys.platform == "win32":

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual")),
            *((name, ctypes.c_ulonglong) for name in ("virtual_free", "extended_free")),
        )

    def _windows_memory() -> int | None:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        return status.total if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None

    def long_paths_enabled() -> bool:
        """Whether Windows lets programs use paths of more than 260 characters."""
        import winreg

        try:
            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem"
            ) as key:
                return winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
        except OSError:
            return False

else:

    def long_paths_enabled() -> bool:
        """Only Windows has such a limit."""
        return True
