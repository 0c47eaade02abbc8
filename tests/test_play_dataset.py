"""Recorded play as a dataset: real sessions played again, and the h5 read back as training reads it."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.assets.dataset import FrameDataset
from helpers.errors import OutputError
from helpers.h5 import write_dataset
from helpers.play import dataset, recording
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world


@pytest.fixture(scope="module")
def game() -> Game:
    """The embedded world, played by hand: a branch at frame 2 of the first, one within that, a restart."""
    settings = Settings(steps=1, start=600, use_interactive_mode=True)
    opened = open_world(settings)
    game = Game(opened, choose_clip(opened, settings), settings)
    for action in (2, 2, 4, 5):
        game.step(action)
    game.rewind(2)
    for action in (1, 3):
        game.step(action)
    game.rewind(3)
    game.step(6)
    return game


@pytest.fixture(scope="module")
def played(game: Game) -> list[np.ndarray]:
    """The frames of each episode, as they were seen: the last one after a restart."""
    seen = []
    for branch, first in ((0, 0), (1, 2), (2, 3)):
        game.select(branch)
        seen.append(game.rollout().frames[game.settings.context_window - 1 :][first:])
    game.restart(700)
    game.step(7)
    game.resume(0)
    game.resume(1)
    return [*seen, game.rollout().frames[game.settings.context_window - 1 :]]


@pytest.fixture(scope="module")
def session(game: Game, played: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("数据 set") / "session.json"
    recording.write(path, game.recording())
    return path


def test_each_branch_and_restart_is_an_episode_of_the_frames_that_were_played(
    session: Path, played: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = session.parent
    assert dataset.main([session.name, "--to", "new/my play.h5", "--called-from", str(folder)]) == 0
    assert "12 frames in 4 episodes" in capsys.readouterr().out
    path = folder / "new" / "my play.h5"
    assert list(path.parent.iterdir()) == [path]
    lengths = [len(frames) for frames in played]
    assert lengths == [5, 3, 2, 2]
    with FrameDataset(path) as data:
        assert data.has_true_actions and len(data) == 12
        starts = [0, 5, 8, 10]
        for start, frames in zip(starts, played, strict=True):
            assert np.array_equal(data.clip(start, len(frames)), frames)
        taken = [data.clip_actions(*row) for row in zip(starts, lengths, strict=True)]
        assert [list(row) for row in taken if row is not None] == [[2, 2, 4, 5], [1, 3], [6], [7]]
        assert list(data.starts(3)) == [0, 1, 2, 5]  # no clip leads from one episode into another
    with h5py.File(path) as file:
        kinds = {name: (each.dtype, len(each)) for name, each in file.items()}
        assert kinds == {"frames": ("u1", 12), "actions": ("u1", 12), "episodes": ("i8", 12)}


def test_several_sessions_follow_each_other_and_one_named_twice_is_in_once(
    session: Path, tmp_path: Path
) -> None:
    other, target = tmp_path / "other.json", tmp_path / "both.h5"
    content = recording.read(session)
    recording.write(other, {**content, "events": content["events"][:2]})
    assert dataset.main([str(session), str(other), str(session), "--to", str(target)]) == 0
    with h5py.File(target) as file:
        assert list(np.bincount(file["episodes"])) == [5, 3, 2, 2, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda session: session["events"][0].update(action=None), "steps without an action"),
        (lambda session: session["events"][0].update(teacher_forced=True), "teacher-forced"),
        (lambda session: session["events"].clear(), "holds no step"),
        (lambda session: session["events"][3].update(hashes=["0" * 16]), "1 of 8 frames"),
        (lambda session: session["files"]["latent_actions"].update(sha256="0" * 64), "latent actions"),
    ],
)
def test_what_cannot_be_a_label_is_refused_and_the_file_stays_as_it_was(
    change, says: str, session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, target = recording.read(session), tmp_path / "play.h5"
    change(content)
    recording.write(tmp_path / "changed.json", content)
    target.write_bytes(b"before")
    assert dataset.main([str(session), str(tmp_path / "changed.json"), "--to", str(target)]) == 2
    assert says in capsys.readouterr().err
    assert target.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.json", "play.h5"]


def test_the_session_is_never_what_is_written_over(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dataset.main([str(session), "--to", str(session)]) == 2
    assert "ends in .h5" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        write_dataset(tmp_path / "file" / "play.h5", [], "a test")
