"""Finding and fetching suites, with the real hub client against a hub on the loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pytest
from hub_double import COMMIT, Fault, HubDouble, sha256

from helpers import assets
from helpers.assets import (
    Request,
    SuitePaths,
    describe_assets,
    fetch_suite,
    find_suite,
    latest_checkpoint,
    prepare_assets,
)
from helpers.assets.dataset import preview_batch
from helpers.assets.find import checkpoint_form, weights_file
from helpers.assets.hub import Patience
from helpers.assets.record import verified_hashes
from helpers.batch.headless import parser, plan
from helpers.errors import AssetError, ParameterError
from helpers.parameters import FOLDER, parameters_of
from helpers.worlds import world

TOKENIZER = "sonic/sonic_video_tokenizer_step_27500_2025_09_17_06_20_26.pth"
ACTIONS = "sonic/sonic_latent_actions_step_2500_2025_09_17_06_50_59.pth"
DYNAMICS = "sonic/sonic_dynamics_step_97500_2025_09_18_11_25_59.pth"
MODELS = {
    "README.md": b"# models\n",
    "sonic/notes.txt": b"not a checkpoint\n",
    "sonic/sonic_video_tokenizer_step_9000_2025_09_18_00_00_00.pth": b"older" * 300,
    TOKENIZER: b"tokenizer" * 300,
    ACTIONS: b"actions" * 300,
    DYNAMICS: b"dynamics" * 300,
    "pong/pong_lam_step_10.pth": b"pong" * 300,
}
QUICK = Patience(pause=0.02, stall=1.0, budget=2.0, least_bytes=500)
"""As patient as a test can be; everything else is as it is for users."""
DATASETS = {"sonic_frames.h5": b"\x89HDF\r\n\x1a\n" + bytes(5000), "pong_frames.h5": b"\x89HDF" + bytes(100)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubDouble() as double:
        double.add("AlmondGod/tinyworlds", "dataset", DATASETS)
        double.add("AlmondGod/tinyworlds-models", "model", MODELS)
        yield double


LOCK = [] if sys.platform == "win32" else ["data/.sonic.lock"]
"""The lock's file: filelock removes it under Windows, where no other process can hold it by then."""


