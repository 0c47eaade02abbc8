"""The player: a world as a small game console inside JupyterLab.

It plays a game that was opened elsewhere. It must not know how a run is saved and judged, nor headless runs.
Start reading at `loop`, the thread that plays; then `widget`, what page and kernel say to each other.
`film` plays without a page, and keeps pictures of it.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.play.game import Game

if TYPE_CHECKING:
    from helpers.player.plain import PlainPlayer
    from helpers.player.widget import Player


def open_player(game: Game, run: Path) -> "Player | PlainPlayer | None":
    """A player that goes on with the game, shown in the cell; what it saves goes to the folder ``run``.

    None without ``use_interactive_mode``, and for a replay. Running the cell again closes the older player.
    """
    if not game.settings.use_interactive_mode or game.settings.replay:
        return None
    from IPython import get_ipython
    from IPython.display import display

    try:
        import anywidget  # noqa: F401
    except ImportError:
        from helpers.player.plain import PlainPlayer as Console
    else:
        from helpers.player.widget import Player as Console  # type: ignore[assignment]
    player = Console(game, run)
    if shell := get_ipython():
        players, cell = shell.user_ns.setdefault("_players", {}), _cell_id(shell)
        if cell in players:
            players[cell].close()
        players[cell] = player
    display(player)
    return player


def paused(player: "Player | PlainPlayer | None") -> AbstractContextManager[object]:
    """A block in which play stands still, so that the game may be read; does nothing without a player."""
    return player.loop.paused() if player else nullcontext()


def _cell_id(shell: Any) -> str:
    """JupyterLab's id of the cell that runs; empty elsewhere. No public interface of ipykernel has it."""
    kernel = getattr(shell, "kernel", None)
    return str(kernel.get_parent().get("metadata", {}).get("cellId", "")) if kernel else ""
