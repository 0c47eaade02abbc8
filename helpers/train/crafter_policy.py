"""How the recorder plays Crafter: with a purpose most of the time, so that everything happens often.

Three styles, drawn for each stretch of play: an explorer who heads for far goals and gathers, builds and
crafts on the way; a builder who starts with materials and mostly places and crafts; and a walker who holds
random keys, as somebody does who tries the keyboard.
"""

from typing import Any

import numpy as np

from helpers.train.crafter_game import AREA, EDGE, NEEDED_TOOL, Game
from helpers.train.crafter_tiles import CRAFT, DO, DOWN, LEFT, NOTHING, PLACE, RIGHT, STEPS, UP

BACK = {LEFT: RIGHT, RIGHT: LEFT, UP: DOWN, DOWN: UP}
STYLES = ("explorer", "builder", "walker")
STYLE_SHARES = (0.6, 0.2, 0.2)


def stock_up(game: Game, rng: np.random.Generator, style: str) -> None:
    """Give the player an inventory and needs to start from; a builder always has materials."""
    player, inventory = game.player, game.player.inventory
    for need in ("health", "food", "drink", "energy"):
        inventory[need] = int(rng.integers(5, 10))
    player._hunger, player._thirst, player._fatigue, player._recover = rng.integers(0, 20, 4).tolist()
    if style != "builder" and rng.random() < 0.35:
        return
    inventory["wood"], inventory["stone"] = int(rng.integers(0, 10)), int(rng.integers(0, 10))
    for item, most, share in (("sapling", 4, 0.5), ("coal", 6, 0.5), ("iron", 4, 0.4), ("diamond", 3, 0.2)):
        inventory[item] = int(rng.integers(0, most)) if rng.random() < share else 0
    for tool, share in (("wood_pickaxe", 0.75), ("stone_pickaxe", 0.4), ("iron_pickaxe", 0.2)):
        inventory[tool] = int(rng.random() < share)
    for tool in ("wood_sword", "stone_sword", "iron_sword"):
        inventory[tool] = int(rng.random() < 0.25)


