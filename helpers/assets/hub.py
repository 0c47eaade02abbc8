"""Asks a Hugging Face hub or mirror: which files a repository has, and the size and checksum of one.

Must not know worlds, or where files belong on this disk. `huggingface_hub` reads its environment (HF_HOME,
HF_HUB_OFFLINE, …) when it is imported, so only functions import it.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from helpers.errors import AssetError
from helpers.worlds import HUB

T = TypeVar("T")

_DEMO = 'An embedded world needs no network: dataset = "crafter".'
_BY_HAND = f"or fetch the file with a browser and give its path as import_from. {_DEMO}"


@dataclass(frozen=True)
class Patience:
    """How long a hub may keep us waiting. With the defaults a hopeless one is given up within a minute."""

    attempts: int = 5  # tries in a row without substantial bytes
    pause: float = 1.0  # seconds before the second try; doubled for each further one
    longest_pause: float = 20.0  # seconds; a hub that asks for more (Retry-After) is given up
    budget: float = 30.0  # seconds without substantial bytes after which no further try begins
    stall: float = 15.0  # seconds in which least_bytes must come; a slower try is broken off
    least_bytes: int = 30_000


DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository; size and what follows are as `Hub.look_up` finds them."""

    repo: str  # "owner/name"
    repo_type: str  # "model" or "dataset"
    commit: str  # or branch
    path: str  # inside the repository
    size: int = -1  # bytes; -1 where the hub does not say
    sha256: str = ""  # in hex; empty for small files that are not kept in LFS
    git_oid: str = ""  # git's SHA-1, in hex; the only checksum of files that are not in LFS
    xet: bool = False  # whether the hub also offers it by Xet

    @property
    def name(self) -> str:
        """The file's name, without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def source(self) -> str:
        """Origin for people: ``"owner/name: folder/file"``."""
        return f"{self.repo}: {self.path}"

    @property
    def checksum(self) -> str:
        """SHA-256, else git's SHA-1, else ``""``: nothing is published."""
        return self.sha256 or self.git_oid


