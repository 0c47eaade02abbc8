"""Recorded play as a labelled dataset: ``runbook.py dataset outputs/RUN/session.json --to my_play.h5``.

The sessions are played again, and every step is in the h5 once, in the form of `helpers.h5`.

Each branch is an episode of its own, and so is all that follows a restart. An episode begins with the frame
at which its first action was taken: the last given one, or that at which a branch left its parent. At its
last frame no action was taken, and 0 stands there.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.commands import exit_status
from helpers.errors import ParameterError, SessionFileError
from helpers.files import expanded
from helpers.h5 import Rows, write_dataset
from helpers.parameters import command_parser
from helpers.play import recording
from helpers.play.game import Game
from helpers.play.replay import compare_worlds, play_again, recorded_settings
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.run_folder import find_session

Episode = tuple[np.ndarray, np.ndarray]  # uint8 [T, H, W, 3] and uint8 [T], T at least 2


def check_labels(sessions: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse sessions whose actions cannot be the labels of one dataset, with a `SessionFileError`."""
    meanings = {}
    for path, session in sessions.items():
        meanings[session["files"]["latent_actions"]["sha256"]] = path
        steps = [event for event in session["events"] if event["event"] == "step"]
        what = ""
        if not steps:
            what = "holds no step"
        elif session["suite"]["actions"] > 256:
            what = "has ids above 255, which uint8 does not hold"
        elif any(step["action"] is None for step in steps):
            what = "has steps without an action"
        elif any(step.get("teacher_forced") for step in steps):
            what = "is teacher-forced: a frame is not the effect of an action at the frame before"
        if what:
            raise SessionFileError(f"{path} {what}.", fix="Leave it out.")
    if len(meanings) > 1:
        raise SessionFileError(
            f"{' and '.join(map(str, meanings.values()))} were played with different latent actions: "
            "the same id means something else in each.",
            fix="Write a dataset for each world.",
        )


def episodes(path: Path, session: Mapping[str, Any], device: str = "auto") -> Iterator[Episode]:
    """Play a checked session again; its episodes, as frames and the actions taken at them.

    Raises a `RunbookError` of the kind that fits: a SessionFileError where the session was played with other
    files, or is not what was recorded when it is played here.
    """
    settings = recorded_settings(Settings(device=device, replay=str(path)))
    opened = open_world(settings)
    compare_worlds(session, opened, other_weights=False)
    game = Game(opened, choose_clip(opened, settings), settings)
    compared, different, _ = play_again(game, session["events"])
    if different:
        raise SessionFileError(
            f"{different} of {compared} frames of {path} are others here than were played.",
            fix="Use the computer and the torch that it was played with.",
        )
    for play in range(game.plays):
        game.resume(play)
        for branch in game.branches:
            if branch.length:
                game.select(branch.id)
                frames, actions = game.last_frames(branch.length + 1)
                yield frames, np.array([*actions[1:], 0], np.uint8)


def rows_of(played: Iterable[Episode]) -> Iterator[Rows]:
    """Episodes as the rows of a dataset, numbered from 0."""
    return (Rows(frames, taken, number) for number, (frames, taken) in enumerate(played))


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Play sessions again and write what was played; the exit status is 0 if a dataset was written."""
    parser = command_parser("dataset", "Write recorded play as an h5 of frames, actions and episodes.")
    add = parser.add_argument
    add("sessions", nargs="+", metavar="FILE", help="a session.json, or a run's folder")
    add("--to", type=Path, required=True, metavar="FILE.h5", help="the h5 to write")
    add("--device", default="auto", help="cpu, cuda, … (default: the recorded one if it is there)")
    arguments = parser.parse_args(argv)
    here, target = arguments.called_from, arguments.called_from / expanded(arguments.to)
    if target.suffix != ".h5":
        raise ParameterError(f"--to is {str(arguments.to)!r}.", fix="Name a file that ends in .h5.")
    given = [here / name if (here / name).exists() else name for name in map(expanded, arguments.sessions)]
    sessions = {path: recording.read(path) for path in dict.fromkeys(map(find_session, given))}
    check_labels(sessions)
    every = (episodes(path, session, arguments.device) for path, session in sessions.items())
    played = rows_of(itertools.chain.from_iterable(every))
    fix = "Free some disk, or choose another place with --to."
    rows, count = write_dataset(target, played, "recorded play, helpers.play.dataset", fix=fix)
    print(f"{target}  {rows} frames in {count} episodes, {target.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
