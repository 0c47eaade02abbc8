"""The session file: everything that was played, so that it can be played again and compared bit for bit.

    recording.write(path, game.recording())
    replay.replay(path).equal                          # True on the same machine

A session file is one JSON object in UTF-8. Version 1:

    format, version   "tinyworlds-session", 1
    settings          parameters of 05_infer by their names: dataset, start (the first clip's row), seed,
                      context_window, prediction_horizon, steps, temperature, feedback, amp, tf32, compile, …
    files             for dataset, video_tokenizer, latent_actions and dynamics: name and sha256 of the file
    suite             actions, patches (tokens a frame, P), codebook (tokens run from 0 to one less)
    made_on           device, torch (its version), threads, platform
    events            what happened, in order

Every event says where it happened: ``frame``, how many frames were generated on the current branch by then.

    {"event": "step", "frame": 12, "action": 3, "hashes": [...], "tokens": [...]}
        A step was taken: action is an id or null; "teacher_forced": true if it saw the clip's true frames.
        For each frame it made, a hash (16 hexadecimal digits of the sha256 of its tokens as little-endian
        int32) and the tokens themselves (base64 of little-endian uint16; uint32 if the codebook is larger).
    {"event": "set", "frame": 12, "temperature": 1.0}
        Some of steps, temperature, seed and feedback were changed.
    {"event": "rewind", "frame": 12, "to": 4}
        Play went to where 4 frames were generated on the current branch: back, or forward again.
    {"event": "select", "frame": 4, "branch": 1}
        Play went to the end of a branch. Branches are numbered from 0 as they open: a step that is taken from
        before a branch's end opens one, unless the same step was taken from there before, which is followed.
    {"event": "restart", "frame": 9, "start": 1010}
        Play began again from a row of the dataset, with no branch but 0. Restarts number plays from 0 on.
    {"event": "resume", "frame": 0, "play": 0}
        Play went back to an earlier play, to where a restart or another resume left it.

Nothing in a file is trusted: it is checked whole before anything is played, and its paths are never opened.
"""

import base64
import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import RunbookError, SessionFileError, shown
from helpers.files import written_whole
from helpers.play.settings import Settings, checked, names
from helpers.play.tree import Moment, Move, Play, Tree
from helpers.run_folder import find_session, writing
from helpers.worlds import PARTS, recorded_name

FORMAT, VERSION = "tinyworlds-session", 1
MAX_BYTES = 200_000_000
"""Of a session file: hours of play. To read it takes 6 to 12 times as much memory, 30 times if it is hostile.
"""
RECORDED = names("speed", "play")
"""The settings that a file records: what a preset set is among them, where the world was found is not."""
OPTIONAL: frozenset[str] = frozenset()
"""Recorded settings that files of version 1 may lack, because 05_infer gained them later."""

FIXED = ("context_window", "prediction_horizon", "amp", "tf32")
"""The settings that cannot change while a game is played."""

_BROKEN = "Use a session.json as a run or the player saved it."
_MANY = 2**62


def describe(
    settings: Mapping[str, Any], events: Sequence[tuple[str, int, Any]], **about: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of a session file, as this module's docstring describes it.

    Of the settings those that are recorded are taken. An event is its kind, the frame it happened at, and its
    particulars: a `Moment` for a step. ``about`` are the files, the suite and what it was made on.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": {name: settings[name] for name in RECORDED},
        **about,
        "events": [_describe_event(*event) for event in events],
    }


def _describe_event(kind: str, frame: int, what: Any) -> dict[str, Any]:
    """An event as plain JSON values."""
    if not isinstance(what, Moment):
        return {"event": kind, "frame": frame, **what}
    assert what.move is not None
    little_endian = what.tokens.astype(what.tokens.dtype.newbyteorder("<"))
    return {
        "event": kind,
        "frame": frame,
        "action": what.move.action,
        **({"teacher_forced": True} if what.move.teacher_forced else {}),
        "hashes": what.hashes,
        "tokens": [base64.b64encode(row.tobytes()).decode() for row in little_endian],
    }


def write(path: Path, recording: Mapping[str, Any]) -> None:
    """Write a recording, whole or not at all, one event a line; an `OutputError` if that is impossible."""
    write_text(path, file_text(recording))


