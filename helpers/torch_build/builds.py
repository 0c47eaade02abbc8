"""Which build of torch fits this machine, and does the installed one really compute?

The choice is made by driver *and* compute capability: a driver alone says nothing about whether a build
holds code for the GPU, and ``torch.cuda.is_available()`` is True on a GPU it has no code for. So the
choice comes from a table, and the result is proved with a kernel in a fresh process.

Standard library only: it works before anything is installed.
"""

import contextlib
import html
import platform
import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.commands import printable, run_step, runbook_line, set_line, this_shell
from helpers.errors import ParameterError, SetupError, TorchBuildError
from helpers.gpu import Gpu, detect_gpus
from helpers.report import Check
from helpers.torch_build.probe import (
    CONSTRAINT_NAME,
    TorchReport,
    installed_version,
    libraries,
    libraries_of,
    remove_packages,
    remove_remains,
    remove_torch,
    verify,
)

TESTED = "2.13.0"
"""The torch version that the tests run on, and the one that ``lock="auto"`` prefers."""

INDEX = "https://download.pytorch.org/whl"

# ---------------------------------------------------------------------------------------------------
# The table, for x86-64 Linux and Windows, as gathered on 2026-11-23. Sources:
#   capabilities   the release compatibility matrix, github.com/pytorch/pytorch/blob/main/RELEASE.md, and the
#                  release notes: what the official wheels are built for
#   Python         the tags of the wheels, pypi.org/project/torch/#files
#   driver floors  the minimum drivers of CUDA 12.x and 13.x, docs.nvidia.com/cuda/cuda-toolkit-release-notes
_CU126 = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0")
_FROM_VOLTA = ("7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
_FROM_TURING = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")


@dataclass(frozen=True)
class _Release:
    """Torch versions whose builds are alike: oldest and newest Python, and each tag's capabilities."""

    versions: tuple[str, ...]
    pythons: tuple[str, str]
    tags: dict[str, tuple[str, ...]]


_RELEASES = (
    _Release(("2.8.0",), ("3.9", "3.13"), {"cu126": _CU126, "cu128": _FROM_VOLTA, "cu129": _FROM_VOLTA}),
    _Release(
        ("2.9.0", "2.9.1", "2.10.0"),
        ("3.10", "3.14"),
        {"cu126": _CU126, "cu128": _FROM_VOLTA, "cu130": _FROM_TURING},
    ),
    _Release(("2.11.0",), ("3.10", "3.14"), {"cu126": _CU126, "cu128": _FROM_TURING, "cu130": _FROM_TURING}),
    _Release(
        ("2.12.0", "2.12.1", TESTED, "2.14.0", "2.14.1"),
        ("3.10", "3.14"),
        {"cu126": _CU126, "cu130": _FROM_TURING},
    ),
)
_DRIVER_FLOORS = {
    ("linux", "12"): "525.60.13",
    ("windows", "12"): "528.33",
    ("linux", "13"): "580",
    ("windows", "13"): "580",
}
# What "auto" tries, best first. The tested version leads, cu126 before cu130 because it asks less of the
# driver; cu128 ended with 2.11, and is what RTX 50 cards with drivers under 580 need. 2.10 still has Volta's
# code beside Blackwell's, for machines with both. Nothing under 2.10 is tried: see _CVE.
_AUTO = ((TESTED, "cu126"), (TESTED, "cu130"), ("2.11.0", "cu128"), ("2.10.0", "cu128"))
_CVE = (
    "torch {0} has CVE-2026-24747 (a crafted checkpoint can corrupt memory even under weights_only=True; "
    "fixed in 2.10.0). Here it means: open no checkpoint of unknown origin with it, only the suites' own."
)
# ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchBuild:
    """One build of torch: what to install and why.

    Args:
        torch: Version without its local part, such as ``"2.13.0"``.
        tag: ``"cpu"``, ``"cu126"``, ``"cu128"``, ``"cu129"`` or ``"cu130"``.
        reason: Why this one, in words.
        local: Whether the index marks the version with its tag (``2.13.0+cpu``); macOS wheels have none.
        index: Where the indexes of all tags are; empty for wherever pip is configured to look.
    """

    torch: str
    tag: str
    reason: str
    local: bool = True
    index: str = INDEX

    @property
    def index_url(self) -> str:
        """The package index that holds this build; empty for pip's own."""
        return f"{self.index}/{self.tag}" if self.index else ""

    @property
    def requirement(self) -> str:
        """The exact requirement. Without the tag pip would keep an installed build of another tag."""
        return f"torch=={self.torch}" + (f"+{self.tag}" if self.local else "")

    def pip_args(self) -> list[str]:
        """The arguments that follow ``pip install``."""
        return [self.requirement, *(["--index-url", self.index_url] if self.index else [])]


@dataclass(frozen=True)
class Candidate:
    """One row of the notebook's table: a build, whether it fits, and why or why not."""

    torch: str
    tag: str
    fits: bool
    why: str


def choose(
    os: str,
    driver: str | None,
    capability: str | Sequence[str] | None,
    python: str,
    lock: str = "auto",
) -> TorchBuild:
    """The best build of torch for a machine.

    Args:
        os: ``"windows"``, ``"linux"`` or ``"macos"`` (x86-64 for the CUDA builds).
        driver: NVIDIA driver version such as ``"560.94"``, also as Windows' device manager writes it
            (``"32.0.15.6094"``); None without a GPU.
        capability: Compute capability such as ``"8.6"``, or one for each GPU, as a sequence or as
            ``"8.6,12.0"``; None without a GPU. A build that serves every GPU is preferred; where there is
            none, the build serves the strongest that it can, and the reason names the others.
        python: Python version such as ``"3.11"`` or ``"3.11.7"``.
        lock: ``"auto"`` prefers the tested version and cu126; ``"cpu"`` asks for the CPU build; a version
            such as ``"2.8.0"`` tries that version's tags in the plan's order (cu126, cu128, cu129, cu130);
            ``"2.8.0+cu128"`` asks for exactly that build.

    Returns:
        The build.

    Raises:
        TorchBuildError: No build fits; the message names the driver, Python or lock that would.
        ParameterError: An argument is not of the form above.
    """
    return fitting(os, driver, capability, python, lock)[0]


def fitting(
    os: str,
    driver: str | None,
    capability: str | Sequence[str] | None,
    python: str,
    lock: str = "auto",
) -> list[TorchBuild]:
    """Every build that serves a machine, best first; arguments and errors as of :func:`choose`."""
    machine = _Machine.of(os, driver, capability, python)
    order = _order(lock, gpu=machine.has_gpu)
    found: list[tuple[list[str], TorchBuild]] = []
    for torch, tag in order:
        served = [one for one in machine.capabilities if _judge(machine, torch, tag, [one]).fits]
        row = _judge(machine, torch, tag, served or machine.capabilities)
        if row.fits:
            reason = row.why + _left_out(machine, served, tag) + f" {has_defect(torch)}".rstrip()
            found.append((served, TorchBuild(torch, tag, reason, local=machine.os != "macos")))
    if not found:
        raise _refusal(machine, order, lock)
    # The strongest GPU counts first, then the next; among equals the order stands, because sorting is stable.
    found.sort(key=lambda each: [one not in each[0] for one in machine.capabilities])
    return [build for _, build in found]


def _left_out(machine: "_Machine", served: Sequence[str], tag: str) -> str:
    """The sentence that names GPUs which a build does not serve."""
    rest = sorted(set(machine.capabilities) - set(served), key=_version)
    if tag == "cpu" or not rest:
        return ""
    return (
        f" No single build serves all GPUs here; those of capability {', '.join(rest)} stay unused: "
        "hide them with CUDA_VISIBLE_DEVICES."
    )


def has_defect(version: str) -> str:
    """What a torch's known security defect means here, in words; empty where it has none.

    Args:
        version: Such as ``"2.8.0"`` or ``"2.8.0+cu126"``.
    """
    torch = version.partition("+")[0]
    numbers = tuple(map(int, re.findall(r"\d+", torch)[:2]))
    return _CVE.format(torch) if numbers < (2, 10) else ""


def candidates(
    os: str,
    driver: str | None,
    capability: str | Sequence[str] | None,
    python: str,
    lock: str = "auto",
) -> list[Candidate]:
    """Every build that :func:`choose` weighs for these arguments, best first, and why or why not.

    Raises:
        ParameterError: An argument is not of the form that :func:`choose` asks for.
    """
    machine = _Machine.of(os, driver, capability, python)
    return [_judge(machine, torch, tag, machine.capabilities) for torch, tag in _order(lock, machine.has_gpu)]


@dataclass(frozen=True)
class _Machine:
    """The arguments of :func:`choose`, checked; capabilities from highest to lowest."""

    os: str
    driver: str | None
    capabilities: tuple[str, ...]
    python: str

    @classmethod
    def of(
        cls, os: str, driver: str | None, capability: str | Sequence[str] | None, python: str
    ) -> "_Machine":
        system = _SYSTEMS.get(os.strip().lower())
        if system is None:
            raise ParameterError(f"os is {os!r}.", fix='It is one of "windows", "linux" and "macos".')
        listed = re.split(r"[\s,;+]+", capability) if isinstance(capability, str) else capability or ()
        named = {text.strip() for text in map(str, listed) if text.strip() not in _NOTHING}
        capabilities = sorted(named, key=_version, reverse=True)
        found = re.match(r"\d+\.\d+(\.\d+)*", python.strip())
        if found is None:
            raise ParameterError(f"{python!r} is not a version of Python.", fix='Write it like "3.11".')
        known_driver = _driver(driver)
        if system == "macos":
            return cls(system, None, (), found[0])
        return cls(system, known_driver, tuple(capabilities), found[0])

    @property
    def has_gpu(self) -> bool:
        return bool(self.driver or self.capabilities)


_SYSTEMS = {"windows": "windows", "win32": "windows", "linux": "linux", "macos": "macos", "darwin": "macos"}
# What nvidia-smi prints, and people write, where there is nothing to say.
_NOTHING = (
    "",
    "N/A",
    "[N/A]",
    "n/a",
    "none",
    "None",
    "Not Supported",
    "[Not Supported]",
    "unknown",
    "Unknown",
)


def _driver(text: str | None) -> str | None:
    """A driver's version as NVIDIA counts it; None for none."""
    if text is None or text.strip() in _NOTHING:
        return None
    found = re.fullmatch(r"(?:NVIDIA\s+)?[vVrR]?(\d+(?:\.\d+)*)(?:[-+ ~].*)?", text.strip())
    if found is None:
        raise ParameterError(
            f"{text!r} is not a driver version.", fix='Write it as nvidia-smi prints it, such as "560.94".'
        )
    parts = found[1].split(".")
    if len(parts) == 4 and int(parts[0]) < 100:
        # Windows' own count, 32.0.15.6094: the last five digits are NVIDIA's 560.94.
        digits = (parts[2] + parts[3].rjust(4, "0"))[-5:]
        return f"{digits[:3]}.{digits[3:]}"
    return found[1]


def _order(lock: str, gpu: bool) -> list[tuple[str, str]]:
    """The builds to weigh, best first, as (torch, tag)."""
    lock = lock.strip().lower().removeprefix("v")
    if lock in ("auto", "cpu"):
        return list(_AUTO) if lock == "auto" and gpu else [(TESTED, "cpu")]
    torch, _, tag = lock.partition("+")
    # "2.8" is the newest 2.8 there is.
    newest = [each for release in _RELEASES for each in release.versions if each.startswith(f"{torch}.")]
    torch = newest[-1] if newest else torch
    release = _release(torch)
    if release is None:
        known = [version for release in _RELEASES for version in release.versions]
        raise ParameterError(
            f"torch_lock is {lock!r}, which is no known version.",
            fix=f'Use "auto", "cpu" or one of {", ".join(known)}.',
        )
    if tag and tag not in ("cpu", *release.tags):
        raise ParameterError(
            f"torch {torch} has no build {tag}.", fix=f"Its builds are cpu, {', '.join(release.tags)}."
        )
    if tag == "cpu" or not gpu:
        return [(torch, "cpu")]
    return [(torch, name) for name in release.tags if name == (tag or name)]


def _judge(machine: _Machine, torch: str, tag: str, capabilities: Sequence[str]) -> Candidate:
    """Whether one build fits, and why or why not."""
    release = _release(torch)
    assert release is not None, f"{torch} is not in the table"
    oldest, newest = release.pythons
    problems = []
    if not _version(oldest)[:2] <= _version(machine.python)[:2] <= _version(newest)[:2]:
        problems.append(f"torch {torch} is built for Python {oldest} to {newest}, not {machine.python}")
    if tag == "cpu":
        why = "asked for" if machine.has_gpu else "no NVIDIA GPU"
        return Candidate(torch, tag, not problems, "; ".join(problems) or f"The CPU build: {why}.")
    codes = {wanted: _code_for(wanted, release.tags[tag]) for wanted in capabilities}
    missing = [wanted for wanted, code in codes.items() if code is None]
    if missing or not codes:
        has = f"it has {', '.join(release.tags[tag])}"
        problems.append(f"no code for capability {', '.join(missing) or 'unknown'} ({has})")
    floor = _floor(machine.os, tag)
    if machine.driver is None or _version(machine.driver) < _version(floor):
        problems.append(f"needs driver {floor} or newer, not {machine.driver or 'none'}")
    if problems:
        return Candidate(torch, tag, False, "; ".join(problems))
    runs = " and ".join(f"{code} code for capability {wanted}" for wanted, code in codes.items())
    return Candidate(torch, tag, True, f"It has {runs}, and driver {machine.driver} is at least {floor}.")


def _refusal(machine: _Machine, order: Sequence[tuple[str, str]], lock: str) -> TorchBuildError:
    """The error for a machine that no build fits: the one thing to change comes first."""
    instead = 'or take the CPU build: torch_lock="cpu" (python runbook.py setup --torch-lock cpu).'
    releases = [(release, tag) for torch, tag in order if (release := _release(torch))]
    if not any(
        _version(release.pythons[0])[:2] <= _version(machine.python)[:2] <= _version(release.pythons[1])[:2]
        for release, _ in releases
    ):
        oldest, newest = releases[0][0].pythons
        return TorchBuildError(
            f"torch {order[0][0]} has no build for Python {machine.python}.",
            fix=f"Use a Python from {oldest} to {newest}; 3.11 is the safe choice.",
        )
    if not machine.capabilities:
        floor = _floor(machine.os, "cu126")
        newer = machine.driver is not None and _version(machine.driver) >= _version(floor)
        what = "the newest driver" if newer else f"driver {floor} or newer"
        return TorchBuildError(
            f"Driver {machine.driver} does not say what compute capability the GPU has.",
            fix=f"Install {what} from nvidia.com/drivers and restart, {instead}",
        )
    best = machine.capabilities[0]
    for best in machine.capabilities:
        able = [tag for release, tag in releases if _code_for(best, release.tags.get(tag, ()))]
        if able:
            break
    if not able:
        best = machine.capabilities[0]
        other = [version for version, tag in _AUTO if _code_for(best, _tags(version).get(tag, ()))]
        first = 'Choose torch_lock="auto", which knows a build for it,' if other else "Use another GPU,"
        return TorchBuildError(
            f"No build of torch ({lock}) has code for a GPU of compute capability {best}.",
            fix=f"{first} {instead}",
        )
    floor = min((_floor(machine.os, tag) for tag in able), key=_version)
    return TorchBuildError(
        f"The GPU (capability {best}) needs driver {floor} or newer; "
        + (f"{machine.driver} is installed." if machine.driver else "none is installed."),
        fix=f"Install driver {floor} or newer from nvidia.com/drivers and restart, {instead}",
    )


def _code_for(capability: str, built: Iterable[str]) -> str | None:
    """The best code that runs on a capability: code for X.y runs on X.z where z >= y."""
    major, minor = _version(capability)[:2]
    fitting = [code for code in built if _version(code)[0] == major and _version(code)[1] <= minor]
    return max(fitting, key=_version, default=None)


def _release(torch: str) -> _Release | None:
    return next((release for release in _RELEASES if torch in release.versions), None)


def _tags(torch: str) -> dict[str, tuple[str, ...]]:
    release = _release(torch)
    return release.tags if release else {}


def _floor(os: str, tag: str) -> str:
    return _DRIVER_FLOORS[os, tag[2:4]]


def _version(text: str) -> tuple[int, ...]:
    """``"560.94"`` as (560, 94); at least two numbers."""
    if not re.fullmatch(r"\d+(\.\d+)*", text):
        raise ParameterError(
            f"{text!r} is not a version.",
            fix='Give numbers with dots between them, such as "8.6".',
        )
    numbers = tuple(int(part) for part in text.split("."))
    return numbers if len(numbers) > 1 else (*numbers, 0)


def this_machine(gpus: Sequence[Gpu] | None = None) -> dict[str, Any]:
    """This machine as the arguments of :func:`choose`: ``choose(**this_machine(), lock="auto")``.

    Args:
        gpus: What :func:`detect_gpus` found; it is asked where this is None.
    """
    found = detect_gpus() if gpus is None else gpus
    # The table's CUDA builds are for x86-64: elsewhere torch computes on the CPU.
    usable = found if platform.machine().lower() in ("x86_64", "amd64") else ()
    return {
        "os": _SYSTEMS.get(sys.platform, "linux"),
        "driver": next((gpu.driver for gpu in usable if gpu.driver), None),
        "capability": [gpu.capability for gpu in usable if gpu.capability] or None,
        "python": platform.python_version(),
    }


def serves(version: str, cuda: str | None, capability: str) -> bool | None:
    """Whether an installed build has code for a GPU; None where the table does not know the build.

    Args:
        version: Such as ``"2.13.0+cu126"``.
        cuda: The build's CUDA version, such as ``"12.6"``; None for a CPU build.
        capability: The GPU's compute capability.
    """
    built = _tags(version.partition("+")[0]).get("cu" + (cuda or "").replace(".", "")[:3])
    return None if built is None else _code_for(capability, built) is not None


def install_command(build: TorchBuild, python: str = sys.executable, numbers: bool = False) -> list[str]:
    """The command that installs a build into a Python's environment.

    Args:
        build: Which.
        python: The environment's Python.
        numbers: Whether pip is to print numbers for `helpers.commands.Progress` instead of a bar.
    """
    bar = ["--progress-bar", "raw"] if numbers else []
    return [python, "-m", "pip", "install", *bar, *build.pip_args()]


def install_line(build: TorchBuild, python: str = sys.executable) -> str:
    """That command as one line to paste into this system's shell."""
    return printable(install_command(build, python))


@dataclass(frozen=True)
class Choice:
    """What was weighed for this machine and what came of it; shown as a table in a notebook.

    Args:
        gpus: The machine's GPUs.
        rows: The builds that were weighed, best first.
        outcome: The build that fits, or the error that says why none does.
        fitting: Every build that fits, best first: what an installation tries.
    """

    gpus: tuple[Gpu, ...]
    rows: tuple[Candidate, ...]
    outcome: TorchBuild | TorchBuildError
    fitting: tuple[TorchBuild, ...] = ()

    @property
    def _conclusion(self) -> tuple[str, str]:
        """The outcome in words, and the line to run; empty where no build fits."""
        if isinstance(self.outcome, TorchBuild):
            return self.outcome.reason, install_line(self.outcome)
        return str(self.outcome), ""

    def __str__(self) -> str:
        rows = [
            f"torch {row.torch} {row.tag}: {'fits' if row.fits else 'no'}. {row.why}" for row in self.rows
        ]
        return "\n".join([*rows, *self._conclusion])

    def _repr_html_(self) -> str:
        lines = [("torch", "build", "fits", "why or why not")]
        lines += [(row.torch, row.tag, "✅" if row.fits else "❌", row.why) for row in self.rows]
        style = "text-align:left;white-space:normal"
        rows = ("".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell in line) for line in lines)
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        reason, command = map(html.escape, self._conclusion)
        return f"<table>{table}</table><p>{reason}</p><pre>{command}</pre>"


