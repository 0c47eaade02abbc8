"""Step 1: which Python this is, by facts fed to the judge and by a real environment."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.machine.interpreter import Interpreter, judge, this_interpreter, venv_python
from helpers.run_folder import ROOT

PREFIX = str(Path("/elsewhere/env"))
OWN = Interpreter(
    executable="python",
    prefix=str(ROOT / ".venv"),
    base_prefix=str(Path("/usr")),
    conda="",
    helpers=str(ROOT / "helpers" / "__init__.py"),
    no_user_site=True,
)


@pytest.mark.parametrize(
    ("facts", "status", "says"),
    [
        ({}, "ok", "the project's own environment"),
        ({"prefix": PREFIX}, "warn", "another virtual environment"),
        ({"prefix": PREFIX, "base_prefix": PREFIX, "conda": PREFIX}, "warn", "a conda environment"),
        ({"prefix": PREFIX, "base_prefix": PREFIX}, "warn", "no virtual environment"),
    ],
)
def test_an_environment_is_recognised_and_another_than_the_projects_is_a_warning(facts, status, says):
    checks = {check.id: check for check in judge(replace(OWN, **facts), ROOT)}

    assert checks["environment"].status == status
    assert says in checks["environment"].observed
    assert status == "ok" or "runbook.py lab" in checks["environment"].fix


@pytest.mark.parametrize("found", [None, str(Path("/other/helpers/__init__.py"))])
def test_helpers_of_another_place_or_none_stop_a_run_and_the_line_to_run_is_given(found):
    check = {check.id: check for check in judge(replace(OWN, helpers=found), ROOT)}["helpers"]

    assert check.status == "fail"
    assert "pip install --no-deps -e" in check.fix


def test_packages_in_the_users_home_are_a_warning():
    check = {check.id: check for check in judge(replace(OWN, no_user_site=False), ROOT)}["user_packages"]

    assert check.status == "warn" and check.fix


def test_the_python_that_runs_the_tests_is_described():
    found = this_interpreter()

    assert found.helpers is not None and Path(found.helpers).samefile(ROOT / "helpers" / "__init__.py")
    assert Path(found.executable).is_file()


def test_a_real_environment_under_the_root_is_the_projects_own(borrowed_python, tmp_path):
    code = (
        "import json, pathlib; from helpers.machine.interpreter import this_interpreter, judge; "
        f"root = pathlib.Path({str(tmp_path)!r}); "
        "print(json.dumps([check.status for check in judge(this_interpreter(), root)]))"
    )
    done = subprocess.run(
        [borrowed_python, "-X", "utf8", "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8"
    )

    assert borrowed_python == venv_python(tmp_path)
    assert json.loads(done.stdout)[:2] == ["ok", "ok"], done.stderr
