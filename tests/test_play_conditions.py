"""The hash of the engine, by which measurements hold: of what it does, not of how it is written."""

import json
import shutil
import subprocess
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


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_notebook_that_was_run_in_jupyterlab_is_no_change_of_the_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def code_now() -> str:
        return conditions.commit.__wrapped__(tmp_path)

    cell = {
        "cell_type": "code",
        "source": ["steps = 1"],
        "outputs": [],
        "execution_count": None,
        "metadata": {},
    }
    notebook = tmp_path / "notebooks" / "05_infer.ipynb"
    notebook.parent.mkdir()
    notebook.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "a.py").write_text("", encoding="utf-8")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    before = code_now()
    assert "+changes" not in before

    run = {
        **cell,
        "outputs": [{"output_type": "stream", "text": "1"}],
        "execution_count": 1,
        "source": "steps = 1",
    }
    notebook.write_text(json.dumps({"cells": [run], "metadata": {"widgets": {}}}), encoding="utf-8")
    checkpoint = notebook.parent / ".ipynb_checkpoints" / "05_infer-checkpoint.ipynb"
    checkpoint.parent.mkdir()
    checkpoint.write_text("{}", encoding="utf-8")
    assert code_now() == before

    notebook.write_text(json.dumps({"cells": [run | {"source": "steps = 2"}]}), encoding="utf-8")
    assert code_now() == f"{before}+changes"
    git("checkout", "-q", ".")
    (tmp_path / "helpers" / "a.py").write_text("b = 1", encoding="utf-8")
    assert code_now() == f"{before}+changes"
