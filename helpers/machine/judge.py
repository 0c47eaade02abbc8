"""00: is this machine fit for the rest?

Pure judgements: facts go in (`facts`, `helpers.gpu`), checks come out, each with what to do on this system
and in this shell. `doctor` reads the facts and calls this. Standard library only: nothing is installed yet.
"""

import re
from collections.abc import Sequence

from helpers import PYTHON_RANGE, PYTHONS
from helpers.commands import set_line, unset_line
from helpers.gpu import Gpu
from helpers.machine.facts import Machine, Place
from helpers.report import Check, Subject

_GIB = 2**30
# For each place: the GiB that must and that should be free, and what takes them.
_ROOM = {
    "project": (3, 10, "the environment is installed here: 2 GiB with torch for the CPU, 7 with CUDA"),
    "outputs": (0.25, 1, "every run leaves its pictures and records here"),
    "temporary": (0.5, 4, "pip unpacks what it fetches here"),
    "pip_cache": (0.5, 4, "pip keeps what it fetched here"),
    "hub_cache": (0, 1, "the hub's client keeps its files here: 1 GiB for a suite and its dataset"),
}
_NEEDED = ("project", "outputs", "temporary")
"""The places without which nothing runs."""
# Windows' limit is 260 characters, and the deepest file that torch installs adds 171 to this folder's path
# and ".venv\\Lib\\site-packages".
_LONGEST_ROOT = 260 - 171 - len(r"\.venv\Lib\site-packages" + "\\")
_SYNCED = re.compile(
    r"(?i)^(OneDrive( ?- ?.+)?|Dropbox( \(.+\))?|Google ?Drive|My Drive|iCloud ?Drive|Mobile Documents|"
    r"Nutstore|坚果云|BaiduSyncdisk|Syncthing|Nextcloud|Box)$"
)
_LONG_PATHS_ON = (
    "in a PowerShell started as administrator run: "
    r"Set-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Control\FileSystem LongPathsEnabled 1"
)
NEW_PYTHON = f"Install 64-bit Python 3.11 from python.org (any of {PYTHON_RANGE} works)."
"""What to do about a Python that does not fit."""

PYTHON = Subject("python", f"Python {PYTHON_RANGE}, 64 bits", "torch and others are built for these only")
STORE_PYTHON = Subject("store_python", "one from python.org", "the Store's starts none or redirects files")
CONDA = Subject("conda", "no conda environment active", "conda puts its own libraries in front of torch's")
PROCESSOR = Subject("processor", "x86-64, or Apple silicon", "torch is built for these, for CUDA on x86-64")
FOLDER = Subject(
    "folder", "this computer's own disk, not synchronised", "synchronising locks 30,000 files during setup"
)
LONG_PATHS = Subject("long_paths", "on", "with it off, paths over 260 characters cannot be installed")
MEMORY = Subject("memory", "8 GiB, at least 2", "torch, a suite and JupyterLab are held in it")
FILES = Subject(
    "files",
    "a file can be written, renamed over another, and deleted in every folder",
    "pip, downloads and runs do all three; antivirus programs and read-only folders forbid it",
)
VC_RUNTIME = Subject(
    "vc_runtime",
    "the Microsoft Visual C++ runtime 2015–2022, x64",
    'without it `import torch` ends in "DLL load failed" or "WinError 126"',
)
CONSOLE = Subject("console", "UTF-8", "others show ??? for what they lack; files are always UTF-8 here")
CUDA = Subject("variables_cuda", "CUDA_VISIBLE_DEVICES not set", "it hides GPUs: is_available() is False")
PROXIES = Subject("variables_proxy", "none, or your network's own", "every download goes through it")
GPU = Subject("gpu", "an NVIDIA GPU with 4 GiB or more", "the CPU works as well, many times slower")
GPU_MODE = Subject("gpu_mode", "no MIG", "torch sees one part of a split GPU only; TCC and WDDM both work")
NVML = Subject("nvml", "NVML answers where there is a GPU", "it records what the GPU does during a run")


def judge_machine(machine: Machine) -> list[Check]:
    """Every judgement that needs neither a GPU, a network nor another program."""
    return [
        _judge_python(machine),
        _judge_store_python(machine),
        _judge_conda(machine),
        _judge_processor(machine),
        _judge_path(machine),
        _judge_folder(machine),
        _judge_long_paths(machine),
        *(_judge_disk(place, machine) for place in machine.places),
        _judge_memory(machine.memory),
        _judge_files(machine.places, machine),
        _judge_vc_runtime(machine),
        _judge_console(machine),
        *(_judge_variables(group, machine) for group in _GROUPS),
        _judge_cuda_variable(machine),
        _judge_proxies(machine),
    ]


