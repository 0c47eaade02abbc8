"""Where a run leaves what it made: ``outputs/<timestamp>_<label>/``. Standard library only."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import OutputError
from helpers.files import expanded

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root: ``data/``, ``results/`` and ``outputs/`` lie under it, wherever a kernel starts."""


def open_run(label: str, run_dir: str | Path = "", outputs: Path = ROOT / "outputs") -> Path:
    """The absolute path of this run's folder, made and proved writable.

    A new ``<outputs>/<YYYYmmdd_HHMMSS>_<label>``, the label being a dataset or a step; or ``run_dir`` as it
    is, which a headless run shares among its six notebooks.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    named = outputs.absolute() / f"{time.strftime('%Y%m%d_%H%M%S')}_{label.lower()}"
    path, count = expanded(run_dir).absolute() if run_dir else named, 1
    while not run_dir and path.exists():  # another run began within this second
        count += 1
        path = named.with_name(f"{named.name}_{count}")
    fix = "Free some disk, or choose another folder with run_dir."
    if len(str(path)) > 200:
        fix = "Choose a folder with a shorter path: Windows stops at 260 characters, files in it included."
    try:
        with writing(path, fix):
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable".ljust(32, "_")  # as long as the longest name of what a run leaves
            probe.write_bytes(b"")
            probe.unlink()
    except ValueError as error:  # letters that no system's names have
        raise OutputError(f"{str(path)!a} can be no folder ({error}).", fix=fix) from error
    return path


@contextlib.contextmanager
def writing(
    path: Path, fix: str = "Free some disk, or choose another folder with run_dir."
) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` within the block into an `OutputError` with ``fix``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} could not be written ({error.strerror or error}).", fix=fix) from error
