"""A setting is declared once: its default, its range and its group decide everything that treats it alike."""

import ast
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import small_world

from helpers.errors import ActionError, ParameterError, SessionFileError
from helpers.play import recording
from helpers.play.game import Game
from helpers.play.settings import DECLARED, Settings, checked, ignored, names, overridden, source_of_actions
from helpers.run_folder import ROOT
from helpers.worlds import WORLDS, world


def notebook_parameters() -> dict[str, tuple[str, Any]]:
    """Type and default of every parameter that the cell of 05_infer declares."""
    cells = json.loads((ROOT / "notebooks" / "05_infer.ipynb").read_text(encoding="utf-8"))["cells"]
    (tagged,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    lines = ast.parse("".join(tagged["source"])).body
    assert all(isinstance(line, ast.AnnAssign) for line in lines)
    return {line.target.id: (ast.unparse(line.annotation), ast.literal_eval(line.value)) for line in lines}  # type: ignore[attr-defined]


def test_the_notebooks_parameters_and_defaults_are_those_of_the_settings() -> None:
    declared = notebook_parameters()
    assert declared.pop("run_dir") == ("str", "")
    defaults = {name: setting.default for name, setting in DECLARED.items()}
    assert {name: value for name, (_, value) in declared.items()} == defaults | {"actions": []}
    for name, (annotation, _) in declared.items():
        kind = DECLARED[name].metadata["kind"]
        assert annotation == ("list" if kind is tuple else kind.__name__), name


def test_every_setting_is_in_one_group() -> None:
    assert sorted(names("place", "speed", "play", "show")) == sorted(DECLARED)
    assert set(recording.RECORDED) == set(names("speed", "play"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 10_001), ("steps", 1.5), ("temperature", 2e6), ("seed", -1), ("feedback", "dreams")],
)
def test_a_wrong_value_is_refused_everywhere_with_the_same_sentence(
    name: str, value: object, tmp_path: Path
) -> None:
    opened = small_world.small_world(tmp_path)
    game = Game(opened, small_world.clip(opened), small_world.settings())
    with pytest.raises(ParameterError) as in_a_notebook:
        Settings.read({name: value})
    with pytest.raises(ParameterError) as in_play:
        game.set(**{name: value})
    file = game.recording()
    file["settings"][name] = value
    with pytest.raises(SessionFileError) as in_a_file:
        recording.check(file)
    assert in_play.value.what == in_a_notebook.value.what
    assert in_a_file.value.what.endswith(in_a_notebook.value.what)


def test_a_default_stands_for_the_worlds_own_value_and_the_settings_hold_that() -> None:
    for name in WORLDS:
        chosen, own = Settings(dataset=name.upper()), world(name)
        assert (chosen.dataset, chosen.fps) == (name, own.fps)
        played = (chosen.context_window, chosen.steps, chosen.temperature, chosen.feedback)
        assert played == (own.context_window, own.steps, own.temperature, own.feedback)
    assert Settings(temperature=0.0, context_window=3).temperature == 0.0
    with pytest.raises(ParameterError, match="from 1 to 10000, or 0 for the world's own"):
        Settings.read({"steps": -1})
    with pytest.raises(ParameterError, match=r"from 0 to 1e\+06, or -1\.0 for the world's own"):
        Settings.read({"temperature": -0.5})


def test_in_play_nothing_stands_for_another_value(tmp_path: Path) -> None:
    opened = small_world.small_world(tmp_path)
    game = Game(opened, small_world.clip(opened), small_world.settings())
    for name, value in {"steps": 0, "temperature": -1.0, "feedback": ""}.items():
        with pytest.raises(ParameterError):
            game.set(**{name: value})


def test_numbers_of_numpy_and_lists_become_plain_python() -> None:
    import numpy as np

    values = [checked("steps", np.int64(3)), checked("temperature", np.float32(0.5)), checked("actions", [1])]
    assert values == [3, 0.5, (1,)]
    assert [type(value) for value in values] == [int, float, tuple]


@pytest.mark.parametrize(
    "value", [10**5000, "\ud800", ["x"] * 10**5, float("nan")], ids=lambda v: str(type(v))
)
def test_whatever_is_refused_the_sentence_is_short_and_printable(value: object) -> None:
    for name in DECLARED:
        try:
            checked(name, value)
        except (ParameterError, ActionError) as refusal:
            assert len(str(refusal)) < 300 and str(refusal).isascii()


@pytest.mark.parametrize("action", [10**30, -(10**30), 2**63, 0.5, True, "2"])
def test_an_action_that_is_no_whole_number_of_64_bits_is_refused(action: object) -> None:
    with pytest.raises(
        ActionError, match=r"actions holds .*\. Use a list of whole numbers, such as \[2, 2, 6\]"
    ):
        Settings.read({"actions": [2, action]})
    assert checked("actions", [2**63 - 1, -(2**63)]) == (2**63 - 1, -(2**63))


