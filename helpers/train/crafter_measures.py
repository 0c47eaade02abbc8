"""What makes frames good Crafter, told from tokens and pictures: numpy only, no model and no game package."""

from dataclasses import dataclass

import numpy as np

from helpers.train.crafter_tiles import (
    BEINGS,
    CENTRE,
    GRID,
    GROUNDS,
    ITEMS,
    MAP_PATCHES,
    MAP_ROWS,
    MOVING_TOKENS,
    NEEDS,
    PLAYER_TOKENS,
    SOLID_GROUND,
    STEPS,
    WALKABLE,
    TileSheet,
    map_token,
)

BROKEN = 400.0
"""Mean squared error of a tile (of 255²) from which on it is none of the game's: 22 dB."""

_BEING_BITS = 15
_SHADES = np.zeros(256, bool)  # tokens that may change of themselves, or stand for the player
_SHADES[MOVING_TOKENS] = True
_SHADES[PLAYER_TOKENS] = True
_FREE = np.zeros(256, bool)
_FREE[[map_token(ground) for ground in WALKABLE]] = True
_FACING = {
    map_token(g, f"player-{way}") & _BEING_BITS: a
    for a, way in zip(STEPS, ("left", "right", "up", "down"), strict=True)
    for g in WALKABLE
}


def fields(tokens: np.ndarray) -> np.ndarray:
    """The map of frames: uint8 ``[..., 81]`` -> ``[..., 7, 9]``."""
    return tokens[..., :MAP_PATCHES].reshape(*tokens.shape[:-1], MAP_ROWS, GRID)


def moving(tokens: np.ndarray) -> np.ndarray:
    """Where creatures, arrows, plants or the player are, bool of the same shape."""
    return _SHADES[tokens]


def neighbour(action: int) -> int:
    """The place in the frame that a walking action leads to."""
    column, row = STEPS[action]
    return CENTRE + row * GRID + column


def is_free(tokens: np.ndarray, action: int) -> np.ndarray:
    """Whether a step this way moves the player: uint8 ``[N, 81]`` -> bool ``[N]``."""
    return _FREE[tokens[..., neighbour(action)]]


def is_lava(tokens: np.ndarray, action: int) -> np.ndarray:
    """Whether a step this way would kill the player, bool ``[N]``."""
    return tokens[..., neighbour(action)] >> 4 == GROUNDS["lava"]


def faced_place(tokens: np.ndarray) -> np.ndarray:
    """The place in front of each player, the centre if there is none: ``[N, 81]`` -> int64 ``[N]``."""
    being = tokens[:, CENTRE] & _BEING_BITS
    faced = np.full(len(tokens), CENTRE)
    for number, action in _FACING.items():
        faced[being == number] = neighbour(action)
    return faced


