"""A package index on loopback that serves tiny wheels named torch, and an environment to install them into.

The wheels hold a torch of a few lines that multiplies lists: enough for the probe that proves a real one.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip

from helpers.machine.interpreter import venv_python
from helpers.torch_build.probe import site_packages

TORCH = '''
__version__ = "{version}"

class Tensor(list):
    """Rows of numbers, or one row, on a device."""

    place = "cpu"
    def __mod__(self, number): return Tensor(value % number for value in self)
    def float(self): return self
    def reshape(self, rows, columns):
        return Tensor(list(self[row * columns : (row + 1) * columns]) for row in range(rows))
    def tolist(self): return [list(row) for row in self]
    @property
    def T(self): return Tensor(list(column) for column in zip(*self))
    def to(self, place):
        moved = Tensor(self)
        moved.place = place
        return moved
    def cpu(self): return self.to("cpu")
    def __matmul__(self, other):
        if self.place != "cpu" and not {computes}:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        columns = other.T
        return Tensor([sum(a * b for a, b in zip(row, column)) for column in columns] for row in self)

def arange(count): return Tensor(range(count))
def tensor(rows): return Tensor(rows)
def equal(one, other): return [list(row) for row in one] == [list(row) for row in other]

class version:
    cuda = {cuda!r}

class cuda:
    is_available = staticmethod(lambda: {sees_gpu})
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda index: "Pretended GPU")
    get_device_capability = staticmethod(lambda index: (8, 6))
    get_arch_list = staticmethod(lambda: ["sm_86"])
'''


def make_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], requires: tuple[str, ...] = ()
) -> Path:
    """A real wheel, its RECORD included."""
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {one}" for one in requires),
    ]
    content = dict(files)
    content[f"{info}/METADATA"] = "\n".join(metadata) + "\n"
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for path, text in content.items():
            packed.writestr(path, text)
    return wheel


def make_torch(
    folder: Path,
    version: str,
    cuda: str | None,
    computes: bool = True,
    sees_gpu: bool = True,
    requires: tuple[str, ...] = (),
) -> Path:
    """A wheel of a pretended torch; ``computes`` is whether its kernel runs on the pretended GPU."""
    sees_gpu = sees_gpu and cuda is not None
    text = TORCH.format(version=version, cuda=cuda, sees_gpu=sees_gpu, computes=computes)
    files = {"torch/__init__.py": text, "torch/version.py": f"cuda = {cuda!r}\n", "functorch/__init__.py": ""}
    return make_wheel(folder, "torch", version, files, requires)


def damage(wheel: Path) -> None:
    """Flip bits in the middle of a wheel's first file, so that pip fails while it unpacks it."""
    data = bytearray(wheel.read_bytes())
    data[200] ^= 0xFF
    wheel.write_bytes(bytes(data))


def environment_with_pip(root: Path) -> tuple[str, Path]:
    """A real environment that holds nothing but pip: its Python and its site-packages folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    packages = site_packages(root / ".venv")
    assert packages is not None
    source = Path(pip.__file__).parent
    shutil.copytree(source, packages / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    (info,) = source.parent.glob("pip-*.dist-info")
    shutil.copytree(info, packages / info.name)
    return str(venv_python(root)), packages


class Index:
    """What is served: ``folder/<tag>/*.whl`` under ``<address>/<tag>/<package>/``; ``cut``: broken tags."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.cut: set[str] = set()
        self.asked: list[str] = []


@contextmanager
def serve(folder: Path) -> Iterator[Index]:
    """Serve an index from a folder, which may be filled afterwards."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            tag, name = self.path.strip("/").split("/")[:2]
            wheels = sorted((folder / tag).glob("*.whl"))
            found = [wheel for wheel in wheels if wheel.name == name.replace("%2B", "+")]
            if found:
                data = found[0].read_bytes()
            else:
                named = [wheel.name for wheel in wheels if wheel.name.split("-")[0] == name.replace("-", "_")]
                links = "".join(f'<a href="/{tag}/{one.replace("+", "%2B")}">{one}</a>' for one in named)
                data = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
            self.send_response(200 if found or named else 404)
            self.send_header("Content-Type", "application/zip" if found else "text/html")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if found and tag in index.cut else data)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = Index(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