@dataclass(frozen=True)
class Hub:
    """A hub or mirror; what it refuses or fails to do is an `AssetError` that says what to do."""

    endpoint: str = ""  # its address; empty for HF_ENDPOINT or the hub itself
    patience: Patience = DEFAULT_PATIENCE

    @property
    def address(self) -> str:
        """The address in use; huggingface_hub itself read the environment when it was imported."""
        return (self.endpoint or os.environ.get("HF_ENDPOINT", "") or HUB).strip().rstrip("/")

    @property
    def token(self) -> bool | None:
        """None for the user's token: it belongs to the hub, and a mirror must not be given it."""
        return None if self.address in (HUB, "https://hf.co") else False

    @property
    def client(self) -> Any:
        """huggingface_hub's client."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.address, token=self.token)

    def url(self, file: RemoteFile) -> str:
        """The address of a file's content."""
        from huggingface_hub import hf_hub_url

        where = {"repo_type": file.repo_type, "revision": file.commit, "endpoint": self.address}
        return hf_hub_url(file.repo, file.path, **where)

    def list_files(self, repo: str, repo_type: str, revision: str = "main") -> list[RemoteFile]:
        """The files of a repository, without size and checksum; none where the endpoint has no listings."""
        where: dict[str, Any] = {"repo_type": repo_type, "revision": revision}

        def by_revision() -> list[RemoteFile]:
            info = self.client.repo_info(repo, timeout=self.patience.stall, **where)
            commit = info.sha or revision
            return [RemoteFile(repo, repo_type, commit, file.rfilename) for file in info.siblings or ()]

        def by_tree() -> list[RemoteFile]:
            names = self.client.list_repo_files(repo, **where)
            return [RemoteFile(repo, repo_type, revision, name) for name in names]

        for listing in (by_revision, by_tree):  # a mirror may serve files and have one of these, or neither
            try:
                if files := self._ask(repo, listing):
                    return files
            except AssetError as error:
                status, headers = _answer(error)
                if status not in (404, 405, 501) or headers.get("X-Error-Code") == "RepoNotFound":
                    raise
        return []

    def look_up(self, file: RemoteFile) -> RemoteFile:
        """The same file with its commit, size and checksum, as the hub's answer to HEAD states them.

        For files in LFS, which all large ones are, the linked ETag is the SHA-256 of the content: so even a
        first download is checked against the repository. Small files have git's SHA-1 as ETag.
        """
        from huggingface_hub import get_hf_file_metadata

        def head() -> RemoteFile:
            endpoint, timeout = self.endpoint or None, self.patience.stall
            metadata = get_hf_file_metadata(self.url(file), self.token, timeout, endpoint=endpoint)
            if not metadata.commit_hash:
                raise ValueError("no X-Repo-Commit")
            etag = (metadata.etag or "").lower()
            return replace(
                file,
                commit=metadata.commit_hash,
                size=-1 if metadata.size is None else metadata.size,
                sha256=etag if re.fullmatch("[0-9a-f]{64}", etag) else "",
                git_oid=etag if re.fullmatch("[0-9a-f]{40}", etag) else "",
                xet=metadata.xet_file_data is not None,
            )

        return self._ask(file.source, head)

    def _ask(self, subject: str, question: Callable[[], T]) -> T:
        """The hub's answer about ``subject``, asked again as `Retries` allow, or an `AssetError`."""
        retries = Retries(self.patience)
        with self.as_asset_error(subject):
            while True:
                try:
                    return self.with_timeout(question)
                except Exception as error:
                    retries.wait_after(error)

    def with_timeout(self, ask: Callable[[], T]) -> T:
        """The answer of ``ask``, or `Stalled`: no timeout of the client's covers a name that hangs."""
        answer = start(ask)
        if not wait([answer], self.patience.stall).done:
            raise Stalled(f"nothing came for {self.patience.stall:g} s")
        return answer.result()

    @contextmanager
    def as_asset_error(self, subject: str) -> Iterator[None]:
        """Turn whatever the client raises into an `AssetError` about ``subject``."""
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            if is_set("HF_HUB_OFFLINE"):
                raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
            yield
        # RuntimeError is what the Xet transport raises; ValueError is an answer of another form than a hub's.
        except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
            hub = "the Hugging Face hub (huggingface.co)" if self.address == HUB else self.address
            what, fix = _message(error, subject, hub)
            raise AssetError(what, fix=fix) from error


class Cut(OSError):
    """A try ended early; the next one continues."""


class Stalled(TimeoutError):
    """Nothing came, or next to nothing, for `Patience.stall` seconds."""


class Retries:
    """Decides after a failure whether to try again, and waits; new ones forget earlier failures."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._failures, self._since = patience, 0, time.monotonic()

    def wait_after(self, error: Exception) -> None:
        """Wait for the next try, or raise ``error`` if there is none."""
        import httpx2

        patience, pause = self._patience, _retry_after(error)
        if pause is None:
            pause = patience.pause * 2**self._failures * random.uniform(1, 1.25)
            pause = min(pause, patience.longest_pause)
        self._failures += 1
        # A refused connection or an unknown name seldom recovers within seconds.
        attempts = min(patience.attempts, 3 if isinstance(error, httpx2.ConnectError) else 99)
        hopeless = self._failures >= attempts or time.monotonic() - self._since + pause > patience.budget
        if hopeless or pause > patience.longest_pause or not _is_transient(error):
            raise error
        time.sleep(pause)


def start(work: Callable[[], T]) -> "Future[T]":
    """Run ``work`` in a thread that, unlike an executor's, does not hold up the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_set(variable: str) -> bool:
    """Whether an environment variable is switched on, as huggingface_hub reads it."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def no_space(error: BaseException) -> bool:
    """Whether the disk or the user's quota is full (ENOSPC, EDQUOT)."""
    return any(isinstance(link, OSError) and link.errno in (28, 122) for link in _chain(error))