def _judge_python(machine: Machine) -> Check:
    text = f"Python {'.'.join(map(str, machine.version))}, {machine.bits} bits"
    if ".".join(map(str, machine.version[:2])) in PYTHONS and machine.bits == 64:
        return PYTHON.ok(text)
    return PYTHON.fail(text, f"{NEW_PYTHON} Then: {machine.runbook()}")


def _judge_store_python(machine: Machine) -> Check:
    if not machine.windows:
        return STORE_PYTHON.ok("only Windows has the Store's Python")
    aliases = "Click: Settings > Apps > Advanced app settings > App execution aliases, switch Python off; "
    if "windowsapps" in f"{machine.executable} {machine.base}".lower():
        fix = f"{NEW_PYTHON} {aliases}open a new terminal and run: {machine.runbook()}"
        return STORE_PYTHON.warn("this is the Store's Python", fix)
    if "windowsapps" in (machine.python_command or "").lower():
        kind = "Python" if machine.python_command_size else "alias, which starts no Python"
        fix = f"{aliases}or write py instead of python: {machine.runbook()}"
        return STORE_PYTHON.warn(f"`python` on PATH is the Store's {kind}", fix)
    return STORE_PYTHON.ok("neither this Python nor `python` is the Store's")


def _judge_conda(machine: Machine) -> Check:
    active = machine.environ.get("CONDA_PREFIX", "")
    if not active:
        return CONDA.ok("no conda environment is active")
    name = machine.environ.get("CONDA_DEFAULT_ENV") or machine.path(active).name
    mixed = "inside a virtual environment" if machine.virtual else "while a virtual environment is to be used"
    fix = f"Run: conda deactivate    (until the prompt names none), then: {machine.runbook()}"
    return CONDA.warn(f"conda environment {name} is active {mixed}", fix)


def _judge_processor(machine: Machine) -> Check:
    text, kind = f"{machine.system} {machine.release}, {machine.processor}", machine.processor.lower()
    if machine.system == "macos" and kind == "x86_64":
        return PROCESSOR.fail(text, "Use another machine: torch has no current build for Intel Macs.")
    if kind in ("amd64", "x86_64") or (machine.system == "macos" and kind == "arm64"):
        return PROCESSOR.ok(text)
    fix = "Nothing, if the CPU's speed is enough; a GPU here needs its maker's own build of torch."
    return PROCESSOR.warn(text, fix)


def _judge_path(machine: Machine) -> Check:
    root, limited = machine.root, machine.windows and not machine.long_paths
    expected = f"at most {_LONGEST_ROOT} characters" if limited else "any length, here"
    path = Subject("path", expected, "Windows stops at 260 characters; files of torch add 200 to this path")
    notes = [f"{len(root)} characters", *(["with spaces"] if " " in root else [])]
    notes += [] if root.isascii() else ["with letters outside ASCII"]
    text = f"{root} ({', '.join(notes)})"
    if limited and len(root) > _LONGEST_ROOT:
        fix = rf"Move this folder to a shorter path such as C:\tw, or turn long paths on: {_LONG_PATHS_ON}"
        return path.warn(text, fix)
    return path.ok(text)


def _judge_folder(machine: Machine) -> Check:
    short = r"C:\tw" if machine.windows else "~/tw"
    fix = f"Move this folder to {short}, and there run: {machine.runbook()}"
    root, environ = machine.path(machine.root), machine.variables
    onedrives = [environ.get(f"ONEDRIVE{kind}") for kind in ("", "COMMERCIAL", "CONSUMER")]
    inside = any(root.is_relative_to(machine.path(folder)) for folder in onedrives if folder)
    named = next((part for part in root.parts if _SYNCED.match(part)), "")
    if synced := named or ("OneDrive" if inside else ""):
        return FOLDER.warn(f"in a folder that {synced} synchronises", fix)
    if machine.drive == "network" or machine.root.startswith("\\\\"):
        return FOLDER.warn("on a network drive", fix)
    if machine.drive == "windows_from_wsl":
        return FOLDER.warn("on a Windows disk, seen from WSL", fix)
    return FOLDER.ok("on this computer's own disk")


def _judge_long_paths(machine: Machine) -> Check:
    if machine.long_paths is None:
        return LONG_PATHS.ok(f"{machine.system} has no such limit")
    if machine.long_paths:
        return LONG_PATHS.ok("long paths are on")
    if len(machine.root) <= _LONGEST_ROOT:
        return LONG_PATHS.ok("off, and this folder's path is short enough")
    fix = f"{_LONG_PATHS_ON[0].upper()}{_LONG_PATHS_ON[1:]}    then restart Windows."
    return LONG_PATHS.warn("off, and this folder's path is long", fix)


