"""Talks to the Hugging Face hub: names a repository's files, downloads one, proves that it is the one listed.

Knows repositories and bytes, nothing of worlds or of where files belong. Every failure comes out as an
AssetError. `huggingface_hub` reads its environment (HF_HOME, HF_HUB_OFFLINE, …) when it is imported, so it is
imported only inside the functions that need it.

Who does what. `huggingface_hub` lists, finds checksums, authenticates, and transfers by Xet. Over plain HTTP
it leaves three things open, for which `_Body` and `_download_ranged` are here, on top of its own session:
since version 1.18 it begins again at the first byte in every new process; its GET has a timeout from byte to
byte only, so a server that drips one byte a second holds it for days; and it never compares checksums.

The ladder: Xet, where the file has it; plain HTTP (at once with HF_HUB_DISABLE_XET=1, which mirrors need); a
mirror, by HF_ENDPOINT or ``endpoint``; at last a file that a browser fetched (`fetch.import_files`).
"""

import hashlib
import importlib.util
import json
import os
import queue
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from helpers.assets.progress import Progress
from helpers.errors import AssetError
from helpers.file_kind import impostor, impostor_head

T = TypeVar("T")

_NO_NETWORK_NEEDED = 'The embedded world needs no network: dataset = "demo".'
_BY_HAND = "or fetch the file with a browser and give its path as import_from"
_HUB = "https://huggingface.co"
_SHA256, _GIT_OID = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_PART, _STATE = ".part", ".part.json"


@dataclass(frozen=True)
class Patience:
    """How long a hub may keep us waiting. With the defaults a hopeless one is given up within a minute.

    Args:
        attempts: Tries in a row that bring nothing substantial before we give up.
        pause: Seconds before the second try; doubled for each further one, and varied by up to a quarter.
        longest_pause: Seconds between tries at most; where the hub asks for more (Retry-After), we give up.
        budget: Seconds without anything substantial after which no further try begins.
        stall: Seconds in which `least_bytes` must come; a try that is slower than that is broken off.
        least_bytes: See ``stall``.
    """

    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 20.0
    budget: float = 30.0
    stall: float = 15.0
    least_bytes: int = 30_000


DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Args:
        repo: ``"owner/name"``.
        repo_type: ``"model"`` or ``"dataset"``.
        commit: The repository's commit it was found at, in hex: it is downloaded from the same one.
        path: Path inside the repository.
        size: Bytes; -1 where the hub does not say.
        sha256: SHA-256 of the content, in hex; empty for small files that are not kept in LFS.
        git_oid: Git's SHA-1 of the file, in hex; the only checksum of files that are not in LFS.
        xet: Whether the hub also offers it by Xet.
    """

    repo: str
    repo_type: str
    commit: str
    path: str
    size: int = -1
    sha256: str = ""
    git_oid: str = ""
    xet: bool = False

    @property
    def name(self) -> str:
        """The file's name, without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def source(self) -> str:
        """Where it is from, for people: ``"owner/name: folder/file"``."""
        return f"{self.repo}: {self.path}"

    @property
    def checksum(self) -> str:
        """SHA-256, else git's SHA-1, else ``""``: nothing is published."""
        return self.sha256 or self.git_oid


def list_files(
    repo: str,
    repo_type: str,
    endpoint: str = "",
    revision: str = "main",
    patience: Patience = DEFAULT_PATIENCE,
) -> list[RemoteFile]:
    """The files of a repository by name; `look_up` finds the size and checksum of one.

    Returns:
        The files; none where the endpoint has no listings.

    Raises:
        AssetError: The hub cannot be reached, refuses, or does not have the repository.
    """
    from huggingface_hub import RepoFile

    def by_revision() -> list[RemoteFile]:
        info = _api(endpoint).repo_info(repo, repo_type=repo_type, revision=revision, timeout=patience.stall)
        return [
            RemoteFile(repo, repo_type, info.sha or revision, each.rfilename) for each in info.siblings or ()
        ]

    def by_tree() -> list[RemoteFile]:
        listing = _api(endpoint).list_repo_tree(repo, recursive=True, repo_type=repo_type, revision=revision)
        return [
            RemoteFile(repo, repo_type, revision, item.path) for item in listing if isinstance(item, RepoFile)
        ]

    with _explained(repo, endpoint):
        for listing in (by_revision, by_tree):
            try:
                if found := _persist(listing, patience):
                    return found
            except Exception as error:
                # A mirror may serve files and have one of these addresses, or neither.
                if _status(error) not in (404, 405, 501) or _error_code(error) == "RepoNotFound":
                    raise
    return []


