"""A private JupyterLab and a browser page on it, for tests: nothing of the user's own settings is touched.

The browser is one that is already there (Chromium, Chrome, Edge); none is downloaded.
"""

import contextlib
import importlib.resources
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.commands import child_environment
from helpers.run_folder import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
    r"%LocalAppData%\Google\Chrome\Application\chrome.exe",  # installed without an administrator
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
    r"%ProgramFiles%\Microsoft\Edge\Application\msedge.exe",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
]


def find_browser() -> str | None:
    """The path of a browser that is there; None where there is none."""
    named = (shutil.which(name) for name in NAMES)
    places = (os.path.expandvars(place) for place in PLACES)  # Windows alone fills in %names%
    return next(filter(None, named), None) or next((place for place in places if Path(place).is_file()), None)


AXE = "axe_playwright_python"  # of it only the script: its Python reads that in the system's own encoding


def audit(page: Any) -> list[list[str]]:
    """What the accessibility checker axe finds wrong with the player on a page: rule, then what breaks it."""
    page.evaluate(importlib.resources.files(AXE).joinpath("axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(
        """async () => (await axe.run(".tw-player")).violations.map(
            rule => [rule.id, ...rule.nodes.map(node => node.target + ": " + node.failureSummary)])"""
    )


def own_project(folder: Path) -> None:
    """Copy what a kernel imports: what is played and measured there, and its key map, stay in ``folder``."""
    for name in ("helpers", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)


def parametrised(notebook: Path, target: Path, **values: Any) -> None:
    """Copy a notebook with other defaults in its parameters cell.

    Args:
        notebook: What to copy; each value's line is ``name: type = default``.
        target: Where to.
        **values: New defaults by name.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cell = next(cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    lines = "".join(cell["source"]).splitlines()
    for name, value in values.items():
        (number,) = (i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        lines[number] = f"{lines[number].split('=')[0]}= {value!r}"
    cell["source"] = "\n".join(lines)
    target.write_text(json.dumps(content), encoding="utf-8")


@contextlib.contextmanager
def jupyterlab(folder: Path, private: Path) -> Iterator[str]:
    """JupyterLab on loopback, serving ``folder``; its address.

    Its own files lie in ``private``, where kernels find `own_project`.
    """
    private.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_PATH": child_environment()["JUPYTER_CONFIG_PATH"],
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_DATA_DIR": str(private / "data"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(private / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(private / "workspaces"),
        "IPYTHONDIR": str(private / "ipython"),
        "PYTHONPATH": str(private),
        "PYTHONUTF8": "1",
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="),
        *("--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"),
    ]
    address = f"http://127.0.0.1:{port}"
    with (private / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api", timeout=2):
                break
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"JupyterLab did not start: {(private / 'lab.log').read_text('utf-8')}")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


READY = """async () => {
    await window.jupyterapp.restored;
    let widget = null;
    while (!(widget = window.jupyterapp.shell.currentWidget) || !widget.context)
        await new Promise(done => setTimeout(done, 50));
    await widget.context.ready;
    await widget.sessionContext.ready;
    await widget.sessionContext.session.kernel.info;
    return widget.context.path;
}"""


class Lab:
    """A notebook opened in JupyterLab on a page.

    Args:
        page: Playwright's page.
        address: JupyterLab's.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def open(self, name: str) -> None:
        """Open a notebook and wait until its kernel answers."""
        self.page.goto(f"{self.address}/lab/tree/{name}?reset")
        self.ready()

    def ready(self) -> None:
        """Wait until the notebook that is open can run cells."""
        self.page.wait_for_function("window.jupyterapp !== undefined", timeout=90_000)
        self.page.evaluate(READY)

    def command(self, name: str) -> None:
        """Start a command of JupyterLab's, without waiting for its end."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def scroll_to(self, cell: str) -> None:
        """Bring a cell, by its id, into view: JupyterLab takes those out of the page that are far away."""
        self.page.evaluate(
            """async id => {
                const { content } = window.jupyterapp.shell.currentWidget;
                const index = content.widgets.findIndex(cell => cell.model.id === id);
                content.activeCellIndex = index;
                await content.scrollToItem(index, "start");
            }""",
            cell,
        )

    def cells(self) -> list[str]:
        """The ids of the notebook's cells."""
        return list(
            self.page.evaluate(
                "() => [...window.jupyterapp.shell.currentWidget.content.model.cells].map(cell => cell.id)"
            )
        )

    def run(self, code: str, timeout: float = 60) -> str:
        """Run code in the notebook's kernel, beside its cells; what it printed."""
        return str(
            self.page.evaluate(
                """async ([code, seconds]) => {
                    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                    const future = kernel.requestExecute({ code, store_history: false });
                    let text = "";
                    future.onIOPub = message => {
                        if (message.header.msg_type === "stream") text += message.content.text;
                        if (message.header.msg_type === "error") text += message.content.evalue;
                    };
                    const late = new Promise((_, no) => setTimeout(() => no(Error("late")), 1000 * seconds));
                    await Promise.race([future.done, late]);
                    return text;
                }""",
                [code, timeout],
            )
        )