def scrolled(field: np.ndarray, step: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Maps ``[..., 7, 9]`` after a step to (x, y): the maps, and where they are known, bool ``[7, 9]``."""
    column, row = step
    moved = np.roll(field, (-row, -column), (-2, -1))
    known = np.ones(field.shape[-2:], bool)
    if column:
        known[:, -1 if column > 0 else 0] = False
    if row:
        known[-1 if row > 0 else 0] = False
    return moved, known


def did_scroll(before: np.ndarray, after: np.ndarray, action: int) -> int | None:
    """Whether one frame ``[81]`` scrolled into the next; None where one cannot tell."""
    old, new = fields(before), fields(after)
    moved, known = scrolled(old, STEPS[action])
    quiet = known & ~moving(moved) & ~moving(old)
    telling = quiet & (moved != old)
    if telling.sum() < 3:
        return None
    return int((new == moved)[telling].sum() > (new == old)[telling].sum())


def effects(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The places that an action of the hands changed in true steps: ``[N, 81]`` twice -> bool ``[N, 81]``.

    They are the tile faced and the inventory, but for needs that went down by themselves. Nothing is said of
    steps whose outcome one cannot see coming: attacks (a creature's health is hidden) and saplings found.
    """
    rows, faced = np.arange(len(before)), faced_place(before)
    found = np.zeros(before.shape, bool)
    found[rows, faced] = before[rows, faced] != after[rows, faced]
    own = slice(MAP_PATCHES + NEEDS, MAP_PATCHES + len(ITEMS))
    found[:, own] = before[:, own] != after[:, own]
    drink, sapling = (MAP_PATCHES + ITEMS.index(item) for item in ("drink", "sapling"))
    found[:, drink] = after[:, drink] > before[:, drink]
    hidden = _SHADES[before[rows, faced]] | (faced == CENTRE) | (after[:, sapling] > before[:, sapling])
    found[hidden] = False
    return found


def histogram(tokens: np.ndarray) -> np.ndarray:
    """Shares of the 256 tokens on the maps of frames ``[..., 81]``."""
    counts = np.bincount(tokens[..., :MAP_PATCHES].reshape(-1), minlength=256)
    return counts / counts.sum()


def pairs(tokens: np.ndarray) -> np.ndarray:
    """Shares of the 65536 pairs of neighbouring tiles on the maps of frames ``[..., 81]``."""
    maps = fields(tokens).astype(np.int64)
    beside = maps[..., :-1] * 256 + maps[..., 1:]
    below = maps[..., :-1, :] * 256 + maps[..., 1:, :]
    both = np.concatenate((beside.reshape(-1), below.reshape(-1)))
    return np.bincount(both, minlength=65536) / len(both)


def creatures(tokens: np.ndarray) -> np.ndarray:
    """Where cows, zombies and skeletons are, bool of the same shape."""
    being = tokens & _BEING_BITS
    first, last = BEINGS.index("cow"), BEINGS.index("skeleton")
    return (being >= first) & (being <= last) & (tokens >> 4 < SOLID_GROUND)


def vanished(before: np.ndarray, after: np.ndarray, step: tuple[int, int]) -> tuple[int, int]:
    """Creatures of one frame ``[81]`` that are not where they were or beside it in the next.

    Only those are counted that stand two tiles from the border of the view, after it scrolled by ``step``.

    Returns:
        How many vanished, of how many. With the frames exchanged and the step turned round: how many came
        from nowhere.
    """
    old, known = scrolled(fields(before), step)
    there, here = creatures(old) & known, creatures(fields(after))
    near = here.copy()
    near[1:] |= here[:-1]
    near[:-1] |= here[1:]
    near[:, 1:] |= here[:, :-1]
    near[:, :-1] |= here[:, 1:]
    inner = np.zeros_like(there)
    inner[2:-2, 2:-2] = True
    return int((there & inner & ~near).sum()), int((there & inner).sum())


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions ``[K]``, in bits: 0 for equal, 1 for disjoint ones."""
    middle = (one + other) / 2

    def divergence(shares: np.ndarray) -> float:
        known = shares > 0
        return float((shares[known] * np.log2(shares[known] / middle[known])).sum())

    return (divergence(one) + divergence(other)) / 2


def kinds(tokens: np.ndarray) -> float:
    """How many different tiles the map of a frame shows, on average over frames ``[..., 81]``."""
    ordered = np.sort(tokens.reshape(-1, tokens.shape[-1])[:, :MAP_PATCHES], 1)
    return float((np.diff(ordered, axis=1) > 0).sum(1).mean() + 1)


@dataclass(frozen=True)
class Reading:
    """Frames read back as tiles.

    Args:
        tokens: The nearest tiles, uint8 ``[N, 81]``.
        broken: Tiles that are none of the game's, bool ``[N, 81]``.
    """

    tokens: np.ndarray
    broken: np.ndarray


def read(sheet: TileSheet, frames: np.ndarray) -> Reading:
    """Read frames uint8 ``[N, 72, 72, 3]``."""
    tokens, distances = sheet.read(frames)
    return Reading(tokens, distances > BROKEN)


class Track:
    """Follows the map under a walk, to say what must look the same in the end.

    Args:
        first: The first frame's tokens, uint8 ``[81]``.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.first = fields(first)
        self.position = np.zeros(2, int)  # x, y
        self.stayed = np.ones_like(self.first, bool)
        self.touched = moving(self.first).copy()

    def move(self, before: np.ndarray, action: int) -> bool:
        """Account for a walking action at the frame ``before`` ``[81]``; whether the player moves."""
        if not is_free(before, action):
            return False
        self.position += STEPS[action]
        return True

    def see(self, tokens: np.ndarray) -> None:
        """Account for the frame ``[81]`` at the present position."""
        now, known = self._in_first(fields(tokens))
        self.stayed &= known
        self.touched |= known & moving(now)

    def _in_first(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A present map laid over the first one: tiles ``[7, 9]`` and where they are known."""
        x, y = self.position
        rows, columns = np.mgrid[:MAP_ROWS, :GRID]
        there = (rows - y >= 0) & (rows - y < MAP_ROWS) & (columns - x >= 0) & (columns - x < GRID)
        return field[(rows - y).clip(0, MAP_ROWS - 1), (columns - x).clip(0, GRID - 1)], there

    def unchanged(self, tokens: np.ndarray) -> tuple[int, int, int, int]:
        """Of the tiles always in view: right and all; of those that left the view and came back, likewise."""
        now, known = self._in_first(fields(tokens))
        same = now == self.first
        stayed = self.stayed & ~self.touched
        back = known & ~self.stayed & ~self.touched
        return int(same[stayed].sum()), int(stayed.sum()), int(same[back].sum()), int(back.sum())
