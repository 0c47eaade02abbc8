"""From nothing under every Python that this machine has: bootstrap, and what the lock resolves to."""

import importlib.metadata
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from interpreters import find
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from torch_index import make_torch, make_wheel

from helpers.machine.interpreter import venv_python
from helpers.torch_build.builds import TESTED
from helpers.torch_build.deps import REQUIREMENTS, pinned_here

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def python_or_skip(version):
    python = find(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    return python


def start(python, folder, *arguments, **environment):
    return subprocess.run(
        [python, "-X", "warn_default_encoding", "runbook.py", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def pack_again(name, folder):
    """A wheel of a package that is installed here, so that pip needs no network for it."""
    installed = importlib.metadata.distribution(name)
    wheel = folder / f"{canonicalize_name(name)}-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for file in installed.files or ():
            path = Path(str(installed.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                packed.write(path, file.as_posix())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """All that a setup fetches, each as small as can be, and a torch that computes with lists."""
    folder = tmp_path_factory.mktemp("wheels")
    make_torch(folder, TESTED, None)
    make_wheel(folder, "harmless", "1.0", {"harmless.py": ""})
    pack_again("setuptools", folder)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_setup_goes_from_nothing_to_a_stamped_environment(version, project_copy, wheels):
    python = python_or_skip(version)
    if version in ("3.11", "3.13"):  # the copy's name has braces, for which helpers are installed another way
        project_copy = project_copy.rename(project_copy.with_name("a folder 世界"))
    lock = f"setuptools=={importlib.metadata.version('setuptools')}\nharmless==1.0\n"
    (project_copy / "requirements-notorch.txt").write_text(lock, encoding="ascii")
    nothing_else = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    nothing_else |= {"HTTPS_PROXY": "http://127.0.0.1:9", "PIP_CONSTRAINT": "", "PIP_NO_COMPILE": "1"}

    done = start(python, project_copy, "setup", "--torch-lock", "cpu", **nothing_else)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "EncodingWarning" not in done.stderr
    assert "out of reach" in done.stdout and "computes on the CPU" in done.stdout
    venv = project_copy / ".venv"
    assert json.loads((venv / "runbook.json").read_text(encoding="utf-8"))["key"]
    assert (venv / "torch-constraint.txt").read_text(encoding="utf-8") == f"torch=={TESTED}\n"
    inside = [
        venv_python(project_copy),
        "-X",
        "utf8",
        "-c",
        "import helpers, harmless; print(helpers.__file__)",
    ]
    found = subprocess.run(inside, cwd=wheels, capture_output=True, encoding="utf-8", check=True).stdout
    assert Path(found.strip()).samefile(project_copy / "helpers" / "__init__.py")
    assert (venv / "pyvenv.cfg").read_text(encoding="utf-8").count(f"{version}.") >= 1


@pytest.mark.parametrize("version", ["3.7", "3.8", "3.9"])
def test_an_old_python_without_a_newer_one_beside_it_is_told_which_to_install(version, project_copy):
    done = start(python_or_skip(version), project_copy, PATH=str(project_copy))

    assert done.returncode == 1
    assert f"This is Python {version}" in done.stderr and "Install Python 3.11" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
@pytest.mark.parametrize("version", VERSIONS)
def test_whatever_a_pinned_package_needs_is_pinned_too_at_a_version_it_accepts(version, system):
    names = {"linux": ("posix", "Linux"), "win32": ("nt", "Windows"), "darwin": ("posix", "Darwin")}[system]
    there = {"python_version": version, "python_full_version": f"{version}.9", "sys_platform": system}
    there |= {"os_name": names[0], "platform_system": names[1], "extra": ""}
    pinned = pinned_here(REQUIREMENTS.read_text(encoding="utf-8"), there)
    versions = {canonicalize_name(name): pinned[name] for name in pinned}
    looked_at = 0
    for each in importlib.metadata.distributions():
        name = canonicalize_name(each.metadata["Name"])
        if versions.get(name) != each.version:
            continue
        looked_at += 1
        assert SpecifierSet(each.metadata.get("Requires-Python") or "").contains(f"{version}.9"), name
        for requirement in map(Requirement, each.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate(there):
                found = versions.get(canonicalize_name(requirement.name))
                assert found and requirement.specifier.contains(found, prereleases=True), (name, requirement)
    assert looked_at > 50
