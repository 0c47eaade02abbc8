"""A shared world in a real browser: it plays what the engine plays, replays here, and asks no network."""

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from browser_lab import FLAGS, find_browser
from small_world import SHAPES, settings, small_world

from helpers.errors import AssetError
from helpers.play.recording import read
from helpers.play.replay import replay
from helpers.play.settings import Settings
from helpers.play.world import open_world
from helpers.player.labels import ActionLabel, label_actions
from helpers.share import build as sharing
from helpers.share.runtime import Runtime, open_runtime

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="NO BROWSER: install Chromium, Chrome or Edge; the shared page was not tested"
)

FRAMES = int(os.environ.get("TINYWORLDS_SHARE_FRAMES", "24"))
"""Frames of Crafter that are compared with the engine, greedily and sampled."""


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    try:
        return open_runtime()
    except AssetError as error:
        pytest.skip(f"NO RUNTIME: {error}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


class Shared:
    """A world's file, opened from the disk. Its policy forbids Playwright's own way of waiting."""

    def __init__(self, page: Any, path: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(path.as_uri())

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait for a JavaScript condition on ``data``, what the page says of itself."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(
            f"() => {{ const data = document.body.dataset; return !!({condition}); }}"
        ):
            assert time.monotonic() < end, f"{condition} did not come: {self.data()}"
            time.sleep(0.02)

    def data(self) -> dict[str, str]:
        return dict(self.page.evaluate("() => ({ ...document.body.dataset })"))

    def play(self, frames: int) -> None:
        """Play so many frames and perhaps some more, the keys changing."""
        self.page.locator("[data-do=play]").click()
        for number, key in zip(
            range(0, frames, 5), itertools.cycle(["ArrowUp", "Space", "ArrowLeft", "KeyC"])
        ):
            self.page.keyboard.down(key)
            self.until(f"Number(data.generated) >= {number + 5}")
            self.page.keyboard.up(key)
        self.page.locator("[data-do=play]").click()

    def proved(self) -> tuple[int, int]:
        """How many frames are the engine's, and of how many."""
        self.until("data.equal || data.phase === 'failed'", 60 + FRAMES)
        return int(self.data().get("equal", -1)), int(self.data().get("of", 0))


@pytest.fixture
def opened_page(browser: Any, tmp_path: Any) -> Iterator[Any]:
    """Opens the HTML of a file in a page of its own."""
    pages = []

    def open_page(html: bytes, **options: Any) -> Shared:
        path = tmp_path / "a world 世界.html"
        path.write_bytes(html)
        pages.append(browser.new_page(**options))
        return Shared(pages[-1], path)

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def crafter(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> sharing.Page:
    chosen = Settings(device="cpu", use_interactive_mode=True)
    opened = open_world(chosen)
    labels = label_actions(opened, 16, tmp_path_factory.mktemp("labels"))
    return sharing.build(opened, chosen, labels, runtime, FRAMES)


def test_crafter_is_the_same_world_in_the_browser_and_what_was_played_there_replays_here(
    crafter, opened_page, tmp_path
):
    # In few frames one seldom comes close: let every other one or so seem to, so that it is drawn again.
    html = crafter.html.replace(b"CLOSE = 1e-5", b"CLOSE = 5e-3") if FRAMES < 500 else crafter.html
    shared = opened_page(html, viewport={"width": 390, "height": 844}, has_touch=True)

    equal, of = shared.proved()
    assert equal == of > FRAMES  # a greedy and a sampled play, but for what follows a tie

    page = shared.page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for number, name in enumerate(("left", "do", "right"), 1):  # paused, a touch is a step
        page.get_by_role("button", name=name).first.tap()
        shared.until(f"data.generated === '{number}'")
    page.locator("[data-set=fps]").fill("60")
    shared.play(FRAMES)
    page.locator("[data-do=starts]").tap()
    page.locator("[data-start='3']").tap()
    page.locator("[data-set=temperature]").fill("0")
    page.locator("[data-set=temperature]").press("Enter")
    shared.play(FRAMES)
    with page.expect_download() as download:
        page.locator("[data-do=save]").tap()
    download.value.save_as(tmp_path / "session.json")
    again = replay(tmp_path / "session.json")

    assert again.equal and again.compared >= 2 * FRAMES
    events = read(tmp_path / "session.json")["events"]
    assert any("seed" in event for event in events) and any("temperature" in event for event in events)
    assert shared.errors == []


def test_the_page_can_reach_nothing_and_the_file_is_small(crafter, opened_page):
    shared = opened_page(crafter.html)
    shared.until("data.phase === 'ready'")
    assert {url.split(":")[0] for url in shared.requests} == {"file", "blob"}

    refused = """async () => {
        const refusals = [];
        document.addEventListener("securitypolicyviolation",
            (event) => refusals.push(event.effectiveDirective));
        const image = new Image();
        const tries = [fetch("https://example.com/"), import("https://example.com/a.js"),
            new Promise((yes, no) => { [image.onload, image.onerror] = [yes, no]; })];
        image.src = "https://example.com/a.png";
        await Promise.allSettled(tries);
        return refusals.sort();
    }"""
    assert shared.page.evaluate(refused) == ["connect-src", "img-src", "script-src-elem"]
    assert len(crafter.html) <= 20e6 and crafter.model <= 8e6


@pytest.mark.parametrize(
    "changes", SHAPES, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items())
)
def test_any_suite_is_the_same_world_and_its_names_are_shown_as_text(runtime, opened_page, tmp_path, changes):
    hostile = "</script><img src=x onerror=alert(1)>"
    opened = small_world(tmp_path)
    opened = replace(opened, world=replace(opened.world, title=hostile))
    labels = [ActionLabel(id, f"{hostile}{id}", 1, 0.25) for id in range(opened.suite.n_actions)]
    shared = opened_page(sharing.build(opened, settings(**changes), labels, runtime, 10).html)

    assert shared.proved() == (20, 20)
    assert shared.page.locator("h1").inner_text() == hostile
    assert shared.page.locator("[data-action='2'] > span").inner_text() == f"{hostile}2"
    assert shared.page.locator("img").count() == 0 and shared.errors == []


def test_a_page_says_so_where_it_does_not_play_the_same_world(runtime, opened_page, tmp_path):
    opened, chosen = small_world(tmp_path), settings(temperature=0.5)
    labels = [ActionLabel(id, name) for id, name in enumerate(("still", "left", "jump", "left + jump"))]
    html = sharing.build(opened, chosen, labels, runtime, 4).html
    begin = html.index(b'"hashes":["') + len(b'"hashes":["')
    shared = opened_page(html[:begin] + b"0123456789abcdef" + html[begin + 16 :])

    assert shared.proved() == (7, 8)
    assert shared.page.locator("[data-action='3'] kbd").all_inner_texts() == ["←", "↑"]
    assert "1 of 8 frames differ" in shared.page.locator(".proof").inner_text()