def files_under(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def touch(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_fresh_fetch_lands_the_four_parts_in_the_published_layout(hub: HubDouble, tmp_path: Path) -> None:
    paths = fetch_suite("SONIC", tmp_path, hub.endpoint)
    contents = [DATASETS["sonic_frames.h5"], MODELS[TOKENIZER], MODELS[ACTIONS], MODELS[DYNAMICS]]
    assert [path.read_bytes() for path in paths] == contents
    run = paths[1].relative_to(tmp_path).parts[1]
    assert files_under(tmp_path) == [
        *LOCK,
        "data/sonic_assets.json",
        "data/sonic_frames.h5",
        f"results/{run}/actions/checkpoints/{ACTIONS}",
        f"results/{run}/dynamics/checkpoints/{DYNAMICS}",
        f"results/{run}/video_tokenizer/checkpoints/{TOKENIZER}",
    ]
    assert run.endswith("_sonic") and len(run) == len("20250917_062026_sonic")
    assert hub.downloads() == [path.name for path in paths], "each file once, and nothing else"


def test_what_was_fetched_is_recorded_with_its_origin(hub: HubDouble, tmp_path: Path) -> None:
    fetch_suite("sonic", tmp_path, hub.endpoint)
    record = json.loads((tmp_path / "data" / "sonic_assets.json").read_text(encoding="utf-8"))
    assert record["dynamics"]["sha256"] == sha256(MODELS[DYNAMICS])
    assert record["dynamics"]["source"] == f"AlmondGod/tinyworlds-models: {DYNAMICS}"
    assert record["dynamics"]["commit"] == COMMIT


def test_a_second_fetch_needs_no_network(hub: HubDouble, tmp_path: Path) -> None:
    first = fetch_suite("sonic", tmp_path, hub.endpoint)
    asked = len(hub.requests)
    assert fetch_suite("sonic", tmp_path, hub.endpoint) == first
    assert len(hub.requests) == asked
    assert list(dict(find_suite("sonic", tmp_path).items()).values()) == first


def test_a_file_damaged_here_is_fetched_again_and_only_that_one(hub: HubDouble, tmp_path: Path) -> None:
    paths = fetch_suite("sonic", tmp_path, hub.endpoint)
    before = paths[3].stat()
    paths[3].write_bytes(MODELS[DYNAMICS][:-1] + b"?")
    os.utime(paths[3], (before.st_atime, before.st_mtime))
    hub.requests.clear()
    assert fetch_suite("sonic", tmp_path, hub.endpoint) == paths
    assert paths[3].read_bytes() == MODELS[DYNAMICS]
    assert hub.downloads() == [paths[3].name]


def test_a_file_put_there_by_hand_is_recognised_by_its_checksum(hub: HubDouble, tmp_path: Path) -> None:
    touch(tmp_path / "data" / "sonic_frames.h5", DATASETS["sonic_frames.h5"])
    fetch_suite("sonic", tmp_path, hub.endpoint)
    assert "sonic_frames.h5" not in hub.downloads()


def test_an_interrupted_fetch_goes_on_where_it_was(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults[DYNAMICS] = [Fault(status=404)]
    with pytest.raises(AssetError, match="HTTP 404"):
        fetch_suite("sonic", tmp_path, hub.endpoint)
    hub.faults.clear()
    hub.requests.clear()
    paths = fetch_suite("sonic", tmp_path, hub.endpoint)
    assert hub.downloads() == [DYNAMICS.split("/")[1]]
    assert len({path.relative_to(tmp_path).parts[1] for path in paths[1:]}) == 1, "a suite lies in one run"


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (MODELS[DYNAMICS][:-1] + b"?", "has the checksum .* altered or damaged on the way"),
        (b"<!DOCTYPE html>".ljust(len(MODELS[DYNAMICS])), "an HTML page came"),
        (
            b"version https://git-lfs.github.com/spec/v1\n".ljust(len(MODELS[DYNAMICS])),
            "a Git-LFS pointer came",
        ),
        (b"<html>Sign in</html>", "did not answer as a hub does .* size"),
    ],
)
def test_anything_but_the_listed_bytes_is_refused_and_does_not_land(
    hub: HubDouble, tmp_path: Path, altered: bytes, said: str
) -> None:
    hub.altered[DYNAMICS] = altered
    with pytest.raises(AssetError, match=said) as caught:
        fetch_suite("sonic", tmp_path, hub.endpoint)
    assert DYNAMICS in str(caught.value) and caught.value.fix
    assert not any("dynamics" in name for name in files_under(tmp_path))


def test_a_suite_that_is_not_published_is_answered_with_those_there_are(
    hub: HubDouble, tmp_path: Path
) -> None:
    with pytest.raises(AssetError, match=r"no zelda_frames\.h5; it has sonic_frames\.h5, pong_frames\.h5"):
        fetch_suite("zelda", tmp_path, hub.endpoint)
    with pytest.raises(AssetError, match="has no zelda/; it has pong/, sonic/"):
        fetch_suite("zelda", tmp_path, hub.endpoint, parts=["dynamics"])
    with pytest.raises(
        AssetError, match=r"no video_tokenizer checkpoint in pong/; it has pong_lam_step_10\.pth"
    ):
        fetch_suite("pong", tmp_path, hub.endpoint)


@pytest.mark.parametrize(
    ("status", "said", "fix"),
    [
        (401, r"refuses .*\(HTTP 401\)", "hf auth login"),
        (403, r"refuses .*\(HTTP 403\)", "hf auth login"),
        (404, "HTTP 404", "endpoint"),
        (429, "asks to slow down", "Wait"),
        (503, "trouble of its own .*HTTP 503", 'dataset = "crafter"'),
        (200, "did not answer as a hub does", "browser"),
    ],
)
def test_every_refusal_of_the_hub_is_a_sentence_with_a_way_out(
    hub: HubDouble, tmp_path: Path, status: int, said: str, fix: str
) -> None:
    hub.refuse = {"/": status}
    with pytest.raises(AssetError, match=said) as caught:
        fetch_suite("sonic", tmp_path, hub.endpoint, patience=QUICK)
    assert fix in caught.value.fix
    assert files_under(tmp_path) == LOCK


def test_a_hub_out_of_reach_is_a_sentence_that_points_to_the_embedded_world(tmp_path: Path) -> None:
    with HubDouble() as gone:
        pass
    with pytest.raises(AssetError, match="could not be reached") as caught:
        fetch_suite("sonic", tmp_path, gone.endpoint, patience=QUICK)
    assert 'dataset = "crafter"' in caught.value.fix


def test_a_mirror_that_lists_files_at_the_second_address_alone_is_enough(
    hub: HubDouble, tmp_path: Path
) -> None:
    hub.refuse["/revision/"] = 404
    expected = fetch_suite("sonic", tmp_path / "one", hub.endpoint)
    assert any("/tree/" in request for request in hub.requests)
    assert expected[0].name == "sonic_frames.h5" and len(expected) == 4


def test_a_disk_too_full_is_noticed_before_the_first_byte(hub: HubDouble, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"0\.0 MB free") as caught:
        fetch_suite("sonic", tmp_path, hub.endpoint, free_bytes=lambda folder: 3_000)
    assert "Free at least" in caught.value.fix
    assert hub.downloads() == [] and files_under(tmp_path) == LOCK


def test_the_users_token_is_not_given_to_a_mirror(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_suite("sonic", tmp_path, hub.endpoint, parts=["dataset"])
    assert len(hub.tokens) == 3 and set(hub.tokens) == {None}


def test_the_embedded_world_is_complete_and_needs_no_network(tmp_path: Path) -> None:
    paths = fetch_suite("demo", tmp_path, endpoint="http://127.0.0.1:9")
    assert [path.name for path in paths] == [
        "clips.h5",
        "crafter_video_tokenizer.pth",
        "crafter_latent_actions.pth",
        "crafter_dynamics.pth",
    ]


def test_a_published_folder_is_found_whatever_its_time(tmp_path: Path) -> None:
    dataset = touch(tmp_path / "data" / "sonic_frames.h5")
    run = tmp_path / "results" / "20250917_062026_sonic"
    expected = SuitePaths(
        dataset,
        touch(run / "video_tokenizer" / "checkpoints" / TOKENIZER),
        touch(run / "actions" / "checkpoints" / "sonic" / "sonic_action_tokenizer_step_2500.pth"),
        touch(run / "dynamics" / "checkpoints" / DYNAMICS),
    )
    touch(
        tmp_path
        / "results"
        / "20260101_000000_pong"
        / "dynamics"
        / "checkpoints"
        / "pong"
        / "pong_dynamics_step_9.pth"
    )
    assert find_suite("sonic", tmp_path) == expected


def test_a_part_that_is_missing_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"dataset of Sonic is not at .*sonic_frames"):
        find_suite("sonic", tmp_path)
    touch(tmp_path / "data" / "sonic_frames.h5")
    with pytest.raises(AssetError, match=r"no video_tokenizer checkpoint of Sonic under .*results") as caught:
        find_suite("sonic", tmp_path)
    assert 'dataset = "sonic"' in caught.value.fix


def test_given_paths_win_and_relative_ones_count_from_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "sonic_frames.h5")
    tokenizer, dynamics = (
        touch(tmp_path / "mine" / "t.pth"),
        touch(tmp_path / "d" / "model_state_dict.pt").parent,
    )
    newest = tmp_path / "results" / "20260101_000000_sonic" / "x" / "checkpoints" / "sonic"
    touch(newest / "sonic_video_tokenizer_step_1.pth")
    lam = touch(newest / "sonic_lam_step_1.pth")
    found = find_suite("sonic", tmp_path, "mine/t.pth", dynamics_path=str(dynamics))
    assert (found.video_tokenizer, found.latent_actions, found.dynamics) == (tokenizer, lam, dynamics)
    with pytest.raises(AssetError, match=r"no checkpoint at .*nowhere\.pth"):
        find_suite("sonic", tmp_path, "nowhere.pth", dynamics_path=str(dynamics))


