"""The player: a world as a small game console inside JupyterLab.

`loop` is the thread that plays, `widget` (with `player.js` and `player.css`) what is seen and touched,
`plain` what is shown where anywidget is missing; `keymap`, `preset` and `keep` are what they share.

    game = open_player(opened, clip, settings, made, run)     # shown in the cell
    made = played(game, made)                                 # what was played so far
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from helpers.play.game import Game
from helpers.play.rollout import OpenWorld, Rollout, Settings


class AnyPlayer(Protocol):
    """What the notebook needs of a player, whichever it is."""

    def rollout(self) -> Rollout:
        """What was played so far, on the branch where play stands; play is paused."""

    def close(self) -> None:
        """End the thread and take the player off the page."""


def open_player(opened: OpenWorld, settings: Settings, rollout: Rollout, run: Path) -> AnyPlayer | None:
    """A player that goes on from ``rollout``, shown in the cell; None unless ``use_interactive_mode``.

    Running the cell again closes the player that it opened before.

    Args:
        opened: The world.
        settings: Of the notebook.
        rollout: Where play starts: its steps count as played.
        run: The folder for what the player saves.
    """
    if not settings.use_interactive_mode or settings.replay:
        return None
    from IPython.display import display

    player = _player_class()(Game.from_rollout(opened, rollout, settings), run)
    _take_the_place_of_an_older_one(player)
    display(player)
    return player


def played(player: AnyPlayer | None, rollout: Rollout) -> Rollout:
    """What there is to save: what was played by now, or ``rollout`` where there is no player."""
    return player.rollout() if player else rollout


def _player_class() -> Callable[[Game, Path], AnyPlayer]:
    try:
        import anywidget  # noqa: F401
    except ImportError:
        from helpers.player.plain import PlainPlayer

        return PlainPlayer
    from helpers.player.widget import Player

    return Player


def _take_the_place_of_an_older_one(player: AnyPlayer) -> None:
    """Close the player that this cell opened before; the kernel's namespace remembers it."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    kernel = getattr(shell, "kernel", None)
    cell = kernel.get_parent().get("metadata", {}).get("cellId", "") if kernel else ""
    players = shell.user_ns.setdefault("_players", {})
    older = players.pop(cell, None)
    if older is not None:
        older.close()
    players[cell] = player
