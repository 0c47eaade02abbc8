"""Installs the first build of torch that works, for 02 and for setup."""

import contextlib
import re
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from helpers.commands import run_step, runbook_line
from helpers.errors import SetupError, TorchBuildError
from helpers.torch_build import probe
from helpers.torch_build.builds import Choice, TorchBuild

_NEWER_DRIVER = (
    "Install the newest driver from nvidia.com/drivers, restart, and run the same command again; or take the "
    f"CPU build: {runbook_line('setup', '--torch-lock', 'cpu')}."
)


def install_if(wanted: bool, choice: Choice, log: Path) -> None:
    """Install the best build that works beside this Python, if ``wanted``; errors as of :func:`install`."""
    if not wanted:
        return
    if isinstance(choice.outcome, TorchBuildError):
        raise choice.outcome
    constraint = log.parent / probe.CONSTRAINT_NAME
    install(with_fallback(choice.fitting), sys.executable, probe.this_packages(), log, constraint, print)


def install(
    builds: Sequence[TorchBuild],
    python: str,
    packages: Path | None,
    log: Path,
    constraint: Path,
    say: Callable[[str], None],
) -> TorchBuild:
    """Install and return the first build that pip can install and that computes.

    At no time are there two builds or half of one: before a build is tried, what an interrupted pip left is
    removed, and a build that does not compute is removed before the next is tried. A torch that is there
    stays until pip has fetched the other one whole.

    Builds are tried in their order, the best first, in the environment of ``python``, whose site-packages are
    ``packages``. pip's output is added to ``log``; the ``constraint`` file, for pip's ``-c``, keeps later
    installations from replacing torch; ``say`` is called with every line of progress.

    Raises:
        TorchBuildError: No build fits, or none that fits works; the message says what was wrong with each.
        SetupError: A file of another torch cannot be removed.
    """
    failures: list[str] = []
    fixes: list[str] = []
    for build in builds:
        probe.remove_remains(packages)
        before, libraries_before = probe.installed_version(packages), probe.libraries(packages)
        old = probe.libraries_of(packages, before)
        say(f"Trying {build.requirement}. {build.reason}")
        try:
            if not _is_there(build, before):
                # pip can print how far a download is from 24.1 on.
                pip = tuple(map(int, re.findall(r"\d+", probe.installed_version(packages, "pip") or "0")[:2]))
                numbers = ("--progress-bar", "raw") if pip >= (24, 1) else ()
                command = build.install_command(python, *numbers)
                run_step(f"Installing {build.requirement}", command, log, show=say)
            report = probe.verify(python)
            # A kernel on the CPU is enough even for a CUDA build: that it sees no GPU at all (a driver that
            # does not answer, CUDA_VISIBLE_DEVICES) is no build's fault, and another one would see none
            # either. What is asked for as a CPU build may come from an index that has CUDA builds only,
            # whose GPU code is then no matter.
            works = report.kernel or (build.tag == "cpu" and report.available and report.version)
            problem = "" if works else report.error or "it does not compute"
        except SetupError as error:
            lines = [line.strip() for line in error.what.splitlines() if line.strip()]
            problem = " ".join(dict.fromkeys((lines[0], lines[-1])))  # the sentence and pip's last line
            fixes.append(error.fix)
        if not problem:
            now = probe.installed_version(packages) or report.version
            probe.remove_packages(python, old - probe.libraries_of(packages, now), log)
            constraint.write_text(f"torch=={now}\n", encoding="utf-8")
            say(f"torch {now} computes on {'the GPU' if report.kernel == 'cuda' else 'the CPU'}.")
            if build.tag != "cpu" and not report.available:
                say(f"torch {now} sees no GPU: {runbook_line('doctor', '--deep')} says why.")
            return build
        failures.append(f"{build.requirement}: {problem}")
        say(f"That one does not work here. {failures[-1]}")
        if probe.installed_version(packages) != before or _is_there(build, before):
            probe.remove_torch(python, packages, log)
        probe.remove_packages(python, probe.libraries(packages) - libraries_before, log)
    probe.remove_remains(packages)
    left = probe.installed_version(packages)
    now = f"torch {left}, which was there, still is." if left else "No torch is installed now."
    raise TorchBuildError(
        f"None of the builds that fit could be made to work. {now}\n  " + "\n  ".join(failures),
        fix=f"{fixes[0] if fixes else _NEWER_DRIVER} All of pip's output is in {log}.",
    )


def _is_there(build: TorchBuild, installed: str | None) -> bool:
    """Whether an installed torch is this build; a CPU build may come from an index that marks none."""
    if installed is None or build.tag != "cpu":
        return f"torch=={installed}" == build.requirement
    version, _, local = installed.partition("+")
    return version == build.torch and local in ("", "cpu")


def reachable(url: str) -> bool:
    """Whether an address answers within ten seconds."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def with_fallback(builds: Sequence[TorchBuild], reach: Callable[[str], bool] = reachable) -> list[TorchBuild]:
    """The same builds; a CPU build comes from pip's own index where PyTorch's does not answer ``reach``."""
    return [
        replace(build, index="", local=False)
        if build.tag == "cpu" and not reach(f"{build.index_url}/torch/")
        else build
        for build in builds
    ]
