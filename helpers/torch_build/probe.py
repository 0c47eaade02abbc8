"""The torch that is installed in an environment: which it is, whether it computes, and how it is removed.

Looks at another Python's environment from outside, by its files and in fresh processes: a torch that was
imported once cannot be looked at afresh, nor replaced under Windows. Knows nothing of which build would fit.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from helpers.commands import capture, child_environment, run_step
from helpers.errors import SetupError

CONSTRAINT_NAME = "torch-constraint.txt"
"""The constraints file that keeps torch as it is: step 2 writes it, step 3 hands it to pip."""


@dataclass(frozen=True)
class TorchReport:
    """The installed torch, as a fresh process saw it."""

    version: str | None = None  # such as "2.13.0+cu126"; None where torch cannot be imported
    cuda: str | None = None  # CUDA version of the build; None for a CPU build
    available: bool = False  # what torch.cuda.is_available() says
    device: str | None = None  # name of the GPU that torch uses first
    capability: str | None = None  # of that GPU
    architectures: tuple[str, ...] = ()  # what the build holds code for, such as ("sm_80", "sm_86")
    kernel: str = ""  # "cpu" or "cuda": where a matrix product came out right; empty where none did
    error: str = ""  # the last line of what went wrong; empty where nothing did
    failing: tuple[str, ...] = ()  # further GPUs that torch sees and cannot compute on, with their errors
    timed_out: bool = field(default=False, compare=False)  # whether the process had no time to answer


# Integers this small multiply exactly in any floating point format, TF32 included, so equal means equal.
_PROBE = """
import json
report = {}
try:
    import torch
    report.update(version=torch.__version__, cuda=torch.version.cuda, available=torch.cuda.is_available())
    small = (torch.arange(64 * 64) % 7).float().reshape(64, 64)
    rows, columns = small.tolist(), small.T.tolist()
    product = [[sum(a * b for a, b in zip(row, column)) for column in columns] for row in rows]
    if not torch.equal(small @ small, torch.tensor(product)):
        raise RuntimeError("a matrix product on the CPU came out wrong")
    report.update(kernel="cpu")
    if report["available"]:
        report.update(
            device=torch.cuda.get_device_name(0),
            capability=".".join(map(str, torch.cuda.get_device_capability(0))),
            architectures=torch.cuda.get_arch_list(),
            kernel="",
            failing=[],
        )
        for index in range(torch.cuda.device_count()):
            try:
                on_gpu = small.to(f"cuda:{index}")
                if not torch.equal((on_gpu @ on_gpu).cpu(), small @ small):
                    raise RuntimeError("a matrix product on the GPU differs from the CPU's")
                report.update(kernel="cuda")
            except Exception as error:
                if index == 0:
                    raise
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                report["failing"].append(f"{torch.cuda.get_device_name(index)}: {text}")
except Exception as error:
    report.update(error=f"{type(error).__name__}: {error}".splitlines()[0])
print(json.dumps(report))
"""


def verify(python: str = sys.executable, timeout: float = 300) -> TorchReport:
    """Let a Python's torch compute in a fresh process, on every GPU that it sees, within ``timeout`` seconds.

    A torch that is missing or broken is reported in ``error``, not raised.
    """
    # A file named torch.py in the current folder must not be taken for torch.
    environment = child_environment() | {"PYTHONSAFEPATH": "1"}
    try:
        done = capture([python, "-c", _PROBE], timeout, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        slow = isinstance(error, subprocess.TimeoutExpired)
        return TorchReport(error=f"The fresh process gave no answer ({error}).", timed_out=slow)
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return TorchReport(error=f"The fresh process ended with status {done.returncode}: {last}")
    lists = {name: tuple(report.get(name, ())) for name in ("architectures", "failing")}
    return TorchReport(**report | lists)


def site_packages(environment: Path) -> Path | None:
    """The folder that a virtual environment's packages are in, whichever system made it; None without one."""
    places = [environment / "Lib" / "site-packages", *sorted(environment.glob("lib/python3*/site-packages"))]
    return next((path for path in places if path.is_dir()), None)


