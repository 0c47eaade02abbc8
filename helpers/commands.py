"""How the project starts other programs: argument lists, one environment, a log, a sentence on failure.

Standard library only, and it knows nothing of what the programs do: ``runbook.py`` uses it before
anything is installed.
"""

import contextlib
import functools
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from helpers import PYTHONS
from helpers.errors import TO_DO, RunbookError, SetupError
from helpers.run_folder import ROOT

Shell = Literal["powershell", "cmd", "bash"]

_SHOWN_LINES, _JUDGED_LINES = 15, 60  # of a failed command's output; a traceback may follow its cause

# What pip and venv print when a machine, not the project, is in the way (a pattern), and what helps.
_ADVICE = {
    "No space left|Errno 28|WinError 112": "Free some disk and run the same command again.",
    r"WinError (5|32)\]|WinError (225|4551)|Access is denied": (
        "Another program holds the file: close JupyterLab and every Python, allow this folder in the "
        "antivirus, and run the same command again."
    ),
    "WinError 206|path too long|Long Path": (
        "Move this folder to a shorter path such as C:\\tw, or switch long paths on in Windows."
    ),
    "ensurepip is not|No module named (ensurepip|venv)": (
        "This Python cannot make virtual environments: install its venv package "
        "(Debian and Ubuntu: apt install python3-venv), or Python 3.11 from python.org."
    ),
    "CERTIFICATE_VERIFY_FAILED|SSLError": (
        "The connection's certificate is not trusted: behind a proxy that re-signs it, set PIP_CERT."
    ),
    r"\(host='download\.pytorch\.org'": (
        "download.pytorch.org was not reached: check the network or the proxy (HTTPS_PROXY) and run the same "
        "command again, or take the CPU build: {runbook} setup --torch-lock cpu."
    ),
    "Temporary failure in name|getaddrinfo|Connection|connection broken|ReadTimeout|timed out|ProxyError": (
        "The package index was not reached: check the network or the proxy (HTTPS_PROXY), or name a mirror "
        "with `pip config set global.index-url ADDRESS`, and run the same command again."
    ),
    "No matching distribution|Could not find a version": (
        "The package index has no such version for this Python: use Python 3.11, or another index or mirror."
    ),
}

# glibc gives tensors of a few MB back to Linux whenever they are freed, and a step then pays for fresh pages
# hundreds of times. Other systems' allocators keep them by themselves, and read no such names.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}


def child_environment() -> dict[str, str]:
    """The environment of every child: UTF-8, freed memory kept, none of another Python's packages."""
    cleared = {
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONIOENCODING",
        "JUPYTER_PATH",
        "__PYVENV_LAUNCHER__",
    }
    kept = {name: value for name, value in os.environ.items() if name.upper() not in cleared}
    return {
        **(_KEEP_MEMORY if sys.platform == "linux" else {}),
        **_home(),
        **kept,
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        # A kernel of the same name in the user's folder must not win over the environment's own.
        "JUPYTER_PREFER_ENV_PATH": "1",
        # Where JupyterLab is told not to ask about news at its first start, over the buttons of the page.
        "JUPYTER_CONFIG_PATH": os.pathsep.join(
            filter(None, (str(ROOT / ".jupyter"), kept.get("JUPYTER_CONFIG_PATH")))
        ),
    }


def _home() -> dict[str, str]:
    """A home folder where there is none, as in a container whose user has no name: Jupyter needs one."""
    known = os.path.expanduser("~") != "~"  # noqa: PTH111
    return {} if known else {"USERPROFILE" if sys.platform == "win32" else "HOME": str(ROOT / "outputs")}


