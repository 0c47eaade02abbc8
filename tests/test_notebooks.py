"""The six notebooks, executed for real: papermill, a kernel, the embedded world."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.batch.headless import NOTEBOOKS, main, run_notebooks
from helpers.play.settings import Settings
from helpers.play.watch import LOOP_ENDS, LOOP_STARTS
from helpers.play.world import open_world
from helpers.presets import choose as presets
from helpers.presets import measure

SHORT: dict[str, Any] = {"generation_steps": 3, "steps": 2}


def infer(run: Path, **parameters: Any) -> tuple[str, str]:
    """Run 05_infer; its status and what it said where it failed."""
    (outcome,) = run_notebooks(["05_infer"], run, {"05_infer": SHORT | parameters})
    return outcome.status, outcome.message


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of all six, into a folder with a space, letters outside ASCII, and braces."""
    folder = tmp_path_factory.mktemp("输出 {run} é")
    # The machine's own torch is what there is to test on: it is looked at, and nothing is installed.
    parameters = {"05_infer": SHORT, "03_deps": {"install_missing": False}}
    outcomes = run_notebooks(NOTEBOOKS, folder, parameters)
    failed = [(outcome.name, outcome.message) for outcome in outcomes if outcome.status == "fail"]
    assert not failed
    assert [outcome.name for outcome in outcomes] == list(NOTEBOOKS)
    return folder


def test_every_notebook_leaves_its_verdict(run: Path) -> None:
    for name in NOTEBOOKS:
        verdict = json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
        assert verdict["step"] == name
        assert verdict["checks"]
        assert all(check["fix"] for check in verdict["checks"] if check["status"] != "ok")


def test_the_run_folder_holds_pictures_a_record_and_a_log(run: Path) -> None:
    assert len(list((run / "frames").glob("*.png"))) == 4
    assert (run / "contact_sheet.png").stat().st_size > 10_000
    assert (run / "rollout.mp4").stat().st_size > 1_000
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["parameters"]["dataset"] == "crafter"
    assert len(record["frames"]) == 3
    log = (run / "run.log").read_text(encoding="utf-8")
    assert LOOP_STARTS in log and LOOP_ENDS in log


def test_the_executed_notebook_shows_the_contact_sheet_and_stays_small(run: Path) -> None:
    notebook = nbformat.read(run / "notebooks" / "05_infer.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (run / "notebooks" / "05_infer.ipynb").stat().st_size < 2_000_000


def test_the_same_run_again_gives_the_same_tokens(run: Path, tmp_path: Path) -> None:
    assert infer(tmp_path) == ("ok", "")
    one, two = (json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (run, tmp_path))
    assert one["frames"] == two["frames"]


@pytest.fixture(scope="module")
def played(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run with actions given and a preset, for which a way that takes 25 ms was measured here."""
    # tf32 changes nothing on a CPU, so nobody measures with it: the file is this test's alone.
    settings = Settings(tf32=True)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))["environment"]
    conditions = presets.conditions(open_world(settings), settings)
    way = presets.MeasuredDecoding(2, 0.32, "pixels", 25.0, 24.0, 26.0, 20.0, 1.0, (19.5, 20.5), 1.5, 0.5)
    kept = measure.save(presets.Measurement(conditions, facts, "now", 2, (way,)))
    folder = tmp_path_factory.mktemp("played")
    given = {"use_interactive_mode": True, "actions": [2, 6, 0, 1]}
    try:
        assert infer(folder, preset="40fps", tf32=True, steps=4, **given) == ("warn", "")
        yield folder
    finally:
        kept.unlink()
        kept.with_suffix(".png").unlink()


def test_interactive_mode_without_a_front_end_takes_the_actions_given_and_ends(played: Path) -> None:
    record = json.loads((played / "run.json").read_text(encoding="utf-8"))
    assert [frame["action"] for frame in record["frames"]] == [2, 6, 0, 1]


def test_a_parameter_that_has_no_effect_is_a_line_of_the_verdict(played: Path) -> None:
    verdict = json.loads((played / "05_infer.json").read_text(encoding="utf-8"))
    tf32, count, steps = (check for check in verdict["checks"] if check["status"] != "ok")
    assert tf32["id"] == count["id"] == steps["id"] == "ignored"
    assert "tf32 has no effect on cpu" in tf32["observed"]
    assert "generation_steps=3 has no effect: 4 actions are given" in count["observed"]
    assert steps["observed"] == "steps=4 has no effect: the preset 40fps sets 2."


def test_a_preset_sets_what_was_measured_for_it_and_the_run_records_what_it_set(played: Path) -> None:
    parameters = json.loads((played / "run.json").read_text(encoding="utf-8"))["parameters"]
    assert (parameters["steps"], parameters["temperature"], parameters["feedback"]) == (2, 0.32, "pixels")
    session = json.loads((played / "session.json").read_text(encoding="utf-8"))
    assert session["settings"]["steps"] == 2 and "preset" not in session["settings"]
    log = (played / "run.log").read_text(encoding="utf-8")
    assert "preset 40fps: 2 steps, sampled, pixels: 40.0 frames a second, 20.00 dB" in log


def test_the_notebook_draws_what_was_measured_and_else_says_how_to_measure_it(
    run: Path, played: Path
) -> None:
    def shown(folder: Path) -> str:
        notebook = nbformat.read(folder / "notebooks" / "05_infer.ipynb", as_version=4)
        (cell,) = (cell for cell in notebook.cells if cell.id == "presets")
        return str(cell.outputs)

    assert "image/png" in shown(played) and "was not measured" not in shown(played)
    assert ("image/png" in shown(run)) != ("This measures it: " in shown(run))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"device": "cuda:99"}, "cuda:99"),
        ({"actions": [0, 8]}, "8 is not an action id of this suite. Use 0 to 7."),
        ({"dataset": "tetris"}, "There is no dataset 'tetris'"),
        ({"generation_steps": 500}, "too short"),
        ({"dynamics_path": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_a_wrong_parameter_stops_the_run_with_a_sentence(
    parameters: dict[str, Any], says: str, tmp_path: Path
) -> None:
    status, message = infer(tmp_path, **parameters)
    assert status == "fail"
    assert says in message
    assert "Traceback" not in message


def test_the_command_line_refuses_an_unknown_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-p", "generation_step=3"]) == 2
    assert "generation_steps" in capsys.readouterr().err
