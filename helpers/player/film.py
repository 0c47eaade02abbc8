"""Films a world being played, with its keys below the picture: ``python runbook.py film``.

A recorded session and given actions are filmed as they are; without either, an autopilot plays.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers.commands import exit_status
from helpers.errors import ParameterError
from helpers.files import replace_file
from helpers.parameters import world_parser, world_values
from helpers.pictures import upscale, write_animation, write_video
from helpers.play import recording, rollout
from helpers.play.game import Game
from helpers.play.replay import recorded_settings
from helpers.play.settings import Settings
from helpers.play.watch import watched
from helpers.play.world import OpenWorld, choose_clip, open_world
from helpers.player.autopilot import Autopilot, CrafterPilot, held_keys
from helpers.player.keycaps import Keycaps
from helpers.player.keymap import default_keys
from helpers.player.labels import ActionLabel, label_actions
from helpers.presets import measure
from helpers.run_folder import open_run, writing

WIDTH = 432
"""Pixels of a picture at most: frames are enlarged by the largest whole number that fits."""

SECONDS, LONGEST = 12, 600
"""Of play: how many where nobody says how long, and at most."""

ENDINGS = (".webp", ".gif", ".mp4")


def play(opened: OpenWorld, settings: Settings, labels: Sequence[ActionLabel], frames: int) -> Game:
    """The game to film: the session or the actions that the settings have, or ``frames`` by an autopilot.

    Raises a `RunbookError` of the kind that fits, as playing and replaying a world do.
    """
    if settings.replay or settings.actions:
        return rollout.play(opened, choose_clip(opened, settings), settings)
    settings = replace(settings, use_interactive_mode=True)  # of the clip only what is given has to be true
    game = Game(opened, choose_clip(opened, settings), settings)
    autopilot: Autopilot = held_keys(labels, settings.seed)
    if opened.world.suite == "crafter":
        autopilot = CrafterPilot(settings.seed)
    with watched(game, range(math.ceil(frames / game.horizon)), "playing", "step") as steps:
        for _ in steps:
            game.step(autopilot(game.last_tokens))
    return game


def pictures(game: Game, labels: Sequence[ActionLabel]) -> np.ndarray:
    """Each frame of the current branch, enlarged, above the keys that led to it: uint8 ``[T, H, W, 3]``."""
    frames, actions = game.last_frames(sys.maxsize)
    large = upscale(frames, max(1, WIDTH // frames.shape[2]))
    caps = Keycaps(labels, default_keys(labels), large.shape[2])
    keys = {action: caps.draw(action) for action in set(actions)}
    return np.stack([np.concatenate([f, keys[a]]) for f, a in zip(large, actions, strict=True)])


def save(game: Game, film: np.ndarray, fps: float, place: Path | None = None) -> list[Path]:
    """Write pictures, uint8 ``[T, H, W, 3]``, to one file if ``place`` has one of `ENDINGS`; the files.

    Otherwise to a folder, a new one without a ``place``, in all forms and with the session file.
    An `OutputError` says what could not be written.
    """
    if place and place.suffix in ENDINGS:
        return [_write(film, place, fps)]
    folder = open_run(f"{game.opened.world.name}_film", place or "")
    recording.write(folder / "session.json", game.recording())
    files = [_write(film, folder / f"film{ending}", fps) for ending in ENDINGS]
    return [*dict.fromkeys(files), folder / "session.json"]  # without H.264, the MP4 is the GIF again


def _write(film: np.ndarray, path: Path, fps: float) -> Path:
    refused = writing(path, fix="Free some disk, or choose another place with --to.")
    # Ctrl+C leaves no half a film: what is written takes its place when it is whole.
    partial = path.with_stem(f"{path.stem}.{os.getpid()}.part")
    try:
        with refused:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".mp4":
                written = write_video(film, partial, fps, scale=1).path  # a GIF where there is no H.264
            else:
                written = write_animation(film, partial, fps)
            return replace_file(written, path.with_suffix(written.suffix))
    finally:
        for ending in ENDINGS:
            partial.with_suffix(ending).unlink(missing_ok=True)


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Play, film and save; the exit status is 0 if a film was written."""
    about = "Film a world being played, with the keys below: a WebP, a GIF, an MP4, and the session."
    parser = world_parser("film", about, "-p seed=3 or -p start=600")
    add = parser.add_argument
    add("--seconds", type=float, help=f"how long ({SECONDS}, or all of a session)")
    add("--session", metavar="FILE", help="a session.json to film; otherwise the world is played here")
    places = "a folder for all files, or one file that ends in " + ", ".join(ENDINGS)
    add("--to", type=Path, metavar="PLACE", help=f"{places} (default: a new folder in outputs)")
    arguments = parser.parse_args(argv)
    here, seconds = arguments.called_from, arguments.seconds
    if seconds is not None and not 0 < seconds <= LONGEST:
        raise ParameterError(f"--seconds is {seconds:g}.", fix=f"Use more than 0, up to {LONGEST}.")
    values = world_values(arguments)
    if session := arguments.session or values.get("replay"):
        values["replay"] = str(here / session) if (here / session).exists() else session
    settings = recorded_settings(Settings.read(values))
    opened = open_world(settings)
    settings, labels = measure.apply(opened, settings), label_actions(opened)
    fps = values.get("fps") or opened.world.fps
    game = play(opened, settings, labels, math.ceil((seconds or SECONDS) * fps))
    film = pictures(game, labels)[: math.ceil(seconds * fps) if seconds else None]
    for path in save(game, film, fps, here / arguments.to if arguments.to else None):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    if game.replay:
        print(game.replay)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
