"""Files that strangers wrote: read once, kept in a form without code, in little memory, never a crash."""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from golden_cases import KINDS, golden_paths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.assets.dataset import FrameDataset
from helpers.assets.fetch import SuitePaths, safe_checkpoints
from helpers.errors import CheckpointError, DatasetError
from helpers.play.settings import Settings
from helpers.play.world import open_world
from helpers.worldmodel import load_suite
from helpers.worldmodel.checkpoint import read_checkpoint

FILES = golden_paths("small_pth")
ROOT = Path(__file__).resolve().parent.parent


# --- read once, kept without code ------------------------------------------------------------------


def suite_paths(case: str = "small_pth") -> SuitePaths:
    return SuitePaths(Path("none.h5"), **golden_paths(case))


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is unpickled from now on."""
    loaded: list[object] = []
    load = torch.load

    def noted(path: object, **more: object) -> object:
        loaded.append(path)
        return load(path, **more)

    monkeypatch.setattr(torch, "load", noted)
    return loaded


@pytest.mark.parametrize("case", ["small_pth", "small_dir"])
def test_a_checkpoint_is_unpickled_once_and_never_again(
    tmp_path: Path, no_pickle: list[object], case: str
) -> None:
    first = safe_checkpoints(suite_paths(case), tmp_path)
    assert no_pickle and {path.suffix for path in first.values()} == {".safetensors"}
    times = {path: path.stat().st_mtime_ns for path in first.values()}
    no_pickle.clear()
    assert safe_checkpoints(suite_paths(case), tmp_path) == first
    load_suite(**first)
    assert no_pickle == [] and {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("case", ["small_pth", "small_dir"])
def test_the_kept_form_has_the_same_weights_and_makes_the_same_models(tmp_path: Path, case: str) -> None:
    kept = safe_checkpoints(suite_paths(case), tmp_path)
    for kind in KINDS:
        theirs, ours = read_checkpoint(golden_paths(case)[kind], kind), read_checkpoint(kept[kind], kind)
        assert theirs.weights.keys() == ours.weights.keys()
        assert all(torch.equal(theirs.weights[key], ours.weights[key]) for key in ours.weights)
    theirs_suite, ours_suite = load_suite(**golden_paths(case)), load_suite(**kept)
    assert theirs_suite.dynamics.config == ours_suite.dynamics.config
    assert theirs_suite.frame_size == ours_suite.frame_size


@pytest.mark.parametrize("damage", ["weights", "config", "empty", "gone", "nested", "exchanged"])
def test_a_kept_form_that_was_tampered_with_is_made_again(
    tmp_path: Path, no_pickle: list[object], damage: str
) -> None:
    kept = safe_checkpoints(suite_paths(), tmp_path)
    path = kept["dynamics"]
    about, data = path.with_suffix(".json"), bytearray(path.read_bytes())
    good = bytes(data), about.read_text(encoding="utf-8")
    if damage == "weights":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "config":
        changed = json.loads(good[1])
        changed["config"]["num_heads"] = 1
        about.write_text(json.dumps(changed), encoding="utf-8")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        about.unlink()
    elif damage == "nested":
        about.write_text("[" * 100_000, encoding="utf-8")
    else:
        path.write_bytes(kept["latent_actions"].read_bytes())
        about.write_bytes(kept["latent_actions"].with_suffix(".json").read_bytes())
    no_pickle.clear()
    assert safe_checkpoints(suite_paths(), tmp_path) == kept
    assert no_pickle == [FILES["dynamics"]]
    assert (path.read_bytes(), about.read_text(encoding="utf-8")) == good


def test_where_nothing_can_be_kept_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "results").write_bytes(b"a file where a folder should be")
    assert safe_checkpoints(suite_paths(), tmp_path) == FILES


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="is an HTML page"):
        safe_checkpoints(SuitePaths(bad, bad, bad, bad), tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_session_names_the_files_that_were_published_not_the_kept_ones(tmp_path: Path) -> None:
    import hashlib

    given = {f"{kind}_path": str(path) for kind, path in FILES.items()}
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "sonic_frames.h5", "w") as file:
        file["frames"] = np.zeros((200, 32, 32, 3), np.uint8)
    opened = open_world(Settings(dataset="sonic", device="cpu", **given), tmp_path)
    assert dict(opened.paths.items()) == {"dataset": tmp_path / "data" / "sonic_frames.h5", **FILES}
    for kind in KINDS:
        assert opened.hashes[kind] == hashlib.sha256(FILES[kind].read_bytes()).hexdigest()
        assert opened.suite.paths[kind].suffix == ".safetensors"


def test_the_embedded_world_is_read_as_it_is_and_nothing_is_written(tmp_path: Path) -> None:
    opened = open_world(Settings(dataset="demo", device="cpu"), tmp_path)
    assert {path.suffix for path in opened.suite.paths.values()} == {".pth"}
    assert list(tmp_path.iterdir()) == []


# --- little memory ---------------------------------------------------------------------------------

_MEMORY = """
import sys
import h5py, numpy
from helpers.assets.dataset import FrameDataset, lively_starts