def _is_transient(error: Exception) -> bool:
    import httpx2

    if (status := _answer(error)[0]) or no_space(error):
        return status in (408, 425, 429, 500, 502, 503, 504)
    final = isinstance(error, (httpx2.UnsupportedProtocol, httpx2.ProxyError))
    if final or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    return isinstance(error, (Cut, Stalled, httpx2.TransportError))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def _answer(error: BaseException) -> tuple[int, Mapping[str, str]]:
    """Status and headers of the HTTP response that an error is about; 0 and none where there is none."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    response = next((response for response in responses if response is not None), None)
    return (0, {}) if response is None else (response.status_code, response.headers)


def _retry_after(error: BaseException) -> float | None:
    asked = _answer(error)[1].get("Retry-After", "").strip()  # seconds
    return float(asked) if asked.isdigit() else None


def _message(error: BaseException, subject: str, hub: str) -> tuple[str, str]:
    """What happened and what to do: by the HTTP status, if the hub answered, else by the errors' kinds."""
    import httpx2
    from huggingface_hub.errors import FileMetadataError, OfflineModeIsEnabled

    chain, (status, _) = list(_chain(error)), _answer(error)
    detail = str(chain[-1]).split("\n")[0].strip().rstrip(".") or type(chain[-1]).__name__
    unwritable = [link for link in chain if isinstance(link, OSError) and link.filename]

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if caused_by(OfflineModeIsEnabled):
        what = f"{subject} was not fetched: HF_HUB_OFFLINE forbids using the network."
        return what, f"Unset HF_HUB_OFFLINE and start again. {_DEMO}"
    if status in (401, 403):
        what = f"{hub} refuses {subject} without permission (HTTP {status}), or it does not exist."
        return what, "Open its page on huggingface.co, accept any terms it has, log in with `hf auth login`."
    if status == 404:
        return f"{hub} has no {subject} (HTTP 404).", "Check the dataset's name and the endpoint."
    if status == 429:
        pause = f"{asked:.0f} seconds" if (asked := _retry_after(error)) else "some minutes"
        return f"{hub} asks to slow down (HTTP 429) at {subject}.", f"Wait {pause} and run it again."
    if status == 408 or status >= 500:
        what = f"{hub} has trouble of its own (HTTP {status}) at {subject}."
        return what, f"Try again in some minutes, or give a mirror's address as endpoint. {_DEMO}"
    if status:
        return f"{hub} answered HTTP {status} for {subject}.", "Check the endpoint."
    if no_space(error):
        what = f"The disk filled up while {subject} was fetched."
        return what, "Free some disk and run it again: it goes on from where it stopped."
    if unwritable:
        what = f"{unwritable[0].filename} could not be written ({unwritable[0].strerror})."
        return what, "Check that the folder may be written to and run it again."
    if caused_by(Stalled, Cut):
        what = f"{hub} does not deliver {subject}: {detail}."
        return what, f"Run it again, it goes on from there; try a mirror's address as endpoint, {_BY_HAND}"
    if caused_by(httpx2.TransportError):
        fix = "Check the connection and any proxy (HTTPS_PROXY), give a mirror's address as endpoint, "
        return f"{hub} could not be reached for {subject} ({detail}).", fix + _BY_HAND
    if caused_by(FileMetadataError, ValueError):
        what = f"{hub} did not answer as a hub does for {subject} ({detail})"
        fix = f"Open {hub} in a browser, or give another endpoint. {_DEMO}"
        return f"{what}: a login page or a proxy may be in between.", fix
    what = f"{subject} could not be fetched from {hub}: {detail}."
    return what, f"Run it again; check that the endpoint is a Hugging Face hub. {_DEMO}"
