"""Which build of torch fits this machine, and does the installed one really compute?

The choice is made by driver *and* compute capability: a driver alone says nothing about whether a build
holds code for the GPU, and ``torch.cuda.is_available()`` is True on a GPU it has no code for. So the
choice comes from a table, and the result is proved with a kernel in a fresh process.

Standard library only: it works before anything is installed.
"""

import html
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.commands import child_environment, printable, run_step
from helpers.errors import ParameterError, TorchBuildError
from helpers.gpu import Gpu, detect_gpus
from helpers.report import Check

TESTED = "2.13.0"
"""The torch version that the tests run on, and the one that ``lock="auto"`` prefers."""

INDEX = "https://download.pytorch.org/whl"

# ---------------------------------------------------------------------------------------------------
# The table, for x86-64 Linux and Windows, as gathered on 2026-11-23. Capabilities: what the official wheels
# are built for, by pytorch's release notes and issue threads. Python: the tags of the wheels on pypi.org.
# Driver floors: NVIDIA's minimum drivers for CUDA 12.x and 13.x.
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
    """

    torch: str
    tag: str
    reason: str
    local: bool = True

    @property
    def index_url(self) -> str:
        """The package index that holds this build."""
        return f"{INDEX}/{self.tag}"

    @property
    def requirement(self) -> str:
        """The exact requirement. Without the tag pip would keep an installed build of another tag."""
        return f"torch=={self.torch}" + (f"+{self.tag}" if self.local else "")

    def pip_args(self) -> list[str]:
        """The arguments that follow ``pip install``."""
        return [self.requirement, "--index-url", self.index_url]


@dataclass(frozen=True)
class Candidate:
    """One row of the notebook's table: a build, whether it fits, and why or why not."""

    torch: str
    tag: str
    fits: bool
    why: str


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
    """

    version: str | None = None
    cuda: str | None = None
    available: bool = False
    device: str | None = None
    capability: str | None = None
    architectures: tuple[str, ...] = ()
    kernel: str = ""
    error: str = ""


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
        driver: NVIDIA driver version such as ``"560.94"``; None without a GPU.
        capability: Compute capability such as ``"8.6"``, or one for each GPU, as a sequence or as
            ``"8.6,12.0"``; None without a GPU. A build that serves every GPU is preferred; where there is
            none, the build serves those of the highest capability, and the reason names the others.
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
    machine = _Machine.of(os, driver, capability, python)
    order = _order(lock, gpu=machine.has_gpu)
    rows = [_judge(machine, torch, tag, machine.capabilities) for torch, tag in order]
    served = machine.capabilities
    if machine.has_gpu and not any(row.fits for row in rows):
        served = served[:1]
        rows = [_judge(machine, torch, tag, served) for torch, tag in order]
    best = next((row for row in rows if row.fits), None)
    if best is None:
        raise _refusal(machine, order, lock)
    reason = best.why
    if left_out := sorted(set(machine.capabilities) - set(served)):
        reason += (
            f" No single build serves all GPUs here; those of capability {', '.join(left_out)} stay unused: "
            "hide them with CUDA_VISIBLE_DEVICES."
        )
    if _version(best.torch) < (2, 10):
        reason += " " + _CVE.format(best.torch)
    return TorchBuild(best.torch, best.tag, reason, local=machine.os != "macos")


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
        if os not in ("windows", "linux", "macos"):
            raise ParameterError(f"os is {os!r}.", fix='It is one of "windows", "linux" and "macos".')
        listed = capability.split(",") if isinstance(capability, str) else list(capability or ())
        capabilities = sorted({text.strip() for text in listed}, key=_version, reverse=True)
        for text in [*capabilities, python, *([driver] if driver else [])]:
            _version(text)
        if os == "macos":
            return cls(os, None, (), python)
        return cls(os, driver or None, tuple(capabilities), python)

    @property
    def has_gpu(self) -> bool:
        return bool(self.driver or self.capabilities)


def _order(lock: str, gpu: bool) -> list[tuple[str, str]]:
    """The builds to weigh, best first, as (torch, tag)."""
    if lock in ("auto", "cpu"):
        return list(_AUTO) if lock == "auto" and gpu else [(TESTED, "cpu")]
    torch, _, tag = lock.partition("+")
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
        return TorchBuildError(
            f"Driver {machine.driver} does not say what compute capability the GPU has.",
            fix=f"Install driver {floor} or newer from nvidia.com/drivers, {instead}",
        )
    best = machine.capabilities[0]
    able = [tag for release, tag in releases if _code_for(best, release.tags.get(tag, ()))]
    if not able:
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
            fix='Give numbers with dots between them, such as "8.6" or "560.94".',
        )
    numbers = tuple(int(part) for part in text.split("."))
    return numbers if len(numbers) > 1 else (*numbers, 0)


def this_machine(gpus: Sequence[Gpu] | None = None) -> dict[str, Any]:
    """This machine as the arguments of :func:`choose`: ``choose(**this_machine(), lock="auto")``.

    Args:
        gpus: What :func:`detect_gpus` found; it is asked where this is None.
    """
    found = detect_gpus() if gpus is None else gpus
    names = {"win32": "windows", "darwin": "macos"}
    return {
        "os": names.get(sys.platform, "linux"),
        "driver": next((gpu.driver for gpu in found if gpu.driver), None),
        "capability": [gpu.capability for gpu in found if gpu.capability] or None,
        "python": platform.python_version().rstrip("+"),
    }


def install_command(build: TorchBuild, python: str = sys.executable) -> list[str]:
    """The command that installs a build into a Python's environment."""
    return [python, "-m", "pip", "install", *build.pip_args()]