def event_line(event: Mapping[str, Any]) -> str:
    """An event of a recording as JSON."""
    return json.dumps(event, allow_nan=False)


def file_text(recording: Mapping[str, Any], lines: Sequence[str] | None = None) -> str:
    """The text of a session file; ``lines`` are the `event_line` of each event, where they are known."""
    lines = list(map(event_line, recording["events"])) if lines is None else lines
    head = json.dumps({name: value for name, value in recording.items() if name != "events"}, indent=2)
    events = ",\n".join(f"    {line}" for line in lines)
    return f'{head.removesuffix("}").rstrip()},\n  "events": [\n{events}{_END}'


_END = "\n  ]\n}\n"


def write_text(path: Path, text: str) -> None:
    """Write the text of a session file, whole or not at all; an `OutputError` if that is impossible."""
    with writing(path), written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def own_place(folder: Path, text: str) -> Path:
    """Where to keep a session: ``session.json``, or ``session_02.json``, … where others lie there.

    A session that was played by hand is written over only by one that goes on from it.
    """
    for number in itertools.count(1):
        path = folder / ("session.json" if number == 1 else f"session_{number:02d}.json")
        there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        by_hand = '"use_interactive_mode": true' in there and not there.endswith(f"[\n{_END}")
        if not by_hand or text.startswith(there.removesuffix(_END)):
            return path
    raise AssertionError  # there is always another number


