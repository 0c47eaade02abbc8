"""TinyWorlds Runbook: the only program to start.

python runbook.py [run] [--dataset demo] [--only 05_infer] [-p name=value]
                        run notebooks 00 to 05 headless; see `run --help`
python runbook.py lab   open JupyterLab on the same notebooks; further arguments go to JupyterLab
python runbook.py test  run the tests; further arguments go to pytest
python runbook.py bench measure how long a frame takes, against the straightforward way
python runbook.py evaluate
                        measure the embedded world: the numbers of its model card
python runbook.py setup [--torch-lock auto|cpu|2.8.0]
                        only set up, looking at every step again; the torch choice is remembered

Each of them first sets up what is missing: a virtual environment in .venv, torch for this machine, the other
packages. What is already done is recognised and skipped. On Windows, write `py -3.11` instead of `python`.
"""

# Standard library only, and nothing newer than Python 3.7 above main(): an old Python must get as far as
# finding a fitting one.
from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.torch_build import TorchBuild

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "runbook.json"
LOG = ROOT / "outputs" / "setup.log"
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
COMMANDS = ("run", "lab", "test", "bench", "evaluate", "setup")
PYTHONS = ("3.11", "3.12", "3.10", "3.13")  # all that fit, the most comfortable first
PROBE = (
    "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2] if sys.maxsize > 2**32 else '32 bits')"
)


def main(argv: list[str]) -> int:
    """Set up what is missing, then do what the arguments ask for; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console that lacks a letter must not stop an installation.
            stream.reconfigure(errors="replace")
    if THIS not in PYTHONS:
        return start_again(argv)

    from helpers.errors import RunbookError

    named = bool(argv) and not argv[0].startswith("-")
    command, rest = (argv[0], argv[1:]) if named else ("run", argv)
    if not named and rest[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if command not in COMMANDS:
        print(f"There is no command {command!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        lock = check_arguments(command, rest)
        python = set_up(lock, again=command == "setup")
        return 0 if command == "setup" else hand_over(python, command, rest)
    except RunbookError as error:
        print(f"\n{error.what}" + (f"\nWhat to do: {error.fix}" if error.fix else ""), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\n{error.filename or ROOT}: {error.strerror or error}", file=sys.stderr)
        print("What to do: free some disk, or move the folder to where you may write.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


def check_arguments(command: str, rest: list[str]) -> str | None:
    """Refuse wrong arguments now rather than after minutes of installing; returns setup's torch lock."""
    if command == "run":
        from helpers import batch

        batch.plan(batch.parser().parse_args(rest))
    if command == "setup":
        parser = argparse.ArgumentParser(prog="runbook.py setup")
        parser.add_argument("--torch-lock", metavar="LOCK", help="auto, cpu, or a version such as 2.8.0")
        lock: str | None = parser.parse_args(rest).torch_lock
        if lock:
            from helpers import torch_build

            torch_build.candidates(**torch_build.this_machine(), lock=lock)
        return lock
    return None


def hand_over(python: Path, command: str, rest: list[str]) -> int:
    """Go on inside the environment."""
    from helpers.commands import child_environment

    modules = {
        "run": ["-m", "helpers.batch", "--called-from", str(Path.cwd())],
        "lab": [
            "-m",
            "jupyterlab",
            f"--ServerApp.root_dir={ROOT}",
            "--LabApp.default_url=/lab/tree/notebooks/00_check.ipynb",
        ],
        "test": ["-X", "warn_default_encoding", "-m", "pytest"],
        "bench": ["-m", "helpers.bench"],
        "evaluate": ["-m", "helpers.demo.evaluate"],
    }
    return follow([str(python), *modules[command], *rest], cwd=ROOT, env=child_environment())


def follow(command: list[str], **options: Any) -> int:
    """Run a program to its end; Ctrl+C is left to it, so that JupyterLab asks and pytest reports."""
    child = subprocess.Popen(command, **options)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


# --- finding a Python ------------------------------------------------------------------------------


def start_again(argv: list[str]) -> int:
    """Run this file with a Python that fits, or say which one to install."""
    python = find_python()
    if python is None:
        print(
            f"This is Python {THIS}; the runbook needs a 64-bit Python 3.10 to 3.13, and none was found. "
            "Install Python 3.11 from python.org (Debian and Ubuntu: apt install python3.11-venv), then run "
            "the same command with it.",
            file=sys.stderr,
        )
        return 1
    return follow([*python, str(Path(__file__).resolve()), *argv])


def find_python() -> list[str] | None:
    """The command of a Python that fits and can make virtual environments; this one if it does."""
    # Inside .venv, _base_executable is the Python that .venv was made from: it outlives a remade .venv.
    places = [[getattr(sys, "_base_executable", sys.executable)]]
    places += [["py", f"-{version}"] for version in PYTHONS] if sys.platform == "win32" else []
    places += [[f"python{version}"] for version in PYTHONS] + [["python3"], ["python"]]
    return next((place for place in places if shutil.which(place[0]) and ask(place, PROBE) in PYTHONS), None)