def weigh(lock: str = "auto") -> Choice:
    """Weigh the builds for this machine; a machine that none fits is reported in the choice, not raised.

    Args:
        lock: As :func:`choose` takes it.

    Raises:
        ParameterError: The lock is of no known form.
    """
    return weigh_for(detect_gpus(), lock)


def weigh_for(gpus: Sequence[Gpu], lock: str = "auto", python: str | None = None) -> Choice:
    """Weigh the builds for this machine with the GPUs given; otherwise as :func:`weigh`.

    Args:
        gpus: What :func:`detect_gpus` found.
        lock: As :func:`choose` takes it.
        python: The Python version that torch is for, if it is not this one's.
    """
    machine = this_machine(gpus)
    machine |= {"python": python or machine["python"]}
    rows = tuple(candidates(**machine, lock=lock))
    try:
        builds = fitting(**machine, lock=lock)
        return Choice(tuple(gpus), rows, builds[0], tuple(builds))
    except TorchBuildError as error:
        return Choice(tuple(gpus), rows, error)


def install_if(wanted: bool, choice: Choice, log: Path, say: Callable[[str], None] = print) -> None:
    """Install the best build that works into this Python's environment if it is wanted; see :func:`install`.

    Args:
        wanted: Whether to install; nothing happens otherwise.
        choice: What :func:`weigh` chose.
        log: File that pip's output is added to.
        say: Called with every line of progress.

    Raises:
        TorchBuildError: No build fits, or none of those that fit works.
        SetupError: What is left of another torch cannot be removed.
    """
    if not wanted:
        return
    if isinstance(choice.outcome, TorchBuildError):
        raise choice.outcome
    constraint = log.parent / CONSTRAINT_NAME
    install(with_fallback(choice.fitting), sys.executable, this_packages(), log, constraint, say)


