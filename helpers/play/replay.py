"""Playing a recorded session again, and comparing every frame with what was recorded."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import DeviceError, SessionFileError, shown
from helpers.play.comparison import Difference, Replay
from helpers.play.game import Game, Going, conditions, suite_shape, token_hash
from helpers.play.recording import FIXED, PARTS, read, read_settings, read_tokens
from helpers.play.settings import Settings, names
from helpers.play.tree import Play
from helpers.play.watch import watched
from helpers.play.world import Clip, OpenWorld, choose_clip, open_world
from helpers.run_folder import find_session
from helpers.worldmodel.suite import resolve_device


def recorded_settings(settings: Settings) -> Settings:
    """The settings of the session that ``settings.replay`` names; without one, the same settings.

    Where a world is found, and how fast its video runs, stays as given; so does an explicit device. Device
    ``"auto"`` becomes the recorded one if it is there: elsewhere the last bits of the numbers may differ.
    A `SessionFileError` says that the file is missing or cannot be used.
    """
    if not settings.replay:
        return settings
    path = find_session(settings.replay)
    recording = read(path)
    played = read_settings(recording["settings"])
    if played.use_interactive_mode and not played.actions:
        taken = [event.get("action") for event in recording["events"] if event["event"] == "step"]
        actions = tuple(action for action in taken if action is not None)
        played = with_changes(played, actions=actions, use_actions=False, use_gt_actions=False)
    device = settings.device
    if device == "auto":
        with contextlib.suppress(DeviceError):
            resolve_device(recording["made_on"]["device"])
            device = recording["made_on"]["device"]
    here = {name: getattr(settings, name) for name in names("place", "show")}
    here |= {"device": device, "replay": str(path), "use_interactive_mode": settings.use_interactive_mode}
    return with_changes(played, **here)


def play_session(opened: OpenWorld, clip: Clip, settings: Settings) -> Game:
    """The game that ``settings.replay`` recorded, played again; ``game.replay`` says how it compares."""
    path = find_session(settings.replay)
    recording = read(path)
    notes = compare_worlds(recording, opened, settings.replay_other_weights)
    game = Game(opened, clip, settings)
    with watched(game, recording["events"], "replaying", "event") as events:
        compared, different, first = play_again(game, events)
    game.replay = Replay(path, compared, different, first, tuple(notes))
    return game


def replay(path: str | Path, device: str = "auto", replay_other_weights: bool = False) -> Replay:
    """Play a session again, from its file alone, and compare every frame.

    ``path`` is as `find_session` takes it, the others are as in `Settings`.

    Raises:
        RunbookError: Of the kind that fits; a SessionFileError where the session needs other weights.
    """
    given = Settings(device=device, replay=str(path), replay_other_weights=replay_other_weights)
    settings = recorded_settings(given)
    opened = open_world(settings)
    game = play_session(opened, choose_clip(opened, settings), settings)
    assert game.replay is not None
    return game.replay


def compare_worlds(recording: Mapping[str, Any], opened: OpenWorld, other_weights: bool) -> list[str]:
    """Whether this is the world that was played; what else is not as it was, in words.

    Raises:
        SessionFileError: A part has another sha256, and ``other_weights`` is False; or tokens and actions
            mean something else here.
    """
    files, hashes = recording["files"], opened.hashes
    notes = [
        f"the {part} was {shown(files[part]['name'])} with sha256 {files[part]['sha256']}, and "
        f"{getattr(opened.paths, part)} has {hashes[part]}"
        for part in PARTS
        if files[part]["sha256"] != hashes[part]
    ]
    if notes and not other_weights:
        raise SessionFileError(
            f"The session was played with other files: {notes[0]}.",
            fix="Point video_tokenizer_path, latent_actions_path and dynamics_path at the files it was "
            "played with; or set replay_other_weights to see how these differ.",
        )
    for name, value in suite_shape(opened).items():
        if recording["suite"][name] != value:
            raise SessionFileError(
                f"The session's world has {recording['suite'][name]} {name}, and this one {value}.",
                fix="Replay it with a suite of the same shape.",
            )
    recorded, now = recording["made_on"], conditions(opened)
    changed = [name for name in ("device", "torch", "threads") if recorded[name] != now[name]]
    return [*notes, *(f"{name} was {shown(recorded[name])} and is {shown(now[name])}" for name in changed)]


def go_on(game: Game, recording: Mapping[str, Any], going: Going) -> str:
    """Play a session again at the end of a game, so that it can be gone on with where it was left.

    ``going`` ends it early, with what was played by then. Returns how it went, in a sentence.

    Raises:
        SessionFileError: It was played with other files, or in another window, horizon or precision.
    """
    compare_worlds(recording, game.opened, other_weights=False)
    settings, events = read_settings(recording["settings"]), recording["events"]
    for name in FIXED:
        if getattr(settings, name) != (here := getattr(game.settings, name)):
            what = f"The session was played with {name}={getattr(settings, name)}, and this is {here}."
            raise SessionFileError(what, fix=f"Set {name} as it was, and run the notebook again.")
    game.restart(settings.start)
    game.set(**{name: getattr(settings, name) for name in Play._fields})
    first = game.number

    def told() -> Iterator[Mapping[str, Any]]:
        for number, event in enumerate(events):
            if not going(number, len(events)):
                return
            yield {**event, "play": event["play"] + first} if event["event"] == "resume" else event

    compared, different, _ = play_again(game, told())
    if different:
        return f"{different} of {compared} frames are others here than were saved: see docs/playing.md."
    return f"Going on after {game.generated} frames."


def play_again(game: Game, events: Iterable[Mapping[str, Any]]) -> tuple[int, int, Difference | None]:
    """Let a new game take every event of a checked recording; a RunbookError says which cannot happen.

    Returns how many frames were compared, how many differ, and the first that does.
    """
    compared = different = 0
    first = None
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
        elif kind == "resume":
            game.resume(event["play"])
        else:
            frames = game.step(event["action"], event.get("teacher_forced", False))
            rows = [read_tokens(text, codebook) for text in event["tokens"]]
            recorded = np.stack([row for row in rows if row is not None])  # [H, P]
            wrong = (game.last_tokens != recorded).sum(1)
            for index, row in enumerate(game.last_tokens):
                compared += 1
                if not wrong[index] and token_hash(row) == event["hashes"][index]:
                    continue
                different += 1
                if first is None:
                    where = number, game.branch, event["frame"] + index, int(wrong[index]), len(row)
                    first = Difference(*where, game.as_if(recorded)[index], frames[index])
    return compared, different, first