def look_up(file: RemoteFile, endpoint: str = "", patience: Patience = DEFAULT_PATIENCE) -> RemoteFile:
    """The same file with its commit, size and checksum, as the hub's answer to HEAD states them.

    For files in LFS, which all large ones are, the linked ETag is the SHA-256 of the content: so even a first
    download is checked against what the repository holds. Small files have git's SHA-1 as ETag.

    Raises:
        AssetError: The hub cannot be reached, refuses, does not have it, or does not answer as a hub does.
    """
    from huggingface_hub import get_hf_file_metadata

    def head() -> RemoteFile:
        found = get_hf_file_metadata(
            _address(file, endpoint),
            token=_token(endpoint),
            timeout=patience.stall,
            endpoint=endpoint or None,
        )
        etag = (found.etag or "").lower()
        if not found.commit_hash:
            raise ValueError("no X-Repo-Commit")
        return replace(
            file,
            commit=found.commit_hash,
            size=-1 if found.size is None else found.size,
            sha256=etag if _SHA256.fullmatch(etag) else "",
            git_oid=etag if _GIT_OID.fullmatch(etag) else "",
            xet=found.xet_file_data is not None,
        )

    with _explained(file.source, endpoint):
        return _persist(head, patience)


def download(
    file: RemoteFile, folder: Path, endpoint: str = "", patience: Patience = DEFAULT_PATIENCE
) -> Path:
    """Download ``file`` into ``folder`` and verify it, going on from what an earlier try left there.

    What came so far lies in ``<name>.part`` beside a note of which file it belongs to, so that a download
    that was cut off, or whose process was killed, goes on from its last byte.

    Args:
        file: From `look_up`.
        folder: One writer at a time may use it.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.
        patience: How long the hub may keep us waiting.

    Returns:
        Where the verified file lies: ``folder / file.name``.

    Raises:
        AssetError: It cannot be fetched, or what came is not what the repository lists; that is deleted, what
            came of an unfinished file stays.
    """
    target, part = folder / file.name, folder / (file.name + _PART)
    with _explained(file.source, endpoint):
        if file.xet and not part.exists() and _xet_enabled():
            try:
                _download_xet(file, target, endpoint, patience)
                verify(target, file)
                return target
            except Exception as error:
                if _no_space(error):
                    raise
                target.unlink(missing_ok=True)  # the next rung of the ladder: plain HTTP
        # The second try starts from nothing: what was joined to an old part may be what is wrong.
        for last in (False, True):
            _download_ranged(file, part, endpoint, patience)
            try:
                verify(part, file)
                break
            except AssetError:
                _forget(part)
                if last:
                    raise
        part.replace(target)
        _forget(part)
    return target


