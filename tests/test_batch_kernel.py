"""A sweep's warm kernel: notebooks run in it one after another, forget each other, and it ends when told."""

import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from test_batch import CONCLUDE, write_notebook

from helpers.batch import kernel as kernels
from helpers.batch.headless import run_notebook
from helpers.batch.kernel import ENGINE, Kernel, register_warm_engine
from helpers.commands import JsonProgram, child_environment
from helpers.run_folder import ROOT

PROCESS = "import os; from pathlib import Path; Path(run_dir, 'process').write_text(str(os.getpid()))"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        register_warm_engine()
        kernel = Kernel()
    yield kernel
    kernel.end()


def run(kernel: Kernel, folder: Path, *cells: str) -> str:
    """Run a notebook of some cells in the kernel; the process that ran it."""
    write_notebook(folder, "00_a", PROCESS, *cells, CONCLUDE.format("00_a", "ok"))
    outcome = run_notebook("00_a", folder, {}, folder, engine_name=ENGINE, kernel=kernel)
    assert (outcome.status, outcome.message) == ("ok", "")
    return (folder / "process").read_text(encoding="utf-8")


def test_papermill_runs_notebooks_in_the_kernel_that_it_is_given(kernel: Kernel, tmp_path: Path) -> None:
    first = run(kernel, tmp_path / "a", "left = 1", "print('a')")
    second = run(kernel, tmp_path / "b", "assert left == 1")
    executed = nbformat.read(tmp_path / "a" / "notebooks" / "00_a.ipynb", as_version=4)

    assert first == second
    assert ["a\n"] in [[output.get("text") for output in cell.get("outputs", [])] for cell in executed.cells]


def test_between_jobs_a_kernel_forgets_the_variables_of_a_notebook(kernel: Kernel, tmp_path: Path) -> None:
    run(kernel, tmp_path / "a", "left = 1")
    kernel.do("kernel.forget_notebook()")
    run(kernel, tmp_path / "b", "assert 'left' not in globals()")


def test_what_fails_in_the_kernel_is_raised(kernel: Kernel) -> None:
    with pytest.raises(RuntimeError, match="no attribute 'dream'"):
        kernel.do("kernel.dream()")


def test_ending_a_kernel_ends_its_process() -> None:
    kernel = Kernel()
    process = kernel.manager.provisioner.process
    assert process.poll() is None
    kernel.kill()
    assert process.wait(timeout=10) != 0
    kernel.end()


def test_a_job_whose_parameter_is_a_line_of_code_fails_in_words_and_the_next_one_runs(tmp_path: Path) -> None:
    runner = JsonProgram([sys.executable, "-m", "helpers.batch.kernel"], cwd=ROOT, env=child_environment())
    job = {"notebook": "00_check", "run_dir": str(tmp_path / "run"), "warm": False}
    code = f"run_dir\nopen({str(tmp_path / 'seen')!r}, 'w')\nrun_dir"

    answers = [runner.ask({**job, "parameters": parameters}) for parameters in ({code: "x"}, {})]
    runner.close()

    assert "is no parameter of 00_check" in answers[0]["message"] and not (tmp_path / "seen").exists()
    assert answers[0]["status"] == "fail" and answers[1]["status"] != "fail"


def test_a_kernel_that_is_ended_has_let_go_of_every_file() -> None:
    kernel = Kernel()
    process = kernel.manager.provisioner.process
    kernel.end()
    assert process.returncode is not None


def test_a_kernel_starts_although_another_process_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(kernels, "_LOCK", tmp_path / "lock")
    with FileLock(tmp_path / "lock"), kernels._one_start_at_a_time(patience=0.1):
        pass
