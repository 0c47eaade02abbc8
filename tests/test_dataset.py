"""Clips out of an h5: the right rows, little memory, and a sentence for every kind of bad file."""

import os
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.errors import DatasetError, ParameterError


def numbered(count: int, size: int = 8) -> np.ndarray:
    """Frames whose every pixel is the number of their row."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3)
    ).copy()


def write(path: Path, **columns: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path / "plain.h5", frames=numbered(40))


def test_a_clip_is_every_skipth_row_from_its_start(plain: Path) -> None:
    with FrameDataset(plain, skip=4, first_frame=3) as data:
        clip = data.clip(5, 6)
    assert clip.shape == (6, 8, 8, 3) and clip.dtype == np.uint8
    assert clip[:, 0, 0, 0].tolist() == [5, 9, 13, 17, 21, 25]


def test_starts_are_exactly_the_rows_from_which_a_clip_fits(plain: Path) -> None:
    with FrameDataset(plain, skip=4, first_frame=3, preload_ratio=0.5) as data:
        starts = list(data.starts(4))
        assert starts == list(range(3, 8))
        assert data.clip(starts[-1], 4)[-1, 0, 0, 0] == 19
        for outside in (2, 8, -1):
            with pytest.raises(DatasetError, match=f"from row {outside} "):
                data.clip(outside, 4)


def test_the_length_counts_the_usable_rows(plain: Path) -> None:
    with FrameDataset(plain, first_frame=3, preload_ratio=0.99) as data:
        assert len(data) == 39 - 3


def test_no_clip_crosses_an_episode(tmp_path: Path) -> None:
    path = write(tmp_path / "e.h5", frames=numbered(12), episodes=np.repeat([0, 1, 2], [5, 2, 5]))
    with FrameDataset(path, skip=2) as data:
        assert list(data.starts(3)) == [0, 7]
        with pytest.raises(DatasetError, match="crosses into another episode"):
            data.clip(3, 3)


def test_true_actions_come_with_the_frames_they_were_taken_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", frames=numbered(12), actions=np.arange(12, dtype=np.uint8))
    with FrameDataset(path, skip=2) as data:
        actions = data.clip_actions(1, 4)
    assert actions is not None and actions.dtype == np.int64
    assert actions.tolist() == [1, 3, 5]


def test_a_dataset_without_actions_says_none(plain: Path) -> None:
    with FrameDataset(plain) as data:
        assert data.clip_actions(0, 4) is None and not data.has_true_actions


def test_a_dataset_larger_than_memory_should_be_costs_only_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", (20_000, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        frames[0], frames[15_000], frames[-1] = 1, 2, 3
    tracemalloc.start()
    try:
        with FrameDataset(path, skip=4, first_frame=100) as data:
            clip = data.clip(14_996, 4)
            starts = data.starts(16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert clip[1].min() == 2 and len(starts) == 20_000 - 100 - 60
    assert 20_000 * 64 * 64 * 3 > 240e6
    assert peak < 5e6


def test_the_liveliest_clip_of_each_stretch_is_found_and_a_single_cut_is_not_life(tmp_path: Path) -> None:
    frames = np.zeros((60, 16, 16, 3), np.uint8)
    frames[28:] = 250
    for step in range(10):
        frames[8 + step, :, step : step + 8] = 40
        frames[42 + step, :, step : step + 8] = 0
    with FrameDataset(write(tmp_path / "l.h5", frames=frames)) as data:
        first, second = lively_starts(data, 8, count=2)
        assert lively_starts(data, 8) == [first]
    assert 38 <= first <= 48, "most steps of the clip are among those in which the darker block moves"
    assert 4 <= second <= 14, "the fainter block is the liveliest of the first half, and the cut is not"


def test_model_frames_are_scaled_to_plus_minus_one_with_channels_first() -> None:
    clip = np.zeros((2, 4, 4, 3), np.uint8)
    clip[1, 2, 3] = (255, 0, 51)
    frames = to_model_frames(clip, 4)
    assert frames.shape == (1, 2, 3, 4, 4) and frames.dtype == np.float32
    assert frames[0, 1, :, 2, 3] == pytest.approx([1.0, -1.0, -0.6])


def test_frames_of_the_models_size_pass_without_a_notice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_model_frames(np.zeros((1, 4, 4, 3), np.uint8), 4)


def test_frames_of_another_size_are_area_resized_with_a_notice() -> None:
    clip = np.zeros((1, 4, 6, 3), np.uint8)
    clip[0, :2, :3] = [[[100] * 3, [200] * 3, [0] * 3], [[0] * 3, [100] * 3, [200] * 3]]
    with pytest.warns(UserWarning, match="4x6, the models take 2x2"):
        frames = to_model_frames(clip, 2)
    assert frames[0, 0, 0].tolist() == [[pytest.approx(100 / 255 * 2 - 1), -1.0], [-1.0, -1.0]]


BAD_FILES = {
    "html.h5": (b"\n<!DOCTYPE html><html>Sign in</html>", "is an HTML page"),
    "pointer.h5": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "is a Git-LFS pointer",
    ),
    "empty.h5": (b"", "is an empty file"),
    "noise.h5": (b"\x00\x01" * 600, "is not an h5 file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_h5_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    content, said = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said) as caught:
        FrameDataset(tmp_path / name)
    assert name in str(caught.value) and "04_assets" in caught.value.fix


def test_a_missing_file_sends_the_reader_to_04_assets(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.h5 does not exist") as caught:
        FrameDataset(tmp_path / "nowhere.h5")
    assert "04_assets" in caught.value.fix


def test_a_file_that_is_cut_short_is_called_so(tmp_path: Path, plain: Path) -> None:
    short = tmp_path / "short.h5"
    short.write_bytes(plain.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match="is cut short"):
        FrameDataset(short)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"images": numbered(5)}, "no dataset `frames`; it has images"),
        ({}, "it has nothing"),
        ({"frames": numbered(5).astype(np.float32)}, r"float32 \[5, 8, 8, 3\], not uint8"),
        ({"frames": numbered(5)[..., 0]}, r"uint8 \[5, 8, 8\], not uint8 \[N, H, W, 3\]"),
        ({"frames": numbered(5).transpose(0, 3, 1, 2)}, r"\[5, 3, 8, 8\]"),
        ({"frames": numbered(5), "actions": np.zeros(4, np.uint8)}, "`actions` of .* not 5 whole numbers"),
        ({"frames": numbered(5), "episodes": np.zeros(5)}, "`episodes` of .* float64"),
        ({"frames": numbered(0)}, "too short: 0 of its 0 frames"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(
    tmp_path: Path, columns: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        FrameDataset(write(tmp_path / "other.h5", **columns))


def test_a_dataset_that_is_too_short_says_so_when_opened_and_when_asked(plain: Path) -> None:
    with pytest.raises(DatasetError, match="4 of its 40 frames may be used"):
        FrameDataset(plain, first_frame=10, preload_ratio=0.1)
    with FrameDataset(plain, skip=4) as data, pytest.raises(DatasetError, match="no clip of 11 frames"):
        data.starts(11)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01])
def test_a_preload_ratio_out_of_range_is_refused(plain: Path, ratio: float) -> None:
    with pytest.raises(ParameterError, match="preload_ratio"):
        FrameDataset(plain, preload_ratio=ratio)


def test_a_refused_file_is_not_kept_open(tmp_path: Path) -> None:
    path = write(tmp_path / "other.h5", images=numbered(5))
    with pytest.raises(DatasetError) as caught:
        FrameDataset(path)
    with h5py.File(path, "a") as file:
        file["frames"] = numbered(5)
    assert caught.tb is not None, "it keeps the refused object alive, so only closing frees the file"


# Found by the fuzz in test_untrusted.py: h5py answers these with RuntimeError and TypeError.
@pytest.mark.parametrize(
    ("share", "damage", "said"),
    [
        (0.11477069476924574, b"\xe8}&", "is damaged: its layout"),
        (0.11246509796807815, b"\xd2\x92\xb8\td\xbdNU", "is damaged: its layout"),
        (0.013870875730620737, b"\xee", "is damaged: its layout"),
        (None, b"", "is damaged: its layout"),
    ],
    ids=["symbol", "heap", "address", "name that is no text"],
)
def test_a_damaged_directory_is_a_sentence_not_a_traceback(
    tmp_path: Path, share: float | None, damage: bytes, said: str
) -> None:
    path = tmp_path / "damaged.h5"
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=noise, chunks=(2, 8, 8, 3), compression="gzip")
        file["actions"] = np.arange(12, dtype=np.uint8)
        file["episodes"] = np.repeat([0, 1], 6)
    content = bytearray(path.read_bytes())
    if share is None:
        content = content.replace(b"frames\0", b"fr\xff\xfees\0")
    else:
        place = int(share * len(content))
        content[place : place + len(damage)] = damage
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        FrameDataset(path)
    assert said in caught.value.what and caught.value.fix


def test_damaged_pixels_are_a_sentence_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", data=noise, chunks=(1, 32, 32, 3), compression="gzip")
        place = frames.id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + 40] = bytes(40)
    path.write_bytes(content)
    with FrameDataset(path) as data:
        assert np.array_equal(data.clip(0, 2), noise[:2])
        with pytest.raises(DatasetError, match="cannot be read: the file is damaged"):
            data.clip(0, 4)


# --- memory ----------------------------------------------------------------------------------------

MEASURE = """
import sys
from helpers.assets.dataset import FrameDataset, lively_starts
def peak():
    lines = open("/proc/self/status", encoding="ascii").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