def _download_ranged(file: RemoteFile, part: Path, endpoint: str, patience: Patience) -> None:
    """Bring ``part`` to the file's whole length over plain HTTP, in as many tries as it takes.

    A try asks for the bytes that are missing, and by If-Range for the rest of *this* file only. Where the
    server ignores Range or the ETag has changed, it sends the file from the first byte; where it sends a
    range of something else all the same, the part is dropped.
    """
    state = _read_state(part, file)
    etag = state.get("etag", "")
    tries = _Tries(patience)
    with Progress(file.name, file.size, _size(part)) as progress:
        while True:
            before = _size(part)
            if before == file.size:
                return
            headers = _headers(endpoint) | {"Accept-Encoding": "identity"}
            if before:
                headers["Range"] = f"bytes={before}-"
                if etag.startswith('"'):  # a weak ETag proves nothing about bytes
                    headers["If-Range"] = etag
            try:
                with _Body(_address(file, endpoint), headers, patience) as body:
                    etag = _admit(body, file, part, before, etag)
                    progress.at(_size(part))
                    with part.open("ab") as out:
                        _pour(body, out, file, progress, patience)
                if file.size < 0 or _size(part) >= file.size:
                    return
                raise _Cut(f"the connection ended after {_size(part):,} of {file.size:,} bytes")
            except Exception as error:
                if not _size(part):
                    _forget(part)
                # What drips, drips a fiftieth of a small file in time: it must not be waited for without end.
                least = patience.least_bytes if isinstance(error, _Stalled) else 1
                if _size(part) - before >= max(least, file.size // 50):
                    tries.begin_again()
                tries.after(error)


def _admit(body: "_Body", file: RemoteFile, part: Path, before: int, etag: str) -> str:
    """Decide from a response's head whether its body goes on from the part, replaces it, or is refused.

    Returns:
        The ETag that what is in the part now belongs to.
    """
    length = body.headers.get("content-length", "")
    if "text/html" in body.headers.get("content-type", "") and length != str(file.size):
        raise _Refused("an HTML page came, as login pages of networks do")
    found = body.headers.get("etag", "")
    if body.status == 206:
        begins = re.match(r"bytes (\d+)-\d+/(\d+|\*)", body.headers.get("content-range", ""))
        here = begins and int(begins[1]) == before
        whole = begins and (begins[2] == "*" or file.size < 0 or int(begins[2]) == file.size)
        if here and whole and (not etag or not found or found == etag):
            return etag or found
        _forget(part)
        raise _Cut("the server went on from another place or file")
    if body.status == 416:
        _forget(part)
        raise _Cut("the server has no such range")
    if length and file.size >= 0 and int(length) != file.size and not body.headers.get("content-encoding"):
        raise _Refused(f"{int(length):,} bytes were offered, the listed size is {file.size:,}")
    part.unlink(missing_ok=True)
    _write_state(part, file, found)
    return found


def _pour(body: "_Body", out: BinaryIO, file: RemoteFile, progress: Progress, patience: Patience) -> None:
    """Write a body to a part, no more than the file has."""
    first = out.tell() == 0
    for block in body.blocks():
        if first and (found := impostor_head(block)) and found != "an empty file":
            raise _Refused(f"{found} came")
        first = False
        out.write(block)
        out.flush()  # what was received outlives a killed process
        progress.advance(len(block))
        if 0 <= file.size < out.tell():
            raise _Refused(f"more than the listed {file.size:,} bytes came")


class _Cut(OSError):
    """A try ended early; the next one goes on."""


class _Refused(ValueError):
    """What the server offers is not the file; to ask again would bring the same."""


class _Stalled(TimeoutError):
    """Nothing came, or next to nothing, for as long as we are patient."""


class _Body:
    """A response whose head and body are awaited in another thread, so that nothing can hold us for longer.

    The client's own timeout counts from byte to byte, and none covers a name server that does not answer. A
    thread that is given up on ends by itself at its next byte; it writes nothing.
    """

    def __init__(self, url: str, headers: dict[str, str], patience: Patience) -> None:
        self._patience = patience
        self._parts: queue.Queue[Any] = queue.Queue(maxsize=64)
        self._gone = threading.Event()
        threading.Thread(target=self._receive, args=(url, headers), daemon=True).start()
        try:
            self.status, self.headers = self._take(patience.stall)
        except queue.Empty:
            self._gone.set()
            raise _Stalled(f"nothing came for {patience.stall:g} s") from None

    def __enter__(self) -> "_Body":
        return self

    def __exit__(self, *_error: object) -> None:
        self._gone.set()

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes; broken off where less than ``least_bytes`` come in ``stall`` seconds."""
        ends, received = time.monotonic() + self._patience.stall, 0
        while True:
            if (left := ends - time.monotonic()) <= 0:
                if received < self._patience.least_bytes:
                    raise _Stalled(f"only {received:,} bytes came in {self._patience.stall:g} s")
                ends, received = time.monotonic() + self._patience.stall, 0
                continue
            try:
                block = self._take(left)
            except queue.Empty:
                continue
            if block is None:
                return
            received += len(block)
            yield block

    def _take(self, seconds: float) -> Any:
        taken = self._parts.get(timeout=seconds)
        if isinstance(taken, BaseException):
            raise taken
        return taken

    def _give(self, part: Any) -> None:
        while not self._gone.is_set():
            try:
                return self._parts.put(part, timeout=0.2)
            except queue.Full:
                continue
        raise _Cut("given up on")

    def _receive(self, url: str, headers: dict[str, str]) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status

        try:
            with get_session().stream("GET", url, headers=headers, timeout=self._patience.stall) as response:
                if response.status_code != 416:
                    hf_raise_for_status(response)
                self._give((response.status_code, dict(response.headers)))
                for block in response.iter_bytes():
                    self._give(block)
                self._give(None)
        except BaseException as error:
            with suppress(_Cut):
                self._give(error)


def _persist(ask: Callable[[], T], patience: Patience) -> T:
    """Ask, and ask again while the answer may get better."""
    tries = _Tries(patience)
    while True:
        try:
            return _attended(ask, patience.stall)
        except Exception as error:
            tries.after(error)


def _attended(ask: Callable[[], T], seconds: float) -> T:
    """What ``ask`` returns or raises; `_Stalled` if it does neither in time: its thread is left behind."""
    answer: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            answer.put((ask(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise _Stalled(f"no answer for {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


class _Tries:
    """Decides after a failure whether to try again, and waits."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.begin_again()

    def begin_again(self) -> None:
        """Something substantial came: what went wrong before no longer counts."""
        self._failures, self._since = 0, time.monotonic()

    def after(self, error: Exception) -> None:
        """Wait for the next try, or raise ``error`` if there is none."""
        import httpx2

        self._failures += 1
        asked = _retry_after(error)
        # A refused connection or an unknown name seldom mends itself within seconds.
        attempts = min(self._patience.attempts, 3 if isinstance(error, httpx2.ConnectError) else 99)
        pause = self._patience.pause * 2 ** (self._failures - 1) * random.uniform(1, 1.25)
        pause = min(pause, self._patience.longest_pause) if asked is None else asked
        spent = time.monotonic() - self._since
        if (
            not _may_get_better(error)
            or self._failures >= attempts
            or pause > self._patience.longest_pause
            or spent + pause > self._patience.budget
        ):
            raise error
        time.sleep(pause)


def _may_get_better(error: Exception) -> bool:
    import httpx2

    if (status := _status(error)) or _no_space(error):
        return status in _TRANSIENT
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    return isinstance(error, (_Cut, _Stalled, httpx2.TransportError)) and not isinstance(
        error, (httpx2.UnsupportedProtocol, httpx2.ProxyError)
    )


def _retry_after(error: Exception) -> float | None:
    """How many seconds the hub asks us to wait; None if it does not."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "").strip() if response is not None else ""
    return float(asked) if asked.isdigit() else None


def _response(error: BaseException) -> Any:
    return next((r for link in _chain(error) if (r := getattr(link, "response", None)) is not None), None)


def _status(error: BaseException) -> int:
    response = _response(error)
    return response.status_code if response is not None else 0


def _error_code(error: BaseException) -> str:
    response = _response(error)
    return response.headers.get("X-Error-Code", "") if response is not None else ""


def _no_space(error: BaseException) -> bool:
    return any(
        isinstance(link, OSError) and link.errno in (28, 122) for link in _chain(error)
    )  # ENOSPC, EDQUOT


def _xet_enabled() -> bool:
    from huggingface_hub.constants import HF_HUB_DISABLE_XET

    return (
        importlib.util.find_spec("hf_xet") is not None
        and not HF_HUB_DISABLE_XET
        and not _is_true(os.environ.get("HF_HUB_DISABLE_XET"))
    )


def _download_xet(file: RemoteFile, target: Path, endpoint: str, patience: Patience) -> None:
    """Fetch by Xet into a folder of its own, and give up where it stands still."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    staging = target.parent / f".xet_{os.getpid()}_{threading.get_ident()}"
    done: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        try:
            done.put(
                _api(endpoint).hf_hub_download(
                    file.repo, file.path, repo_type=file.repo_type, revision=file.commit, local_dir=staging
                )
            )
        except BaseException as error:
            done.put(error)

    def received() -> int:  # blocks, as a sparse file has its full length from the start
        return sum(
            path.stat().st_blocks * 512 if hasattr(path.stat(), "st_blocks") else path.stat().st_size
            for path in staging.rglob("*")
            if path.is_file()
        )

    try:
        disable_progress_bars()
        threading.Thread(target=work, daemon=True).start()
        before, since = 0, time.monotonic()
        with Progress(f"{file.name} (Xet)", file.size) as progress:
            while True:
                try:
                    result = done.get(timeout=0.5)
                    break
                except queue.Empty:
                    pass
                progress.at(now := received())
                if now - before >= patience.least_bytes:
                    before, since = now, time.monotonic()
                elif time.monotonic() - since > patience.stall:
                    raise _Stalled("Xet stands still")
        if isinstance(result, BaseException):
            raise result
        Path(result).replace(target)
    finally:
        enable_progress_bars()
        shutil.rmtree(staging, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_path(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(_PART) + _STATE)


def _read_state(part: Path, file: RemoteFile) -> dict[str, str]:
    """What is known of a part; where it belongs to another file, or to none, it is dropped."""
    try:
        state = json.loads(_state_path(part).read_text(encoding="utf-8"))
        if file.checksum and state["checksum"] == file.checksum and 0 < _size(part) <= file.size:
            return {"etag": str(state.get("etag", ""))}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _forget(part)
    return {}


def _write_state(part: Path, file: RemoteFile, etag: str) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    _state_path(part).write_text(json.dumps({"checksum": file.checksum, "etag": etag}), encoding="utf-8")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def verify(path: Path, file: RemoteFile) -> None:
    """Prove that ``path`` holds exactly what the repository lists as ``file``.

    Raises:
        AssetError: The size or the checksum differs; the message says what came, if it can tell.
    """
    again = "Run it again; if this repeats, a proxy or mirror alters files: try another network or endpoint."
    found = impostor(path)
    if found:
        raise AssetError(f"What came for {file.source} is {found}, not the file.", fix=again)
    size = path.stat().st_size
    if file.size >= 0 and size != file.size:
        raise AssetError(f"What came for {file.source} has {size:,} bytes, not {file.size:,}.", fix=again)
    if not file.checksum:
        return
    actual = sha256_of(path) if file.sha256 else _git_oid_of(path)
    listed = file.checksum
    if actual != listed:
        raise AssetError(
            f"What came for {file.source} has the checksum {actual[:12]}…, not {listed[:12]}…: "
            "it was altered or damaged on the way.",
            fix=again,
        )


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether ``path`` is there and holds exactly what the repository lists as ``file``."""
    if not path.is_file():
        return False
    try:
        verify(path, file)
    except AssetError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return _digest(path, hashlib.sha256())


def _git_oid_of(path: Path) -> str:
    """Git's SHA-1 of a file: it hashes a header in front of the content."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size))


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())


def _endpoint(endpoint: str) -> str:
    """The address in use. The environment is read here: huggingface_hub read it when it was imported."""
    return (endpoint or os.environ.get("HF_ENDPOINT", "") or _HUB).strip().rstrip("/")


def _token(endpoint: str) -> bool | None:
    """None: the user's token, if there is one. It belongs to the hub, and a mirror must not be given it."""
    return None if _endpoint(endpoint) in (_HUB, "https://hf.co") else False


def _api(endpoint: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(endpoint), token=_token(endpoint))


def _headers(endpoint: str) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers(token=_token(endpoint)))


