"""What a file really is: by its first bytes, by its SHA-256. Standard library only."""

import hashlib
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
