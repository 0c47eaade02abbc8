"""The session file: everything that was played, so that it can be played again and compared bit for bit.

    session_file.write(path, game.recording())
    session_file.replay(path).equal                    # True on the same machine

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
        Play began again from a row of the dataset, with no branch but 0.

Nothing in a file is trusted: it is checked whole before anything is played, and its paths are never opened.
"""

import base64
import binascii
import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers.errors import DeviceError, OutputError, RunbookError, SessionFileError
from helpers.pictures import contact_sheet
from helpers.play.game import (
    FORMAT,
    NOT_RECORDED,
    VERSION,
    Game,
    Moment,
    Move,
    Play,
    Tree,
    checked_play,
    suite_shape,
)
from helpers.play.gpu_trace import GpuTrace
from helpers.play.rollout import (
    LOOP_ENDS,
    LOOP_STARTS,
    Clip,
    OpenWorld,
    Rollout,
    Settings,
    choose_clip,
    gpu_uuid,
    open_world,
    token_hash,
)
from helpers.play.rollout import roll_out as roll_out_anew
from helpers.run_folder import ROOT
from helpers.worldmodel.suite import resolve_device
from helpers.worlds import KINDS

log = logging.getLogger("runbook.session_file")

PARTS = ("dataset", *KINDS)
MAX_BYTES = 2_000_000_000
SETTINGS = (
    *("dataset", "start", "context_window", "prediction_horizon", "generation_steps", "preload_ratio"),
    *("steps", "temperature", "seed", "feedback", "amp", "tf32", "compile"),
    *("teacher_forced", "actions", "use_actions", "use_gt_actions", "use_interactive_mode"),
)
"""What every file of version 1 records; a setting that 05_infer gains later is its default where absent."""

_BROKEN = "Use a session.json as a run or the player saved it."
_WHOLE, _MANY = (int,), 2**62


# --- files -----------------------------------------------------------------------------------------


def find(path: str | Path) -> Path:
    """The session file meant: as given, or under the repository; a run's folder stands for its session.json.

    Raises:
        SessionFileError: There is none; the message names every place that was looked at.
    """
    given = Path(path).expanduser()
    places = [given.absolute(), ROOT / given, ROOT / "outputs" / given]
    places = [where for place in dict.fromkeys(places) for where in (place, place / "session.json")]
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # names that no file can have
            if place.is_file():
                return place
    raise SessionFileError(
        f"There is no session file {str(path)!r}.",
        fix=f"Give its whole path. These were looked at: {', '.join(map(str, places[::2]))}.",
    )


