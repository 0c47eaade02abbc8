"""A suite's files: where each lies on this disk, and how missing ones get there.

The layout, under the root, is that of the public project, so that its files and ours are interchangeable:

    data/<file>.h5                                                           a dataset
    results/<YYYYmmdd_HHMMSS>_<suite>/<type>/checkpoints/<suite>/<file>.pth  a published checkpoint
    results/<YYYYmmdd_HHMMSS>/<stage>/checkpoints/<stage>_step_<n>[….pth]    one of the user's own training

What was fetched is recorded in ``data/<suite>_assets.json`` with its checksums, so that a later run proves
the files sound without a network. Reading what is *in* a checkpoint is `helpers.worldmodel`'s business.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers import hub
from helpers.dataset import FrameDataset, lively_starts
from helpers.errors import AssetError, DatasetError
from helpers.file_kind import impostor
from helpers.hub import RemoteFile, sha256_of
from helpers.report import Check, write_json
from helpers.run_folder import ROOT
from helpers.suites import KINDS, World, world
from helpers.video import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

Form = Literal["file", "directory"]

EMBEDDED = Path(__file__).resolve().parent / "demo"
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
# Left over after a download, so that the run which follows has room to work.
_SPARE_BYTES = 100_000_000


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

    Returns:
        The paths, and the checks: how the files came to be here, then `describe_assets`' row for each.

    Raises:
        AssetError: A part is not here and cannot be fetched.
    """
    chosen = world(dataset)
    given = (video_tokenizer_path, latent_actions_path, dynamics_path)
    failure: AssetError | None = None
    if download:
        wanted = ["dataset", *(kind for kind, path in zip(KINDS, given, strict=True) if not path)]
        try:
            fetch_suite(dataset, root, endpoint, wanted)
        except AssetError as error:
            failure = error
    try:
        paths = find_suite(dataset, root, *given, use_latest_checkpoints=use_latest_checkpoints)
    except AssetError as error:
        raise (failure or error) from None
    source = _source_check(chosen, download, failure)
    return paths, [source, *describe_assets(paths, recorded_checksums(chosen, root))]


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
        kind: A key of `helpers.suites.KINDS`; files named by any of its aliases count.
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
    root: Path = ROOT,
    endpoint: str = "",
    parts: Collection[str] = PARTS,
    free_bytes: Callable[[Path], int] | None = None,
) -> list[Path]:
    """Bring a suite's files here from the hub, each verified before it appears under its name.

    Files that are here and intact are not fetched again; where all are, nothing is asked of the network. Of
    each kind the published checkpoint with the highest step is taken.

    Args:
        name: A world's name; for the embedded one there is nothing to fetch.
        root: The folder that holds ``data/`` and ``results/``.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.
        parts: Which of `PARTS` to bring.
        free_bytes: Tells how many bytes are free where ``root`` lies; by default the disk is asked.

    Returns:
        The verified local paths, in the order of `PARTS`.

    Raises:
        ParameterError: There is no such world.
        AssetError: A file is not on the hub, cannot be fetched, is not what the hub lists, or does not fit on
            the disk. What was verified before stays; nothing unverified is left.
    """
    chosen = world(name)
    wanted = [part for part in PARTS if part in parts]
    if chosen.embedded:
        embedded = dict(find_suite(name, root).items())
        return [embedded[part] for part in wanted]
    record = _read_record(chosen, root)
    here = {
        part: root / record[part]["path"] for part in wanted if part in record and _intact(record[part], root)
    }
    missing = [part for part in wanted if part not in here]
    if missing:
        remote = _published_files(chosen, missing, endpoint)
        run_folder = _run_folder(chosen, root)
        target = {part: _target(chosen, part, remote[part], root, run_folder) for part in missing}
        to_fetch = [part for part in missing if not hub.matches(target[part], remote[part])]
        _require_space(sum(remote[part].size for part in to_fetch), root, free_bytes or _free_bytes)
        for part in missing:
            if part in to_fetch:
                _fetch(remote[part], target[part], root, endpoint)
            here[part] = target[part]
            record[part] = _record_entry(target[part], remote[part], root)
            write_json(_record_path(chosen, root), record)
    return [here[part] for part in wanted]


def _published_files(chosen: World, parts: Collection[str], endpoint: str) -> dict[str, RemoteFile]:
    """The file of each part on the hub; of each kind of checkpoint, the one with the highest step."""
    assert chosen.dataset_repo and chosen.model_repo, "embedded worlds are not on the hub"
    found: dict[str, RemoteFile] = {}
    if "dataset" in parts:
        files = hub.list_files(chosen.dataset_repo, "dataset", endpoint)
        matching = [file for file in files if file.path == chosen.dataset_file]
        if not matching:
            raise _not_published(chosen.dataset_file, chosen.dataset_repo, [file.path for file in files])
        found["dataset"] = matching[0]
    kinds = [part for part in parts if part in KINDS]
    files = hub.list_files(chosen.model_repo, "model", endpoint) if kinds else []
    folder = f"{chosen.name}/"
    in_suite = [file for file in files if file.path.startswith(folder) and file.name.endswith(".pth")]
    if kinds and not in_suite:
        folders = sorted({file.path.split("/")[0] + "/" for file in files if "/" in file.path})
        raise _not_published(folder, chosen.model_repo, folders)
    for kind in kinds:
        matching = [file for file in in_suite if _step(file.name, kind) is not None]
        if not matching:
            raise _not_published(
                f"{kind} checkpoint in {folder}", chosen.model_repo, [file.name for file in in_suite]
            )
        found[kind] = max(matching, key=lambda file: (_step(file.name, kind) or 0, file.name))
    return found


def _not_published(what: str, repo: str, there: list[str]) -> AssetError:
    return AssetError(
        f"{repo} on the hub has no {what}; it has {', '.join(there) or 'nothing'}.",
        fix="Choose a dataset that is there, or give your own files: the h5 in data/, the rest by *_path.",
    )


def _fetch(file: RemoteFile, target: Path, root: Path, endpoint: str) -> None:
    """Download beside the target's folder, verify, and only then move to the target in one step."""
    # data/ and results/ may each be on a disk of their own; a move is one step only within a disk.
    disk = root / target.relative_to(root).parts[0]
    try:
        disk.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".staging_", dir=disk, ignore_cleanup_errors=True) as staging:
            fetched = hub.download(file, Path(staging), endpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(target)
    except OSError as error:
        raise AssetError(
            f"{file.name} could not be put at {target} ({error.strerror or error}).",
            fix="Close what has the file open, check that the folder may be written to, and run it again.",
        ) from error


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _require_space(needed: int, root: Path, free_bytes: Callable[[Path], int]) -> None:
    free = free_bytes(root)
    if needed and free < needed + _SPARE_BYTES:
        raise AssetError(
            f"The files to fetch take {_megabytes(needed)} and {root} has {_megabytes(free)} free.",
            fix=f"Free at least {_megabytes(needed + _SPARE_BYTES - free)} there and run it again.",
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
        "size": file.size,
        "sha256": file.sha256 or sha256_of(path),
        "source": file.source,
        "commit": file.commit,
    }


def _intact(entry: dict[str, Any], root: Path) -> bool:
    """Whether a recorded file is still what it was when it was fetched."""
    path = root / entry["path"]
    return bool(
        path.is_file() and path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]
    )


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
