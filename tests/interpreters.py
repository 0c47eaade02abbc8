"""The Pythons that this machine has, wherever they come from."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def find(version: str) -> str | None:
    """The program of a Python of a version such as ``"3.10"``; None where this machine has none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
    places = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
    places += sorted(map(str, pyenv.glob(f"{version}.*/python.exe")))
    return next((place for place in places if place and _is(place, version)), None)


def _is(place: str, version: str) -> bool:
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([place, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version
