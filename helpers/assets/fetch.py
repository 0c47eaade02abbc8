"""A suite's files: where each lies on this disk, and how missing ones get there.

The layout, under the root, is that of the public project, so that its files and ours are interchangeable:

    data/<file>.h5                                                           a dataset
    results/<YYYYmmdd_HHMMSS>_<suite>/<type>/checkpoints/<suite>/<file>.pth  a published checkpoint
    results/<YYYYmmdd_HHMMSS>/<stage>/checkpoints/<stage>_step_<n>[….pth]    one of the user's own training

What was fetched is recorded in ``data/<suite>_assets.json`` with its checksums, so that a later run proves
the files sound without a network. Reading what is *in* a checkpoint is `helpers.worldmodel`'s business.
"""

import hashlib
import itertools
import json
import logging
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers.assets import hub
from helpers.assets.dataset import FrameDataset, lively_starts
from helpers.assets.hub import RemoteFile, sha256_of
from helpers.errors import AssetError, CheckpointError, DatasetError
from helpers.file_kind import impostor
from helpers.pictures import contact_sheet
from helpers.report import Check, write_json
from helpers.run_folder import ROOT
from helpers.worlds import KINDS, WORLDS, World, world

if TYPE_CHECKING:
    from PIL import Image

Form = Literal["file", "directory"]

EMBEDDED = ROOT / "helpers" / "demo"
"""The embedded world's folder."""

PARTS = ("dataset", *KINDS)
"""What a suite is made of: the dataset and one checkpoint of each kind."""

# The folder of each kind in the published layout.
_TYPE = {"video_tokenizer": "video_tokenizer", "latent_actions": "actions", "dynamics": "dynamics"}
# The kind's name must be whole (`lam` is also the end of `slam`) and stand right before the step.
_CHECKPOINT = {
    kind: re.compile(rf"(?:^|_)(?:{'|'.join(aliases)})_step_(\d+)(?:_|$)", re.IGNORECASE)
    for kind, aliases in KINDS.items()
}
_RUN_TIME = re.compile(r"\d{8}_\d{6}")
_WEIGHTS_IN_DIRECTORY = "model_state_dict.pt"
# Names come from a repository anyone may have written to: none may lead out of its folder, on Windows either.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.pth")
_BROWSER_COPY = re.compile(r" ?\(\d+\)$")
_WRITER_SILENT_SECONDS = 120

log = logging.getLogger("runbook.assets")


