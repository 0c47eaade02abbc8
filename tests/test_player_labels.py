"""Action labels say what the data say: how often, which way, which key, and what is not known."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_world

import helpers.player.labels
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, open_world
from helpers.player.keymap import default_keys, idle_action, suggested_keys
from helpers.player.labels import ActionLabel, describe, label_actions, picture_shift, player_motion
from helpers.worlds import world


def texture(size: int = 96) -> np.ndarray:
    """A picture in which every place looks different, in grey values: smooth noise."""
    noise = np.random.default_rng(3).random((size // 4, size // 4))
    return noise.repeat(4, 0).repeat(4, 1)


def by_key(labels: list[ActionLabel]) -> dict[str, int]:
    """Which key takes which action; each chord stands for one."""
    pairs = [(chord, action) for action, chords in default_keys(labels).keys.items() for chord in chords]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


# --- motion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("down", "right"), [(0, 3), (0, -3), (2, 0), (-5, 4), (6, -6)])
def test_where_the_picture_shifts_the_player_moves_the_other_way(down: int, right: int) -> None:
    whole = texture()
    before, after = whole[16:80, 16:80], whole[16 - down : 80 - down, 16 - right : 80 - right]
    assert picture_shift(before, after) == (down, right)
    assert player_motion(before, after) == (-right, -down)


@pytest.mark.parametrize(("x", "y"), [(2, 0), (-2, 0), (0, 2), (0, -2)])
def test_where_little_moves_that_is_the_player(x: int, y: int) -> None:
    before, after = np.full((2, 64, 64), 0.2)
    patch = texture(12) / 2 + 0.5
    before[28:40, 28:40] = patch
    after[28 + y : 40 + y, 28 + x : 40 + x] = patch
    motion = np.array(player_motion(before, after))
    assert motion @ (x, y) > 0.5 * 2
    assert np.abs(motion[[x == 0, y == 0]]).max() < 0.5


def test_large_frames_are_measured_small_and_told_in_their_own_pixels() -> None:
    whole = texture(288)
    before, after = whole[40:168, 40:168], whole[40:168, 36:164]
    assert player_motion(before, after) == (-4, 0)


def test_stillness_and_cuts_are_no_motion() -> None:
    one, other = texture(64), np.random.default_rng(9).random((64, 64))
    assert player_motion(one, one) == (0, 0)
    assert player_motion(one, other) == (0, 0)
    assert picture_shift(one[:8, :8], other[:8, :8]) == (0, 0)


# --- labels ----------------------------------------------------------------------------------------


def test_an_id_is_called_what_it_stands_for_and_not_what_is_commonest() -> None:
    # Action 1 is rare, and inferred as id 0 half the time; id 0 shows it less than the commonest action.
    true = np.array([0] * 800 + [1] * 200)
    inferred = np.array([1] * 600 + [0] * 200 + [0] * 190 + [1] * 10)
    motion = np.zeros((1000, 2))
    labels = describe(inferred, motion, true, 3, ("run", "jump"))
    assert [label.name for label in labels] == ["jump", "run", "unused"]
    assert [label.true_action for label in labels] == [1, 0, None]
    assert [label.certainty for label in labels] == [pytest.approx(190 / 390), pytest.approx(600 / 610), None]
    assert [label.dead for label in labels] == [False, False, True]
    assert [label.count for label in labels] == [390, 610, 0]
    assert sum(label.share for label in labels) == pytest.approx(1)


def test_without_true_actions_an_id_is_called_by_what_it_changes() -> None:
    inferred = np.arange(5).repeat(100)
    # Everything scrolls to the right; against that, each id pulls its own way.
    pulls = np.array([(-2, 0), (2, 0), (0, -2), (0, 2), (0, 0)], float)
    labels = describe(inferred, pulls[inferred] + (3, 0), None, 6)
    assert [label.name for label in labels] == ["left", "right", "up", "down", "still", "unused"]
    assert "".join(label.arrow for label in labels) == "←→↑↓··"
    assert labels[0].motion == (1, 0) and labels[0].effect == (-2, 0)
    assert idle_action(labels) in (0, 4)
    keys = by_key(labels)
    assert (keys["ArrowLeft"], keys["KeyD"], keys["ArrowUp"], keys["ArrowDown"]) == (0, 1, 2, 3)
    assert [keys[f"Digit{number}"] for number in range(6)] == list(range(6))


def test_of_two_ids_that_do_the_same_the_stronger_gets_the_keys() -> None:
    inferred = np.arange(3).repeat(100)
    labels = describe(inferred, np.array([(1.0, 0), (4.0, 0), (-5.0, 0)])[inferred], None, 3)
    assert suggested_keys(labels) == {0: (), 1: ("ArrowRight", "KeyD"), 2: ("ArrowLeft", "KeyA")}


def test_ids_beyond_the_digits_get_letters_and_no_key_has_two() -> None:
    inferred = np.arange(16).repeat(10)
    keys = by_key(describe(inferred, np.zeros((160, 2)), None, 16))
    assert set(range(16)) == set(keys.values())
    assert [keys[key] for key in ("Digit9", "KeyZ", "KeyX")] == [9, 10, 11]


def test_coinruns_true_actions_are_sets_of_keys() -> None:
    assert world("coinrun").true_actions[:7] == (
        *("nothing", "left", "right", "left + right"),
        *("jump", "left + jump", "right + jump"),
    )
    assert world("sonic").true_actions == ()


def test_coinruns_ids_are_labelled_by_their_keys(tmp_path: Path) -> None:
    labels = label_actions(open_world(Settings(dataset="coinrun")), clips=96, root=tmp_path)
    names = world("coinrun").true_actions
    alive = [label for label in labels if not label.dead]
    assert {1, 2, 5, 6} <= {label.id for label in alive}
    assert [label.name for label in alive if label.share > 0.05] == [
        names[label.id] for label in alive if label.share > 0.05
    ]
    assert labels[3].dead and labels[7].dead and labels[7].name == "unused"
    assert labels[6].effect[0] > 0 > labels[5].effect[0]  # right and left
    assert labels[5].effect[1] < 0 and labels[6].effect[1] < 0  # jumping goes up
    keys = by_key(labels)
    assert (keys["ArrowLeft"], keys["ArrowRight"], keys["KeyQ"], keys["KeyE"]) == (1, 2, 5, 6)


def test_crafters_ids_are_its_actions_and_no_key_means_to_do_nothing(tmp_path: Path) -> None:
    labels = label_actions(open_world(Settings(dataset="crafter")), root=tmp_path)
    assert tuple(label.name for label in labels) == world("crafter").true_actions
    assert not any(label.dead for label in labels)
    assert [label.arrow for label in labels[1:5]] == ["←", "→", "↑", "↓"]
    assert default_keys(labels).idle == 0
    keys = by_key(labels)
    assert [keys[key] for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")] == [1, 2, 3, 4]
    assert [keys[key] for key in ("Space", "KeyE", "KeyC")] == [5, 6, 7]


# --- kept with the world ---------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> OpenWorld:
    return small_world.small_world(tmp_path)


def test_labels_are_kept_and_read_again(
    opened: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = label_actions(opened, 10, tmp_path)
    assert [label.id for label in labels] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "data" / "coinrun_actions.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(helpers.player.labels, "sample", None)  # it would fail if it were called
    assert label_actions(opened, 10, tmp_path) == labels


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: {**kept, "made_from": {**kept["made_from"], "latent_actions": "0" * 64}},
        lambda kept: {**kept, "labels": kept["labels"][:2]},
        lambda kept: {**kept, "labels": [{**entry, "motion": [1]} for entry in kept["labels"]]},
        lambda kept: {**kept, "labels": 7},
        lambda kept: [],
        lambda kept: "[" * 9999,
    ],
)
def test_labels_of_other_weights_or_damaged_ones_are_made_again(
    opened: OpenWorld, tmp_path: Path, damage
) -> None:
    labels = label_actions(opened, 10, tmp_path)
    kept = tmp_path / "data" / "coinrun_actions.json"
    wrong = damage(json.loads(kept.read_text(encoding="utf-8")))
    kept.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong), encoding="utf-8")
    assert label_actions(opened, 10, tmp_path) == labels
    assert json.loads(kept.read_text(encoding="utf-8"))["labels"][3]["id"] == 3


def test_a_data_folder_that_cannot_be_written_costs_only_the_keeping(
    opened: OpenWorld, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file where the folder would be", encoding="utf-8")
    labels = label_actions(opened, 10, tmp_path)
    assert all(isinstance(label, ActionLabel) for label in labels)
