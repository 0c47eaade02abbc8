"""Playing by hand: a world as a small game console inside JupyterLab.

It plays a `Game` of the play room. It must not know headless runs. Start reading at `open_player`.

`loop` is the thread that plays, `widget` (with `player.js` and `player.css`) what is seen and touched,
`plain` what is shown where anywidget is missing; `keymap`, `preset` and `keep` are what they share.

    console = open_player(game, run)          # shown in the cell; None unless the settings ask for a player
    with paused(console):                     # play stands still
        results.save(game, run)
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from helpers.play.game import Game


class AnyPlayer(Protocol):
    """What the notebook needs of a player, whichever it is."""

    def paused(self) -> contextlib.AbstractContextManager[object]:
        """Play stands still within the block, and nothing that the page asks for is done."""

    def close(self) -> None:
        """End the thread and take the player off the page."""


def open_player(game: Game, run: Path) -> AnyPlayer | None:
    """A player that goes on with ``game``, shown in the cell; None unless ``use_interactive_mode``.

    Running the cell again closes the player that it opened before.

    Args:
        game: What is played; its steps so far count as played.
        run: The folder for what the player saves.
    """
    if not game.settings.use_interactive_mode or game.settings.replay:
        return None
    from IPython.display import display

    player = _player_class()(game, run)
    _take_the_place_of_an_older_one(player)
    display(player)
    return player


def paused(player: AnyPlayer | None) -> contextlib.AbstractContextManager[object]:
    """A block in which the player's game may be read and saved; does nothing where there is no player."""
    return player.paused() if player else contextlib.nullcontext()


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