def test_an_unknown_world_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    for ask, wanted in ((find_suite, "tetris"), (fetch_suite, "tetris"), (prepare_assets, Request("tetris"))):
        with pytest.raises(ParameterError, match="tetris"):
            ask(wanted, root=tmp_path)


@pytest.mark.parametrize("alias", ["latent_actions", "actions", "lam", "action_tokenizer"])
def test_the_latest_checkpoint_goes_by_alias_then_run_then_step(tmp_path: Path, alias: str) -> None:
    results = tmp_path / "results"
    assert latest_checkpoint("latent_actions", tmp_path) is None
    touch(results / "20250101_000000" / "a" / "checkpoints" / f"{alias}_step_99999_2027_01_01_00_00_00.pth")
    newer = results / "20250102_000000" / "actions" / "checkpoints"
    touch(newer / f"{alias}_step_900" / "model_state_dict.pt")
    highest = touch(newer / f"{alias}_step_1000" / "model_state_dict.pt").parent
    assert latest_checkpoint("latent_actions", tmp_path) == highest
    file = touch(newer / "sonic" / f"sonic_{alias}_step_1001_2025_01_02_00_00_00.pth")
    assert latest_checkpoint("latent_actions", tmp_path) == file


def test_what_only_looks_like_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "20250101_000000" / "x" / "checkpoints"
    (folder / "dynamics_step_900").mkdir(parents=True)
    touch(folder / "dynamics_step_800.txt")
    touch(folder / "aerodynamics_step_700.pth")
    touch(folder / "dynamics_final.pth")
    touch(tmp_path / "results" / "20250101_000000" / "dynamics_step_600.pth")
    whole = touch(folder / "dynamics_step_500.pth")
    assert latest_checkpoint("dynamics", tmp_path) == whole


