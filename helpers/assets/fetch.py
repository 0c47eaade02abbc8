"""04_assets: a world's files are found, or fetched from the hub and verified.

Read from the top: `prepare_assets` finds a suite, after `fetch_suite` has fetched what is missing. Decides
which file of a repository is a part. Must not know what is *in* a file, nor how bytes are transferred.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from helpers.assets.find import SuitePaths, find_suite, same_origin, step_in_name, weights_file
from helpers.assets.hub import DEFAULT_PATIENCE, Hub, Patience, RemoteFile
from helpers.assets.importing import import_files
from helpers.assets.record import Record, megabytes, move_into_place, one_writer, recorded_checksums
from helpers.assets.transfer import download, matches
from helpers.errors import AssetError
from helpers.files import impostor, sha256_of
from helpers.parameters import check_value
from helpers.report import Check, Subject
from helpers.run_folder import ROOT
from helpers.worlds import KINDS, PARTS, World, world

# Names come from a repository anyone may have written to: none may lead out of its folder, on Windows either.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.pth")


@dataclass(frozen=True)
class Request:
    """The parameters of 04_assets; its parameters cell says what they mean."""

    dataset: str = "crafter"
    download: bool = True
    endpoint: str = ""
    video_tokenizer_path: str = ""
    latent_actions_path: str = ""
    dynamics_path: str = ""
    verify: bool = False
    update: bool = False
    import_from: str = ""
    repo: str = ""
    revision: str = ""
    use_latest_checkpoints: bool = False

    @classmethod
    def read(cls, namespace: Mapping[str, Any]) -> "Request":
        """The request in a notebook's variables; a `ParameterError` for a value of another type."""
        types = {field.name: type(field.default).__name__ for field in fields(cls) if field.name in namespace}
        return cls(**{name: check_value(name, namespace[name], kind) for name, kind in types.items()})


def prepare_assets(
    request: Request, root: Path = ROOT, patience: Patience = DEFAULT_PATIENCE
) -> tuple[SuitePaths, list[Check]]:
    """Find a suite, after fetching what is not here yet; the one call of 04_assets.

    A checkpoint whose path is given is not fetched. Where fetching fails and yet every part is here (put
    there by hand, say), that is a warning; where one is not, an `AssetError`. The checks say how the files
    came to be here, what the parts are, and what the record locks.
    """
    chosen, failure = world(request.dataset, root).from_repository(request.repo, request.revision), None
    own = {f"{kind}_path": getattr(request, f"{kind}_path") for kind in KINDS}
    if request.import_from:
        import_files(chosen.name, request.import_from, root, update=request.update)
    if request.download:
        parts = [part for part in PARTS if not own.get(f"{part}_path")]
        how: dict[str, Any] = {"verify": request.verify, "update": request.update, "patience": patience}
        try:
            fetch_suite(chosen.name, root, request.endpoint, parts, **how)
        except AssetError as error:
            failure = error
    try:
        paths = find_suite(chosen.name, root, **own, use_latest_checkpoints=request.use_latest_checkpoints)
    except AssetError as error:
        raise (failure or error) from None
    source = Subject("source")
    if failure:
        check = source.warn(f"found on this disk, unverified: {failure.what}", failure.fix)
    elif chosen.embedded:
        check = source.ok("embedded in this repository; no network needed")
    elif chosen.trained:
        check = source.ok("trained here; no network needed")
    elif not request.download:
        check = source.ok("found on this disk; nothing was fetched, as download is off")
    else:
        check = source.ok("fetched files have the checksums that their repository lists")
    if chosen.origin:
        check = replace(check, observed=f'{check.observed}; play them with dataset = "{chosen.name}"')
    rows = describe_assets(paths, recorded_checksums(chosen, root))
    return paths, [check, *rows, *_lock_check(Record(chosen, root))]


