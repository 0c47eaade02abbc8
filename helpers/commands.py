"""How the project starts other programs: argument lists, one environment, a log, a sentence on failure.

Standard library only, and it knows nothing of what the programs do: ``runbook.py`` uses it before
anything is installed.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.errors import SetupError

_TAIL_LINES = 15

# What pip and venv print when a machine, not the project, is in the way, and what helps.
_ADVICE = (
    (("No space left", "Errno 28", "WinError 112"), "Free some disk and run the same command again."),
    (
        ("WinError 5]", "WinError 225", "WinError 4551", "WinError 32]", "Access is denied"),
        "Another program holds the file: close JupyterLab and every Python, allow this folder in the "
        "antivirus, and run the same command again.",
    ),
    (
        ("WinError 206", "path too long", "Long Path"),
        "Move this folder to a shorter path such as C:\\tw, or switch long paths on in Windows.",
    ),
    (
        ("ensurepip is not", "No module named ensurepip", "No module named venv"),
        "This Python cannot make virtual environments: install its venv package "
        "(Debian and Ubuntu: apt install python3-venv), or Python 3.11 from python.org.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError"),
        "The connection's certificate is not trusted: behind a proxy that re-signs it, set PIP_CERT.",
    ),
    (
        ("(host='download.pytorch.org'",),
        "download.pytorch.org was not reached: check the network or the proxy (HTTPS_PROXY) and run the same "
        "command again, or take the CPU build: python runbook.py setup --torch-lock cpu.",
    ),
    (
        ("Temporary failure in name", "getaddrinfo", "Connection", "ReadTimeout", "timed out", "ProxyError"),
        "The package index was not reached: check the network or the proxy (HTTPS_PROXY), or name a mirror "
        "with `pip config set global.index-url ADDRESS`, and run the same command again.",
    ),
    (
        ("No matching distribution", "Could not find a version"),
        "The package index has no such version for this Python: use Python 3.11, or another index or mirror.",
    ),
)


def child_environment() -> dict[str, str]:
    """The environment every child gets: UTF-8, and nothing that leads to another Python's packages."""
    cleared = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "JUPYTER_PATH", "__PYVENV_LAUNCHER__"}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in cleared}
    return kept | {
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        # A kernel of the same name in the user's folder must not win over the environment's own.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


def printable(command: Sequence[str], windows: bool = sys.platform == "win32") -> str:
    """The command as one line to paste: into PowerShell on Windows, into a POSIX shell elsewhere."""
    if not windows:
        return shlex.join(command)
    special = set(" '&()$;,`@{}")
    words = ["'" + word.replace("'", "''") + "'" if special & set(word) else word for word in command]
    # PowerShell takes a quoted first word for a text, not for a program, unless & calls it.
    return ("& " if words[0].startswith("'") else "") + " ".join(words)


def run_step(
    what: str,
    command: Sequence[str],
    log: Path,
    cwd: Path | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> None:
    """Run one command to its end, its output kept in a log.

    Args:
        what: The step in words, for the message, such as ``"Installing torch"``.
        command: Program and arguments; no shell is involved.
        log: UTF-8 file that the command line and its output are added to.
        cwd: Folder to run in.
        show: Called with every line of output as it comes.

    Raises:
        SetupError: The command cannot be started or ends with another status than 0. The message holds
            the command, the end of its output and what to try.
    """
    tail: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ {printable(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise SetupError(
                f"{what} failed: {command[0]} cannot be started ({error.strerror or error}).",
                fix=advice(str(error)),
            ) from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                tail = [*tail, line.rstrip()][-_TAIL_LINES:]
                show(line.rstrip())
    if process.returncode:
        output = "\n".join(f"    {line}" for line in tail)
        raise SetupError(
            f"{what} failed (exit status {process.returncode}).\n  Command: {printable(command)}\n"
            f"  The end of its output (all of it is in {log}):\n{output}\n",
            fix=advice("\n".join(tail)),
        )


def advice(output: str) -> str:
    """What to try, judged by the end of a failed command's output."""
    found = (help_ for signs, help_ in _ADVICE if any(sign in output for sign in signs))
    return next(
        found, "Read the output above; what is already done stays, so the same command goes on from there."
    )