def most():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = most()
with FrameDataset(sys.argv[1], skip=4, first_frame=100) as data:
    starts = lively_starts(data, 16, 3)
    assert all(data.clip(start, 16).shape == (16, 64, 64, 3) for start in starts)
print(most() - before)
"""


@pytest.mark.parametrize("chunks", [None, (16, 64, 64, 3)], ids=["contiguous", "chunked"])
def test_a_dataset_of_249_mb_costs_less_than_50_mb(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    pytest.importorskip("resource", reason="only POSIX tells the peak memory of a process so")
    path = tmp_path / "large.h5"
    shape = (249_000_000 // (64 * 64 * 3), 64, 64, 3)
    row = np.random.default_rng(0).integers(0, 256, (1000, *shape[1:]), np.uint8)
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", shape, np.uint8, chunks=chunks)
        for start in range(0, shape[0], len(row)):
            frames[start : start + len(row)] = row[: shape[0] - start]
    assert path.stat().st_size > 248_000_000
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(path)], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000_000


# --- fuzz ------------------------------------------------------------------------------------------

EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def edited(content: bytes, edits: list[tuple[float, bytes]], keep: float = 1.0) -> bytes:
    """Content with some of its bytes overwritten, cut after a share of it."""
    changed = bytearray(content)
    for share, replacement in edits:
        place = int(share * len(content))
        changed[place : place + len(replacement)] = replacement
    return bytes(changed[: int(len(changed) * keep)])


def read_or_refuse_checkpoint(path: Path) -> None:
    try:
        checkpoint = read_checkpoint(path, "dynamics")
    except CheckpointError as error:
        assert error.what and error.fix
    else:
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint.weights.values())


@FUZZ
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.01]))
def test_whatever_bytes_a_checkpoint_has_it_is_read_or_refused(
    edits: list[tuple[float, bytes]], keep: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.pth"
        path.write_bytes(edited(FILES["dynamics"].read_bytes(), edits, keep))
        read_or_refuse_checkpoint(path)


@FUZZ
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5]))
def test_whatever_its_pickle_says_in_a_sound_archive_a_checkpoint_is_read_or_refused(
    edits: list[tuple[float, bytes]], keep: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.pth"
        with zipfile.ZipFile(FILES["dynamics"]) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, edited(data, edits, keep) if name.endswith("data.pkl") else data)
        read_or_refuse_checkpoint(path)


@pytest.fixture(scope="module")
def small_h5(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "small.h5"
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=noise, chunks=(2, 8, 8, 3), compression="gzip")
        file["actions"] = np.arange(12, dtype=np.uint8)
        file["episodes"] = np.repeat([0, 1], 6)
    return path.read_bytes()


@FUZZ
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 1.0, 0.99, 0.5]))
def test_whatever_bytes_an_h5_has_it_is_read_or_refused(
    small_h5: bytes, edits: list[tuple[float, bytes]], keep: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.h5"
        path.write_bytes(edited(small_h5, edits, keep))
        try:
            with FrameDataset(path) as data:
                for start in list(data.starts(2))[:20]:
                    assert data.clip(start, 2).shape == (2, *data.frame_size, 3)
                    data.clip_actions(start, 2)
        except DatasetError as error:
            assert error.what and error.fix
