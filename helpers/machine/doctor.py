"""`python runbook.py doctor`: everything that can stand between a machine and a played world, judged.

Stands before the steps and asks each of them. Facts that take time (nvidia-smi, the network, a kernel, pip,
checksums) are read side by side, and what does not answer within the budget is skipped with that reason;
``--deep`` waits for it. Standard library only: where there is no environment yet, what needs one is skipped.
What leaves this module is redacted.
"""

import argparse
import configparser
import json
import os
import platform
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from helpers.commands import Shell, child_environment, set_line
from helpers.errors import OutputError, ParameterError, TorchBuildError
from helpers.file_kind import impostor
from helpers.gpu import read_nvidia_smi, read_nvml
from helpers.machine import judge
from helpers.machine.facts import Machine, read_machine
from helpers.machine.redact import Private, redact
from helpers.report import Check, Status, Verdict
from helpers.run_folder import ROOT
from helpers.torch_build import builds
from helpers.torch_build.builds import TorchBuild
from helpers.torch_build.probe import cuda_of, installed_version, site_packages, verify
from helpers.worlds import KINDS, WORLDS, World, world

SCHEMA = 1
QUICK, PATIENT, DEEP = 2.0, 8.0, 180.0
"""Seconds that what takes time may take: in a terminal, in 00_check, and with ``--deep``."""
_HUB = "https://huggingface.co"
_PYPI = "https://pypi.org/simple"


@dataclass(frozen=True)
class Environment:
    """The Python that the notebooks run in, seen from outside.

    Args:
        python: Its program; None where nothing is set up.
        packages: Its site-packages folder.
        own: Whether it is the project's own ``.venv``.
        version: Its Python version, as ``pyvenv.cfg`` says.
        home: The installation it was made from.
        home_exists: Whether that is still there.
        complete: Whether the last setup went through.
    """

    python: str | None
    packages: Path | None
    own: bool = True
    version: str = ""
    home: str = ""
    home_exists: bool = True
    complete: bool = False


@dataclass(frozen=True)
class Answer:
    """What an address answered.

    Args:
        url: The address that was asked.
        status: The HTTP status; None where no answer came.
        landed: The address after redirections.
        problem: Why no answer came.
    """

    url: str
    status: int | None = None
    landed: str = ""
    problem: str = ""


class Late:
    """Stands for a fact that was not there in time."""


def diagnose(root: Path = ROOT, dataset: str = "demo", seconds: float = QUICK) -> list[Check]:
    """Examine everything.

    Args:
        root: The repository's folder.
        dataset: The world whose files are looked at.
        seconds: How long to wait for what takes time; what comes later is skipped.

    Returns:
        The checks, in the order of the steps they belong to. Nothing is redacted yet.

    Raises:
        ParameterError: There is no such world.
    """
    chosen = world(dataset)
    environment = find_environment(root)
    machine = read_machine(root)
    facts = gather(_slow_facts(environment, machine, chosen, root, seconds), seconds)
    return [
        *judge.judge_machine(machine),
        *_judged(facts, "gpus", machine, lambda gpus: judge.judge_gpus(machine, *gpus), "gpu"),
        *_judged(
            facts, "nvml", machine, lambda nvml: [judge.judge_nvml(nvml[0], nvml[1], _gpus(facts))], "nvml"
        ),
        judge_environment(environment, machine),
        judge_pip(environment, machine),
        *judge_torch(facts, environment, machine),
        *_judged(facts, "pip_check", machine, lambda done: [judge_pip_check(done, machine)], "pip_check"),
        *_judged(
            facts, "index", machine, lambda answer: [judge_index(answer, environment, machine)], "index"
        ),
        *_judged(
            facts, "torch_index", machine, lambda answer: [judge_torch_index(answer, machine)], "torch_index"
        ),
        *_judged(facts, "hub", machine, lambda answer: [judge_hub(answer, chosen, machine)], "hub"),
        *judge_assets(chosen, root, machine),
        *_judged(
            facts, "assets", machine, lambda done: [judge_checksums(done, chosen, machine)], "checksums"
        ),
        *_judged(facts, "encoder", machine, lambda done: [judge_encoder(done, machine)], "encoder"),
        judge_outputs(machine),
    ]