def _judge_disk(place: Place, machine: Machine) -> Check:
    needed, wanted, why = _ROOM[place.name]
    disk = Subject(f"disk_{place.name}", f"{wanted} GiB free, at least {needed}", why)
    if place.free is None:
        return disk.skip(f"{place.path} does not say how much is free", "Look for yourself.")
    free = place.free / _GIB
    text = f"{free:.1f} GiB free at {place.path}"
    if free >= wanted:
        return disk.ok(text)
    clean, temporary, folder = "", "TMPDIR", "/path/with/room"
    if machine.windows:
        clean, temporary, folder = "Click: Settings > System > Storage > Temporary files. ", "TMP", r"D:\tmp"
    variables = {"temporary": temporary, "pip_cache": "PIP_CACHE_DIR", "hub_cache": "HF_HOME"}
    other = "move this folder to another disk."
    if variable := variables.get(place.name):
        other = f"use another disk: {set_line(variable, folder, machine.terminal)}"
    fix = f"{clean}Free {wanted - free:.1f} GiB there, or {other}"
    # Only what would stop a run here fails: caches can be done without.
    return disk.fail(text, fix) if free < needed and place.name in _NEEDED else disk.warn(text, fix)


def _judge_memory(total: int | None) -> Check:
    if total is None:
        return MEMORY.skip("this system does not say", "At least 8 GiB are best: look for yourself.")
    text = f"{total / _GIB:.1f} GiB"
    if total < 2 * _GIB:
        return MEMORY.fail(text, "Use another machine, or give this one more.")
    if total < 8 * _GIB:
        return MEMORY.warn(text, "Close other programs while the notebooks run.")
    return MEMORY.ok(text)


def _judge_files(places: Sequence[Place], machine: Machine) -> Check:
    bad = [place for place in places if place.problem]
    if not bad:
        return FILES.ok("write, rename and delete work in every folder")
    text = "; ".join(f"{place.path}: {place.problem}" for place in bad)
    fix = f"Run: chmod u+rwx '{bad[0].path}'    or move this folder to where you may write."
    if machine.windows:
        fix = (
            "Click: Windows Security > Virus & threat protection > Manage ransomware protection > Allow an "
            "app (choose Python), or move this folder out of Documents and Desktop."
        )
    serious = any(place.name in _NEEDED for place in bad)
    return FILES.fail(text, fix) if serious else FILES.warn(text, fix)


def _judge_vc_runtime(machine: Machine) -> Check:
    if not machine.vc_missing:
        return VC_RUNTIME.ok("it is there" if machine.windows else "only Windows needs it")
    fix = "Run: winget install --exact --id Microsoft.VCRedist.2015+.x64    or open https://aka.ms/vs/17/release/vc_redist.x64.exe"
    return VC_RUNTIME.fail(f"missing: {', '.join(machine.vc_missing)}", fix)


def _judge_console(machine: Machine) -> Check:
    page = f", code page {machine.code_page}" if machine.code_page else ""
    text = f"terminal {machine.console}{page}, text files {machine.locale}"
    if machine.console.lower().replace("_", "-") in ("utf-8", "utf8", "cp65001"):
        return CONSOLE.ok(text)
    steps = {
        "powershell": "chcp 65001; [Console]::OutputEncoding = [Text.Encoding]::UTF8; ",
        "cmd": "chcp 65001 & ",
        "bash": "export LANG=C.UTF-8; ",
    }[machine.terminal]
    return CONSOLE.warn(text, f"Run: {steps}{set_line('PYTHONUTF8', '1', machine.terminal)}")


# Variables that change what is installed or fetched here, and how.
_HARMFUL = {
    "PYTHONPATH": "leads to packages of another place",
    "PYTHONHOME": "leads to another Python's library",
    "PYTHONSTARTUP": "runs code in every interactive Python",
    **dict.fromkeys(("PIP_TARGET", "PIP_PREFIX"), "installs outside the environment"),
    "PIP_USER": "installs into the user's home",
    "PIP_NO_INDEX": "lets pip fetch nothing",
    "PIP_NO_DEPS": "leaves out what packages need",
    "PIP_NO_BINARY": "builds packages, which needs a compiler",
    "PIP_PRE": "takes unfinished versions",
    "PIP_CONSTRAINT": "may forbid the versions wanted here",
    "PIP_REQUIRE_HASHES": "refuses whatever has no hash",
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "lets the hub's client fetch nothing"),
}
# Variables by how their names begin, and what they do.
_GROUPS = {
    "python": ("PYTHON(PATH|HOME|STARTUP)", "they lead to another place's packages; runbook.py clears them"),
    "pip": ("PIP_", "they decide where pip fetches from and installs to"),
    "hub": ("HF_|HUGGING|TRANSFORMERS_", "they decide where worlds are fetched from, and whether"),
}


