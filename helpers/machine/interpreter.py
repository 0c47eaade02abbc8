"""Step 1: which Python runs this notebook, and is it the project's own environment?

Standard library only.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import printable, runbook_line
from helpers.report import Check
from helpers.run_folder import ROOT


@dataclass(frozen=True)
class Interpreter:
    """A Python and where it looks for packages.

    Args:
        executable: The program.
        prefix: The environment it belongs to.
        base_prefix: The installation that the environment was made from; the same as ``prefix`` outside
            a virtual environment.
        conda: The active conda environment's folder; empty where there is none.
        helpers: Where ``import helpers`` leads; None where it leads nowhere.
        no_user_site: Whether packages in the user's home are left alone.
    """

    executable: str
    prefix: str
    base_prefix: str
    conda: str
    helpers: str | None
    no_user_site: bool


def this_interpreter() -> Interpreter:
    """The Python that runs this code."""
    found = importlib.util.find_spec("helpers")
    return Interpreter(
        executable=sys.executable,
        prefix=sys.prefix,
        base_prefix=sys.base_prefix,
        conda=os.environ.get("CONDA_PREFIX", ""),
        helpers=found.origin if found else None,
        no_user_site=not _user_site_used(),
    )


def _user_site_used() -> bool:
    import site

    return bool(site.ENABLE_USER_SITE) and site.getusersitepackages() in sys.path


def venv_python(root: Path = ROOT) -> Path:
    """The program of the project's own environment, whether or not it exists."""
    windows = sys.platform == "win32"
    return root / ".venv" / ("Scripts/python.exe" if windows else "bin/python")


def check_environment(root: Path = ROOT) -> list[Check]:
    """Look at the Python that runs this and judge it; see :func:`judge`."""
    return judge(this_interpreter(), root)


def judge(python: Interpreter, root: Path) -> list[Check]:
    """Judge an interpreter.

    Args:
        python: What :func:`this_interpreter` found.
        root: The repository's root.

    Returns:
        The checks ``kernel``, ``environment``, ``helpers`` and ``user_packages``. Any environment that
        works is accepted; the project's own ``.venv`` is the one that ``runbook.py`` keeps in order.
    """
    return [
        Check("kernel", "ok", f"Python {sys.version.split()[0]} at {python.executable}"),
        _judge_environment(python, root),
        _judge_helpers(python, root),
        Check("user_packages", "ok", "packages in the user's home are left alone")
        if python.no_user_site
        else Check(
            "user_packages",
            "warn",
            "packages in the user's home are visible here and may hide the environment's",
            f"Start JupyterLab with {_command(root, 'lab')}, which leaves them alone.",
        ),
    ]


def _judge_environment(python: Interpreter, root: Path) -> Check:
    own = f"Close JupyterLab and start it with {_command(root, 'lab')}, which uses the project's own .venv."
    if _same(python.prefix, root / ".venv"):
        return Check("environment", "ok", f"the project's own environment, {python.prefix}")
    if python.prefix != python.base_prefix:
        return Check("environment", "warn", f"another virtual environment, {python.prefix}", own)
    if python.conda and _same(python.prefix, Path(python.conda)):
        return Check("environment", "warn", f"a conda environment, {python.prefix}", own)
    return Check("environment", "warn", f"no virtual environment: {python.prefix} serves everybody", own)


def _judge_helpers(python: Interpreter, root: Path) -> Check:
    wanted = root / "helpers" / "__init__.py"
    if python.helpers is not None and _same(python.helpers, wanted):
        return Check("helpers", "ok", f"imported from {root}")
    command = printable([python.executable, "-m", "pip", "install", "--no-deps", "-e", str(root)])
    seen = f"helpers leads to {python.helpers}, not to {wanted}" if python.helpers else "helpers is not found"
    return Check("helpers", "fail", seen, f"Run {command} and restart the kernel.")


def _command(root: Path, name: str) -> str:
    return f"`{runbook_line(name)}` (in {root})"


def _same(one: str | Path, other: str | Path) -> bool:
    """Whether two paths name the same place, links and letter case aside."""
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))
