"""Files: what one really is, how one is written whole or not at all, and by one process at a time.

Standard library only.
"""

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


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


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` as the home folder; as it is where the system knows no such home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, pathlib's raises a RuntimeError there


def is_share(path: str) -> bool:
    r"""Whether Windows would look for a path on another computer: ``\\server\share``, ``//server/share``.

    Merely opening such a path sends that computer the user's name and proof of the password. The device paths
    that reach the same, such as ``\\?\UNC\server\share``, begin alike.
    """
    return re.match(r"\s*([\\/]{2}|\\\?\?\\)", path) is not None


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


@contextlib.contextmanager
def alone(lock: Path, wait: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time into the block; ``wait`` is told once who is in it, and since when.

    The lock is the system's own, on the file ``lock``. It ends with the process, however that ends, and with
    what `helpers.commands.run_step` started in the block, for that outlives a process that is killed.
    """
    who = ""
    while (file := _locked(lock)) is None:
        with contextlib.suppress(OSError):
            if not who and (who := lock.read_text(encoding="utf-8")):
                wait(who)
        time.sleep(0.2)
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
        os.set_inheritable(file.fileno(), True)
        yield


def _locked(path: Path) -> BinaryIO | None:
    """The file, opened and locked; None where another process has it."""
    if sys.platform == "win32":
        try:  # a program that a killed process left has inherited the open file, though not its lock
            path.unlink(missing_ok=True)
        except PermissionError:
            return None
    file = path.open("a+b", buffering=0)
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(
                file.fileno(), 2**20, os.SEEK_SET
            )  # what is locked cannot be read: not where it says who
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:  # a network's disk without locks: out of turn is better than not at all
        pass
    return file