def write(path: Path, recording: Mapping[str, Any]) -> None:
    """Write a recording, whole or not at all; one event a line.

    Raises:
        OutputError: It cannot be written.
    """
    head = json.dumps({name: value for name, value in recording.items() if name != "events"}, indent=2)
    events = ",\n".join(f"    {json.dumps(event, allow_nan=False)}" for event in recording["events"])
    text = f'{head.removesuffix("}").rstrip()},\n  "events": [\n{events}\n  ]\n}}\n'
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}).",
            fix="Free some disk, or choose another folder with the parameter run_dir.",
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """Read a session file and check all of it.

    Returns:
        The recording, as `Game.recording` made it.

    Raises:
        SessionFileError: It is not there, or something in it cannot be; the message says what and where.
    """
    found = find(path)
    try:
        if found.stat().st_size > MAX_BYTES:
            raise SessionFileError(f"{found} is larger than any session: {found.stat().st_size:,} bytes.")
        recording = json.loads(found.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SessionFileError(f"{found} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise SessionFileError(
            f"{found} is not JSON in UTF-8, or is cut short ({error}).", fix=_BROKEN
        ) from error
    try:
        check(recording)
    except SessionFileError as error:
        raise SessionFileError(f"{found}: {error.what}", fix=error.fix) from error
    return dict(recording)


# --- checks ----------------------------------------------------------------------------------------


def check(recording: Any) -> None:
    """Raise a `SessionFileError` for the first thing in a recording that cannot be."""
    top = _Part(recording, "the session")
    if top.get("format", str) != FORMAT:
        raise SessionFileError(f"its format is {_shown(recording['format'])}, not {FORMAT!r}.", fix=_BROKEN)
    if top.whole("version", 0, _MANY) != VERSION:
        raise SessionFileError(
            f"it has version {recording['version']}; this program reads version {VERSION}.",
            fix="Use the version of the runbook that wrote it, or a newer one than this.",
        )
    settings = _check_settings(top.part("settings"))
    files = top.part("files")
    for part in PARTS:
        entry = files.part(part)
        entry.get("name", str)
        entry.matching("sha256", r"[0-9a-f]{64}", "64 hexadecimal digits")
    suite = top.part("suite")
    for name in ("actions", "patches"):
        suite.whole(name, 1, 2**20)
    suite.whole("codebook", 1, 2**32)
    made_on = top.part("made_on")
    made_on.matching("device", r"cpu|mps|cuda(:\d{1,3})?", 'a device such as "cpu" or "cuda:0"')
    made_on.get("torch", str)
    made_on.whole("threads", 1, _MANY)
    made_on.get("platform", str)
    _check_events(top.get("events", list), settings, recording["suite"])


def _check_settings(part: "_Part") -> Settings:
    """The settings of a recording, each of its type and in its range."""
    known = {each.name for each in fields(Settings)} - set(NOT_RECORDED)
    later = {name for name in known - set(SETTINGS) if name not in part.values}
    values = {name: part.get(name, object) for name in sorted(known - later)}
    for name, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, (int, float)) and not -1 <= number < 2**63:
                raise SessionFileError(f"{part.where}: {name} is {_shown(value)}, which is out of range.")
    try:
        settings = Settings.read(values)
        checked_play(Play(settings.steps, settings.temperature, settings.seed, settings.feedback))
    except RunbookError as error:
        raise SessionFileError(f"{part.where}: {error.what}", fix=error.fix) from error
    if settings.start < 0 or not 0 < settings.preload_ratio <= 1:
        raise SessionFileError(
            f"{part.where}: start is {settings.start} and preload_ratio {settings.preload_ratio}.",
            fix="start is a row of the dataset, and preload_ratio is above 0 and at most 1.",
        )
    return settings