@dataclass(frozen=True)
class SuitePaths:
    """Where a suite's four parts lie. Checkpoints are files or directories (see `checkpoint_form`)."""

    dataset: Path
    video_tokenizer: Path
    latent_actions: Path
    dynamics: Path

    def items(self) -> Iterator[tuple[str, Path]]:
        """Each part's name with its path."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        return "\n".join(f"{part:<16} {path}" for part, path in self.items())


def prepare_assets(
    dataset: str,
    download: bool = True,
    endpoint: str = "",
    video_tokenizer_path: str = "",
    latent_actions_path: str = "",
    dynamics_path: str = "",
    use_latest_checkpoints: bool = False,
    root: Path = ROOT,
    *,
    verify: bool = False,
    update: bool = False,
    import_from: str = "",
    patience: hub.Patience = hub.DEFAULT_PATIENCE,
) -> tuple[SuitePaths, list[Check]]:
    """Find a suite, after fetching what is not here yet; the one call of 04_assets.

    A checkpoint whose path is given is not fetched. Where fetching fails and yet every part is here (put
    there by hand, say), that is a warning.

    Args:
        dataset: A world's name, such as ``"demo"`` or ``"sonic"``.
        download: Whether the network may be used.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.
        video_tokenizer_path: As in `find_suite`.
        latent_actions_path: As in `find_suite`.
        dynamics_path: As in `find_suite`.
        use_latest_checkpoints: As in `find_suite`.
        root: The folder that holds ``data/`` and ``results/``.
        verify: Hash every file that is here, whatever its time stamps say.
        update: Take what the hub has now instead of what was locked at the first fetch.
        import_from: A file or folder that a browser fetched, taken over first (see `import_files`).
        patience: How long the hub may keep us waiting.

    Returns:
        The paths, and the checks: how the files came to be here, then `describe_assets`' row for each.

    Raises:
        AssetError: A part is not here and cannot be fetched.
    """
    chosen = world(dataset)
    given = (video_tokenizer_path, latent_actions_path, dynamics_path)
    failure: AssetError | None = None
    if import_from:
        import_files(dataset, import_from, root, update=update)
    if download:
        wanted = ["dataset", *(kind for kind, path in zip(KINDS, given, strict=True) if not path)]
        try:
            fetch_suite(dataset, root, endpoint, wanted, verify=verify, update=update, patience=patience)
        except AssetError as error:
            failure = error
    try:
        paths = find_suite(dataset, root, *given, use_latest_checkpoints=use_latest_checkpoints)
    except AssetError as error:
        raise (failure or error) from None
    source = _source_check(chosen, download, failure)
    checks = [source, *describe_assets(paths, recorded_checksums(chosen, root))]
    return paths, [*checks, *_lock_check(chosen, root)]


def find_suite(
    name: str,
    root: Path = ROOT,
    video_tokenizer_path: str = "",
    latent_actions_path: str = "",
    dynamics_path: str = "",
    use_latest_checkpoints: bool = False,
) -> SuitePaths:
    """Where a suite's parts lie on this disk. Uses no network and opens nothing.

    For each checkpoint: a path given wins; else, with ``use_latest_checkpoints``, the latest of its kind
    under ``results/`` of any run; else the embedded world's own; else the latest one of this suite under
    ``results/``.

    Args:
        name: A world's name.
        root: The folder that holds ``data/`` and ``results/``.
        video_tokenizer_path: A .pth or a checkpoint directory; a relative path counts from ``root``. Empty
            to search.
        latent_actions_path: Likewise.
        dynamics_path: Likewise.
        use_latest_checkpoints: Take the newest checkpoints, whichever world they were trained on.

    Raises:
        ParameterError: There is no such world.
        AssetError: A part is not there; the message says where it was looked for.
    """
    chosen = world(name)
    given = dict(zip(KINDS, (video_tokenizer_path, latent_actions_path, dynamics_path), strict=True))
    dataset = EMBEDDED / chosen.dataset_file if chosen.embedded else root / "data" / chosen.dataset_file
    if not dataset.is_file():
        raise AssetError(f"The dataset of {chosen.title} is not at {dataset}.", fix=_how_to_get(chosen))
    checkpoints = {
        kind: _find_checkpoint(chosen, kind, root, given[kind], use_latest_checkpoints) for kind in KINDS
    }
    return SuitePaths(dataset, **checkpoints)


def latest_checkpoint(kind: str, root: Path = ROOT, suite: str | None = None) -> Path | None:
    """The latest checkpoint of a kind under ``root/results``: newest run directory, then highest step.

    Args:
        kind: A key of `helpers.worlds.KINDS`; files named by any of its aliases count.
        root: The folder that holds ``results/``.
        suite: Only checkpoints published as this suite; None for any, the user's own training included.

    Returns:
        A .pth file or a checkpoint directory; None if there is none.
    """
    results = root / "results"
    found = [
        path
        for path in results.glob("**/checkpoints/**/*_step_*")
        if _step(path.name, kind) is not None
        and (path.is_file() if path.suffix == ".pth" else (path / _WEIGHTS_IN_DIRECTORY).is_file())
        and (suite is None or _belongs_to(suite, path, results))
    ]

    def age(path: Path) -> tuple[str, int, str]:
        run = results / path.relative_to(results).parts[0]
        return _run_time(run), _step(path.name, kind) or 0, path.name

    return max(found, key=age, default=None)


def checkpoint_form(path: Path) -> Form:
    """Which of the two checkpoint forms ``path`` has: one ``"file"``, or a ``"directory"``.

    Raises:
        AssetError: It is neither.
    """
    if path.is_file():
        return "file"
    if (path / _WEIGHTS_IN_DIRECTORY).is_file():
        return "directory"
    if path.is_dir():
        raise AssetError(
            f"{path} is a folder without {_WEIGHTS_IN_DIRECTORY}, so it is no checkpoint.",
            fix="Give the folder named <kind>_step_<n>, or a .pth file.",
        )
    raise AssetError(f"There is no checkpoint at {path}.", fix="Check the path, or run 04_assets.")


def weights_file(path: Path) -> Path:
    """The file that holds a checkpoint's weights: the .pth itself, or the one in its directory."""
    return path if checkpoint_form(path) == "file" else path / _WEIGHTS_IN_DIRECTORY