with FrameDataset(sys.argv[1], skip=4, first_frame=100) as data:
    for start in lively_starts(data, 8, 3):
        data.clip(start, 8)
print((peak() - before) / 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    "layout", [{}, {"compression": "gzip", "compression_opts": 1}], ids=["plain", "gzip"]
)
def test_a_file_of_sonics_shape_costs_less_than_50_mb(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = tmp_path / "sonic_frames.h5"
    tile = np.random.default_rng(0).integers(0, 256, (1289, 64, 64, 3), np.uint8) & 0x0F
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", (41242, 64, 64, 3), np.uint8, **layout)
        for row in range(0, 41242, 1289):
            frames[row : row + 1289] = tile[: min(1289, 41242 - row)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    finally:
        path.unlink()
    assert float(done.stdout) < 50


# --- hostile layouts -------------------------------------------------------------------------------


def test_frames_that_lie_elsewhere_are_not_followed(tmp_path: Path, plain: Path) -> None:
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["frames"] = h5py.ExternalLink(str(plain), "frames")
    with pytest.raises(DatasetError, match="only points elsewhere"):
        FrameDataset(tmp_path / "link.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("frames", (5, 8, 8, 3), np.uint8, external=[(str(plain), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(DatasetError, match="lies in other files"):
        FrameDataset(tmp_path / "raw.h5")


NAMES = ("frames", "actions", "episodes")


def elsewhere(file: h5py.File, name: str, way: str, other: Path) -> None:
    """Let a name of the file stand for what lies in another file, in one of the ways of HDF5."""
    shape, kind = ((40, 8, 8, 3), np.uint8) if name == "frames" else ((40,), np.int64)
    if way == "link":
        file[name] = h5py.ExternalLink(str(other), name)
    elif way == "soft link":
        file["way"] = h5py.ExternalLink(str(other), "/")
        file[name] = h5py.SoftLink(f"/way/{name}")
    elif way == "external":
        file.create_dataset(name, shape, kind, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape, kind, maxshape=(None, *shape[1:]))
        source = h5py.VirtualSource(str(other), name, shape, kind, maxshape=(None, *shape[1:]))
        layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
        file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("way", ["link", "soft link", "external", "virtual"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_file_is_taken_from_another_one(tmp_path: Path, name: str, way: str) -> None:
    columns = {"frames": numbered(40), "actions": np.arange(40), "episodes": np.zeros(40, np.int64)}
    other = write(tmp_path / "other.h5", **columns)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for column in NAMES:
            if column == name:
                elsewhere(file, name, way, other)
            else:
                file[column] = columns[column]
    with pytest.raises(DatasetError, match=f"`{name}` of .* (only points elsewhere|lies in other files)"):
        FrameDataset(tmp_path / "f.h5")


BOMB = """
import resource, sys
from helpers.assets.dataset import FrameDataset
from helpers.errors import DatasetError
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = most()  # a process begins with its parent's
try:
    with FrameDataset(sys.argv[1]) as data:
        data.clip(0, 2)
except DatasetError as error:
    assert f"`{sys.argv[2]}`" in error.what and "unpacks to more than its" in error.what, error
    print(most() - before)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(
    tmp_path: Path, name: str
) -> None:
    pytest.importorskip("resource", reason="only POSIX tells the peak memory of a process so")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(10**7)) for _ in range(100)) + packer.flush()
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        for column in NAMES:
            rows = numbered(40) if column == "frames" else np.zeros(40, np.uint8)
            made = file.create_dataset(column, data=rows, chunks=rows.shape, compression="gzip", shuffle=True)
            if column == name:
                made.id.write_direct_chunk((0,) * rows.ndim, packed)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "bomb.h5"), name],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert int(done.stdout) < 50e6


@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        {"shuffle": True},
    ],
    ids=str,
)
def test_every_usual_compression_is_read_also_where_it_makes_nothing_smaller(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    frames[20:] = 7
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("frames", data=frames, chunks=(20, 64, 64, 3), **layout)
        file.create_dataset("episodes", data=np.zeros(40, np.int32), chunks=(7,), **layout)
    with FrameDataset(tmp_path / "f.h5") as data:
        assert np.array_equal(data.clip(0, 40), frames)


def test_a_compression_whose_memory_has_no_bound_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "twice.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, 8, 8, 3))
        plan.set_deflate(9)
        plan.set_deflate(9)
        space = h5py.h5s.create_simple((4, 8, 8, 3))
        h5py.h5d.create(file.id, b"frames", h5py.h5t.STD_U8LE, space, plan)
    with pytest.raises(DatasetError, match="compressed by filters that are not read here"):
        FrameDataset(tmp_path / "twice.h5")


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((4, 100_000, 100_000, 3), (1, 64, 64, 3)),
        ((100_000, 64, 64, 3), (100_000, 64, 64, 3)),
        ((4, 2048, 2048, 3), (1, 1, 1, 1)),
    ],
    ids=["a frame of 30 GB", "a chunk of 1.2 GB", "a chunk for every byte"],
)
def test_claims_that_would_take_all_memory_are_refused(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("frames", shape, np.uint8, chunks=chunks, compression="gzip")
    with pytest.raises(DatasetError, match="far too much memory"):
        FrameDataset(tmp_path / "bomb.h5")


def test_a_column_that_claims_more_rows_than_can_be_read_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("frames", (10**12, 8, 8, 3), np.uint8, chunks=(1, 8, 8, 3))
        file.create_dataset("episodes", (10**12,), np.int64, chunks=(1000,))
    with pytest.raises(DatasetError, match="more than are read at once"):
        FrameDataset(tmp_path / "rows.h5")


def test_a_damaged_table_of_names_is_called_damage(tmp_path: Path, plain: Path) -> None:
    """Found by fuzzing: h5py raises RuntimeError here, not OSError."""
    content = bytearray(plain.read_bytes())
    content[content.index(b"SNOD")] = 0
    (tmp_path / "names.h5").write_bytes(content)
    with pytest.raises(DatasetError, match="is damaged"):
        FrameDataset(tmp_path / "names.h5")


FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))


@settings(deadline=None, max_examples=FUZZ_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_h5_changed_anywhere_is_read_or_refused(tmp_path_factory: Any, data: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    with h5py.File(folder / "f.h5", "w") as file:
        file.create_dataset("frames", data=numbered(12), chunks=(2, 8, 8, 3), compression="gzip")
        file["episodes"] = np.repeat([0, 1], 6)
    content = bytearray((folder / "f.h5").read_bytes())
    changes = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=6)):
        content[place] = value
    (folder / "f.h5").write_bytes(content)
    try:
        with FrameDataset(folder / "f.h5") as opened:
            assert opened.clip(int(opened.starts(3)[0]), 3).shape[0] == 3
    except DatasetError as error:
        assert error.fix
