"""A world's keys as a picture: a keycap for each, those lit that the action holds down, and its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from helpers.player.keymap import KeyMap
from helpers.player.labels import ActionLabel

BOARD, CAP, SIDE, INK = "#18202b", "#f2f4f7", "#9aa5b4", "#1c2430"
LIT, LIT_SIDE = "#ff9f1c", "#b96d00"
"""The colours: of keys that are up, and of keys that are down."""

_MARGIN, _UNIT, _GAP, _DEPTH = 16, 38, 6, 4  # pixels
_PITCH = _UNIT + _GAP
_SMOOTH = 4  # drawn so many times as large, for smooth edges
_ARROWS = {"ArrowUp": (1, 0), "ArrowLeft": (0, 1), "ArrowDown": (1, 1), "ArrowRight": (2, 1)}  # column, row
_TURNS = {"ArrowUp": 0, "ArrowRight": 90, "ArrowDown": 180, "ArrowLeft": 270}


@dataclass(frozen=True)
class Keycaps:
    """The keys of a world.

    Args:
        labels: What each action id is called.
        keys: The chords of each action id; the first one is shown.
        width: Of the drawing, in pixels.
    """

    labels: Sequence[ActionLabel]
    keys: KeyMap
    width: int

    def held(self, action: int | None) -> list[str]:
        """The keys that are down while an action is taken; none for the idle one, or for no action."""
        chords = () if action is None or action == self.keys.idle else self.keys.keys.get(action, ())
        return chords[0].split("+") if chords else []

    @cached_property
    def places(self) -> Mapping[str, tuple[int, int, int]]:
        """Left, top and width of every keycap, in pixels: arrows as on a keyboard, the others beside them."""
        codes = dict.fromkeys(code for label in self.labels if not label.dead for code in self.held(label.id))
        places = {}
        for code in [code for code in codes if code in _ARROWS]:
            column, row = _ARROWS[code]
            places[code] = _MARGIN + column * _PITCH, _MARGIN + row * _PITCH, _UNIT
        x, y = self._beside, _MARGIN + _PITCH
        for code in [code for code in codes if code not in _ARROWS]:
            width = 3 * _UNIT if code == "Space" else _UNIT
            if x + width > self.width - _MARGIN:
                x, y = self._beside, y + _PITCH
            places[code] = x, y, width
            x += width + _GAP
        return places

    @cached_property
    def height(self) -> int:
        """Of the drawing, in pixels."""
        return max([top for _, top, _ in self.places.values()], default=_MARGIN) + _UNIT + _MARGIN

    @property
    def _beside(self) -> int:
        """Where the arrows end, and the name and the other keys begin."""
        return _MARGIN + 3 * _PITCH + 2 * _GAP

    def draw(self, action: int | None) -> np.ndarray:
        """The keys while an action is taken, uint8 ``[height, width, 3]``."""
        image = Image.new("RGB", (self.width * _SMOOTH, self.height * _SMOOTH), BOARD)
        draw, held = ImageDraw.Draw(image), self.held(action)
        for code, (x, y, width) in self.places.items():
            _draw_cap(draw, code, (x, y, width), code in held)
        for label in self.labels:
            if label.id == action and held:
                font = ImageFont.load_default(22 * _SMOOTH)
                place = _SMOOTH * self._beside, _SMOOTH * (_MARGIN + _UNIT // 2)
                name = f"action {label.id}" if label.dead else label.name
                draw.text(place, name, LIT, font, anchor="lm")
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.LANCZOS))


def _draw_cap(draw: ImageDraw.ImageDraw, code: str, place: tuple[int, int, int], lit: bool) -> None:
    """A keycap at ``place``: left, top and width; one that is lit is pressed down as well."""
    x, y, width = (_SMOOTH * pixels for pixels in place)
    unit, depth, radius = _SMOOTH * _UNIT, _SMOOTH * _DEPTH, _SMOOTH * 7
    top = y + depth // 2 if lit else y
    draw.rounded_rectangle((x, top, x + width, y + unit), radius, LIT_SIDE if lit else SIDE)
    draw.rounded_rectangle((x, top, x + width, top + unit - depth), radius, LIT if lit else CAP)
    middle = x + width / 2, top + (unit - depth) / 2
    if code in _TURNS:
        draw.regular_polygon((*middle, unit / 4.5), 3, rotation=-_TURNS[code], fill=INK)
    else:
        text = code.removeprefix("Key").removeprefix("Digit")
        draw.text(middle, text, INK, ImageFont.load_default(16 * _SMOOTH), anchor="mm")
