"""Facts about this machine, for `judge` to judge. Reads only, and leaves no trace.

What only Windows has is read here and nowhere else; on other systems those facts are empty.
"""

import contextlib
import ctypes
import locale
import os
import platform
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from helpers.commands import Shell, capture, runbook_line, this_shell
from helpers.files import expanded, replace_file
from helpers.run_folder import ROOT

System = Literal["windows", "linux", "macos"]

_NETWORK_FILES = re.compile("nfs|cifs|smb|sshfs|afs|ceph|gluster|lustre|beegfs|davfs|webdav")
# What torch and what PyAV need of Microsoft's runtime.
_VC_FILES = ("vcruntime140.dll", "vcruntime140_1.dll", "msvcp140.dll")


@dataclass(frozen=True)
class Place:
    """A folder that something is written to; see `places` for the names. It need not exist yet."""

    name: str
    path: str
    free: int | None  # bytes; None where the system does not say
    problem: str = ""  # why a file could not be written, renamed over another and deleted there


@dataclass(frozen=True)
class Machine:
    """A computer, the Python that looks at it, and the repository's folder on it."""

    system: System
    release: str
    processor: str  # such as "AMD64", "x86_64" or "arm64"
    version: tuple[int, ...]  # of this Python, as are its word size and its program
    bits: int
    executable: str
    base: str  # the installation that this Python, or its virtual environment, belongs to
    virtual: bool  # whether this Python is one of a virtual environment
    root: str  # the repository's folder
    environ: Mapping[str, str] = field(default_factory=dict)
    terminal: Shell = "bash"
    python_command: str | None = None  # where `python` leads on PATH; None where nowhere
    python_command_size: int | None = None  # bytes of that file: the Store's aliases have none
    py_launcher: bool = False  # whether Windows' `py` is there
    drive: str = "local"  # the disk of root: "local", "network" or "windows_from_wsl"
    long_paths: bool | None = None  # whether paths over 260 characters are allowed; None: no such limit
    memory: int | None = None  # bytes in all; None where the system does not say
    vc_missing: tuple[str, ...] = ()  # files of the Microsoft Visual C++ runtime that cannot be loaded
    console: str = "utf-8"  # encoding of the terminal
    locale: str = "utf-8"  # encoding of text files that name none
    code_page: int | None = None  # of the terminal under Windows
    places: tuple[Place, ...] = ()

    @property
    def windows(self) -> bool:
        """Whether this is Windows."""
        return self.system == "windows"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by their names in upper case, whose case Windows ignores."""
        return {name.upper(): value for name, value in self.environ.items()}

    def path(self, text: str) -> PurePath:
        """A path of that machine, whichever machine this is."""
        return PureWindowsPath(text) if self.windows else PurePosixPath(text)

    def runbook(self, *arguments: str) -> str:
        """``runbook.py`` with arguments, as it is started there."""
        return runbook_line(*arguments, windows=self.windows, launcher=self.py_launcher, version=self.version)

    def run(self, *arguments: str) -> str:
        """What to do, where that is to run ``runbook.py`` with arguments."""
        return f"Run: {self.runbook(*arguments)}"

    @property
    def venv_python(self) -> str:
        """The environment's Python as a word to paste, seen from the repository's folder."""
        if not self.windows:
            return ".venv/bin/python"
        return ".venv/Scripts/python.exe" if self.terminal == "bash" else r".\.venv\Scripts\python.exe"


def locale_encoding() -> str:
    """The encoding of files that name none, such as "utf-8" or "cp936"."""
    # Python 3.10 has no getencoding, and from 3.11 on the other one warns.
    return str(getattr(locale, "getencoding", lambda: locale.getpreferredencoding(False))())


def read_machine(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """Read this machine; ``root`` is the repository's folder, ``environ`` the environment variables."""
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
        memory=total_memory(),
        console=getattr(sys.stdout, "encoding", None) or "unknown",
        locale=locale_encoding(),
        places=places(root, environ),
        **_windows_facts(),
    )