def this_packages() -> Path:
    """The folder that this Python's packages are in."""
    return Path(sysconfig.get_paths()["purelib"])


def installed(packages: Path | None) -> dict[str, str]:
    """Versions by package name, lower case with hyphens, in a site-packages folder, which may be missing."""
    names = [path.name for path in packages.iterdir()] if packages and packages.is_dir() else []
    folders = (re.fullmatch(r"([^-]+)-([^-]+)\.dist-info", name, re.IGNORECASE) for name in names)
    return {match[1].lower().replace("_", "-"): match[2] for match in folders if match}


def installed_version(packages: Path | None, name: str = "torch") -> str | None:
    """Version of one package, such as ``"2.13.0+cu126"``; None where it is not installed."""
    return installed(packages).get(name)


def cuda_of(packages: Path | None, version: str) -> str | None:
    """The CUDA version of an installed torch, by ``version.py`` or else ``version``; None for a CPU build."""
    with contextlib.suppress(OSError, TypeError):
        text = (Path(str(packages)) / "torch" / "version.py").read_text(encoding="utf-8", errors="replace")
        if line := re.search(r"^cuda\b[^=]*=\s*(?:'([\d.]+)'|\"([\d.]+)\"|None)", text, re.MULTILINE):
            return line[1] or line[2]
    tag = re.search(r"\+cu(\d+)(\d)$", version)
    return f"{tag[1]}.{tag[2]}" if tag else None


# The folders of torch's own wheel, and what pip renames them to while it replaces them.
_TORCH_FOLDERS = re.compile(r"(torch|torchgen|functorch)(-[^-]+\.dist-info)?", re.IGNORECASE)
_STASHED = re.compile(r"[-~.=%0-9]*~[-~.=%0-9]*(orch|rch|orchgen|unctorch)(-.+\.dist-info)?", re.IGNORECASE)


def remove_torch(python: str, packages: Path | None, log: Path) -> None:
    """Take torch out of an environment, whole or half-installed; see :func:`remove_remains`."""
    if version := installed_version(packages):
        # Its libraries too: they are of the same CUDA, and take gigabytes.
        remove_packages(python, {"torch"} | libraries_of(packages, version), log)
    remove_remains(packages)


def remove_remains(packages: Path | None) -> None:
    """Remove what an interrupted pip left: folders such as ``~orch``, and a torch without metadata.

    Raises:
        SetupError: A file cannot be removed: another program holds it.
    """
    whole = installed_version(packages) is not None
    for path in sorted(packages.iterdir()) if packages and packages.is_dir() else ():
        if _STASHED.fullmatch(path.name) or (not whole and _TORCH_FOLDERS.fullmatch(path.name)):
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                what = f"{path}, left over from another torch, cannot be removed ({error.strerror or error})."
                fix = "Close JupyterLab and every Python, and run the same command again."
                raise SetupError(what, fix=fix) from error


def libraries(packages: Path | None) -> set[str]:
    """The installed packages of the kind that torch's CUDA builds bring along."""
    starts = ("nvidia", "cuda", "triton", "pytorch-triton")
    return {name for name in installed(packages) if name.startswith(starts)} - {"nvidia-ml-py"}


def libraries_of(packages: Path | None, version: str | None) -> set[str]:
    """The installed packages that torch of this version needs: NVIDIA's CUDA libraries and Triton."""
    metadata = Path(str(packages)) / f"torch-{version}.dist-info" / "METADATA"
    wanted: list[str] = []
    with contextlib.suppress(OSError):
        text = metadata.read_text(encoding="utf-8", errors="replace")
        wanted = re.findall(r"^Requires-Dist:\s*([\w.-]+)", text, re.MULTILINE)
    return libraries(packages) & {name.lower().replace("_", "-") for name in wanted}


def remove_packages(python: str, names: set[str], log: Path) -> None:
    """Take packages out of an environment; nothing happens without names."""
    if names:
        command = [python, "-m", "pip", "uninstall", "--yes", *sorted(names)]
        run_step(f"Removing {', '.join(sorted(names))}", command, log)
