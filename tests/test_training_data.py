"""From a recording to a dataset: videos, pictures and h5 files are read, cropped, cut and written."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from helpers.assets.dataset import FrameDataset
from helpers.errors import DatasetError, OutputError, ParameterError
from helpers.h5 import Rows, write_dataset
from helpers.training.prepare import Recording, prepare, read_keys
from helpers.training.video import Cutter, Frame, counted, moving_box, read_frames

RECORDING = Recording(Path(), enough=20)


def ball(count: int, size: int = 48, seed: int = 0) -> np.ndarray:
    """Frames uint8 ``[count, size, size, 3]`` of a ball that moves to and fro by two pixels a frame."""
    frames = np.full((count, size, size, 3), (20, 30, 60), np.uint8)
    for number in range(count):
        x = abs((seed + 2 * number) % (2 * size - 16) - (size - 8))
        frames[number, size // 2 : size // 2 + 8, x : x + 8] = (240, 200, 40)
    return frames


def write_video(path: Path, frames: np.ndarray, rate: int = 30) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif" if path.suffix == ".gif" else "libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["game.mp4", "game.mkv", "game.gif"])
def test_a_video_is_read_at_the_frame_rate_that_is_asked_for(tmp_path: Path, name: str) -> None:
    frames = ball(40)
    path = write_video(tmp_path / name, frames, rate=20)

    read = list(read_frames(path, 10.0))

    assert len(read) == 20
    assert [round(frame.seconds, 2) for frame in read[:3]] == [0.0, 0.1, 0.2]
    error = np.stack([frame.pixels for frame in read]).astype(int) - frames[::2]
    assert np.abs(error).mean() < 25  # what compression, and a GIF's few colours, do


def test_a_folder_of_pictures_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    frames = ball(12)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{number}.png")

    read = np.stack([frame.pixels for frame in read_frames(tmp_path, 15.0)])

    np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_an_unreadable_video_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "game.mp4"
    path.write_bytes(content)

    with pytest.raises(DatasetError, match="cannot be read as a video"):
        prepare(replace(RECORDING, source=path), tmp_path / "x.h5", tmp_path / "x.png")


def test_a_recording_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        prepare(replace(RECORDING, source=tmp_path / "game.mp4"), tmp_path / "x.h5", tmp_path / "x.png")


def test_borders_in_which_nothing_moves_are_cropped() -> None:
    frames = [np.pad(frame, ((10, 14), (6, 8), (0, 0)), constant_values=77) for frame in noise(6)]

    assert moving_box(frames) == (6, 10, 54, 58)


def test_a_picture_that_moves_in_one_corner_alone_is_kept_whole() -> None:
    frames = [np.full((64, 64, 3), 9, np.uint8) for _ in range(3)]
    frames[1][:5, :5] = 200

    assert moving_box(frames) == (0, 0, 64, 64)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 48, 48, 3), np.uint8)


def test_cuts_begin_episodes_and_menus_are_left_out() -> None:
    level_two = 255 - ball(60, seed=7)
    menu = np.repeat(noise(1), 50, 0)
    cutter = Cutter(pause=15)

    kept = [cutter.keeps(frame) for frame in (*ball(60), *menu, *level_two)]

    assert cutter.cuts[0] == 60  # the menu
    assert cutter.cuts[-1] == 110  # the other level
    assert cutter.left_out == list(range(75, 110))
    assert [number for number, keeps in enumerate(kept) if not keeps] == cutter.left_out


def test_memory_stays_flat_however_long_the_recording_is(tmp_path: Path) -> None:
    shots = ball(40)

    def peak(count: int) -> int:
        stream = (Frame(number / 15, shots[number % 40]) for number in range(count))
        kept = counted(stream, (0, 0, 48, 48), 16, Cutter(60))
        rows = (Rows(frame.pixels[None], None, episode) for frame, episode in kept)
        tracemalloc.start()
        write_dataset(tmp_path / "long.h5", rows, "a test")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)
    # A few numbers a frame are kept; its 768 bytes of pixels are not.
    assert peak(3000) - peak(1000) < 2000 * 600


def test_a_recording_becomes_a_dataset_and_one_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "game.mp4", ball(60), rate=15)

    made = prepare(replace(RECORDING, source=path, size=16), tmp_path / "data" / "x.h5", tmp_path / "x.png")

    assert (made.frames, made.episodes, made.labels) == (60, 1, ())
    with FrameDataset(made.path) as data:
        assert data.frame_size == (16, 16) and not data.has_true_actions
    assert Image.open(tmp_path / "x.png").width > 1000
    assert [check.id for check in made.checks] == ["length", "crop", "cuts"]


def test_too_few_frames_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write_video(tmp_path / "game.mp4", ball(30), rate=15)

    with pytest.raises(DatasetError, match="at least 5,000 are needed"):
        prepare(Recording(path), tmp_path / "x.h5", tmp_path / "x.png")

    assert not (tmp_path / "x.h5").exists()


def test_an_h5_keeps_its_actions_and_episodes(tmp_path: Path) -> None:
    numbers = np.repeat([3, 4], 30)
    actions = (np.arange(60) % 3).astype(np.uint8)
    write_dataset(tmp_path / "game.h5", [Rows(ball(60), actions, numbers)], "a test")

    recording = replace(RECORDING, source=tmp_path / "game.h5", size=16, skip=2)
    made = prepare(recording, tmp_path / "x.h5", tmp_path / "x.png")

    with h5py.File(made.path) as file:
        assert file["frames"].shape == (30, 16, 16, 3)
        np.testing.assert_array_equal(file["actions"], actions[::2])
        np.testing.assert_array_equal(file["episodes"], numbers[::2])
    assert len(made.labels) == 4  # ids 0 to 2 take two bits


def test_keys_are_bits_that_hold_until_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    path.write_text("seconds,keys\n0.5,left\n1.0,left+jump\n2,\n", encoding="utf-8")

    keys = read_keys(path)

    assert keys.labels == ("nothing", "left", "jump", "left + jump")
    np.testing.assert_array_equal(keys.at(np.array([0.0, 0.5, 0.9, 1.0, 1.9, 5.0])), [0, 1, 1, 3, 3, 0])


@pytest.mark.parametrize(
    "text", ["", "seconds,keys\n", "seconds,keys\n2,a\n1,b\n", "time\n1\n", "seconds,action\n1,999\n"]
)
def test_keys_that_make_no_sense_are_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.csv"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ParameterError):
        read_keys(path)


def test_a_dataset_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        write_dataset(tmp_path / "file" / "x.h5", [Rows(ball(3), None, 0)], "a test")
