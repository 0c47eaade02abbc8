"""What a run leaves, and that its proof would notice if it had not run."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.play.game import Game
from helpers.play.results import (
    check_frames_differ,
    check_silent_failures,
    save,
    sheet,
    start_log,
    verify,
)
from helpers.play.rollout import play
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, action_name, choose_clip, open_world
from helpers.run_folder import ROOT

SETTINGS = Settings(dataset="coinrun", context_window=4, temperature=0.0, generation_steps=3, steps=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("运行 one")
    start_log(folder)
    yield folder
    logger = logging.getLogger("runbook")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="module")
def opened(run: Path) -> OpenWorld:
    return open_world(SETTINGS)


@pytest.fixture(scope="module")
def game(opened: OpenWorld) -> Game:
    return play(opened, choose_clip(opened, SETTINGS), SETTINGS)


MEMORY = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def test_a_run_leaves_pictures_and_a_record_of_everything(
    opened: OpenWorld, game: Game, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MEMORY:
        monkeypatch.setenv(name, "33554432")
    saved = save(game, run)
    checks = verify(game, saved, run, {})
    assert {check.status for check in checks} == {"ok"}
    (quality,) = (check.observed for check in checks if check.id == "psnr")
    off = np.square(saved.rollout.frames[4:] / 127.5 - saved.rollout.truth[4:] / 127.5).mean()
    assert quality.startswith("Nearer to the true frame than the last given frame, repeated, in ")
    assert f"Mean: {np.mean(saved.rollout.psnr):.1f} dB" in quality
    assert quality.endswith(f"; MSE in [-1, 1], as the published project counts: {off:.4f}")
    assert [path.name for path in saved.pngs] == [f"frame_{index:04d}.png" for index in range(7)]
    with Image.open(run / "contact_sheet.png") as sheet:
        assert sheet.width > 7 * 128
    assert saved.video.frames == 7
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["parameters"]["generation_steps"] == 3
    assert [frame["index"] for frame in record["frames"]] == [4, 5, 6]
    assert [frame["tokens"] for frame in record["frames"]] == game.token_hashes
    assert record["files"]["dynamics"]["sha256"] == opened.hashes["dynamics"]
    assert len(record["metrics"]["psnr_db"]) == 3
    assert record["timings"]["frames_per_second"] > 0
    assert bool(record["evidence"]["gpu_seconds"]) == record["device"].startswith("cuda")


def test_the_model_cards_picture_is_what_a_run_shows_today(pytestconfig: pytest.Config) -> None:
    settings = Settings(generation_steps=11, start=960)  # as the card says
    opened = open_world(settings)
    today = sheet(play(opened, choose_clip(opened, settings), settings).rollout(), opened)
    shown = ROOT / "helpers" / "demo" / "crafter" / "contact_sheet.png"
    if pytestconfig.getoption("pictures"):
        today.save(shown)
    with Image.open(shown) as picture:
        assert today.size == picture.size
        # On another machine a last bit may differ, and frames after it.
        assert np.mean(np.asarray(today) != np.asarray(picture)) < 0.05


def test_a_missing_log_line_fails_the_proof(game: Game, run: Path) -> None:
    saved = save(game, run)
    log = run / "run.log"
    text = log.read_text(encoding="utf-8")
    assert "inference loop starts" in text
    other = run / "other"
    other.mkdir()
    (other / "run.log").write_text(text.replace("inference loop ends", ""), encoding="utf-8")
    failed = [check for check in verify(game, saved, other, {}) if check.status == "fail"]
    assert [check.id for check in failed] == ["log"]
    assert "inference loop ends" in failed[0].observed


def test_a_picture_of_another_size_fails_the_proof(game: Game, run: Path) -> None:
    saved = save(game, run)
    Image.new("RGB", (8, 8)).save(saved.pngs[2])
    failed = [check.id for check in verify(game, saved, run, {}) if check.status == "fail"]
    assert failed == ["png"]


def test_frames_that_never_change_are_a_warning(game: Game) -> None:
    made = game.rollout()
    still = made.frames.copy()
    still[:] = still[0]
    assert check_frames_differ(made).status == "ok"
    assert check_frames_differ(replace(made, frames=still)).status == "warn"
    nothing = check_frames_differ(replace(made, frames=made.frames[: made.given]))
    assert nothing.status == "warn" and "no frame" in nothing.observed


def test_saving_again_leaves_nothing_of_the_game_before(game: Game, tmp_path: Path) -> None:
    save(game, tmp_path)
    game.rewind(1)
    save(game, tmp_path)
    assert len(list((tmp_path / "frames").iterdir())) == 5


def test_what_was_asked_for_and_did_not_happen_is_a_line_of_the_verdict(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MEMORY:
        monkeypatch.setenv(name, "33554432")
    assert check_silent_failures(game, {}) == []
    opened = replace(game.opened, suite=replace(game.opened.suite), notes=("compile failed",))
    opened.suite.graphs.refusal = "RuntimeError: not permitted"
    monkeypatch.setattr(game, "opened", opened)
    monkeypatch.setattr(game, "settings", replace(SETTINGS, tf32=True))
    observed = {check.id: check.observed for check in check_silent_failures(game, {})}
    assert observed["note"] == "compile failed"
    assert "RuntimeError: not permitted" in observed["cuda_graph"]
    assert "tf32" in observed["ignored"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives memory back at once")
def test_a_kernel_without_the_memory_settings_says_what_that_costs(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MEMORY[0], raising=False)
    (line,) = [check for check in check_silent_failures(game, {}) if check.id == "memory_settings"]
    assert line.status == "skip" and MEMORY[0] in line.observed and "lab" in line.fix


def test_an_action_is_called_by_its_name_where_the_suite_is_the_worlds_own(tmp_path: Path) -> None:
    opened = open_world(Settings())
    assert [action_name(opened, action) for action in (0, 3)] == ["nothing", "up"]
    trained = replace(opened, paths=replace(opened.paths, latent_actions=tmp_path / "mine.pth"))
    assert action_name(trained, 3) == "action 3"
