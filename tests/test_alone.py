"""The player alone: the very command, and a real browser on its page."""

import contextlib
import http.client
import io
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser_lab import FLAGS, Lab, audit, find_browser, own_project
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_browser import SHOTS, Console

from helpers.commands import child_environment
from helpers.play import recording
from helpers.run_folder import ROOT

BROWSER = find_browser()
PICTURE = ROOT / "helpers" / "player" / "player.png"
"""The READMEs' picture of the player; with it, the controls that it shows."""
WALK = ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowUp", "ArrowRight", "Space")


class Play:
    """The command, started; and what it printed."""

    def __init__(self, folder: Path) -> None:
        own_project(folder)
        self.run = run = folder / "run"
        command = [*(sys.executable, "-m", "helpers.player.alone", "--no-browser"), "-p", f"run_dir={run}"]
        self.process = subprocess.Popen(
            [*command, "-p", "steps=2"],
            cwd=folder,
            env={**child_environment(), "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert self.process.stdout is not None
        lines = list(itertools.takewhile(lambda line: "Play at" not in line, self._read()))
        assert self.address, lines

    def _read(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.address = "".join(re.findall(r"Play at (http://\S+)", line))
            yield line

    def end(self) -> str:
        """Interrupt it as Ctrl+C does; what it said then."""
        self.process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        return self.process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    play = Play(tmp_path_factory.mktemp("玩 play"))
    yield play
    with contextlib.suppress(OSError):
        play.process.kill()
    play.process.communicate()


def status(address: str, path: str | None = None, host: str | None = None) -> int:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", path or parts.path, headers={"Host": host or parts.netloc})
    return connection.getresponse().status


def test_only_who_knows_the_address_gets_an_answer(play: Play) -> None:
    assert status(play.address) == 200
    assert status(play.address, path="/") == status(play.address, path="/x/player.js") == 404
    assert status(play.address, host="evil.example:80") == 403


def pictured(console: Console, anew: bool) -> None:
    """Walk on in pause; the READMEs' picture must show the controls that there are now, or is made anew."""
    for steps, key in enumerate(WALK, console.number("generated") + 1):
        console.page.keyboard.press(key)
        console.generated(steps)
    # What this machine alone knows stays out: its speed, and that something was played here before.
    hidden = ".tw-readout { visibility: hidden; } [data-do=go_on] { display: none; }"
    console.page.add_style_tag(content=hidden)
    buttons = console.root.get_by_role("button").all()
    names = [text for button in buttons if button.is_visible() and (text := button.inner_text().strip())]
    if anew:
        described = PngInfo()
        described.add_itxt("controls", json.dumps(names))
        with Image.open(io.BytesIO(console.root.screenshot())) as picture:
            picture.convert("RGB").save(PICTURE, pnginfo=described, optimize=True)
    with Image.open(PICTURE) as picture:
        assert json.loads(picture.info["controls"]) == names, "Make it anew: docs/playing.md, Filming."


@pytest.mark.skipif(BROWSER is None, reason="NO BROWSER: the player alone was not tested")
def test_its_page_plays_comes_back_after_a_reload_and_ctrl_c_says_where_play_is(
    play: Play, pytestconfig: pytest.Config
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: not tested")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        lab = Lab(page, play.address)
        page.goto(play.address)
        page.wait_for_selector(".tw-player[data-phase=ready]", timeout=120_000)
        console = Console(lab)
        page.keyboard.press("ArrowRight")
        console.generated(1)
        pictured(console, pytestconfig.getoption("pictures"))
        start = console.number("generated")
        console.do("play")
        console.until(f"Number(data.generated) >= {start + 4}")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/alone.png")
        console.do("play")
        console.until("data.playing === 'false'")
        page.emulate_media(color_scheme="dark")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/alone_dark.png")
        assert audit(page) == []
        count, pixels = console.number("generated"), console.pixels()
        page.reload()
        page.wait_for_selector(".tw-player[data-phase=ready]")
        console.generated(count)
        assert console.pixels() == pixels and lab.errors == []
        said = play.end() if sys.platform != "win32" else ""
        page.wait_for_selector("#gone:not([hidden])" if said else "body")
        browser.close()
    session = play.run / "session.json"
    steps = [event for event in recording.read(session)["events"] if event["event"] == "step"]
    assert len(steps) == count and steps[0]["action"] == 2
    if said:
        assert f"{count} frames on this branch are saved in {session}" in said and "Traceback" not in said
        assert play.process.returncode == 0
