"""A preset is the best way measured, for this world on this device, that is fast enough."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from small_world import settings, small_world

from helpers.errors import OutputError, ParameterError
from helpers.play.metrics import delta_psnr, delta_rollouts
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld
from helpers.presets import choose, draw, measure
from helpers.presets.choose import FEEDBACKS, MeasuredDecoding, Measurement
from helpers.train.coinrun_evaluate import evaluate_rollouts
from helpers.worldmodel.session import Decoding
from helpers.worlds import world

PLAYED = settings(preset="30fps")


def way(steps: int, feedback: str, ms: float, *clips: float, temperature: float = 0.0) -> MeasuredDecoding:
    """A way whose clips came out so, in dB."""
    return MeasuredDecoding(
        steps, temperature, feedback, ms, ms, ms, float(np.mean(clips)), 1.0, clips, 0.5, 0.2
    )


def measured(
    *ways: MeasuredDecoding, opened: OpenWorld | None = None, chosen: Settings = PLAYED
) -> Measurement:
    """What a measurement would have found, of the SONIC world or of ``opened``."""
    made_from = choose.conditions(opened, chosen) if opened else {"world": "sonic", "device": "cpu"}
    machine = {"device": "cpu", "device_name": "a processor", "threads": "2"}
    return Measurement(made_from, machine, "2026-11-25 00:00:00", len(ways[0].clips_psnr), ways)


FOUND = measured(
    way(10, "tokens", 50.0, 22.0, 23.0, 24.0),
    way(4, "pixels", 25.0, 21.0, 22.0, 23.0),
    way(1, "tokens", 10.0, 18.0, 19.0, 20.0),
)


@pytest.fixture
def opened(tmp_path: Path) -> OpenWorld:
    return small_world(tmp_path)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Nothing may be measured in this test."""

    def never(*_: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(measure, "measure", never)
    return never


# --- choosing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "steps"), [("20fps", 10), ("21fps", 4), ("40 FPS", 4), ("100fps", 1)])
def test_the_best_way_that_is_fast_enough_is_chosen(preset: str, steps: int) -> None:
    assert choose.choose(preset, FOUND).steps == steps


def test_of_ways_that_the_clips_cannot_tell_apart_the_one_nearest_the_worlds_own_steps_is_chosen() -> None:
    assert world("sonic").steps == 10
    lucky = way(1, "tokens", 10.0, 25.0, 17.0, 22.0)
    plain = [way(4, "tokens", 20.0, 20.0, 19.0, 21.0), way(8, "tokens", 40.0, 17.0, 22.0, 18.0)]
    assert choose.choose("20fps", measured(lucky, *plain)).steps == 8
    assert choose.choose("30fps", measured(lucky, *plain)).steps == 4
    sure = way(1, "tokens", 10.0, 23.0, 22.1, 24.0)
    assert choose.choose("30fps", measured(sure, *plain)).steps == 1


def test_a_preset_keeps_the_worlds_temperature_for_psnr_prefers_play_that_dies() -> None:
    assert world("sonic").temperature == 0.0
    sampled = way(4, "tokens", 20.0, 25.0, 25.0, 25.0, temperature=1.0)
    assert choose.choose("30fps", measured(*FOUND.decodings, sampled)).temperature == 0.0
    with pytest.raises(ParameterError, match="Nothing was measured at temperature 0"):
        choose.choose("30fps", measured(sampled))


def test_more_than_the_machine_reaches_is_refused_with_what_it_reaches() -> None:
    with pytest.raises(ParameterError, match=r"reaches 100\.0 frames a second, not 101"):
        choose.choose("101fps", FOUND)


@pytest.mark.parametrize("preset", ["fast", "0fps", "-1fps", "30", "1.5fps", "٣fps", "99999fps"])
def test_what_is_no_number_of_frames_a_second_is_refused_before_a_world_is_opened(preset: str) -> None:
    with pytest.raises(ParameterError, match="such as"):
        Settings.read({"preset": preset})


def test_reading_settings_measures_nothing_and_sets_nothing() -> None:
    read = Settings.read({"preset": "9999fps", "steps": 3, "seed": 3})
    assert (read.steps, read.preset) == (3, "9999fps")


def test_the_rates_on_offer_are_those_that_are_reached() -> None:
    assert {name: chosen.steps for name, chosen in choose.offered(FOUND).items()} == {
        **{"5fps": 10, "10fps": 10, "15fps": 10, "20fps": 10},
        **{"30fps": 4, "60fps": 1},
    }
    slow = measured(way(1, "tokens", 100.0, 18.0, 19.0))
    assert list(choose.offered(slow)) == ["5fps", "10fps"]


# --- measuring and keeping -------------------------------------------------------------------------


def test_a_world_that_was_not_measured_is_measured_kept_and_not_measured_again(
    opened: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure.measure, "__defaults__", (draw.CLIPS, (2, 3)))
    chosen = measure.apply(opened, replace(PLAYED, preset="1fps"), tmp_path)
    found = choose.read(opened, PLAYED, tmp_path)
    assert found is not None
    assert found.clips == measure.FEW_CLIPS
    tried = [(each.steps, each.temperature, each.feedback) for each in found.decodings]
    assert tried == list(itertools.product((1, 2, 3), (0.0, opened.world.temperature), FEEDBACKS))
    assert all(each.ms_low <= each.ms <= each.ms_high for each in found.decodings)
    assert found.machine["torch"] == torch.__version__ and found.machine["threads"] == "1"
    (picture,) = tmp_path.glob("coinrun_cpu_*.png")
    assert picture.stat().st_size > 10_000
    assert (chosen.steps, chosen.temperature, chosen.feedback) in tried
    assert chosen == replace(
        *(PLAYED,),
        **{"preset": "1fps", "steps": chosen.steps},
        **{"temperature": chosen.temperature, "feedback": chosen.feedback},
    )
    monkeypatch.setattr(measure, "measure", None)
    assert measure.apply(opened, replace(PLAYED, preset="1fps"), tmp_path) == chosen
    most = choose.fastest(found).decoding
    assert measure.apply(opened, replace(PLAYED, preset="9999fps"), tmp_path).steps == most.steps


def test_what_ctrl_c_interrupts_goes_on_from_there_and_gives_the_same_quality(
    opened: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = measure.measure(opened, PLAYED, 2, (1,), folder=tmp_path / "whole")
    calls, real = [], delta_rollouts

    def rollouts(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(measure, "delta_rollouts", rollouts)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(opened, PLAYED, 2, (1,), folder=tmp_path)
    (kept,) = tmp_path.glob("*.part.json")
    measured = measure.measure(opened, PLAYED, 2, (1,), folder=tmp_path)

    assert len(calls) == 3 + len(whole.decodings) - 2, "two of them were not measured again"
    assert [row.clips_psnr for row in measured.decodings] == [row.clips_psnr for row in whole.decodings]
    assert "take about" in capsys.readouterr().out
    measure.save(measured, tmp_path)
    assert not kept.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"scores": 3}', '{"scores": {"[1]": [["x"], null]}}'])
def test_what_was_kept_of_other_clips_or_is_damaged_is_measured_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.part.json"
    decoding = Decoding(1, 0.0, "tokens")
    kept = measure._Kept(path, {"world": "coinrun"}, 2)
    kept.put(decoding, (np.array([20.0, 21.0]), None))
    assert decoding in measure._Kept(path, {"world": "coinrun"}, 2)
    assert decoding not in measure._Kept(path, {"world": "coinrun"}, 3)
    assert decoding not in measure._Kept(path, {"world": "crafter"}, 2)
    path.write_text(content, encoding="utf-8")
    assert decoding not in measure._Kept(path, {"world": "coinrun"}, 2)


def test_a_machine_that_is_busy_is_told_by_the_time_that_this_thread_did_not_run() -> None:
    with measure.Waited() as waited:
        time.sleep(0.2)
    assert waited.share > 0.9 and waited.seconds > 0.19


def test_speeds_measured_on_a_busy_machine_are_marked_wherever_they_are_shown() -> None:
    busy = replace(FOUND, waited=0.4)
    assert FOUND.caution == "" and "40%" in busy.caution
    assert choose.reached("30fps", busy) == (choose.choose("30fps", FOUND), busy.caution)
    assert busy.caution in draw.table(busy) and "other programs" not in draw.table(FOUND)
    assert busy.caution in draw.plot(busy).get_suptitle()


def test_more_than_the_machine_reaches_is_played_at_its_fastest_and_said() -> None:
    found, note = choose.reached("101fps", FOUND)
    assert found == choose.fastest(FOUND)
    assert note == "101fps is not reached here: the fastest is played, 100.0 frames a second."


def test_the_verdict_says_what_the_preset_came_to(opened: OpenWorld, tmp_path: Path) -> None:
    own = opened.world.temperature
    ways = (
        way(10, "tokens", 50.0, 22.0, 23.0, temperature=own),
        way(1, "pixels", 40.0, 18.0, 19.0, temperature=own),
    )
    measure.save(measured(*ways, opened=opened), tmp_path)
    chosen = measure.apply(opened, PLAYED, tmp_path)
    assert (chosen.steps, chosen.feedback) == (1, "pixels")
    (check,) = choose.check(opened, chosen, tmp_path)
    assert check.status == "warn" and "30fps is not reached here" in check.observed
    assert check.fix == "Ask for 25fps, or measure again."
    (check,) = choose.check(opened, replace(PLAYED, preset="20fps"), tmp_path)
    assert check.status == "ok" and check.observed.startswith("20fps: 10 steps")
    assert choose.check(opened, replace(PLAYED, preset=""), tmp_path) == []


def test_few_clips_are_called_few_in_the_table() -> None:
    assert "2 clips are few" in draw.table(replace(FOUND, clips=2))
    assert "few" not in draw.table(replace(FOUND, clips=draw.CLIPS))


@pytest.mark.parametrize("feedback", ["tokens", "pixels"])
def test_quality_is_measured_as_the_model_card_measures_it(opened: OpenWorld, feedback: str) -> None:
    chosen = settings(context_window=4)
    frames = measure.read_clips(opened, chosen, 6)
    assert frames.shape[:2] == (6, 8)
    true = torch.zeros(6, 7, dtype=torch.int64)
    card = evaluate_rollouts(opened.suite, frames, true, 4, feedback, 0.0, 2, generated=4)
    followed, random = delta_rollouts(opened.suite, frames, 4, 1, Decoding(2, 0.0, feedback))
    assert followed.mean() == pytest.approx(card["psnr_frame_4"].mean)
    assert random is not None
    control = delta_psnr(followed, random[:, 0])
    assert (control.mean, control.half_width) == pytest.approx(
        (card["delta_4_psnr"].mean, card["delta_4_psnr"].half_width)
    )


def test_a_horizon_of_two_frames_is_measured_at_the_fourth_frame_too(opened: OpenWorld) -> None:
    chosen = settings(prediction_horizon=2)
    frames = measure.read_clips(opened, chosen, 3)
    followed, random = delta_rollouts(opened.suite, frames, 3, 2, Decoding(2, 0.0, "tokens"))
    assert followed.shape == (3,) and np.isfinite(followed).all() and random is not None
    seconds = measure.step_seconds(
        opened.suite, frames[:1], chosen, [Decoding(1, 0.0, "tokens")], lambda _: None
    )
    assert [len(each) for each in seconds] == [measure.TIMED]


@pytest.mark.parametrize(
    "other",
    [
        lambda opened: (replace(opened, hashes=opened.hashes | {"dynamics": "0" * 64}), PLAYED),
        lambda opened: (replace(opened, world=world("sonic")), PLAYED),
        lambda opened: (opened, replace(PLAYED, context_window=2)),
        lambda opened: (opened, replace(PLAYED, amp=True)),
    ],
    ids=["weights", "world", "window", "precision"],
)
def test_what_was_measured_under_other_conditions_is_not_used(
    opened: OpenWorld, tmp_path: Path, other: Callable[[OpenWorld], tuple[OpenWorld, Settings]]
) -> None:
    found = measured(*FOUND.decodings, opened=opened)
    measure.save(found, tmp_path)
    assert choose.read(opened, PLAYED, tmp_path) == found
    assert choose.read(*other(opened), tmp_path) is None


def test_another_device_or_number_of_threads_is_another_measurement(
    opened: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure.save(measured(*FOUND.decodings, opened=opened), tmp_path)
    facts = choose.environment_facts(opened.suite.device)
    for change in ({"device": "cuda", "device_name": "a GPU"}, {"engine_sha256": "0"}):
        monkeypatch.setattr(choose, "environment_facts", lambda _, change=change: facts | change)
        assert choose.read(opened, PLAYED, tmp_path) is None
    monkeypatch.setattr(choose, "environment_facts", lambda _: facts)
    assert choose.read(opened, PLAYED, tmp_path) is not None
    monkeypatch.setattr(choose, "threads_for", lambda *_, **__: 64)
    assert choose.read(opened, PLAYED, tmp_path) is None


def test_the_conditions_count_the_threads_of_play_and_leave_them_as_they_are(opened: OpenWorld) -> None:
    before = torch.get_num_threads()
    assert choose.conditions(opened, PLAYED)["threads"] == str(choose.threads_for(opened.world, spare=1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "defect",
    [
        lambda text: text[:200],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"tokens"', '"tea"'),
        lambda text: text.replace('"ms": 50.0', '"ms": 0'),
        lambda text: text.replace('"psnr": 23.0', '"psnr": NaN'),
        lambda text: text.replace('"psnr": 23.0', '"psnr": "good"'),
        lambda text: json.dumps(json.loads(text) | {"decodings": []}),
        lambda text: json.dumps(json.loads(text) | {"clips": 99}),
    ],
)
def test_a_damaged_file_counts_as_not_measured(
    opened: OpenWorld, tmp_path: Path, defect: Callable[[str], str]
) -> None:
    path = measure.save(measured(*FOUND.decodings, opened=opened), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert defect(text) != text
    path.write_text(defect(text), encoding="utf-8")
    assert choose.read(opened, PLAYED, tmp_path) is None


def test_what_cannot_be_kept_is_said(opened: OpenWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="could not be written"):
        measure.save(measured(*FOUND.decodings, opened=opened), tmp_path / "file" / "presets")


def test_without_a_preset_and_in_a_replay_nothing_is_looked_up(opened: OpenWorld, unmeasured: object) -> None:
    for chosen in (settings(), settings(preset="30fps", replay="session.json")):
        assert measure.apply(opened, chosen) is chosen


# --- showing ---------------------------------------------------------------------------------------


def test_the_line_that_measures_names_what_is_not_as_usual(opened: OpenWorld) -> None:
    usual = Settings(dataset="coinrun", preset="30fps", steps=3, seed=9)
    assert choose.command(opened, usual).endswith("runbook.py presets -p dataset=coinrun")
    other = replace(usual, device="cuda", amp=True, dynamics_path="my models/d.pth")
    assert all(
        word in choose.command(opened, other)
        for word in ("-p device=cuda", "-p amp=True", "'dynamics_path=my models/d.pth'")
    )


def test_a_world_that_was_not_measured_says_how_and_one_that_was_is_drawn(
    opened: OpenWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw.show(opened, PLAYED, tmp_path)
    assert f"This measures it: {choose.command(opened, PLAYED)}" in capsys.readouterr().out
    measure.save(measured(*FOUND.decodings, opened=opened), tmp_path)
    draw.show(opened, PLAYED, tmp_path)
    said = capsys.readouterr().out
    assert "IPython.core.display.Image object" in said
    assert "a mean over 3 clips, which is few: the bars are wide. On 16 clips: " in said


def many() -> Measurement:
    """As crowded as a real one: every way, and values that differ little."""
    ways = []
    tried = itertools.product((1, 2, 4, 6, 8, 10, 16), (0.0, 1.0), FEEDBACKS)
    for steps, temperature, feedback in tried:
        ms = 25 + 7 * steps + 9 * (feedback == "pixels") + 0.3 * temperature * steps
        clip = 20 - steps / 9 + 0.1 * temperature
        ways.append(way(steps, feedback, ms, clip, clip + 1, temperature=temperature))
    return measured(*ways)


def test_every_measured_way_is_a_labelled_point_and_the_one_that_is_played_is_marked() -> None:
    figure = draw.plot(many(), Decoding(6, 0.0, "tokens"))
    quality, control = figure.axes
    for axes in (quality, control):
        lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert sum(len(line.get_xdata()) for name, line in lines.items() if "feedback" in name) == 28
        (at,) = lines["played here"].get_xdata()
        assert at == pytest.approx(1000 / (25 + 7 * 6))
        assert "30 fps" in [text.get_text() for text in axes.texts]
    (unmarked, _) = draw.plot(many()).axes
    assert "played here" not in [line.get_label() for line in unmarked.lines]


def test_every_point_has_its_interval_as_a_bar_and_few_clips_are_called_few() -> None:
    def bars(measurement: Measurement) -> set[tuple[float, float]]:
        drawn = (bar for bars in draw.plot(measurement).axes[0].collections for bar in bars.get_segments())
        return {(bar[0][1], bar[1][1]) for bar in drawn if len(bar)}

    interval = {(row.psnr - row.psnr_within, row.psnr + row.psnr_within) for row in FOUND.decodings}
    assert np.allclose(sorted(bars(FOUND)), sorted(interval))
    assert "only 3 clips" in draw.plot(FOUND).get_suptitle()
    enough = draw.plot(replace(FOUND, clips=16)).get_suptitle()
    assert "only" not in enough and "mean over 16 clips" in enough
    one = replace(FOUND.decodings[0], psnr_within=float("inf"))  # of one clip there is no interval
    assert bars(measured(one)) == set()


def test_no_label_lies_on_another_and_the_legend_lies_outside_the_panels() -> None:
    figure = draw.plot(many(), Decoding(6, 0.0, "tokens"))
    figure.draw_without_rendering()
    for axes in figure.axes:
        # Of the text alone: an annotation's own extent has its leader line in it.
        labels = [Text.get_window_extent(text) for text in axes.texts if text.get_text().isdigit()]
        assert len(labels) == 28
        assert not [(a, b) for a, b in itertools.combinations(labels, 2) if a.overlaps(b)]
        assert not figure.legends[0].get_window_extent().overlaps(axes.get_window_extent())


def test_a_world_without_actions_has_one_panel() -> None:
    ways = [replace(each, delta_4_psnr=None, delta_4_psnr_within=None) for each in FOUND.decodings]
    assert len(draw.plot(measured(*ways)).axes) == 1
    assert "Δ₄PSNR 0.50" in draw.table(FOUND) and "Δ₄PSNR 0" not in draw.table(measured(*ways))


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "datset=sonic"], "is no parameter of 05_infer"),
        (["-p", "dataset=tetris"], "There is no dataset 'tetris'"),
        (["-p", "device=cuda:99"], "cuda:99"),
        (["--clips", "0"], "--clips is 0"),
        (["--steps", "4", "0"], "--steps is 0"),
    ],
)
def test_the_command_refuses_what_cannot_be_in_a_sentence(
    arguments: list[str], says: str, unmeasured: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_the_command_prints_a_table_and_what_each_preset_means(
    opened: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "open_world", lambda _: opened)
    monkeypatch.setattr(measure.save, "__defaults__", (tmp_path,))
    assert measure.main(["-p", "context_window=1", "--clips", "2", "--steps", "6"]) == 0
    said = capsys.readouterr().out
    assert "mean over 2 clips" in said and "6 steps, sampled, pixels" in said and "5fps" in said
    (path,) = tmp_path.glob("*.json")
    assert f"Saved as {path}" in said
    assert json.loads(path.read_text(encoding="utf-8"))["made_from"]["context_window"] == 1