def _check_events(events: Sequence[Any], settings: Settings, suite: Mapping[str, int]) -> None:
    """Go through the events without a model: where would each of them happen, and can it?"""
    play = Play(settings.steps, settings.temperature, settings.seed, settings.feedback)
    tree, horizon = Tree(Moment()), settings.prediction_horizon
    for number, raw in enumerate(events):
        event = _Part(raw, f"event {number}")
        kind = event.get("event", str)
        frame = event.whole("frame", 0, _MANY)
        if frame != tree.steps * horizon:
            raise SessionFileError(
                f"{event.where} happens at frame {frame}, and play stands at {tree.steps * horizon}.",
                fix=_BROKEN,
            )
        if kind == "step":
            move = Move(event.action(suite["actions"]), event.flag("teacher_forced"), play)
            _check_frames(event, horizon, suite)
            if not tree.follow(move):
                tree.add(Moment(move))
        elif kind == "set":
            play = _set_play(play, event)
        elif kind == "rewind":
            to = event.whole("to", 0, tree.tip * horizon)
            if to % horizon:
                raise SessionFileError(f"{event.where} goes to frame {to}, amid a step.", fix=_BROKEN)
            tree.rewind(to // horizon)
        elif kind == "select":
            tree.select(event.whole("branch", 0, len(tree.lines) - 1))
        elif kind == "restart":
            event.whole("start", 0, _MANY)
            tree = Tree(Moment())
        else:
            raise SessionFileError(f"{event.where} is {_shown(kind)}, which nobody knows.", fix=_BROKEN)


def _set_play(play: Play, event: "_Part") -> Play:
    given = {name: event.get(name, object) for name in Play._fields if name in event.values}
    try:
        return checked_play(Play(**{**play._asdict(), **given}))
    except (RunbookError, TypeError, OverflowError) as error:
        raise SessionFileError(f"{event.where}: {error}", fix=_BROKEN) from error


def _check_frames(event: "_Part", horizon: int, suite: Mapping[str, int]) -> None:
    hashes, tokens = event.get("hashes", list), event.get("tokens", list)
    for name, values in (("hashes", hashes), ("tokens", tokens)):
        if len(values) != horizon:
            raise SessionFileError(
                f"{event.where} has {len(values)} {name}; a step makes {horizon} frame(s).", fix=_BROKEN
            )
    for text in hashes:
        if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{16}", text):
            raise SessionFileError(f"{event.where} has the hash {_shown(text)}, not 16 hexadecimal digits.")
    for text in tokens:
        found = _tokens(text, suite["codebook"])
        if found is None or len(found) != suite["patches"] or int(found.max()) >= suite["codebook"]:
            raise SessionFileError(
                f"{event.where} has tokens {_shown(text)}: not {suite['patches']} numbers below "
                f"{suite['codebook']} in base64.",
                fix=_BROKEN,
            )


def _tokens(text: Any, codebook: int) -> np.ndarray | None:
    """The tokens of a frame, uint16 or uint32 ``[P]``; None where the text holds none."""
    kind = np.dtype("<u2" if codebook <= 2**16 else "<u4")
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return None
    return np.frombuffer(data, kind) if data and len(data) % kind.itemsize == 0 else None


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Part:
    """An object inside a recording, and how to speak of it."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise SessionFileError(f"{where} is {_shown(values)}, not an object.", fix=_BROKEN)
        self.values, self.where = values, where

    def get(self, name: str, kind: type) -> Any:
        """A value that must be there and of a type."""
        if name not in self.values:
            raise SessionFileError(f"{self.where} has no {name!r}.", fix=_BROKEN)
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in _WHOLE):
            raise SessionFileError(
                f"{self.where}: {name} is {_shown(value)}, which is no {kind.__name__}.", fix=_BROKEN
            )
        return value

    def part(self, name: str) -> "_Part":
        """An object within."""
        return _Part(self.get(name, object), f"{self.where}'s {name}")

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number in a range."""
        value = self.get(name, int)
        if not low <= value <= high:
            raise SessionFileError(
                f"{self.where}: {name} is {_shown(value)}, not from {low} to {high}.", fix=_BROKEN
            )
        return int(value)

    def matching(self, name: str, pattern: str, wanted: str) -> None:
        """A text of a form."""
        if not re.fullmatch(pattern, self.get(name, str), re.ASCII):
            raise SessionFileError(
                f"{self.where}: {name} is {_shown(self.values[name])}, not {wanted}.", fix=_BROKEN
            )

    def action(self, count: int) -> int | None:
        """An action id, or None."""
        return None if self.get("action", object) is None else self.whole("action", 0, count - 1)

    def flag(self, name: str) -> bool:
        """True or False; False where it is absent."""
        return bool(self.get(name, bool)) if name in self.values else False


# --- playing it again ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The first frame of a replay that is another one than was recorded.

    Args:
        event: Number of the event that made it, from 0.
        branch: The branch it is on.
        frame: Generated frames before it on that branch.
        tokens: How many of its tokens differ.
        patches: Of how many.
        recorded: uint8 ``[H, W, 3]``: what was recorded, decoded here.
        replayed: uint8 ``[H, W, 3]``.
    """

    event: int
    branch: int
    frame: int
    tokens: int
    patches: int
    recorded: np.ndarray
    replayed: np.ndarray

    def __str__(self) -> str:
        much = f"{self.tokens} of its {self.patches} tokens" if self.tokens else "its recorded hash alone"
        return f"generated frame {self.frame} of branch {self.branch} (event {self.event}) by {much}"


@dataclass(frozen=True)
class Replay:
    """How playing a session again went.

    Args:
        path: The session file.
        compared: Frames that were compared: all that were played, on every branch.
        different: How many of them differ.
        first: The first that does; None if all are equal.
        notes: What was not as it was when the session was played.
    """

    path: Path
    compared: int
    different: int
    first: Difference | None
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every frame has exactly the tokens that were recorded."""
        return self.first is None

    def __str__(self) -> str:
        if self.first is None:
            text = f"all {self.compared} frames of {self.path} are equal, token for token"
        else:
            text = f"{self.different} of {self.compared} frames of {self.path} differ; first: {self.first}"
        return "; ".join([text, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: ``"replay"`` of ``run.json``."""
        first = self.first
        return {
            "session": str(self.path),
            "equal": self.equal,
            "first_difference": first.frame if first else None,
            "branch": first.branch if first else None,
            "event": first.event if first else None,
            "tokens_different": first.tokens if first else 0,
            "tokens_per_frame": first.patches if first else None,
            "frames_compared": self.compared,
            "frames_different": self.different,
            "notes": list(self.notes),
        }

    def picture(self) -> Image.Image | None:
        """The first frame that differs, as it was and as it is, and where; None if there is none."""
        if self.first is None:
            return None
        was, now = self.first.recorded, self.first.replayed
        apart = np.abs(was.astype(np.int16) - now.astype(np.int16)).astype(np.uint8)
        frames = np.stack([was, now, 255 - apart])
        captions = ["recorded", "replayed", "difference"]
        return contact_sheet(
            [("frame " + str(self.first.frame), frames)], captions, scale=max(1, 256 // len(was))
        )


def recorded_settings(settings: Settings) -> Settings:
    """The settings of the session that ``settings.replay`` names; without one, the same settings.

    Where a world is found, and how fast its video runs, stays as given; so does an explicit device. Device
    ``"auto"`` becomes the recorded one if it is there: elsewhere the last bits of the numbers may differ.

    Raises:
        SessionFileError: The file is missing or cannot be used.
    """
    if not settings.replay:
        return settings
    path = find(settings.replay)
    recording = read(path)
    recorded = {name: value for name, value in recording["settings"].items() if name not in NOT_RECORDED}
    known = {each.name for each in fields(Settings)}
    played = Settings.read({name: value for name, value in recorded.items() if name in known})
    if played.use_interactive_mode and not played.actions:
        taken = [event.get("action") for event in recording["events"] if event["event"] == "step"]
        actions = tuple(action for action in taken if action is not None)
        played = replace(played, actions=actions, use_actions=False, use_gt_actions=False)
    device = settings.device
    if device == "auto":
        with contextlib.suppress(DeviceError):
            resolve_device(recording["made_on"]["device"])
            device = recording["made_on"]["device"]
    kept = {name: getattr(settings, name) for name in NOT_RECORDED}
    kept |= {"device": device, "replay": str(path), "use_interactive_mode": settings.use_interactive_mode}
    return replace(played, **kept)


def roll_out(opened: OpenWorld, clip: Clip, settings: Settings) -> Rollout:
    """Generate frames as the settings say: anew, or by playing a session again.

    Args:
        opened: The world.
        clip: What to start from.
        settings: What `recorded_settings` gave.

    Returns:
        The rollout; of a session its last branch, and in ``replay`` how everything compares.

    Raises:
        RunbookError: Of the kind that fits; a SessionFileError where the session needs other weights.
    """
    from tqdm.auto import tqdm

    if not settings.replay:
        return roll_out_anew(opened, clip, settings)
    path = find(settings.replay)
    recording = read(path)
    notes = compare_worlds(recording, opened, settings.replay_other_weights)
    game = Game(opened, clip, settings)
    device = opened.suite.device
    trace = GpuTrace(uuid=gpu_uuid(device)) if device.type == "cuda" else None
    log.info(f"{LOOP_STARTS}: %d events of %s on %s", len(recording["events"]), path, device)
    with trace or contextlib.nullcontext():
        compared, different, first = play_again(
            game, tqdm(recording["events"], desc="replaying", unit="event")
        )
    made = replace(game.rollout(), trace=trace, replay=Replay(path, compared, different, first, tuple(notes)))
    log.info(f"{LOOP_ENDS}: %s", made.replay)
    return made


def replay(path: str | Path, device: str = "auto", replay_other_weights: bool = False) -> Replay:
    """Play a session again, from its file alone, and compare every frame.

    Args:
        path: As `find` takes it.
        device: Where; ``"auto"`` takes the recorded device if it is there.
        replay_other_weights: Go on although the suite or dataset is another one than was played.

    Raises:
        RunbookError: Of the kind that fits; a SessionFileError where the session needs other weights.
    """
    settings = Settings(device=device, replay=str(path), replay_other_weights=replay_other_weights)
    settings = recorded_settings(settings)
    opened = open_world(settings)
    made = roll_out(opened, choose_clip(opened, settings), settings)
    assert made.replay is not None
    return made.replay


def compare_worlds(recording: Mapping[str, Any], opened: OpenWorld, other_weights: bool) -> list[str]:
    """Whether this is the world that was played; what else is not as it was, in words.

    Raises:
        SessionFileError: A part has another sha256, and ``other_weights`` is False; or tokens and actions
            mean something else here.
    """
    notes = []
    for part, entry in ((part, recording["files"][part]) for part in PARTS):
        recorded, here = entry["sha256"], opened.hashes[part]
        if recorded != here:
            what = f"the {part} was {_shown(entry['name'])} with sha256 {recorded}, and "
            what += f"{getattr(opened.paths, part)} has {here}"
            if not other_weights:
                raise SessionFileError(
                    f"The session was played with other files: {what}.",
                    fix="Point video_tokenizer_path, latent_actions_path and dynamics_path at the files it "
                    "was played with; or set replay_other_weights to see how these differ.",
                )
            notes.append(what)
    suite = opened.suite
    for name, value in suite_shape(suite).items():
        if recording["suite"][name] != value:
            raise SessionFileError(
                f"The session's world has {recording['suite'][name]} {name}, and this one {value}.",
                fix="Replay it with a suite of the same shape.",
            )
    made_on = recording["made_on"]
    now = {"device": str(suite.device), "torch": torch.__version__, "threads": torch.get_num_threads()}
    notes += [
        f"{name} was {_shown(made_on[name])} and is {_shown(value)}"
        for name, value in now.items()
        if made_on[name] != value
    ]
    return notes


def play_again(game: Game, events: Sequence[Mapping[str, Any]]) -> tuple[int, int, Difference | None]:
    """Let a new game take every event of a checked recording.

    Returns:
        How many frames were compared, how many differ, and the first that does.

    Raises:
        RunbookError: An event cannot happen in this world.
    """
    compared = different = 0
    first: Difference | None = None
    codebook = game.opened.suite.video_tokenizer.quantizer.codebook_size
    for number, event in enumerate(events):
        kind = event["event"]
        if kind == "set":
            game.set(**{name: event[name] for name in Play._fields if name in event})
        elif kind == "rewind":
            game.rewind(event["to"])
        elif kind == "select":
            game.select(event["branch"])
        elif kind == "restart":
            game.restart(event["start"])
        else:
            made = game.step(event["action"], event.get("teacher_forced", False))
            tokens = game.last_tokens
            recorded = np.stack([_need(_tokens(text, codebook)) for text in event["tokens"]])  # [H, P]
            for index, row in enumerate(tokens):
                compared += 1
                wrong = int((row != recorded[index]).sum())
                if not wrong and token_hash(row) == event["hashes"][index]:
                    continue
                different += 1
                if first is None:
                    was = game.as_if(recorded)[index]
                    frame = event["frame"] + index
                    first = Difference(number, game.branch, frame, wrong, len(row), was, made[index])
    return compared, different, first


def _need(tokens: np.ndarray | None) -> np.ndarray:
    assert tokens is not None, "the recording was not checked"
    return tokens
