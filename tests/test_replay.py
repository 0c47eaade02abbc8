"""05_infer plays sessions again: real kernels, the embedded world, a verdict that a difference fails."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.batch.headless import in_recorded_world, main, parser, plan, run_notebooks
from helpers.play import recording
from helpers.play.replay import replay

SHORT: dict[str, Any] = {
    "dataset": "coinrun",
    "generation_steps": 3,
    "steps": 2,
    "temperature": 1.0,
    "seed": 4,
}


def infer(run: Path, **parameters: Any) -> tuple[str, str]:
    """Run 05_infer; its status and what it said where it failed."""
    (outcome,) = run_notebooks(["05_infer"], run, {"05_infer": parameters})
    return outcome.status, outcome.message


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A headless run, in a folder with a space, Chinese letters and braces."""
    folder = tmp_path_factory.mktemp("运行 {x}")
    assert infer(folder, **SHORT) == ("ok", "")
    return folder


def test_a_run_leaves_its_session_and_is_no_replay(run: Path) -> None:
    assert record(run)["replay"] is None
    assert record(run)["outputs"]["session"] == "session.json"
    session = recording.read(run)
    hashes = [each for event in session["events"] for each in event["hashes"]]
    assert hashes == [frame["tokens"] for frame in record(run)["frames"]]
    files = {part: entry["sha256"] for part, entry in session["files"].items()}
    assert files == {part: entry["sha256"] for part, entry in record(run)["files"].items()}


def test_a_run_replays_headless_and_leaves_the_same_session(run: Path, tmp_path: Path) -> None:
    assert infer(tmp_path, replay=str(run / "session.json")) == ("ok", "")
    replayed = record(tmp_path)
    assert replayed["replay"]["equal"] is True
    assert replayed["replay"]["first_difference"] is None
    assert replayed["replay"]["frames_compared"] == 3
    assert replayed["frames"] == record(run)["frames"]
    assert not (tmp_path / "replay_difference.png").exists()
    assert recording.read(tmp_path)["events"] == recording.read(run)["events"]
    verdict = json.loads((tmp_path / "05_infer.json").read_text(encoding="utf-8"))
    (check,) = (check for check in verdict["checks"] if check["id"] == "replay")
    assert check["status"] == "ok" and "all 3 frames" in check["observed"]


def test_one_call_replays_a_run_too(run: Path) -> None:
    # Other tests compute in one thread; a run's kernel takes what the machine has.
    before = torch.get_num_threads()
    torch.set_num_threads(recording.read(run)["made_on"]["threads"])
    try:
        made = replay(run / "session.json")
    finally:
        torch.set_num_threads(before)
    assert made.equal and made.compared == 3 and made.notes == ()


def test_a_difference_fails_the_verdict_and_shows_both_frames(run: Path, tmp_path: Path) -> None:
    session = recording.read(run)
    row = np.frombuffer(base64.b64decode(session["events"][1]["tokens"][0]), "<u2").copy()
    row[100:110] = 4095 - row[100:110]
    session["events"][1]["tokens"][0] = base64.b64encode(row.tobytes()).decode()
    recording.write(tmp_path / "changed.json", session)

    status, message = infer(tmp_path / "run", replay=str(tmp_path / "changed.json"))

    assert status == "fail"
    assert "generated frame 1 of branch 0 (event 1) by 10 of its 256 tokens" in message
    assert "Traceback" not in message
    found = record(tmp_path / "run")["replay"]
    assert (found["equal"], found["first_difference"], found["tokens_different"]) == (False, 1, 10)
    assert (found["frames_different"], found["frames_compared"]) == (1, 3)
    with Image.open(tmp_path / "run" / "replay_difference.png") as picture:
        assert picture.width > 3 * 256


def test_other_weights_are_refused_by_hash_unless_asked(run: Path, tmp_path: Path) -> None:
    session = recording.read(run)
    here = session["files"]["dynamics"]["sha256"]
    session["files"]["dynamics"]["sha256"] = "0" * 64
    recording.write(tmp_path / "other.json", session)
    status, message = infer(tmp_path / "run", replay=str(tmp_path / "other.json"))
    assert status == "fail"
    assert "0" * 64 in message and here in message
    made = replay(tmp_path / "other.json", replay_other_weights=True)
    assert made.equal and "0" * 64 in made.notes[0]


def test_a_relative_path_counts_from_where_the_command_was_given(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--only", "05", "-p", "replay=session.json"]
    here = plan(parser().parse_args(command))[1]["05_infer"]["replay"]
    there = plan(parser().parse_args([*command, "--called-from", str(run)]))[1]["05_infer"]["replay"]
    assert here == "session.json"  # not there: the notebook looks further, and says where
    assert Path(there) == run / "session.json"


@pytest.mark.parametrize("recorded", ["coinrun", "demo"])  # what CoinRun was called in old files
def test_a_replay_is_planned_in_the_world_of_the_session(run: Path, tmp_path: Path, recorded: str) -> None:
    session = recording.read(run)
    session["settings"]["dataset"] = recorded
    recording.write(tmp_path / "session.json", session)
    _, parameters = plan(parser().parse_args(["-p", f"replay={tmp_path}", "--dataset", "sonic"]))

    planned = in_recorded_world(parameters)

    assert planned["04_assets"] == {"dataset": "coinrun"}
    assert planned["05_infer"] == {"dataset": "coinrun", "replay": str(tmp_path)}
    assert in_recorded_world({"04_assets": {"dataset": "sonic"}}) == {"04_assets": {"dataset": "sonic"}}


def test_a_replay_with_04_assets_prepares_the_world_that_is_replayed(run: Path, tmp_path: Path) -> None:
    arguments = ["--only", "04", "05", "--dataset", "crafter"]
    arguments += ["-p", f"replay={run}", "-p", f"run_dir={tmp_path}"]

    assert main(arguments) == 0

    verdict = json.loads((tmp_path / "04_assets.json").read_text(encoding="utf-8"))
    observed = str([check["observed"] for check in verdict["checks"]])
    assert all(file["sha256"][:12] in observed for file in record(run)["files"].values())
    assert record(tmp_path)["replay"]["equal"] is True


def test_a_replay_of_nothing_ends_before_any_notebook_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-p", f"replay={tmp_path / 'session.json'}", "-p", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "There is no session file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