def safe_checkpoints(paths: SuitePaths, root: str | Path = ROOT) -> dict[str, Path]:
    """A suite's checkpoints in the form that holds no code: what `load_suite` should be given.

    Foreign pickles are read once, under an exact allow-list, and kept as safetensors and JSON under
    ``results/.converted``, by the SHA-256 of what they were made from; a kept one that is damaged, or was
    altered, is made again. Where nothing can be written, and for the embedded world, the source is used.

    Args:
        paths: The suite.
        root: The folder that holds ``results/``.

    Raises:
        CheckpointError: A checkpoint cannot be used.
    """
    folder = Path(root) / "results" / ".converted"
    return {part: _safe(part, path, folder) for part, path in paths.items() if part != "dataset"}


def _safe(kind: Any, path: Path, folder: Path) -> Path:
    from helpers.worldmodel.checkpoint import read_checkpoint, write_converted

    if path.is_relative_to(EMBEDDED) or path.suffix == ".safetensors":
        return path
    sources = [path] if path.is_file() else [path / _WEIGHTS_IN_DIRECTORY, path / "state.pt"]
    hashes = [sha256_of(source) for source in sources if source.exists()]
    source = hashes[0] if path.is_file() else hashlib.sha256("".join(hashes).encode()).hexdigest()
    kept = folder / f"{source}.safetensors"
    with suppress(CheckpointError):
        if json.loads(_read_text(kept.with_suffix(".json"))).get("source") == source:
            read_checkpoint(kept, kind)
            return kept
    checkpoint = read_checkpoint(path, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_converted(checkpoint, kept, source)
    except OSError as error:
        log.info("%s is read as it is, since %s cannot be written (%s)", path, kept, error.strerror)
        return path
    return kept


def _read_text(path: Path) -> str:
    """A JSON file's text; ``"{}"`` where it cannot be read or holds no object."""
    try:
        text = path.read_text(encoding="utf-8")
        return text if isinstance(json.loads(text), dict) else "{}"
    except (OSError, ValueError, RecursionError):
        return "{}"


def require_unchanged(chosen: World, paths: SuitePaths, root: Path = ROOT) -> None:
    """Prove that what was fetched is what it was: by size and time stamps, by hash where these differ.

    Raises:
        AssetError: A file has changed since.
    """
    for entry in _read_record(chosen, root).values():
        path = root / entry["path"]
        if path in dict(paths.items()).values() and not _intact(entry, root, verify=False):
            raise AssetError(
                f"{path} has changed since it was fetched.",
                fix=f'Run 04_assets with dataset = "{chosen.name}" and download = True: it is set aside and '
                "fetched again.",
            )


def describe_assets(paths: SuitePaths, recorded: Mapping[Path, str] | None = None) -> list[Check]:
    """One check a part: its name, form, size and the head of its SHA-256 (of the weights, for a directory).

    Args:
        paths: The suite.
        recorded: What `recorded_checksums` says of it: a file that has changed since it was fetched fails.
    """
    return [_describe(part, path, (recorded or {}).get(path, "")) for part, path in paths.items()]


def recorded_checksums(chosen: World, root: Path = ROOT) -> dict[Path, str]:
    """The SHA-256, in hex, of each of a world's files when it was fetched."""
    return {root / entry["path"]: entry["sha256"] for entry in _read_record(chosen, root).values()}


def preview_batch(
    chosen: World, dataset: Path, clips: int = 3, length: int = 8
) -> tuple["Image.Image | None", Check]:
    """A picture of a batch, one lively clip a row, cut as the models see it; and what the dataset holds.

    Returns:
        The picture, None if there is none to show, and the check ``batch``, which then says why.
    """
    try:
        with FrameDataset(dataset, chosen.skip, chosen.first_frame) as data:
            rows = [
                (f"row {start}", data.clip(start, length)) for start in lively_starts(data, length, clips)
            ]
            height, width = data.frame_size
            actions = "with" if data.has_true_actions else "without"
            holds = f"{len(data):,} usable frames of {height}x{width}, {actions} true actions"
    except DatasetError as error:
        return None, Check("batch", "fail", error.what, error.fix)
    every = f"every {chosen.skip}th row" if chosen.skip > 1 else "every row"
    picture = contact_sheet(rows, [f"frame {number}" for number in range(length)])
    return picture, Check("batch", "ok", f"{holds}; {len(rows)} clips of {length} frames shown, {every}")


def fetch_suite(
    name: str,
    root: str | Path = ROOT,
    endpoint: str = "",
    parts: Collection[str] = PARTS,
    free_bytes: Callable[[Path], int] | None = None,
    *,
    verify: bool = False,
    update: bool = False,
    patience: hub.Patience = hub.DEFAULT_PATIENCE,
) -> list[Path]:
    """Bring a suite's files here from the hub, each verified before it appears under its name.

    Files that are here and intact are not fetched again; where all are, nothing is asked of the network and
    nothing is written. Of each kind the published checkpoint with the highest step is taken, once: from then
    on the record in ``data/`` locks commit, size and SHA-256, and what is fetched later must match it.

    Args:
        name: A world's name; for the embedded one there is nothing to fetch.
        root: The folder that holds ``data/`` and ``results/``.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.
        parts: Which of `PARTS` to bring.
        free_bytes: Tells how many bytes are free where a folder lies; by default the disk is asked.
        verify: Hash every file that is here. Otherwise one whose size and time stamps are those recorded when
            it was last hashed counts as intact.
        update: Take what the hub has now instead of what the record locks.
        patience: How long the hub may keep us waiting.

    Returns:
        The verified local paths, in the order of `PARTS`.

    Raises:
        ParameterError: There is no such world.
        AssetError: A file is not on the hub, cannot be fetched, is not what the hub lists or the record
            locks, or does not fit on the disk. What was verified before stays under its name; what came of
            an unfinished file stays beside, and the next run goes on from there.
    """
    chosen, root = world(name), Path(root)
    wanted = [part for part in PARTS if part in parts]
    if chosen.embedded:
        embedded = dict(find_suite(name, root).items())
        return [embedded[part] for part in wanted]
    here = {} if update else _parts_here(chosen, root, wanted, verify)
    if len(here) < len(wanted):
        try:
            with _one_writer(chosen, root):
                # Another process may have brought them while we waited.
                here = {} if update else _parts_here(chosen, root, wanted, verify)
                missing = [part for part in wanted if part not in here]
                here |= _bring(chosen, root, missing, endpoint, update, free_bytes or _free_bytes, patience)
        except OSError as error:
            raise AssetError(
                f"{error.filename or root} could not be written ({error.strerror or error}).",
                fix="Close what has the file open, check that the folder may be written to; run it again.",
            ) from error
    return [here[part] for part in wanted]


def _parts_here(chosen: World, root: Path, wanted: Collection[str], verify: bool) -> dict[str, Path]:
    """The parts that are here as recorded; time stamps found to be out of date are recorded anew."""
    record = _read_record(chosen, root)
    here, before = {}, json.dumps(record)
    for part in wanted:
        if part in record and _intact(record[part], root, verify):
            here[part] = root / record[part]["path"]
            record[part] |= _stamps(here[part])
    if json.dumps(record) != before:
        with suppress(OSError):  # a folder that may only be read costs a hash each time, no more
            write_json(_record_path(chosen, root), record)
    return here


def _bring(
    chosen: World,
    root: Path,
    missing: list[str],
    endpoint: str,
    update: bool,
    free_bytes: Callable[[Path], int],
    patience: hub.Patience,
) -> dict[str, Path]:
    """Fetch what is missing, or recognise it where the user has put it; the caller holds the lock."""
    record = _read_record(chosen, root)
    locked = {} if update else {part: record[part] for part in missing if part in record}
    remote = _locate(chosen, missing, locked, endpoint, patience)
    run_folder = _run_folder(chosen, root)
    brought, to_fetch = {}, {}
    for part, file in remote.items():
        target = _target(chosen, part, file, root, run_folder)
        same = (path for path in _namesakes(part, file, target, root) if hub.matches(path, file))
        if file.checksum and (found := next(same, None)):
            brought[part] = found
        else:
            to_fetch[part] = target
    _require_space({part: (remote[part], target) for part, target in to_fetch.items()}, root, free_bytes)
    for part, file in remote.items():
        if part in to_fetch:
            brought[part] = to_fetch[part]
            incoming = _incoming(chosen, root, part)
            incoming.mkdir(parents=True, exist_ok=True)
            _land(hub.download(file, incoming, endpoint, patience), brought[part])
            with suppress(OSError):
                incoming.rmdir()
                incoming.parent.rmdir()
        record[part] = _record_entry(brought[part], file, root)
        write_json(_record_path(chosen, root), record)
    return brought


def import_files(
    name: str, source: str | Path, root: str | Path = ROOT, *, update: bool = False
) -> dict[str, Path]:
    """Take over files of a suite that were fetched by other means: by a browser, or on another computer.

    Which part a file is, is told by its SHA-256 where the record locks it, else by its name (a browser's
    `` (1)`` does no harm). It is copied, its content checked, and it lands as if it had been fetched.

    Args:
        name: A world's name.
        source: A file, or a folder of which those files are taken that fit.
        root: The folder that holds ``data/`` and ``results/``.
        update: Take a file that is not what the record locks.

    Returns:
        Where each part lies now.

    Raises:
        AssetError: There is no fitting file, or one is damaged or not what the record locks.
    """
    chosen, root, source = world(name), Path(root), Path(source).expanduser()
    if chosen.embedded:
        raise AssetError(f"{chosen.title} is embedded and needs no files.", fix="Leave import_from empty.")
    candidates = sorted(source.iterdir()) if source.is_dir() else [source]
    try:
        with _one_writer(chosen, root):
            record = _read_record(chosen, root)
            taken = {}
            for path in (path for path in candidates if path.is_file()):
                if part := _part_of(path, chosen, record):
                    taken[part] = _import(part, path, chosen, root, record, update)
                    write_json(_record_path(chosen, root), record)
    except OSError as error:
        raise AssetError(
            f"{error.filename or source} could not be read or written ({error.strerror or error}).",
            fix="Check the path and the folder's permissions.",
        ) from error
    if not taken:
        raise AssetError(
            f"{source} holds no file of {chosen.title}.",
            fix=f"Give {chosen.dataset_file}, a .pth whose name says its kind and step, or a folder of them.",
        )
    return taken


def _part_of(path: Path, chosen: World, record: Mapping[str, Mapping[str, Any]]) -> str:
    """Which part a file is, by content or by name; ``""`` if none."""
    if path.suffix.lower() not in (".pth", ".h5"):
        return ""
    checksum = sha256_of(path)
    by_content = [part for part, entry in record.items() if entry["sha256"] == checksum]
    stem = _BROWSER_COPY.sub("", path.stem)
    if by_content:
        return by_content[0]
    if path.suffix.lower() == ".h5":
        return "dataset" if stem == Path(chosen.dataset_file).stem else ""
    others = [each for each in WORLDS if each != chosen.name and stem.lower().startswith(f"{each}_")]
    return next((kind for kind in KINDS if not others and _step(stem, kind) is not None), "")


def _import(
    part: str, path: Path, chosen: World, root: Path, record: dict[str, dict[str, Any]], update: bool
) -> Path:
    name = chosen.dataset_file if part == "dataset" else f"{_BROWSER_COPY.sub('', path.stem)}.pth"
    locked = None if update else record.get(part)
    if locked:
        name = Path(locked["path"]).name
    incoming = _incoming(chosen, root, part)
    incoming.mkdir(parents=True, exist_ok=True)
    _require_space({part: (RemoteFile("", "", "", name, path.stat().st_size), path)}, root, _free_bytes)
    copy = Path(shutil.copyfile(path, incoming / f"{name}.import"))
    file = RemoteFile("", "", "", f"imported from {path.name}", copy.stat().st_size, sha256_of(copy))
    try:
        if locked and file.sha256 != locked["sha256"]:
            raise _not_as_locked(name, locked, file, chosen)
        if not locked:
            _check_content(part, copy)
    except AssetError:
        copy.unlink()
        raise
    target = _target(chosen, part, replace(file, path=name), root, _run_folder(chosen, root))
    if locked:
        target = root / locked["path"]
    _land(copy, target)
    entry = locked or _record_entry(target, file, root) | {"source": file.path, "checksum": "learned"}
    record[part] = entry | _stamps(target)
    return target


def _check_content(part: str, path: Path) -> None:
    """Prove that a file is at least whole: nothing else vouches for one that no repository listed."""
    if found := impostor(path):
        raise AssetError(f"{path.name} is {found}.", fix="Download it again.")
    if part == "dataset":
        try:
            FrameDataset(path).close()
        except DatasetError as error:
            raise AssetError(error.what, fix=error.fix) from error
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error):
        damaged = "its directory"
    if damaged:
        raise AssetError(f"{path.name} is damaged ({damaged}).", fix="Download it again.")


