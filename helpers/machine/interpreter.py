"""01: which Python runs this notebook, and is it the project's own environment? Standard library only."""

import importlib.util
import os
import site
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import lab_fix, memory_settings, printable, runbook_line
from helpers.report import Check, Subject
from helpers.run_folder import ROOT

ENVIRONMENT = Subject("environment")
HELPERS = Subject("helpers")
USER_PACKAGES = Subject("user_packages")
MEMORY = Subject("memory_settings")


@dataclass(frozen=True)
class Interpreter:
    """A Python and where it looks for packages."""

    executable: str
    prefix: str  # the environment that the program belongs to
    base_prefix: str  # the installation that the environment was made from; prefix itself outside one
    conda: str  # the active conda environment's folder; empty where there is none
    helpers: str | None  # where `import helpers` leads; None where nowhere
    no_user_site: bool  # whether packages in the user's home are left alone
    memory: str = ""  # what `helpers.commands.memory_settings` says of it


def this_interpreter() -> Interpreter:
    """The Python that runs this code."""
    helpers = importlib.util.find_spec("helpers")
    origin, conda = helpers.origin if helpers else None, os.environ.get("CONDA_PREFIX", "")
    alone = not (site.ENABLE_USER_SITE and site.getusersitepackages() in sys.path)
    return Interpreter(sys.executable, sys.prefix, sys.base_prefix, conda, origin, alone, memory_settings())


def venv_python(root: Path = ROOT) -> Path:
    """The program of the project's own environment, whether or not it exists."""
    return root / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def check_environment(root: Path = ROOT) -> list[Check]:
    """Judge the Python that runs this; see :func:`judge`."""
    return judge(this_interpreter(), root)


def judge(python: Interpreter, root: Path) -> list[Check]:
    """The checks ``kernel``, ``environment``, ``helpers``, ``user_packages`` and ``memory_settings``.

    Any environment that works is accepted; ``runbook.py`` keeps the one of ``root``, ``.venv``, in order.
    """
    lab = f"`{runbook_line('lab')}` (in {root})"
    memory = MEMORY.ok("this process's memory settings apply, or its system needs none")
    user_packages = USER_PACKAGES.ok("packages in the user's home are left alone")
    if not python.no_user_site:
        text = "packages in the user's home are visible here and may hide the environment's"
        user_packages = USER_PACKAGES.warn(text, f"Start JupyterLab with {lab}, which leaves them alone.")
    return [
        Check("kernel", "ok", f"Python {sys.version.split()[0]} at {python.executable}"),
        _judge_environment(python, root, f"Close JupyterLab and start it with {lab}, which uses .venv."),
        _judge_helpers(python, root),
        user_packages,
        MEMORY.warn(python.memory, lab_fix()) if python.memory else memory,
    ]


def _judge_environment(python: Interpreter, root: Path, fix: str) -> Check:
    if _same(python.prefix, root / ".venv"):
        return ENVIRONMENT.ok(f"the project's own environment, {python.prefix}")
    if python.prefix != python.base_prefix:
        return ENVIRONMENT.warn(f"another virtual environment, {python.prefix}", fix)
    if python.conda and _same(python.prefix, Path(python.conda)):
        return ENVIRONMENT.warn(f"a conda environment, {python.prefix}", fix)
    return ENVIRONMENT.warn(f"no virtual environment: {python.prefix} serves everybody", fix)


def _judge_helpers(python: Interpreter, root: Path) -> Check:
    wanted = root / "helpers" / "__init__.py"
    if python.helpers is not None and _same(python.helpers, wanted):
        return HELPERS.ok(f"imported from {root}")
    command = printable([python.executable, "-m", "pip", "install", "--no-deps", "-e", str(root)])
    text = f"helpers leads to {python.helpers}, not to {wanted}" if python.helpers else "helpers is not found"
    return HELPERS.fail(text, f"Run {command} and restart the kernel.")


def _same(one: str | Path, other: str | Path) -> bool:
    """Whether two paths name the same place, links and letter case aside."""
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))