def this_packages() -> Path:
    """The folder that this Python's packages are in."""
    import sysconfig

    return Path(sysconfig.get_paths()["purelib"])


def install(
    builds: Sequence[TorchBuild],
    python: str,
    packages: Path | None,
    log: Path,
    constraint: Path,
    say: Callable[[str], None],
) -> TorchBuild:
    """Install the first build that pip can install and that computes; the next where one does not.

    At no time are there two builds or half of one: before a build is tried, what an interrupted pip left is
    removed, and a build that does not compute is removed before the next is tried. A torch that is there
    stays until pip has fetched the other one whole.

    Args:
        builds: What to try, best first, as :func:`fitting` gives it.
        python: The Python into whose environment it goes.
        packages: That environment's site-packages folder.
        log: File that pip's output is added to.
        constraint: File to write for pip's ``-c``, which keeps later installations from replacing torch.
        say: Called with every line of progress.

    Returns:
        The build that is installed now.

    Raises:
        TorchBuildError: None could be installed and works; the message says what was wrong with each.
        SetupError: A file of another torch cannot be removed.
    """
    failures: list[str] = []
    fixes: list[str] = []
    for build in builds:
        remove_remains(packages)
        before, libraries_before = installed_version(packages), libraries(packages)
        old = libraries_of(packages, before)
        say(f"Trying {build.requirement}. {build.reason}")
        try:
            if not _is_there(build, before):
                command = install_command(build, python, numbers=_counts(packages))
                run_step(f"Installing {build.requirement}", command, log, show=say)
            problem = _problem(build, found := verify(python))
        except SetupError as error:
            problem = _last_words(error.what)
            fixes.append(error.fix)
        if not problem:
            now = installed_version(packages) or found.version
            remove_packages(python, old - libraries_of(packages, now), log)
            constraint.write_text(f"torch=={now}\n", encoding="utf-8")
            say(f"torch {now} computes on {'the GPU' if found.kernel == 'cuda' else 'the CPU'}.")
            if build.tag != "cpu" and not found.available:
                say(f"torch {now} sees no GPU: {runbook_line('doctor', '--deep')} says why.")
            return build
        failures.append(f"{build.requirement}: {problem}")
        say(f"That one does not work here. {failures[-1]}")
        if installed_version(packages) != before or _is_there(build, before):
            remove_torch(python, packages, log)
        remove_packages(python, libraries(packages) - libraries_before, log)
    remove_remains(packages)
    left = installed_version(packages)
    now = f"torch {left}, which was there, still is." if left else "No torch is installed now."
    raise TorchBuildError(
        f"None of the builds that fit could be made to work. {now}\n  " + "\n  ".join(failures),
        fix=f"{fixes[0] if fixes else _NEWER_DRIVER} All of pip's output is in {log}.",
    )


