"""The player in JupyterLab, in a real browser: what a person does with it, and what must not happen."""

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_lab import FLAGS, Lab, find_browser, jupyterlab, own_project, parametrised
from PIL import Image

from helpers.play import recording
from helpers.run_folder import ROOT

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="NO BROWSER: install Chromium, Chrome or Edge; the player was not tested"
)

LONG = float(os.environ.get("TINYWORLDS_PLAY_SECONDS", "60"))
"""Seconds of the long play."""

SHOTS = os.environ.get("TINYWORLDS_SCREENSHOTS", "")
"""The folder of pictures to look at; empty for none."""


class Console:
    """One player on the page, by what it shows and what can be touched."""

    def __init__(self, lab: Lab, number: int = 0) -> None:
        self.lab, self.page = lab, lab.page
        self.root = lab.page.locator(".tw-player").nth(number)

    def data(self) -> dict[str, str]:
        return dict(self.root.evaluate("root => ({ ...root.dataset })"))

    def number(self, name: str) -> int:
        return int(self.data().get(name) or 0)

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait for a JavaScript condition on ``data``, the root's data attributes."""
        end = time.monotonic() + seconds
        while not self.root.evaluate(f"root => {{ const data = root.dataset; return !!({condition}); }}"):
            assert time.monotonic() < end, f"{condition} did not come: {self.data()}"
            time.sleep(0.05)

    def generated(self, count: int) -> None:
        self.until(f"Number(data.generated) === {count}")

    def pixels(self) -> list[int]:
        """The canvas, as red, green, blue and alpha of each pixel."""
        return list(
            self.root.locator("canvas.tw-screen").evaluate(
                "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
            )
        )

    def do(self, name: str) -> None:
        self.root.locator(f"[data-do={name}]").click()

    def action(self, number: int) -> None:
        self.root.locator(f"[data-action='{number}']").click()

    def focus(self) -> None:
        self.root.evaluate("root => root.focus()")

    def unfold(self) -> None:
        self.root.evaluate(
            "root => { for (const fold of root.querySelectorAll('details')) fold.open = true; }"
        )

    def reset(self) -> None:
        self.do("reset")
        self.until("data.generated === '0' && data.branches === '1' && data.playing === 'false'")

    def text(self, selector: str) -> str:
        return str(self.root.locator(selector).inner_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook lies and its run folder; the path is one that users have."""
    folder = tmp_path_factory.mktemp("浏览器 test")
    own_project(folder)
    parametrised(
        ROOT / "notebooks" / "05_infer.ipynb",
        folder / "notebooks" / "05_infer.ipynb",
        use_interactive_mode=True,
        run_dir=str(folder / "run"),
        steps=2,
        tf32=True,  # nothing on a CPU; what a test measures so is nobody's own measurement
    )
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[Lab]:
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: the player was not tested")
    with jupyterlab(folder / "notebooks", folder) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        lab = Lab(page, address)
        lab.open("05_infer.ipynb")
        lab.command("notebook:run-all-cells")
        page.wait_for_selector(".tw-player[data-phase]", timeout=120_000)
        yield lab
        browser.close()


@pytest.fixture
def console(lab: Lab) -> Console:
    """The player, paused at the clip's start."""
    lab.ready()
    lab.scroll_to("generate")
    lab.page.wait_for_selector(".tw-player[data-phase]", timeout=60_000)
    console = Console(lab)
    console.until("data.phase === 'ready'", 120)
    console.root.scroll_into_view_if_needed()
    console.unfold()
    console.reset()
    return console


def test_who_ran_all_cells_lands_on_the_player_and_the_cells_behind_it_wait(lab: Lab) -> None:
    end = time.monotonic() + 120
    while "verdict" not in lab.run("import os; print('verdict' if (run / '05_infer.json').exists() else '')"):
        assert time.monotonic() < end
    Console(lab).until("data.phase === 'ready'", 120)
    time.sleep(1.5)
    box, height = lab.page.locator(".tw-player").bounding_box(), lab.page.viewport_size["height"]
    if SHOTS:
        lab.page.screenshot(path=f"{SHOTS}/landed.png")
    assert box is not None and 0 <= box["y"] < box["y"] + 500 < height
    outputs = lab.page.locator(".jp-CodeCell .jp-OutputArea")
    waits = "Nothing was played yet: play above, then run the cells below the player."
    assert outputs.filter(has_text=waits).count() == 1
    lab.scroll_to("verify")
    verdict = str(outputs.filter(has_text="05_infer:").last.text_content())
    assert "nothing was played yet" in verdict and "Play above" in verdict and "no frame" not in verdict


def test_it_plays_by_button_by_field_and_by_key(console: Console) -> None:
    seen = [console.pixels()]
    assert len(set(seen[0])) > 10  # a picture, not a blank canvas

    console.action(6)
    console.generated(1)
    seen.append(console.pixels())
    console.root.locator(".tw-field").fill("2")
    console.root.locator(".tw-field").press("Enter")
    console.generated(2)
    seen.append(console.pixels())
    console.focus()
    console.page.keyboard.press("Digit1")
    console.generated(3)
    console.page.keyboard.press("ArrowRight")
    console.generated(4)
    seen.append(console.pixels())

    assert all(a != b for a, b in itertools.pairwise(seen))
    assert console.text(".tw-strip figure:last-child") == "2"
    captions = console.root.locator(".tw-strip figcaption").all_inner_texts()
    assert captions[-4:] == ["6", "2", "1", "2"]
    console.do("step")
    console.generated(5)
    idle = console.root.locator("[data-set=idle]").input_value()
    assert console.text(".tw-strip figure:last-child") == idle


def test_an_id_out_of_range_is_refused_beside_the_field_and_play_goes_on(console: Console) -> None:
    field = console.root.locator(".tw-field")
    for text in ("99", "-1", "jump"):
        field.fill(text)
        field.press("Enter")
        assert "0 to 7" in console.text(".tw-refusal")
    assert console.number("generated") == 0
    field.fill("3")
    field.press("Enter")
    console.generated(1)
    assert console.text(".tw-refusal") == ""


def test_it_goes_on_by_itself_takes_the_held_key_and_pauses(console: Console) -> None:
    console.do("play")
    console.until("data.playing === 'true' && Number(data.generated) >= 2")
    console.focus()
    console.page.keyboard.down("ArrowRight")
    console.page.keyboard.down("Space")
    start = console.number("generated")
    console.until(f"Number(data.generated) >= {start + 4}")
    captions = console.root.locator(".tw-strip figcaption").all_inner_texts()
    if SHOTS:
        console.root.screenshot(path=f"{SHOTS}/playing.png")
    console.page.keyboard.up("Space")
    console.page.keyboard.up("ArrowRight")
    assert captions[-1] == "5"  # both are held: right, and then do, which counts as the later one
    console.do("play")
    console.until("data.playing === 'false'")
    time.sleep(0.5)
    count = console.number("generated")
    time.sleep(0.7)
    assert console.number("generated") == count


def test_a_hidden_tab_pauses_and_says_so_when_it_comes_back(console: Console) -> None:
    # A browser without a window counts every page as seen, whatever is before it.
    turn = "hide => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hide });"
    turn += " document.dispatchEvent(new Event('visibilitychange')); }"
    console.do("play")
    console.until("data.playing === 'true' && Number(data.generated) >= 2")
    try:
        console.page.evaluate(turn, True)
        console.until("data.playing === 'false'")
        console.lab.run("console.loop.wait()")
        time.sleep(0.3)
        count = int(console.lab.run("print(game.generated)"))
        time.sleep(0.7)
        assert int(console.lab.run("print(game.generated)")) == count
    finally:
        console.page.evaluate(turn, False)
        console.page.evaluate("() => delete document.hidden")
    time.sleep(0.3)
    assert console.data()["playing"] == "false"
    assert console.text(".tw-note") == "Paused while hidden."
    console.do("step")
    console.generated(count + 1)  # and play can go on


def test_in_pause_one_press_takes_the_action_as_often_as_the_field_beside_step_says(console: Console) -> None:
    repeat = console.root.locator(".tw-repeat")
    captions = console.root.locator(".tw-strip figcaption")
    taken = (
        "print([event['action'] for event in game.recording()['events'] if event['event'] == 'step'][-{}:])"
    )
    try:
        repeat.fill("3")
        console.do("step")
        console.generated(3)
        console.action(6)
        console.generated(6)
        console.focus()
        console.page.keyboard.press("ArrowRight")
        console.generated(9)
        idle = int(console.root.locator("[data-set=idle]").input_value())
        assert console.lab.run(taken.format(9)).strip() == str([idle] * 3 + [6] * 3 + [2] * 3)
        for text, count in (("99", 60), ("0", 1), ("", 1)):  # 1 to 60, whatever is typed
            console.reset()
            repeat.fill(text)
            console.action(1)
            console.generated(count)
            time.sleep(0.3)
            assert console.number("generated") == count
        assert captions.last.inner_text() == "1"
    finally:
        repeat.fill("1")


GAMEPAD = """() => {
    window.pad = { axes: [0, 0, 0, 0], buttons: [...Array(16)].map(() => ({ pressed: false })) };
    navigator.getGamepads = () => [null, window.pad];  // hardware that is not here
    window.dispatchEvent(new Event('gamepadconnected'));
}"""


def test_a_gamepad_acts_like_the_keys_that_its_buttons_stand_for(console: Console) -> None:
    press = "([number, pressed]) => { window.pad.buttons[number].pressed = pressed; }"
    push = "axes => { window.pad.axes = axes; }"
    caption = console.root.locator(".tw-strip figcaption").last
    console.page.evaluate(GAMEPAD)
    try:
        console.focus()
        buttons = {14: 1, 15: 2, 12: 3, 13: 4, 0: 5, 1: 6, 2: 7}  # left, right, up, down, do, place, craft
        for count, (number, action) in enumerate(buttons.items(), 1):
            console.page.evaluate(press, [number, True])
            console.generated(count)
            console.page.evaluate(press, [number, False])
            assert caption.inner_text() == str(action)
            time.sleep(0.1)
        for count, (axes, action) in enumerate((([-0.9, 0.1], 1), ([0.3, 0.8], 4)), 8):
            console.page.evaluate(push, axes)
            console.generated(count)
            console.page.evaluate(push, [0.2, -0.2])  # a stick at rest is never quite in the middle
            assert caption.inner_text() == str(action)
            time.sleep(0.1)
        assert console.number("generated") == 9
        console.root.evaluate("root => root.blur()")
        console.page.evaluate(press, [15, True])
        time.sleep(0.5)
        assert console.number("generated") == 9  # it is the player's only after a click, as keys are
        console.do("play")
        console.page.wait_for_function(
            "document.querySelector('.tw-strip figure:last-child figcaption')?.textContent === '2'"
        )
        console.page.evaluate(
            "() => { navigator.getGamepads = () => [null, null]; }"
        )  # pulled out while held
        idle = console.root.locator("[data-set=idle]").input_value()
        console.page.wait_for_function(
            "id => document.querySelector('.tw-strip figure:last-child figcaption')?.textContent === id",
            arg=idle,
        )
        console.do("play")
        console.until("data.playing === 'false'")
    finally:
        console.page.evaluate("() => { delete navigator.getGamepads; }")


def test_keys_that_mean_something_together_do_not_mean_what_each_does_alone(console: Console) -> None:
    chords = {"2": ["ArrowRight"], "5": ["Space"], "6": ["ArrowRight+Space"]}
    set_keys = "console._receive(console, {{'type': 'keys', 'keys': {keys}}}, []); console.loop.wait()"
    console.lab.run("before = console._keys.to_json()")
    console.lab.run(set_keys.format(keys={"keys": chords, "idle": 0}))
    try:
        console.focus()
        console.do("play")
        console.page.keyboard.down("ArrowRight")
        console.page.keyboard.down("Space")
        console.page.wait_for_function(
            "document.querySelector('.tw-strip figure:last-child figcaption')?.textContent === '6'"
        )
        console.page.keyboard.up("Space")
        console.page.keyboard.up("ArrowRight")
        console.do("play")
        console.until("data.playing === 'false'")
    finally:
        console.lab.run(set_keys.format(keys="before") + "; console._keys_path.unlink()")


def test_keys_stay_in_the_player_and_are_the_notebooks_elsewhere(console: Console) -> None:
    cells = console.lab.cells()
    console.focus()
    for key in ("x", "d", "d", "a", "b", "m", "y", "c", "v", "0", "0", "Enter", "Escape"):
        console.page.keyboard.press(key)
    console.until("Number(data.generated) >= 2")
    assert console.lab.cells() == cells
    console.lab.command("notebook:enter-command-mode")
    console.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.node.focus()")
    console.page.keyboard.press("b")
    console.page.wait_for_function(
        f"window.jupyterapp.shell.currentWidget.content.model.cells.length === {len(cells) + 1}"
    )
    console.lab.command("notebook:undo-cell-action")
    console.page.wait_for_function(
        f"window.jupyterapp.shell.currentWidget.content.model.cells.length === {len(cells)}"
    )


def test_rewinding_by_timeline_and_strip_and_playing_on_opens_branches(console: Console) -> None:
    for count, action in enumerate((1, 3, 2, 4), 1):  # some way is free, or the player turns to it
        console.action(action)
        console.generated(count)
    there = console.pixels()
    timeline = console.root.locator(".tw-timeline")
    timeline.evaluate("slider => { slider.value = 2; slider.dispatchEvent(new Event('input')); }")
    console.generated(2)
    assert console.pixels() != there
    console.action(1)
    console.until("data.branch === '1' && data.branches === '2' && data.generated === '3'")
    console.root.locator(".tw-strip figure[data-frame='1']").click()
    console.generated(1)
    console.root.locator("[data-branch='0']").click()
    console.until("data.branch === '0' && data.generated === '4'")
    assert console.pixels() == there


def test_what_if_and_clips_are_pictures_to_choose_from(console: Console) -> None:
    console.do("whatif")
    future = console.root.locator(".tw-futures button:not([disabled])")
    future.nth(7).wait_for(timeout=60_000)
    assert future.count() == 8 and console.number("generated") == 0
    if SHOTS:
        console.root.screenshot(path=f"{SHOTS}/futures.png")
    future.nth(2).click()
    console.generated(4)
    captions = console.root.locator(".tw-strip figcaption").all_inner_texts()
    assert captions[-4:] == ["2"] * 4 and future.count() == 8
    console.root.locator(".tw-futures").wait_for(state="hidden")
    console.reset()
    console.do("undo")
    console.generated(4)
    console.reset()
    start = console.data()["start"]
    console.do("clips")
    clips = console.root.locator(f".tw-clips button:not([data-start='{start}'])")
    clips.first.wait_for(timeout=60_000)
    chosen = clips.first.get_attribute("data-start")
    clips.first.click()
    console.until(f"data.start === '{chosen}'")


def test_what_is_set_in_the_player_is_what_is_played(console: Console) -> None:
    for name, value in (("temperature", "0.8"), ("steps", "3"), ("seed", "11"), ("fps", "12")):
        field = console.root.locator(f"[data-set={name}]")
        field.fill(value)
        field.press("Tab")
    console.root.locator("[data-set=feedback]").select_option("pixels")
    console.action(2)
    console.generated(1)
    printed = console.lab.run("print(game.play, console.loop.fps)")
    assert "steps=3, temperature=0.8, seed=11, feedback='pixels') 12" in printed
    for name, value in (("temperature", "0.32"), ("steps", "2"), ("seed", "0"), ("fps", "8")):
        field = console.root.locator(f"[data-set={name}]")
        field.fill(value)
        field.press("Tab")
    console.root.locator("[data-set=feedback]").select_option("tokens")
    console.lab.run("console.loop.wait()")


MEASURED = """
from helpers.presets import choose as presets
from helpers.presets import measure
own = opened.world.temperature
way = presets.MeasuredDecoding(1, own, "pixels", 25.0, 24.0, 26.0, 20.0, 1.0, (19.5, 20.5))
facts = presets.environment_facts(opened.suite.device)
kept = measure.save(presets.Measurement(presets.conditions(opened, settings), facts, "now", 2, (way,)))
for kind in ("hello", "bye"):  # another view comes and goes
    console._receive(console, {"type": kind}, [])
console.loop.wait()
"""


def test_a_preset_that_was_measured_is_chosen_and_left_again(console: Console) -> None:
    preset = console.root.locator("[data-set=preset]")
    options = preset.locator("option")
    assert options.first.inner_text() == "as set"
    assert "runbook.py presets -p dataset=crafter -p tf32=True" in options.last.inner_text()
    console.lab.run(MEASURED)
    try:
        preset.locator("option[value='30fps']").wait_for(state="attached")
        assert options.all_inner_texts() == ["as set", "5 fps", "10 fps", "15 fps", "20 fps", "30 fps"]
        preset.select_option("30fps")
        console.action(2)
        console.generated(1)
        printed = console.lab.run("print(game.play, console.loop.fps)")
        assert "steps=1, temperature=0.32, seed=0, feedback='pixels') 30" in printed
        assert console.root.locator("[data-set=steps]").input_value() == "1"
        meaning = preset.evaluate("select => select.parentElement.title")
        assert meaning == "1 step, sampled, pixels: 40.0 frames a second, 20.00 dB"
        preset.select_option("")
        console.page.wait_for_function("document.querySelector('[data-set=steps]').value === '2'")
        assert "steps=2, temperature=0.32, seed=0, feedback='tokens') 8" in console.lab.run(
            "console.loop.wait(); print(game.play, console.loop.fps)"
        )
    finally:
        console.lab.run("kept.unlink(); kept.with_suffix('.png').unlink()")


def test_what_is_saved_opens_and_its_session_replays_equal(console: Console) -> None:
    av = pytest.importorskip("av")
    for count, action in enumerate((6, 2, 1), 1):
        console.action(action)
        console.generated(count)
    saved = {}
    for kind in ("png", "mp4", "gif", "session"):
        console.do(kind)
        end = {"session": ".json"}.get(kind, f".{kind}")
        console.page.wait_for_function(
            "end => document.querySelector('.tw-saved').textContent.endsWith(end)", arg=end, timeout=60_000
        )
        saved[kind] = Path(console.text(".tw-saved"))
    with Image.open(saved["png"]) as picture:
        assert picture.size == (360, 360)
    with av.open(str(saved["mp4"])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 1 + 3
    with Image.open(saved["gif"]) as picture:
        assert picture.is_animated
    printed = console.lab.run(
        f"from helpers.play.replay import replay\nprint(replay({str(saved['session'])!r}).to_dict())",
        timeout=120,
    )
    assert "'equal': True" in printed
    assert recording.read(saved["session"])["events"]


def test_other_cells_run_while_it_plays(console: Console) -> None:
    console.do("play")
    console.until("Number(data.generated) >= 1")
    assert console.lab.run("print(6 * 7)").strip() == "42"
    assert console.data()["playing"] == "true"
    console.do("play")
    console.until("data.playing === 'false'")


def test_two_players_in_one_notebook_are_independent(console: Console) -> None:
    code = "other = player.open_player(play(opened, choose_clip(opened, settings), settings), run)"
    console.page.evaluate(
        """async code => {
            const { content, sessionContext } = window.jupyterapp.shell.currentWidget;
            content.activeCellIndex = content.widgets.length - 1;
            await window.jupyterapp.commands.execute("notebook:insert-cell-below");
            content.activeCell.model.sharedModel.setSource(code);
            await window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        code,
    )
    console.page.wait_for_function("document.querySelectorAll('.tw-player[data-phase=ready]').length === 2")
    second = Console(console.lab, 1)
    second.root.scroll_into_view_if_needed()
    second.action(1)
    second.generated(1)
    assert console.number("generated") == 0
    console.action(6)
    console.generated(1)
    console.action(6)
    console.generated(2)
    assert second.number("generated") == 1
    console.lab.run("other.close()")
    console.lab.scroll_to(console.lab.cells()[-1])
    console.lab.command("notebook:delete-cell")


def threads(lab: Lab) -> int:
    printed = lab.run(
        "import threading; print(sum(thread.name == 'player' for thread in threading.enumerate()))"
    )
    return int(printed)


def test_running_the_cell_again_goes_on_with_one_thread_and_one_player(console: Console) -> None:
    for count in (1, 2):
        console.action(6)
        console.generated(count)
    pixels = console.pixels()
    console.page.evaluate(
        """async () => {
            const { content } = window.jupyterapp.shell.currentWidget;
            content.activeCellIndex = content.widgets.findIndex(cell => cell.model.id === "generate");
            await window.jupyterapp.commands.execute("notebook:run-cell");
        }"""
    )
    console.until("data.phase === 'ready' && data.generated === '2'")
    assert console.text(".tw-note").startswith("Going on after 2 frames.") and console.pixels() == pixels
    end = time.monotonic() + 20
    while threads(console.lab) != 1 and time.monotonic() < end:
        time.sleep(0.2)
    assert threads(console.lab) == 1
    assert console.page.locator(".tw-player").count() == 1
    console.action(2)
    console.generated(3)


def memory(console: Console) -> tuple[float, float]:
    """Megabytes of the kernel's process and of the page's heap."""
    kernel = float(console.lab.run("import psutil; print(psutil.Process().memory_info().rss / 1e6)"))
    page = console.page.evaluate("() => { window.gc?.(); return performance.memory.usedJSHeapSize / 1e6; }")
    return kernel, float(page)


def test_a_long_play_keeps_up_and_its_memory_stays_flat(console: Console) -> None:
    console.do("play")
    console.until("Number(data.generated) >= 30", 120)
    before = memory(console)
    start = console.number("generated")
    time.sleep(LONG)
    after, end = memory(console), console.number("generated")
    generated = int(console.lab.run("print(game.generated)"))
    assert console.data()["playing"] == "true"
    assert end > start  # it went on; how fast is no test's business
    assert generated - console.number("generated") < 60  # nothing queues up on the way
    # A frame's picture, tokens and, for the newest 256, state are kept: well under 100 kB each.
    assert after[0] - before[0] < 40 + 0.1 * (end - start)
    assert after[1] - before[1] < 30
    console.do("play")
    console.until("data.playing === 'false'")
    print(json.dumps(console.root.locator(".tw-readout").evaluate("readout => ({ ...readout.dataset })")))


def test_reloading_the_page_brings_the_player_back(console: Console) -> None:
    console.action(6)
    console.generated(1)
    picture = console.pixels()
    console.lab.command("docmanager:save")
    console.page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    console.page.reload()
    console.lab.ready()
    console.lab.scroll_to("generate")
    console.page.wait_for_selector(".tw-player[data-phase=ready]", timeout=60_000)
    again = Console(console.lab)
    again.root.scroll_into_view_if_needed()
    again.generated(1)
    assert again.pixels() == picture
    again.action(2)
    again.generated(2)


def test_a_notebook_that_is_opened_without_its_kernel_shows_the_last_frames(console: Console) -> None:
    outputs = "[...document.querySelectorAll('.jp-OutputArea-child')].map(node => node.checkVisibility() && "
    seen = f"() => {outputs} (node.querySelector('.tw-player, .tw-last')?.className ?? '')).filter(Boolean)"
    assert console.page.evaluate(seen) == ["tw-player"]
    console.action(2)
    console.generated(1)
    last = "The last of 1 frames that were played here. Run the cell to play."
    console.page.wait_for_function(f"document.querySelector('.tw-last')?.textContent.includes('{last}')")
    console.lab.command("docmanager:save")
    console.page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    console.page.evaluate(
        """async () => {
            const { currentWidget } = window.jupyterapp.shell;
            const { path } = currentWidget.context;
            await window.jupyterapp.serviceManager.sessions.shutdownAll();
            currentWidget.dispose();
            await window.jupyterapp.commands.execute("docmanager:open", { path });
        }"""
    )
    console.lab.ready()
    console.lab.scroll_to("generate")
    console.page.wait_for_function(f"({seen})().join() === 'tw-last'", timeout=30_000)
    assert console.page.locator(".tw-last").inner_text().strip() == last
    assert console.page.locator(".jp-OutputArea-child:visible", has_text="model not found").count() == 0
    if SHOTS:
        console.page.screenshot(path=f"{SHOTS}/reopened.png")
    console.lab.command("notebook:run-all-cells")
    console.page.wait_for_selector(".tw-player[data-phase=ready]", timeout=120_000)
    # JupyterLab says so, on a busy computer only now.
    console.lab.errors[:] = [text for text in console.lab.errors if "widget model not found" not in text]


def test_after_a_kernel_restart_a_fresh_player_goes_on_where_the_old_one_stopped(
    console: Console, folder: Path
) -> None:
    for count, action in enumerate((3, 3, 2), 1):
        console.action(action)
        console.generated(count)
    pixels = console.pixels()
    kept, end = folder / "data" / "crafter_played.json", time.monotonic() + 30
    while json.loads(kept.read_text(encoding="utf-8"))["frames"] != 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    console.page.evaluate(
        """async () => {
            const { sessionContext } = window.jupyterapp.shell.currentWidget;
            await sessionContext.restartKernel();
            await sessionContext.session.kernel.info;
            await window.jupyterapp.commands.execute("notebook:run-all-cells");
        }"""
    )
    console.lab.scroll_to("generate")
    console.until("data.phase === 'ready' && data.generated === '0'", 120)
    fresh = Console(console.lab)
    fresh.root.scroll_into_view_if_needed()
    assert "Go on where you stopped" in console.text("[data-do=go_on]")
    fresh.do("go_on")
    fresh.generated(3)
    assert fresh.pixels() == pixels and fresh.text(".tw-note") == "Going on after 3 frames."
    fresh.action(6)
    fresh.generated(4)
    fresh.reset()


def test_the_browser_reported_no_error_in_all_of_this(lab: Lab) -> None:
    ours: list[Any] = [text for text in lab.errors if "favicon" not in text]
    assert ours == []