def _address(file: RemoteFile, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        file.repo, file.path, repo_type=file.repo_type, revision=file.commit, endpoint=_endpoint(endpoint)
    )


def _is_true(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def _explained(subject: str, endpoint: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into a sentence about ``subject``."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        if _is_true(os.environ.get("HF_HUB_OFFLINE")):
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        yield
    # RuntimeError is what the Xet transport raises; ValueError is an answer that is not JSON.
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise _sentence(error, subject, endpoint) from error


def _sentence(error: BaseException, subject: str, endpoint: str) -> AssetError:
    import httpx2
    from huggingface_hub.errors import FileMetadataError, OfflineModeIsEnabled

    hub = _endpoint(endpoint)
    hub = "the Hugging Face hub (huggingface.co)" if hub == _HUB else hub
    chain = list(_chain(error))
    status = _status(error)
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return AssetError(
            f"{subject} was not fetched: HF_HUB_OFFLINE forbids using the network.",
            fix=f"Unset HF_HUB_OFFLINE and start again. {_NO_NETWORK_NEEDED}",
        )
    if status in (401, 403):
        return AssetError(
            f"{hub} refuses {subject} without permission (HTTP {status}), "
            "as it also does for a repository that does not exist.",
            fix="Open its page on huggingface.co, accept any terms it has, and log in with `hf auth login`.",
        )
    if status == 404:
        return AssetError(
            f"{hub} has no {subject} (HTTP 404).", fix="Check the dataset's name and the endpoint."
        )
    if status == 429:
        asked = _retry_after(error) if isinstance(error, Exception) else None
        wait = f"{asked:.0f} seconds" if asked else "some minutes"
        return AssetError(
            f"{hub} asks to slow down (HTTP 429) at {subject}.", fix=f"Wait {wait} and run it again."
        )
    if status == 408 or status >= 500:
        return AssetError(
            f"{hub} has trouble of its own (HTTP {status}) at {subject}.",
            fix=f"Try again in some minutes, or give a mirror's address as endpoint. {_NO_NETWORK_NEEDED}",
        )
    if status:
        return AssetError(f"{hub} answered HTTP {status} for {subject}.", fix="Check the endpoint.")
    if _no_space(error):
        return AssetError(
            f"The disk filled up while {subject} was fetched.",
            fix="Free some disk and run it again: it goes on from where it stopped.",
        )
    for link in chain:
        if isinstance(link, OSError) and link.filename:
            return AssetError(
                f"{link.filename} could not be written ({link.strerror}).",
                fix="Check that the folder may be written to and run it again.",
            )
    if any(isinstance(link, (_Stalled, _Cut)) for link in chain):
        return AssetError(
            f"{hub} does not deliver {subject}: {_last_words(chain)}.",
            fix=f"Run it again, it goes on from there; try a mirror's address as endpoint, {_BY_HAND}. "
            + _NO_NETWORK_NEEDED,
        )
    if any(isinstance(link, httpx2.TransportError) for link in chain):
        return AssetError(
            f"{hub} could not be reached for {subject} ({_last_words(chain)}).",
            fix="Check the connection and any proxy (HTTPS_PROXY), give a mirror's address as endpoint, "
            f"{_BY_HAND}. " + _NO_NETWORK_NEEDED,
        )
    if any(isinstance(link, (FileMetadataError, ValueError)) for link in chain):
        return AssetError(
            f"{hub} did not answer as a hub does for {subject} ({_last_words(chain)}): "
            "a login page or a proxy may be in between.",
            fix=f"Open {hub} in a browser, or give another endpoint. {_NO_NETWORK_NEEDED}",
        )
    return AssetError(
        f"{subject} could not be fetched from {hub}: {_last_words(chain)}.",
        fix=f"Run it again; check that the endpoint is a Hugging Face hub. {_NO_NETWORK_NEEDED}",
    )


def _last_words(chain: list[BaseException]) -> str:
    """What the innermost error says, on one line."""
    words = str(chain[-1]).split("\n")[0].strip().rstrip(".")
    return words or type(chain[-1]).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__
