"""How the player feels in a real browser: whose the keys are, what is said where, what fits on the screen."""
# ruff: noqa: F811 - fixtures are named as what they were imported as

import time
from collections.abc import Callable, Iterator

import pytest
from browser_lab import audit
from test_browser import BROWSER, MEASURED, SHOTS, Console, console, folder, lab  # noqa: F401

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="NO BROWSER: install Chromium, Chrome or Edge; the player was not tested"
)


@pytest.fixture
def press(console: Console) -> Callable[[str], None]:
    return lambda key: console.page.keyboard.press(key)


def has_keys(console: Console) -> bool:
    """Whether the border says that keys play."""
    time.sleep(0.05)
    return console.data()["live"] == "true"


def focused(console: Console) -> str:
    """What has the focus, by what tells it apart in the player; "root" is the player itself."""
    return str(
        console.root.evaluate(
            """root => {
                const node = document.activeElement;
                if (node === root) return "root";
                return root.contains(node) ? Object.values(node.dataset)[0] ?? node.className : "elsewhere";
            }"""
        )
    )


def tab_to(console: Console, name: str) -> None:
    for _ in range(60):
        console.page.keyboard.press("Tab")
        if focused(console) == name:
            return
    raise AssertionError(f"Tab does not reach {name}")


def taken(console: Console) -> list[str]:
    return list(console.root.locator(".tw-strip figcaption").all_inner_texts())


# --- keys ------------------------------------------------------------------------------------------


def test_playing_keys_go_to_the_world_whatever_was_touched_last(
    console: Console, press: Callable[[str], None]
) -> None:
    feedback = console.root.locator("[data-set=feedback]")
    for count, touch in enumerate(
        (
            lambda: feedback.evaluate("select => select.focus()"),
            lambda: console.root.locator("[data-overlay]").click(),
            lambda: console.root.locator("[data-fold=keys] summary").click(),
            lambda: console.root.locator("canvas.tw-screen").click(),
            lambda: console.root.locator(".tw-timeline").evaluate("slider => slider.focus()"),
        )
    ):
        touch()
        assert has_keys(console)
        press("ArrowUp")
        console.generated(2 * count + 1)
        press("ArrowRight")
        console.generated(2 * count + 2)
        assert taken(console)[-2:] == ["3", "2"]
    assert feedback.input_value() == "tokens"
    feedback.select_option("pixels")
    assert focused(console) == "root"  # what was chosen gives the keys back
    feedback.select_option("tokens")


def test_who_types_has_the_keys_and_enter_or_escape_gives_them_back(
    console: Console, press: Callable[[str], None]
) -> None:
    steps = console.root.locator("[data-set=steps]")
    steps.click()
    assert not has_keys(console)
    steps.fill("3")
    press("ArrowRight")
    press("Enter")
    assert has_keys(console) and focused(console) == "root"
    press("ArrowRight")
    console.generated(1)
    assert console.lab.run("print(game.play.steps)").strip() == "3"
    steps.click()
    steps.fill("77")
    press("Escape")
    assert has_keys(console) and steps.input_value() == "3"
    steps.fill("2")
    press("Enter")
    console.lab.run("console.loop.wait()")
    assert console.lab.run("print(game.play.steps)").strip() == "2" and console.number("generated") == 1


def test_a_button_that_tab_reached_is_pressed_by_space_and_one_that_was_clicked_is_not(
    console: Console, press: Callable[[str], None]
) -> None:
    console.do("step")
    console.generated(1)
    press("Space")
    console.generated(2)
    assert taken(console)[-1] == "5"  # what Space stands for
    tab_to(console, "6")
    press("Space")
    console.generated(3)
    press("ArrowRight")
    console.generated(4)
    assert taken(console)[-2:] == ["6", "2"] and focused(console) == "6"


def test_everything_can_be_done_without_a_mouse(console: Console, press: Callable[[str], None]) -> None:
    console.focus()
    tab_to(console, "play")
    press("Space")
    console.until("data.playing === 'true' && Number(data.generated) >= 3")
    press("Enter")
    console.until("data.playing === 'false'")
    console.lab.run("console.loop.wait()")
    count = int(console.lab.run("print(game.generated)"))
    console.generated(count)
    tab_to(console, "tw-strip")
    assert not has_keys(console)
    press("ArrowLeft")
    console.generated(count - 1)
    press("Home")
    console.generated(0)
    tab_to(console, "feedback")
    press("ArrowDown")
    console.lab.run("console.loop.wait()")
    assert console.lab.run("print(game.play.feedback)").strip() == "pixels"
    press("ArrowUp")
    press("Escape")
    assert focused(console) == "root"
    press("Escape")
    assert focused(console) == "elsewhere" and not has_keys(console)
    console.lab.run("console.loop.wait()")
    assert console.lab.run("print(game.play.feedback)").strip() == "tokens"


