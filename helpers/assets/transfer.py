"""Downloads one file of a repository and proves that it is the one listed. Must not know worlds.

`huggingface_hub` finds, authenticates, and transfers by Xet. Over plain HTTP it leaves three things open, for
which `_download_ranged` is here: since version 1.18 it begins again at the first byte in every new process;
its GET has a timeout from byte to byte only, so a server that drips one byte a second holds it for days; and
it never compares checksums.

The ladder: Xet, where the file has it; plain HTTP (at once with HF_HUB_DISABLE_XET=1, which mirrors need); a
mirror, by HF_ENDPOINT or ``endpoint``; at last a file that a browser fetched (`helpers.assets.importing`).
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers.assets.hub import Cut, Hub, RemoteFile, Retries, Stalled, is_set, no_space, start
from helpers.assets.progress import Progress
from helpers.errors import AssetError
from helpers.files import hash_of, impostor, impostor_head, replace_file, sha256_of


def download(file: RemoteFile, folder: Path, hub: Hub) -> Path:
    """Download ``file``, as `Hub.look_up` states it, to ``folder / file.name`` and verify it.

    Bytes lie in ``<name>.part`` beside a note of the file they belong to, so that a download that was cut
    off, or whose process was killed, continues from its last byte. One writer at a time may use a folder.
    An `AssetError` where it cannot be fetched, or is not what the repository lists: those bytes are deleted.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    with hub.as_asset_error(file.source):
        if file.xet and not part.exists() and _xet_enabled():
            try:
                _download_xet(file, target, hub)
                verify(target, file)
                return target
            except Exception as error:
                if no_space(error):
                    raise
                target.unlink(missing_ok=True)  # the next rung of the ladder: plain HTTP
        for again in (True, False):
            _download_ranged(file, part, hub)
            try:
                verify(part, file)
                break
            except AssetError:
                _forget(part)
                if not again:  # the second try started from nothing: no old part was wrong
                    raise
        replace_file(part, target)
        _forget(part)
    return target


def verify(path: Path, file: RemoteFile) -> None:
    """Raise an `AssetError` unless ``path`` holds exactly what the repository lists as ``file``."""
    size, actual = path.stat().st_size, ""
    if kind := impostor(path):
        wrong = f"is {kind}, not the file"
    elif file.size >= 0 and size != file.size:
        wrong = f"has {size:,} bytes, not {file.size:,}"
    else:
        if file.checksum:  # git hashes a header in front of the content
            actual = sha256_of(path) if file.sha256 else hash_of(path, hashlib.sha1(b"blob %d\0" % size))
        if actual == file.checksum:
            return
        wrong = f"has the checksum {actual[:12]}…, not {file.checksum[:12]}…: altered or damaged on the way"
    fix = "Run it again; if this repeats, a proxy or mirror alters files: try another network or endpoint."
    raise AssetError(f"What came for {file.source} {wrong}.", fix=fix)


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether ``path`` is there and holds exactly what the repository lists as ``file``."""
    with suppress(AssetError):
        if path.is_file():
            verify(path, file)
            return True
    return False


def _download_ranged(file: RemoteFile, part: Path, hub: Hub) -> None:
    """Bring ``part`` to the file's whole length over plain HTTP; each try asks for the missing bytes.

    What a commit holds cannot change, and what was joined is verified in the end: ETags are not needed.
    """
    if not _belongs_to(part, file):
        _forget(part)
    retries = Retries(hub.patience)
    with Progress(file.name, file.size, _size(part)) as progress:
        while (before := _size(part)) != file.size:
            try:
                with _response(file, before, hub) as response:
                    _check_response(response, file, part, before)
                    progress.at(_size(part))
                    _write_body(response, part, file, progress, hub)
                if file.size < 0:
                    return
                if _size(part) < file.size:
                    raise Cut(f"the connection ended after {_size(part):,} of {file.size:,} bytes")
            except Exception as error:
                if not _size(part):
                    _forget(part)
                # In time, a dripping server sends a fiftieth of a small file: waiting for it must end.
                least = hub.patience.least_bytes if isinstance(error, Stalled) else 1
                if _size(part) - before >= max(least, file.size // 50):
                    retries = Retries(hub.patience)
                retries.wait_after(error)


@contextmanager
def _response(file: RemoteFile, first: int, hub: Hub) -> Iterator[Any]:
    """The server's answer to a GET from byte ``first`` on, its body not read yet."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    client, headers = get_session(), build_hf_headers(token=hub.token) | {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    request = client.build_request("GET", hub.url(file), headers=headers, timeout=hub.patience.stall)
    response = hub.with_timeout(lambda: client.send(request, stream=True))
    try:
        if response.status_code != 416:
            hf_raise_for_status(response)
        yield response
    finally:
        response.close()


