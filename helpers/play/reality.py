"""How real a world that is played still is: whether its pictures are like its data, and whether it is stuck.

All ask for moments from where play stands back to the start, as `Game.back` gives them.
"""

import itertools
import statistics
from collections.abc import Iterable

from helpers.play.tree import Moment

JUDGED = 4  # steps over which the strain is a mean
GOOD = 0.5  # of less strain is a frame that may be gone back to
STILL = 24  # equal steps after which a world may be stuck
TRIED = 3  # different actions that must have been taken meanwhile


def strain(back: Iterable[Moment]) -> float:
    """How far the last pictures are from what the data shows, 0 to 1."""
    return statistics.mean(moment.strain for moment in itertools.islice(back, JUDGED))


def stuck(back: Iterable[Moment]) -> bool:
    """Whether nothing has changed for long, whatever was done."""
    last = list(itertools.islice(back, STILL))
    actions = {moment.move.action for moment in last if moment.move}
    same = len({tuple(moment.hashes) for moment in last}) == 1
    return len(last) == STILL and len(actions) >= TRIED and same


def last_good(back: Iterable[Moment], needed: int) -> int:
    """How many steps to go back to where this many, all that the models see, were like the data.

    From nowhere on it is all steps: to the start.
    """
    number = run = 0
    for number, moment in enumerate(back):
        run = run + 1 if moment.strain < GOOD else 0
        if run == needed:
            return number - needed + 1
    return number
