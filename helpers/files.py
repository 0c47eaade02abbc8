"""Files: what one really is, and how one is written whole or not at all. Standard library only."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path


def impostor(path: Path) -> str:
    """What a failed download left under a file's name, such as ``"an HTML page"``; ``""`` if it is none."""
    with path.open("rb") as file:
        return impostor_head(file.read(512))


def impostor_head(head: bytes) -> str:
    """As `impostor`, by the first bytes of a file; 512 are enough."""
    head = head[:512].lstrip().lower()
    if not head:
        return "an empty file"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page"
    return "a Git-LFS pointer" if head.startswith(b"version https://git-lfs") else ""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    return hash_of(path, hashlib.sha256())


def hash_of(path: Path, digest: "hashlib._Hash") -> str:
    """Hash of a file's content, in hex, by a digest that may have begun with other bytes."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def replace_file(source: Path, target: Path, patience: float = 2.0) -> Path:
    """Move ``source`` to ``target`` in one step, in place of a file that is there; returns ``target``.

    Windows refuses while any program has one of them open, as virus scanners have for a moment: then it is
    tried again for ``patience`` seconds. ``source`` may be a folder where there is no ``target`` yet.

    Raises:
        OSError: It is refused for another reason, or still.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return source.replace(target)
        except PermissionError as error:
            # Access denied, sharing violation; elsewhere a refusal is about permissions, which stay.
            if getattr(error, "winerror", None) not in (5, 32) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` for the block to write: what lies there then takes the place of ``path``.

    Where the block fails, or the process is killed, ``path`` is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may write one file
    try:
        yield partial
        replace_file(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