_NEWER_DRIVER = (
    "Install the newest driver from nvidia.com/drivers, restart, and run the same command again; or take the "
    f"CPU build: {runbook_line('setup', '--torch-lock', 'cpu')}."
)


def _is_there(build: TorchBuild, installed: str | None) -> bool:
    """Whether an installed torch is this build; a CPU build may come from an index that marks none."""
    if installed is None or build.tag != "cpu":
        return f"torch=={installed}" == build.requirement
    version, _, local = installed.partition("+")
    return version == build.torch and local in ("", "cpu")


def _counts(packages: Path | None) -> bool:
    """Whether the environment's pip can print how far a download is, which it can from 24.1 on."""
    found = installed_version(packages, "pip")
    return found is not None and tuple(map(int, re.findall(r"\d+", found)[:2])) >= (24, 1)


def _problem(build: TorchBuild, found: TorchReport) -> str:
    """Why an installed build will not do; empty if it does."""
    # A kernel on the CPU is enough even for a CUDA build: that it sees no GPU at all (a driver that does not
    # answer, CUDA_VISIBLE_DEVICES) is no build's fault, and another one would see none either. What is asked
    # for as a CPU build may come from an index that has CUDA builds only, whose GPU code is then no matter.
    if found.kernel or (build.tag == "cpu" and found.available and found.version):
        return ""
    return found.error or "it does not compute"