def test_a_preset_is_a_rate_in_frames_a_second() -> None:
    for text in ("30fps", " 5 FPS", ""):
        assert checked("preset", text) == text
    for text in ("fast", "0fps", "30", "30fps and more"):
        with pytest.raises(ParameterError, match='such as "30fps"'):
            checked("preset", text)


def test_a_parameter_that_has_no_effect_is_named() -> None:
    assert ignored(Settings(), "cpu") == []
    assert ignored(Settings(tf32=True), "cuda") == []
    assert "tf32" in ignored(Settings(tf32=True), "cpu")[0]
    assert "generation_steps=5" in ignored(Settings(generation_steps=5, actions=(1, 2)), "cpu")[0]
    paths = {f"{part}_path": "x.pth" for part in ("video_tokenizer", "latent_actions", "dynamics")}
    assert "use_latest" in ignored(replace(Settings(use_latest_checkpoints=True), **paths), "cpu")[0]


def test_what_was_given_and_a_preset_or_a_session_set_otherwise_is_named_with_both_values() -> None:
    given = {"steps": 10, "feedback": "tokens", "temperature": -1.0, "seed": 3, "preset": "30fps"}
    played = replace(Settings.read(given), steps=2, temperature=0.5, feedback="pixels")
    assert overridden(given, played) == [
        "steps=10 has no effect: the preset 30fps sets 2.",
        "feedback='tokens' has no effect: the preset 30fps sets 'pixels'.",
    ]
    given = {"dataset": "Demo", "seed": 9, "actions": [2], "start": -1, "evaluate": False, "preset": "5fps"}
    recorded = Settings(seed=3, start=7, actions=(1, 1), replay="session.json")
    assert overridden(given, recorded) == [
        "seed=9 has no effect: the session to replay has 3.",
        "actions=(2,) has no effect: the session to replay has (1, 1).",
        "preset=5fps has no effect: a replay plays what was recorded.",
    ]


def test_what_was_given_and_played_or_not_given_is_not_named() -> None:
    assert overridden({"steps": 4}, Settings(steps=2)) == []  # changed in the player, say
    assert overridden({"steps": 2, "preset": "30fps"}, Settings(steps=2, preset="30fps")) == []
    assert overridden({"preset": ""}, Settings(steps=2, replay="session.json")) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "inferred from the true clip (use_gt_actions)"),
        ({"use_actions": True}, "random (use_actions)"),
        (
            {"use_actions": True, "use_gt_actions": True},
            "inferred from the true clip (use_gt_actions); set as well and not used: use_actions",
        ),
        ({"use_actions": False}, "inferred from the true clip (use_gt_actions)"),
        ({"use_gt_actions": False}, "random (use_actions)"),
        ({"use_gt_actions": False, "use_actions": False}, "none: "),
        (
            {"actions": (1,), "use_actions": False, "use_gt_actions": True},
            "given in `actions`; set as well and not used: use_gt_actions",
        ),
        ({"actions": (1,)}, "given in `actions`"),
        ({"actions": (1,), "use_interactive_mode": True}, "given in `actions`, then chosen in the player"),
        ({"use_interactive_mode": True}, "chosen in the player"),
        (
            {"use_interactive_mode": True, "use_actions": True},
            "chosen in the player; set as well and not used: use_actions",
        ),
        ({"replay": "session.json"}, "recorded in the session file"),
    ],
    ids=str,
)
def test_the_source_of_the_actions_is_said_and_what_stood_back(changes: dict[str, Any], says: str) -> None:
    settings = Settings.read(changes)
    source, _, unused = says.partition("; set as well and not used: ")
    assert source_of_actions(settings).startswith(source)
    warned = [sentence.split("=true has no effect: ")[0] for sentence in ignored(settings, "cpu")]
    assert warned == ([unused] if unused else [])


def test_sources_of_actions_that_nobody_set_are_whole_in_the_settings() -> None:
    for given in ({}, {"use_actions": True}, {"use_gt_actions": False}, {"actions": (1,)}):
        settings = Settings.read(given)
        assert isinstance(settings.use_actions, bool) and isinstance(settings.use_gt_actions, bool)
        assert Settings.read(asdict(settings)) == settings == replace(settings)
    for name in ("use_actions", "use_gt_actions"):
        with pytest.raises(ParameterError, match=rf"{name} is 1\. Use true or false\."):
            Settings.read({name: 1})
        with pytest.raises(ParameterError, match=r"Use true or false\."):
            checked(name, None, itself=True)  # as in a session file


def test_a_session_from_when_both_sources_were_on_replays_without_a_warning() -> None:
    settings = recording.read_settings({"use_actions": True, "use_gt_actions": True})
    assert settings.action_source == "ground truth"
    assert ignored(replace(settings, replay="session.json"), "cpu") == []
