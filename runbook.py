"""TinyWorlds Runbook: the only program to start.

python runbook.py [run] [--dataset crafter] [--only 05_infer] [-p name=value]
                        run notebooks 00 to 05 headless; see `run --help`
python runbook.py play [--dataset sonic] [--no-browser]
                        play a world in the browser: the player alone
python runbook.py lab   open JupyterLab on the same notebooks; further arguments go to JupyterLab
python runbook.py test  run the tests; further arguments go to pytest
python runbook.py bench measure how long a frame takes, against the plain implementation
python runbook.py evaluate
                        measure the embedded world: the numbers of its model card
python runbook.py baseline [--dataset sonic]
                        save what a world generates here, for later comparison
python runbook.py regress
                        generate it again, and report what has changed and why
python runbook.py sweep sweep.yaml
                        run a notebook for every combination of parameters
python runbook.py film [--dataset crafter] [--session outputs/RUN/session.json]
                        film a world being played, with the keys: WebP, GIF and MP4
python runbook.py share [--dataset crafter] [--to world.html]
                        write a world as one file that plays in any browser, without Python or network
python runbook.py dataset outputs/RUN/session.json [more …] --to my_play.h5
                        write recorded play as a labelled dataset: frames, actions and episodes
python runbook.py presets [-p dataset=sonic] [-p device=cuda]
                        measure speed and quality here; preset=30fps then chooses from it
python runbook.py train my_game.mp4 [--minutes 60] [--actions keys.csv]
                        train a world on a screen recording; the same command goes on after a stop
python runbook.py setup [--torch-lock auto|cpu|2.8.0]
                        only set up, checking every step again; the choice of torch is remembered
python runbook.py doctor [--all] [--json] [--deep] [--fix [--yes]] [--bundle] [--dataset sonic]
                        check machine, torch, network and files, and say what to do; installs nothing

Every command but `doctor` first sets up what is missing: a virtual environment in .venv, torch for this
machine, the other packages. What is already done is skipped. On Windows, write `py -3.11` for `python`.
"""

# Standard library only, and nothing newer than Python 3.7 above main(): an old Python must get as far as
# finding a fitting one.
from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from helpers import PYTHON_RANGE, PYTHONS

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "runbook.json"
LOG = ROOT / "outputs" / "setup.log"
REQUIREMENTS = ROOT / "requirements-notorch.txt"
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
# A file of tests stays one worker's, and files begin in the order of conftest.py: fast ones first.
ON_ALL_CORES = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
# What runs inside the environment: the arguments that follow its Python.
INSIDE = {
    "run": ["-m", "helpers.commands", "run", "helpers.batch.headless"],
    "play": ["-m", "helpers.commands", "play", "helpers.player.alone"],
    "lab": [
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={ROOT}",
        "--LabApp.default_url=/lab/tree/notebooks/00_check.ipynb",
    ],
    "test": ["-X", "warn_default_encoding", "-m", "pytest", *ON_ALL_CORES],
    "bench": ["-m", "helpers.commands", "bench", "helpers.bench.frames"],
    "evaluate": ["-m", "helpers.commands", "evaluate", "helpers.train.evaluate"],
    "baseline": ["-m", "helpers.commands", "baseline", "helpers.batch.baseline"],
    "regress": ["-m", "helpers.commands", "regress", "helpers.batch.regress"],
    "sweep": ["-m", "helpers.commands", "sweep", "helpers.batch.sweep"],
    "film": ["-m", "helpers.commands", "film", "helpers.player.film"],
    "share": ["-m", "helpers.commands", "share", "helpers.share.build"],
    "dataset": ["-m", "helpers.commands", "dataset", "helpers.play.dataset"],
    "presets": ["-m", "helpers.commands", "presets", "helpers.presets.measure"],
    "train": ["-m", "helpers.commands", "train", "helpers.training.command"],
}
COMMANDS = (*INSIDE, "setup", "doctor")
PLAYING = ("play", "baseline", "regress", "film", "share", "presets")  # take -p with 05_infer's parameters
STAYS = "RUNBOOK_STAYS"
PROBE = (
    "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2] if sys.maxsize > 2**32 else '32 bits')"
)


