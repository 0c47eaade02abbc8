"""Plays by itself, for a film: in Crafter like somebody who gathers, builds and drinks, elsewhere by chance.

An autopilot is called with the tokens that the last step generated, int ``[T, P]`` and none at the start, and
returns the next action.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence

import numpy as np

from helpers.player.labels import ActionLabel

Autopilot = Callable[[np.ndarray], int]

# Crafter's actions and tokens, as `helpers.train.crafter_tiles` defines them: 7 rows of 9 map tiles, then
# the inventory.
NOTHING, LEFT, RIGHT, UP, DOWN, DO, PLACE, CRAFT = range(8)
WAYS = {LEFT: (0, -1), RIGHT: (0, 1), UP: (-1, 0), DOWN: (1, 0)}
"""The step of each walking action: rows down, columns to the right."""
ROWS, COLUMNS = 7, 9
HERE = ROWS // 2, COLUMNS // 2
GRASS, SAND, PATH, WATER = 0x00, 0x10, 0x20, 0x40
TREE, STONE, COAL, IRON, TABLE = 0x60, 0x61, 0x62, 0x63, 0x65
COWS = {ground | 5 for ground in (GRASS, SAND, PATH)}
ZOMBIES = {ground | 6 for ground in (GRASS, SAND, PATH)}
FREE = {GRASS, SAND, PATH}
DRINK, SAPLINGS, WOOD, STONES, PICKAXE, STONE_PICKAXE, SWORD = 2, 4, 5, 6, 10, 11, 13
"""Places in the inventory."""

WHILE, FRAMES = 48, 14  # of so many frames, at most so many are spent on one kind of thing


class CrafterPilot:
    """Walks to what is near and of use, and uses it; where there is nothing, it walks on.

    Args:
        seed: Of what it does where several things are as good.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._heading = int(self._rng.integers(LEFT, DO))
        self._spent: Counter[str] = Counter()
        self._frames = 0

    def __call__(self, tokens: np.ndarray) -> int:
        """The next action."""
        self._frames += 1
        if self._frames % WHILE == 0:
            self._spent.clear()
        if not len(tokens):
            return NOTHING
        view, have = tokens[-1, : ROWS * COLUMNS].reshape(ROWS, COLUMNS), tokens[-1, ROWS * COLUMNS :] & 15
        facing = int(view[HERE]) & 15  # beings 1 to 4 are the player, who looks the way of that action
        if facing not in WAYS:
            return NOTHING
        ahead = int(view[_next(HERE, facing)])
        return (
            self._craft(view, have, ahead) or self._use(view, have, facing) or self._walk(view, have, ahead)
        )

    def _spend(self, kind: str, most: int = FRAMES) -> bool:
        """Whether there is still time for this kind of thing; if so, a frame of it is spent."""
        self._spent[kind] += self._spent[kind] < most
        return self._spent[kind] < most

    def _craft(self, view: np.ndarray, have: np.ndarray, ahead: int) -> int:
        """A table once there is wood for it and for tools; at the table, tools."""
        row, column = HERE
        at_table = (view[row - 1 : row + 2, column - 1 : column + 2] == TABLE).any()
        missing = have[PICKAXE] == 0 or have[SWORD] == 0 or (have[STONES] and have[STONE_PICKAXE] == 0)
        if at_table and missing and have[WOOD] and self._spend("tool", 5):
            return CRAFT
        builds = have[WOOD] >= 4 and ahead in FREE and not (view == TABLE).any()
        return CRAFT if builds and self._spend("table", 3) else NOTHING

    def _use(self, view: np.ndarray, have: np.ndarray, facing: int) -> int:
        """A step towards the nearest thing that is of use now, or its use."""
        wanted = {
            "water": {WATER} if have[DRINK] < 9 else set(),
            "tree": {TREE} if have[WOOD] < 5 else set(),
            "table": {TABLE} if have[WOOD] and not have[PICKAXE] else set(),
            "stone": {STONE, COAL} if have[PICKAXE] and have[STONES] < 5 else set(),
            "iron": {IRON} if have[STONE_PICKAXE] else set(),
            "cow": COWS,
            "zombie": ZOMBIES,
        }
        kinds = {token: kind for kind, tokens in wanted.items() for token in tokens}
        useful = {token: kind for token, kind in kinds.items() if self._spent[kind] < FRAMES}
        found = nearest(view, set(useful))
        if found is None:
            return NOTHING
        first, steps, token = found
        self._spent[useful[token]] += 1
        self._heading = first
        return DO if steps == 1 and first == facing else first

    def _walk(self, view: np.ndarray, have: np.ndarray, ahead: int) -> int:
        """On, with a stone or a sapling put down now and then; a turn where the way is blocked."""
        puts = (have[STONES] and ahead in {*FREE, WATER}) or (have[SAPLINGS] and ahead == GRASS)
        if puts and self._rng.random() < 0.2 and self._spend("place", 3):
            return PLACE
        free = [way for way in WAYS if int(view[_next(HERE, way)]) in FREE]
        if self._heading not in free or self._rng.random() < 0.06:
            sideways = [way for way in free if (way > RIGHT) != (self._heading > RIGHT)]
            self._heading = int(self._rng.choice(sideways or free or list(WAYS)))
        return self._heading


def nearest(view: np.ndarray, wanted: set[int]) -> tuple[int, int, int] | None:
    """The nearest of some tiles that one can walk to: the first step there, how many steps, and its token.

    ``view`` is int ``[7, 9]``, the player in the middle; the last step is that onto the tile itself.
    """
    queue = deque((_next(HERE, way), way, 1) for way in WAYS)
    seen = {HERE}
    while queue:
        place, first, steps = queue.popleft()
        if place in seen or not (0 <= place[0] < ROWS and 0 <= place[1] < COLUMNS):
            continue
        seen.add(place)
        token = int(view[place])
        if token in wanted:
            return first, steps, token
        if token in FREE:
            queue += [(_next(place, way), first, steps + 1) for way in WAYS]
    return None


def _next(place: tuple[int, int], way: int) -> tuple[int, int]:
    """The place that a step leads to."""
    return place[0] + WAYS[way][0], place[1] + WAYS[way][1]


def held_keys(labels: Sequence[ActionLabel], seed: int) -> Autopilot:
    """An autopilot for any world: actions that mean something, at random, each held for a while."""
    rng = np.random.default_rng(seed)
    known = [label.id for label in labels if not label.dead] or [label.id for label in labels]
    held: list[int] = []

    def act(_tokens: np.ndarray) -> int:
        if not held:
            held.extend([int(rng.choice(known))] * int(rng.integers(2, 10)))
        return held.pop()

    return act