def _land(arrived: Path, target: Path) -> None:
    """Move a verified file under its name in one step; what was there is set aside, never deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        number = next(
            n for n in itertools.count(1) if not target.with_name(f"{target.name}.aside{n}").exists()
        )
        aside = target.with_name(f"{target.name}.aside{number}")
        target.replace(aside)
        log.info("%s was not what it should be and was set aside as %s", target, aside.name)
    arrived.replace(target)


@contextmanager
def _one_writer(chosen: World, root: Path) -> Iterator[None]:
    """Let one process at a time write a suite. The lock is the system's own and ends with its process."""
    from huggingface_hub.utils import WeakFileLock

    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    lock = data / f".{chosen.name}.lock"
    with ExitStack() as stack:
        last_sign = time.monotonic()
        seen = None
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=1))
                break
            except TimeoutError:  # filelock's own Timeout is one
                folders = [_incoming(chosen, root, part) for part in ("dataset", "dynamics")]
                now = [(each.name, each.stat().st_size) for folder in folders for each in _files_in(folder)]
                if now != seen:
                    seen, last_sign = now, time.monotonic()
                if time.monotonic() - last_sign > _WRITER_SILENT_SECONDS:
                    raise AssetError(
                        f"Another process fetches {chosen.title} and has not come further for "
                        f"{_WRITER_SILENT_SECONDS} s.",
                        fix="Wait for it, or close the other notebook or terminal, and run this again.",
                    ) from None
        yield


