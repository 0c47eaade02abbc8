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

from helpers.commands import capture, run_step, runbook_line
from helpers.errors import SetupError
from helpers.report import Check, Subject
from helpers.run_folder import ROOT
from helpers.torch_build.probe import CONSTRAINT_NAME

REQUIREMENTS = ROOT / "requirements-notorch.txt"
PACKAGES, TORCH_KEPT = Subject("requirements"), Subject("torch_kept")


@dataclass(frozen=True)
class Difference:
    """A package whose installed version is not the one that the lock file pins."""

    name: str
    wanted: str
    installed: str | None  # None where it is missing

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'missing'} (pinned: {self.wanted})"


def pinned_here(requirements: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions by name of the packages pinned in ``requirements``, a file's text, that apply here.

    ``environment`` holds values of environment markers that differ from this Python's.
    """
    from packaging.requirements import Requirement

    lines = (line for line in requirements.splitlines() if line.strip() and not line.startswith("#"))
    here = dict(environment or {})
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate(here)]
    return {pin.name: next(iter(pin.specifier)).version for pin in pins}


def differences(pinned: Mapping[str, str], installed: Mapping[str, str]) -> list[Difference]:
    """Where installed packages differ from the pinned ones; both are versions by name."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    have = {canonicalize_name(name): version for name, version in installed.items()}
    return [
        Difference(name, wanted, version)
        for name, wanted in pinned.items()
        if (version := have.get(canonicalize_name(name))) is None or Version(version) != Version(wanted)
    ]


def installed_packages() -> dict[str, str]:
    """Versions by name of everything installed beside this Python, read afresh."""
    importlib.invalidate_caches()
    installed: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # An interrupted pip leaves folders without metadata: they have no name, or not even a place for one.
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
    if (version := torch_version(python)) is None:
        raise SetupError("torch is not installed, so there is no version to keep.", fix="Run 02_torch first.")
    path = folder / CONSTRAINT_NAME
    path.write_text(f"torch=={version}\n", encoding="utf-8")
    return path


def install_rest(log: Path, python: str = sys.executable, requirements: Path = REQUIREMENTS) -> None:
    """Install ``requirements`` and print the progress; torch is kept by a constraints file beside ``log``.

    Raises:
        SetupError: There is no torch to keep, or pip failed.
    """
    constraint = keep_torch(log.parent, python)
    command = [python, "-m", "pip", "install", "-r", str(requirements), "-c", str(constraint)]
    run_step("Installing the rest", command, log, show=print)


def check_dependencies(install_missing: bool, run_dir: Path) -> list[Check]:
    """The checks ``requirements``, ``torch_kept`` and ``constraint``, after an installation if asked for.

    pip's log and the constraints file go into ``run_dir``.

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
    fix = f"Set install_missing=True and run this notebook again, or run `{runbook_line('setup')}`."
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
