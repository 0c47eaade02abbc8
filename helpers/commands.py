"""How the project starts other programs: argument lists, one environment, a log, a sentence on failure.

Standard library only, and it knows nothing of what the programs do: ``runbook.py`` uses it before
anything is installed.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from helpers.errors import SetupError

Shell = Literal["powershell", "cmd", "bash"]

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
    """The environment every child gets: UTF-8, memory kept at hand, no other Python's packages."""
    cleared = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "JUPYTER_PATH", "__PYVENV_LAUNCHER__"}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in cleared}
    # glibc gives tensors of a few MB back to Linux whenever they are freed, and a step then pays for fresh
    # pages hundreds of times. Other systems' allocators keep them by themselves, and read no such names.
    at_hand = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
    return {
        **(at_hand if sys.platform == "linux" else {}),
        **kept,
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        # A kernel of the same name in the user's folder must not win over the environment's own.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


def this_shell(environ: Mapping[str, str] = os.environ, windows: bool = sys.platform == "win32") -> Shell:
    """The shell that the reader most likely types into.

    Args:
        environ: The environment: PowerShell adds the user's own folder to PSModulePath, cmd sets PROMPT,
            Git's and MSYS2's bash set MSYSTEM.
        windows: Whether this is Windows; elsewhere any shell understands what is written for bash.
    """
    if not windows or "MSYSTEM" in environ:
        return "bash"
    modules = environ.get("PSMODULEPATH", environ.get("PSModulePath", "")).lower()
    # The machine's own entries lie under Program Files and System32, and every program inherits them.
    own = [entry for entry in modules.split(";") if entry and not entry.startswith(_MACHINE_WIDE)]
    return "cmd" if "PROMPT" in environ and not own else "powershell"


_MACHINE_WIDE = (r"c:\program files", r"c:\windows", "%")


def printable(command: Sequence[str], shell: Shell | None = None) -> str:
    """The command as one line to paste into a shell; by default into the one of this system."""
    shell = shell or this_shell()
    if shell == "bash":
        return shlex.join(command)
    if shell == "cmd":
        return subprocess.list2cmdline(command)
    special = set(" '&()$;,`@{}")
    words = ["'" + word.replace("'", "''") + "'" if special & set(word) else word for word in command]
    # PowerShell takes a quoted first word for a text, not for a program, unless & calls it.
    return ("& " if words[0].startswith("'") else "") + " ".join(words)


def unset_line(names: Iterable[str], shell: Shell) -> str:
    """The line that takes environment variables away from a shell's session."""
    form, between = _UNSET[shell]
    return between.join(form.format(name) for name in names)


_UNSET = {"powershell": ("Remove-Item Env:{}", "; "), "cmd": ("set {}=", " & "), "bash": ("unset {}", "; ")}


def set_line(name: str, value: str, shell: Shell) -> str:
    """The line that sets an environment variable for a shell's session."""
    if shell == "powershell":
        return f"$env:{name} = '{value}'"
    return f"set {name}={value}" if shell == "cmd" else f"export {name}={shlex.quote(value)}"


def runbook_line(*arguments: str, windows: bool = sys.platform == "win32") -> str:
    """``runbook.py`` with arguments, as it is started on this system."""
    return " ".join(["py -3.11" if windows else "python3", "runbook.py", *arguments])


class Progress:
    """Makes of pip's ``Progress 1048576 of 209715200`` a line now and then; other lines pass as they are.

    It is written by ``pip install --progress-bar raw``, many times a second.
    """

    def __init__(self, every: float = 5.0) -> None:
        self._every = every
        self._began = self._last = 0.0
        self._start = self._done = 0

    def __call__(self, line: str, now: float) -> str | None:
        """The line to show for a line of output at a time in seconds; None for none."""
        found = _PROGRESS.fullmatch(line.strip())
        if found is None:
            return line
        done, total = int(found[1]), int(found[2])
        if done < self._done or not self._began:  # another file begins
            self._began = self._last = now
            self._start = done
        self._done = done
        if now - self._last < self._every:
            return None
        self._last = now
        rate = (done - self._start) / max(now - self._began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        share = f"{done / total:.0%} of {total / 1e6:,.0f} MB" if total else f"{done / 1e6:,.0f} MB"
        return f"    {share}, {rate / 1e6:.1f} MB/s{left}"


_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def capture(
    command: Sequence[str],
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end without a shell or standard input, and keep what it prints.

    Args:
        command: Program and arguments.
        timeout: Seconds to wait; None waits for as long as it takes.
        cwd: Folder to run in; None for the current one.
        env: Its environment; None for `child_environment`.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It was stopped after ``timeout`` seconds.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=child_environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )


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
            progress = Progress()
            for line in process.stdout:
                if (shown := progress(line.rstrip(), time.monotonic())) is None:
                    continue
                file.write(f"{shown}\n")
                tail = [*tail, shown][-_TAIL_LINES:]
                show(shown)
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
