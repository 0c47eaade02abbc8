"""The table of worlds."""

import pytest

from helpers.errors import ParameterError
from helpers.worlds import WORLDS, world


@pytest.mark.parametrize(
    ("name", "dataset_file", "skip", "first_frame"),
    [
        ("SONIC", "sonic_frames.h5", 4, 100),
        ("Pong", "pong_frames.h5", 4, 0),
        ("pole_position", "pole_position_frames.h5", 4, 0),
        ("PICODOOM", "picodoom_frames.h5", 2, 300),
        ("zelda", "zelda_frames.h5", 4, 1000),
        ("crafter", "clips.h5", 1, 0),
        ("coinrun", "clips.h5", 1, 0),
    ],
)
def test_a_world_is_found_in_any_case_with_its_published_numbers(
    name: str, dataset_file: str, skip: int, first_frame: int
) -> None:
    found = world(name)
    assert (found.dataset_file, found.skip, found.first_frame) == (dataset_file, skip, first_frame)


def test_an_unknown_world_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ParameterError, match="no dataset 'tetris'") as caught:
        world("tetris")
    assert all(name in str(caught.value) for name in WORLDS)


def test_only_the_embedded_worlds_need_no_hub() -> None:
    assert [entry.name for entry in WORLDS.values() if entry.embedded] == ["crafter", "coinrun"]


def test_the_demo_is_the_embedded_world_that_is_shown_first() -> None:
    assert world("Demo") is world("crafter") is next(iter(WORLDS.values()))