def fetch_suite(
    name: str,
    root: str | Path = ROOT,
    endpoint: str = "",
    parts: Collection[str] = PARTS,
    *,
    verify: bool = False,
    update: bool = False,
    free_bytes: Callable[[Path], int] | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> list[Path]:
    """Fetch a suite's files from the hub, each verified before it appears under its name; their paths.

    Files that are here and intact are not fetched again; where all are, nothing is asked of the network and
    nothing is written. Of each kind the published checkpoint with the highest step is taken, once: from then
    on the record in ``data/`` locks commit, size and SHA-256, and later fetches must match it.

    Args:
        name: A world's name; for one embedded, or trained here, there is nothing to fetch. That of
            `World.from_repository` stands for another repository, whose record is its own; the usual dataset
            is taken, under the usual record, where that repository holds none.
        root: The folder that holds ``data/`` and ``results/``.
        endpoint: Address of a hub or mirror; empty for HF_ENDPOINT or the hub itself.
        parts: Which of `helpers.worlds.PARTS` to fetch, whose order the paths have.
        verify: Hash every file that is here. Otherwise one with the recorded size and time stamps is intact.
        update: Take what the hub has now instead of what the record locks.
        free_bytes: Tells how many bytes are free where a folder lies; by default the disk is asked.
        patience: How long the hub may keep us waiting.

    Raises:
        AssetError: A file is not on the hub, cannot be fetched, is not what the hub lists or the record
            locks, or does not fit on the disk. The next run continues with what has come.
    """
    chosen, root = world(name, Path(root)), Path(root)
    wanted = [part for part in PARTS if part in parts]
    if chosen.embedded or chosen.trained:
        here = find_suite(name, root)
        return [getattr(here, part) for part in wanted]
    record = Record(chosen, root)
    if chosen.origin and "dataset" in wanted and not _has_dataset(record, Hub(endpoint, patience), update):
        how: dict[str, Any] = {"verify": verify, "free_bytes": free_bytes, "patience": patience}
        usual = fetch_suite(chosen.suite, root, endpoint, ["dataset"], **how)
        return usual + fetch_suite(name, root, endpoint, wanted[1:], update=update, **how)
    if update or not all([record.recognise(part, verify) for part in wanted]):
        with one_writer(chosen, root) as record:  # another process may have fetched them while we waited
            missing = [part for part in wanted if update or not record.recognise(part, verify)]
            _fetch_missing(missing, record, Hub(endpoint, patience), update, free_bytes)
    return [record.file(part) for part in wanted]


def _has_dataset(record: Record, hub: Hub, update: bool) -> bool:
    """Whether another repository has an h5 of its own; asked once, as the record then knows it."""
    if record.entries and not update:
        return "dataset" in record.entries
    chosen = record.chosen
    files = hub.list_files(chosen.model_repo or "", "model", chosen.revision)
    return any(_is_dataset(chosen, file) for file in files)


def _fetch_missing(
    missing: list[str], record: Record, hub: Hub, update: bool, free_bytes: Callable[[Path], int] | None
) -> None:
    """Fetch missing parts, or recognise them where the user has put them; the caller is the only writer."""
    remote = _locate(missing, record, hub, update)
    here: dict[str, Path] = {}
    for part, file in remote.items():
        # The user may have it already: under its name in the published layout, of whichever run.
        namesakes = (record.root / "results").glob(f"*/**/checkpoints/**/{file.name}")
        results = record.root / "results"
        ours = [
            path for path in namesakes if same_origin(path.relative_to(results).parts[0], record.chosen.name)
        ]
        there = [record.target(part, file.name), *(() if part == "dataset" else sorted(ours))]
        if file.checksum and (same := next((path for path in there if matches(path, file)), None)):
            here[part] = same
    sizes = {part: (file.name, file.size) for part, file in remote.items() if part not in here}
    record.require_space(sizes, free_bytes)
    for part, file in remote.items():
        place = here.get(part) or record.target(part, file.name)
        if part not in here:
            folder = record.incoming(part)
            folder.mkdir(parents=True, exist_ok=True)
            move_into_place(download(file, folder, hub), place)
            with suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()
        origin = {"source": file.source, "repo_path": file.path, "commit": file.commit}
        known = {"checksum": "published" if file.checksum else "learned", **origin}
        record.lock(part, place, {"sha256": file.sha256 or sha256_of(place), **known})


def _locate(parts: list[str], record: Record, hub: Hub, update: bool) -> dict[str, RemoteFile]:
    """The file of each part on the hub: the locked one where there is a lock, else the newest published."""
    files, listings = {}, {}
    for part in parts:
        chosen, locked = record.chosen, {} if update else record.entries.get(part, {})
        assert chosen.model_repo, "embedded worlds are not on the hub"
        repo = (chosen.model_repo, "model")
        if part == "dataset" and chosen.dataset_repo:
            repo = (chosen.dataset_repo, "dataset")
        if locked.get("repo_path"):
            try:
                file = hub.look_up(RemoteFile(*repo, locked["commit"], locked["repo_path"]))
            except AssetError:  # a repository may have been rewritten: its content counts
                file = hub.look_up(RemoteFile(*repo, chosen.revision, locked["repo_path"]))
        else:
            if repo not in listings:
                known = (chosen.dataset_file, *chosen.checkpoints)
                unlisted = [RemoteFile(*repo, chosen.revision, path) for path in known]
                listings[repo] = hub.list_files(*repo, chosen.revision) or unlisted
            file = hub.look_up(_published_file(chosen, part, listings[repo]))
        if locked:
            if file.sha256:
                record.require_locked(part, file.source, file.sha256)
            file = replace(file, sha256=locked["sha256"], size=locked["size"])
        files[part] = file
    return files


def _published_file(chosen: World, part: str, files: list[RemoteFile]) -> RemoteFile:
    """A part's file in a repository, by name; of a kind, the checkpoint with the highest step."""
    if part == "dataset":
        wanted, there = chosen.dataset_file, [file.path for file in files]
        steps = {file: 0 for file in files if _is_dataset(chosen, file)}
        expected = wanted
    else:
        suite = [file for file in files if file.path.startswith(f"{chosen.suite}/")]
        if chosen.origin and not suite:  # one's own upload may hold a single suite, at its top
            suite = [file for file in files if "/" not in file.path]
        suite = [file for file in suite if _SAFE_NAME.fullmatch(file.name)]
        wanted, there = f"{part} checkpoint in {chosen.suite}/", [file.name for file in suite]
        expected = ", ".join(f"{chosen.suite}/{chosen.suite}_{kind}_step_<n>.pth" for kind in KINDS)
        steps = {file: step for file in suite if (step := step_in_name(file.name, part)) is not None}
        if not suite:
            folders = {file.path.split("/")[0] + "/" for file in files if "/" in file.path}
            wanted, there = f"{chosen.suite}/", sorted(folders)
    if not steps:
        fix = "Choose a dataset that is there, or give your own files: the h5 in data/, others by *_path."
        what = f"{files[0].repo} on the hub has no {wanted}; it has {', '.join(there) or 'nothing'}. "
        what += f"Expected: {expected}."
        raise AssetError(what, fix=fix)
    return max(steps, key=lambda file: (steps[file], file.name))


def _is_dataset(chosen: World, file: RemoteFile) -> bool:
    """Whether a repository's file is a world's h5; in other repositories it may lie in the suite's folder."""
    return file.path in (
        chosen.dataset_file,
        *([f"{chosen.suite}/{chosen.dataset_file}"] if chosen.origin else ()),
    )


def describe_assets(paths: SuitePaths, recorded: Mapping[Path, str] | None = None) -> list[Check]:
    """One check per part: its name, form, size and the head of its SHA-256 (of the weights, for a directory).

    By the `recorded_checksums` a file that has changed since it was fetched fails.
    """
    return [_describe(part, path, (recorded or {}).get(path, "")) for part, path in paths.items()]


def _describe(part: str, path: Path, recorded: str) -> Check:
    subject, file = Subject(part), weights_file(path)
    if kind := impostor(file):
        return subject.fail(f"{file.name} is {kind}", f"Delete {file} and run 04_assets again.")
    checksum = sha256_of(file)
    if recorded and checksum != recorded:
        hashes = f"sha256 {checksum[:12]}, was {recorded[:12]}"
        fix = f"Delete {path} and run 04_assets again with download = True."
        return subject.fail(f"{path.name} has changed since it was fetched ({hashes})", fix)
    form = "directory" if path.is_dir() else "h5" if part == "dataset" else "single file"
    size = sum(item.stat().st_size for item in (path, *path.rglob("*")) if item.is_file())
    return subject.ok(f"{path.name}: {form}, {megabytes(size)}, sha256 {checksum[:12]}")


def _lock_check(record: Record) -> list[Check]:
    """What the record locks: later fetches must match it."""
    locks = []
    for part, entry in record.entries.items():
        commit = entry.get("commit", "")[:7] or "none"
        locks.append(f"{part} {entry['sha256'][:12]} ({entry.get('checksum', 'published')}, commit {commit})")
    return [Subject("lock").ok(f"{record.path.name} locks {'; '.join(locks)}")] if locks else []
