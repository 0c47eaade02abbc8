"""A world's verified files: the record that locks them, and how files get under their names.

The record, ``data/<world>_assets.json``, proves later that files are sound, without a network. Must not know
where files come from: fetched and imported ones land alike.
"""

import itertools
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers.assets.find import RUN_TIME, SuitePaths, fetched_dataset_path, weights_file
from helpers.errors import AssetError
from helpers.files import is_share, replace_file, sha256_of
from helpers.report import write_json
from helpers.run_folder import ROOT
from helpers.worlds import World, world

log = logging.getLogger("runbook.assets")


class Record:
    """A world's fetched files under ``root``; none if nothing was fetched, or the record cannot be read."""

    def __init__(self, chosen: World, root: Path) -> None:
        self.chosen, self.root = chosen, root
        self.path = root / "data" / f"{chosen.name}_assets.json"
        # By part: path under root, size, SHA-256, origin and time stamps.
        self.entries: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
            entries = json.loads(self.path.read_text(encoding="utf-8")).items()
            sound = {part: one for part, one in entries if {"path", "size", "sha256"} <= one.keys()}
            self.entries = {part: one for part, one in sound.items() if not is_share(one["path"])}

    def file(self, part: str) -> Path:
        """Where a recorded part lies."""
        return self.root / self.entries[part]["path"]

    def current_sha256(self, part: str, verify: bool = False) -> str:
        """SHA-256 of a recorded file as it is now; ``""`` if it is gone or of another size.

        While its time stamps are the recorded ones the recorded hash is returned, unless ``verify``.
        """
        path, entry = self.file(part), self.entries[part]
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return ""
        return sha256_of(path) if verify or self._touched(part) else entry["sha256"]

    def recognise(self, part: str, verify: bool) -> bool:
        """Whether a part's file is as it was fetched; time stamps that are out of date are recorded anew."""
        entry = self.entries.get(part)
        if not entry or self.current_sha256(part, verify) != entry["sha256"]:
            return False
        if self._touched(part):
            with suppress(OSError):  # a folder that may only be read costs a hash each time, no more
                self.lock(part, self.file(part), entry)
        return True

    def _touched(self, part: str) -> bool:
        return not _stamps(self.file(part)).items() <= self.entries[part].items()

    def require_locked(self, part: str, what: str, sha256: str) -> None:
        """Raise an `AssetError` about the file ``what`` unless its SHA-256 is the locked one."""
        if sha256 != (locked := self.entries[part]["sha256"]):
            hashes = f"it has the sha256 {sha256[:12]}…, and data/{self.path.name} locks {locked[:12]}…."
            fix = "If the change is meant, accept it with update = True; the old file is set aside."
            raise AssetError(f"{what} is not what was fetched before: {hashes}", fix=fix)

    def lock(self, part: str, path: Path, facts: Mapping[str, Any]) -> None:
        """Record a verified file; ``facts`` are its sha256, checksum (published or learned) and origin."""
        place = {"path": path.relative_to(self.root).as_posix(), "size": path.stat().st_size}
        self.entries[part] = {**place, **facts, **_stamps(path)}
        write_json(self.path, self.entries)

    def incoming(self, part: str) -> Path:
        """The folder in which a part arrives: on the disk where it belongs, so that its move is one step."""
        return self.root / ("data" if part == "dataset" else "results") / ".incoming" / self.chosen.name

    def target(self, part: str, name: str) -> Path:
        """Where a part belongs; ``name`` is a checkpoint's."""
        if part == "dataset":
            return fetched_dataset_path(self.chosen, self.root)
        folder = "actions" if part == "latent_actions" else part  # as published
        return self._run_folder / folder / "checkpoints" / self.chosen.suite / name

    @cached_property
    def _run_folder(self) -> Path:
        """The newest results/<time>_<suite>, or a new one: the parts of a suite lie together."""
        results, name = self.root / "results", self.chosen.name
        runs = [path.name for path in results.glob(f"*_{name}") if RUN_TIME.match(path.name)]
        return results / max(runs, default=f"{time.strftime('%Y%m%d_%H%M%S')}_{name}")

    def require_space(
        self, sizes: Mapping[str, tuple[str, int]], free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        """Raise an `AssetError` where files (name and bytes by part) do not fit on their disks."""
        needed: Counter[int] = Counter()  # bytes by disk: data/ and results/ may be on different ones
        folders: dict[int, Path] = {}
        for part, (name, size) in sizes.items():
            arrived = self.incoming(part) / f"{name}.part"
            folder = next(folder for folder in self.incoming(part).parent.parents if folder.exists())
            disk = folder.stat().st_dev
            needed[disk] += max(0, size - (arrived.stat().st_size if arrived.exists() else 0))
            folders[disk] = folder
        for disk, folder in folders.items():
            free = free_bytes(folder) if free_bytes else shutil.disk_usage(folder).free
            missing = needed[disk]
            asked = missing + missing // 10  # a tenth more, so that the run which follows has room to work
            if free < asked:
                what = f"The files to fetch take {megabytes(missing)}; {folder} has {megabytes(free)} free."
                raise AssetError(what, fix=f"Free at least {megabytes(asked - free)} there and run it again.")


def _stamps(path: Path) -> dict[str, int]:
    status = path.stat()  # the time of modification can be set back; that of the entry (on POSIX) cannot
    return {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def recorded_checksums(chosen: World, root: Path = ROOT) -> dict[Path, str]:
    """The SHA-256, in hex, of a world's files when they were fetched."""
    return {path: record.entries[part]["sha256"] for path, (record, part) in _recorded(chosen, root).items()}


def _recorded(chosen: World, root: Path) -> dict[Path, tuple[Record, str]]:
    """The record and part of each fetched file; another repository's suite may use the usual dataset."""
    records = [Record(one, root) for one in {world(chosen.suite, root), chosen}]
    return {record.file(part): (record, part) for record in records for part in record.entries}


def verified_hashes(chosen: World, paths: SuitePaths, root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of a suite's files by part (of the weights, for a directory); raises if a fetched one changed.

    A recorded file whose size and time stamps are unchanged is not read; any other file is read once.
    """
    recorded, hashes = _recorded(chosen, root), {}
    for part, path in paths.items():
        if path not in recorded:
            hashes[part] = sha256_of(weights_file(path))
            continue
        record, known = recorded[path]
        hashes[part] = record.current_sha256(known)
        if hashes[part] != record.entries[known]["sha256"]:
            fix = f'Run 04_assets with dataset = "{chosen.name}": it is set aside and fetched again.'
            raise AssetError(f"{path} has changed since it was fetched.", fix=fix)
    return hashes


@contextmanager
def one_writer(chosen: World, root: Path) -> Iterator[Record]:
    """Let one process at a time write a world's files; yields their record, read once it is our turn.

    An `AssetError` says that the other process has received nothing for long, or what the disk refused.
    """
    from huggingface_hub.utils import WeakFileLock  # the system's own lock, which ends with its process

    def received() -> int:
        with suppress(FileNotFoundError):  # a file that has been moved into place meanwhile
            return sum(path.stat().st_size for path in root.glob(f"*/.incoming/{chosen.name}/**/*"))
        return -1

    try:
        (root / "data").mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            while True:
                before = received()
                with suppress(TimeoutError):  # filelock's own Timeout is one
                    stack.enter_context(WeakFileLock(root / "data" / f".{chosen.name}.lock", timeout=120))
                    break
                if received() == before:
                    what = f"Another process fetches {chosen.title} and received nothing for 120 s."
                    fix = "Wait for it, or close the other notebook or terminal, and run this again."
                    raise AssetError(what, fix=fix)
            yield Record(chosen, root)
    except OSError as error:
        what = f"{error.filename or root} could not be written or read ({error.strerror or error})."
        fix = "Close what has the file open, check the folder's permissions, and run it again."
        raise AssetError(what, fix=fix) from error


def move_into_place(arrived: Path, path: Path) -> None:
    """Move a verified file to ``path`` in one step; a file that was there is set aside, never deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        asides = (path.with_name(f"{path.name}.aside{number}") for number in itertools.count(1))
        aside = replace_file(path, next(aside for aside in asides if not aside.exists()))
        log.info("%s was not what it should be and was set aside as %s", path, aside.name)
    replace_file(arrived, path)


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.1f} MB"
