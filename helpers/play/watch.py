"""Evidence while a game is played from start to end: log lines, a progress bar, and what the GPU did."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from helpers.play.compute import gpu_uuid, stepping
from helpers.play.game import Game
from helpers.play.gpu_trace import GpuTrace

log = logging.getLogger("runbook.play")

LOOP_STARTS, LOOP_ENDS = "inference loop starts", "inference loop ends"
"""What the log says, and what the proof looks for."""

Item = TypeVar("Item")


@contextlib.contextmanager
def watched(game: Game, items: Sequence[Item], doing: str, unit: str) -> Iterator[Iterable[Item]]:
    """Watch what a game does with ``items``, its steps or events; ``game.trace`` is then what the GPU did.

    ``doing`` is what the progress bar is called, ``unit`` what an item is.
    """
    from tqdm.auto import tqdm

    device = game.opened.suite.device
    game.trace = GpuTrace(uuid=gpu_uuid(device)) if device.type == "cuda" else None
    log.info(f"{LOOP_STARTS}: {doing} %d %s(s) on %s", len(items), unit, device)
    # A bar of nothing would stand above the player and never move.
    with stepping(game.opened.world), game.trace or contextlib.nullcontext():
        yield tqdm(items, desc=doing, unit=unit) if items else items
    log.info(f"{LOOP_ENDS}: %d frames in %.2f s", game.generated, sum(game.clock.seconds))