def test_latest_checkpoints_may_be_of_the_users_own_training(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "sonic_frames.h5")
    for run in ("20250101_000000_sonic", "20250202_000000"):
        for kind in ("video_tokenizer", "lam", "dynamics"):
            suite = "sonic" if run.endswith("sonic") else "."
            touch(tmp_path / "results" / run / kind / "checkpoints" / suite / f"{kind}_step_1.pth")
    own = find_suite("sonic", tmp_path, use_latest_checkpoints=True)
    published = find_suite("sonic", tmp_path)
    assert all("20250202_000000" in str(path) for part, path in own.items() if part != "dataset")
    assert all("20250101_000000_sonic" in str(path) for part, path in published.items() if part != "dataset")


def test_both_checkpoint_forms_are_told_apart(tmp_path: Path) -> None:
    file = touch(tmp_path / "dynamics_step_1.pth")
    directory = touch(tmp_path / "dynamics_step_2" / "model_state_dict.pt").parent
    assert (checkpoint_form(file), checkpoint_form(directory)) == ("file", "directory")
    assert weights_file(directory) == directory / "model_state_dict.pt"
    with pytest.raises(AssetError, match=r"folder without model_state_dict\.pt"):
        checkpoint_form(tmp_path)
    with pytest.raises(AssetError, match="no checkpoint at"):
        checkpoint_form(tmp_path / "nowhere")


def test_each_part_is_described_by_name_form_size_and_checksum(tmp_path: Path) -> None:
    directory = touch(tmp_path / "dynamics_step_2" / "model_state_dict.pt", b"abc").parent
    touch(directory / "state.pt", bytes(1_500_000))
    file = touch(tmp_path / "t.pth", b"<html>Sign in</html>")
    rows = describe_assets(SuitePaths(touch(tmp_path / "f.h5"), file, touch(tmp_path / "a.pth"), directory))
    assert [row.status for row in rows] == ["ok", "fail", "ok", "ok"]
    assert rows[1].observed == "t.pth is an HTML page" and "04_assets" in rows[1].fix
    assert rows[3].observed == f"dynamics_step_2: directory, 1.5 MB, sha256 {sha256(b'abc')[:12]}"


def test_preparing_without_a_network_uses_what_is_here_and_says_that_it_is_unverified(tmp_path: Path) -> None:
    with HubDouble() as gone:
        pass
    with pytest.raises(AssetError, match="could not be reached"):
        prepare_assets(Request("sonic", endpoint=gone.endpoint), tmp_path, QUICK)
    touch(tmp_path / "data" / "sonic_frames.h5")
    for name in (TOKENIZER, ACTIONS, DYNAMICS):
        touch(tmp_path / "results" / "20250917_062026_sonic" / "x" / "checkpoints" / name)
    _, checks = prepare_assets(Request("sonic", endpoint=gone.endpoint), tmp_path, QUICK)
    assert [check.status for check in checks] == ["warn", "ok", "ok", "ok", "ok"]
    assert "unverified" in checks[0].observed and checks[0].fix
    _, checks = prepare_assets(Request("sonic", download=False), tmp_path)
    assert checks[0].status == "ok" and "nothing was fetched" in checks[0].observed


