"""Opens a suite of unchanged files, and keeps its checkpoints as safetensors. Must not use the network."""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.assets.find import EMBEDDED, SuitePaths, weights_file
from helpers.assets.record import verified_hashes
from helpers.errors import CheckpointError
from helpers.files import sha256_of
from helpers.run_folder import ROOT
from helpers.worlds import World

if TYPE_CHECKING:
    from helpers.worldmodel import Suite

log = logging.getLogger("runbook.assets")


def open_suite(
    chosen: World, paths: SuitePaths, root: Path = ROOT, device: str = "cpu"
) -> tuple["Suite", dict[str, str]]:
    """Load a suite, and the SHA-256 of its published files by part; no file is hashed twice.

    Raises what `verified_hashes` and `helpers.worldmodel.load_suite` do.
    """
    from helpers.worldmodel import load_suite

    hashes = verified_hashes(chosen, paths, root)
    kept = safe_checkpoints(paths, root, hashes, prove=False)
    try:
        return load_suite(**kept, device=device), hashes
    except CheckpointError:  # a kept form was damaged: it is made again
        return load_suite(**safe_checkpoints(paths, root, hashes), device=device), hashes


def safe_checkpoints(
    paths: SuitePaths, root: str | Path = ROOT, hashes: Mapping[str, str] | None = None, prove: bool = True
) -> dict[str, Path]:
    """A suite's checkpoints in the form that holds no code: what `load_suite` should be given.

    Foreign pickles are read once, under an exact allow-list, and kept as safetensors and JSON under
    ``root/results/.converted``, by the SHA-256 of their source; a kept form that is damaged, or was altered,
    is made again. Where nothing can be written, and for the embedded world, the source is used.

    ``hashes`` are from `verified_hashes`; else the sources are hashed. With ``prove`` kept forms are read to
    see that they are whole, as `load_suite` does anyway. A `CheckpointError` where one cannot be used.
    """
    from helpers.worldmodel.checkpoint import KINDS, read_checkpoint, write_converted

    safe: dict[str, Path] = {}
    for kind in KINDS:
        path = safe[kind] = getattr(paths, kind)
        if path.is_relative_to(EMBEDDED) or path.suffix == ".safetensors":
            continue
        source = hashes[kind] if hashes else sha256_of(weights_file(path))
        if path.is_dir():
            state = path / "state.pt"
            source += sha256_of(state) if state.exists() else ""
            source = hashlib.sha256(source.encode()).hexdigest()
        kept = Path(root) / "results" / ".converted" / f"{source}.safetensors"
        with suppress(OSError, ValueError, RecursionError, AttributeError, CheckpointError):
            about = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
            if prove:
                read_checkpoint(kept, kind)
            if about.get("source") == source and kept.is_file():
                safe[kind] = kept
                continue
        checkpoint = read_checkpoint(path, kind)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_converted(checkpoint, kept, source)
            safe[kind] = kept
        except OSError as error:
            log.info("%s is read as it is, since %s cannot be written (%s)", path, kept, error.strerror)
    return safe
