"""The player where anywidget is missing: a picture, a button for each action, a field, play and pause."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

from helpers.errors import ParameterError
from helpers.pictures import contact_sheet, upscale
from helpers.play.game import Game
from helpers.player.keymap import action_id
from helpers.player.loop import Loop, Shown
from helpers.player.preset import AS_SET, Preset
from helpers.run_folder import ROOT

STRIP = 8
"""Frames in the strip below the picture."""


class PlainPlayer:
    """Buttons, a field and the current frame.

    Args:
        game: What is played.
        _run: Not used: this player saves nothing itself, the notebook's next cell does.
        root: The folder that holds ``outputs/``, where a world's presets are kept.
        size: Side of the shown frame, in screen pixels.
    """

    def __init__(self, game: Game, _run: Path, root: Path = ROOT, size: int = 384) -> None:
        self.game = game
        self.loop = Loop(game, self._show, self._report, game.opened.world.fps, idle=0, watched=False)
        self._size = size
        ids = range(game.opened.suite.n_actions)
        self.buttons = [widgets.Button(description=str(action), layout={"width": "48px"}) for action in ids]
        for action, button in zip(ids, self.buttons, strict=True):
            button.on_click(lambda _, action=action: self.loop.tap(action))
        self.field = widgets.Text(
            placeholder=f"action id, 0 to {ids[-1]}", continuous_update=False, layout={"width": "170px"}
        )
        self.field.observe(self._read_field, "value")
        self.play_button = widgets.Button(description="play", icon="play", layout={"width": "90px"})
        self.play_button.on_click(lambda _: self._toggle())
        self.reset_button = widgets.Button(description="reset", icon="undo", layout={"width": "90px"})
        self.reset_button.on_click(lambda _: self.loop.put(self._reset))
        self._preset = Preset(game, self.loop, root)
        self.preset = widgets.Dropdown(
            options=[
                ("as set", AS_SET),
                *((name.replace("fps", " fps"), name) for name, _ in self._preset.options),
            ],
            value=self._preset.chosen,
            description="preset",
            tooltip=self._preset_meaning(),
            disabled=not self._preset.options,
            layout={"width": "190px"},
        )
        self.preset.observe(lambda change: self.loop.put(lambda: self._choose(change["new"])), "value")
        self.message = widgets.Label()
        self.image = widgets.Image(format="png", width=size, height=size)
        self.strip = widgets.Image(format="png")
        self.view = widgets.VBox(
            [
                self.image,
                widgets.HBox(self.buttons, layout={"flex_flow": "row wrap"}),
                widgets.HBox([self.play_button, self.field, self.reset_button, self.preset, self.message]),
                self.strip,
            ]
        )
        self._draw()
        self.loop.wake()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.view._repr_mimebundle_(**options)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Play stands still within the block."""
        with self.loop.alone():
            yield

    def close(self) -> None:
        """End the thread and take the widgets off the page."""
        self.loop.sleep()
        self.view.close()

    def _toggle(self) -> None:
        self.loop.play(not self.loop.playing)
        self._name_play_button()

    def _name_play_button(self) -> None:
        self.play_button.description = "pause" if self.loop.playing else "play"

    def _read_field(self, change: dict[str, str]) -> None:
        if not change["new"].strip():
            return
        self.field.value = ""
        try:
            self.loop.tap(action_id(change["new"].strip(), len(self.buttons)))
        except ParameterError as error:
            self.message.value = str(error)

    def _choose(self, name: str) -> None:
        self._preset.choose(name)
        self.preset.tooltip = self.message.value = self._preset_meaning()

    def _preset_meaning(self) -> str:
        if self._preset.help:
            return f"not measured on this machine yet; run: {self._preset.help}"
        meant = dict(self._preset.options)
        return meant.get(self._preset.chosen, "steps, temperature and feedback as the notebook sets them")

    def _reset(self) -> None:
        self.game.restart()
        self._draw()

    def _report(self, note: str) -> None:
        self.message.value = note
        self._name_play_button()

    def _show(self, shown: Shown) -> None:
        self._draw()
        self.message.value = f"{shown.generated} frame(s), last step {1000 * shown.model:.0f} ms"

    def _draw(self) -> None:
        frames, actions = self.game.last_frames(STRIP)  # [<=STRIP, H, W, 3]
        captions = ["given" if action is None else str(action) for action in actions]
        scale = max(1, self._size // frames.shape[1])
        self.image.value = png(Image.fromarray(upscale(frames[-1:], scale)[0]))
        self.strip.value = png(contact_sheet([("", frames)], captions, scale=1, columns=STRIP))


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