def _files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.is_dir() else []


def _incoming(chosen: World, root: Path, part: str) -> Path:
    """Where a part's bytes arrive: data/ and results/ may each be on a disk of their own, and a move is one
    step only within a disk.
    """
    return root / ("data" if part == "dataset" else "results") / ".incoming" / chosen.name


def _locate(
    chosen: World,
    parts: Collection[str],
    locked: Mapping[str, Mapping[str, Any]],
    endpoint: str,
    patience: hub.Patience,
) -> dict[str, RemoteFile]:
    """The file of each part on the hub: the locked one where there is a lock, else the newest published."""
    free = [part for part in parts if not locked.get(part, {}).get("repo_path")]
    found = {}
    for part, file in _published_files(chosen, free, endpoint, patience).items():
        found[part] = hub.look_up(file, endpoint, patience)
    for part in parts:
        entry = locked.get(part)
        if not entry:
            continue
        if part not in found:
            repo, kind = _repository(chosen, part)
            file = RemoteFile(repo, kind, entry["commit"], entry["repo_path"])
            try:
                found[part] = hub.look_up(file, endpoint, patience)
            except AssetError:  # a repository may have been rewritten: what counts is the content
                found[part] = hub.look_up(replace(file, commit=chosen.revision), endpoint, patience)
        if found[part].sha256 not in ("", entry["sha256"]):
            raise _not_as_locked(found[part].source, entry, found[part], chosen)
        found[part] = replace(found[part], sha256=entry["sha256"], size=entry["size"])
    return {part: found[part] for part in parts}


