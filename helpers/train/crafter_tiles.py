"""The tiles of Crafter and the token of each: numpy only, no game and no model.

A frame is 9x9 tiles of 8x8 pixels: seven rows of map, then two rows of inventory with a fixed slot for every
item. A token has eight bits that mean something, which makes the dynamics easy to learn:

    bit 7      0: map, 1: inventory
    map        bits 4-6 the ground (bit 6: one cannot walk on it), bits 0-3 who stands on it
    inventory  bits 0-3 the amount, 0 to 9; which item it is follows from the place in the frame

Things that cover their ground whole (tree, stone, table, …) share ground number 6, told apart by bits 0-3.
"""

import numpy as np

GRID = 9
TILE = 8
MAP_ROWS = 7
PATCHES = GRID * GRID
MAP_PATCHES = GRID * MAP_ROWS
CENTRE = 3 * GRID + 4
TOKEN_BITS = 8

NOTHING, LEFT, RIGHT, UP, DOWN, DO, PLACE, CRAFT = range(8)
ACTIONS = ("nothing", "left", "right", "up", "down", "do", "place", "craft")
STEPS = {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, -1), DOWN: (0, 1)}
"""The step of each walking action as (x, y), in tiles."""

GROUNDS = {"grass": 0, "sand": 1, "path": 2, "water": 4, "lava": 5}
WALKABLE = ("grass", "sand", "path")
SOLIDS = ("tree", "stone", "coal", "iron", "diamond", "table", "furnace", "void")
SOLID_GROUND = 6
BEINGS = (
    "",
    "player-left",
    "player-right",
    "player-up",
    "player-down",
    "cow",
    "zombie",
    "skeleton",
    "arrow-left",
    "arrow-right",
    "arrow-up",
    "arrow-down",
    "plant",
    "plant-ripe",
)
ITEMS = (
    "health",
    "food",
    "drink",
    "energy",
    "sapling",
    "wood",
    "stone",
    "coal",
    "iron",
    "diamond",
    "wood_pickaxe",
    "stone_pickaxe",
    "iron_pickaxe",
    "wood_sword",
    "stone_sword",
    "iron_sword",
)
NEEDS = 4  # the first items: they go down by themselves
MOST = 9
INVENTORY_BIT = 128


def map_token(ground: str, being: str = "") -> int:
    """The token of a map tile: ``ground`` is a material or ``"void"``, ``being`` a name in `BEINGS`."""
    if ground in GROUNDS:
        return GROUNDS[ground] << 4 | BEINGS.index(being)
    return SOLID_GROUND << 4 | SOLIDS.index(ground)


def item_token(amount: int) -> int:
    """The token of an inventory slot that holds ``amount`` (0 to 9) of its item."""
    return INVENTORY_BIT | amount


def _can_stand() -> list[tuple[str, str]]:
    """Every (ground, being) that the game can show."""
    shown = [(ground, being) for ground in WALKABLE for being in BEINGS if "plant" not in being]
    shown += [("grass", being) for being in BEINGS if "plant" in being]
    shown += [(ground, being) for ground in ("water", "lava") for being in ("", *BEINGS[8:12])]
    return shown + [("lava", being) for being in BEINGS[1:5]] + [(solid, "") for solid in SOLIDS]


MAP_TILES = _can_stand()
MAP_TOKENS = np.array([map_token(*tile) for tile in MAP_TILES], np.uint8)
ITEM_TOKENS = np.array([item_token(amount) for amount in range(MOST + 1)], np.uint8)
PLAYER_TOKENS = np.array([map_token(*tile) for tile in MAP_TILES if tile[1].startswith("player")], np.uint8)
MOVING_TOKENS = np.array(
    [map_token(*tile) for tile in MAP_TILES if tile[1] and not tile[1].startswith("player")], np.uint8
)
"""Tiles that may change of themselves: creatures, arrows and plants."""


class TileSheet:
    """The pictures of all tiles, and frames drawn from tokens.

    Args:
        map_tiles: Pictures of `MAP_TILES` in their order, uint8 ``[tiles, 8, 8, 3]``.
        item_tiles: Pictures of each inventory slot with each amount, uint8 ``[18, 10, 8, 8, 3]``.
    """

    def __init__(self, map_tiles: np.ndarray, item_tiles: np.ndarray) -> None:
        self.map_tiles, self.item_tiles = map_tiles, item_tiles
        self._pictures = np.zeros((PATCHES, 256, TILE, TILE, 3), np.uint8)
        self._pictures[:, MAP_TOKENS] = map_tiles
        self._pictures[:MAP_PATCHES, INVENTORY_BIT:] = item_tiles[-1, 0]
        self._pictures[MAP_PATCHES:, ITEM_TOKENS] = item_tiles

    @property
    def pictures(self) -> np.ndarray:
        """What each token looks like at each place, black if like nothing: uint8 ``[81, 256, 8, 8, 3]``."""
        return self._pictures

    def draw(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens uint8 ``[..., 81]`` -> frames uint8 ``[..., 72, 72, 3]``."""
        tiles = self._pictures[np.arange(PATCHES), tokens]  # [..., 81, 8, 8, 3]
        lead = tokens.shape[:-1]
        grid = tiles.reshape(-1, GRID, GRID, TILE, TILE, 3).transpose(0, 1, 3, 2, 4, 5)
        return grid.reshape(*lead, GRID * TILE, GRID * TILE, 3)

    def read(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest tile at every place of frames uint8 ``[N, 72, 72, 3]``.

        Returns:
            Tokens uint8 ``[N, 81]``, and how far from that tile's picture each place is: the mean squared
            difference of its pixel values, float32 ``[N, 81]``.
        """
        tiles = cut_tiles(frames)  # [N, 81, 192]
        tokens = np.empty(tiles.shape[:2], np.uint8)
        distances = np.empty(tiles.shape[:2], np.float32)
        for places, known in ((slice(0, MAP_PATCHES), MAP_TOKENS), (slice(MAP_PATCHES, None), ITEM_TOKENS)):
            for place in range(*places.indices(PATCHES)):
                pictures = self._pictures[place, known].reshape(len(known), -1).astype(np.float32)
                seen = tiles[:, place].astype(np.float32)
                squares = (seen**2).sum(1)[:, None] + (pictures**2).sum(1) - 2 * seen @ pictures.T
                nearest = squares.argmin(1)
                tokens[:, place] = known[nearest]
                distances[:, place] = squares.min(1).clip(0) / seen.shape[1]
        return tokens, distances


def cut_tiles(frames: np.ndarray) -> np.ndarray:
    """Frames ``[N, 72, 72, 3]`` -> tiles ``[N, 81, 192]``, row by row."""
    grid = frames.reshape(-1, GRID, TILE, GRID, TILE, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, PATCHES, TILE * TILE * 3)