def test_a_file_that_changed_since_it_was_fetched_fails_where_it_cannot_be_fetched_again(
    hub: HubDouble, tmp_path: Path
) -> None:
    paths, checks = prepare_assets(Request("sonic", endpoint=hub.endpoint), tmp_path)
    assert {check.status for check in checks} == {"ok"}
    paths.dynamics.write_bytes(MODELS[DYNAMICS][:-1] + b"?")
    _, checks = prepare_assets(Request("sonic", download=False), tmp_path)
    (failed,) = [check for check in checks if check.status == "fail"]
    assert failed.id == "dynamics" and "has changed since it was fetched" in failed.observed


def test_checkpoints_whose_paths_are_given_are_not_fetched(hub: HubDouble, tmp_path: Path) -> None:
    own = str(touch(tmp_path / "own.pth"))
    paths, _ = prepare_assets(Request("sonic", True, hub.endpoint, own, own, own), tmp_path)
    assert hub.downloads() == ["sonic_frames.h5"]
    assert paths.dynamics == tmp_path / "own.pth"


def test_a_batch_is_shown_one_clip_a_row_with_what_the_dataset_holds(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = np.random.default_rng(0).integers(0, 256, (164, 16, 16, 3), np.uint8)
    two, _ = preview_batch(world("sonic"), path, clips=2, length=4)
    three, check = preview_batch(world("sonic"), path, clips=3, length=4)
    assert two is not None and three is not None
    assert two.width == three.width > 4 * 32 and three.height - two.height == 2 * 16 + 6
    assert check.status == "ok"
    assert check.observed.startswith("64 usable frames of 16x16, without true actions; 3 clips of 4 frames")


def test_a_batch_that_cannot_be_shown_is_a_failed_check(tmp_path: Path) -> None:
    picture, check = preview_batch(world("sonic"), touch(tmp_path / "f.h5", b"<html>"))
    assert picture is None and check.status == "fail" and "is an HTML page" in check.observed


def test_a_request_has_the_notebooks_defaults_and_refuses_values_of_another_type() -> None:
    notebook = FOLDER / "04_assets.ipynb"
    cells = nbformat.read(notebook, as_version=nbformat.NO_CONVERT).cells
    declared: dict[str, object] = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())), declared)
    assert {field.name for field in fields(Request)} == parameters_of(notebook).keys() - {"run_dir"}
    assert Request.read(declared) == Request()
    assert Request.read(declared | {"dataset": "sonic", "verify": True}) == Request("sonic", verify=True)
    with pytest.raises(ParameterError, match="download is 'yes'"):
        Request.read({"download": "yes"})


FORK = {name: b"fork" + content for name, content in MODELS.items() if name in (TOKENIZER, ACTIONS, DYNAMICS)}
"""A fork's repository: the published names, other weights."""


def test_a_forks_suite_lies_beside_the_published_one_and_both_are_verified(
    hub: HubDouble, tmp_path: Path
) -> None:
    hub.add("alice/worlds", "model", FORK)
    fetch_suite("sonic", tmp_path, hub.endpoint)
    hub.requests.clear()
    fork = Request("sonic", endpoint=hub.endpoint, repo="alice/worlds")
    paths, checks = prepare_assets(fork, tmp_path)
    assert paths.dynamics.read_bytes() == FORK[DYNAMICS]
    assert "sonic_frames.h5" not in hub.downloads(), "the usual dataset is here, and the fork has none"
    assert 'dataset = "sonic@alice--worlds"' in checks[0].observed
    assert find_suite("sonic@alice/worlds", tmp_path) == paths == find_suite("sonic@alice--worlds", tmp_path)
    assert find_suite("sonic", tmp_path).dynamics.read_bytes() == MODELS[DYNAMICS]
    assert set(verified_hashes(world("sonic@alice/worlds"), paths, tmp_path)) == set(dict(paths.items()))
    asked = len(hub.requests)
    assert prepare_assets(fork, tmp_path)[0] == paths
    assert len(hub.requests) == asked, "a second time needs no network"
    paths.dataset.write_bytes(b"changed")
    with pytest.raises(AssetError, match="has changed since it was fetched"):
        verified_hashes(world("sonic@alice/worlds"), paths, tmp_path)


