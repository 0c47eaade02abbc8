"""A baseline is frozen, judged identical on the same machine, and whatever moves it is named."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.batch import baseline, regress
from helpers.batch.baseline import (
    Bound,
    Case,
    Plan,
    Played,
    read_baseline,
    read_plans,
    with_session,
    write_baseline,
)
from helpers.batch.regress import (
    Fact,
    changed_facts,
    find_baseline,
    judge,
    picture,
    token_map,
    write_report,
)
from helpers.commands import runbook_line
from helpers.errors import OutputError, ParameterError, RunbookError

# --- judging -----------------------------------------------------------------------------------------


def played(**changes: object) -> Played:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tokens = np.random.default_rng(1).integers(0, 4096, (4, 64), dtype=np.int32)
    made = Played(
        parameters={"dataset": "crafter", "amp": False, "tf32": False, "compile": False, "seed": 0},
        environment={"torch": "2.13.0+cpu", "device": "cpu", "device_name": "a CPU", "commit": "abc"},
        files={"dynamics": "1" * 64},
        actions=[1, 2, 3, None],
        token_hashes=["a", "b", "c", "d"],
        metrics={"psnr_db": [20.0, 19.0], "delta_4_psnr_db": {"mean": 1.0, "half_width": 0.5}},
        given_sha256="0",
        frames=frames,
        tokens=tokens,
        seconds=1.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


CASE = Case("greedy", played(), {"cpu": Bound(tokens=0.02, psnr_db=30)})


def with_tokens_changed(count: int, frame: int = 2) -> Played:
    """The same but for some tokens of one frame, and a shade in its pixels."""
    tokens, frames = CASE.played.tokens.copy(), CASE.played.frames.copy()
    tokens[frame].flat[:count] += 1
    frames[frame] ^= 1
    return played(tokens=tokens, frames=frames)


def test_a_case_that_is_the_same_bit_for_bit_is_identical() -> None:
    found = judge(CASE, played())
    assert (found.outcome, found.first, found.facts) == ("identical", None, ())


def test_a_few_other_tokens_are_close_and_said_to_be_how_many_and_where() -> None:
    found = judge(CASE, with_tokens_changed(5))
    assert found.outcome == "close" and found.passed
    assert found.first == 3
    assert "5 of 256 tokens differ" in found.why and "within 2.0% and 30 dB on cpu" in found.why
    assert found.psnr_db[:2] == (100, 100) and 40 < found.psnr_db[2] < 60
    assert np.flatnonzero(found.different[2]).tolist() == [0, 1, 2, 3, 4]


def test_pixels_alone_may_differ() -> None:
    found = judge(CASE, with_tokens_changed(0))
    assert found.outcome == "close" and found.first == 3 and "0 of 256 tokens" in found.why


def test_more_than_the_bound_is_changed() -> None:
    assert judge(CASE, with_tokens_changed(6)).outcome == "changed"
    darker = played(frames=CASE.played.frames // 2)
    found = judge(CASE, darker)
    assert found.outcome == "changed" and found.first == 1 and "beyond" in found.why


def test_the_bound_is_the_cases_own_for_the_device_it_runs_on_now() -> None:
    on_cuda = replace(with_tokens_changed(12), environment={**played().environment, "device": "cuda"})
    assert judge(CASE, on_cuda).outcome == "close"  # 5% by default on a GPU
    strict = replace(CASE, bounds={"cuda": Bound(tokens=0.0, psnr_db=30)})
    assert judge(strict, on_cuda).outcome == "changed"


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (played(given_sha256="1"), "another clip"),
        (played(actions=[1, 2, 4, None]), "from generated frame 3 on"),
        (played(frames=played().frames[:3], tokens=played().tokens[:3]), "not as many"),
    ],
)
def test_another_clip_other_actions_and_another_length_are_told_from_other_numbers(
    now: Played, says: str
) -> None:
    found = judge(CASE, now)
    assert found.outcome == "changed" and says in found.why


@pytest.mark.parametrize(
    ("now", "fact"),
    [
        (
            {"environment": {**played().environment, "torch": "2.14.0"}},
            Fact("torch", "2.13.0+cpu", "2.14.0"),
        ),
        (
            {"environment": {**played().environment, "device_name": "RTX 3060 Ti"}},
            Fact("device_name", "a CPU", "RTX 3060 Ti"),
        ),
        ({"files": {"dynamics": "2" * 64}}, Fact("sha256 of dynamics", "1" * 16, "2" * 16)),
        ({"parameters": {**played().parameters, "amp": True}}, Fact("amp", "False", "True")),
    ],
)
def test_what_is_not_as_it_was_is_named(now: dict[str, object], fact: Fact) -> None:
    assert changed_facts(played(), played(**now)) == [fact]
    moved = judge(CASE, replace(with_tokens_changed(9), **now))  # type: ignore[arg-type]
    assert str(fact) in moved.suspects


def test_a_parameter_that_the_notebook_got_since_is_no_difference() -> None:
    assert changed_facts(played(), played(parameters={**played().parameters, "preset": "fast"})) == []


def test_a_change_without_a_cause_says_so() -> None:
    assert "nothing else differs" in judge(CASE, with_tokens_changed(9)).suspects


def test_the_token_map_shows_where_on_the_frame() -> None:
    different = np.zeros((1, 64), bool)
    different[0, 8 * 3 + 5] = True  # row 3, column 5 of 8 by 8
    shown = token_map(different, 32)
    orange = (shown == (224, 138, 0)).all(-1)[0]
    assert orange.sum() == 16 and orange[12:16, 20:24].all()


def test_the_picture_of_a_change_has_a_row_more_for_each_side() -> None:
    same, moved = judge(CASE, played()), judge(CASE, with_tokens_changed(9))
    assert picture(moved).height > 3 * picture(same).height


# --- keeping -----------------------------------------------------------------------------------------


def test_a_baseline_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_baseline([CASE], tmp_path / "基线")
    (found,) = read_baseline(tmp_path / "基线")
    assert judge(CASE, found.played).outcome == "identical"
    assert found.bounds == CASE.bounds and found.played.to_dict() == CASE.played.to_dict()


def test_a_damaged_baseline_is_named(tmp_path: Path) -> None:
    write_baseline([CASE], tmp_path)
    (tmp_path / "greedy.png").write_bytes(b"<html>")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path))):
        read_baseline(tmp_path)


def tampered(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A baseline of one case, `greedy`, whose description a stranger changed."""
    write_baseline([CASE], folder)
    document = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    change(document["cases"])
    (folder / "baseline.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


FOREIGN_NAMES = [
    "../../greedy",
    "a/b",
    "a\\b",
    "C:a",
    "/a",
    "",
    ".",
    "con",
    "NUL.x",
    "COM¹",
    "lpt³",
    "a.",
    "a ",
]


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_a_case_whose_name_leads_elsewhere_is_refused_wherever_it_was_written(
    name: str, tmp_path: Path
) -> None:
    frozen = tampered(tmp_path / "a" / "b", lambda cases: cases.update({name: cases.pop("greedy")}))
    (tmp_path / "cases.yaml").write_text(json.dumps({"cases": {name: {}}}), encoding="utf-8")
    replaying = Plan("again", {"replay": f"@{name}"}, {})

    for refused in (
        lambda: read_baseline(frozen),
        lambda: read_plans(tmp_path / "cases.yaml", "demo", {}),
        lambda: with_session(replaying, tmp_path),
    ):
        with pytest.raises(ParameterError, match="cannot name a case"):
            refused()


def test_two_cases_whose_names_are_one_on_windows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text("cases: {a: {}, A: {}}", encoding="utf-8")
    with pytest.raises(ParameterError, match="'A' cannot name a case"):
        read_plans(tmp_path / "cases.yaml", "demo", {})


@pytest.mark.parametrize(
    "path", ["../session.json", "/etc/passwd", r"\\host\share\x", "other.session.json", 3]
)
def test_a_baseline_replays_nothing_but_its_own_sessions(path: object, tmp_path: Path) -> None:
    frozen = tampered(tmp_path / "a", lambda cases: cases["greedy"]["parameters"].update(replay=path))
    with pytest.raises(OutputError, match=r"greedy replays .*, not greedy\.session\.json"):
        read_baseline(frozen)


@pytest.mark.parametrize("tokens", ["0", -1, 10**400, float("nan"), [0], None])
def test_bounds_that_are_no_numbers_are_refused(tokens: object, tmp_path: Path) -> None:
    bounds = {"cpu": {"tokens": tokens, "psnr_db": 1}}
    frozen = tampered(tmp_path, lambda cases: cases["greedy"].update(bounds=bounds))
    with pytest.raises(ParameterError, match="are no bounds"):
        read_baseline(frozen)


@pytest.mark.parametrize("name", ["dynamics_path", "dataset"])
def test_a_network_share_that_a_baseline_names_is_never_opened(name: str, tmp_path: Path) -> None:
    share = r"\\server\share\x.pth"
    frozen = tampered(tmp_path, lambda cases: cases["greedy"]["parameters"].update({name: share}))
    with pytest.raises(ParameterError, match=f"{name} in .*baseline.json is .* a network share"):
        read_baseline(frozen)


def test_what_a_baseline_says_of_its_machine_is_printed_and_not_obeyed() -> None:
    escape = replace(CASE, played=played(environment={"torch": "\x1b]0;owned\x07"}))
    assert "\x1b" not in judge(escape, with_tokens_changed(9)).suspects


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a JSON document, the document's own among them."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


@pytest.fixture(scope="module")
def whole_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_baseline([CASE], folder)
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_stands_in_a_baseline_it_is_refused_or_can_be_reported(
    whole_baseline: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = whole_baseline / "baseline.json"
    whole = file.read_bytes()
    document = {"": json.loads(whole)}
    *above, last = data.draw(st.sampled_from([("", *path) for path in places(document[""])]))
    target: Any = document
    for key in above:
        target = target[key]
    target[last] = data.draw(GARBAGE)
    if data.draw(st.booleans()) and isinstance(target, dict):
        target[data.draw(st.text())] = target.pop(last)
    try:
        file.write_text(json.dumps(document.get("")), encoding="utf-8")
        cases = read_baseline(whole_baseline)
    except RunbookError:
        return
    finally:
        file.write_bytes(whole)
    judgements = [judge(case, played()) for case in cases]
    judgements += [regress.Judgement(case, None, "failed", "no") for case in cases]
    for judgement in judgements:
        str(judgement.suspects)
    write_report(judgements, whole_baseline, tmp_path_factory.getbasetemp() / "any.html")


def test_the_name_of_a_baselines_parameter_never_runs_as_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"seed = 0\nopen({str(tmp_path / 'seen')!r}, 'w')\nseed"
    frozen = tampered(tmp_path / "a", lambda cases: cases["greedy"]["parameters"].update({name: 0}))

    assert regress.main([str(frozen), "--report", str(tmp_path / "report")]) == 1

    assert "is no parameter of 05_infer" in capsys.readouterr().out
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("name", ["tokens.npz", "greedy.png"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "everything"])
def test_a_file_of_a_baseline_that_is_damaged_anywhere_is_a_sentence(
    name: str, damage: str, tmp_path: Path
) -> None:
    write_baseline([CASE], tmp_path)
    whole = bytearray((tmp_path / name).read_bytes())
    if damage == "a bit":
        whole[len(whole) // 2] ^= 8
    (tmp_path / name).write_bytes(whole[: {"the end": len(whole) // 2, "everything": 0}.get(damage)])
    with pytest.raises(OutputError, match="holds no baseline that can be read"):
        read_baseline(tmp_path)


def test_tokens_of_a_large_codebook_are_frozen_whole(tmp_path: Path) -> None:
    large = replace(CASE, played=played(tokens=CASE.played.tokens + 2**16))
    write_baseline([large], tmp_path)
    (found,) = read_baseline(tmp_path)
    assert judge(large, found.played).outcome == "identical"


@pytest.mark.parametrize("stopped_at", [1, 2, 3, 4])
def test_a_baseline_is_the_old_one_or_the_new_one_wherever_its_writing_is_stopped(
    stopped_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Path] = []
    move = baseline.replace_file

    def stop(source: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == stopped_at:
            raise KeyboardInterrupt
        return move(source, target)

    write_baseline([CASE, replace(CASE, name="gone")], tmp_path)
    new = replace(CASE, played=with_tokens_changed(200))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(baseline, "replace_file", stop)
        write_baseline([new], tmp_path)

    found = read_baseline(tmp_path)
    outcome = judge(new, found[0].played).outcome
    assert (len(found), outcome) == ((2, "changed") if stopped_at == 1 else (1, "identical"))
    assert not (tmp_path / ".new").exists() and not (tmp_path / ".whole").exists()


def test_freezing_removes_the_pictures_of_the_former_baseline_and_no_others(tmp_path: Path) -> None:
    write_baseline([CASE, replace(CASE, name="gone")], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's")
    write_baseline([CASE], tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"greedy.png", "mine.png"}


def test_a_full_disk_leaves_the_baseline_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_baseline([CASE], tmp_path)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(baseline, "write_json", full)
        with pytest.raises(OutputError, match="No space left"):
            write_baseline([replace(CASE, name="new")], tmp_path)
    assert [case.name for case in read_baseline(tmp_path)] == ["greedy"]
    assert not (tmp_path / ".new").exists()


def test_the_embedded_worlds_baseline_is_whole_and_small() -> None:
    folder = find_baseline("crafter")
    cases = read_baseline(folder)
    assert {case.name for case in cases} >= {plan.name for plan in read_plans(baseline.CASES, "demo", {})}
    assert all(len(case.played.frames) == len(case.played.tokens) for case in cases)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cases: {}", "names no cases"),
        ("cases: {a: {replay: '//server/share/session.json'}}", "replay in .* a network share"),
        ("cases: {a: {temprature: 1}}", "temprature"),
        ("cases: {a: {temperature: hot}}", "temperature is 'hot'. Use a number from 0"),
        ("cases: {a: 3}", "a is 3"),
        ("cases: {a: {dataset: 3}}", "dataset is 3. Use a text"),
        ("cases: {a: {bounds: 3}}", "are no bounds"),
        ("cases: {'a/b': {}}", "cannot name a case"),
        ("cases: {a: {bounds: {cpu: {tokens: -1, psnr_db: 3}}}}", "no bound"),
        ("cases: {a: {replay: 3}}", "replay is 3. Use a text"),
        ("- a", "not a YAML mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_of_cases_is_refused_with_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=says):
        read_plans(tmp_path / "cases.yaml", "demo", {})


def test_a_session_is_replayed_only_after_the_case_that_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text("cases: {a: {replay: '@b'}, c: {replay: d.json}}", encoding="utf-8")
    first, second = read_plans(tmp_path / "cases.yaml", "demo", {})
    assert second.parameters["replay"] == str(tmp_path / "d.json")
    with pytest.raises(ParameterError, match="was not played before it"):
        with_session(first, tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "session.json").write_text("{}", encoding="utf-8")
    assert with_session(first, tmp_path).parameters["replay"] == str(tmp_path / "b" / "session.json")


# --- the report ----------------------------------------------------------------------------------------


def test_the_report_is_one_file_that_fetches_nothing_and_escapes_what_it_shows(tmp_path: Path) -> None:
    odd = replace(CASE, played=played(parameters={"dataset": "demo", "dynamics_path": "<b>&.pth"}))
    write_report([judge(CASE, played()), judge(odd, with_tokens_changed(60))], tmp_path, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=[\"'](?!data:)", page) and "<script" not in page and "url(" not in page
    assert "&lt;b&gt;&amp;.pth" in page and "<b>&.pth" not in page


def test_junit_counts_changed_as_failures_and_failed_as_errors(tmp_path: Path) -> None:
    failed = regress.Judgement(CASE, None, "failed", "The kernel said \x1b[31mno.")
    judgements = [judge(CASE, played()), judge(CASE, with_tokens_changed(60)), failed]
    write_report(judgements, tmp_path, tmp_path / "junit.xml")
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [len(test.findall("failure")) for test in suite.findall("testcase")] == [0, 1, 0]


# --- for real ------------------------------------------------------------------------------------------

CASES = """
parameters: {generation_steps: 3, steps: 2, evaluate: false}
cases:
  greedy: {}
  sampled: {temperature: 1.0, seed: 3}
  recorded: {replay: "@sampled"}
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own baseline, one case a recorded session, in a folder with a space and Chinese letters."""
    folder = tmp_path_factory.mktemp("my 基线")
    (folder / "cases.yaml").write_text(CASES, encoding="utf-8")
    arguments = ["--cases", "cases.yaml", "--to", "frozen", "--called-from", str(folder)]
    assert baseline.main(arguments) == 0
    return folder / "frozen"


def test_run_again_on_the_same_machine_every_case_is_identical(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regress.main([str(frozen), "--report", str(tmp_path)]) == 0
    assert "3 of 3 cases are identical or close" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("Every token and every pixel is the same.") == 3
    assert (tmp_path / "greedy" / "notebooks" / "05_infer.ipynb").is_file()
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_other_precision_is_called_that_and_a_failing_case_is_an_error(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(frozen), "--only", "greedy", "--report", str(tmp_path)]
    status = regress.main([*arguments, "-p", "amp=true"])
    shown = capsys.readouterr().out
    assert "different from the baseline: amp: False → True" in shown
    assert status == (1 if "changed" in shown else 0) and "identical  " not in shown
    assert regress.main([*arguments, "-p", "dynamics_path=nowhere.pth"]) == 1
    assert "nowhere.pth" in capsys.readouterr().out
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None and suite.get("errors") == "1"


def test_the_embedded_world_still_generates_what_was_committed(tmp_path: Path) -> None:
    assert regress.main([str(find_baseline("demo")), "--only", "as_played", "--report", str(tmp_path)]) == 0


def test_a_baseline_and_a_session_from_when_coinrun_was_called_demo_still_hold(tmp_path: Path) -> None:
    frozen = find_baseline("coinrun")
    assert '"dataset": "demo"' in (frozen / "recorded_session.session.json").read_text(encoding="utf-8")
    assert regress.main([str(frozen), "--only", "recorded_session", "--report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "holds no baseline"),
        (["--dataset", "sonic"], runbook_line("baseline", "--dataset", "sonic")),
        (["--only", "dreams"], "There is no case 'dreams'"),
        (["-p", "temprature=1"], "no parameter of 05_infer"),
    ],
)
def test_wrong_arguments_are_sentences(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regress.main(arguments) == 2
    assert says in capsys.readouterr().err