def _last_words(what: str) -> str:
    """The sentence of a failed step and the last line of its output."""
    lines = [line.strip() for line in what.strip().splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def with_fallback(
    builds: Sequence[TorchBuild], reach: Callable[[str], bool] | None = None
) -> list[TorchBuild]:
    """The same builds; a CPU build comes from pip's own index where PyTorch's is out of reach.

    Args:
        builds: What :func:`fitting` gave.
        reach: Tells whether an address answers; asked only if there is a CPU build.
    """
    reach = reach or reachable
    return [
        replace(build, index="", local=False)
        if build.tag == "cpu" and not reach(f"{build.index_url}/torch/")
        else build
        for build in builds
    ]


def reachable(url: str) -> bool:
    """Whether an address answers within ten seconds."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def check_torch(choice: Choice) -> list[Check]:
    """Let the installed torch compute in a fresh process and judge it; see :func:`judge`."""
    return judge(choice, verify())


def judge(choice: Choice, found: TorchReport, mend: str = "") -> list[Check]:
    """Judge an installed torch against the machine.

    Args:
        choice: The machine's GPUs and the build that fits it.
        found: What :func:`verify` reported.
        mend: What to do about a wrong build; by default the line that installs the right one.

    Returns:
        The checks ``torch_choice``, ``torch_installed``, ``torch_gpu`` and ``torch_kernel``.
    """
    if isinstance(choice.outcome, TorchBuild):
        mend = mend or f"Close every notebook's kernel and run: {install_line(choice.outcome)}"
    else:
        mend = choice.outcome.fix
    checks = [judge_choice(choice)]
    if found.version is None:
        missing = found.error or "torch is not installed"
        return [
            *checks,
            Check("torch_installed", "fail", missing, mend, "a torch that imports", _WHY["installed"]),
        ]
    kind = f"CUDA {found.cuda}" if found.cuda else "CPU build"
    seen = f"torch {found.version} ({kind})"
    checks.append(Check("torch_installed", "ok", seen, "", "a torch that imports", _WHY["installed"]))
    return [*checks, judge_gpu_use(choice, found, mend), judge_kernel(found, mend)]


_WHY = {
    "choice": "a build needs a driver that is new enough and code for the GPU; either alone is not enough",
    "installed": "everything after step 2 computes with torch",
    "gpu": "with is_available()=False everything runs on the CPU, many times slower",
    "kernel": "is_available() is True even where the build has no code for the GPU: only a kernel proves it",
}


def judge_choice(choice: Choice) -> Check:
    """Which build fits the machine: the check ``torch_choice``."""
    expected = "a build of torch that fits GPU, driver and Python"
    if isinstance(choice.outcome, TorchBuild):
        seen = f"{choice.outcome.requirement}. {choice.outcome.reason}"
        return Check("torch_choice", "ok", seen, "", expected, _WHY["choice"])
    return Check("torch_choice", "warn", choice.outcome.what, choice.outcome.fix, expected, _WHY["choice"])


def judge_gpu_use(choice: Choice, found: TorchReport, mend: str) -> Check:
    """Whether torch sees the GPU that is there: the check ``torch_gpu``."""
    expected = "is_available()=True where there is an NVIDIA GPU"
    if not choice.gpus:
        seen = "no NVIDIA GPU here: everything runs on the CPU"
    elif found.available:
        seen = f"is_available=True: {found.device}, {found.capability}"
    else:
        why = "this is a CPU build" if found.cuda is None else "torch cannot use the driver"
        seen = (
            f"is_available=False although there is {choice.gpus[0].name}: {why}; everything runs on the CPU"
        )
        return Check("torch_gpu", "warn", seen, mend, expected, _WHY["gpu"])
    return Check("torch_gpu", "ok", seen, "", expected, _WHY["gpu"])


def judge_kernel(found: TorchReport, mend: str) -> Check:
    """Whether a matrix product came out right in a fresh process: the check ``torch_kernel``."""
    expected = "a matrix product in a fresh process, exact"
    if not found.kernel:
        built = f"; the build has code for {', '.join(found.architectures)}" if found.architectures else ""
        return Check("torch_kernel", "fail", f"{found.error}{built}", mend, expected, _WHY["kernel"])
    seen = f"a matrix product on {found.kernel} is exact"
    if found.failing:
        seen += f"; not on {'; '.join(found.failing)}"
        fix = f"Hide that GPU: {set_line('CUDA_VISIBLE_DEVICES', '0', this_shell())}"
        return Check("torch_kernel", "warn", seen, fix, expected, _WHY["kernel"])
    return Check("torch_kernel", "ok", seen, "", expected, _WHY["kernel"])