def main(argv: list[str]) -> int:
    """Set up what is missing, then do what the arguments ask for; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console that lacks a letter must not stop an installation. Whatever else reads it gets the one
            # encoding that the programs started here have, not the system's code page in between.
            stream.reconfigure(errors="replace", encoding=None if stream.isatty() else "utf-8")
    if THIS not in PYTHONS and not os.environ.pop(STAYS, ""):  # not for what it starts
        return start_again(argv)

    from helpers.commands import STOPPED, tell
    from helpers.errors import ActionError, ParameterError, RunbookError

    named = bool(argv) and not argv[0].startswith("-")
    command, rest = (argv[0], argv[1:]) if named else ("run", argv)
    if command == "help" or (not named and rest[:1] in (["-h"], ["--help"])):
        print(__doc__.strip())
        return 0
    try:
        if command not in COMMANDS:
            raise ParameterError(f"There is no command {command!r}.", fix=what_was_meant(command))
        if command == "doctor":
            from helpers.machine import doctor

            return doctor.main(rest)
        lock = check_arguments(command, rest)
        python = set_up(lock, again=command == "setup")
        return 0 if command == "setup" else hand_over(python, command, rest)
    except RunbookError as error:
        tell(error)
        return 2 if isinstance(error, (ActionError, ParameterError)) else 1
    except OSError as error:
        print(f"\n{error.filename or ROOT}: {error.strerror or error}", file=sys.stderr)
        print("What to do: free some disk, or move the folder to where you may write.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue.", file=sys.stderr)
        return STOPPED


def what_was_meant(command: str) -> str:
    """What to type in place of a command that there is not."""
    from helpers.errors import choices
    from helpers.parameters import FOLDER
    from helpers.worlds import WORLDS

    notebooks = [f"run --only {path.stem}" for path in sorted(FOLDER.glob("*.ipynb"))]
    return choices(command, COMMANDS, [*notebooks, *(f"run --dataset {name}" for name in WORLDS)])


def check_arguments(command: str, rest: list[str]) -> str | None:
    """Refuse wrong arguments now rather than after minutes of installing; returns setup's torch lock."""
    if command == "run":
        from helpers.batch import headless

        headless.plan(headless.parse(rest))
    if command in PLAYING and not {"-h", "--help"} & set(rest):
        from helpers.batch.headless import check_run
        from helpers.parameters import command_parser, read_overrides

        # The command itself refuses the same, seconds later: it imports torch first.
        parser = command_parser(command, "", "a parameter", add_help=False)
        parser.add_argument("--dataset", default="crafter")
        known, _ = parser.parse_known_args(rest)
        check_run("05_infer", {"dataset": known.dataset, **read_overrides(known.parameter)})
    if command == "setup":
        parser = argparse.ArgumentParser(prog="runbook.py setup")
        parser.add_argument("--torch-lock", metavar="LOCK", help="auto, cpu, or a version such as 2.8.0")
        lock: str | None = parser.parse_args(rest).torch_lock
        if lock:
            from helpers.torch_build import builds

            builds.candidates(builds.this_machine(), lock)  # refuses a lock that it does not know
        return lock
    return None


def hand_over(python: Path, command: str, rest: list[str]) -> int:
    """Run a command inside the environment; returns its exit status."""
    from helpers.commands import child_environment

    # A relative path among the arguments counts from the reader's folder; the program runs in the project's.
    with_files = (
        "run",
        "play",
        "baseline",
        "regress",
        "sweep",
        "film",
        "share",
        "dataset",
        "presets",
        "train",
    )
    takes_files = command in with_files
    folder = ["--called-from", str(Path.cwd())] if takes_files else []
    return follow([str(python), *INSIDE[command], *folder, *rest], cwd=ROOT, env=child_environment())


# As systems say that Ctrl+C ended a program: POSIX by the signal's number, Windows by STATUS_CONTROL_C_EXIT.
_INTERRUPTED = (-2, 0xC000013A)


def follow(command: list[str], **options: Any) -> int:
    """Run a program to its end; Ctrl+C is left to it, so that JupyterLab asks and pytest reports."""
    from helpers.commands import STOPPED

    child = subprocess.Popen(command, **options)
    while True:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            continue
        return STOPPED if status in _INTERRUPTED else status


# --- finding a Python ------------------------------------------------------------------------------


