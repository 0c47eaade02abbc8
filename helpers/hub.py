"""Talks to the Hugging Face hub: lists a repository, downloads a file, proves that it is the one listed.

Knows repositories and bytes, nothing of worlds or of where files belong. Every failure comes out as an
AssetError. `huggingface_hub` reads its environment (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, …) when it is
imported, so it is imported only inside the functions that need it. It never compares checksums over plain
HTTP itself: `verify` does.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import AssetError
from helpers.file_kind import impostor

_TIMEOUT_SECONDS = 10
_NO_NETWORK_NEEDED = 'The embedded world needs no network: dataset = "demo".'


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository, as its listing describes it.

    Args:
        repo: ``"owner/name"``.
        repo_type: ``"model"`` or ``"dataset"``.
        commit: The repository's commit it was listed at, in hex: it is downloaded from the same one.
        path: Path inside the repository.
        size: Bytes.
        sha256: SHA-256 of the content, in hex; empty for small files that are not kept in LFS.
        git_oid: Git's SHA-1 of the file, in hex; the only checksum of files that are not in LFS.
    """

    repo: str
    repo_type: str
    commit: str
    path: str
    size: int
    sha256: str
    git_oid: str

    @property
    def name(self) -> str:
        """The file's name, without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def source(self) -> str:
        """Where it is from, for people: ``"owner/name: folder/file"``."""
        return f"{self.repo}: {self.path}"


def list_files(repo: str, repo_type: str, endpoint: str = "") -> list[RemoteFile]:
    """Every file of a repository, with its size and checksum.

    Args:
        repo: ``"owner/name"``.
        repo_type: ``"model"`` or ``"dataset"``.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.

    Raises:
        AssetError: The hub cannot be reached, refuses, or does not have the repository.
    """
    with _explained(repo, endpoint):
        from huggingface_hub import RepoFile

        api = _api(endpoint)
        # Asked first because, unlike the listing, it is not retried for half a minute without a network.
        commit = api.repo_info(repo, repo_type=repo_type, revision="main", timeout=_TIMEOUT_SECONDS).sha
        listing = api.list_repo_tree(repo, recursive=True, repo_type=repo_type, revision=commit)
        return [
            RemoteFile(
                repo=repo,
                repo_type=repo_type,
                commit=commit,
                path=item.path,
                size=item.size,
                sha256=item.lfs.sha256 if item.lfs else "",
                git_oid=item.blob_id,
            )
            for item in listing
            if isinstance(item, RepoFile)
        ]


def download(file: RemoteFile, folder: Path, endpoint: str = "") -> Path:
    """Download ``file`` into ``folder``, which should be empty, and verify it.

    Returns:
        Where it lies: ``folder / file.path``.

    Raises:
        AssetError: It cannot be fetched, or what came is not what the repository lists; what came is deleted.
    """
    with _explained(file.source, endpoint):
        downloaded = _api(endpoint).hf_hub_download(
            file.repo, file.path, repo_type=file.repo_type, revision=file.commit, local_dir=folder
        )
    path = Path(downloaded)
    try:
        verify(path, file)
    except AssetError:
        path.unlink()
        raise
    return path


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
    if size != file.size:
        raise AssetError(f"What came for {file.source} has {size:,} bytes, not {file.size:,}.", fix=again)
    actual = sha256_of(path) if file.sha256 else _git_oid_of(path)
    listed = file.sha256 or file.git_oid
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


def _api(endpoint: str) -> Any:
    from huggingface_hub import HfApi

    # The user's token belongs to the hub: a mirror named here must not be given it.
    return HfApi(endpoint=endpoint or None, token=False if endpoint else None)


@contextmanager
def _explained(subject: str, endpoint: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into a sentence about ``subject``."""
    import httpx2

    try:
        yield
    # RuntimeError is what the Xet transport raises; ValueError is an answer that is not JSON.
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise _sentence(error, subject, endpoint) from error


def _sentence(error: BaseException, subject: str, endpoint: str) -> AssetError:
    import httpx2
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    hub = endpoint or "the Hugging Face hub (huggingface.co)"
    chain = list(_chain(error))
    responses = [link.response for link in chain if isinstance(link, HfHubHTTPError)]
    status = responses[0].status_code if responses else 0
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
        return AssetError(
            f"{hub} asks to slow down (HTTP 429) at {subject}.", fix="Wait some minutes and run it again."
        )
    if status >= 500:
        return AssetError(
            f"{hub} has trouble of its own (HTTP {status}) at {subject}.",
            fix=f"Try again in some minutes, or give a mirror's address as endpoint. {_NO_NETWORK_NEEDED}",
        )
    if status:
        return AssetError(f"{hub} answered HTTP {status} for {subject}.", fix="Check the endpoint.")
    if any(isinstance(link, OSError) and link.errno == 28 for link in chain):
        return AssetError(
            f"The disk filled up while {subject} was fetched.", fix="Free some disk and run it again."
        )
    if any(isinstance(link, httpx2.TransportError) for link in chain):
        return AssetError(
            f"{hub} could not be reached for {subject} ({_last_words(chain)}).",
            fix="Check the connection and any proxy (HTTPS_PROXY), or give a mirror's address as endpoint. "
            + _NO_NETWORK_NEEDED,
        )
    if any(isinstance(link, (FileMetadataError, ValueError)) for link in chain):
        return AssetError(
            f"{hub} did not answer as a hub does for {subject}: a login page or a proxy may be in between.",
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
