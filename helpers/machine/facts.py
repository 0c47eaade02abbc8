"""The facts about this machine that `judge` judges. Reads; judges nothing, and leaves no trace.

Standard library only. Everything that only Windows has is read here and nowhere else; elsewhere its facts
are empty, and a test can fill them in.
"""

import contextlib
import ctypes
import locale
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Literal

from helpers.commands import Shell, this_shell
from helpers.run_folder import ROOT

System = Literal["windows", "linux", "macos"]

_NETWORK_FILES = (
    "nfs",
    "cifs",
    "smb",
    "sshfs",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "beegfs",
    "davfs",
    "webdav",
)
# What torch and what PyAV need of Microsoft's runtime.
_VC_FILES = ("vcruntime140.dll", "vcruntime140_1.dll", "msvcp140.dll")


@dataclass(frozen=True)
class Place:
    """A folder that something is written to.

    Args:
        name: What is written there, in snake_case: ``"project"``, ``"temporary"``…
        path: The folder; it need not exist yet.
        free: Bytes free there; None where the system does not say.
        disk: What tells the disk from others.
        problem: Why a file could not be written, renamed over another and deleted there; empty if it could.
    """

    name: str
    path: str
    free: int | None
    disk: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """What was read.

    Args:
        system: Which of the three systems.
        release: Its version.
        processor: Such as ``"AMD64"``, ``"x86_64"`` or ``"arm64"``.
        version: Of the Python that runs this.
        bits: Of the same.
        executable: Of the same.
        base: The installation that this Python, or the environment it is of, belongs to.
        virtual: Whether this Python is one of a virtual environment.
        environ: The environment variables.
        terminal: What the reader types into.
        python_command: Where ``python`` leads on PATH; None where nowhere.
        python_command_size: Bytes of that file: the Store's aliases have none.
        py_launcher: Whether Windows' ``py`` is there.
        root: The repository's folder.
        drive: Which kind of disk the folder is on: ``"local"``, ``"network"`` or ``"windows_from_wsl"``.
        long_paths: Whether paths over 260 characters are allowed; None where there is no such limit.
        memory: Bytes in all; None where the system does not say.
        vc_missing: Files of the Microsoft Visual C++ runtime that cannot be loaded.
        console: Encoding of the terminal.
        locale: Encoding of text files that name none.
        code_page: The console's code page under Windows.
        places: The folders that need room.
    """

    system: System
    release: str
    processor: str
    version: tuple[int, ...]
    bits: int
    executable: str
    base: str
    virtual: bool
    root: str
    environ: Mapping[str, str] = field(default_factory=dict)
    terminal: Shell = "bash"
    python_command: str | None = None
    python_command_size: int | None = None
    py_launcher: bool = False
    drive: str = "local"
    long_paths: bool | None = None
    memory: int | None = None
    vc_missing: tuple[str, ...] = ()
    console: str = "utf-8"
    locale: str = "utf-8"
    code_page: int | None = None
    places: tuple[Place, ...] = ()

    @property
    def windows(self) -> bool:
        """Whether this is Windows."""
        return self.system == "windows"

    def path(self, text: str) -> PurePath:
        """A path of that machine, whichever machine this is."""
        return PureWindowsPath(text) if self.windows else PurePosixPath(text)

    def runbook(self, *arguments: str) -> str:
        """``runbook.py`` with arguments, as it is started there."""
        if not self.windows:
            start = "python3"
        elif self.py_launcher:
            fits = (3, 10) <= self.version[:2] <= (3, 13)
            start = f"py -{self.version[0]}.{self.version[1]}" if fits else "py -3.11"
        else:
            start = "python"
        return " ".join([start, "runbook.py", *arguments])

    @property
    def venv_python(self) -> str:
        """The environment's Python as a word to paste, seen from the repository's folder."""
        if not self.windows:
            return ".venv/bin/python"
        return ".venv/Scripts/python.exe" if self.terminal == "bash" else r".\.venv\Scripts\python.exe"