def _repository(chosen: World, part: str) -> tuple[str, str]:
    assert chosen.dataset_repo and chosen.model_repo, "embedded worlds are not on the hub"
    return (chosen.dataset_repo, "dataset") if part == "dataset" else (chosen.model_repo, "model")


def _not_as_locked(what: str, entry: Mapping[str, Any], found: RemoteFile, chosen: World) -> AssetError:
    return AssetError(
        f"{what} is not what was fetched before: it has the sha256 {found.sha256[:12]}…, and "
        f"data/{chosen.name}_assets.json locks {entry['sha256'][:12]}….",
        fix="If the change is meant, accept it with update = True; the old file is set aside.",
    )


def _published_files(
    chosen: World, parts: Collection[str], endpoint: str, patience: hub.Patience
) -> dict[str, RemoteFile]:
    """The file of each part on the hub, by name; of each kind, the checkpoint with the highest step."""
    found: dict[str, RemoteFile] = {}
    if "dataset" in parts:
        repo, kind = _repository(chosen, "dataset")
        files = hub.list_files(repo, kind, endpoint, chosen.revision, patience)
        matching = [file for file in files if file.path == chosen.dataset_file]
        if files and not matching:
            raise _not_published(chosen.dataset_file, repo, [file.path for file in files])
        found["dataset"] = (matching or [RemoteFile(repo, kind, chosen.revision, chosen.dataset_file)])[0]
    kinds = [part for part in parts if part in KINDS]
    if not kinds:
        return found
    repo, repo_type = _repository(chosen, kinds[0])
    files = hub.list_files(repo, repo_type, endpoint, chosen.revision, patience)
    files = files or [RemoteFile(repo, repo_type, chosen.revision, path) for path in chosen.checkpoints]
    folder = f"{chosen.name}/"
    in_suite = [file for file in files if file.path.startswith(folder) and _SAFE_NAME.fullmatch(file.name)]
    if not in_suite:
        folders = sorted({file.path.split("/")[0] + "/" for file in files if "/" in file.path})
        raise _not_published(folder, repo, folders)
    for kind in kinds:
        matching = [file for file in in_suite if _step(file.name, kind) is not None]
        if not matching:
            raise _not_published(f"{kind} checkpoint in {folder}", repo, [file.name for file in in_suite])
        found[kind] = max(matching, key=lambda file: (_step(file.name, kind) or 0, file.name))
    return found


