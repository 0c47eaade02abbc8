"""Which presets a player offers, and what choosing one does. Shared by both fronts."""

from pathlib import Path

from helpers.errors import ParameterError
from helpers.play.game import Game, Play
from helpers.player.loop import FASTEST, Loop
from helpers.presets import measure
from helpers.presets.measure import frames_a_second

AS_SET = ""
"""The choice of no preset: steps, temperature and feedback as the player or the notebook set them."""


class Preset:
    """What was measured for a game's world on its device, as presets to choose from while it is played.

    Args:
        game: What is played; `choose` sets its steps, temperature and feedback from the next step on, and the
            game records them like any others.
        loop: What plays it; its pace follows the preset.
        root: The folder that holds ``outputs/``, where measurements are kept.
    """

    def __init__(self, game: Game, loop: Loop, root: Path) -> None:
        self._game, self._loop = game, loop
        self._folder = root / "outputs" / "presets"
        self._ways: dict[str, measure.Way] = {}
        self._name = AS_SET
        self._before: tuple[Play, float] | None = None
        self.look()
        asked = game.settings.preset and f"{frames_a_second(game.settings.preset)}fps"
        if asked in self._ways and not game.settings.replay:
            self._name = asked

    def look(self) -> None:
        """Look again at what was measured: it may have happened meanwhile, in a terminal."""
        game = self._game
        found = measure.read(game.opened, game.settings, self._folder)
        asked = [frames_a_second(game.settings.preset)] if game.settings.preset else []
        rates = sorted({*measure.RATES, *asked})
        self._ways = measure.offered(found, rates) if found else {}

    @property
    def options(self) -> list[tuple[str, str]]:
        """The presets that are reached, such as ``"30fps"``, and what each of them means."""
        return [(name, str(way)) for name, way in self._ways.items()]

    @property
    def help(self) -> str:
        """How to get presets; empty where there are some."""
        game = self._game
        return "" if self._ways else measure.command(game.opened, game.settings)

    @property
    def chosen(self) -> str:
        """The preset that is played; `AS_SET` where there is none, or it was set otherwise since."""
        way, play = self._ways.get(self._name), self._game.play
        same = way and (way.steps, way.temperature, way.feedback) == (
            play.steps,
            play.temperature,
            play.feedback,
        )
        return self._name if same else AS_SET

    def choose(self, name: str) -> None:
        """Play as a preset says, at its pace; `AS_SET` goes back to what was set before.

        Raises:
            ParameterError: This machine was not measured to reach it.
        """
        if name != AS_SET and name not in self._ways:
            raise ParameterError(
                f"{name!r} is no preset that was measured to be reached.",
                fix=f"Choose of {', '.join(self._ways)}." if self._ways else f"Measure: {self.help}",
            )
        chosen = self.chosen
        if name == AS_SET:
            if chosen != AS_SET and self._before is not None:
                play, fps = self._before
                self._game.set(steps=play.steps, temperature=play.temperature, feedback=play.feedback)
                self._loop.fps = fps
            self._name = AS_SET
            return
        if chosen == AS_SET:
            self._before = self._game.play, self._loop.fps
        way = self._ways[name]
        self._game.set(steps=way.steps, temperature=way.temperature, feedback=way.feedback)
        self._loop.fps = min(frames_a_second(name), FASTEST)
        self._name = name
