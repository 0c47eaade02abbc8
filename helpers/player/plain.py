"""The player where anywidget is missing: a picture, a button for each action, a field, play and pause."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

from helpers.errors import ParameterError
from helpers.pictures import contact_sheet, png, upscale
from helpers.play.game import Game
from helpers.player.keeping import Keeper
from helpers.player.keymap import action_id
from helpers.player.labels import LABEL_CLIPS, label_actions
from helpers.player.loop import Loop, Step
from helpers.player.preset import AS_SET, Preset
from helpers.run_folder import ROOT

WHY = "A plain player, without keys: anywidget is missing. For the full one: pip install anywidget"
STRIP = 8  # frames in the strip below the picture
SIDE = 384  # screen pixels: side of the current frame


class PlainPlayer:
    """Buttons, a field and the current frame. What is played is kept in ``run``, presets in ``root/outputs``.

    ``keeper`` is who kept what was played before.
    """

    def __init__(self, game: Game, run: Path, root: Path = ROOT, keeper: Keeper | None = None) -> None:
        self.game, self.keeper = game, keeper or Keeper(game, run, root)
        options: dict[str, Any] = {"watched": False, "progress": self._progress}
        self.loop = Loop(game, self._draw, self._report, game.opened.world.fps, idle=0, **options)
        self._preset = Preset(game, self.loop, root)
        count = game.opened.suite.n_actions
        taps = [partial(self.loop.tap, action) for action in range(count)]
        self.buttons = [_button(str(action), tap, width="120px") for action, tap in enumerate(taps)]
        self.play_button = _button("play", self._toggle, "play")
        self.reset_button = _button("reset", partial(self.loop.put, self._reset), "undo")
        hint, width = f"action id, 0 to {count - 1}", {"width": "170px"}
        self.field = widgets.Text(placeholder=hint, continuous_update=False, layout=width)
        self.field.observe(self._read_field, "value")
        names = [(name.replace("fps", " fps"), name) for name, _ in self._preset.options]
        state = {"value": self._preset.chosen, "tooltip": self._preset.meaning, "disabled": not names}
        look = {"description": "preset", "layout": {"width": "190px"}}
        self.preset = widgets.Dropdown(options=[("as set", AS_SET), *names], **state, **look)
        self.preset.observe(lambda change: self.loop.put(partial(self._choose, change["new"])), "value")
        self.message = widgets.Label()
        self.image = widgets.Image(format="png", width=SIDE, height=SIDE)
        self.strip = widgets.Image(format="png")
        actions = widgets.HBox(self.buttons, layout={"flex_flow": "row wrap"})
        tools = widgets.HBox([self.play_button, self.field, self.reset_button, self.preset, self.message])
        self.view = widgets.VBox([widgets.Label(WHY), self.image, actions, tools, self.strip])
        self._draw()
        self.loop.put(partial(self._name_actions, root))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.view._repr_mimebundle_(**options)

    def close(self) -> None:
        """End the thread and take the widgets off the page."""
        self.loop.sleep()
        self.view.close()

    def _toggle(self) -> None:
        self.loop.play(not self.loop.playing)
        self._report("")

    def _read_field(self, change: dict[str, str]) -> None:
        if text := change["new"].strip():
            self.field.value = ""
            try:
                self.loop.tap(action_id(text, len(self.buttons)))
            except ParameterError as error:
                self.message.value = str(error)

    def _choose(self, name: str) -> None:
        self._preset.choose(name)
        self.preset.tooltip = self.message.value = self._preset.meaning

    def _reset(self) -> None:
        self.game.restart()
        self._draw()

    def _name_actions(self, root: Path) -> None:
        labels = label_actions(self.game.opened, LABEL_CLIPS, root)
        for button, label in zip(self.buttons, labels, strict=True):
            button.description = f"{label.id} {label.name}".strip()

    def _report(self, note: str) -> None:
        self.message.value = note
        self.play_button.description = self.play_button.icon = "pause" if self.loop.playing else "play"

    def _progress(self, text: str, share: float) -> None:
        self.message.value = f"{text}: {share:.0%}" if text else ""

    def _draw(self, step: Step | None = None) -> None:
        frames, actions = self.game.last_frames(STRIP)  # [<=STRIP, H, W, 3]
        captions = ["given" if action is None else str(action) for action in actions]
        scale = max(1, SIDE // frames.shape[1])
        self.image.value = png(Image.fromarray(upscale(frames[-1], scale)))
        self.strip.value = png(contact_sheet([("", frames)], captions, scale=1, columns=STRIP))
        if step is not None:
            self.message.value = f"{step.generated} frame(s), last step {1000 * step.model:.0f} ms"
            self.keeper.note(soon=not self.loop.playing)


def _button(text: str, press: Callable[[], object], icon: str = "", width: str = "90px") -> widgets.Button:
    button = widgets.Button(description=text, icon=icon, layout={"width": width})
    button.on_click(lambda _: press())
    return button