def test_a_key_is_given_to_an_action_by_pressing_it_and_taken_away_by_a_click(
    console: Console, press: Callable[[str], None]
) -> None:
    row = console.root.locator("[data-keys='6']")
    try:
        row.locator("[data-add]").click()
        console.page.keyboard.down("ArrowRight")
        console.page.keyboard.down("KeyJ")
        console.page.keyboard.up("KeyJ")
        console.page.keyboard.up("ArrowRight")
        row.locator("[data-chord='ArrowRight+KeyJ']").wait_for()
        assert console.number("generated") == 0  # the key was for the table
        row.locator("[data-add]").click()
        press("ArrowLeft")  # which is left's
        console.page.wait_for_function(
            "document.querySelector('[data-keys=\"6\"] .tw-refused').textContent.includes('two actions')"
        )
        if SHOTS:
            console.root.screenshot(path=f"{SHOTS}/keys.png")
        assert row.locator("[data-chord]").count() == len(
            console.lab.run("print(*console._keys.keys[6])").split()
        )
        assert console.text(".tw-note") == ""
        row.locator("[data-chord='KeyE']").click()
        row.locator("[data-chord='KeyE']").wait_for(state="detached")
        assert row.locator(".tw-refused").inner_text() == ""
    finally:
        console.do("default-keys")
    row.locator("[data-chord='KeyE']").wait_for()
    assert row.locator("[data-chord='ArrowRight+KeyJ']").count() == 0


# --- what is said ----------------------------------------------------------------------------------


def test_what_cannot_be_is_said_beside_its_field_until_that_is_mended(
    console: Console, press: Callable[[str], None]
) -> None:
    said = {
        name: console.root.locator(f".tw-refused[data-about={name}]") for name in ("fps", "steps", "seed")
    }
    for name, text, words in (
        ("fps", "500", "Use 1 to 60"),
        ("fps", "0", "fps is 0"),
        ("steps", "999", "tokens"),
    ):
        field = console.root.locator(f"[data-set={name}]")
        before = field.input_value()
        field.fill(text)
        press("Enter")
        says = "([name, words]) => document.querySelector(`[data-about=${name}]`).textContent.includes(words)"
        console.page.wait_for_function(says, arg=[name, words])
        assert field.input_value() == before and console.text(".tw-note") == ""
    field.fill(before)
    press("Enter")
    console.page.wait_for_function("!document.querySelector('.tw-refused[data-about=steps]').textContent")
    assert [text.inner_text() for text in said.values()] == ["", "", ""]


def test_a_computer_that_is_too_slow_is_told_so_and_offered_a_pace_that_it_reaches(console: Console) -> None:
    for name, value in (("steps", "16"), ("fps", "60")):
        console.root.locator(f"[data-set={name}]").fill(value)
        console.page.keyboard.press("Enter")
    console.do("play")
    faster = console.root.locator("[data-faster]")
    faster.wait_for(timeout=30_000)
    if SHOTS:
        console.root.screenshot(path=f"{SHOTS}/slow.png")
    assert "of 60 frames a second" in console.text(".tw-slow")
    pace = float(faster.get_attribute("data-faster") or 0)
    faster.click()
    console.do("play")
    console.until("data.playing === 'false'")
    assert 1 <= pace < 48 and float(console.lab.run("print(console.loop.fps)")) == pace
    assert console.root.locator(".tw-slow").is_hidden()

    console.lab.run(MEASURED)
    try:
        console.root.locator("[data-set=fps]").fill("60")
        console.page.keyboard.press("Enter")
        console.do("play")
        console.root.locator("[data-faster='30fps']").click(timeout=30_000)
        console.do("play")
        console.until("data.playing === 'false'")
        printed = console.lab.run("console.loop.wait(); print(game.play, console.loop.fps)")
        assert "steps=1" in printed and "'pixels') 30" in printed
        console.root.locator("[data-set=preset]").select_option("")
    finally:
        console.lab.run("kept.unlink(); kept.with_suffix('.png').unlink()")
    for name, value in (("steps", "2"), ("fps", "8")):
        console.root.locator(f"[data-set={name}]").fill(value)
        console.page.keyboard.press("Enter")


# --- what is seen ----------------------------------------------------------------------------------

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


@pytest.fixture
def theme(console: Console) -> Iterator[Callable[[str], None]]:
    def choose(name: str) -> None:
        console.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })",
            THEMES[name],
        )
        console.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === String(light)", arg=name == "light"
        )

    yield choose
    choose("light")