def test_a_fork_is_locked_by_its_first_fetch_for_each_revision(hub: HubDouble, tmp_path: Path) -> None:
    hub.add("alice/worlds", "model", FORK)
    paths = fetch_suite("sonic@alice/worlds", tmp_path, hub.endpoint)
    hub.add("alice/worlds", "model", {DYNAMICS: b"rewritten" * 300})
    paths[3].unlink()
    with pytest.raises(AssetError, match="is not what was fetched before"):
        fetch_suite("sonic@alice/worlds", tmp_path, hub.endpoint)
    other = fetch_suite("sonic@alice/worlds@v2", tmp_path, hub.endpoint)
    assert other[3].read_bytes() == b"rewritten" * 300
    assert sorted(path.name for path in (tmp_path / "data").glob("*.json")) == [
        "sonic@alice--worlds@v2_assets.json",
        "sonic@alice--worlds_assets.json",
        "sonic_assets.json",
    ]


def test_ones_own_upload_may_hold_the_h5_and_lie_flat(hub: HubDouble, tmp_path: Path) -> None:
    flat = {name.rpartition("/")[2]: content for name, content in FORK.items()}
    hub.add("me/upload", "model", flat | {"sonic_frames.h5": b"\x89HDF\r\n\x1a\nmine"})
    usual = fetch_suite("sonic", tmp_path, hub.endpoint, ["dataset"])
    paths = fetch_suite("sonic@me/upload", tmp_path, hub.endpoint)
    assert paths[0].read_bytes().endswith(b"mine") and usual[0].read_bytes() == DATASETS["sonic_frames.h5"]
    assert list(dict(find_suite("sonic@me/upload", tmp_path).items()).values()) == paths


def test_an_embedded_worlds_upload_is_played_with_the_embedded_clips(hub: HubDouble, tmp_path: Path) -> None:
    names = [
        f"crafter/crafter_{kind}_step_5.pth" for kind in ("video_tokenizer", "latent_actions", "dynamics")
    ]
    hub.add("me/upload", "model", dict.fromkeys(names, b"mine" * 300))
    paths = fetch_suite("crafter@me/upload", tmp_path, hub.endpoint)
    assert paths[0] == find_suite("crafter").dataset and paths[3].name == "crafter_dynamics_step_5.pth"


@pytest.mark.parametrize("suite", ["sonic", "pong", "zelda", "picodoom", "pole_position"])
def test_a_listing_without_a_kind_is_answered_with_what_was_found_and_what_is_expected(
    hub: HubDouble, tmp_path: Path, suite: str
) -> None:
    hub.add("alice/worlds", "model", {f"{suite}/{suite}_dynamics_step_7.pth": b"w"})
    with pytest.raises(AssetError) as caught:
        fetch_suite(f"{suite}@alice/worlds", tmp_path, hub.endpoint, ["dynamics", "latent_actions"])
    assert f"it has {suite}_dynamics_step_7.pth" in str(caught.value)
    for kind in ("video_tokenizer", "latent_actions", "dynamics"):
        assert f"{suite}/{suite}_{kind}_step_<n>.pth" in str(caught.value)
    assert hub.downloads() == [], "said before anything is fetched"


@pytest.mark.parametrize(
    ("repo", "revision"),
    [("alice", ""), ("../x/y", ""), ("a/b/c", ""), ("a/..", ""), ("a--b/c", ""), ("a/b", "x/y"),
     ("a/b", "v."), ("a/b@c", ""), ("a\\b", ""), ("", "..")],
)  # fmt: skip
def test_a_repository_whose_name_could_lead_elsewhere_is_refused(repo: str, revision: str) -> None:
    with pytest.raises(ParameterError, match=r"repo|revision"):
        world("sonic").from_repository(repo, revision)


def test_the_published_repository_by_its_name_is_the_published_world() -> None:
    assert world("sonic").from_repository("AlmondGod/tinyworlds-models") is world("sonic")
    assert world("demo").from_repository() is world("crafter")
    fork = world("Sonic@alice/worlds@v2")
    assert world(fork.name) == fork and fork.suite == "sonic" and fork.from_repository() == fork


def test_run_gives_every_notebook_the_repositorys_world() -> None:
    arguments = parser().parse_args(["--dataset", "sonic", "-p", "repo=alice/worlds", "-p", "revision=v2"])
    _, parameters = plan(arguments)
    named = {values["dataset"] for values in parameters.values() if "dataset" in values}
    assert named == {"sonic@alice--worlds@v2"}


def test_nothing_of_the_hub_is_imported_until_it_is_asked() -> None:
    heavy = {"huggingface_hub", "torch", "av", "numpy", "h5py", "PIL", "tqdm"}
    code = f"import sys, helpers.assets; print({heavy} & set(sys.modules))"
    root = Path(assets.__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "set()", done.stderr
