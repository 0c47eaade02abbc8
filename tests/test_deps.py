"""Step 3: the rest is compared with the lock, installed for real, and torch stays."""

import subprocess
import sys
import zipfile

import pytest

from helpers.errors import SetupError
from helpers.machine.interpreter import venv_python
from helpers.torch_build.deps import (
    REQUIREMENTS,
    Difference,
    check_dependencies,
    differences,
    install_rest,
    installed_packages,
    judge_packages,
    judge_torch,
    keep_torch,
    pinned_here,
    torch_version,
)

LOCK = """# compiled
av==17.1.0 ; python_full_version < '3.11'
av==18.1.0 ; python_full_version >= '3.11'
pywinpty==3.1.2 ; os_name == 'nt'
jupyter-core==5.9.1
"""


def test_only_what_applies_to_the_environment_is_wanted():
    windows = {"os_name": "nt", "python_full_version": "3.10.11"}
    linux = {"os_name": "posix", "python_full_version": "3.11.7"}

    assert pinned_here(LOCK, windows) == {"av": "17.1.0", "pywinpty": "3.1.2", "jupyter-core": "5.9.1"}
    assert pinned_here(LOCK, linux) == {"av": "18.1.0", "jupyter-core": "5.9.1"}


def test_the_real_lock_pins_every_package_once_for_this_python():
    pinned = pinned_here(REQUIREMENTS.read_text(encoding="utf-8"))

    assert {"jupyterlab", "papermill", "h5py", "av", "numpy", "pytest"} <= set(pinned)


def test_missing_and_other_versions_are_found_whatever_the_spelling_of_names():
    pinned = {"jupyter-core": "5.9.1", "av": "18.1.0", "numpy": "2.4.6"}
    installed = {"Jupyter_Core": "5.9.1", "numpy": "2.4.5"}

    assert differences(pinned, installed) == [
        Difference("av", "18.1.0", None),
        Difference("numpy", "2.4.6", "2.4.5"),
    ]


def test_a_missing_package_stops_a_run_and_another_version_warns():
    assert judge_packages([], 3).status == "ok"
    assert judge_packages([Difference("numpy", "2.4.6", "2.4.5")], 3).status == "warn"
    missing = judge_packages([Difference("av", "18.1.0", None)], 3)
    assert missing.status == "fail" and "av missing" in missing.observed and missing.fix


def test_a_torch_that_changed_or_is_missing_stops_a_run():
    assert judge_torch("2.13.0+cu126", "2.13.0+cu126").status == "ok"
    changed = judge_torch("2.13.0+cu126", "2.13.0")
    assert changed.status == "fail" and "was 2.13.0+cu126 and is now 2.13.0" in changed.observed
    assert judge_torch(None, None).status == "fail"


def test_the_step_leaves_the_constraint_that_keeps_torch(tmp_path):
    checks = {check.id: check for check in check_dependencies(install_missing=False, run_dir=tmp_path)}

    assert checks["torch_kept"].status == "ok"
    written = (tmp_path / "torch-constraint.txt").read_text(encoding="utf-8")
    assert written == f"torch=={torch_version()}\n"


def make_wheel(folder, name, requires=""):
    """A real wheel that holds nothing."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def only_own_wheels(tmp_path, monkeypatch):
    """pip sees nothing but the wheels in this folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_rest_is_installed_and_torch_is_what_it_was(tmp_path, borrowed_python, only_own_wheels):
    make_wheel(only_own_wheels, "harmless")
    lock = tmp_path / "lock.txt"
    lock.write_text("harmless==1.0\n", encoding="utf-8")
    before = torch_version(str(borrowed_python))

    install_rest(tmp_path / "pip.log", str(borrowed_python), lock)

    assert "Successfully installed harmless-1.0" in (tmp_path / "pip.log").read_text(encoding="utf-8")
    assert before is not None and torch_version(str(borrowed_python)) == before


def test_a_package_that_needs_another_torch_is_refused_loudly(tmp_path, borrowed_python, only_own_wheels):
    make_wheel(only_own_wheels, "greedy", requires="torch>=99")
    make_wheel(only_own_wheels, "torch", requires="")
    lock = tmp_path / "lock.txt"
    lock.write_text("greedy==1.0\n", encoding="utf-8")
    before = torch_version(str(borrowed_python))

    with pytest.raises(SetupError, match="torch"):
        install_rest(tmp_path / "pip.log", str(borrowed_python), lock)

    assert torch_version(str(borrowed_python)) == before


def test_without_torch_there_is_nothing_to_keep_and_02_torch_is_named(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)

    with pytest.raises(SetupError, match="02_torch"):
        keep_torch(tmp_path, str(venv_python(tmp_path)))


def test_the_remains_of_an_interrupted_pip_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "~orch-2.13.0.dist-info").mkdir()
    (tmp_path / "whole-1.0.dist-info").mkdir()
    (tmp_path / "whole-1.0.dist-info" / "METADATA").write_text(
        "Name: whole\nVersion: 1.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert installed_packages() == {"whole": "1.0"}