def memory_settings(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """What is lost in a process that was started without `child_environment`, in a sentence; see `lab_fix`.

    Empty where the settings apply, the user chose others, or the system (``platform`` as in `sys.platform`)
    needs none. They count only when a process starts: setting them later changes nothing.
    """
    missing = " and ".join(name for name in _KEEP_MEMORY if name not in environ)
    loss = "freed memory goes back to Linux at once, and a frame takes longer on the CPU"
    return f"{missing} not set when this process started: {loss}" if missing and platform == "linux" else ""


def this_shell(environ: Mapping[str, str] = os.environ, windows: bool = sys.platform == "win32") -> Shell:
    """The shell that the reader most likely types into; outside Windows any understands bash's lines.

    PowerShell adds the user's own folder to PSModulePath, cmd sets PROMPT, Git's and MSYS2's bash MSYSTEM.
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
        return " ".join(map(_for_cmd, command))
    words = [word if re.fullmatch(_PLAIN, word) else f"'{_QUOTE.sub(_TWICE, word)}'" for word in command]
    # PowerShell takes a quoted first word for a text, not for a program, unless & calls it.
    return ("& " if words[0].startswith("'") else "") + " ".join(words)


_PLAIN = r"[\w.:/\\=+~-]+"  # no shell of Windows sees more in these than letters
_QUOTE, _TWICE = (
    re.compile("(['\u2018\u2019\u201a\u201b])"),
    r"\1\1",
)  # PowerShell takes curly ones for straight


def _for_cmd(word: str) -> str:
    """A word as cmd passes it on, whole and to one program.

    Between quotes cmd leaves everything alone but % and the quote itself. These stand between quoted parts: %
    behind ^, so that %NAME^% names nothing; the quote behind ^, and behind a backslash for the program.
    """
    if re.fullmatch(_PLAIN, word):
        return word
    parts = re.split('([%"])', word)
    quoted = (f'"{part}{part[len(part.rstrip(chr(92))) :]}"' for part in parts[::2])
    between = ({"%": "^%", '"': '\\^"'}[mark] for mark in parts[1::2])
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(quoted, between, fillvalue="")))


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


def runbook_line(
    *arguments: str,
    windows: bool = sys.platform == "win32",
    launcher: bool | None = None,
    version: tuple[int, ...] = sys.version_info[:2],
) -> str:
    """``runbook.py`` with arguments, as it is typed on this system: ``py -3.11 runbook.py lab`` on Windows.

    ``launcher`` tells whether Windows' ``py`` is there, without which it is ``python``; None looks.
    ``version`` is that of the Python in use, named where `helpers.PYTHONS` has it.
    """
    if not windows:
        return " ".join(["python3", "runbook.py", *arguments])
    if launcher is None:
        launcher = shutil.which("py") is not None
    named = ".".join(map(str, version[:2]))
    program = f"py -{named if named in PYTHONS else PYTHONS[0]}" if launcher else "python"
    return " ".join([program, "runbook.py", *arguments])


def lab_fix() -> str:
    """What to do where a kernel lacks what `child_environment` sets."""
    return f"Close JupyterLab and start it with `{runbook_line('lab')}`."


class Progress:
    """Turns the many lines ``Progress 1048576 of 209715200`` of ``pip install --progress-bar raw`` into few.

    Other lines pass unchanged.
    """

    def __init__(self, every: float = 5.0) -> None:
        self._every = every
        self._began = self._last = 0.0
        self._start = self._done = 0

    def __call__(self, line: str, now: float) -> str | None:
        """The line to show for a line of output at a time in seconds; None for none."""
        progress = _PROGRESS.fullmatch(line.strip())
        if progress is None:
            return line
        done, total = map(int, progress.groups())
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


_TEXT: dict[str, Any] = {"stdin": subprocess.DEVNULL, "encoding": "utf-8", "errors": "replace"}


def capture(
    command: Sequence[str],
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end without a shell or standard input, and keep what it prints.

    It runs in ``cwd``, or in the current folder, with the environment ``env``, or `child_environment`.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It was stopped after ``timeout`` seconds.
    """
    env = child_environment() if env is None else env
    return subprocess.run(
        command, cwd=cwd, env=env, timeout=timeout, capture_output=True, check=False, **_TEXT
    )


class JsonProgram:
    """A program that answers each JSON line on its standard input with one; it ends when its input closes.

    ``options`` are `subprocess.Popen`'s. What else the program prints is kept for `last_lines`.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._printed: list[str] = []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, kept as long as the process
        options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self.process = subprocess.Popen(command, encoding="utf-8", errors="replace", **options)

    def ask(self, question: object) -> dict[str, Any]:
        """The program's answer; empty if it has ended."""
        with contextlib.suppress(OSError):
            print(json.dumps(question), file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that is an answer; empty if the program has ended."""
        for line in self.process.stdout or ():
            if line.startswith("{"):
                return dict(json.loads(line))
            self._printed.append(line.rstrip())
        return {}

    def last_lines(self, count: int) -> list[str]:
        """End the program; the last lines that it printed beside its answers."""
        self.close()
        self._errors.seek(0)
        errors = self._errors.read().decode("utf-8", "replace").strip()
        return [*self._printed, *errors.splitlines()][-count:]

    def close(self, timeout: float = 5) -> None:
        """Close the program's input, and kill it where it has not ended after ``timeout`` seconds."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def tell(error: RunbookError) -> None:
    """Print what happened, and what to do about it."""
    print(error.what, *([TO_DO + error.fix] if error.fix else []), sep="\n", file=sys.stderr)


def exit_status(main: Callable[..., int]) -> Callable[..., int]:
    """Let a command's ``main`` print an error of the project's family and return 2 instead of raising it."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except RunbookError as error:
            tell(error)
            return 2

    return run


STOPPED = 130
"""The exit status of a command that Ctrl+C ended, by the convention of shells."""


def run_module(command: str, module: str, argv: Sequence[str]) -> int:
    """Import a command's module and call its ``main``; Ctrl+C at any moment of it is one line."""
    sys.argv = [f"runbook.py {command}", *argv]  # which is how it is called in its usage, too
    try:
        return importlib.import_module(module).main() or 0
    except KeyboardInterrupt:
        print("\nStopped. The same command begins again, and keeps what is saved.", file=sys.stderr)
        return STOPPED


def run_step(
    what: str,
    command: Sequence[str],
    log: Path,
    cwd: Path | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> None:
    """Run one command to its end without a shell, its line and its output added to a log in UTF-8.

    ``what`` names the step in words, such as ``"Installing torch"``; ``show`` is called with every line of
    output as it comes.

    Raises:
        SetupError: The command cannot be started or ends with another status than 0; the message holds the
            command, the end of its output and what to try.
    """
    progress = Progress()
    tail: deque[str] = deque(maxlen=_JUDGED_LINES)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ {printable(command)}\n")
        output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **_TEXT}
        try:
            # It inherits the lock of `helpers.files.alone`, which lasts until it has ended.
            process = subprocess.Popen(command, cwd=cwd, env=child_environment(), close_fds=False, **output)
        except OSError as error:
            problem = f"{what} failed: {command[0]} cannot be started ({error.strerror or error})."
            raise SetupError(problem, fix=advice(str(error))) from error
        with process:
            for line in process.stdout or ():
                if (text := progress(line.rstrip(), time.monotonic())) is not None:
                    file.write(f"{text}\n")
                    tail.append(text)
                    show(text)
    if process.returncode:
        problem = f"{what} failed (exit status {process.returncode}).\n  Command: {printable(command)}\n"
        problem += f"  The end of its output (all of it is in {log}):\n"
        problem += "".join(f"    {line}\n" for line in list(tail)[-_SHOWN_LINES:])
        raise SetupError(problem, fix=advice("\n".join(tail)))


def advice(output: str) -> str:
    """What to try, judged by the end of a failed command's output."""
    known = (fix for pattern, fix in _ADVICE.items() if re.search(pattern, output))
    fix = next(known, "Read the output above; what is done stays: run the same command again to continue.")
    return fix.format(runbook=runbook_line())


if __name__ == "__main__":  # as runbook.py starts a command inside the environment
    raise SystemExit(run_module(sys.argv[1], sys.argv[2], sys.argv[3:]))