def read_machine(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """Read this machine.

    Args:
        root: The repository's folder.
        environ: The environment variables.
    """
    command = shutil.which("python", path=environ.get("PATH"))
    systems: dict[str, System] = {"win32": "windows", "darwin": "macos"}
    return Machine(
        system=systems.get(sys.platform, "linux"),
        release=platform.release(),
        processor=platform.machine(),
        version=tuple(sys.version_info[:3]),
        bits=struct.calcsize("P") * 8,
        executable=sys.executable,
        base=sys.base_prefix,
        virtual=sys.prefix != sys.base_prefix,
        environ=dict(environ),
        terminal=this_shell(environ),
        python_command=command,
        python_command_size=_size(command),
        py_launcher=shutil.which("py") is not None,
        root=str(root),
        drive=drive_of(root),
        long_paths=long_paths_enabled(),
        memory=total_memory(),
        vc_missing=missing_vc_files(),
        console=getattr(sys.stdout, "encoding", None) or "unknown",
        locale=locale_encoding(),
        code_page=console_code_page(),
        places=tuple(
            Place(name, str(path), free_bytes(path), disk_of(path), write_problem(path))
            for name, path in places(root, environ).items()
        ),
    )


def locale_encoding() -> str:
    """The encoding of text files that name none."""
    if sys.version_info >= (3, 11):
        return locale.getencoding()
    return locale.getpreferredencoding(False)


def places(root: Path, environ: Mapping[str, str]) -> dict[str, Path]:
    """The folders that a setup, a download or a run writes to, by what is written there."""
    home = Path("~").expanduser()
    if sys.platform == "win32":
        cache = Path(environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        pip_cache = cache / "pip" / "Cache"
    elif sys.platform == "darwin":
        pip_cache = home / "Library" / "Caches" / "pip"
    else:
        pip_cache = Path(environ.get("XDG_CACHE_HOME", home / ".cache")) / "pip"
    hub = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME", home / ".cache")) / "huggingface"
    return {
        "project": root,
        "outputs": root / "outputs",
        "temporary": Path(tempfile.gettempdir()),
        "pip_cache": Path(environ.get("PIP_CACHE_DIR") or pip_cache),
        "hub_cache": Path(hub),
    }


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next((each for each in (path, *path.parents) if each.is_dir()), path)


def free_bytes(path: Path) -> int | None:
    """Bytes free where ``path`` lies or would lie; None where the system does not say."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None


def disk_of(path: Path) -> str:
    """What tells the disk of ``path`` from others."""
    try:
        return str(existing(path).stat().st_dev)
    except OSError:
        return str(path)


def write_problem(path: Path) -> str:
    """Why a file cannot be written, renamed over another and deleted in a folder; empty if it can."""
    folder = existing(path)
    names = [f".doctor_写_{os.getpid()}_{number}" for number in range(2)]
    try:
        for name in names:
            (folder / name).write_text(name, encoding="utf-8")
        (folder / names[0]).replace(folder / names[1])
        if (folder / names[1]).read_text(encoding="utf-8") != names[0]:
            return "a file does not hold what was written to it"
        (folder / names[1]).unlink()
    except (OSError, UnicodeError) as error:
        return str(getattr(error, "strerror", "") or error)
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
    return ""


def drive_of(root: Path) -> str:
    """Which kind of disk a folder is on: see `Machine.drive`."""
    if sys.platform == "win32":
        return "network" if str(root).startswith("\\\\") or _drive_type(root) == 4 else "local"
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "local"
    return drive_in(mounts, str(root))


def drive_in(mounts: str, root: str) -> str:
    """The same from the text of ``/proc/mounts``: the longest mount point above ``root`` counts."""
    rows = [line.split() for line in mounts.splitlines()]
    above = [
        (len(point), kind)
        for _, point, kind, *_ in (row for row in rows if len(row) >= 3)
        if root == point or root.startswith(point.rstrip("/") + "/")
    ]
    kind = max(above, default=(0, ""))[1]
    if kind in ("9p", "drvfs"):
        return "windows_from_wsl"
    return "network" if any(name in kind for name in _NETWORK_FILES) else "local"


def total_memory() -> int | None:
    """This machine's memory in bytes; None where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        done = subprocess.run(
            ["sysctl", "-n", "hw.memsize"], capture_output=True, encoding="utf-8", check=False
        )
        return int(done.stdout) if done.stdout.strip().isdigit() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _size(path: str | None) -> int | None:
    try:
        return os.lstat(path).st_size if path else None
    except OSError:
        return None


if sys.platform == "win32":

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual")),
            *((name, ctypes.c_ulonglong) for name in ("virtual_free", "extended_free")),
        )

    def _windows_memory() -> int | None:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        return status.total if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None

    def _drive_type(path: Path) -> int:
        """As GetDriveTypeW gives it: 3 is a fixed disk, 4 a network's."""
        return int(ctypes.windll.kernel32.GetDriveTypeW(path.anchor))

    def long_paths_enabled() -> bool | None:
        """Whether Windows lets programs use paths of more than 260 characters."""
        import winreg

        try:
            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem"
            ) as key:
                return winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
        except OSError:
            return False

    def missing_vc_files() -> tuple[str, ...]:
        """Files of the Visual C++ runtime that cannot be loaded."""
        missing = []
        for name in _VC_FILES:
            try:
                # Python brings some of them along; the system's own are what torch finds.
                ctypes.WinDLL(str(Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / name))
            except OSError:
                missing.append(name)
        return tuple(missing)

    def console_code_page() -> int | None:
        """The console's output code page; None without a console."""
        return int(ctypes.windll.kernel32.GetConsoleOutputCP()) or None

else:

    def long_paths_enabled() -> bool | None:
        """Only Windows has such a limit."""
        return None

    def missing_vc_files() -> tuple[str, ...]:
        """Only Windows needs them."""
        return ()

    def console_code_page() -> int | None:
        """Only Windows has them."""
        return None