def install_line(build: TorchBuild, python: str = sys.executable) -> str:
    """That command as one line to paste into this system's shell."""
    return printable(install_command(build, python))


# Integers this small multiply exactly in any floating point format, TF32 included, so equal means equal.
_PROBE = """
import html
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
        )
        on_gpu = small.cuda()
        if not torch.equal((on_gpu @ on_gpu).cpu(), small @ small):
            raise RuntimeError("a matrix product on the GPU differs from the CPU's")
        report.update(kernel="cuda")
except Exception as error:
    report.update(error=f"{type(error).__name__}: {error}".splitlines()[0])
print(json.dumps(report))
"""


def verify(python: str = sys.executable) -> TorchReport:
    """Look at the installed torch in a fresh process and let it compute.

    Args:
        python: The Python whose environment is looked at.

    Returns:
        What was found; a torch that is missing or broken is reported in ``error``, not raised.
    """
    command = [python, "-c", _PROBE]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
            check=False,
            env=child_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return TorchReport(error=f"The fresh process gave no answer ({error}).")
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return TorchReport(error=f"The fresh process ended with status {done.returncode}: {last}")
    return TorchReport(**(found | {"architectures": tuple(found.get("architectures", ()))}))


@dataclass(frozen=True)
class Choice:
    """What was weighed for this machine and what came of it; shown as a table in a notebook.

    Args:
        gpus: The machine's GPUs.
        rows: The builds that were weighed, best first.
        outcome: The build that fits, or the error that says why none does.
    """

    gpus: tuple[Gpu, ...]
    rows: tuple[Candidate, ...]
    outcome: TorchBuild | TorchBuildError

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
    gpus = detect_gpus()
    machine = this_machine(gpus)
    rows = tuple(candidates(**machine, lock=lock))
    try:
        return Choice(tuple(gpus), rows, choose(**machine, lock=lock))
    except TorchBuildError as error:
        return Choice(tuple(gpus), rows, error)


def install_if(wanted: bool, choice: Choice, log: Path) -> None:
    """Install the chosen build into this Python's environment if it is wanted, its progress printed.

    Args:
        wanted: Whether to install; nothing happens otherwise.
        choice: What :func:`weigh` chose.
        log: File that pip's output is added to.

    Raises:
        TorchBuildError: No build fits.
        SetupError: pip failed; the message holds the command and the end of its output.
    """
    if not wanted:
        return
    if isinstance(choice.outcome, TorchBuildError):
        raise choice.outcome
    build = choice.outcome
    run_step(f"Installing {build.requirement}", install_command(build), log, show=print)


def check_torch(choice: Choice) -> list[Check]:
    """Let the installed torch compute in a fresh process and judge it; see :func:`judge`."""
    return judge(choice, verify())


def judge(choice: Choice, found: TorchReport) -> list[Check]:
    """Judge an installed torch against the machine.

    Args:
        choice: The machine's GPUs and the build that fits it.
        found: What :func:`verify` reported.

    Returns:
        The checks ``torch_choice``, ``torch_installed``, ``torch_gpu`` and ``torch_kernel``.
    """
    if isinstance(choice.outcome, TorchBuild):
        mend = f"Close every notebook's kernel and run: {install_line(choice.outcome)}"
        seen = f"{choice.outcome.requirement}. {choice.outcome.reason}"
        checks = [Check("torch_choice", "ok", seen)]
    else:
        mend = choice.outcome.fix
        checks = [Check("torch_choice", "warn", choice.outcome.what, mend)]
    if found.version is None:
        missing = found.error or "torch is not installed"
        return [*checks, Check("torch_installed", "fail", missing, mend)]
    kind = f"CUDA {found.cuda}" if found.cuda else "CPU build"
    checks.append(Check("torch_installed", "ok", f"torch {found.version} ({kind})"))
    if not choice.gpus:
        checks.append(Check("torch_gpu", "ok", "no NVIDIA GPU here: everything runs on the CPU"))
    elif found.available:
        checks.append(Check("torch_gpu", "ok", f"is_available=True: {found.device}, {found.capability}"))
    else:
        why = "this is a CPU build" if found.cuda is None else "torch cannot use the driver"
        seen = (
            f"is_available=False although there is {choice.gpus[0].name}: {why}; everything runs on the CPU"
        )
        checks.append(Check("torch_gpu", "warn", seen, mend))
    if found.kernel:
        checks.append(Check("torch_kernel", "ok", f"a matrix product on {found.kernel} is exact"))
    else:
        built = f"; the build has code for {', '.join(found.architectures)}" if found.architectures else ""
        checks.append(Check("torch_kernel", "fail", f"{found.error}{built}", mend))
    return checks