class Policy:
    """Chooses the next action from what the game really holds; never steps into lava or near the border.

    Args:
        game: The game being played.
        rng: Source of all chance in it.
        style: One of `STYLES`.
    """

    def __init__(self, game: Game, rng: np.random.Generator, style: str) -> None:
        self.game, self.rng, self.style = game, rng, style
        self.planned: list[int] = []
        self.heading, self.left = DOWN, 0
        self.goal, self.patience = rng.integers(EDGE, AREA - EDGE, 2), 14

    def act(self) -> int:
        """The next action."""
        action = self._hold_keys() if self.style == "walker" else self._pursue()
        if action in STEPS and not self._safe(action):
            self.left, self.planned = 0, []
            return NOTHING if self.rng.random() < 0.3 else self._turn()
        return action

    def _safe(self, action: int) -> bool:
        """Whether a step this way neither kills nor comes within sight of the border."""
        place = self.game.player.pos + np.array(STEPS[action])
        inside = 5 <= place[0] < AREA - 5 and 4 <= place[1] < AREA - 4
        return bool(inside and self.game.world[place][0] != "lava")

    def _hold_keys(self) -> int:
        """A random key, held for a few frames."""
        if self.left <= 0:
            self.heading = int(self.rng.choice(8, p=(0.06, 0.17, 0.17, 0.17, 0.17, 0.14, 0.06, 0.06)))
            self.left = (
                int(self.rng.integers(1, 8)) if self.heading in STEPS else int(self.rng.integers(1, 4))
            )
        self.left -= 1
        return self.heading

    def _pursue(self) -> int:
        """Gather, build and craft where it makes sense, else walk on."""
        if self.rng.random() < 0.035:
            return int(self.rng.integers(8))
        if self.planned:
            return self.planned.pop()
        action = self._use_what_is_faced()
        if action is None:
            action = self._craft_or_wait()
        return self._walk() if action is None else action

    def _several(self, most: int) -> int:
        """Do it now, and up to ``most`` times in all."""
        self.planned += [DO] * (int(self.rng.integers(1, most + 1)) - 1)
        return DO

    def _use_what_is_faced(self) -> int | None:
        """An action on the tile in front of the player, or None to leave it."""
        material, thing = self.game.facing()
        inventory: Any = self.game.player.inventory
        chance, eager = self.rng.random(), self.style == "builder"
        if thing is not None:
            return self._meet(thing, chance)
        if material in NEEDED_TOOL:
            if inventory[NEEDED_TOOL[material]]:
                return self._several(1) if chance < 0.6 else None
            return self._several(2) if chance < 0.12 else None
        if material == "tree":
            return self._several(4) if chance < 0.5 else None
        if material == "water" and chance < (0.6 if inventory["drink"] < 7 else 0.2):
            return self._several(3)
        if material in ("table", "furnace") and chance < 0.4:
            return DO if chance < 0.08 else CRAFT
        if material == "grass" and chance < 0.05:
            return self._several(4)
        placeable = material in ("grass", "sand", "path", "water", "lava")
        wanted = 0.2 if eager else 0.06 if material in ("water", "lava") else 0.035
        if placeable and (inventory["stone"] or inventory["sapling"]) and chance > 1 - wanted:
            return PLACE
        return PLACE if chance > 0.995 else None

    def _meet(self, thing: Any, chance: float) -> int | None:
        """Attack creatures, mostly; look at plants now and then."""
        if thing.texture.startswith("plant"):
            return DO if chance < (0.5 if thing.ripe else 0.06) else None
        return self._several(5) if chance < 0.6 else None

    def _craft_or_wait(self) -> int | None:
        """Craft where a table is near or wood is at hand; wait now and then."""
        near, _ = self.game.world.nearby(self.game.player.pos, 1)
        chance, eager = self.rng.random(), self.style == "builder"
        if "table" in near and chance < (0.35 if eager else 0.15):
            return CRAFT
        if self.game.player.inventory["wood"] >= 2 and chance < (0.15 if eager else 0.03):
            return CRAFT
        if chance > 0.985:
            self.planned += [NOTHING] * int(self.rng.integers(0, 3))
            return NOTHING
        return CRAFT if chance > 0.98 else None

    def _walk(self) -> int:
        """On in the same direction while the way is free, back the way one came, or a turn."""
        if self.left > 0:
            self.left -= 1
            if (self._safe(self.heading) and self.game.free(self.heading)) or self.rng.random() < 0.3:
                return self.heading
            self.left = 0
        elif self.rng.random() < 0.12 and self._safe(BACK[self.heading]):
            self.heading, self.left = BACK[self.heading], int(self.rng.integers(2, 7))
            return self.heading
        return self._turn()

    def _turn(self) -> int:
        """A new direction, rather towards the goal, rather where the way is free."""
        player = self.game.player
        self.patience -= 1
        if self.patience < 0 or np.abs(player.pos - self.goal).sum() < 3:
            self.goal, self.patience = self.rng.integers(6, AREA - 6, 2), 14
        weights = np.array([self._appeal(action) for action in STEPS])
        if not weights.sum():
            return NOTHING
        self.heading = int(self.rng.choice(list(STEPS), p=weights / weights.sum()))
        self.left = int(self.rng.integers(2, 10))
        return self.heading

    def _appeal(self, action: int) -> float:
        """How much a turn this way appeals; 0 where it is not safe."""
        if not self._safe(action):
            return 0.0
        player, way = self.game.player, np.array(STEPS[action])
        material, _ = self.game.world[player.pos + way]
        towards = 2.5 if np.dot(self.goal - player.pos, way) > 0 else 1.0
        if self.game.free(action):
            return towards * 3
        minable = material in NEEDED_TOOL and player.inventory[NEEDED_TOOL[material]]
        return towards * (2 if minable else 0.5)