def check_everything(root: Path = ROOT, dataset: str = "demo") -> list[Check]:
    """The checks for 00_check: a fault that a later notebook mends is a warning there, not a stop."""
    here = {"python", "store_python", "conda", "processor", "files", "vc_runtime", "memory", "disk_project"}
    here |= {"disk_outputs", "disk_temporary", "outputs"}
    private = Private.here()
    return [
        replace(each, status="warn") if each.status == "fail" and each.id not in here else each
        for each in (redacted(found, private) for found in diagnose(root, dataset, PATIENT))
    ]


def redacted(found: Check, private: Private) -> Check:
    """A check that tells nobody who the user is."""
    return replace(
        found,
        observed=redact(found.observed, private),
        expected=redact(found.expected, private),
        why=redact(found.why, private),
        fix=redact(found.fix, private),
    )


# --- reading ---------------------------------------------------------------------------------------


def _slow_facts(
    environment: Environment, machine: Machine, chosen: World, root: Path, budget: float
) -> dict[str, Callable[[], Any]]:
    """What takes time to read, by name; each ends by itself within the budget."""
    tasks: dict[str, Callable[[], Any]] = {
        "gpus": lambda: read_nvidia_smi(budget),
        "nvml": read_nvml,
        "index": lambda: ask(f"{index_address(machine)}/pip/", machine, budget),
        "torch_index": lambda: ask(f"{builds.INDEX}/cpu/torch/", machine, budget),
        "hub": lambda: ask(hub_address(machine), machine, budget),
    }
    if environment.python:
        python = environment.python
        tasks["torch"] = lambda: verify(python, budget)
        tasks["pip_check"] = lambda: _run([python, "-m", "pip", "check"], root, budget)
        tasks["encoder"] = lambda: _run([python, "-c", _ENCODE], root, budget)
        tasks["assets"] = lambda: _run([python, "-c", _HASH, chosen.name, str(root)], root, budget)
    return tasks


