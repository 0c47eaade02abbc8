"""The player: a world as a small game console inside JupyterLab.

It plays a game that was opened elsewhere. It must not know how a run is saved and judged, nor headless runs.
Start reading at `loop`, the thread that plays; then `widget`, what page and kernel say to each other.
`film` plays without a page, and keeps pictures of it.
"""

import base64
import contextlib
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from helpers.pictures import contact_sheet, png
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld
from helpers.player.keeping import Keeper

if TYPE_CHECKING:
    from helpers.player.plain import PlainPlayer
    from helpers.player.widget import Player


STRIP = 8
"""Frames of the picture that is left in the notebook."""


def kept_game(opened: OpenWorld, settings: Settings) -> Game | None:
    """The game that this cell's player played when it ran before, if world and settings are the same.

    None without such a player. So play outlives a cell that runs again; Reset starts anew.
    """
    with contextlib.suppress(ImportError):
        from IPython import get_ipython

        shell = get_ipython()
        player = shell.user_ns.get("_players", {}).get(_cell_id(shell)) if shell else None
        if player and player.game.settings == settings and player.game.opened.hashes == opened.hashes:
            return cast(Game, player.game)
    return None


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
        from helpers.player.widget import Player as Console
    keeper: Keeper | None = None
    shell = get_ipython()
    players = shell.user_ns.setdefault("_players", {}) if shell else {}
    cell = _cell_id(shell) if shell else ""
    if before := players.pop(cell, None):
        before.close()
        keeper = before.keeper if before.game is game and before.keeper.run == run else None
    player = players[cell] = Console(game, run, keeper=keeper)
    if before and before.game is game:
        player.loop.report(f"Going on after {game.generated} frames. Reset starts anew, and can be undone.")
    display(player)
    picture = display(last_picture(game), raw=True, display_id=True)

    def written(problem: str) -> None:
        if problem:
            player.loop.put(partial(player.loop.report, problem))
        elif picture and not player.loop.playing:
            picture.update(last_picture(game), raw=True)

    player.keeper.written = written
    return player


def last_picture(game: Game) -> dict[str, str]:
    """The last frames, as HTML and as PNG, for a notebook that is opened without its kernel.

    JupyterLab then says that the player's model was not found: the picture takes the place of that, and gives
    it to the player where there is one.
    """
    frames, actions = game.last_frames(STRIP)
    captions = ["given" if action is None else str(action) for action in actions]
    sheet = base64.b64encode(png(contact_sheet([("", frames)], captions, scale=1, columns=STRIP))).decode()
    words = f"The last of {game.generated} frames that were played here. Run the cell to play."
    picture = f'<img src="data:image/png;base64,{sheet}" alt="{words}"><br>{words}'
    return {
        "text/html": f"<style>{_ONE_OF_BOTH}</style><div class='tw-last'>{picture}</div>",
        "image/png": sheet,
    }


_OUTPUT = ".jp-OutputArea-child"
_ONE_OF_BOTH = (
    f"{_OUTPUT}:has(+ {_OUTPUT} .tw-last):not(:has(.tw-player)) {{ display: none; }} "
    f"{_OUTPUT}:has(.tw-player) + {_OUTPUT}:has(.tw-last) {{ display: none; }}"
)


def invite(player: "Player | PlainPlayer | None") -> None:
    """Bring the player into view if nothing was played yet: the cells behind it wait for that."""
    if player and not player.game.generated and hasattr(player, "look"):
        player.look()


def paused(player: "Player | PlainPlayer | None") -> AbstractContextManager[object]:
    """A block in which play stands still, so that the game may be read; does nothing without a player."""
    return player.loop.paused() if player else nullcontext()


def _cell_id(shell: Any) -> str:
    """JupyterLab's id of the cell that runs; empty elsewhere. No public interface of ipykernel has it."""
    kernel = getattr(shell, "kernel", None)
    return str(kernel.get_parent().get("metadata", {}).get("cellId", "")) if kernel else ""
