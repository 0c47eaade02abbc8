"""Where a run leaves what it made: ``outputs/<timestamp>_<label>/``. Standard library only."""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.errors import OutputError, ParameterError, SessionFileError, shown
from helpers.files import expanded, written_whole

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root: ``data/``, ``results/`` and ``outputs/`` lie under it, wherever a kernel starts."""

# Windows takes these for devices in every folder, whatever follows a dot, and the raised digits for digits.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}

_LAST = ".by_hand.json"  # in outputs: which notebook was run by hand last, when, and into which folder
_HALF_A_DAY = 12 * 60 * 60  # seconds


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


def join_run(
    step: str, run_dir: str | Path = "", label: str = "by_hand", outputs: Path = ROOT / "outputs"
) -> Path:
    """The folder of one notebook, ``step`` being its name: ``run_dir``, which a headless run always names.

    By hand, the folder of the notebook that was run before, so that stepping from 00 to 05 leaves one folder,
    whatever kernels and servers there are between. A new one, ``<outputs>/<YYYYmmdd_HHMMSS>_<label>``, begins
    where the last notebook was the same or a later one, or ran more than half a day ago.

    Raises:
        OutputError: As `open_run`.
    """
    if run_dir:
        return open_run(label, run_dir)
    note = outputs / _LAST
    run = open_run(label, _last_folder(note, step), outputs)
    with writing(note), written_whole(note) as partial:
        now = {"folder": str(run), "step": step, "seconds": time.time()}
        partial.write_text(json.dumps(now), encoding="utf-8")
    return run


def _last_folder(note: Path, step: str) -> str:
    """The folder that a notebook run by hand goes on in; empty where there is none."""
    try:
        last = json.loads(note.read_text(encoding="utf-8"))
        goes_on = last["step"] < step and 0 <= time.time() - last["seconds"] < _HALF_A_DAY
        return last["folder"] if goes_on and Path(last["folder"]).is_dir() else ""
    except (OSError, ValueError, TypeError, LookupError):  # there is none, or it is damaged
        return ""


@contextlib.contextmanager
def writing(
    path: Path, fix: str = "Free some disk, or choose another folder with run_dir."
) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` within the block into an `OutputError` with ``fix``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} could not be written ({error.strerror or error}).", fix=fix) from error


def find_session(path: str | Path) -> Path:
    """The session file meant: as given, or under the repository; a run's folder stands for its session.json.

    Raises:
        SessionFileError: There is none; the message names every place that was looked at.
    """
    given = expanded(path)
    places = [given.absolute(), ROOT / given, ROOT / "outputs" / given]
    places = [where for place in dict.fromkeys(places) for where in (place, place / "session.json")]
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # names that no file can have
            if place.is_file():
                return place
    fix = f"Give its whole path. These were looked at: {', '.join(map(str, places[::2]))}."
    if saved := sorted(ROOT.glob("outputs/*/session.json"), key=lambda session: session.stat().st_mtime):
        fix += f" The last one saved is {saved[-1]}."
    raise SessionFileError(f"There is no session file {shown(str(path))}.", fix=fix)


def folder_name(text: str, longest: int = 60) -> str:
    """A text as the name of a folder that every system allows; too long a one ends with a digest."""
    name = re.sub(r"[^\w.=-]+", "-", text).strip("-. ") or "job"
    if len(name) > longest:
        name = f"{name[: longest - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"job-{name}" if name.split(".")[0].lower() in _DEVICES else name


def check_names(names: Iterable[object], what: str) -> None:
    """Refuse names of files and folders that a stranger may have written, with a `ParameterError`.

    Each must be one that `folder_name` would leave as it is, and no other's in upper or lower case; ``what``
    they name is said in the message, such as ``"a case"``.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or folder_name(name) != name or name.casefold() in seen:
            fix = (
                "Use letters, digits, _ and - in up to 60 letters, each name once, and no device of Windows."
            )
            raise ParameterError(f"{shown(name)} cannot name {what}.", fix=fix)
        seen.add(name.casefold())
