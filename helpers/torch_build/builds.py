"""Which build of torch fits a machine: a sourced table, and the choice from it.

The choice is made by driver *and* compute capability: a driver alone says nothing about whether a build
holds code for the GPU, and ``torch.cuda.is_available()`` is True on a GPU it has no code for.
"""

import html
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from helpers.commands import printable, runbook_line
from helpers.errors import ParameterError, TorchBuildError
from helpers.gpu import Gpu, detect_gpus
from helpers.report import html_table

TESTED = "2.13.0"
"""The torch version that the tests run on, and the one that ``lock="auto"`` prefers."""

INDEX = "https://download.pytorch.org/whl"

# The table, for x86-64 Linux and Windows, as gathered on 2026-11-23. Sources:
#   capabilities   the release compatibility matrix, github.com/pytorch/pytorch/blob/main/RELEASE.md, and the
#                  release notes: what the official wheels are built for
#   Python         the tags of the wheels, pypi.org/project/torch/#files
#   driver floors  the minimum drivers of CUDA 12.x and 13.x, docs.nvidia.com/cuda/cuda-toolkit-release-notes
_CU126 = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0")
_FROM_VOLTA = ("7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
_FROM_TURING = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")


# Each torch version's builds by their tags, with the capabilities they have code for; oldest first.
_2_9 = {"cu126": _CU126, "cu128": _FROM_VOLTA, "cu130": _FROM_TURING}
_2_12 = {"cu126": _CU126, "cu130": _FROM_TURING}
_RELEASES: dict[str, dict[str, tuple[str, ...]]] = {
    "2.8.0": {"cu126": _CU126, "cu128": _FROM_VOLTA, "cu129": _FROM_VOLTA},
    **dict.fromkeys(("2.9.0", "2.9.1", "2.10.0"), _2_9),
    "2.11.0": {"cu126": _CU126, "cu128": _FROM_TURING, "cu130": _FROM_TURING},
    **dict.fromkeys(("2.12.0", "2.12.1", TESTED, "2.14.0", "2.14.1"), _2_12),
}
# The oldest and the newest Python: of 2.8.0, and of every version since.
_PYTHONS_OF_2_8, _PYTHONS = ("3.9", "3.13"), ("3.10", "3.14")
# The oldest driver by CUDA's major version.
_DRIVER_FLOORS = {"12": {"linux": "525.60.13", "windows": "528.33"}, "13": {"linux": "580", "windows": "580"}}
# What "auto" tries, best first. The tested version leads, cu126 before cu130 because it asks less of the
# driver; cu128 ended with 2.11, and is what RTX 50 cards with drivers under 580 need. 2.10 still has Volta's
# code beside Blackwell's, for machines with both. Nothing under 2.10 is tried: see _CVE.
_AUTO = ((TESTED, "cu126"), (TESTED, "cu130"), ("2.11.0", "cu128"), ("2.10.0", "cu128"))
_CVE = (
    "torch {0} has CVE-2026-24747 (a crafted checkpoint can corrupt memory even under weights_only=True; "
    "fixed in 2.10.0). Here it means: open no checkpoint of unknown origin with it, only the suites' own."
)


@dataclass(frozen=True)
class TorchBuild:
    """One build of torch: what to install and why."""

    torch: str  # version without its local part, such as "2.13.0"
    tag: str  # "cpu", "cu126", "cu128", "cu129" or "cu130"
    reason: str
    local: bool = True  # whether the index marks the version with its tag (2.13.0+cpu); not for macOS
    index: str = INDEX  # where the indexes of all tags are; empty for wherever pip is configured to look

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

    def install_command(self, python: str = sys.executable, *options: str) -> list[str]:
        """The command that installs it into a Python's environment; ``options`` go to ``pip install``."""
        return [python, "-m", "pip", "install", *options, *self.pip_args()]


@dataclass(frozen=True)
class Candidate:
    """One row of the notebook's table: a build, whether it fits, and why or why not."""

    torch: str
    tag: str
    fits: bool
    why: str


@dataclass(frozen=True)
class Target:
    """What a build has to fit: the arguments of :func:`choose`, checked; see :meth:`of`."""

    os: str
    driver: str | None
    capabilities: tuple[str, ...]  # of the GPUs that torch can use, highest first and none twice
    python: str

    @classmethod
    def of(cls, os: str, driver: str | None, capability: str | Sequence[str] | None, python: str) -> "Target":
        """Check the arguments of :func:`choose` and bring them into one form; errors as there."""
        system = _SYSTEMS.get(os.strip().lower())
        if system is None:
            raise ParameterError(f"os is {os!r}.", fix='It is one of "windows", "linux" and "macos".')
        listed = re.split(r"[\s,;+]+", capability) if isinstance(capability, str) else capability or ()
        capabilities = {text.strip() for text in map(str, listed) if not _NOTHING.fullmatch(text.strip())}
        ordered = sorted(capabilities, key=_version, reverse=True)
        version = re.match(r"\d+\.\d+(\.\d+)*", python.strip())
        if version is None:
            raise ParameterError(f"{python!r} is not a version of Python.", fix='Write it like "3.11".')
        target = cls(system, _driver(driver), tuple(ordered), version[0])
        return replace(target, driver=None, capabilities=()) if system == "macos" else target

    @property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU, as far as its driver or its capability tell."""
        return bool(self.driver or self.capabilities)


_SYSTEMS = {"windows": "windows", "win32": "windows", "linux": "linux", "macos": "macos", "darwin": "macos"}
# What nvidia-smi prints, and people write, where there is nothing to say.
_NOTHING = re.compile(r"(\[?(n/a|not supported)\]?|none|unknown)?", re.IGNORECASE)


def choose(
    os: str, driver: str | None, capability: str | Sequence[str] | None, python: str, lock: str = "auto"
) -> TorchBuild:
    """The best build of torch for a machine.

    Args:
        os: ``"windows"``, ``"linux"`` or ``"macos"`` (x86-64 for the CUDA builds).
        driver: NVIDIA's version, ``"560.94"`` or, as Windows counts, ``"32.0.15.6094"``; None without a GPU.
        capability: Compute capability such as ``"8.6"``, of several GPUs a sequence or ``"8.6,12.0"``; None
            without a GPU. A build that serves every GPU is preferred; where there is none, the strongest GPU
            that any build serves counts, and the reason names the others.
        python: Version such as ``"3.11"`` or ``"3.11.7"``.
        lock: ``"auto"`` prefers the tested version and cu126; ``"cpu"`` asks for the CPU build; ``"2.8.0"``
            for one of that version (cu126, cu128, cu129 or cu130, in this order); ``"2.8.0+cu128"`` for it.

    Raises:
        TorchBuildError: No build fits; the message names the driver, Python or lock that would.
        ParameterError: An argument is not of the form above.
    """
    return fitting(Target.of(os, driver, capability, python), lock)[0]


def fitting(target: Target, lock: str = "auto") -> list[TorchBuild]:
    """Every build that serves a machine, best first; ``lock`` and errors as of :func:`choose`."""
    order = _order(lock, target.has_gpu)
    builds = []
    for torch, tag in order:
        unused = [one for one in target.capabilities if not _weigh(target, torch, tag, [one]).fits]
        served = [one for one in target.capabilities if one not in unused]
        row = _weigh(target, torch, tag, served or target.capabilities)
        if row.fits:
            rest = f"those of capability {', '.join(reversed(unused))} stay unused"
            hide = f" No single build serves all GPUs here; {rest}: hide them with CUDA_VISIBLE_DEVICES."
            reason = f"{row.why}{hide if unused else ''} {has_defect(torch)}".rstrip()
            builds.append((unused, TorchBuild(torch, tag, reason, local=target.os != "macos")))
    if not builds:
        raise _refusal(target, order, lock)
    # The strongest GPU counts first, then the next; among equals the order stands, because sorting is stable.
    builds.sort(key=lambda pair: [capability in pair[0] for capability in target.capabilities])
    return [build for _, build in builds]


def candidates(target: Target, lock: str = "auto") -> list[Candidate]:
    """Every build that :func:`choose` weighs, best first, and whether it serves all GPUs."""
    order = _order(lock, target.has_gpu)
    return [_weigh(target, torch, tag, target.capabilities) for torch, tag in order]


def has_defect(version: str) -> str:
    """What the known security defect of a torch such as ``"2.8.0+cu126"`` means here; empty without one."""
    torch = version.partition("+")[0]
    return _CVE.format(torch) if tuple(map(int, re.findall(r"\d+", torch)[:2])) < (2, 10) else ""


def serves(version: str, cuda: str | None, capability: str) -> bool | None:
    """Whether an installed build, ``"2.13.0+cu126"`` of CUDA ``"12.6"``, has code for a compute capability.

    None for a CPU build (``cuda`` is None) and a build that the table does not know.
    """
    built = _RELEASES.get(version.partition("+")[0], {}).get("cu" + (cuda or "").replace(".", "")[:3])
    return None if built is None else _code_for(capability, built) is not None


def this_machine(gpus: Sequence[Gpu] | None = None, python: str | None = None) -> Target:
    """What a build has to fit here; ``gpus`` and ``python`` (its version) are this machine's unless given."""
    # The table's CUDA builds are for x86-64: elsewhere torch computes on the CPU.
    intel = platform.machine().lower() in ("x86_64", "amd64")
    usable = (detect_gpus() if gpus is None else gpus) if intel else ()
    driver = next((gpu.driver for gpu in usable if gpu.driver), None)
    capabilities = [gpu.capability for gpu in usable if gpu.capability]
    system = _SYSTEMS.get(sys.platform, "linux")
    return Target.of(system, driver, capabilities, python or platform.python_version())


def _driver(text: str | None) -> str | None:
    """A driver's version as NVIDIA counts it; None for none."""
    if text is None or _NOTHING.fullmatch(text.strip()):
        return None
    version = re.fullmatch(r"(?:NVIDIA\s+)?[vVrR]?(\d+(?:\.\d+)*)(?:[-+ ~].*)?", text.strip())
    if version is None:
        fix = 'Write it as nvidia-smi prints it, such as "560.94".'
        raise ParameterError(f"{text!r} is not a driver version.", fix=fix)
    parts = version[1].split(".")
    if len(parts) == 4 and int(parts[0]) < 100:
        # Windows' own count, 32.0.15.6094: the last five digits are NVIDIA's 560.94.
        digits = (parts[2] + parts[3].rjust(4, "0"))[-5:]
        return f"{digits[:3]}.{digits[3:]}"
    return version[1]


def _order(lock: str, gpu: bool) -> list[tuple[str, str]]:
    """The builds to weigh, best first, as (torch, tag)."""
    lock = lock.strip().lower().removeprefix("v")
    if lock in ("auto", "cpu"):
        return list(_AUTO) if lock == "auto" and gpu else [(TESTED, "cpu")]
    torch, _, tag = lock.partition("+")
    # "2.8" is the newest 2.8 there is.
    torch = next((version for version in reversed(_RELEASES) if version.startswith(f"{torch}.")), torch)
    if torch not in _RELEASES:
        fix = f'Use "auto", "cpu" or one of {", ".join(_RELEASES)}.'
        raise ParameterError(f"torch_lock is {lock!r}, which is no known version.", fix=fix)
    tags = _RELEASES[torch]
    if tag and tag not in ("cpu", *tags):
        fix = f"Its builds are cpu, {', '.join(tags)}."
        raise ParameterError(f"torch {torch} has no build {tag}.", fix=fix)
    if tag == "cpu" or not gpu:
        return [(torch, "cpu")]
    return [(torch, name) for name in tags if name == (tag or name)]


def _weigh(target: Target, torch: str, tag: str, capabilities: Sequence[str]) -> Candidate:
    """Whether one build fits a machine with GPUs of these capabilities, and why or why not."""
    problems = [_python_problem(torch, target.python)]
    if tag == "cpu":
        why = "asked for" if target.has_gpu else "no NVIDIA GPU"
        return Candidate(torch, tag, not problems[0], problems[0] or f"The CPU build: {why}.")
    built = _RELEASES[torch][tag]
    codes = {capability: _code_for(capability, built) for capability in capabilities}
    missing = [capability for capability, code in codes.items() if code is None]
    if missing or not codes:
        lacking = ", ".join(missing) or "unknown"
        problems.append(f"no code for capability {lacking} (it has {', '.join(built)})")
    floor = _floor(target, tag)
    if target.driver is None or _version(target.driver) < _version(floor):
        problems.append(f"needs driver {floor} or newer, not {target.driver or 'none'}")
    if why_not := "; ".join(filter(None, problems)):
        return Candidate(torch, tag, False, why_not)
    runs = " and ".join(f"{code} code for capability {capability}" for capability, code in codes.items())
    return Candidate(torch, tag, True, f"It has {runs}, and driver {target.driver} is at least {floor}.")


def _refusal(target: Target, order: Sequence[tuple[str, str]], lock: str) -> TorchBuildError:
    """The error for a machine that no build fits: the one thing to change comes first."""
    instead = f'or take the CPU build: torch_lock="cpu" ({runbook_line("setup", "--torch-lock", "cpu")}).'
    install = "Install {} from nvidia.com/drivers and restart, " + instead
    if all(problems := [_python_problem(torch, target.python) for torch, _ in order]):
        return TorchBuildError(f"{problems[0]}.", fix="Use one of those; 3.11 is the safe choice.")
    if not target.capabilities:
        floor = _floor(target, "cu126")
        newer = target.driver is not None and _version(target.driver) >= _version(floor)
        driver = "the newest driver" if newer else f"driver {floor} or newer"
        what = f"Driver {target.driver} does not say what compute capability the GPU has."
        return TorchBuildError(what, fix=install.format(driver))
    able = {
        capability: [tag for torch, tag in order if _code_for(capability, _RELEASES[torch].get(tag, ()))]
        for capability in target.capabilities
    }
    best = next((capability for capability in able if able[capability]), target.capabilities[0])
    if not able[best]:
        other = any(_code_for(best, _RELEASES[torch][tag]) for torch, tag in _AUTO)
        first = 'Choose torch_lock="auto", which knows a build for it,' if other else "Use another GPU,"
        what = f"No build of torch ({lock}) has code for a GPU of compute capability {best}."
        return TorchBuildError(what, fix=f"{first} {instead}")
    floor = min((_floor(target, tag) for tag in able[best]), key=_version)
    there = f"{target.driver or 'none'} is installed."
    what = f"The GPU (capability {best}) needs driver {floor} or newer; {there}"
    return TorchBuildError(what, fix=install.format(f"driver {floor} or newer"))


def _python_problem(torch: str, python: str) -> str:
    """Why a torch version does not go with a Python; empty if it does."""
    oldest, newest = _PYTHONS_OF_2_8 if torch == "2.8.0" else _PYTHONS
    fits = _version(oldest) <= _version(python)[:2] <= _version(newest)
    return "" if fits else f"torch {torch} is built for Python {oldest} to {newest}, not for Python {python}"


def _code_for(capability: str, built: Iterable[str]) -> str | None:
    """The best code that runs on a capability: code for X.y runs on X.z where z >= y."""
    major, minor = _version(capability)[:2]
    runs = [code for code in built if _version(code)[0] == major and _version(code)[1] <= minor]
    return max(runs, key=_version, default=None)


def _floor(target: Target, tag: str) -> str:
    """The oldest driver that a tag's builds run with."""
    return _DRIVER_FLOORS[tag[2:4]][target.os]


def _version(text: str) -> tuple[int, ...]:
    """``"560.94"`` as (560, 94); at least two numbers."""
    if not re.fullmatch(r"\d+(\.\d+)*", text):
        fix = 'Give numbers with dots between them, such as "8.6".'
        raise ParameterError(f"{text!r} is not a version.", fix=fix)
    numbers = tuple(map(int, text.split(".")))
    return numbers if len(numbers) > 1 else (*numbers, 0)


@dataclass(frozen=True)
class Choice:
    """The builds weighed for this machine, shown as a table in a notebook."""

    gpus: tuple[Gpu, ...]
    rows: tuple[Candidate, ...]  # what was weighed, best first
    outcome: TorchBuild | TorchBuildError  # the build that fits best, or why none does
    fitting: tuple[TorchBuild, ...] = ()  # every build that fits, best first: what an installation tries

    @property
    def install_line(self) -> str:
        """The line to paste into this system's shell; empty where no build fits."""
        return printable(self.outcome.install_command()) if isinstance(self.outcome, TorchBuild) else ""

    @property
    def _reason(self) -> str:
        return self.outcome.reason if isinstance(self.outcome, TorchBuild) else str(self.outcome)

    def __str__(self) -> str:
        mark = {True: "fits", False: "no"}
        rows = [f"torch {row.torch} {row.tag}: {mark[row.fits]}. {row.why}" for row in self.rows]
        return "\n".join([*rows, self._reason, self.install_line])

    def _repr_html_(self) -> str:
        rows = [(row.torch, row.tag, "✅" if row.fits else "❌", row.why) for row in self.rows]
        table = html_table(("torch", "build", "fits", "why or why not"), rows)
        return f"{table}<p>{html.escape(self._reason)}</p><pre>{html.escape(self.install_line)}</pre>"


def weigh(lock: str = "auto", gpus: Sequence[Gpu] | None = None, python: str | None = None) -> Choice:
    """Weigh the builds for this machine; that none fits is reported in the choice, not raised.

    ``lock`` is as in :func:`choose`; ``gpus`` and ``python`` (its version) are this machine's unless given.

    Raises:
        ParameterError: The lock is of no known form.
    """
    gpus = tuple(detect_gpus() if gpus is None else gpus)
    target = this_machine(gpus, python)
    rows = tuple(candidates(target, lock))
    try:
        builds = tuple(fitting(target, lock))
    except TorchBuildError as error:
        return Choice(gpus, rows, error)
    return Choice(gpus, rows, builds[0], builds)
