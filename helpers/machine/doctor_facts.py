"""Facts that take time or another program: the environment, the network, torch, a world's files.

They are read side by side, and what does not answer in time is a fact, too.
"""

import configparser
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.assets.find import embedded_path, latest_checkpoint
from helpers.commands import capture
from helpers.errors import SetupError
from helpers.files import expanded
from helpers.gpu import read_nvidia_smi, read_nvml
from helpers.machine.facts import Machine
from helpers.machine.interpreter import venv_python
from helpers.torch_build.builds import INDEX
from helpers.torch_build.probe import installed_version, site_packages, this_packages, verify
from helpers.worlds import HUB, KINDS, World

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
# Asks for the GPUs as a run's record of them does: the packages that this needs are the environment's.
_NVML = """
import json
from helpers.gpu import read_nvml
print(json.dumps(read_nvml()))
"""
# Looks at every part of a world as 04_assets does: id, status and text of each check.
_HASH = """
import json, pathlib, sys
from helpers.assets import describe_assets, find_suite, recorded_checksums
from helpers.errors import RunbookError
from helpers.worlds import world
name, root = sys.argv[1], pathlib.Path(sys.argv[2])
try:
    checks = describe_assets(find_suite(name, root), recorded_checksums(world(name), root))
    print(json.dumps([[check.id, check.status, check.observed] for check in checks]))
except RunbookError as error:
    print(json.dumps([["suite", "fail", str(error)]]))
"""


@dataclass(frozen=True)
class Environment:
    """The Python that the notebooks run in, seen from outside."""

    python: str | None  # its program; None where nothing is set up
    packages: Path | None  # its site-packages folder
    own: bool = True  # whether it is the project's own .venv
    version: str = ""  # of Python, as pyvenv.cfg says
    home: str = ""  # the installation it was made from
    home_exists: bool = True  # whether that installation is still there
    complete: bool = False  # whether the last setup went through


@dataclass(frozen=True)
class Answer:
    """What an address answered."""

    url: str
    status: int | None = None  # of HTTP; None where there was a problem instead
    landed: str = ""  # the address that answered in the end
    problem: str = ""


def slow_facts(
    environment: Environment, machine: Machine, world: World, root: Path, seconds: float
) -> dict[str, Any]:
    """The facts by the ids of their checks, as of `gather`; fewer where no environment is set up."""
    hub = machine.environ.get("HF_ENDPOINT") or HUB
    tasks: dict[str, Callable[[], Any]] = {
        "gpu": lambda: read_nvidia_smi(seconds),
        "nvml": read_nvml,
        "index": lambda: ask(f"{index_address(machine)}/pip/", machine, seconds),
        "torch_index": lambda: ask(f"{INDEX}/cpu/torch/", machine, seconds),
        "hub": lambda: ask(hub.rstrip("/"), machine, seconds),
    }
    if python := environment.python:

        def inside(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return capture([python, *arguments], seconds, cwd=root)

        def answer(*arguments: str) -> Any:
            done = inside("-c", *arguments)
            if done.returncode:
                raise SetupError((done.stderr.strip().splitlines() or ["no output"])[-1])
            return json.loads(done.stdout.splitlines()[-1])

        tasks["nvml"] = lambda: answer(_NVML)
        tasks["torch_kernel"] = lambda: verify(python, seconds)
        tasks["pip_check"] = lambda: inside("-m", "pip", "check")
        tasks["encoder"] = lambda: inside("-c", _ENCODE)
        tasks["checksums"] = lambda: answer(_HASH, world.name, str(root))
    return gather(tasks, seconds)


def find_checkpoints(world: World, root: Path) -> dict[str, Path]:
    """The checkpoints of a world that are there, by kind, as 04_assets finds them."""
    paths: dict[str, Path | None]
    if world.embedded:
        paths = {kind: embedded_path(world, kind, root) for kind in KINDS}
    else:
        paths = {kind: latest_checkpoint(kind, root, world.name) for kind in KINDS}
    return {kind: path for kind, path in paths.items() if path and path.exists()}


def gather(tasks: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Read facts side by side for ``seconds``: by name, the fact, the error raised, or a TimeoutError."""
    facts: dict[str, Any] = {}

    def read(name: str, task: Callable[[], Any]) -> None:
        try:
            facts[name] = task()
        except Exception as error:
            facts[name] = error  # a broken probe must not hide what the others read

    # Daemons: a name server that never answers must not keep the program from ending.
    threads = [threading.Thread(target=read, args=task, daemon=True) for task in tasks.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds + 0.2
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: facts.get(name, TimeoutError()) for name in tasks}


def find_environment(root: Path) -> Environment:
    """The project's own environment, or the one that this Python is of."""
    venv, python = root / ".venv", venv_python(root)
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if sys.prefix == sys.base_prefix or not installed_version(this_packages(), "ipykernel"):
            return Environment(None, None)
        return Environment(sys.executable, this_packages(), own=False, complete=True)
    values = dict(re.findall(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    complete = False
    with contextlib.suppress(OSError, ValueError, AttributeError):
        complete = bool(json.loads((venv / "runbook.json").read_text(encoding="utf-8")).get("key"))
    version = values.get("version") or values.get("version_info") or ""
    home, program = values.get("home", ""), str(python) if python.exists() else None
    return Environment(program, site_packages(venv), True, version, home, Path(home).is_dir(), complete)


def index_address(machine: Machine) -> str:
    """Where pip looks for packages: by its variables, its configuration files, or PyPI."""
    environ, home = machine.variables, expanded("~")
    files = [
        Path(environ.get("PROGRAMDATA", r"C:\ProgramData"), "pip", "pip.ini"),
        *(Path(folder, "pip.conf") for folder in ("/etc", "/etc/xdg/pip")),
        Path(environ.get("APPDATA", home / "AppData" / "Roaming"), "pip", "pip.ini"),
        *(Path(home, folder, "pip.conf") for folder in (".pip", ".config/pip")),
        Path(environ.get("PIP_CONFIG_FILE") or os.devnull),
    ]
    parser = configparser.RawConfigParser(strict=False)
    for file in files:
        with contextlib.suppress(configparser.Error, UnicodeError):  # pip itself says what is wrong with it
            parser.read(file, encoding="utf-8")
    configured = parser.get("install", "index-url", fallback=parser.get("global", "index-url", fallback=""))
    return (environ.get("PIP_INDEX_URL") or configured or "https://pypi.org/simple").strip().rstrip("/")


def ask(url: str, machine: Machine, timeout: float) -> Answer:
    """Ask an address for its first bytes, through the proxy that the system names."""
    names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
    certificates = next((machine.environ[name] for name in names if machine.environ.get(name)), None)
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
