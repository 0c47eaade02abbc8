"""The hash of the engine, by which measurements hold: of what it does, not of how it is written."""

from pathlib import Path

import pytest

from helpers.play import conditions
from helpers.play.conditions import engine_hash

SOURCE = """\"\"\"A module.\"\"\"

import math

SIZE = 4
\"\"\"Documented.\"\"\"


class Box:
    \"\"\"A box.\"\"\"

    def area(self, side: float = None) -> float:
        \"\"\"Its area.\"\"\"
        name = "side"  # a comment
        return math.pow(side, 2) if name else SIZE
"""


def hash_of(folder: Path, text: str, name: str = "box.py") -> str:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(text.encode())
    return engine_hash.__wrapped__(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("Its area.", "How large it is.\n\n        In squares.\n        "),
        lambda text: text.replace('"""A module."""\n', ""),
        lambda text: text.replace('    """A box."""\n\n', ""),
        lambda text: text.replace('"""Documented."""\n', ""),
        lambda text: text.replace("# a comment", "# another one"),
        lambda text: text.replace("math.pow(side, 2)", "(math.pow(\n            side, 2))"),
        lambda text: text.replace('"side"', "'side'"),
    ],
    ids=["line ends", "docstring", "no docstring", "class", "constant", "comment", "layout", "quotes"],
)
def test_what_the_engine_does_not_do_otherwise_does_not_change_its_hash(tmp_path, change):
    assert change(SOURCE) != SOURCE
    assert hash_of(tmp_path / "a", change(SOURCE)) == hash_of(tmp_path / "b", SOURCE)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("SIZE = 4", "SIZE = 5"),
        lambda text: text.replace("SIZE = 4", "SIZE = 4.0"),
        lambda text: text.replace("SIZE = 4", "SIZE = None"),
        lambda text: text.replace('"side"', '"size"'),
        lambda text: text.replace("side, 2", "2, side"),
        lambda text: text.replace("float = None", "float = 1"),
        lambda text: text.replace("float = None", "float"),
        lambda text: text.replace("if name", "if not name"),
        lambda text: text.replace("class Box", "class Case"),
        lambda text: text.replace("        name =", "        return 1\n        name ="),
    ],
)
def test_what_the_engine_does_otherwise_changes_its_hash(tmp_path, change):
    assert change(SOURCE) != SOURCE
    assert hash_of(tmp_path / "a", change(SOURCE)) != hash_of(tmp_path / "b", SOURCE)


def test_a_module_by_another_name_changes_the_hash(tmp_path):
    assert hash_of(tmp_path / "a", SOURCE, "case.py") != hash_of(tmp_path / "b", SOURCE)


def test_the_engines_own_hash_is_that_of_its_folder():
    assert engine_hash() == engine_hash.__wrapped__(conditions.ENGINE) and len(engine_hash()) == 64
