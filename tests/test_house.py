"""The house rules: what lies at the top, one source of dependencies, notebooks, layers, lint and types."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.batch import NOTEBOOKS
from helpers.run_folder import ROOT

TOP = {
    *("notebooks", "helpers", "tests", "outputs"),
    *("requirements-notorch.txt", "environment.yml", "runbook.py", "pyproject.toml"),
    *("README.md", "README.zh-CN.md", "LICENSE"),
}
LOCK = ROOT / "requirements-notorch.txt"


def tool(*command):
    """Run a Python tool in the repository; its output is the failure's message."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


# --- the listing -----------------------------------------------------------------------------------


def test_the_top_of_the_repository_is_the_houses_plan():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    top = {name.split("/")[0] for name in listed.stdout.split("\0") if name}

    assert {name for name in top if not name.startswith(".")} == TOP


def test_every_notebook_that_a_run_needs_is_there_and_no_other():
    assert [notebook.stem for notebook in notebooks()] == list(NOTEBOOKS)


# --- dependencies ----------------------------------------------------------------------------------


def project_dependencies():
    """What pyproject.toml lists, its extra ``test`` included; read without tomllib, which 3.10 lacks."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [text.split(f"\n{start} = [")[1].split("\n]")[0] for start in ("dependencies", "test")]
    return [Requirement(line.split('"')[1]) for part in lists for line in part.splitlines() if '"' in line]


def locked():
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_dependency_is_pinned_in_the_lock_at_a_version_it_allows():
    pinned: dict[str, list[str]] = {}
    for requirement in locked():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        pinned.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)

    for wanted in project_dependencies():
        versions = pinned.get(canonicalize_name(wanted.name), [])
        assert versions and all(wanted.specifier.contains(version) for version in versions), wanted


def test_whatever_helpers_import_is_a_dependency():
    listed = {canonicalize_name(requirement.name) for requirement in project_dependencies()}
    packages = {"PIL": "pillow", "pynvml": "nvidia-ml-py", "skimage": "scikit-image", "yaml": "pyyaml"}
    aside = {"helpers", "torch", "procgen"}  # ours; chosen for the machine; the recorder's own environment
    for path in modules("helpers"):
        names = {name.split(".")[0] for name in imports(path)} - aside - set(sys.stdlib_module_names)
        missing = {name for name in names if canonicalize_name(packages.get(name, name)) not in listed}
        assert not missing, f"{path.name} imports {missing}"


def test_no_requirements_mention_torch_which_would_replace_the_fitting_build():
    names = {canonicalize_name(requirement.name) for requirement in [*locked(), *project_dependencies()]}

    assert not {name for name in names if name.startswith(("torch", "triton", "nvidia-c", "cuda"))}


def test_the_lock_is_plain_ascii_with_neither_hash_nor_address():
    data = LOCK.read_bytes()

    assert data.isascii()
    assert not [word for word in (b"--hash", b"://", b"--index", b"--find-links", b" @ ") if word in data]


def test_conda_takes_its_packages_from_the_lock():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = [line.strip(" -") for line in lines if line.startswith("  ") and "conda-forge" not in line]

    assert listed == ["python=3.11", "pip", "pip:", "r requirements-notorch.txt"]


# --- notebooks -------------------------------------------------------------------------------------


def test_notebooks_in_git_hold_no_outputs():
    keys = "metadata.papermill cell.metadata.papermill"
    tool("nbstripout", "--verify", "--keep-id", "--extra-keys", keys, *map(str, notebooks()))


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_opens_with_prose_has_one_parameters_cell_and_short_calls(notebook):
    content = nbformat.read(notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    first = content.cells[0]

    assert (content.nbformat, content.nbformat_minor) == (4, 5)
    assert content.metadata.kernelspec.name == "python3"
    assert first.cell_type == "markdown"
    chinese = [
        line for line in first.source.splitlines() if any("\u4e00" <= letter <= "\u9fff" for letter in line)
    ]
    assert len(chinese) == 1
    assert len(tagged) == 1 and code[0] is tagged[0]
    assert "run_dir" in tagged[0].source
    assert all(len(cell.source.splitlines()) <= 12 for cell in code if cell is not tagged[0])
    assert code[-1].source.startswith("conclude(") or "\nconclude(" in code[-1].source
    assert f'"{notebook.stem}"' in code[-1].source


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_a_parameter_is_one_line_that_papermill_can_read(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (tagged,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", ()))

    for line in "".join(tagged["source"]).splitlines():
        assert line.count("=") == 1 and ":" in line.split("=")[0] and "  # " in line, line


# --- layers ----------------------------------------------------------------------------------------


def imports(path, anywhere=True):
    """The modules a file imports; only those of its outermost level unless ``anywhere``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(folder):
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts]


