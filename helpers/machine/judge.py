"""Step 0: is this machine fit for the rest?

Pure judgements: facts go in (`facts`, `helpers.gpu`), checks come out, each with what was expected, why
it matters, and what to do on this system and in this shell. `doctor` reads the facts and calls this.
Standard library only: it runs before anything is installed.
"""

import re
from collections.abc import Mapping, Sequence

from helpers.commands import set_line, unset_line
from helpers.gpu import Gpu
from helpers.machine.facts import Machine, Place
from helpers.report import Check, Status

PYTHONS = ((3, 10), (3, 13))
"""The oldest and the newest Python that everything here is built for."""

_GIB = 2**30
_MEMORY_NEEDED, _MEMORY_WANTED = 2 * _GIB, 8 * _GIB
# Free bytes that each place must have and should have. An environment with a CPU torch takes 2 GiB, one with
# CUDA 7; pip unpacks in the temporary folder and keeps what it fetched; a suite and its dataset take 1.
_ROOM = {
    "project": (3 * _GIB, 10 * _GIB),
    "outputs": (_GIB // 4, _GIB),
    "temporary": (_GIB // 2, 4 * _GIB),
    "pip_cache": (_GIB // 2, 4 * _GIB),
    "hub_cache": (0, _GIB),
}
# Windows' limit is 260 characters, and the deepest file that torch installs adds 171 to this folder's path
# and ".venv\\Lib\\site-packages".
_LONGEST_ROOT = 260 - 171 - len(r"\.venv\Lib\site-packages" + "\\")
_SYNCED = re.compile(
    r"(?i)^(OneDrive( ?- ?.+)?|Dropbox( \(.+\))?|Google ?Drive|My Drive|iCloud ?Drive|Mobile Documents|"
    r"Nutstore|坚果云|BaiduSyncdisk|Syncthing|Nextcloud|Box)$"
)
NEW_PYTHON = "Install 64-bit Python 3.11 from python.org (anything from 3.10 to 3.13 will do)."
"""What to do about a Python that does not fit."""


def judge_machine(machine: Machine) -> list[Check]:
    """Every judgement that needs neither a GPU, a network nor another program."""
    return [
        judge_python(machine),
        judge_store_python(machine),
        judge_conda(machine),
        judge_processor(machine),
        judge_path(machine),
        judge_folder(machine),
        judge_long_paths(machine),
        *(judge_disk(place, machine) for place in machine.places),
        judge_memory(machine.memory),
        judge_files(machine.places, machine),
        judge_vc_runtime(machine),
        judge_console(machine),
        *judge_variables(machine),
    ]


def judge_python(machine: Machine) -> Check:
    """Whether a Python of this version and word size can run the project."""
    text = f"Python {'.'.join(map(str, machine.version))}, {machine.bits} bits"
    good = PYTHONS[0] <= machine.version[:2] <= PYTHONS[1] and machine.bits == 64
    return Check(
        "python",
        "ok" if good else "fail",
        text,
        "" if good else f"{NEW_PYTHON} Then: {machine.runbook()}",
        expected="Python 3.10 to 3.13, 64 bits",
        why="torch and the other packages are built for these only",
    )


def judge_store_python(machine: Machine) -> Check:
    """Whether ``python`` is Microsoft's Store, or one of its Pythons."""
    expected, why = (
        "a Python from python.org",
        "the Store's alias starts no Python, or one whose files Windows redirects",
    )
    if not machine.windows:
        return Check("store_python", "ok", "only Windows has the Store's Python", "", expected, why)
    aliases = (
        "Click: Settings > Apps > Advanced app settings > App execution aliases, switch python.exe and "
        "python3.exe off; "
    )
    if "windowsapps" in f"{machine.executable} {machine.base}".lower():
        fix = f"{NEW_PYTHON} {aliases}open a new terminal and run: {machine.runbook()}"
        return Check("store_python", "warn", "this is the Store's Python", fix, expected, why)
    if machine.python_command and "windowsapps" in machine.python_command.lower():
        kind = (
            "the Store's Python"
            if machine.python_command_size
            else "the Store's alias, which starts no Python"
        )
        fix = f"{aliases}or write py instead of python: {machine.runbook()}"
        return Check("store_python", "warn", f"`python` on PATH is {kind}", fix, expected, why)
    return Check("store_python", "ok", "neither this Python nor `python` is the Store's", "", expected, why)


def judge_conda(machine: Machine) -> Check:
    """Whether conda and a virtual environment are mixed."""
    expected = "no conda environment active"
    why = "conda puts its own libraries in front of those that torch brings along"
    active = machine.environ.get("CONDA_PREFIX", "")
    if not active:
        return Check("conda", "ok", "no conda environment is active", "", expected, why)
    name = machine.environ.get("CONDA_DEFAULT_ENV") or machine.path(active).name
    mixed = "inside a virtual environment" if machine.virtual else "while a virtual environment is to be used"
    fix = f"Run: conda deactivate    (until the prompt names none), then: {machine.runbook()}"
    return Check("conda", "warn", f"conda environment {name} is active {mixed}", fix, expected, why)


def judge_processor(machine: Machine) -> Check:
    """Whether torch has builds for the processor."""
    expected = "x86-64, or Apple silicon on a Mac"
    why = "torch is built for these; its CUDA builds here are looked up for x86-64"
    text, kind = f"{machine.system} {machine.release}, {machine.processor}", machine.processor.lower()
    if machine.system == "macos" and kind == "x86_64":
        fix = "Use another machine: torch has no current build for Intel Macs."
        return Check("processor", "fail", text, fix, expected, why)
    if kind in ("amd64", "x86_64") or (machine.system == "macos" and kind == "arm64"):
        return Check("processor", "ok", text, "", expected, why)
    fix = "Nothing, if the CPU's speed is enough; a GPU here needs its maker's own build of torch."
    return Check("processor", "warn", text, fix, expected, why)


def judge_path(machine: Machine) -> Check:
    """Whether the folder's path leaves room for what torch installs below it."""
    why = "Windows stops at 260 characters, and the deepest file of torch adds 200 to this path"
    root, limited = machine.root, machine.windows and not machine.long_paths
    expected = f"at most {_LONGEST_ROOT} characters" if limited else "any length, here"
    notes = [f"{len(root)} characters"]
    notes += ["with spaces"] if " " in root else []
    notes += [] if root.isascii() else ["with letters outside ASCII"]
    text = f"{root} ({', '.join(notes)})"
    if limited and len(root) > _LONGEST_ROOT:
        fix = rf"Move this folder to a shorter path such as C:\tw, or turn long paths on: {_LONG_PATHS_ON}"
        return Check("path", "warn", text, fix, expected, why)
    return Check("path", "ok", text, "", expected, why)


def judge_folder(machine: Machine) -> Check:
    """Whether the folder is one that a program copies to other computers, or is on one."""
    expected = "a folder on this computer's own disk that nothing synchronises"
    why = "an environment has 30,000 files: synchronising locks them while they are installed"
    short = r"C:\tw" if machine.windows else "~/tw"
    fix = f"Move this folder to {short}, and there run: {machine.runbook()}"
    root = machine.path(machine.root)
    environ = {name.upper(): value for name, value in machine.environ.items()}
    listed = [environ.get(name, "") for name in ("ONEDRIVE", "ONEDRIVECOMMERCIAL", "ONEDRIVECONSUMER")]
    synced = next((part for part in root.parts if _SYNCED.match(part)), "")
    if not synced and any(root.is_relative_to(machine.path(folder)) for folder in listed if folder):
        synced = "OneDrive"
    if synced:
        return Check("folder", "warn", f"in a folder that {synced} synchronises", fix, expected, why)
    if machine.drive == "network" or machine.root.startswith("\\\\"):
        return Check("folder", "warn", "on a network drive", fix, expected, why)
    if machine.drive == "windows_from_wsl":
        return Check("folder", "warn", "on a Windows disk, seen from WSL", fix, expected, why)
    return Check("folder", "ok", "on this computer's own disk", "", expected, why)


_LONG_PATHS_ON = (
    "in a PowerShell started as administrator run: "
    r"Set-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Control\FileSystem LongPathsEnabled 1"
)


def judge_long_paths(machine: Machine) -> Check:
    """Whether Windows' switch for long paths is on; a short path needs none."""
    expected, why = "on", "with it off, files whose path has more than 260 characters cannot be installed"
    if machine.long_paths is None:
        return Check("long_paths", "ok", f"{machine.system} has no such limit", "", expected, why)
    if machine.long_paths:
        return Check("long_paths", "ok", "long paths are on", "", expected, why)
    if len(machine.root) <= _LONGEST_ROOT:
        return Check("long_paths", "ok", "off, and this folder's path is short enough", "", expected, why)
    fix = f"{_LONG_PATHS_ON[0].upper()}{_LONG_PATHS_ON[1:]}    then restart Windows."
    return Check("long_paths", "warn", "off, and this folder's path is long", fix, expected, why)


def judge_disk(place: Place, machine: Machine) -> Check:
    """Whether a place has the room that it needs."""
    needed, wanted = _ROOM[place.name]
    name, expected = f"disk_{place.name}", f"{wanted / _GIB:.0f} GiB free, at least {needed / _GIB:.2g}"
    why = {
        "project": "the environment is installed here: 2 GiB with torch for the CPU, 7 with CUDA",
        "outputs": "every run leaves its pictures and records here",
        "temporary": "pip unpacks what it fetches here",
        "pip_cache": "pip keeps what it fetched here",
        "hub_cache": "the hub's client keeps its files here",
    }[place.name]
    if place.free is None:
        return Check(
            name, "skip", f"{place.path} does not say how much is free", "Look for yourself.", expected, why
        )
    text = f"{place.free / _GIB:.1f} GiB free at {place.path}"
    if place.free >= wanted:
        return Check(name, "ok", text, "", expected, why)
    clean = "Click: Settings > System > Storage > Temporary files. " if machine.windows else ""
    elsewhere = {
        "temporary": ("TMP" if machine.windows else "TMPDIR"),
        "pip_cache": "PIP_CACHE_DIR",
        "hub_cache": "HF_HOME",
    }.get(place.name)
    folder = r"D:\tmp" if machine.windows else "/path/with/room"
    fix = f"{clean}Free {(wanted - place.free) / _GIB:.1f} GiB there"
    fix += (
        f", or use another disk: {set_line(elsewhere, folder, machine.terminal)}"
        if elsewhere
        else ", or move this folder to another disk."
    )
    # Only what would stop a run here fails: caches can be done without.
    short = place.free < needed and place.name in ("project", "outputs", "temporary")
    return Check(name, "fail" if short else "warn", text, fix, expected, why)


def judge_memory(total: int | None) -> Check:
    """Whether ``total`` bytes of memory are enough; None is a system that does not say."""
    expected, why = "8 GiB, at least 2", "torch, a suite and JupyterLab are held in it"
    if total is None:
        text = "this system does not say how much there is"
        return Check("memory", "skip", text, "At least 8 GiB are best: look for yourself.", expected, why)
    text = f"{total / _GIB:.1f} GiB"
    if total < _MEMORY_NEEDED:
        return Check("memory", "fail", text, "Use another machine, or give this one more.", expected, why)
    if total < _MEMORY_WANTED:
        return Check("memory", "warn", text, "Close other programs while the notebooks run.", expected, why)
    return Check("memory", "ok", text, "", expected, why)


def judge_files(places: Sequence[Place], machine: Machine) -> Check:
    """Whether files can be written, renamed over others, and deleted, wherever that is needed."""
    expected = "a file can be written, renamed over another, and deleted in every folder"
    why = "pip, downloads and runs do all three; antivirus programs and read-only folders forbid it"
    bad = [place for place in places if place.problem]
    if not bad:
        return Check("files", "ok", "write, rename and delete work in every folder", "", expected, why)
    text = "; ".join(f"{place.path}: {place.problem}" for place in bad)
    fix = (
        "Click: Windows Security > Virus & threat protection > Manage ransomware protection > Allow an app "
        "(choose Python), or move this folder out of Documents and Desktop."
        if machine.windows
        else f"Run: chmod u+rwx '{bad[0].path}'    or move this folder to where you may write."
    )
    serious = any(place.name in ("project", "outputs", "temporary") for place in bad)
    return Check("files", "fail" if serious else "warn", text, fix, expected, why)


def judge_vc_runtime(machine: Machine) -> Check:
    """Whether Microsoft's runtime is there."""
    expected = "the Microsoft Visual C++ runtime 2015–2022, x64"
    why = 'without it `import torch` ends in "DLL load failed" or "WinError 126"'
    if not machine.windows:
        return Check("vc_runtime", "ok", "only Windows needs it", "", expected, why)
    if not machine.vc_missing:
        return Check("vc_runtime", "ok", "it is there", "", expected, why)
    fix = "Run: winget install --exact --id Microsoft.VCRedist.2015+.x64    or open https://aka.ms/vs/17/release/vc_redist.x64.exe"
    return Check("vc_runtime", "fail", f"missing: {', '.join(machine.vc_missing)}", fix, expected, why)


def judge_console(machine: Machine) -> Check:
    """Whether the terminal shows every letter."""
    expected = "UTF-8"
    why = "other encodings show ??? for what they lack; files are always written as UTF-8 here"
    page = f", code page {machine.code_page}" if machine.code_page else ""
    text = f"terminal {machine.console}{page}, text files {machine.locale}"
    normal = {name.lower().replace("_", "-") for name in (machine.console,)}
    if normal & {"utf-8", "utf8", "cp65001"}:
        return Check("console", "ok", text, "", expected, why)
    steps = {
        "powershell": "chcp 65001; [Console]::OutputEncoding = [Text.Encoding]::UTF8; ",
        "cmd": "chcp 65001 & ",
        "bash": "export LANG=C.UTF-8; ",
    }[machine.terminal]
    fix = f"Run: {steps}{set_line('PYTHONUTF8', '1', machine.terminal)}"
    return Check("console", "warn", text, fix, expected, why)


# --- environment variables -------------------------------------------------------------------------

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
# Variables that change what is installed or fetched here, and how.
_HARMFUL = {
    "PYTHONPATH": "leads to packages of another place",
    "PYTHONHOME": "leads to another Python's library",
    "PYTHONSTARTUP": "runs code in every interactive Python",
    "PIP_TARGET": "installs outside the environment",
    "PIP_PREFIX": "installs outside the environment",
    "PIP_USER": "installs into the user's home",
    "PIP_NO_INDEX": "lets pip fetch nothing",
    "PIP_NO_DEPS": "leaves out what packages need",
    "PIP_NO_BINARY": "builds packages, which needs a compiler",
    "PIP_PRE": "takes unfinished versions",
    "PIP_CONSTRAINT": "may forbid the versions wanted here",
    "PIP_REQUIRE_HASHES": "refuses whatever has no hash",
    "HF_HUB_OFFLINE": "lets the hub's client fetch nothing",
    "TRANSFORMERS_OFFLINE": "lets the hub's client fetch nothing",
}
_OFF = ("", "0", "false", "no", "off")


def judge_variables(machine: Machine) -> list[Check]:
    """What environment variables change: those of Python, CUDA, pip, the hub, and proxies."""
    environ = {name.upper(): value for name, value in machine.environ.items()}
    return [
        _judge_group(
            "variables_python",
            _named(environ, "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
            "they lead Python to another place's packages; runbook.py clears them for what it starts",
            machine,
        ),
        _judge_cuda_variables(environ, machine),
        _judge_group(
            "variables_pip",
            {name: value for name, value in environ.items() if name.startswith("PIP_")},
            "they decide where pip fetches from and installs to",
            machine,
        ),
        _judge_group(
            "variables_hub",
            {
                name: value
                for name, value in environ.items()
                if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            },
            "they decide where worlds are fetched from, and whether",
            machine,
        ),
        _judge_proxies(environ, machine),
    ]


def _named(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: environ[name] for name in names if environ.get(name)}


def _judge_group(id: str, found: Mapping[str, str], why: str, machine: Machine) -> Check:
    expected = "none that leads astray"
    harmful = {
        name: _HARMFUL[name] for name in found if _HARMFUL.get(name) and found[name].lower() not in _OFF
    }
    names = ", ".join(sorted(found))
    if not harmful:
        return Check(id, "ok", f"set, and harmless: {names}" if names else "none is set", "", expected, why)
    text = "; ".join(f"{name} {what}" for name, what in sorted(harmful.items()))
    return Check(id, "warn", text, f"Run: {unset_line(sorted(harmful), machine.terminal)}", expected, why)


def _judge_cuda_variables(environ: Mapping[str, str], machine: Machine) -> Check:
    expected, why = "CUDA_VISIBLE_DEVICES not set", "it hides GPUs from torch: is_available() is then False"
    value = environ.get("CUDA_VISIBLE_DEVICES")
    fix = f"Run: {unset_line(['CUDA_VISIBLE_DEVICES'], machine.terminal)}"
    if value is None:
        return Check("variables_cuda", "ok", "CUDA_VISIBLE_DEVICES is not set", "", expected, why)
    if value.strip() in ("", "-1", "none", "None", "NoDevFiles"):
        text = f"CUDA_VISIBLE_DEVICES is {value!r}, which hides every GPU"
        return Check("variables_cuda", "warn", text, fix, expected, why)
    return Check("variables_cuda", "ok", f"CUDA_VISIBLE_DEVICES lets torch see {value}", "", expected, why)


def _judge_proxies(environ: Mapping[str, str], machine: Machine) -> Check:
    expected, why = "none, or the one that your network demands", "every download goes through it"
    found = _named(environ, *_PROXIES)
    proxies = {name: value for name, value in found.items() if name != "NO_PROXY"}
    if not proxies:
        return Check("variables_proxy", "ok", "no proxy is set", "", expected, why)
    wrong = [
        name for name, value in proxies.items() if not re.match(r"(?i)(https?|socks[45]h?)://[^/\s]+", value)
    ]
    text = ", ".join(f"{name}={value}" for name, value in sorted(found.items()))
    if not wrong:
        return Check("variables_proxy", "ok", text, "", expected, why)
    example = set_line(wrong[0], "http://HOST:PORT", machine.terminal)
    fix = f"Run: {example}    or: {unset_line(wrong, machine.terminal)}"
    return Check(
        "variables_proxy", "warn", f"{text}: {wrong[0]} is no address of a proxy", fix, expected, why
    )


# --- GPUs ------------------------------------------------------------------------------------------


def judge_gpus(machine: Machine, gpus: Sequence[Gpu], problem: str) -> list[Check]:
    """What ``nvidia-smi`` found: the checks ``gpu`` and ``gpu_mode``. No GPU is a warning."""
    expected, why = (
        "an NVIDIA GPU with 4 GiB or more",
        "it is many times faster than the CPU; everything runs without one too",
    )
    mode_why = "TCC and WDDM both work; a GPU split by MIG shows torch one instance only"
    if not gpus:
        fix = (
            "Nothing, if there is no NVIDIA GPU; else install its driver: open "
            "https://www.nvidia.com/drivers and restart."
        )
        text = f"no NVIDIA GPU: {problem}. Everything runs on the CPU"
        none = Check("gpu_mode", "ok", "no GPU, no mode", "", "not split by MIG", mode_why)
        return [Check("gpu", "warn", text, fix, expected, why), none]
    seen = "; ".join(
        f"{gpu.name}, driver {gpu.driver or 'unknown'}, capability {gpu.capability or 'unknown'}, "
        f"{gpu.memory_mib or 'unknown'} MiB"
        for gpu in gpus
    )
    small = any(gpu.memory_mib and gpu.memory_mib < 3500 for gpu in gpus)
    fix = 'Nothing for 64×64 worlds; if memory runs out, set device = "cpu" in 05_infer.'
    status: Status = "warn" if small and len(gpus) == 1 else "ok"
    modes = "; ".join(
        f"{gpu.name}: {gpu.driver_model or machine.system}{', MIG' if gpu.mig else ''}" for gpu in gpus
    )
    split = any(gpu.mig for gpu in gpus)
    instance = set_line("CUDA_VISIBLE_DEVICES", "MIG-…", machine.terminal)
    mode_fix = f"Run: nvidia-smi -L    and choose an instance: {instance}"
    return [
        Check("gpu", status, seen, fix if status != "ok" else "", expected, why),
        Check(
            "gpu_mode",
            "warn" if split else "ok",
            modes,
            mode_fix if split else "",
            "not split by MIG",
            mode_why,
        ),
    ]


def judge_nvml(names: Sequence[str], problem: str, gpus: Sequence[Gpu]) -> Check:
    """What NVML found beside ``nvidia-smi``; it is what records a run's use of the GPU."""
    expected, why = "NVML answers where there is a GPU", "it records what the GPU does during a run"
    if names:
        return Check("nvml", "ok", "; ".join(names), "", expected, why)
    if not gpus:
        return Check("nvml", "ok", f"{problem}: nothing to record", "", expected, why)
    fix = "Run 03_deps, which installs nvidia-ml-py; then run this again."
    return Check("nvml", "warn", problem, fix, expected, why)