def read(path: str | Path) -> dict[str, Any]:
    """The recording in a session file, as `Game.recording` made it; all of it is checked.

    Raises:
        SessionFileError: It is not there, or something in it cannot be; the message says what and where.
    """
    found = find_session(path)
    try:
        if found.stat().st_size > MAX_BYTES:
            what = f"{found} is larger than any session: {found.stat().st_size / 1e6:,.0f} MB."
            raise SessionFileError(what, fix=f"Use one of up to {MAX_BYTES / 1e6:,.0f} MB.")
        recording = json.loads(found.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SessionFileError(f"{found} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        what = f"{found} is not JSON in UTF-8, or is cut short ({error})."
        raise SessionFileError(what, fix=_BROKEN) from error
    with _refused_in(found):
        check(recording)
    return dict(recording)


@contextlib.contextmanager
def _refused_in(place: object) -> Iterator[None]:
    """Turn a refusal within the block into a `SessionFileError` that says where."""
    try:
        yield
    except RunbookError as error:
        raise SessionFileError(f"{place}: {error.what}", fix=error.fix) from error


def check(recording: Any) -> None:
    """Raise a `SessionFileError` for the first thing in a recording that cannot be."""
    top = _Part(recording, "the session")
    if top.get("format", str) != FORMAT:
        raise SessionFileError(f"its format is {shown(recording['format'])}, not {FORMAT!r}.", fix=_BROKEN)
    if top.whole("version", 0) != VERSION:
        raise SessionFileError(
            f"it has version {recording['version']}; this program reads version {VERSION}.",
            fix="Use the version of the runbook that wrote it, or a newer one than this.",
        )
    part = top.part("settings")
    for name in RECORDED:
        if name not in OPTIONAL:
            part.get(name, object)
    with _refused_in(part.where):
        settings = read_settings(part.values)
        for name in part.values.keys() & set(RECORDED):
            checked(name, part.values[name], itself=True)
    files = top.part("files")
    for name in PARTS:
        entry = files.part(name)
        entry.get("name", str)
        entry.matching("sha256", r"[0-9a-f]{64}", "64 hexadecimal digits")
    suite = top.part("suite")
    for name in ("actions", "patches"):
        suite.whole(name, 1, 2**20)
    suite.whole("codebook", 1, 2**32)
    made_on = top.part("made_on")
    made_on.matching("device", r"cpu|mps|cuda(:\d{1,3})?", 'a device such as "cpu" or "cuda:0"')
    made_on.get("torch", str)
    made_on.whole("threads", 1)
    made_on.get("platform", str)
    _check_events(top.get("events", list), settings, recording["suite"])


def read_settings(values: Mapping[str, Any]) -> Settings:
    """The settings that a recording holds; one that came later than the file has its default."""
    known = {name: value for name, value in values.items() if name in RECORDED}
    if "dataset" in known:
        known["dataset"] = recorded_name(known["dataset"])
    return Settings.read(known)


def _check_events(events: Sequence[Any], settings: Settings, suite: Mapping[str, int]) -> None:
    """Go through the events without a model: where would each of them happen, and can it?"""
    play = Play(settings.steps, settings.temperature, settings.seed, settings.feedback)
    tree, horizon = Tree(Moment()), settings.prediction_horizon
    plays = [tree]
    for number, raw in enumerate(events):
        event = _Part(raw, f"event {number}")
        kind = event.get("event", str)
        frame = event.whole("frame", 0)
        if frame != tree.steps * horizon:
            raise event.refusal(f" happens at frame {frame}, and play stands at {tree.steps * horizon}")
        if kind == "step":
            unconditioned = event.get("action", object) is None
            action = None if unconditioned else event.whole("action", 0, suite["actions"] - 1)
            forced = "teacher_forced" in raw and event.get("teacher_forced", bool)
            move = Move(action, forced, play)
            _check_frames(event, horizon, suite)
            if not tree.follow(move):
                tree.add(Moment(move))
        elif kind == "set":
            with _refused_in(event.where):
                play = play.changed(**{name: raw[name] for name in Play._fields if name in raw})
        elif kind == "rewind":
            to = event.whole("to", 0, tree.tip * horizon)
            if to % horizon:
                raise event.refusal(f" goes to frame {to}, amid a step")
            tree.steps = to // horizon
        elif kind == "select":
            tree.select(event.whole("branch", 0, len(tree.lines) - 1))
        elif kind == "restart":
            event.whole("start", 0)
            tree = Tree(Moment())
            plays.append(tree)
        elif kind == "resume":
            tree = plays[event.whole("play", 0, len(plays) - 1)]
        else:
            raise event.refusal(f" is {shown(kind)}, which nobody knows")


def _check_frames(event: "_Part", horizon: int, suite: Mapping[str, int]) -> None:
    hashes, tokens = event.get("hashes", list), event.get("tokens", list)
    for name, values in (("hashes", hashes), ("tokens", tokens)):
        if len(values) != horizon:
            raise event.refusal(f" has {len(values)} {name}; a step makes {horizon} frame(s)")
    for text in hashes:
        if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{16}", text):
            raise event.refusal(f" has the hash {shown(text)}, not 16 hexadecimal digits")
    for text in tokens:
        found = read_tokens(text, suite["codebook"])
        if found is None or len(found) != suite["patches"] or int(found.max()) >= suite["codebook"]:
            wanted = f"{suite['patches']} numbers below {suite['codebook']} in base64"
            raise event.refusal(f" has tokens {shown(text)}: not {wanted}")


def read_tokens(text: Any, codebook: int) -> np.ndarray | None:
    """The tokens of a frame, uint16 or uint32 ``[P]``; None where the text holds none."""
    kind = np.dtype("<u2" if codebook <= 2**16 else "<u4")
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return None
    return np.frombuffer(data, kind) if data and len(data) % kind.itemsize == 0 else None


class _Part:
    """An object inside a recording, and how to speak of it."""

    def __init__(self, values: Any, where: str) -> None:
        self.values, self.where = values, where
        if not isinstance(values, Mapping):
            raise self.refusal(f" is {shown(values)}, not an object")

    def refusal(self, what: str) -> SessionFileError:
        """The error that says what is wrong here."""
        return SessionFileError(f"{self.where}{what}.", fix=_BROKEN)

    def get(self, name: str, kind: type) -> Any:
        """A value that must be there and of a type."""
        if name not in self.values:
            raise self.refusal(f" has no {name!r}")
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.refusal(f": {name} is {shown(value)}, which is no {kind.__name__}")
        return value

    def part(self, name: str) -> "_Part":
        """An object within."""
        return _Part(self.get(name, object), f"{self.where}'s {name}")

    def whole(self, name: str, low: int, high: int = _MANY) -> int:
        """A whole number in a range."""
        value = self.get(name, int)
        if not low <= value <= high:
            raise self.refusal(f": {name} is {shown(value)}, not from {low} to {high}")
        return int(value)

    def matching(self, name: str, pattern: str, wanted: str) -> None:
        """A text of a form."""
        if not re.fullmatch(pattern, self.get(name, str), re.ASCII):
            raise self.refusal(f": {name} is {shown(self.values[name])}, not {wanted}")
