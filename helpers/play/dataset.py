"""Recorded play as a labelled dataset: ``runbook.py dataset outputs/RUN/session.json --to my_play.h5``.

The sessions are played again, and every step is in the h5 once. It has one row a frame, in the form that
`helpers.assets.dataset.FrameDataset` and training read:

    frames    uint8 [N, H, W, 3]  RGB
    actions   uint8 [N]           the id taken *at* this frame; its effect is the next frame
    episodes  int64 [N]           rows of one episode carry one number and lie together, in order

Each branch is an episode of its own, and so is all that follows a restart. An episode begins with the frame
at which its first action was taken: the last given one, or that at which a branch left its parent. At its
last frame no action was taken, and 0 stands there.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from helpers.commands import exit_status
from helpers.errors import ParameterError, SessionFileError
from helpers.files import expanded, written_whole
from helpers.parameters import command_parser
from helpers.play import recording
from helpers.play.game import Game
from helpers.play.replay import compare_worlds, play_again, recorded_settings
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.run_folder import find_session, writing

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


def write(path: Path, played: Iterable[Episode]) -> tuple[int, int]:
    """Write episodes, one at least, to an h5, whole or not at all; how many frames and episodes it has.

    An `OutputError` says why that is impossible.
    """
    actions: list[np.ndarray] = []
    with writing(path, fix="Free some disk, or choose another place with --to."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial, h5py.File(partial, "w") as file:
            for frames, taken in played:
                if not actions:
                    size, every = frames.shape[1:], (None, *frames.shape[1:])
                    file.create_dataset(
                        "frames", (0, *size), np.uint8, chunks=(8, *size), maxshape=every, compression="gzip"
                    )
                data = file["frames"]
                data.resize(len(data) + len(frames), 0)
                data[-len(frames) :] = frames
                actions.append(taken)
            file["actions"] = np.concatenate(actions)
            lengths = [len(taken) for taken in actions]
            file["episodes"] = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
            file.attrs["source"] = "recorded play, helpers.play.dataset"
    return sum(lengths), len(lengths)


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
    rows, count = write(target, itertools.chain.from_iterable(every))
    print(f"{target}  {rows} frames in {count} episodes, {target.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
