"""What a run's numbers depend on beside its parameters and files: software, device, code."""

import functools
import hashlib
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from helpers.run_folder import ROOT

ENGINE = ROOT / "helpers" / "worldmodel"


def environment_facts(device: torch.device) -> dict[str, str]:
    """Name and value of everything that may change a rollout's tokens or pixels, for people to read.

    Args:
        device: Where the models are.
    """
    return {
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda or "none"),
        "device": device.type,
        "device_name": device_name(device),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "engine_sha256": engine_hash()[:16],
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """The device by its maker's name, such as ``"NVIDIA GeForce RTX 3060 Ti"``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with_name = Path("/proc/cpuinfo")
    if with_name.is_file():
        lines = with_name.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


# A process goes on with the code that it imported: what that is should not be looked up again.
@functools.cache
def engine_hash(folder: Path = ENGINE) -> str:
    """sha256 over the engine's sources, whatever line ends a checkout gave them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


@functools.cache
def commit(root: Path = ROOT) -> str:
    """The git commit of the code, ``+changes`` where files differ from it; ``"unknown"`` outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "helpers", "notebooks")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
