"""A preset is the best way measured on this machine that is fast enough."""

import json
from dataclasses import asdict

import pytest

from helpers import presets, rollout
from helpers.errors import ParameterError

WAYS = [
    presets.Way(10, 0.0, "tokens", 50.0, 22.0, 1.0),
    presets.Way(4, 1.0, "pixels", 25.0, 21.0, 0.9),
    presets.Way(1, 0.0, "tokens", 10.0, 18.0, 0.2),
]


@pytest.mark.parametrize(("preset", "steps"), [("20fps", 10), ("21fps", 4), ("40 FPS", 4), ("100fps", 1)])
def test_the_best_way_that_is_fast_enough_is_chosen(preset, steps):
    assert presets.choose(preset, WAYS).steps == steps


def test_more_than_the_machine_reaches_is_refused_with_what_it_reaches():
    with pytest.raises(ParameterError, match=r"reaches 100\.0 frames a second, not 101"):
        presets.choose("101fps", WAYS)


@pytest.mark.parametrize("preset", ["fast", "0fps", "-1fps", "30", "1.5fps"])
def test_what_is_no_number_of_frames_a_second_is_refused(preset):
    with pytest.raises(ParameterError, match="such as"):
        presets.choose(preset, WAYS)


def test_a_preset_sets_steps_temperature_and_feedback_of_the_settings(tmp_path, monkeypatch):
    saved = tmp_path / "presets.json"
    saved.write_text(json.dumps([asdict(way) for way in WAYS]), encoding="utf-8")
    monkeypatch.setattr(presets.overrides, "__defaults__", (saved,))
    settings = rollout.Settings.read({"preset": "30fps", "seed": 3})
    assert (settings.steps, settings.temperature, settings.feedback, settings.seed) == (4, 1.0, "pixels", 3)


def test_nothing_measured_or_another_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ParameterError, match=r"python -m helpers\.demo\.sweep"):
        presets.read_ways(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(ParameterError, match="holds no measured presets"):
        presets.read_ways(tmp_path / "other.json")


def test_every_measured_way_is_a_point_of_the_plot():
    (axes,) = presets.plot(WAYS).axes
    assert sum(len(line.get_xdata()) for line in axes.lines) == len(WAYS)