def places(root: Path, environ: Mapping[str, str]) -> tuple[Place, ...]:
    """The folders that a setup, a download or a run writes to, named by what is written there."""
    home = expanded("~")
    cache = Path(environ.get("XDG_CACHE_HOME", home / ".cache"))
    pip_cache = cache / "pip"
    if sys.platform == "win32":
        pip_cache = Path(environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "pip" / "Cache"
    elif sys.platform == "darwin":
        pip_cache = home / "Library" / "Caches" / "pip"
    folders = {
        "project": root,
        "outputs": root / "outputs",
        "temporary": Path(tempfile.gettempdir()),
        "pip_cache": Path(environ.get("PIP_CACHE_DIR") or pip_cache),
        "hub_cache": Path(environ.get("HF_HOME") or cache / "huggingface"),
    }
    return tuple(
        Place(name, str(path), free_bytes(path), write_problem(path)) for name, path in folders.items()
    )


def _existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), path)


def free_bytes(path: Path) -> int | None:
    """Bytes free where ``path`` lies or would lie; None where the system does not say."""
    try:
        return shutil.disk_usage(_existing(path)).free
    except OSError:
        return None


def write_problem(path: Path) -> str:
    """Why a file cannot be written, renamed over another and deleted in a folder; empty if it can."""
    files = [_existing(path) / f".doctor_写_{os.getpid()}_{number}" for number in range(2)]
    try:
        for file in files:
            file.write_text(file.name, encoding="utf-8")
        replace_file(files[0], files[1])
        if files[1].read_text(encoding="utf-8") != files[0].name:
            return "a file does not hold what was written to it"
        files[1].unlink()
    except (OSError, UnicodeError) as error:
        return str(getattr(error, "strerror", "") or error)
    finally:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    return ""


def drive_of(root: Path) -> str:
    """The kind of disk that a folder is on, as in `Machine.drive`."""
    if sys.platform == "win32":
        remote = ctypes.windll.kernel32.GetDriveTypeW(root.anchor) == 4  # DRIVE_REMOTE
        return "network" if remote or str(root).startswith("\\\\") else "local"
    try:
        return drive_in(Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"), str(root))
    except OSError:
        return "local"


def drive_in(mounts: str, root: str) -> str:
    """The same from the text of ``/proc/mounts``: the longest mount point above ``root`` counts."""
    rows = [row for line in mounts.splitlines() if len(row := line.split()) >= 3]
    above = [row[1:3] for row in rows if f"{root}/".startswith(row[1].rstrip("/") + "/")]
    _, kind = max(above, key=lambda row: (len(row[0]), row[1]), default=("", ""))
    if kind in ("9p", "drvfs"):
        return "windows_from_wsl"
    return "network" if _NETWORK_FILES.search(kind) else "local"


def total_memory() -> int | None:
    """This machine's memory in bytes; None where the system does not say."""
    if sys.platform == "win32":
        # MEMORYSTATUSEX: its size in bytes and a percentage share the first number, all memory is the second.
        status = (ctypes.c_ulonglong * 8)(64)
        return status[1] if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
    if sys.platform == "darwin":
        size = capture(["sysctl", "-n", "hw.memsize"]).stdout.strip()
        return int(size) if size.isdigit() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _size(path: str | None) -> int | None:
    try:
        return os.lstat(path).st_size if path else None
    except OSError:
        return None


def _windows_facts() -> dict[str, Any]:
    """The facts of `Machine` that only Windows has."""
    if sys.platform != "win32":
        return {}
    import winreg

    control = r"SYSTEM\CurrentControlSet\Control\FileSystem"
    system32 = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
    long_paths, missing = False, []
    with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, control) as key:
        long_paths = winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
    for name in _VC_FILES:
        try:
            # Python brings some of them along; the system's own are what torch finds.
            ctypes.WinDLL(str(system32 / name))
        except OSError:
            missing.append(name)
    page = int(ctypes.windll.kernel32.GetConsoleOutputCP()) or None
    return {"long_paths": long_paths, "vc_missing": tuple(missing), "code_page": page}
