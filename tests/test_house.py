"""The house rules: what lies at the top, one source of dependencies, notebooks, layers, lint and types."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.batch.headless import NOTEBOOKS
from helpers.run_folder import ROOT

TOP = {
    *("notebooks", "helpers", "tests", "outputs", "docs"),
    *("requirements-notorch.txt", "environment.yml", "runbook.py", "pyproject.toml"),
    *("README.md", "README.zh-CN.md", "LICENSE", "Dockerfile"),
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

    lines = "".join(tagged["source"]).splitlines()
    for line in (
        line for line in lines if line and not line.startswith("# ")
    ):  # a heading, or space above it
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


GROUND = {
    "errors",
    "files",
    "report",
    "commands",
    "run_folder",
    "cells",
    "gpu",
    "worlds",
    "pictures",
    "parameters",
    "h5",
}
"""The ground floor: modules that every room may use."""

ENGINE = {"errors", "files"}
"""What the engine may use beside itself."""

ROOMS = {
    "worldmodel": set(),
    "assets": {"worldmodel"},
    "torch_build": set(),
    "machine": {"torch_build", "assets"},
    "play": {"assets", "worldmodel"},
    "presets": {"play", "assets", "worldmodel"},
    "player": {"presets", "play", "assets", "worldmodel"},
    "share": {"player", "play", "assets", "worldmodel"},
    "batch": {"play", "assets", "worldmodel"},
    "bench": {"worldmodel"},
    "training": {"play", "assets", "worldmodel"},
    "train": {"training", "bench", "play", "assets", "worldmodel"},
}
"""Each package of helpers, and the packages below it that it may import."""


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def house_imports(path):
    """The modules of helpers that a file imports, at whatever level and for whatever use."""
    names = {module_name(other) for other in modules("helpers")} - {"helpers"}
    return imports(path) & names


def test_helpers_are_these_rooms_and_no_others():
    there = {path.stem if path.suffix == ".py" else path.name for path in (ROOT / "helpers").iterdir()}
    rooms = there - {"__init__", "__pycache__", "demo"}

    assert rooms == GROUND | set(ROOMS)
    assert len(rooms) <= 24


@pytest.mark.parametrize("path", modules("helpers"), ids=module_name)
def test_a_room_imports_only_rooms_below_it(path):
    room = path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
    allowed = (ENGINE if room == "worldmodel" else GROUND) | ROOMS.get(room, set()) | {room}
    used = {name.split(".")[1] for name in house_imports(path)}

    assert used - allowed == set(), f"{module_name(path)} imports upwards"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module_name(path): house_imports(path) - {module_name(path)} for path in modules("helpers")}
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    left = {name: used - packages for name, used in graph.items() if name not in packages}
    while free := {name for name, used in left.items() if not used & left.keys()}:
        left = {name: used for name, used in left.items() if name not in free}

    assert not left, f"a circle among {sorted(left)}"


def page_parts():
    """The player's page: files that are joined into one script, and their style."""
    return sorted((ROOT / "helpers" / "player" / "page").iterdir())


def test_no_module_is_longer_than_500_lines():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*modules("helpers"), *page_parts()]
    }

    assert {name: count for name, count in lines.items() if count > 500} == {}


def test_of_the_pages_parts_one_exports_and_none_imports():
    scripts = {path.name: path.read_text(encoding="utf-8") for path in page_parts() if path.suffix == ".js"}
    words = {
        word: [name for name, text in scripts.items() if f"\n{word} " in f"\n{text}"]
        for word in ("import", "export")
    }

    assert words == {"import": [], "export": ["player.js"]}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_says_what_it_is_for_what_it_must_not_know_and_where_to_start(room):
    text = ast.get_docstring(ast.parse((ROOT / "helpers" / room / "__init__.py").read_text(encoding="utf-8")))

    assert text and "must not" in text and "Start reading" in text


def test_nothing_but_the_player_loads_a_front_end_merely_by_being_imported():
    front_ends = {"ipywidgets", "IPython", "jupyterlab", "papermill", "anywidget", "helpers.player"}
    for path in modules("helpers"):
        names = imports(path, anywhere=False)
        if path.parent.name != "player":
            assert (names | {name.split(".")[0] for name in names}) & front_ends == set(), path.name


BARE = (
    *("cells", "commands", "files", "gpu", "parameters", "report", "batch.headless"),
    *("machine.doctor", "machine.doctor_checks", "machine.doctor_facts", "machine.facts"),
    *("machine.interpreter", "machine.judge", "machine.redact", "assets"),
    *("torch_build.builds", "torch_build.deps", "torch_build.install", "torch_build.judge"),
    "torch_build.probe",
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


def test_no_message_calls_python_as_another_system_does():
    for path in modules("helpers"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        wrong = [
            n.lineno for n in texts if re.search(r"(python3?|py) runbook\.py", n.value) and id(n) not in prose
        ]
        assert not wrong, f"{path}, lines {wrong}: helpers.commands.runbook_line says it for every system"


def test_only_what_must_outlive_a_process_goes_by_the_clock_on_the_wall_which_may_be_set():
    wall = {"time.time", "datetime.now", "datetime.datetime.now", "datetime.utcnow"}
    users = set()
    for path in [ROOT / "runbook.py", *modules("helpers")]:
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        users |= {path.stem for node in tree if isinstance(node, ast.Call) and ast.unparse(node.func) in wall}
    assert users <= {"run_folder"}  # which opens a new folder where the one of before seems old, or to come


def test_a_file_is_moved_by_the_one_helper_that_waits_while_windows_says_that_it_is_open():
    for path in [ROOT / "runbook.py", *modules("helpers")]:
        calls = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and (
                (node.func.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords)
                or ast.unparse(node.func) in ("os.replace", "os.rename", "shutil.move")
            )
        ]
        assert path.stem == "files" or not calls, path.name


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
