"""Verdicts, run folders and the errors' way of speaking."""

import json
import time
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import errors
from helpers.errors import OutputError, RunbookError, VerdictError
from helpers.report import Check, Verdict, conclude, write_json
from helpers.run_folder import join_run, open_run

GOOD = Check("disk", "ok", "80 GB free")
POOR = Check("driver", "warn", "no GPU", "Nothing: the CPU plays, too.")
BAD = Check("python", "fail", "Python 3.9", "Install <3.11>.")


@pytest.mark.parametrize(
    ("checks", "status"), [([GOOD], "ok"), ([GOOD, POOR], "warn"), ([POOR, BAD], "fail"), ([], "ok")]
)
def test_a_verdict_is_as_bad_as_its_worst_check(checks: list[Check], status: str) -> None:
    assert Verdict("00_check", tuple(checks)).status == status


def test_a_verdict_is_a_table_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude("00_check", [GOOD, POOR], tmp_path)
    shown = capsys.readouterr().out
    assert "80 GB free" in shown and "the CPU plays" in shown
    written = json.loads((tmp_path / "00_check.json").read_text(encoding="utf-8"))
    assert written["status"] == "warn"
    assert [check["id"] for check in written["checks"]] == ["disk", "driver"]


def test_a_failed_check_stops_after_the_table_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VerdictError, match=r"python: Python 3\.9") as caught:
        conclude("00_check", [GOOD, BAD], tmp_path)
    assert caught.value.fix == "Install <3.11>."
    assert "Python 3.9" in capsys.readouterr().out
    assert (tmp_path / "00_check.json").is_file()


def test_a_verdict_in_a_notebook_shows_text_as_text() -> None:
    assert "Install &lt;3.11&gt;." in Verdict("00_check", (BAD,))._repr_html_()


def test_a_long_verdict_shows_what_needs_attention_first_and_folds_the_rest() -> None:
    good = [Check(f"good_{number}", "ok", "fine") for number in range(20)]
    shown = Verdict("00_check", (*good, POOR))._repr_html_()

    assert shown.index("no GPU") < shown.index("<details>") < shown.index("good_0")
    assert "20 ok" in shown
    assert "<details>" not in Verdict("00_check", (GOOD, POOR))._repr_html_()


def test_what_was_skipped_makes_a_verdict_no_worse_and_says_why_and_how_to_look() -> None:
    skipped = Check(
        "kernel", "skip", "no answer in time", "Run: doctor --deep", "a kernel", "it proves torch"
    )
    verdict = Verdict("doctor", (GOOD, skipped))

    assert verdict.status == "ok"
    assert "expected: a kernel" in str(verdict) and "why: it proves torch" in str(verdict)
    assert verdict.to_dict()["checks"][1]["expected"] == "a kernel"


def test_columns_that_no_check_fills_are_left_out() -> None:
    assert (
        "<th" in Verdict("a", (GOOD,))._repr_html_() and "expected" not in Verdict("a", (GOOD,))._repr_html_()
    )


def test_json_is_written_whole_and_with_its_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"用户": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "用户": "é"\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"no": object()})
    assert "用户" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_runs_that_begin_within_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = [open_run("SONIC", outputs=tmp_path) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() and "_sonic" in folder.name for folder in folders)
    assert folders[0].name.startswith(time.strftime("%Y"))


def test_a_run_folder_given_is_used_as_it_is(tmp_path: Path) -> None:
    assert open_run("demo", tmp_path / "我的 run") == tmp_path / "我的 run"
    assert list((tmp_path / "我的 run").iterdir()) == []


STEPS = ("00_check", "01_env", "02_torch", "03_deps", "04_assets")


def test_notebooks_stepped_through_by_hand_share_one_folder(tmp_path: Path) -> None:
    first, *others = [join_run(step, outputs=tmp_path) for step in STEPS]
    assert first.name.endswith("_by_hand") and set(others) == {first}
    assert join_run("05_infer", "", "crafter", tmp_path) == first


def test_a_notebook_run_again_by_hand_overwrites_nothing(tmp_path: Path) -> None:
    first, second = (join_run("05_infer", "", "crafter", tmp_path) for _ in range(2))
    assert first != second and "_crafter" in second.name
    earlier = join_run("04_assets", outputs=tmp_path)
    assert earlier not in (first, second) and join_run("05_infer", "", "sonic", tmp_path) == earlier


@pytest.mark.parametrize(
    "note", ["", "[]", '{"step": 1, "folder": 2, "seconds": "x"}', '{"step": "00_check"}']
)
def test_what_was_done_by_hand_long_ago_or_cannot_be_read_is_left_alone(tmp_path: Path, note: str) -> None:
    old, written = join_run("00_check", outputs=tmp_path), tmp_path / ".by_hand.json"
    long_ago = json.loads(written.read_text(encoding="utf-8")) | {"seconds": time.time() - 13 * 3600}
    written.write_text(note or json.dumps(long_ago), encoding="utf-8")
    assert join_run("01_env", outputs=tmp_path) != old


def test_a_headless_run_names_its_folder_and_is_no_part_of_what_is_done_by_hand(tmp_path: Path) -> None:
    by_hand = join_run("00_check", outputs=tmp_path)
    assert join_run("01_env", tmp_path / "run", outputs=tmp_path) == tmp_path / "run"
    assert join_run("01_env", outputs=tmp_path) == by_hand


def test_outputs_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="run_dir") as caught:
        open_run("demo", outputs=tmp_path / "outputs")
    assert str(tmp_path / "outputs") in str(caught.value)


def test_an_error_in_a_notebook_is_two_lines_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.run_cell("from helpers.errors import AssetError\nraise AssetError('It is gone.', fix='Fetch it.')")
    shown = capsys.readouterr().out + capsys.readouterr().err
    assert "AssetError: It is gone." in shown and "What to do: Fetch it." in shown
    assert "Traceback" not in shown


def test_every_error_of_the_project_is_of_one_family() -> None:
    own = [value for value in vars(errors).values() if getattr(value, "__module__", "") == errors.__name__]
    classes = [value for value in own if isinstance(value, type)]
    assert len(classes) > 8
    assert all(issubclass(value, RunbookError) for value in classes)


def test_no_name_from_a_foreign_file_moves_the_terminal_and_letters_of_every_language_stay() -> None:
    error = RunbookError("世界 é \x1b]0;title\x07\x1b[2J\r\u202e\ud800 is no file.", fix="See\n\tbelow.")
    assert error.what == r"世界 é \x1b]0;title\x07\x1b[2J\r\u202e\ud800 is no file."
    assert str(error) == f"{error.what} See\n\tbelow."
    str(error).encode()