def gather(tasks: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Read facts side by side.

    Args:
        tasks: What reads each.
        seconds: How long to wait for all of them.

    Returns:
        Each fact by its name: what was read, the error that was raised, or ``Late``.
    """
    found: dict[str, Any] = {}

    def read(name: str, task: Callable[[], Any]) -> None:
        try:
            found[name] = task()
        except Exception as error:
            found[name] = error  # a broken probe must not hide what the others found

    # Daemons: a name server that never answers must not keep the program from ending.
    threads = [threading.Thread(target=read, args=each, daemon=True) for each in tasks.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds + 0.2
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: found.get(name, Late()) for name in tasks}


def _run(command: Sequence[str], root: Path, timeout: float) -> subprocess.CompletedProcess[str] | Late:
    try:
        return subprocess.run(
            command,
            cwd=root,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Late()


# Writes a real video and reads it back, as 05_infer does.
_ENCODE = """
import pathlib, tempfile
import numpy as np
from helpers.pictures import write_video
frames = np.arange(4 * 16 * 16 * 3, dtype=np.uint8).reshape(4, 16, 16, 3)
with tempfile.TemporaryDirectory() as folder:
    result = write_video(frames, pathlib.Path(folder) / "probe.mp4", 4)
print(result.codec, result.note)
"""
# Looks at every part of a world as 04_assets does.
_HASH = """
import json, pathlib, sys
from helpers.assets.fetch import describe_assets, find_suite, recorded_checksums
from helpers.errors import RunbookError
from helpers.worlds import world
name, root = sys.argv[1], pathlib.Path(sys.argv[2])
try:
    checks = describe_assets(find_suite(name, root), recorded_checksums(world(name), root))
    print(json.dumps([[check.id, check.status, check.observed] for check in checks]))
except RunbookError as error:
    print(json.dumps([["suite", "fail", str(error)]]))
"""


def find_environment(root: Path) -> Environment:
    """The project's own environment, or the one that this Python is of."""
    venv = root / ".venv"
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if sys.prefix == sys.base_prefix or not installed_version(builds.this_packages(), "ipykernel"):
            return Environment(None, None)
        return Environment(sys.executable, builds.this_packages(), own=False, complete=True)
    values = dict(re.findall(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    try:
        stamp = json.loads((venv / "runbook.json").read_text(encoding="utf-8"))
        complete = bool(stamp.get("key"))
    except (OSError, ValueError, AttributeError):
        complete = False
    return Environment(
        python=str(python) if python.exists() else None,
        packages=site_packages(venv),
        version=str(values.get("version") or values.get("version_info") or ""),
        home=values.get("home", ""),
        home_exists=Path(values.get("home", "")).is_dir(),
        complete=complete,
    )


def index_address(machine: Machine) -> str:
    """Where pip looks for packages: by its variables, its configuration files, or PyPI."""
    environ = {name.upper(): value for name, value in machine.environ.items()}
    home = Path("~").expanduser()
    files = [
        Path(environ.get("PROGRAMDATA", r"C:\ProgramData")) / "pip" / "pip.ini",
        Path("/etc/pip.conf"),
        Path("/etc/xdg/pip/pip.conf"),
        Path(environ.get("APPDATA", str(home / "AppData" / "Roaming"))) / "pip" / "pip.ini",
        home / ".pip" / "pip.conf",
        home / ".config" / "pip" / "pip.conf",
        Path(environ.get("PIP_CONFIG_FILE") or os.devnull),
    ]
    parser = configparser.RawConfigParser(strict=False)
    for file in files:
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeError):
            continue  # pip itself says what is wrong with it
    configured = parser.get("install", "index-url", fallback=parser.get("global", "index-url", fallback=""))
    return (environ.get("PIP_INDEX_URL") or configured or _PYPI).strip().rstrip("/")


def hub_address(machine: Machine) -> str:
    """The hub, or the mirror that HF_ENDPOINT names."""
    return (machine.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def ask(url: str, machine: Machine, timeout: float) -> Answer:
    """Ask an address for its first bytes, through the proxy that the system names."""
    certificates = next((machine.environ[name] for name in _CERTIFICATES if machine.environ.get(name)), None)
    try:
        context = ssl.create_default_context(cafile=certificates)
        request = urllib.request.Request(url, headers={"User-Agent": "tinyworlds-runbook-doctor"})
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return Answer(url, answer.status or 200, answer.url)  # a file has no status
    except urllib.error.HTTPError as error:
        error.close()
        return Answer(url, error.code, error.url or url)
    except (OSError, ValueError) as error:
        return Answer(url, problem=str(getattr(error, "reason", "") or error))


_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


# --- judging ---------------------------------------------------------------------------------------

_EXPECTED = {
    "gpu": ("an NVIDIA GPU", "it is many times faster than the CPU"),
    "nvml": ("NVML answers", "it records what the GPU does during a run"),
    "pip_check": (
        "no package lacks what it needs",
        "a broken package fails later, and with a stranger message",
    ),
    "index": ("the package index answers", "setup fetches packages from it"),
    "torch_index": ("PyTorch's index answers", "the builds of torch for a GPU are only there"),
    "hub": ("the hub or its mirror answers", "worlds other than the embedded one are fetched from it"),
    "checksums": (
        "files are what they were when they were fetched",
        "a damaged file plays nonsense, or not at all",
    ),
    "encoder": ("H.264 is written and read back", "05_infer saves an MP4; without it, a GIF and PNG files"),
    "torch_choice": ("a build that fits GPU and driver", "the GPUs decide which build of torch fits"),
    "torch_build": ("a build that fits GPU and driver", "the GPUs decide which build of torch fits"),
    "torch_gpu": (
        "is_available()=True where there is an NVIDIA GPU",
        "without it everything runs on the CPU",
    ),
    "torch_kernel": ("a matrix product in a fresh process", "only a kernel proves that torch computes"),
}


def _judged(
    facts: Mapping[str, Any],
    name: str,
    machine: Machine,
    judge: Callable[[Any], list[Check]],
    id: str,
) -> list[Check]:
    """What ``judge`` makes of a fact, or why there is none."""
    fact = facts.get(name)
    expected, why = _EXPECTED[id]
    if name not in facts:
        text = "nothing is set up yet that could be looked at"
        return [Check(id, "skip", text, f"Run: {machine.runbook('setup')}", expected, why)]
    if isinstance(fact, Late):
        fix = f"Run: {machine.runbook('doctor', '--deep')}"
        return [Check(id, "skip", "no answer in time", fix, expected, why)]
    if isinstance(fact, Exception):
        text = f"could not be looked at ({type(fact).__name__}: {fact})"
        return [
            Check(
                id,
                "skip",
                text,
                f"Run: {machine.runbook('doctor', '--bundle')}    and report this",
                expected,
                why,
            )
        ]
    return judge(fact)


def _gpus(facts: Mapping[str, Any]) -> Any:
    fact = facts.get("gpus")
    return fact[0] if isinstance(fact, tuple) else []


def judge_environment(environment: Environment, machine: Machine) -> Check:
    """The project's environment: is it there, whole, and is its Python still there?"""
    expected, why = (
        ".venv, made by runbook.py and complete",
        "everything runs in it, apart from the rest of the system",
    )
    setup = f"Run: {machine.runbook('setup')}"

    def result(status: Status, text: str, fix: str = "") -> Check:
        return Check("environment", status, text, fix, expected, why)

    if not environment.own:
        return result("ok", "another environment, the one that this Python is of")
    if environment.python is None and not environment.home:
        return result("skip", "there is no .venv yet", setup)
    if environment.python is None or not environment.home_exists:
        remove = {
            "powershell": "Remove-Item -Recurse -Force .venv; ",
            "cmd": "rmdir /s /q .venv & ",
            "bash": "rm -r .venv; ",
        }
        text = f"the Python it was made from is gone: {environment.home or 'unknown'}"
        return result("fail", text, f"Run: {remove[machine.terminal]}{machine.runbook('setup')}")
    if "conda" in environment.home.lower() or "windowsapps" in environment.home.lower():
        return result(
            "warn", f"made from {environment.home}", f"{judge.NEW_PYTHON} Then delete .venv. {setup}"
        )
    if not environment.complete:
        return result("warn", f"Python {environment.version}, not set up to the end", setup)
    return result("ok", f"Python {environment.version}, complete")


def judge_pip(environment: Environment, machine: Machine) -> Check:
    """How old the environment's pip is."""
    expected = "pip 25.2 or newer"
    why = "older ones start a broken download anew, and before 25.0.1 read files in the system's encoding"
    version = installed_version(environment.packages, "pip")
    fix = f"Run: {machine.runbook('setup')}"
    if version is None:
        return Check("pip", "skip", "no environment yet; setup upgrades its pip first", fix, expected, why)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (25, 2):
        fix = f"Run: {machine.venv_python} -m pip install --upgrade pip"
        return Check("pip", "warn", f"pip {version}", fix, expected, why)
    return Check("pip", "ok", f"pip {version}", "", expected, why)


def judge_torch(facts: Mapping[str, Any], environment: Environment, machine: Machine) -> list[Check]:
    """The right build for the GPUs, the installed one against it, and a kernel."""
    if not isinstance(facts.get("gpus"), tuple):
        unknown = {"gpus": facts.get("gpus")}
        ids = ("torch_choice", "torch_build", "torch_gpu", "torch_kernel")
        return [each for id in ids for each in _judged(unknown, "gpus", machine, lambda fact: [], id)]
    gpus = _gpus(facts)
    python = environment.version if environment.own and environment.version else None
    try:
        choice = builds.weigh_for(gpus, "auto", _release_of(python))
    except (ParameterError, TorchBuildError) as error:
        choice = builds.Choice(tuple(gpus), (), TorchBuildError(error.what, fix=error.fix))
    # The plan's remedy, steps 2 and 3A in one: the fitting build goes in, and stays.
    mend = f"Run: {machine.runbook('setup')}"
    version = installed_version(environment.packages)
    cuda = cuda_of(environment.packages, version or "")
    checks = [builds.judge_choice(choice), judge_build(choice, version, cuda, mend)]
    found = facts.get("torch")
    if isinstance(found, builds.TorchReport) and not found.timed_out:
        if found.version is None:
            return [*checks, builds.judge_kernel(found, mend)]
        return [
            *checks,
            builds.judge_gpu_use(choice, found, mend),
            builds.judge_kernel(found, mend),
        ]
    late = {"torch": Late()} if "torch" in facts else {}
    return [
        *checks,
        *_judged(late, "torch", machine, lambda fact: [], "torch_gpu"),
        *_judged(late, "torch", machine, lambda fact: [], "torch_kernel"),
    ]


def _release_of(version: str | None) -> str | None:
    found = re.match(r"\d+\.\d+(\.\d+)?", version or "")
    return found[0] if found else None


def judge_build(choice: builds.Choice, version: str | None, cuda: str | None, mend: str) -> Check:
    """The installed build against driver and capability, by its files: the check ``torch_build``."""
    expected = "a build with code for this GPU, or a CPU build where there is none"
    why = "pip replaces a CUDA build by a CPU build without a word, and says nothing where a build lacks code"
    right = choice.outcome.requirement if isinstance(choice.outcome, TorchBuild) else ""
    if version is None:
        return Check("torch_build", "skip", "torch is not installed", mend, expected, why)
    seen = f"torch {version}, {f'CUDA {cuda}' if cuda else 'CPU build'}"
    if choice.gpus and cuda is None and right and not right.endswith("+cpu"):
        text = f"{seen}, although {choice.gpus[0].name} could run {right}"
        return Check("torch_build", "warn", text, mend, expected, why)
    lacking = [
        gpu
        for gpu in choice.gpus
        if gpu.capability and cuda and builds.serves(version, cuda, gpu.capability) is False
    ]
    if lacking and len(lacking) == len(choice.gpus):
        text = f"{seen} has no code for capability {lacking[0].capability} ({lacking[0].name})"
        return Check("torch_build", "fail", text, mend, expected, why)
    if builds.has_defect(version):
        return Check("torch_build", "warn", f"{seen}. {builds.has_defect(version)}", mend, expected, why)
    return Check("torch_build", "ok", seen, "", expected, why)


def judge_pip_check(done: subprocess.CompletedProcess[str], machine: Machine) -> Check:
    """What ``pip check`` said."""
    expected, why = _EXPECTED["pip_check"]
    if done.returncode == 0:
        return Check("pip_check", "ok", "no broken requirements", "", expected, why)
    text = "; ".join((done.stdout or done.stderr).strip().splitlines()[:3])
    return Check("pip_check", "warn", text, f"Run: {machine.runbook('setup')}", expected, why)


_TLS = "Your network re-signs connections: ask for its certificate and run: {}"


def _unreached(answer: Answer) -> str:
    """Why an address is of no use; empty if it answered as it should."""
    if answer.status is None:
        return f"{answer.url} does not answer ({answer.problem})"
    if answer.status in (401, 403, 407, 451, 511) or answer.status >= 500:
        return f"{answer.url} answers with status {answer.status}"
    host = re.compile(r"^\w+://([^/]+)")
    asked, landed = (host.match(address) for address in (answer.url, answer.landed))
    if asked and landed and _site(asked[1]) != _site(landed[1]):
        return f"{answer.url} leads to {landed[1]}: a sign-in page of this network?"
    return ""


def _site(host: str) -> str:
    """The last two parts of a host's name, whose further parts are one organisation's."""
    return ".".join(host.split("@")[-1].split(":")[0].split(".")[-2:])


def _network_fix(answer: Answer, shell: Shell, otherwise: str) -> str:
    if "CERTIFICATE" in answer.problem.upper():
        return _TLS.format(set_line("PIP_CERT", "FILE", shell))
    proxy = set_line("HTTPS_PROXY", "http://HOST:PORT", shell)
    return f"Sign in to the network, or name its proxy: {proxy}; {otherwise}"


def judge_index(answer: Answer, environment: Environment, machine: Machine) -> Check:
    """Whether the package index answers; what is set up needs it no more."""
    expected, why = _EXPECTED["index"]
    if not (problem := _unreached(answer)):
        return Check("index", "ok", f"{answer.url} answers", "", expected, why)
    mirror = set_line("PIP_INDEX_URL", "https://pypi.tuna.tsinghua.edu.cn/simple", machine.terminal)
    fix = _network_fix(answer, machine.terminal, f"or take a mirror: {mirror}")
    local = machine.environ.get("PIP_FIND_LINKS") or environment.complete
    return Check("index", "warn" if local else "fail", problem, fix, expected, why)


def judge_torch_index(answer: Answer, machine: Machine) -> Check:
    """Whether PyTorch's own index answers."""
    expected, why = _EXPECTED["torch_index"]
    if not (problem := _unreached(answer)):
        return Check("torch_index", "ok", f"{answer.url} answers", "", expected, why)
    cpu = machine.runbook("setup", "--torch-lock", "cpu")
    fix = _network_fix(answer, machine.terminal, f"or take the CPU build, which pip's own index has: {cpu}")
    return Check("torch_index", "warn", problem, fix, expected, why)


def judge_hub(answer: Answer, chosen: World, machine: Machine) -> Check:
    """Whether the hub, or the mirror that HF_ENDPOINT names, answers."""
    expected, why = _EXPECTED["hub"]
    if not (problem := _unreached(answer)):
        return Check("hub", "ok", f"{answer.url} answers", "", expected, why)
    mirror = set_line("HF_ENDPOINT", "https://hf-mirror.com", machine.terminal)
    needed = "The embedded world needs none; for others" if chosen.embedded else f"For {chosen.title}"
    fix = f"{needed}: {_network_fix(answer, machine.terminal, f'or take a mirror: {mirror}')}"
    return Check("hub", "warn", problem, fix, expected, why)


def judge_assets(chosen: World, root: Path, machine: Machine) -> list[Check]:
    """A world's files: are the h5 and the three checkpoints there, and in a form that loads?

    Looked at by name and first bytes alone; ``checksums`` reads them.
    """
    get = machine.runbook("run", "--only", "04_assets", "--dataset", chosen.name)
    fix = "Run: git checkout -- helpers/demo" if chosen.embedded else f"Run: {get}"
    folder = root / "helpers" / "demo" if chosen.embedded else root / "data"
    h5 = folder / chosen.dataset_file
    expected, why = f"{chosen.dataset_file} in {folder.name}", "a rollout begins with frames from it"
    if problem := _h5_problem(h5):
        missing: Status = "fail" if h5.exists() or chosen.embedded else "warn"
        checks = [Check("dataset_h5", missing, problem, fix, expected, why)]
    else:
        checks = [
            Check("dataset_h5", "ok", f"{h5.name}, {h5.stat().st_size / 1e6:,.1f} MB", "", expected, why)
        ]
    forms = [(kind, *_checkpoint(chosen, kind, root)) for kind in KINDS]
    absent = [kind for kind, path, _ in forms if path is None]
    expected, why = (
        "one checkpoint of each of the three kinds",
        "video_tokenizer, latent_actions and dynamics make the world",
    )
    if absent:
        text = f"not found: {', '.join(absent)} of {chosen.title}"
        status: Status = "fail" if chosen.embedded else "warn"
        checks.append(Check("checkpoints", status, text, fix, expected, why))
    else:
        checks.append(Check("checkpoints", "ok", "all three are there", "", expected, why))
    bad = [problem for _, path, problem in forms if path is not None and problem]
    expected = "a .pth file, or a folder with model_state_dict.pt and state.pt: both load"
    why = "the published loader expects folders and the hub has files: NotADirectoryError means this"
    if bad:
        again = f"Delete it. {fix}" if chosen.embedded else f"Delete it and run: {get}"
        checks.append(Check("checkpoint_form", "fail", "; ".join(bad), again, expected, why))
    else:
        seen = [f"{kind}: {'folder' if path.is_dir() else 'file'}" for kind, path, _ in forms if path]
        text = "; ".join(seen) or "no checkpoint to look at"
        checks.append(
            Check("checkpoint_form", "ok" if seen else "skip", text, "" if seen else fix, expected, why)
        )
    return checks


def _h5_problem(path: Path) -> str:
    if not path.is_file():
        return f"{path.name} is not in {path.parent}"
    if found := impostor(path):
        return f"{path.name} is {found}"
    with path.open("rb") as file:
        return "" if file.read(8) == b"\x89HDF\r\n\x1a\n" else f"{path.name} is no HDF5 file"


def _checkpoint(chosen: World, kind: str, root: Path) -> tuple[Path | None, str]:
    """The newest checkpoint of a kind, and what is wrong with its form."""
    names = "|".join(KINDS[kind])
    if chosen.embedded:
        found = [root / "helpers" / "demo" / f"{chosen.name}_{kind}.pth"]
    else:
        pattern = re.compile(rf"(?:^|_)(?:{names})_step_\d+(?:_|\.|$)", re.IGNORECASE)
        below = (root / "results").glob(f"*_{chosen.name}/*/checkpoints/**/*_step_*")
        found = sorted(path for path in below if pattern.search(path.name))
    there = [path for path in found if path.exists()]
    if not there:
        return None, ""
    path = there[-1]
    if path.is_dir():
        lacking = [name for name in ("model_state_dict.pt", "state.pt") if not (path / name).is_file()]
        return path, f"{path.name} is a folder without {' and '.join(lacking)}" if lacking else ""
    if found_kind := impostor(path):
        return path, f"{path.name} is {found_kind}"
    with path.open("rb") as file:
        head = file.read(2)
    # Zip is torch's form since 1.6, 0x80 begins a bare pickle.
    return path, "" if head == b"PK" or head[:1] == b"\x80" else f"{path.name} is no checkpoint"


def judge_checksums(done: subprocess.CompletedProcess[str], chosen: World, machine: Machine) -> Check:
    """What `helpers.assets.fetch` says of a world's files, their checksums included."""
    expected, why = _EXPECTED["checksums"]
    get = f"Run: {machine.runbook('run', '--only', '04_assets', '--dataset', chosen.name)}"
    try:
        rows = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Check(
            "checksums",
            "skip",
            f"could not be read ({last})",
            f"Run: {machine.runbook('setup')}",
            expected,
            why,
        )
    bad = [f"{id}: {text}" for id, status, text in rows if status != "ok"]
    if bad:
        missing = rows[0][0] == "suite"
        return Check("checksums", "skip" if missing else "fail", "; ".join(bad), get, expected, why)
    return Check("checksums", "ok", "; ".join(text for _, _, text in rows), "", expected, why)


def judge_encoder(done: subprocess.CompletedProcess[str], machine: Machine) -> Check:
    """Whether a video that browsers play could be written: the plan's "MP4 does not play"."""
    expected, why = _EXPECTED["encoder"]
    codec, _, note = (done.stdout.strip().splitlines() or [""])[-1].partition(" ")
    if codec == "h264":
        return Check("encoder", "ok", "an MP4 was written and its frames were counted", "", expected, why)
    text = note or (done.stderr.strip().splitlines() or ["no output"])[-1]
    again = f"{machine.venv_python} -m pip install --force-reinstall --no-deps av"
    fix = f"Look at frames/*.png or rollout.gif in the run's folder; to mend it run: {again}"
    return Check("encoder", "warn", text, fix, expected, why)


def judge_outputs(machine: Machine) -> Check:
    """Whether runs can leave their results."""
    expected, why = "outputs can be written to", "every run leaves its pictures and records there"
    place = next((place for place in machine.places if place.name == "outputs"), None)
    if place is None or place.problem:
        text = f"{place.path}: {place.problem}" if place else "not looked at"
        fix = f"Run: {machine.runbook('run', '-p', 'run_dir=FOLDER')}    with a folder that you may write to"
        return Check("outputs", "fail" if place else "skip", text, fix, expected, why)
    return Check("outputs", "ok", f"{place.path} can be written to", "", expected, why)


# --- telling ---------------------------------------------------------------------------------------


def as_dict(checks: Iterable[Check], seconds: float, private: Private) -> dict[str, Any]:
    """The report as plain JSON values, redacted."""
    verdict = Verdict("doctor", tuple(checks))
    hidden = [asdict(redacted(each, private)) for each in verdict.checks]
    return {
        "schema": SCHEMA,
        "status": verdict.status,
        "seconds": round(seconds, 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "checks": hidden,
    }


def bundle(report: Mapping[str, Any], text: str, root: Path, private: Private) -> Path:
    """Pack what somebody who helps needs into one zip, redacted.

    Args:
        report: As :func:`as_dict` gives it.
        text: The same for people.
        root: The repository's folder; the zip goes to its ``outputs``.
        private: What must not be in it.

    Returns:
        The zip's path.

    Raises:
        OutputError: It cannot be written.
    """
    outputs = root / "outputs"
    parts = {"doctor.json": json.dumps(report, indent=2, ensure_ascii=False), "doctor.txt": text}
    parts["versions.txt"] = "\n".join(
        (f"Python {sys.version}", platform.platform(), f"executable {sys.executable}", f"prefix {sys.prefix}")
    )
    parts["packages.txt"] = _packages(find_environment(root).packages)
    runs = [path for path in outputs.glob("*/") if any(path.glob("*.json"))]
    latest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    files = [outputs / "setup.log", root / ".venv" / "torch-constraint.txt"]
    # A run of a few notebooks leaves no run.json: then the newest there is.
    records = sorted(outputs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    files += records[-1:]
    if latest:
        files += [latest / "run.log", latest / "pip.log", *sorted(latest.glob("*.json"))]
    for path in files:
        if path.is_file():
            # The end of a log tells what went wrong.
            parts[path.name] = path.read_text(encoding="utf-8", errors="replace")[-2_000_000:]
    target = outputs / f"support_{time.strftime('%Y%m%d_%H%M%S')}.zip"
    try:
        outputs.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in parts.items():
                packed.writestr(name, redact(content, private))
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}).",
            fix="Free some disk, or make the folder writable, and run it again.",
        ) from error
    return target


def _packages(packages: Path | None) -> str:
    """What is installed, as ``pip list --format=freeze`` has it, read from the folders' names."""
    there = (each.name for each in packages.iterdir()) if packages and packages.is_dir() else iter(())
    found = (re.fullmatch(r"(.+?)-([^-]+)\.dist-info", name) for name in there)
    return "\n".join(sorted(f"{match[1]}=={match[2]}" for match in found if match))


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python runbook.py doctor``."""
    made = argparse.ArgumentParser(prog="runbook.py doctor", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--json", action="store_true", help="print JSON instead of text")
    made.add_argument("--deep", action="store_true", help="wait for what takes longer than two seconds")
    made.add_argument("--bundle", action="store_true", help="pack a zip to send to somebody who helps")
    made.add_argument("--dataset", default="demo", help=f"whose files to look at: {', '.join(WORLDS)}")
    return made


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Examine, tell, and pack if asked; the exit status is 1 if a check failed.

    Raises:
        ParameterError: There is no such world.
        OutputError: The zip cannot be written.
    """
    arguments = parser().parse_args(argv)
    started, private = time.monotonic(), Private.here()
    checks = diagnose(root, arguments.dataset, DEEP if arguments.deep else QUICK)
    report = as_dict(checks, time.monotonic() - started, private)
    verdict = Verdict("doctor", tuple(Check(**each) for each in report["checks"]))
    text = f"{verdict}\n{_summary(checks)} ({report['seconds']:.1f} s)"
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=not _shows_all()))
    else:
        print(text)
    if arguments.bundle:
        path = bundle(report, text, root, private)
        print(f"Packed for support: {path}", file=sys.stderr if arguments.json else sys.stdout)
    return 1 if verdict.status == "fail" else 0


def _summary(checks: Sequence[Check]) -> str:
    counts = {
        status: sum(each.status == status for each in checks) for status in ("ok", "warn", "fail", "skip")
    }
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number)


def _shows_all() -> bool:
    """Whether the terminal can print any letter; JSON has escapes where it cannot."""
    return (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"
