"""03: everything but torch, from ``requirements-notorch.txt``, and proof that torch stayed as it was.

An unconstrained install replaces torch silently. With a constraints file that holds the exact installed
``torch==X+tag``, pip either keeps it or says loudly why it cannot.
"""

import contextlib
import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import capture, run_step
from helpers.errors import SetupError
from helpers.report import Check, Subject
from helpers.run_folder import ROOT
from helpers.torch_build.probe import CONSTRAINT_NAME

REQUIREMENTS = ROOT / "requirements-notorch.txt"
PACKAGES, TORCH_KEPT = Subject("requirements"), Subject("torch_kept")


@dataclass(frozen=True)
class Difference:
    """A package whose installed version (None: missing) is not the one that the lock file pins."""

    name: str
    wanted: str
    installed: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'missing'} (pinned: {self.wanted})"


def pinned_here(requirements: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Version by name of the pinned packages that apply to an environment, in the file's order.

    Args:
        requirements: The text of ``requirements-notorch.txt``.
        environment: Values of the environment markers that differ from this Python's.
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
    return [
        Difference(name, wanted, version)
        for name, wanted in pinned.items()
        if (version := have.get(canonicalize_name(name))) is None or Version(version) != Version(wanted)
    ]


def installed_packages() -> dict[str, str]:
    """Version by name of everything installed beside this Python, read afresh."""
    importlib.invalidate_caches()
    installed: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # An interrupted pip leaves folders without metadata: they have no name, or, to the importers of newer
        # versions, which a package may have put in place, not even that.
        with contextlib.suppress(FileNotFoundError):
            if name := distribution.metadata["Name"]:
                installed[name] = distribution.version
    return installed


def torch_version(python: str = sys.executable) -> str | None:
    """The torch in a Python's environment, such as ``"2.13.0+cu126"``, or None; torch is not imported."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return capture([python, "-c", code]).stdout.strip() or None


def keep_torch(folder: Path, python: str = sys.executable) -> Path:
    """Write the constraints file that keeps a Python's torch as it is into ``folder``, for pip's ``-c``.

    Raises:
        SetupError: There is no torch to keep.
    """
    version = torch_version(python)
    if version is None:
        raise SetupError("torch is not installed, so there is no version to keep.", fix="Run 02_torch first.")
    path = folder / CONSTRAINT_NAME
    path.write_text(f"torch=={version}\n", encoding="utf-8")
    return path


def rest_command(constraint: Path, python: str, requirements: Path = REQUIREMENTS) -> list[str]:
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
    """Compare what is installed with what is pinned, fix it if asked, and prove that torch stayed.

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
        return PACKAGES.ok(f"all {total} packages are installed as pinned")
    text = "; ".join(map(str, wrong))
    fix = "Set install_missing=True and run this notebook again, or run `python runbook.py setup`."
    missing = any(difference.installed is None for difference in wrong)
    return PACKAGES.fail(text, fix) if missing else PACKAGES.warn(text, fix)


def judge_torch(before: str | None, after: str | None) -> Check:
    """Whether torch is there and is what it was before the installation."""
    if before is None:
        return TORCH_KEPT.fail("torch is not installed", "Run 02_torch first.")
    if before != after:
        fix = "Run 02_torch with install=True, which puts the fitting build back."
        return TORCH_KEPT.fail(f"torch was {before} and is now {after}", fix)
    return TORCH_KEPT.ok(f"torch {after} before and after")
