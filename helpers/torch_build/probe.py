"""The torch that is installed in an environment: which it is, whether it computes, and how it goes away.

Looks at another Python's environment from outside, by its files and in fresh processes: a torch that was
imported once cannot be looked at afresh, nor replaced under Windows. Knows nothing of which build would fit.
Standard library only.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from helpers.commands import child_environment, run_step
from helpers.errors import SetupError

CONSTRAINT_NAME = "torch-constraint.txt"
"""The constraints file that keeps torch as it is: step 2 writes it, step 3 hands it to pip."""


@dataclass(frozen=True)
class TorchReport:
    """What a fresh process found in the installed torch.

    Args:
        version: Such as ``"2.13.0+cu126"``; None where torch cannot be imported.
        cuda: CUDA version of the build; None for a CPU build.
        available: What ``torch.cuda.is_available()`` says.
        device: Name of the GPU that torch uses first.
        capability: That GPU's compute capability.
        architectures: What the build holds code for, such as ``("sm_80", "sm_86")``.
        kernel: ``"cpu"`` or ``"cuda"``: where a matrix product came out right; empty where none did.
        error: The last line of what went wrong; empty where nothing did.
        failing: The further GPUs that torch sees and cannot compute on, each with its error.
        timed_out: Whether the process had no time to answer.
    """

    version: str | None = None
    cuda: str | None = None
    available: bool = False
    device: str | None = None
    capability: str | None = None
    architectures: tuple[str, ...] = ()
    kernel: str = ""
    error: str = ""
    failing: tuple[str, ...] = ()
    timed_out: bool = field(default=False, compare=False)


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
    """Look at the installed torch in a fresh process and let it compute, on every GPU that it sees.

    Args:
        python: The Python whose environment is looked at.
        timeout: Seconds to wait.

    Returns:
        What was found; a torch that is missing or broken is reported in ``error``, not raised.
    """
    try:
        done = subprocess.run(
            [python, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            # A file named torch.py in the current folder must not be taken for torch.
            env=child_environment() | {"PYTHONSAFEPATH": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        slow = isinstance(error, subprocess.TimeoutExpired)
        return TorchReport(error=f"The fresh process gave no answer ({error}).", timed_out=slow)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return TorchReport(error=f"The fresh process ended with status {done.returncode}: {last}")
    lists = {name: tuple(found.get(name, ())) for name in ("architectures", "failing")}
    return TorchReport(**(found | lists))


def site_packages(environment: Path) -> Path | None:
    """The folder that a virtual environment's packages are in, whichever system made it; None without one."""
    found = [environment / "Lib" / "site-packages", *sorted(environment.glob("lib/python3*/site-packages"))]
    return next((path for path in found if path.is_dir()), None)


def installed_version(packages: Path | None, name: str = "torch") -> str | None:
    """A package's version by its folder's name, such as ``"2.13.0+cu126"``, without starting a Python.

    Args:
        packages: A site-packages folder; None for none.
        name: The package, in lower case.
    """
    pattern = re.compile(rf"{re.escape(name)}-([^-]+)\.dist-info", re.IGNORECASE)
    there = (each.name for each in packages.iterdir()) if packages and packages.is_dir() else iter(())
    return next((found[1] for text in there if (found := pattern.fullmatch(text))), None)


def cuda_of(packages: Path | None, version: str) -> str | None:
    """The CUDA version that an installed torch was built with, by its ``version.py``; None for a CPU build.

    Args:
        packages: The site-packages folder.
        version: Its version, whose local part counts where the file says nothing.
    """
    with contextlib.suppress(OSError, TypeError):
        text = (Path(str(packages)) / "torch" / "version.py").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^cuda\b[^=]*=\s*(?:'([\d.]+)'|\"([\d.]+)\"|None)", text, re.MULTILINE):
            return found[1] or found[2]
    found = re.search(r"\+cu(\d+)(\d)$", version)
    return f"{found[1]}.{found[2]}" if found else None


# The folders of torch's own wheel, and what pip renames them to while it replaces them.
_TORCH_FOLDERS = re.compile(r"(torch|torchgen|functorch)(-[^-]+\.dist-info)?", re.IGNORECASE)
_STASHED = re.compile(r"[-~.=%0-9]*~[-~.=%0-9]*(orch|rch|orchgen|unctorch)(-.+\.dist-info)?", re.IGNORECASE)


def remove_torch(python: str, packages: Path | None, log: Path) -> None:
    """Take torch out of an environment, whole or half-installed, with what an interrupted pip left of it.

    Args:
        python: The environment's Python.
        packages: Its site-packages folder.
        log: File that pip's output is added to.

    Raises:
        SetupError: A file cannot be removed: another program holds it.
    """
    if version := installed_version(packages):
        # Its libraries too: they are of the same CUDA, and take gigabytes.
        remove_packages(python, {"torch"} | libraries_of(packages, version), log)
    remove_remains(packages)


def remove_remains(packages: Path | None) -> None:
    """Remove what belongs to no installed torch: folders such as ``~orch``, and a torch without metadata.

    Raises:
        SetupError: A file cannot be removed.
    """
    if packages is None or not packages.is_dir():
        return
    whole = installed_version(packages) is not None
    for path in sorted(packages.iterdir()):
        if _STASHED.fullmatch(path.name) or (not whole and _TORCH_FOLDERS.fullmatch(path.name)):
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                raise SetupError(
                    f"{path}, left over from another torch, cannot be removed ({error.strerror or error}).",
                    fix="Close JupyterLab and every Python, and run the same command again.",
                ) from error


def libraries(packages: Path | None) -> set[str]:
    """The installed packages of the kind that torch's CUDA builds bring along."""
    there = (each.name for each in packages.iterdir()) if packages and packages.is_dir() else iter(())
    pattern = re.compile(r"((?:nvidia|cuda|triton|pytorch_triton)[^-]*)-[^-]+\.dist-info", re.IGNORECASE)
    found = {match[1].replace("_", "-") for text in there if (match := pattern.fullmatch(text))}
    return found - {"nvidia-ml-py"}


def libraries_of(packages: Path | None, version: str | None) -> set[str]:
    """The installed packages that torch of this version needs: NVIDIA's CUDA libraries and Triton."""
    metadata = Path(str(packages)) / f"torch-{version}.dist-info" / "METADATA"
    try:
        text = metadata.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    wanted = re.findall(r"^Requires-Dist:\s*([\w.-]+)", text, re.MULTILINE)
    return libraries(packages) & {name.replace("_", "-") for name in wanted}


def remove_packages(python: str, names: set[str], log: Path) -> None:
    """Take packages out of an environment; nothing happens without names."""
    if names:
        command = [python, "-m", "pip", "uninstall", "--yes", *sorted(names)]
        run_step(f"Removing {', '.join(sorted(names))}", command, log)