def start_again(argv: list[str]) -> int:
    """Run this file with a Python that fits, or say which one to install."""
    python = find_python()
    if python is None and argv[:1] == ["doctor"] and sys.version_info >= (3, 10):
        os.environ[STAYS] = "1"  # the doctor runs under any Python that can read it, and reports on that one
        return main(argv)
    if python is None:
        print(
            f"This is Python {THIS}; the runbook needs a 64-bit Python {PYTHON_RANGE}, and none was found. "
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
    """Bring .venv to what the repository asks for, and return its Python.

    Args:
        lock: Which torch, as ``helpers.torch_build.choose`` takes it; None for what was asked for before.
        again: Check every step even where all was done before: the GPU or its driver may have changed.

    Raises:
        SetupError: A step failed; what was done stays, and the next run goes on from there.
        TorchBuildError: No torch build fits this machine.
    """
    from helpers.files import alone
    from helpers.machine.interpreter import venv_python

    python = venv_python(ROOT)
    if not again and is_complete(python, lock):
        return python
    LOG.parent.mkdir(exist_ok=True)
    with alone(LOG.with_suffix(".lock"), say_who_is_at_work):
        if again or not is_complete(python, lock):  # the one that was waited for may have done it
            complete(python, chosen_torch(lock))
    return python


def say_who_is_at_work(who: str) -> None:
    """Say why nothing happens while another set-up does."""
    print(
        f"Another set-up is at work here ({who}): waiting until it has ended. Ctrl+C stops waiting.",
        flush=True,
    )


def is_complete(python: Path, lock: str | None) -> bool:
    """Whether .venv is what the repository, and ``lock`` if there is one, ask for."""
    version = environment_version(python)
    return version is not None and read_stamp().get("key") == fingerprint(version, chosen_torch(lock))


def complete(python: Path, lock: str) -> None:
    """Do what `set_up` does, in the only process that does."""
    from helpers.torch_build.probe import CONSTRAINT_NAME

    print(f"Setting up {VENV} (everything is logged in {LOG})", flush=True)
    version = environment_version(python, "pip._internal.commands.install")
    if version is None:
        make_environment(python)
        version = environment_version(python) or ""
    write_stamp("", lock)  # the choice is kept even if a step below fails
    pip = [str(python), "-m", "pip", "install"]
    step("Upgrading pip", [*pip, "--upgrade", "pip"])

    install_torch(python, version, lock)

    step("Installing the rest", [*pip, "-r", str(REQUIREMENTS), "-c", str(VENV / CONSTRAINT_NAME)])
    install_helpers(pip)
    write_stamp(fingerprint(version, lock), lock)
    print("Everything is in place.", flush=True)


def install_torch(python: Path, version: str, lock: str) -> None:
    """Install the best build of torch that works on this machine, and prove it with a kernel."""
    from helpers.torch_build import builds
    from helpers.torch_build.install import install, with_fallback
    from helpers.torch_build.probe import CONSTRAINT_NAME, site_packages

    fitting = builds.fitting(builds.this_machine(python=version), lock)
    wanted = with_fallback(fitting)
    print("  Installing torch …", flush=True)
    if wanted != fitting:
        print(f"    {builds.INDEX} is out of reach; pip looks where it is configured to", flush=True)
    started = time.monotonic()
    packages, constraint = site_packages(VENV), VENV / CONSTRAINT_NAME
    install(wanted, str(python), packages, LOG, constraint, lambda line: show(line, torch=True))
    print(f"  Installing torch: done in {time.monotonic() - started:.0f} s", flush=True)


def install_helpers(pip: list[str]) -> None:
    """Let the environment's Python find ``helpers`` here, whatever folder it starts in."""
    from helpers.torch_build.probe import site_packages

    packages = site_packages(VENV)
    if packages and set("{}") & set(str(ROOT)):
        # setuptools takes braces in a path for a variable of its own, and fails.
        (packages / "tinyworlds-runbook.pth").write_text(f"{ROOT}\n", encoding="utf-8")
        return
    # No isolation: setuptools is there by now, and a build environment of its own would need the network.
    step("Installing helpers", [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def step(what: str, command: list[str]) -> None:
    """Run one step, showing what is fetched and, at the end, how long it took."""
    from helpers.commands import run_step

    print(f"  {what} …", flush=True)
    started = time.monotonic()
    run_step(what, command, LOG, cwd=ROOT, show=show)
    print(f"  {what}: done in {time.monotonic() - started:.0f} s", flush=True)


def show(line: str, torch: bool = False) -> None:
    """Print a line of a step's output if it says how far the step is."""
    starts = ("Downloading", "Installing collected", *(("Trying", "torch ", "That one") if torch else ()))
    if line.lstrip().startswith(starts) or " MB/s" in line:
        print(f"    {line.strip()[: 400 if torch else 100]}", flush=True)


def environment_version(python: Path, pip: str = "pip") -> str | None:
    """The environment's Python version; None where the environment is missing, incomplete or broken.

    ``pip`` is a module that it must have: one deep inside pip takes longer, and finds half a pip.
    """
    from helpers.errors import SetupError

    code = f"import sys, {pip}; print('%d.%d.%d' % sys.version_info[:3])"
    version = ask([str(python)], code) if python.exists() else None
    if version and version.rsplit(".", 1)[0] not in PYTHONS:
        raise SetupError(
            f"{VENV} was made with Python {version}; the runbook needs {PYTHON_RANGE}.",
            fix="Delete that folder and run the same command again.",
        )
    return version


def make_environment(python: Path) -> None:
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
    # In two steps, for venv does not say why it could not install pip.
    step("Making .venv", [*base, "-m", "venv", "--without-pip", str(VENV)])
    step("Installing pip", [str(python), "-m", "ensurepip", "--upgrade", "--default-pip"])


def read_stamp() -> dict[str, str]:
    """What the last setup wrote; empty where there was none."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def chosen_torch(lock: str | None) -> str:
    """Which torch: what is asked for now, else what was before."""
    return lock or read_stamp().get("torch_lock", "auto")


def write_stamp(key: str, lock: str) -> None:
    """Write down what .venv was set up from: ``key`` is its fingerprint, empty while it is incomplete."""
    from helpers.report import write_json

    write_json(STAMP, {"key": key, "torch_lock": lock})


def fingerprint(version: str, lock: str) -> str:
    """A hash of what an environment is set up from: if any of it changes, setup runs again."""
    files = [file.read_bytes() for file in (REQUIREMENTS, ROOT / "pyproject.toml")]
    parts = [*files, str(ROOT).encode("utf-8", "surrogateescape"), version.encode(), lock.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
