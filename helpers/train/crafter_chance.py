"""Where chance decides in Crafter, and the dice that let a world decide it the same way at every tile.

Decoding in one step draws every tile by itself. A cow that may go one of four ways would then often be drawn
twice, or not at all. So the world is taught to throw dice first: the two inventory slots that no item uses,
drawn black whatever they hold, say where the creatures of the left and of the right half of the view go next.
A frame's dice are drawn with the frame and decide about the one after it. A frame that the world did not
generate has none (0), and its creatures' next moves are drawn tile by tile.

Tiles that chance decides (`by_chance`) are also trained so that the temperature the world is played at gives
them the game's own shares, while everything else becomes surer than it was: see `crafter_dynamics`.
"""

import numpy as np

from helpers.train.crafter_measures import creatures, fields, is_free
from helpers.train.crafter_tiles import (
    DOWN,
    GRID,
    INVENTORY_BIT,
    ITEMS,
    LEFT,
    MAP_PATCHES,
    MAP_ROWS,
    NEEDS,
    PATCHES,
    RIGHT,
    STEPS,
    UP,
)

UNKNOWN, STAY = 0, 5  # the other sides of a die are the walking actions
DICE = (PATCHES - 2, PATCHES - 1)
"""The places in the frame of the left and the right half's die."""

BLOCKED_SHARE = 0.25  # a creature that may stay tries a way that is blocked this often, for each such way
MIDDLE = GRID // 2


def shifts(tokens: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How far each step moves the player, (x, y): frames ``[N, 81]``, actions ``[N]`` -> int64 ``[N, 2]``."""
    found = np.zeros((len(tokens), 2), np.int64)
    for action, step in STEPS.items():
        rows = np.flatnonzero(actions == action)
        found[rows[is_free(tokens[rows], action)]] = step
    return found


def throw(tokens: np.ndarray, actions: np.ndarray, episodes: np.ndarray, seed: int = 0) -> np.ndarray:
    """The dice that a recording's creatures followed.

    Args:
        tokens: uint8 ``[N, 81]``.
        actions: uint8 ``[N]``.
        episodes: int32 ``[N]``.
        seed: Of what the recording leaves open.

    Returns:
        Sides uint8 ``[N, 2]``; unknown in the last frame of an episode.
    """
    rng = np.random.default_rng(seed)
    maps = fields(tokens)
    here = creatures(tokens)[:, :MAP_PATCHES].reshape(-1, MAP_ROWS, GRID)
    moved = shifts(tokens, actions)
    dice = np.full((len(tokens), 2), STAY, np.uint8)
    for row in np.flatnonzero(here[:-1].any((1, 2))):
        for half, columns in enumerate((slice(0, MIDDLE), slice(MIDDLE, GRID))):
            places = np.argwhere(here[row, :, columns])
            if len(places):
                places = places + np.array((0, columns.start))
                distance = np.abs(places - (MAP_ROWS // 2, MIDDLE)).sum(1)
                nearest = places[distance.argmin()]
                dice[row, half] = _side(maps[row], maps[row + 1], nearest, moved[row], rng)
    dice[:-1][episodes[1:] != episodes[:-1]] = UNKNOWN
    dice[-1] = UNKNOWN
    return dice


def _side(
    now: np.ndarray, then: np.ndarray, place: np.ndarray, moved: np.ndarray, rng: np.random.Generator
) -> int:
    """The side of the die that moved the creature at ``place`` (row, column) of a map into the next one."""
    kind = now[tuple(place)] & 15
    blocked = []
    came = STAY
    for action in (LEFT, RIGHT, UP, DOWN):
        column, row = STEPS[action]
        there = place + np.array((row, column))
        if not _inside(there) or not _open(now[tuple(there)]):
            blocked.append(action)
            continue
        seen = there - moved[::-1]
        if _inside(seen) and then[tuple(seen)] & 15 == kind and _has_creature(then[tuple(seen)]):
            came = action
    seen = place - moved[::-1]
    stayed = _inside(seen) and then[tuple(seen)] & 15 == kind and _has_creature(then[tuple(seen)])
    if came != STAY and not stayed:
        return came
    open_share = max(0.0, 1 - BLOCKED_SHARE * len(blocked))
    return STAY if not blocked or rng.random() < open_share else int(rng.choice(blocked))


def _inside(place: np.ndarray) -> bool:
    return bool(0 <= place[0] < MAP_ROWS and 0 <= place[1] < GRID)


def _open(token: int) -> bool:
    """Whether a creature could step there: walkable ground, and nobody on it."""
    return not token & 15 and not token & 64


def _has_creature(token: int) -> bool:
    return bool(creatures(np.array([token], np.uint8))[0])


def with_dice(tokens: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """Frames ``[N, 81]`` that hold dice ``[N, 2]``: a copy."""
    thrown = tokens.copy()
    thrown[:, DICE[0] :] = INVENTORY_BIT | dice
    return thrown


def by_chance(tokens: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Which tiles of the next frame chance decides: frames ``[N, 81]``, actions ``[N]`` -> bool ``[N, 81]``.

    New land, needs, saplings found, and the dice. Creatures follow the dice; what these leave open is better
    drawn as the likeliest, which is to stay, than by each tile on its own.
    """
    found = np.zeros(tokens.shape, bool)
    found[:, MAP_PATCHES : MAP_PATCHES + NEEDS] = True
    found[:, MAP_PATCHES + ITEMS.index("sapling")] = True
    found[:, DICE[0] :] = True
    moved = shifts(tokens, actions)
    area = np.zeros((len(tokens), MAP_ROWS, GRID), bool)
    for step in STEPS.values():
        rows = np.flatnonzero((moved == step).all(1))
        if step[0]:
            area[rows, :, -1 if step[0] > 0 else 0] = True
        if step[1]:
            area[rows, -1 if step[1] > 0 else 0] = True
    found[:, :MAP_PATCHES] = area.reshape(len(tokens), -1)
    return found