def _check_response(response: Any, file: RemoteFile, part: Path, before: int) -> None:
    """Decide by a response's head whether its body continues the part, replaces it (no Range), or is refused.

    A `Cut` is tried again; a `ValueError` is not, since the server would offer the same once more.
    """
    headers = response.headers
    length = headers.get("content-length", "")
    if "text/html" in headers.get("content-type", "") and length != str(file.size):
        raise ValueError("an HTML page came, as login pages of networks do")
    if response.status_code in (206, 416):
        begins = re.match(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
        if begins and int(begins[1]) == before and (begins[2] in ("*", str(file.size)) or file.size < 0):
            return
        _forget(part)
        raise Cut("the server has no such range of this file")
    if length and file.size >= 0 and int(length) != file.size and not headers.get("content-encoding"):
        raise ValueError(f"{int(length):,} bytes were offered, the listed size is {file.size:,}")
    part.unlink(missing_ok=True)
    _note_of(part).write_text(json.dumps({"checksum": file.checksum}), encoding="utf-8")


def _write_body(response: Any, part: Path, file: RemoteFile, progress: Progress, hub: Hub) -> None:
    """Append a body to a part: no more than the file has, and no slower than our patience allows."""
    import httpx2

    stall = hub.patience.stall
    ends, received = time.monotonic() + stall, 0
    with part.open("ab") as out:
        try:
            for block in response.iter_bytes():
                if not out.tell() and (kind := impostor_head(block)) and kind != "an empty file":
                    raise ValueError(f"{kind} came")
                out.write(block)
                out.flush()  # received bytes outlive a killed process
                progress.at(out.tell())
                if 0 <= file.size < out.tell():
                    raise ValueError(f"more than the listed {file.size:,} bytes came")
                received += len(block)
                if time.monotonic() >= ends:
                    if received < hub.patience.least_bytes:
                        raise Stalled(f"only {received:,} bytes came in {stall:g} s")
                    ends, received = time.monotonic() + stall, 0
        except httpx2.ReadTimeout as error:
            raise Stalled(f"nothing came for {stall:g} s") from error


def _xet_enabled() -> bool:
    from huggingface_hub.constants import HF_HUB_DISABLE_XET

    disabled = HF_HUB_DISABLE_XET or is_set("HF_HUB_DISABLE_XET")
    return not disabled and importlib.util.find_spec("hf_xet") is not None


def _download_xet(file: RemoteFile, target: Path, hub: Hub) -> None:
    """Fetch by Xet into a folder of its own, and give up where it stands still."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    staging = target.parent / f".xet_{os.getpid()}_{threading.get_ident()}"
    where = {"repo_type": file.repo_type, "revision": file.commit, "local_dir": staging}

    def received() -> int:  # blocks, as a sparse file has its full length from the start
        states = [path.stat() for path in staging.rglob("*") if path.is_file()]
        return sum(s.st_blocks * 512 if hasattr(s, "st_blocks") else s.st_size for s in states)

    try:
        disable_progress_bars()
        fetched = start(lambda: hub.client.hf_hub_download(file.repo, file.path, **where))
        before, since = 0, time.monotonic()
        with Progress(f"{file.name} (Xet)", file.size) as progress:
            while not wait([fetched], 0.5).done:
                progress.at(now := received())
                if now - before >= hub.patience.least_bytes:
                    before, since = now, time.monotonic()
                elif time.monotonic() - since > hub.patience.stall:
                    raise Stalled("Xet stands still")
        replace_file(Path(fetched.result()), target)
    finally:
        enable_progress_bars()
        shutil.rmtree(staging, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _belongs_to(part: Path, file: RemoteFile) -> bool:
    """Whether a part is the beginning of this file, as the note beside it says."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        listed = json.loads(_note_of(part).read_text(encoding="utf-8"))["checksum"]
        return bool(listed) and listed == file.checksum and 0 < _size(part) <= file.size
    return False


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)
