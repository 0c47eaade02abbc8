"""Where a sweep's results lie: a folder, or an address such as ``s3://…`` that pyarrow or fsspec knows.

``jobs/<name>/`` holds the run of each job that ended, with its record ``job.json``; ``jobs/<name>~….part``
one that is running; ``attempts/`` what was tried since the sweep was started.
"""

import contextlib
import io
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs  # type: ignore[import-untyped]
from pyarrow.fs import FileSystem  # type: ignore[import-untyped]

from helpers.errors import OutputError
from helpers.files import expanded, replace_file, written_whole

_PARTIAL = re.compile(r"~[0-9a-f]{8}\.part$")


def open_storage(address: str) -> tuple[FileSystem, str]:
    """The file system, and the path in it, of a folder or of an address such as ``s3://…`` or ``file://…``.

    Raises an `OutputError` where neither pyarrow nor a package for fsspec serves such an address.
    """
    if "://" not in address:
        return fs.LocalFileSystem(), expanded(address).absolute().as_posix()
    problem: Exception | None = None
    for uri in (address, f"fsspec+{address}"):
        try:
            storage, path = FileSystem.from_uri(uri)
            return storage, path.rstrip("/")
        except (OSError, ValueError, ImportError) as error:
            problem = problem or error
    fix = "Use a folder, or install the package that serves such addresses, such as s3fs or gcsfs."
    raise OutputError(f"{address} cannot be opened ({problem}).", fix=fix)


def read_record(storage: FileSystem, folder: str, session: str = "") -> dict[str, Any]:
    """The record of the job in a folder; empty where none has ended there, or not in ``session``."""
    try:
        with storage.open_input_stream(f"{folder}/job.json") as stream:
            record = dict(json.loads(stream.read()))
    except (OSError, ValueError, TypeError):
        return {}
    return record if session in ("", record.get("session")) else {}


def read_records(storage: FileSystem, root: str) -> dict[str, dict[str, Any]]:
    """The records of all jobs that ended, by digest."""
    records = (read_record(storage, info.path) for info in _job_folders(storage, root, partial=False))
    return {record["digest"]: record for record in records if "digest" in record}


def publish(folder: Path, storage: FileSystem, target: str) -> None:
    """Move a job's local folder to its place, whole or not at all: ``job.json`` is what makes it whole."""
    if storage.get_file_info(target).type != fs.FileType.NotFound:
        storage.delete_dir(target)
    if storage.type_name == "local":
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder, Path(target))
        return
    record = (folder / "job.json").read_bytes()
    (folder / "job.json").unlink()
    storage.create_dir(target, recursive=True)
    fs.copy_files(folder.as_posix(), target, fs.LocalFileSystem(), storage, use_threads=False)
    with whole_file(storage, f"{target}/job.json") as stream:
        stream.write(record)


@contextlib.contextmanager
def whole_file(storage: FileSystem, path: str) -> Iterator[io.BytesIO]:
    """A stream whose content becomes a file when the block ends, in one step; the old file, if it fails."""
    content = io.BytesIO()
    yield content
    if storage.type_name == "local":
        with written_whole(Path(path)) as partial:
            partial.write_bytes(content.getbuffer())
    else:  # an object appears whole, or not at all
        with storage.open_output_stream(path) as stream:
            stream.write(content.getbuffer())


def partial_folder(name: str) -> str:
    """A new name for the folder of a job that runs: its ``~`` is in no name of `sweep.folder_name`."""
    return f"{name}~{uuid.uuid4().hex[:8]}.part"


def count_attempt(storage: FileSystem, root: str, name: str, session: str) -> int:
    """The number of this attempt at a job within a session: 1 unless a worker was lost before."""
    folder = f"{root}/attempts/{session}"
    storage.create_dir(folder, recursive=True)
    files = storage.get_file_info(fs.FileSelector(folder))
    number = 1 + sum(info.base_name.rpartition(".")[0] == name for info in files)
    storage.open_output_stream(f"{folder}/{name}.{number}").close()
    return number


def remove_leftovers(storage: FileSystem, root: str) -> None:
    """Remove what killed jobs left unfinished, and the count of attempts."""
    for path in (f"{root}/attempts", *(info.path for info in _job_folders(storage, root, partial=True))):
        with contextlib.suppress(OSError):
            storage.delete_dir(path)


def _job_folders(storage: FileSystem, root: str, partial: bool) -> list[Any]:
    infos = storage.get_file_info(fs.FileSelector(f"{root}/jobs", allow_not_found=True))
    return [info for info in infos if bool(_PARTIAL.search(info.base_name)) == partial]