def test_an_automatic_audit_finds_nothing_to_say_about_the_player(
    console: Console, theme: Callable[[str], None]
) -> None:
    console.action(1)
    console.generated(1)
    panels = {"light": ("clips", ".tw-clips button"), "dark": ("whatif", "[data-future]:not([disabled])")}
    for name, (panel, button) in panels.items():
        theme(name)
        console.do(panel)
        console.root.locator(button).nth(7).wait_for(timeout=60_000)
        if SHOTS:
            console.root.screenshot(path=f"{SHOTS}/{name}.png")
        assert audit(console.page) == [], name
    picture = console.root.locator("canvas.tw-screen")
    assert picture.get_attribute("role") == "img" and "frame 1, after left" in (
        picture.get_attribute("aria-label") or ""
    )
    assert "player" in (console.root.get_attribute("aria-label") or "")
    sizes = console.root.evaluate(
        "root => [...root.querySelectorAll('*')].filter(node => node.checkVisibility() && node.textContent)"
        ".map(node => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert min(sizes) >= 11


def boxes(console: Console) -> dict[str, tuple[float, ...]]:
    """Left, top, right and bottom of the picture and of all buttons outside the tree of branches."""
    found = console.root.evaluate(
        """root => [...root.querySelectorAll("canvas.tw-screen, button:not(.tw-branches *)")].map(node => {
            const { left, top, right, bottom } = node.getBoundingClientRect();
            return [node.dataset.do ?? node.dataset.action ?? node.className, left, top, right, bottom];
        })"""
    )
    return {name: tuple(sides) for name, *sides in found}


def test_opening_a_branch_moves_no_button(console: Console) -> None:
    for count, action in enumerate((1, 3, 2, 4), 1):  # some way is free, or the player turns to it
        console.action(action)
        console.generated(count)
    before = boxes(console)
    console.root.locator(".tw-strip figure[data-frame='2']").click()
    console.generated(2)
    console.action(1)
    console.until("data.branches === '2'")
    assert boxes(console) == before
    tips = console.root.locator("[data-branch] canvas")
    pictures = tips.evaluate_all("all => all.map(canvas => canvas.toDataURL())")
    assert len(pictures) == len(set(pictures)) == 2
    if SHOTS:
        console.root.screenshot(path=f"{SHOTS}/branches.png")


@pytest.mark.parametrize("width, height", [(900, 700), (853, 667)], ids=["900 pixels wide", "150% zoom"])
def test_picture_play_and_pads_are_on_one_screen(console: Console, width: int, height: int) -> None:
    page = console.page
    try:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function("width => innerWidth === width", arg=width)
        time.sleep(0.5)
        console.root.evaluate("root => root.scrollIntoView()")
        time.sleep(0.5)
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{width}.png")
        places = boxes(console)
        for name in ("tw-screen", "play", *map(str, range(8))):
            left, top, right, bottom = places[name]
            assert 0 <= left < right <= width and 0 <= top < bottom <= height - 24, (name, places[name])
        left, _, right, _ = places["tw-screen"]
        assert right - left >= 144
    finally:
        page.set_viewport_size({"width": 1280, "height": 1000})


def test_the_whole_screen_is_for_the_player_until_escape(console: Console) -> None:
    before = boxes(console)["tw-screen"]
    console.do("full")
    console.page.wait_for_function("document.fullscreenElement !== null")
    time.sleep(0.5)
    if SHOTS:
        console.page.screenshot(path=f"{SHOTS}/full.png")
    larger = boxes(console)["tw-screen"]
    assert larger[2] - larger[0] > before[2] - before[0]
    console.page.keyboard.press("ArrowRight")
    console.generated(1)
    console.page.evaluate("() => document.exitFullscreen()")
    console.page.wait_for_function("document.fullscreenElement === null")


def test_a_pad_says_one_thing_in_each_place(console: Console) -> None:
    pad = console.root.locator("[data-action='1']")
    assert [pad.locator(part).inner_text() for part in ("small", "b", "kbd")] == ["1", "left", "←"]
    assert "% of the data's actions; stands for “left”" in (pad.get_attribute("title") or "")
    drift = console.root.locator("[data-action='5']").get_attribute("title") or ""
    assert "moves" not in drift  # its true name is known


# --- the last one: it ends the kernel ---------------------------------------------------------------


def test_the_player_says_by_itself_that_the_kernel_was_restarted(console: Console) -> None:
    console.page.evaluate(
        "() => { window.restarted = window.jupyterapp.shell.currentWidget.sessionContext.restartKernel(); }"
    )
    console.page.wait_for_function(
        "document.querySelector('.tw-curtain').textContent.includes('restarted')", timeout=15_000
    )
    if SHOTS:
        console.root.screenshot(path=f"{SHOTS}/restarted.png")
    console.page.evaluate("() => window.restarted")
