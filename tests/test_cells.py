"""A cell that is run before the cells above it stops with a sentence, in every notebook."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.batch.headless import run_notebook
from helpers.cells import needs
from helpers.errors import CellOrderError
from helpers.run_folder import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITHOUT: set[str] = set()


def code_cells(notebook: Path) -> list[str]:
    content = nbformat.read(notebook, as_version=4)
    return [cell.source for cell in content.cells if cell.cell_type == "code"]


def stored(source: str) -> set[str]:
    """The variables that a cell creates, imports among them."""
    nodes = list(ast.walk(ast.parse(source)))
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    aliases = [alias for node in imports for alias in node.names]
    return names | {alias.asname or alias.name.split(".")[0] for alias in aliases}


def loaded(source: str) -> set[str]:
    """The variables that a cell uses."""
    nodes = ast.walk(ast.parse(source))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def needed(source: str) -> set[str]:
    """The variables that a cell's ``needs(globals(), …)`` lists."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    mine = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "needs"]
    return {ast.literal_eval(argument) for call in mine for argument in call.args[1:]}


def used(cells: list[str], number: int) -> set[int]:
    """The cells that made what a cell uses."""
    makers = {name: cell for cell in range(number) for name in stored(cells[cell])}
    names = loaded(cells[number]) - stored(cells[number]) | needed(cells[number])
    return {makers[name] for name in names if name in makers}


CELLS = [
    pytest.param(cells, number, id=f"{path.stem}-{number}")
    for path, cells in ((path, code_cells(path)) for path in NOTEBOOKS if path.stem not in WITHOUT)
    for number in range(len(cells))
    if used(cells, number)
]


def test_a_cell_whose_names_exist_runs() -> None:
    needs({"run": 1, "checks": None}, "run", "checks")


def test_missing_names_are_named_and_so_is_what_to_do() -> None:
    with pytest.raises(CellOrderError, match="there is no checks and no run") as caught:
        needs({"paths": 1}, "paths", "checks", "run")
    assert "Run All Above Selected Cell" in caught.value.fix


@pytest.mark.parametrize(("cells", "number"), CELLS)
def test_a_cell_alone_in_a_new_kernel_stops_with_the_sentence(cells: list[str], number: int) -> None:
    with pytest.raises(CellOrderError):
        exec(compile(cells[number], "cell", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("cells", "number"), CELLS)
def test_a_cell_names_something_of_every_cell_it_builds_on(cells: list[str], number: int) -> None:
    """What a cell names may itself name something: ``checks`` exists only where ``run`` does."""

    def covered(number: int) -> set[int]:
        makers = {name: cell for cell in range(number) for name in stored(cells[cell])}
        direct = {makers[name] for name in needed(cells[number])}
        return direct.union(*(covered(cell) for cell in direct))

    assert used(cells, number) <= covered(number)


def test_in_a_notebook_the_sentence_is_all_that_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "01_env.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "join_run(" not in cell.source]
    nbformat.write(notebook, tmp_path / "01_env.ipynb")

    outcome = run_notebook("01_env", tmp_path / "run", {}, tmp_path)

    assert outcome.status == "fail"
    assert outcome.message.startswith("A cell above this one has not run yet: there is no checks.")
    executed = nbformat.read(tmp_path / "run" / "notebooks" / "01_env.ipynb", as_version=4)
    (error,) = (
        out for cell in executed.cells for out in cell.get("outputs", ()) if out.output_type == "error"
    )
    assert error.ename == "CellOrderError" and len(error.traceback) == 2