def _not_published(what: str, repo: str, there: list[str]) -> AssetError:
    return AssetError(
        f"{repo} on the hub has no {what}; it has {', '.join(there) or 'nothing'}.",
        fix="Choose a dataset that is there, or give your own files: the h5 in data/, the rest by *_path.",
    )


def _namesakes(part: str, file: RemoteFile, target: Path, root: Path) -> list[Path]:
    """Where the user may have the file already: under its name in the published layout, of whichever run."""
    if part == "dataset":
        return [target]
    return [target, *sorted((root / "results").glob(f"*/**/checkpoints/**/{file.name}"))]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _require_space(
    wanted: Mapping[str, tuple[RemoteFile, Path]], root: Path, free_bytes: Callable[[Path], int]
) -> None:
    """Stop before the first byte where the files do not fit; data/ and results/ may be on different disks."""
    needed: dict[Any, tuple[int, Path]] = {}
    for part, (file, _) in wanted.items():
        folder = root / ("data" if part == "dataset" else "results")
        while not folder.exists():
            folder = folder.parent
        came = sum(path.stat().st_size for path in folder.glob(f".incoming/*/{file.name}.part"))
        disk = folder.stat().st_dev
        needed[disk] = (needed.get(disk, (0, folder))[0] + max(0, file.size - came), folder)
    for missing, folder in needed.values():
        # A tenth more, so that the run which follows has room to work.
        asked, free = missing + missing // 10, free_bytes(folder)
        if free < asked:
            raise AssetError(
                f"The files to fetch take {_megabytes(missing)} and {folder} has {_megabytes(free)} free.",
                fix=f"Free at least {_megabytes(asked - free)} there and run it again.",
            )


def _run_folder(chosen: World, root: Path) -> Path:
    """The newest results/<time>_<suite>, or a new one: the parts of a suite lie together."""
    folders = [path for path in (root / "results").glob(f"*_{chosen.name}") if _RUN_TIME.match(path.name)]
    new = root / "results" / f"{time.strftime('%Y%m%d_%H%M%S')}_{chosen.name}"
    return max(folders, key=lambda path: path.name, default=new)


def _target(chosen: World, part: str, file: RemoteFile, root: Path, run_folder: Path) -> Path:
    if part == "dataset":
        return root / "data" / chosen.dataset_file
    return run_folder / _TYPE[part] / "checkpoints" / chosen.name / file.name


def _record_path(chosen: World, root: Path) -> Path:
    return root / "data" / f"{chosen.name}_assets.json"


def _read_record(chosen: World, root: Path) -> dict[str, dict[str, Any]]:
    """What was fetched of a world, by part; empty if nothing was, or if the record is unreadable."""
    try:
        record = json.loads(_record_path(chosen, root).read_text(encoding="utf-8"))
        return {part: entry for part, entry in record.items() if {"path", "size", "sha256"} <= entry.keys()}
    except (OSError, ValueError, AttributeError):
        return {}