def ask(python: list[str], code: str) -> str | None:
    """What a Python prints for a line of code; None where it does not run."""
    # Python 3.10 reads the path to this folder in the encoding it was written in only in UTF-8 mode.
    environment = {**os.environ, "PYTHONUTF8": "1"}
    for name in ("PYTHONHOME", "PYTHONPATH"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            [*python, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


# --- setting up ------------------------------------------------------------------------------------


def set_up(lock: str | None, again: bool) -> Path:
    """Bring .venv to what the repository asks for.

    Args:
        lock: Which torch, as ``helpers.torch_build.choose`` takes it; None for what was asked for before.
        again: Look at every step even where all was done before: the GPU or its driver may have changed.

    Returns:
        The environment's Python.

    Raises:
        SetupError: A step failed; what was done stays, and the next run goes on from there.
        TorchBuildError: No torch build fits this machine.
    """
    from helpers import deps, torch_build
    from helpers.env import venv_python

    stamp = read_stamp()
    lock = lock or stamp.get("torch_lock", "auto")
    python = venv_python(ROOT)
    version = environment_version(python)
    if version and stamp.get("key") == fingerprint(version, lock) and not again:
        return python

    print(f"Setting up {VENV} (everything is logged in {LOG})", flush=True)
    LOG.parent.mkdir(exist_ok=True)
    if version is None:
        make_environment()
        version = environment_version(python) or ""
    write_stamp("", lock)  # the choice is kept even if a step below fails
    pip = [str(python), "-m", "pip", "install"]
    step("Upgrading pip", [*pip, "--upgrade", "pip"])

    machine = torch_build.this_machine() | {"python": version}
    build = torch_build.choose(**machine, lock=lock)
    print(f"torch for this machine: {build.requirement}. {build.reason}", flush=True)
    if not torch_fits(deps.torch_version(str(python)), build, lock):
        step("Installing torch", [*pip, *torch_arguments(build)])

    step("Installing the rest", deps.rest_command(deps.keep_torch(VENV, str(python)), str(python)))
    # No isolation: setuptools is there by now, and a build environment of its own would need the network.
    step("Installing helpers", [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])
    write_stamp(fingerprint(version, lock), lock)
    print("Everything is in place.", flush=True)
    return python


def step(what: str, command: list[str]) -> None:
    """Run one step, showing what is fetched and, at the end, how long it took."""
    from helpers.commands import run_step

    def show(line: str) -> None:
        if line.lstrip().startswith(("Downloading", "Installing collected")):
            print(f"    {line.strip()[:100]}", flush=True)

    print(f"  {what} …", flush=True)
    started = time.monotonic()
    run_step(what, command, LOG, cwd=ROOT, show=show)
    print(f"  {what}: done in {time.monotonic() - started:.0f} s", flush=True)


def environment_version(python: Path) -> str | None:
    """The Python version of the environment; None where there is none, or a half-made or broken one."""
    from helpers.errors import SetupError

    code = "import sys, pip; print('%d.%d.%d' % sys.version_info[:3])"
    version = ask([str(python)], code) if python.exists() else None
    if version and version.rsplit(".", 1)[0] not in PYTHONS:
        raise SetupError(
            f"{VENV} was made with Python {version}; the runbook needs 3.10 to 3.13.",
            fix="Delete that folder and run the same command again.",
        )
    return version


def make_environment() -> None:
    """Make .venv, in place of what is left of a broken one."""
    from helpers.errors import SetupError

    base = find_python()
    if base is None:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments, and no other fitting Python was found.",
            fix="Install Python 3.11 from python.org (Debian and Ubuntu: apt install python3-venv).",
        )
    if VENV.exists():
        print("  .venv is incomplete or its Python is gone: it is made anew", flush=True)
        try:
            shutil.rmtree(VENV)
        except OSError as error:
            raise SetupError(
                f"The broken {VENV} cannot be removed ({error.strerror}: {error.filename}).",
                fix="Close JupyterLab and every program that uses it, delete the folder, and run this again.",
            ) from error
    step("Making .venv", [*base, "-m", "venv", str(VENV)])


def torch_fits(installed: str | None, build: TorchBuild, lock: str) -> bool:
    """Whether the installed torch will do. Without a GPU, any build of the right version will."""
    if installed is None or build.tag != "cpu" or lock == "cpu":
        return f"torch=={installed}" == build.requirement
    return installed.split("+")[0] == build.torch


def torch_arguments(build: TorchBuild) -> list[str]:
    """What follows ``pip install``: the CPU build may also come from wherever pip is configured to look."""
    if build.tag == "cpu" and not reachable(f"{build.index_url}/torch/"):
        print(f"    {build.index_url} is out of reach; pip looks where it is configured to", flush=True)
        return [f"torch=={build.torch}"]
    return build.pip_args()


def reachable(url: str) -> bool:
    """Whether an address answers within ten seconds."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def read_stamp() -> dict[str, str]:
    """What the last complete setup wrote; empty where there was none."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(key: str, lock: str) -> None:
    """Note what .venv was set up from: ``key`` is a fingerprint, or empty while it is incomplete."""
    STAMP.write_text(json.dumps({"key": key, "torch_lock": lock}), encoding="utf-8")


def fingerprint(version: str, lock: str) -> str:
    """What an environment was set up from: if any of it changes, setting up starts again."""
    files = [(ROOT / name).read_bytes() for name in ("requirements-notorch.txt", "pyproject.toml")]
    parts = [*files, str(ROOT).encode("utf-8", "surrogateescape"), version.encode(), lock.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
