"""What several tests share: environments made in a moment, and a copy of the project elsewhere."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.machine.interpreter import venv_python
from helpers.run_folder import ROOT

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; torch's threads of one would wait for those of the others, spinning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

AWKWARD = "a folder 世界 {x}"
"""A space, letters outside ASCII, and braces, which papermill would take for a template."""


def make_environment(root: Path) -> Path:
    """A real ``.venv`` under ``root`` that borrows this environment's packages; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    python = venv_python(root)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run(
        [python, "-X", "utf8", "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    # site.py of Python 3.10 to 3.12 reads .pth files in the locale's encoding.
    encoding = "utf-8" if sys.version_info >= (3, 13) or sys.platform != "win32" else "mbcs"
    lines = [*site.getsitepackages(), str(root)]
    Path(found.stdout.strip(), "borrowed.pth").write_text("\n".join(lines) + "\n", encoding=encoding)
    return python


SLOW = (
    "test_sweep",
    "test_training",
    "test_browser",
    "test_share_browser",
    "test_alone",
    "test_browser_feel",
    "test_runbook",
    "test_regress",
    "test_coinrun",
    "test_notebooks",
    "test_interpreters",
    "test_torch_build_install",
    "test_house",
    "test_replay",
    "test_compiled",
)
"""Modules that start programs, kernels or long rollouts; what a quick test can find is found before them.

The longest come first, so that no worker is left with one of them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``runbook.py test --pictures`` make the documents' pictures anew instead of comparing them."""
    parser.addoption("--pictures", action="store_true", help="make the documents' pictures anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run fast tests first, and let ``-m "not slow"`` run nothing else."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: SLOW.index(item.path.stem) + 1 if item.path.stem in SLOW else 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each browser test that was skipped: a summary that only counts them is read over."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "test_browser" in report.nodeid
    ]
    if skipped:
        terminalreporter.section("NOT TESTED: the player in a browser", red=True, bold=True)
        for report in skipped:
            terminalreporter.line(report.nodeid, red=True)
        terminalreporter.line(skipped[0].longrepr[2], red=True)


@pytest.fixture
def borrowed_python(tmp_path) -> Path:
    """The Python of an environment of its own, with this one's packages."""
    return make_environment(tmp_path)


@pytest.fixture
def project_copy(tmp_path) -> Path:
    """What ``runbook.py`` needs, in a folder whose path has a space, Chinese letters and braces."""
    copy = tmp_path / AWKWARD
    copy.mkdir()
    for name in ("runbook.py", "pyproject.toml", "requirements-notorch.txt", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "demo", ".ipynb_checkpoints")
    for name in ("helpers", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    return copy