STEPS = ("check", "env", "torch_build", "deps", "assets", "infer")


# What the engine may use beside itself: two leaves that import nothing of the house.
LEAVES = ("helpers.worldmodel", "helpers.errors", "helpers.file_kind")


def test_the_engine_knows_nothing_of_the_house_around_it():
    for path in modules("helpers/worldmodel"):
        foreign = {name for name in imports(path) if name.split(".")[0] == "helpers"}
        foreign = {name for name in foreign if not name.startswith(LEAVES)}
        assert foreign == set(), f"{path.name} imports {foreign}"


# These stand before the steps and call them: headless runs, the doctor, the widgets of 05's interactive
# mode, and the rollout of 05, which opens the files that 04 found and must find the same ones.
FRONTS = ("batch", "doctor", "player", "rollout")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_no_other_step(step):
    others = {f"helpers.{other}" for other in STEPS if other != step}

    assert imports(ROOT / "helpers" / f"{step}.py") & others == set()


def test_the_shared_helpers_import_no_step():
    steps = {f"helpers.{step}" for step in STEPS}
    for path in modules("helpers"):
        if path.parent.name == "helpers" and path.stem not in (*STEPS, *FRONTS):
            assert imports(path) & steps == set(), path.name


def test_nothing_but_the_player_loads_a_front_end_merely_by_being_imported():
    front_ends = {"ipywidgets", "IPython", "jupyterlab", "papermill", "anywidget", "helpers.player"}
    for path in modules("helpers"):
        names = imports(path, anywhere=False)
        if path.parent.name != "player":
            assert (names | {name.split(".")[0] for name in names}) & front_ends == set(), path.name


BARE = (
    *("check", "env", "torch_build", "torch_probe", "gpu", "machine", "redact", "doctor", "deps", "batch"),
    *("commands", "report"),
)


@pytest.mark.parametrize("name", BARE)
def test_what_runs_before_anything_is_installed_needs_the_standard_library_only(name):
    command = [sys.executable, "-S", "-c", f"import helpers.{name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")

    assert done.returncode == 0, done.stderr


# --- lint, types, and things that break on Windows -------------------------------------------------


def test_ruff_has_nothing_to_say():
    tool("ruff", "check", ".")


def test_everything_is_formatted():
    tool("ruff", "format", "--check", ".")


def test_types_agree():
    tool("mypy")


def test_no_program_is_started_through_a_shell():
    for path in [ROOT / "runbook.py", *modules("helpers"), *modules("tests")]:
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        shells = [call for call in calls for word in call.keywords if word.arg == "shell"]
        assert not shells and "os.system" not in {ast.unparse(call.func) for call in calls}, path.name


def test_every_file_name_is_one_that_windows_allows():
    reserved = {
        "con",
        "prn",
        "aux",
        "nul",
        *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10)),
    }
    for folder in ("notebooks", "helpers", "tests"):
        for path in Path(ROOT / folder).rglob("*"):
            assert not set(path.name) & set('<>:"|?*\\') and path.stem.lower() not in reserved, path
            assert not path.name.endswith((".", " ")), path
