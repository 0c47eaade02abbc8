"""Playing a recorded session again, and comparing every frame with what was recorded."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.errors import DeviceError, SessionFileError
from helpers.play.comparison import Difference, Replay
from helpers.play.game import Game, suite_shape, token_hash
from helpers.play.recording import PARTS, find, read, read_settings, read_tokens
from helpers.play.settings import Settings, names, shown
from helpers.play.tree import Play
from helpers.play.watch import watched
from helpers.play.world import Clip, OpenWorld, choose_clip, open_world
from helpers.worldmodel.suite import resolve_device


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
    """The game that ``settings.replay`` recorded, played again; ``game.replay`` says how it compares.

    Raises:
        RunbookError: Of the kind that fits; a SessionFileError where the session needs other weights.
    """
    path = find(settings.replay)
    recording = read(path)
    notes = compare_worlds(recording, opened, settings.replay_other_weights)
    game = Game(opened, clip, settings)
    with watched(game, recording["events"], "replaying", "event") as events:
        compared, different, first = play_again(game, events)
    game.replay = Replay(path, compared, different, first, tuple(notes))
    return game


def replay(path: str | Path, device: str = "auto", replay_other_weights: bool = False) -> Replay:
    """Play a session again, from its file alone, and compare every frame.

    Args:
        path: As `recording.find` takes it.
        device: Where; ``"auto"`` takes the recorded device if it is there.
        replay_other_weights: Go on although the suite or dataset is another one than was played.

    Raises:
        RunbookError: Of the kind that fits; a SessionFileError where the session needs other weights.
    """
    settings = Settings(device=device, replay=str(path), replay_other_weights=replay_other_weights)
    settings = recorded_settings(settings)
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
    notes = []
    for part in PARTS:
        entry, here = recording["files"][part], opened.hashes[part]
        if entry["sha256"] != here:
            what = f"the {part} was {shown(entry['name'])} with sha256 {entry['sha256']}, and "
            what += f"{getattr(opened.paths, part)} has {here}"
            if not other_weights:
                raise SessionFileError(
                    f"The session was played with other files: {what}.",
                    fix="Point video_tokenizer_path, latent_actions_path and dynamics_path at the files it "
                    "was played with; or set replay_other_weights to see how these differ.",
                )
            notes.append(what)
    for name, value in suite_shape(opened).items():
        if recording["suite"][name] != value:
            raise SessionFileError(
                f"The session's world has {recording['suite'][name]} {name}, and this one {value}.",
                fix="Replay it with a suite of the same shape.",
            )
    recorded = recording["made_on"]
    now = {
        "device": str(opened.suite.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    changed = [(name, value) for name, value in now.items() if recorded[name] != value]
    return [*notes, *(f"{name} was {shown(recorded[name])} and is {shown(value)}" for name, value in changed)]


def play_again(game: Game, events: Iterable[Mapping[str, Any]]) -> tuple[int, int, Difference | None]:
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
            frames = game.step(event["action"], event.get("teacher_forced", False))
            rows = [read_tokens(text, codebook) for text in event["tokens"]]
            recorded = np.stack([row for row in rows if row is not None])  # [H, P]
            for index, row in enumerate(game.last_tokens):
                compared += 1
                wrong = int((row != recorded[index]).sum())
                if not wrong and token_hash(row) == event["hashes"][index]:
                    continue
                different += 1
                if first is None:
                    was = game.as_if(recorded)[index]
                    frame = event["frame"] + index
                    first = Difference(number, game.branch, frame, wrong, len(row), was, frames[index])
    return compared, different, first
