"""Tells a file from what was saved under its name by mistake. Standard library only."""

from pathlib import Path


def impostor(path: Path) -> str:
    """What ``path`` really is, where it is one of the things that failed downloads leave behind.

    Args:
        path: A file that should be an h5 or a checkpoint.

    Returns:
        ``"an HTML page"``, ``"a Git-LFS pointer"`` or ``"an empty file"``; ``""`` if it is none of them.
    """
    with path.open("rb") as file:
        return impostor_head(file.read(512))


def impostor_head(head: bytes) -> str:
    """As `impostor`, told from the first bytes of a file, up to 512 of which are looked at."""
    head = head[:512].lstrip().lower()
    if not head:
        return "an empty file"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer"
    return ""