def _judge_variables(group: str, machine: Machine) -> Check:
    environ, (begins, why) = machine.variables, _GROUPS[group]
    subject = Subject(f"variables_{group}", "none that leads astray", why)
    names = sorted(name for name, value in environ.items() if value and re.match(begins, name))
    off = ("0", "false", "no", "off")
    harmful = [name for name in names if name in _HARMFUL and environ[name].lower() not in off]
    if harmful:
        text = "; ".join(f"{name} {_HARMFUL[name]}" for name in harmful)
        return subject.warn(text, f"Run: {unset_line(harmful, machine.terminal)}")
    return subject.ok(f"set, and harmless: {', '.join(names)}" if names else "none is set")


def _judge_cuda_variable(machine: Machine) -> Check:
    value = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return CUDA.ok("CUDA_VISIBLE_DEVICES is not set")
    if value.strip() in ("", "-1", "none", "None", "NoDevFiles"):
        text = f"CUDA_VISIBLE_DEVICES is {value!r}, which hides every GPU"
        return CUDA.warn(text, f"Run: {unset_line(['CUDA_VISIBLE_DEVICES'], machine.terminal)}")
    return CUDA.ok(f"CUDA_VISIBLE_DEVICES lets torch see {value}")


def _judge_proxies(machine: Machine) -> Check:
    environ, names = machine.variables, ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
    proxies = {name: environ[name] for name in names if environ.get(name)}
    if not proxies:
        return PROXIES.ok("no proxy is set")
    text = ", ".join(f"{name}={environ[name]}" for name in (*proxies, "NO_PROXY") if environ.get(name))
    address = re.compile(r"(?i)(https?|socks[45]h?)://[^/\s]+")
    wrong = [name for name, value in proxies.items() if not address.match(value)]
    if not wrong:
        return PROXIES.ok(text)
    example = set_line(wrong[0], "http://HOST:PORT", machine.terminal)
    fix = f"Run: {example}    or: {unset_line(wrong, machine.terminal)}"
    return PROXIES.warn(f"{text}: {wrong[0]} is no address of a proxy", fix)


def judge_gpus(machine: Machine, gpus: Sequence[Gpu], problem: str) -> list[Check]:
    """What ``nvidia-smi`` reported: the checks ``gpu`` and ``gpu_mode``. No GPU is a warning."""
    if not gpus:
        fix = "Nothing without an NVIDIA GPU; else open https://www.nvidia.com/drivers, install and restart."
        text = f"no NVIDIA GPU: {problem}. Everything runs on the CPU"
        return [GPU.warn(text, fix), GPU_MODE.ok("no GPU, no mode")]
    text = "; ".join(
        f"{gpu.name}, driver {gpu.driver or 'unknown'}, capability {gpu.capability or 'unknown'}, "
        f"{gpu.memory_mib or 'unknown'} MiB"
        for gpu in gpus
    )
    modes = "; ".join(
        f"{gpu.name}: {gpu.driver_model or machine.system}{', MIG' if gpu.mig else ''}" for gpu in gpus
    )
    size, mode = GPU.ok(text), GPU_MODE.ok(modes)
    if len(gpus) == 1 and (gpus[0].memory_mib or 3500) < 3500:
        fix = 'Nothing for 64×64 worlds; if memory runs out, set device = "cpu" in 05_infer.'
        size = GPU.warn(text, fix)
    if any(gpu.mig for gpu in gpus):
        instance = set_line("CUDA_VISIBLE_DEVICES", "MIG-…", machine.terminal)
        mode = GPU_MODE.warn(modes, f"Run: nvidia-smi -L    and choose an instance: {instance}")
    return [size, mode]


def judge_nvml(names: Sequence[str], problem: str, gpus: Sequence[Gpu]) -> Check:
    """What NVML reported beside ``nvidia-smi``; it is what records a run's use of the GPU."""
    if names:
        return NVML.ok("; ".join(names))
    if not gpus:
        return NVML.ok(f"{problem}: nothing to record")
    return NVML.warn(problem, "Run 03_deps, which installs nvidia-ml-py; then run this again.")
