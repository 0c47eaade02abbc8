"""Pictures and videos: pixel-exact where they can be, and re-opened where they are files."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from helpers.errors import OutputError
from helpers.pictures import contact_sheet, to_uint8, write_pngs, write_video


def moving(count: int, height: int = 16, width: int = 16) -> np.ndarray:
    """A white bar that moves one pixel a frame over blue."""
    frames = np.full((count, height, width, 3), (20, 40, 160), np.uint8)
    for number in range(count):
        frames[number, :, number % width] = 255
    return frames


def test_model_values_out_of_range_are_clamped_to_pixels() -> None:
    frames = np.array([-1.29, -1.0, 0.0, 1.0, 1.18, 0.2], np.float32).reshape(1, 3, 1, 2)
    assert to_uint8(frames).tolist() == [[[[0, 128, 255], [0, 255, 153]]]]


def test_pixels_survive_the_way_to_model_values_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(np.moveaxis(every / 255 * 2 - 1, -1, -3)), every)


def test_every_frame_becomes_a_png_that_reads_back_exactly(tmp_path: Path) -> None:
    frames = moving(3)
    paths = write_pngs(frames, tmp_path / "帧 frames", scale=3)
    assert [path.name for path in paths] == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
    for frame, path in zip(frames, paths, strict=True):
        assert np.array_equal(np.asarray(Image.open(path))[::3, ::3], frame)


def test_pictures_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match="taken"):
        write_pngs(moving(1), tmp_path / "taken")


def find(sheet: Image.Image, frame: np.ndarray) -> list[tuple[int, int]]:
    """Left upper corners at which ``frame`` stands in a sheet."""
    view = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), frame.shape)[:, :, 0]
    return [(int(x), int(y)) for y, x in np.argwhere((view == frame).all(axis=(2, 3, 4)))]


def test_a_contact_sheet_sets_the_rows_one_over_the_other_in_equal_columns() -> None:
    truth, prediction = moving(5), 255 - moving(5)
    sheet = contact_sheet([("truth", truth), ("prediction", prediction)], list("abcde"), scale=1)
    above = [find(sheet, frame)[0] for frame in truth]
    below = [find(sheet, frame)[0] for frame in prediction]
    assert [x for x, _ in above] == [x for x, _ in below] == sorted({x for x, _ in above})
    assert all(a[1] + 16 <= b[1] for a, b in zip(above, below, strict=True))


def test_given_frames_are_framed_and_generated_ones_are_not() -> None:
    frames = moving(4)
    sheet = contact_sheet([("truth", frames)], [""] * 4, given=2, scale=1)
    orange = [sheet.getpixel((x - 1, y - 1)) == (224, 138, 0) for x, y in (find(sheet, f)[0] for f in frames)]
    assert orange == [True, True, False, False]


def test_a_long_sequence_goes_on_in_a_band_below() -> None:
    frames = moving(7)
    sheet = contact_sheet([("truth", frames)], [""] * 7, scale=1, columns=4)
    places = [find(sheet, frame)[0] for frame in frames]
    assert [x for x, _ in places[4:]] == [x for x, _ in places[:3]]
    assert len({y for _, y in places}) == 2


def test_captions_and_labels_are_drawn() -> None:
    frames = moving(2)
    plain = contact_sheet([("row", frames)], ["", ""], scale=4)
    captioned = contact_sheet([("row", frames)], ["7", "8"], scale=4)
    assert plain.size == captioned.size
    changed = np.argwhere((np.asarray(plain) != np.asarray(captioned)).any(axis=2))
    assert len(changed) > 10 and changed[:, 0].max() < find(plain, frames[0].repeat(4, 0).repeat(4, 1))[0][1]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 15)])
def test_a_video_is_h264_that_browsers_play_and_holds_every_frame(
    tmp_path: Path, height: int, width: int
) -> None:
    result = write_video(moving(9, height, width), tmp_path / "rollout 视频.mp4", fps=15, scale=3)
    assert (result.codec, result.frames, result.note) == ("h264", 9, "")
    with av.open(str(result.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 15
        assert stream.width % 2 == stream.height % 2 == 0 and stream.width >= width * 3
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(first[5, width * 2].astype(int) - (20, 40, 160)).max() < 25
    content = result.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the index must be in front for streaming"


def test_a_single_frame_is_a_video_too(tmp_path: Path) -> None:
    assert write_video(moving(1), tmp_path / "one.mp4", fps=2).frames == 1


def test_a_codec_that_is_not_there_gives_a_gif_and_says_so(tmp_path: Path) -> None:
    frames = np.concatenate([moving(3), moving(1)[[0, 0]]])
    result = write_video(frames, tmp_path / "rollout.mp4", fps=10, codec="no_such_codec")
    assert (result.codec, result.path.name, result.frames) == ("gif", "rollout.gif", 5)
    assert "No MP4 was written" in result.note and "no_such_codec" in result.note
    assert not (tmp_path / "rollout.mp4").exists()
    with Image.open(result.path) as gif:
        assert gif.format == "GIF" and gif.size == (64, 64)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"rollout\.gif could not be written"):
        write_video(moving(2), tmp_path / "nowhere" / "rollout.mp4", fps=2)
