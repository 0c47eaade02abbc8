"""Step 3: everything but torch, from ``requirements-notorch.txt``, and proof that torch stayed as it was.

An unconstrained install replaces torch silently. With a constraints file that holds the exact installed
``torch==X+tag``, pip either keeps it or says loudly why it cannot.
"""

import contextlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import child_environment, run_step
from helpers.errors import SetupError
from helpers.report import Check
from helpers.run_folder import ROOT
from helpers.torch_build.probe import CONSTRAINT_NAME

REQUIREMENTS = ROOT / "requirements-notorch.txt"


@dataclass(frozen=True)
class Difference:
    """A package that is not installed as ``requirements-notorch.txt`` pins it.

    Args:
        name: The package.
        wanted: The pinned version.
        found: The installed version; None where it is missing.
    """

    name: str
    wanted: str
    found: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.found or 'missing'} (pinned: {self.wanted})"


def pinned_here(requirements: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The pinned packages that apply to an environment.

    Args:
        requirements: The text of ``requirements-notorch.txt``.
        environment: Values of the environment markers that differ from this Python's.

    Returns:
        Version by package name, in the file's order.
    """
    from packaging.requirements import Requirement

    pinned = {}
    for line in requirements.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(dict(environment or {})):
                pinned[requirement.name] = next(iter(requirement.specifier)).version
    return pinned


def differences(pinned: Mapping[str, str], installed: Mapping[str, str]) -> list[Difference]:
    """Where the installed packages differ from the pinned ones; both map names to versions."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    have = {canonicalize_name(name): version for name, version in installed.items()}
    found = ((name, version, have.get(canonicalize_name(name))) for name, version in pinned.items())
    return [
        Difference(name, wanted, version)
        for name, wanted, version in found
        if version is None or Version(version) != Version(wanted)
    ]


def installed_packages() -> dict[str, str]:
    """Version by name of everything installed beside this Python, read afresh."""
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        # An interrupted pip leaves folders without metadata: they have no name, or, to the importers of newer
        # versions, which a package may have put in place, not even that.
        with contextlib.suppress(FileNotFoundError):
            if name := each.metadata["Name"]:
                found[name] = each.version
    return found


def torch_version(python: str = sys.executable) -> str | None:
    """The installed torch's version with its local part, such as ``"2.13.0+cu126"``, or None.

    Args:
        python: The Python whose environment is asked, in a fresh process and without importing torch.
    """
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(),
        check=False,
    )
    return done.stdout.strip() or None


def keep_torch(folder: Path, python: str = sys.executable) -> Path:
    """Write the constraints file that keeps the installed torch as it is.

    Args:
        folder: Where to; it exists.
        python: The Python in whose environment torch is.

    Returns:
        The file's path, for pip's ``-c``.

    Raises:
        SetupError: There is no torch to keep.
    """
    version = torch_version(python)
    if version is None:
        raise SetupError("torch is not installed, so there is no version to keep.", fix="Run 02_torch first.")
    path = folder / CONSTRAINT_NAME
    path.write_text(f"torch=={version}\n", encoding="utf-8")
    return path


def rest_command(
    constraint: Path, python: str = sys.executable, requirements: Path = REQUIREMENTS
) -> list[str]:
    """The command that installs everything but torch under the constraint."""
    return [python, "-m", "pip", "install", "-r", str(requirements), "-c", str(constraint)]


def install_rest(log: Path, python: str = sys.executable, requirements: Path = REQUIREMENTS) -> None:
    """Install everything but torch, its progress printed; torch is kept as it is.

    Args:
        log: File that pip's output is added to; the constraints file is written beside it.
        python: The Python whose environment it goes into.
        requirements: What to install.

    Raises:
        SetupError: There is no torch to keep, or pip failed.
    """
    constraint = keep_torch(log.parent, python)
    run_step("Installing the rest", rest_command(constraint, python, requirements), log, show=print)


def check_dependencies(install_missing: bool, run_dir: Path) -> list[Check]:
    """Compare what is installed with what is pinned, mend it if asked, and prove that torch stayed.

    Args:
        install_missing: Whether to install what is missing or of another version.
        run_dir: Folder for pip's log and the constraints file.

    Returns:
        The checks ``requirements``, ``torch_kept`` and ``constraint``.

    Raises:
        SetupError: An installation was needed and failed.
    """
    pinned = pinned_here(REQUIREMENTS.read_text(encoding="utf-8"))
    torch_before = torch_version()
    wrong = differences(pinned, installed_packages())
    if wrong and install_missing and torch_before:
        print(f"Installing {len(wrong)} of {len(pinned)} packages: {', '.join(map(str, wrong))}")
        install_rest(run_dir / "pip.log")
        wrong = differences(pinned, installed_packages())
    checks = [judge_packages(wrong, len(pinned)), judge_torch(torch_before, torch_version())]
    if torch_before:
        path = keep_torch(run_dir)
        checks.append(Check("constraint", "ok", f"pip install -c {path} … keeps torch=={torch_before}"))
    return checks


def judge_packages(wrong: list[Difference], total: int) -> Check:
    """Missing packages stop a run; other versions than the pinned ones may well work."""
    if not wrong:
        return Check("requirements", "ok", f"all {total} packages are installed as pinned")
    missing = any(difference.found is None for difference in wrong)
    fix = "Set install_missing=True and run this notebook again, or run `python runbook.py setup`."
    return Check("requirements", "fail" if missing else "warn", "; ".join(map(str, wrong)), fix)


def judge_torch(before: str | None, after: str | None) -> Check:
    """Whether torch is there and is what it was before the installation."""
    if before is None:
        return Check("torch_kept", "fail", "torch is not installed", "Run 02_torch first.")
    if before != after:
        fix = "Run 02_torch with install=True, which puts the fitting build back."
        return Check("torch_kept", "fail", f"torch was {before} and is now {after}", fix)
    return Check("torch_kept", "ok", f"torch {after} before and after")
