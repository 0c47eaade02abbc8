"""Which presets a player offers, and what choosing one does. Shared by both front ends."""

from pathlib import Path
from typing import Any

from helpers.errors import ParameterError
from helpers.play.game import Game
from helpers.player.loop import FASTEST, Loop
from helpers.presets import choose as presets

AS_SET = ""  # the choice of no preset: steps, temperature and feedback as player or notebook set them


class Preset:
    """What was measured for a game's world on its device, from ``root/outputs/presets``, to choose from."""

    def __init__(self, game: Game, loop: Loop, root: Path) -> None:
        self._game, self._loop = game, loop
        self._folder = root / "outputs" / "presets"
        self._name = self._own = "".join(game.settings.preset.lower().split())
        self._before: tuple[Any, float] = game.play, loop.fps
        self.look()

    def look(self) -> None:
        """Read what was measured; it may have been measured meanwhile, in a terminal."""
        opened, settings = self._game.opened, self._game.settings
        measurement = presets.read(opened, settings, self._folder)
        rates = {*presets.RATES, *([presets.frames_a_second(self._own)] if self._own else [])}
        self._reached = presets.offered(measurement, sorted(rates)) if measurement else {}
        self.note = presets.reached(self._own, measurement)[1] if measurement and self._own else ""
        note = f". {measurement.caution}" if measurement and measurement.caution else ""
        self.options = [
            (name, f"{decoding}{note}") for name, decoding in self._reached.items()
        ]  # its meaning
        self.help = "" if self._reached else presets.command(opened, settings)  # how to get any

    @property
    def chosen(self) -> str:
        """The preset that is played; `AS_SET` where there is none, or something else was set since."""
        decoding = self._reached.get(self._name)
        return self._name if decoding and _values(decoding) == _values(self._game.play) else AS_SET

    @property
    def meaning(self) -> str:
        """What the choice means, or how to get one."""
        if self.help:
            return f"not measured on this machine yet; run: {self.help}"
        as_set = "steps, temperature and feedback as set; a preset sets them, and the pace"
        return dict(self.options).get(self.chosen, as_set)

    def choose(self, name: str) -> None:
        """Play as a preset says, at its pace; `AS_SET` goes back to what was set before.

        A `ParameterError` where this machine was not measured to reach it.
        """
        if name and name not in self._reached:
            fix = f"Measure: {self.help}" if self.help else f"Choose of {', '.join(self._reached)}."
            raise ParameterError(f"{name!r} is no preset that was measured to be reached.", fix=fix)
        if not self.chosen:
            self._before = self._game.play, self._loop.fps
        play, self._loop.fps = self._before
        if name:
            play, self._loop.fps = self._reached[name], min(presets.frames_a_second(name), FASTEST)
        self._game.set(**_values(play))
        self._name = name


def _values(decoding: Any) -> dict[str, Any]:
    """What a preset sets."""
    return {name: getattr(decoding, name) for name in ("steps", "temperature", "feedback")}
