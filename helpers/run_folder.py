"""Where a run leaves what it made: ``outputs/<timestamp>_<label>/``. Standard library only."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import OutputError

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root: ``data/``, ``results/`` and ``outputs/`` lie under it, wherever a kernel starts."""


def open_run(label: str, run_dir: str | Path = "", outputs: Path = ROOT / "outputs") -> Path:
    """The folder of this run, made and proved writable.

    Args:
        label: What the run is of: a dataset such as ``"demo"``, or a step such as ``"00_check"``.
        run_dir: A folder to use as it is (a headless run shares one among its six notebooks);
            empty for a new ``<outputs>/<YYYYmmdd_HHMMSS>_<label>``.
        outputs: The folder that holds the runs.

    Returns:
        The absolute path of the folder.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    if run_dir:
        path = Path(run_dir).expanduser().absolute()
    else:
        path = _unused(outputs, f"{time.strftime('%Y%m%d_%H%M%S')}_{label.lower()}")
    probe = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"Nothing can be written to {path} ({error.strerror or error}).",
            fix="Free some disk, or choose another folder with the parameter run_dir.",
        ) from error
    return path


@contextlib.contextmanager
def writing(
    path: Path, fix: str = "Free some disk, or choose another folder with run_dir."
) -> Iterator[None]:
    """Turn what the system says against writing ``path`` within the block into an `OutputError`.

    Args:
        path: The file or folder that is written.
        fix: What the reader can do about it.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} could not be written ({error.strerror or error}).", fix=fix) from error


def _unused(outputs: Path, name: str) -> Path:
    """``outputs/name``, or ``outputs/name_2``, ``_3``… where runs began within one second."""
    path, count = outputs.absolute() / name, 1
    while path.exists():
        count += 1
        path = outputs.absolute() / f"{name}_{count}"
    return path