def _record_entry(path: Path, file: RemoteFile, root: Path) -> dict[str, Any]:
    return {
        "path": path.relative_to(root).as_posix(),
        "size": path.stat().st_size,
        "sha256": file.sha256 or sha256_of(path),
        "checksum": "published" if file.checksum else "learned",
        "source": file.source,
        "repo_path": file.path if file.repo else "",
        "commit": file.commit,
        **_stamps(path),
    }


def _stamps(path: Path) -> dict[str, int]:
    """What changes when a file is written to. Its time of modification can be set back; that of the change of
    its entry (on POSIX) cannot.
    """
    status = path.stat()
    return {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _intact(entry: Mapping[str, Any], root: Path, verify: bool) -> bool:
    """Whether a recorded file is still what it was when it was fetched."""
    path = root / entry["path"]
    if not path.is_file() or path.stat().st_size != entry["size"]:
        return False
    if not verify and all(entry.get(name) == value for name, value in _stamps(path).items()):
        return True
    return sha256_of(path) == entry["sha256"]


def _find_checkpoint(chosen: World, kind: str, root: Path, given: str, use_latest: bool) -> Path:
    if given:
        path: Path | None = root / Path(given).expanduser()
    elif use_latest:
        path = latest_checkpoint(kind, root)
    elif chosen.embedded:
        path = EMBEDDED / f"{chosen.name}_{kind}.pth"
    else:
        path = latest_checkpoint(kind, root, chosen.name)
    if path is None:
        whose = "" if use_latest else f" of {chosen.title}"
        raise AssetError(
            f"There is no {kind} checkpoint{whose} under {root / 'results'}.", fix=_how_to_get(chosen)
        )
    checkpoint_form(path)
    return path


def _how_to_get(chosen: World) -> str:
    if chosen.embedded:
        return "It belongs to this repository: restore it with `git checkout -- helpers/demo`."
    return f'Run 04_assets with dataset = "{chosen.name}" and download = True.'


def _belongs_to(suite: str, path: Path, results: Path) -> bool:
    run = path.relative_to(results).parts[0]
    return run.lower().endswith(f"_{suite}") or path.parent.name.lower() == suite


def _run_time(run: Path) -> str:
    """When a run began, as its folder's name says; by the folder's date where the name does not."""
    named = _RUN_TIME.search(run.name)
    return named.group() if named else time.strftime("%Y%m%d_%H%M%S", time.localtime(run.stat().st_mtime))


def _step(name: str, kind: str) -> int | None:
    """The training step in a checkpoint's name; None if the name is not of this kind."""
    found = _CHECKPOINT[kind].search(name.removesuffix(".pth"))
    return int(found.group(1)) if found else None


def _lock_check(chosen: World, root: Path) -> list[Check]:
    """What the record locks: later fetches must match it."""
    record = _read_record(chosen, root)
    if not record:
        return []
    words = [
        f"{part} {entry['sha256'][:12]} ({entry.get('checksum', 'published')}, "
        f"commit {entry.get('commit', '')[:7] or 'none'})"
        for part, entry in record.items()
    ]
    return [Check("lock", "ok", f"{_record_path(chosen, root).name} locks {'; '.join(words)}")]


def _source_check(chosen: World, download: bool, failure: AssetError | None) -> Check:
    if failure:
        return Check("source", "warn", f"found on this disk, unverified: {failure.what}", failure.fix)
    if chosen.embedded:
        return Check("source", "ok", "embedded in this repository; no network needed")
    if not download:
        return Check("source", "ok", "found on this disk; nothing was fetched, as download is off")
    return Check("source", "ok", "fetched files have the checksums that their repository lists")


def _describe(part: str, path: Path, recorded: str) -> Check:
    file = path if part == "dataset" else weights_file(path)
    if found := impostor(file):
        return Check(part, "fail", f"{file.name} is {found}", f"Delete {file} and run 04_assets again.")
    checksum = sha256_of(file)
    if recorded and checksum != recorded:
        return Check(
            part,
            "fail",
            f"{path.name} has changed since it was fetched (sha256 {checksum[:12]}, was {recorded[:12]})",
            f"Delete {path} and run 04_assets again with download = True.",
        )
    form = "h5" if part == "dataset" else "single file" if checkpoint_form(path) == "file" else "directory"
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = _megabytes(sum(each.stat().st_size for each in files))
    return Check(part, "ok", f"{path.name}: {form}, {size}, sha256 {checksum[:12]}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
