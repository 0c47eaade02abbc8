"""Takes over files of a world that a browser fetched, or another computer. Must not use the network."""

import re
import shutil
import zipfile
import zlib
from pathlib import Path

from helpers.assets.find import step_in_name
from helpers.assets.record import Record, move_into_place, one_writer
from helpers.errors import AssetError, DatasetError
from helpers.files import expanded, impostor, sha256_of
from helpers.run_folder import ROOT
from helpers.worlds import KINDS, WORLDS, world

_BROWSER_COPY = re.compile(r" ?\(\d+\)$")


def import_files(
    name: str, source: str | Path, root: str | Path = ROOT, *, update: bool = False
) -> dict[str, Path]:
    """Copy files of a world, fetched by other means, from a file or folder to where they belong, by part.

    A file's part is told by its SHA-256 where the record locks it, else by its name (a browser's `` (1)``
    does no harm). With ``update`` a file may differ from what the record locks. An `AssetError` where no
    file fits, or one is damaged or not what the record locks.
    """
    chosen, source = world(name, Path(root)), expanded(source)
    if chosen.embedded or chosen.trained:
        how = "embedded" if chosen.embedded else "trained here"
        raise AssetError(f"{chosen.title} is {how} and needs no files.", fix="Leave import_from empty.")
    with one_writer(chosen, Path(root)) as record:
        files = sorted(source.iterdir()) if source.is_dir() else [source]
        parts = {path: _part_of(path, record) for path in files}
        taken = {part: _import(part, path, record, update) for path, part in parts.items() if part}
    if not taken:
        fix = f"Give {chosen.dataset_file}, a .pth whose name says its kind and step, or a folder of them."
        raise AssetError(f"{source} holds no file of {chosen.title}.", fix=fix)
    return taken


def _part_of(path: Path, record: Record) -> str:
    """Which part a file is, by content or by name; ``""`` if none."""
    if path.suffix.lower() not in (".pth", ".h5") or not path.is_file():
        return ""
    checksum, stem = sha256_of(path), _BROWSER_COPY.sub("", path.stem)
    for part, entry in record.entries.items():
        if entry["sha256"] == checksum:
            return part
    if path.suffix.lower() == ".h5":
        return "dataset" if stem == Path(record.chosen.dataset_file).stem else ""
    if any(other != record.chosen.suite and stem.lower().startswith(f"{other}_") for other in WORLDS):
        return ""
    return next((kind for kind in KINDS if step_in_name(stem, kind) is not None), "")


def _import(part: str, path: Path, record: Record, update: bool) -> Path:
    locked = None if update else record.entries.get(part)
    place = record.file(part) if locked else record.target(part, f"{_BROWSER_COPY.sub('', path.stem)}.pth")
    record.require_space({part: (place.name, path.stat().st_size)})
    folder = record.incoming(part)
    folder.mkdir(parents=True, exist_ok=True)
    copy = Path(shutil.copyfile(path, folder / f"{place.name}.import"))
    checksum = sha256_of(copy)
    try:
        if locked:
            record.require_locked(part, place.name, checksum)
        else:
            _check_content(part, copy)
    except AssetError:
        copy.unlink()
        raise
    move_into_place(copy, place)
    origin = {"source": f"imported from {path.name}", "repo_path": "", "commit": ""}
    record.lock(part, place, locked or {"sha256": checksum, "checksum": "learned", **origin})
    return place


def _check_content(part: str, path: Path) -> None:
    """Prove that a file is at least whole: nothing else vouches for one that no repository listed."""
    from helpers.assets.dataset import FrameDataset

    if kind := impostor(path):
        raise AssetError(f"{path.name} is {kind}.", fix="Download it again.")
    try:
        if part == "dataset":
            return FrameDataset(path).close()
        with zipfile.ZipFile(path) as archive:
            damage = archive.testzip()
    except DatasetError as error:
        raise AssetError(error.what, fix=error.fix) from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error):
        damage = "its directory"
    if damage:
        raise AssetError(f"{path.name} is damaged ({damage}).", fix="Download it again.")
