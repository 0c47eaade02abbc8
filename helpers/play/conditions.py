"""What a run's numbers depend on beside its parameters and files: software, device, code."""

import ast
import functools
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from helpers.commands import capture
from helpers.run_folder import ROOT

ENGINE = ROOT / "helpers" / "worldmodel"


def environment_facts(device: torch.device) -> dict[str, str]:
    """Name and value of everything that may change a rollout's tokens or pixels on a device."""
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
    """sha256 over what the engine's sources do: comments, docstrings, layout and line ends do not matter."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        code = repr(_meaning(ast.parse(path.read_bytes())))
        digest.update(path.name.encode() + b"\0" + code.encode() + b"\0")
    return digest.hexdigest()


def _meaning(node: object) -> object:
    """A syntax tree as nested tuples without docstrings and empty fields, alike in every Python version."""
    if isinstance(node, list):
        # A string that stands alone does nothing: it documents a module, class, function or constant.
        return tuple(
            _meaning(part)
            for part in node
            if not (
                isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            )
        )
    if isinstance(node, ast.AST):
        fields = ((name, _meaning(value)) for name, value in ast.iter_fields(node))
        return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))
    return node


@functools.cache
def commit(root: Path = ROOT) -> str:
    """The git commit of the code, ``+changes`` where code differs from it; ``"unknown"`` outside git.

    A notebook that was run has outputs, and other metadata; only another source of a cell is a change.
    """

    def git(*arguments: str) -> str:
        done = capture(["git", *arguments], timeout=10, cwd=root, env=os.environ)
        done.check_returncode()
        return done.stdout.strip()

    try:
        names = git("diff", "--name-only", "--relative", "-z", "HEAD", "--", "helpers", "notebooks").split(
            "\0"
        )
        # Relative to the folder, which need not be the repository's own root.
        changed = any(
            not name.endswith(".ipynb") or _sources(git("show", f"HEAD:./{name}")) != _sources_of(root / name)
            for name in filter(None, names)
        )
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _sources(notebook: str) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = json.loads(notebook)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _sources_of(path: Path) -> list[str] | None:
    """The same of a file; None where it is gone or no notebook."""
    try:
        return _sources(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError):
        return None
