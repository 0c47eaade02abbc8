"""Crafter with the eight actions of this world: needs the package ``crafter`` 1.8.3, and no model.

    nothing, left, right, up, down
    do       collect, attack, drink, eat what one faces
    place    a stone, else a sapling
    craft    a table if none is near, else the next tool that is possible, else a furnace

It is always day. Everything that reaches into the package's private parts is in this module.
"""

import importlib
from typing import Any

import numpy as np

from helpers.errors import DatasetError, ParameterError
from helpers.train.crafter_tiles import (
    BEINGS,
    CRAFT,
    DO,
    GRID,
    ITEMS,
    MAP_PATCHES,
    MAP_ROWS,
    MAP_TILES,
    MOST,
    PATCHES,
    PLACE,
    STEPS,
    TILE,
    TileSheet,
    item_token,
    map_token,
)

TOOLS = ("wood_pickaxe", "stone_pickaxe", "wood_sword", "stone_sword", "iron_pickaxe", "iron_sword")
NEEDED_TOOL = {
    "stone": "wood_pickaxe",
    "coal": "wood_pickaxe",
    "iron": "stone_pickaxe",
    "diamond": "iron_pickaxe",
}
AREA = 64
EDGE = 8  # a player this far from the border of the area does not see it


def _package(name: str = "crafter") -> Any:
    """The package ``crafter``, or one of its modules."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ParameterError(
            "Levels are made by the package crafter, which is not installed.",
            fix="python -m pip install crafter==1.8.3 (in an environment of its own if you like).",
        ) from error


class Game:
    """One Crafter world being played.

    Args:
        seed: Of the world: land, creatures and all chance in it.
    """

    def __init__(self, seed: int) -> None:
        package = _package()

        class DaylightEnv(package.Env):  # type: ignore[name-defined]
            """Always day; draws a frame only when asked."""

            def _update_time(self) -> None:
                self._world.daylight = 1.0

            def _obs(self) -> None:
                return None

        self.env = DaylightEnv(area=(AREA, AREA), view=(GRID, GRID), size=(72, 72), length=None, seed=seed)
        self.constants = _package("crafter.constants")
        self.env.reset()
        self._action_ids = {name: number for number, name in enumerate(self.constants.actions)}
        self._materials = self._token_of_materials()

    @property
    def player(self) -> Any:
        """The package's player object: ``pos``, ``facing``, ``inventory``."""
        return self.env._player

    @property
    def world(self) -> Any:
        """The package's world object."""
        return self.env._world

    def facing(self) -> tuple[str | None, Any]:
        """The material and the object in front of the player."""
        material, thing = self.world[self.player.pos + np.array(self.player.facing)]
        return material, thing

    def free(self, action: int) -> bool:
        """Whether a walking ``action`` would move the player onto ground that does not kill."""
        target = self.player.pos + np.array(STEPS[action])
        return bool(self.player.is_free(target, list(self.constants.walkable)))

    def start_at(self, rng: np.random.Generator) -> None:
        """Put the player on a random free place from which no border is seen."""
        for _ in range(10_000):
            place = rng.integers(EDGE, AREA - EDGE, 2)
            if self.player.is_free(place, list(self.constants.walkable)):
                self.world.move(self.player, place)
                return
        raise DatasetError(f"World {self.env._seed} has no free place.", fix="Use another seed.")

    def step(self, action: int) -> bool:
        """Take one of the eight actions; whether the player is still alive."""
        _, _, over, _ = self.env.step(self._action_ids[self._translate(action)])
        return not over

    def tokens(self) -> np.ndarray:
        """The frame as tokens, uint8 ``[81]``."""
        x, y = self.player.pos
        west, north = x - GRID // 2, y - MAP_ROWS // 2
        found = np.full((GRID, MAP_ROWS), map_token("void"), np.uint8)  # [x, y]
        left, top = max(west, 0), max(north, 0)
        land = self._materials[self.world._mat_map[left : west + GRID, top : north + MAP_ROWS]]
        found[left - west : left - west + land.shape[0], top - north : top - north + land.shape[1]] = land
        for thing in self.world.objects:
            column, row = thing.pos[0] - west, thing.pos[1] - north
            if 0 <= column < GRID and 0 <= row < MAP_ROWS:
                found[column, row] |= BEINGS.index(thing.texture)
        frame = np.full(PATCHES, item_token(0), np.uint8)
        frame[:MAP_PATCHES] = found.T.reshape(-1)
        for slot, item in enumerate(ITEMS):
            frame[MAP_PATCHES + slot] = item_token(self.player.inventory[item])
        return frame

    def pixels(self) -> np.ndarray:
        """The frame as the game draws it, uint8 ``[72, 72, 3]``."""
        return self.env.render()

    def _token_of_materials(self) -> np.ndarray:
        """For every material number of the package its tile's token, uint8."""
        names = self.world._mat_names
        table = np.zeros(max(names) + 1, np.uint8)
        for number, name in names.items():
            table[number] = map_token(name or "void")
        return table

    def _translate(self, action: int) -> str:
        """The package's action that one of our eight means here."""
        if action < DO:
            return ("noop", "move_left", "move_right", "move_up", "move_down")[action]
        if action == DO:
            return "do"
        if action == PLACE:
            return "place_stone" if self.player.inventory["stone"] > 0 else "place_plant"
        if action == CRAFT:
            return self._next_to_craft()
        raise ParameterError(f"{action!r} is not an action of this world.", fix="Use 0 to 7.")

    def _next_to_craft(self) -> str:
        """What the action craft makes now; the package's ``noop`` where nothing can be made."""
        near, _ = self.world.nearby(self.player.pos, 1)
        if "table" not in near:
            return "place_table"
        inventory = self.player.inventory
        for tool in TOOLS:
            recipe = self.constants.make[tool]
            affordable = all(inventory[item] >= count for item, count in recipe["uses"].items())
            if inventory[tool] == 0 and affordable and all(place in near for place in recipe["nearby"]):
                return f"make_{tool}"
        return "place_furnace" if "furnace" not in near and inventory["stone"] >= 4 else "noop"


def tile_sheet() -> TileSheet:
    """The pictures of all tiles, drawn with the package's own textures."""
    engine, constants = _package("crafter.engine"), _package("crafter.constants")
    textures = engine.Textures(constants.root / "assets")
    unit = np.array((TILE, TILE))
    map_tiles = []
    for ground, being in MAP_TILES:
        canvas = np.zeros((TILE, TILE, 3), np.uint8) + 127
        if ground != "void":
            engine._draw(canvas, np.zeros(2, int), textures.get(ground, unit))
        if being:
            engine._draw_alpha(canvas, np.zeros(2, int), textures.get(being, unit))
        map_tiles.append(canvas.transpose(1, 0, 2))
    show = engine.ItemView(textures, [GRID, GRID - MAP_ROWS])
    item_tiles = np.zeros((PATCHES - MAP_PATCHES, MOST + 1, TILE, TILE, 3), np.uint8)
    for amount in range(MOST + 1):
        canvas = show(dict.fromkeys(ITEMS, amount), unit).transpose(1, 0, 2)  # [16, 72, 3]
        grid = canvas.reshape(GRID - MAP_ROWS, TILE, GRID, TILE, 3).transpose(0, 2, 1, 3, 4)
        item_tiles[:, amount] = grid.reshape(-1, TILE, TILE, 3)
    return TileSheet(np.stack(map_tiles), item_tiles)
