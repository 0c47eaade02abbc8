"""What the documents say is so: links, commands, parameters, paths and code, in both languages."""

import argparse
import ast
import importlib
import json
import pkgutil
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

import runbook
from helpers import PYTHONS
from helpers.batch.headless import NOTEBOOKS, check_run, plan
from helpers.batch.storage import open_storage
from helpers.batch.summary import write_summary
from helpers.parameters import FOLDER, parameters_of, read_overrides
from helpers.run_folder import ROOT
from helpers.training.plan import make_plan

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCUMENTS = [
    *(
        ENGLISH,
        CHINESE,
        ROOT / "outputs" / "README.md",
    ),
    *sorted((ROOT / "helpers" / "demo").glob("*/*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("*.ipynb")),
    *sorted(FOLDER.glob("*.ipynb")),
]
PARAMETERS = {name for notebook in NOTEBOOKS for name in parameters_of(FOLDER / f"{notebook}.ipynb")}


def text_of(document: Path) -> str:
    """A document's Markdown; of a notebook, that of its prose."""
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language; an empty one for commands and plain text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def headings(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", without_code(text), flags=re.M)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(text)}


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_code(text))


def commands(text: str) -> list[str]:
    """Every command of runbook.py in a document, from ``runbook.py`` on."""
    code = [*inline_code(text), *(line for block in blocks(text, "") for line in block.splitlines())]
    starts = (re.match(r"(?:py -3\.11|python3?) runbook\.py(.*)", line) for line in code)
    return [start[1].split("  #")[0].strip() for start in starts if start]


def cases(find: Any) -> list[Any]:
    """A test case for each thing that ``find`` returns of each document."""
    return [
        pytest.param(document, thing, id=f"{document.stem}: {thing}"[:80])
        for document in DOCUMENTS
        for thing in dict.fromkeys(find(text_of(document)))
    ]


def links(text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(text))
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize(("document", "target"), cases(links))
def test_a_link_leads_to_a_file_and_its_heading(document: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = document.parent / name if name else document
    assert path.exists()
    assert not anchor or anchor in anchors(text_of(path))


@pytest.mark.parametrize(("document", "command"), cases(commands))
def test_a_command_is_one_that_its_program_takes(
    document: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *rest = shlex.split(command) or ["run"]
    assert name in runbook.COMMANDS
    if name in ("lab", "test"):  # further arguments are JupyterLab's and pytest's
        return
    arguments = parsed(name, rest, monkeypatch)
    if name == "run":
        plan(arguments)
    elif name == "train":
        make_plan("my_game", "small", arguments.parameter)
    else:
        check_run("05_infer", read_overrides(getattr(arguments, "parameter", [])))


def parsed(name: str, rest: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a command's own parser makes of its arguments; the command does not go on from there."""

    class ParsedError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, given: Any = None, *_: Any) -> None:
        raise ParsedError(parse(parser, rest if given is None else given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(ParsedError) as caught:
        if name == "setup":
            runbook.check_arguments(name, rest)
        else:
            module = "helpers.machine.doctor" if name == "doctor" else runbook.INSIDE[name][-1]
            importlib.import_module(module).main(*([rest] if name != "bench" else []))
    (arguments,) = caught.value.args
    return arguments


def parameters(text: str) -> list[str]:
    """The parameters that a document names: behind ``-p``, or given a value as in a notebook's cell."""
    given = re.findall(r"-p \"?(\w+)=", text)
    lines = [*inline_code(text), *(line for block in blocks(text, "") for line in block.splitlines())]
    assigned = (re.match(r"(\w+) ?= ?(?!=)\S", line) for line in lines if "runbook.py" not in line)
    return given + [found[1] for found in assigned if found and found[1] not in ("encoding", "GPU")]


@pytest.mark.parametrize(("document", "name"), cases(parameters))
def test_a_parameter_is_one_of_a_notebooks(document: Path, name: str) -> None:
    assert name in PARAMETERS


def yaml_blocks(text: str) -> list[str]:
    return blocks(text, "yaml")


@pytest.mark.parametrize(("document", "block"), cases(yaml_blocks))
def test_a_yaml_file_sets_parameters_of_a_notebook(document: Path, block: str) -> None:
    content = yaml.safe_load(block)
    given = {**content["parameters"], **content.get("grid", {})}
    for case in content.get("cases", {}).values():
        given |= case
    assert set(given) - {"bounds"} <= PARAMETERS


def paths(text: str) -> list[str]:
    return re.findall(r"(?<![\w/.<-])(?:helpers|notebooks|tests|docs)/[\w/.-]*\w", text)


@pytest.mark.parametrize(("document", "path"), cases(paths))
def test_a_path_of_the_repository_exists(document: Path, path: str) -> None:
    assert (ROOT / path).exists()


def modules(text: str) -> list[str]:
    return re.findall(r"(?:-m |\b)(helpers(?:\.\w+)+)", text)


@pytest.mark.parametrize(("document", "module"), cases(modules))
def test_a_module_of_the_repository_exists(document: Path, module: str) -> None:
    assert pkgutil.resolve_name(module)


def python_blocks(text: str) -> list[str]:
    return blocks(text, "python")


@pytest.mark.parametrize(("document", "block"), cases(python_blocks))
def test_a_python_snippet_compiles_and_imports_what_exists(document: Path, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("helpers"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


class SLURMCluster(types.SimpleNamespace):
    """Stands for a cluster, which is not here: what a document asks of it."""

    def scale(self, jobs: int) -> None:
        """Take the workers that are asked for."""
        self.scheduler_address = f"tcp://slurm:8786 with {jobs} workers"


@pytest.mark.parametrize(("document", "block"), cases(python_blocks))
def test_a_python_snippet_runs_as_it_stands(
    document: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", types.SimpleNamespace(SLURMCluster=SLURMCluster))
    if "../outputs/" in block:  # of a notebook, after the sweep of the lines above it
        storage, root = open_storage(str(tmp_path / "outputs" / "sweep_temperatures"))
        jobs = [
            {"name": f"job-{t}", "status": "ok", "message": "", "varied": {"temperature": t}} for t in (0, 1)
        ]
        metrics = {"psnr_db": [20.0]}
        write_summary([job | {"run": {"metrics": metrics}} for job in jobs], storage, root)
        (tmp_path / "notebooks").mkdir()
        monkeypatch.chdir(tmp_path / "notebooks")
    else:
        monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(block, names)
    if document in (ENGLISH, CHINESE):
        assert names["frame"].shape == (1, 1, 3, 72, 72)


def said_by_the_code() -> list[str]:
    """Every text that stands in helpers: names of checks, and messages whole or in parts."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "helpers").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_what_is_looked_up_when_something_is_wrong_are_the_codes_own_words(readme: Path) -> None:
    rows = re.findall(r"^\| (.+) \| (`.+`) \| .+ \|$", text_of(readme), flags=re.M)
    seen = [phrase for row, _ in rows for phrase in re.findall(r"[\"“]([^\"”]+)[\"”]", row)]
    checks = [name for _, column in rows for name in re.findall(r"`(\w+)`", column)]
    said = said_by_the_code()
    torchs = "no kernel image is available"

    assert len(seen) >= 5 and not [
        phrase for phrase in seen if phrase != torchs and not any(phrase in text for text in said)
    ]
    assert len(checks) >= 18 and set(checks) <= {*said, *NOTEBOOKS}


def test_both_readmes_have_the_same_sections_rows_pictures_and_commands() -> None:
    english, chinese = text_of(ENGLISH), text_of(CHINESE)

    def form(text: str) -> dict[str, Any]:
        sections = re.split(r"^## ", without_code(text), flags=re.M)
        languages = (ENGLISH.name, CHINESE.name)
        return {
            "levels": [level for level, _ in headings(text)],
            "rows": [len(re.findall(r"^\|", section, flags=re.M)) for section in sections],
            "items": [len(re.findall(r"^(?:- |\d\. )", section, flags=re.M)) for section in sections],
            "pictures": re.findall(r"!\[[^]]+\]\(([^)]+)\)", text),
            "links": [link for link in links(text) if link[0] != "#" and link not in languages],
            "commands": commands(text),
            "plain blocks": [len(block.splitlines()) for block in blocks(text, "")],
            "parameters": parameters(text),
            "numbers": [re.findall(r"\d+(?:\.\d+)?", row) for row in re.findall(r"^\|.*", text, flags=re.M)],
        }

    assert form(english) == form(chinese)


@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_the_readmes_plan_of_the_house_names_every_room(readme: Path) -> None:
    (plan,) = [block for block in blocks(text_of(readme), "") if "helpers/" in block]
    rooms = {path.parent.name for path in (ROOT / "helpers").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"\w+", plan))


def test_every_command_is_in_the_readmes() -> None:
    named = {shlex.split(command)[0] if command else "run" for command in commands(text_of(ENGLISH))}
    batch = {shlex.split(command)[0] for command in commands(text_of(ROOT / "docs" / "cookbook.md"))}
    assert named | batch == set(runbook.COMMANDS)


def test_the_workflow_runs_the_readmes_two_commands_on_every_system_with_every_python() -> None:
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["tests"]
    matrix = job["strategy"]["matrix"]
    runs = [step["run"].removeprefix("python runbook.py").strip() for step in job["steps"] if "run" in step]
    two = without_code(text_of(ENGLISH)).split("## Two commands")[1].split("\n## ")[0]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lowest, above = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project)[0]

    assert runs[:2] == list(dict.fromkeys(commands(two)))
    assert sorted(matrix["python"]) == sorted(PYTHONS)
    assert sorted(PYTHONS) == [f"3.{minor}" for minor in range(int(lowest), int(above))]
    assert [system.split("-")[0] for system in matrix["system"]] == ["windows", "ubuntu", "macos"]
    # A tag such as v7 can be moved to other code; a commit cannot.
    steps = [step for other in yaml.safe_load(text)["jobs"].values() for step in other["steps"]]
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)


# --- try it without installing ---------------------------------------------------------------------

TRY = ROOT / "docs" / "try_it.ipynb"


def code_of(notebook: Path) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_repositorys_address_is_everywhere_the_one_in_the_project_file() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address = re.findall(r'^Repository = "https://github\.com/(.+/.+)"$', project, flags=re.M)[0]
    page = text_of(ROOT / "docs" / "try-it.md")
    places = re.findall(
        r"(?:mybinder\.org/v2/gh|github\.com|/github)/([\w.-]+/[\w.-]+?)(?:\.git)?[/\s]", page
    )
    places += re.findall(r'REPOSITORY = "https://github\.com/(.+)"', code_of(TRY)[0])

    assert len(places) == 5 and set(places) == {address}
    assert all(
        TRY.relative_to(ROOT).as_posix() in link for link in re.findall(r"\((https:.+?main.+?)\)", page)
    )


def test_the_try_it_notebook_plays_the_embedded_world_and_keeps_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    get, *others = code_of(TRY)
    names: dict[str, Any] = {}
    exec("\n".join(others), names)
    names["console"].close()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (packages,) = re.findall(r"%pip install --quiet (.+)", get)

    assert names["game"].rollout().generated == 16
    assert (tmp_path / "my_pictures" / "contact_sheet.png").exists()
    assert all(f'"{package}>=' in project for package in packages.split())


def test_binder_installs_the_lock_and_the_cpu_build_of_torch() -> None:
    binder = ROOT / ".binder"
    lines = (binder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (lock,) = [line.removeprefix("-r ") for line in lines if not line.startswith("#")]
    version = (binder / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    script = (binder / "postBuild").read_text(encoding="utf-8").split("<<'PYTHON'\n")[1].split("PYTHON\n")[0]

    assert (binder / lock).resolve() == ROOT / "requirements-notorch.txt"
    assert version in PYTHONS and 'weigh("cpu")' in script
    for module, name in re.findall(r"^from (helpers\S+) import (\w+)$", script, flags=re.M):
        assert hasattr(importlib.import_module(module), name)


def test_the_dockerfile_sets_up_and_starts_what_the_readme_does(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^FROM python:([\d.]+)-", text, flags=re.M)
    (setup,) = re.findall(r"^RUN python runbook\.py (.+)$", text, flags=re.M)
    start = json.loads(text.split("\nCMD ")[1])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    steps = "\n".join(step.get("run", "") for step in workflow["jobs"]["container"]["steps"])

    assert base in PYTHONS and start[:3] == ["python", "runbook.py", "lab"]
    name, *rest = setup.split()
    monkeypatch.setattr(runbook, "THIS", base)
    assert name == "setup" and runbook.check_arguments(name, rest) == "cpu"
    assert {".git", ".venv*", "outputs", "data", "results"} <= set(ignored)
    assert "docker build --tag tinyworlds ." in steps and "tinyworlds python runbook.py" in steps
