"""Record Crafter play: ``python -m helpers.train.crafter_record train.npz --first-seed 0 --frames 400000``.

Needs numpy and the package ``crafter`` alone. Frames are kept as tokens, 81 bytes each, with the pictures of
all tiles beside them, so that any frame can be drawn again exactly. A recording killed half-way goes on from
its last part, with the same result as without the kill.

    tokens      uint8 [N, 81]   `crafter_tiles` says what the bits mean
    actions     uint8 [N]       the action taken *at* this frame; its effect is the next frame
    episodes    int32 [N]       rows of one stretch of play carry one number and lie together, in order
    map_tiles   uint8 [60, 8, 8, 3]      pictures of the map's tiles
    item_tiles  uint8 [18, 10, 8, 8, 3]  pictures of the inventory's slots with every amount

Seeds tell recordings apart: what is trained on starts at 0, what settings are chosen on at 1,000,000, and
what is reported at 2,000,000.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from helpers.errors import DatasetError
from helpers.files import written_whole
from helpers.train.crafter_game import Game, tile_sheet
from helpers.train.crafter_policy import STYLE_SHARES, STYLES, Policy, stock_up
from helpers.train.crafter_tiles import TileSheet

STRETCHES = 4  # of play in one world, each with a place and an inventory of its own
CHECK_EVERY = 500  # frames between comparisons of tokens with what the game draws
COLUMNS = ("tokens", "actions", "episodes")


def record_world(seed: int, length: int, sheet: TileSheet) -> dict[str, np.ndarray]:
    """Play one world: the three columns, with episodes counted from 0. Depends on the arguments alone."""
    rng = np.random.default_rng(seed)
    game = Game(seed)
    tokens: list[np.ndarray] = []
    actions: list[int] = []
    episodes: list[int] = []
    for stretch in range(STRETCHES):
        style = str(rng.choice(STYLES, p=STYLE_SHARES))
        if stretch or rng.random() < 0.5:
            game.start_at(rng)
            stock_up(game, rng, style)
        policy = Policy(game, rng, style)
        for _ in range(int(rng.integers(length // 2, length + 1))):
            action = policy.act()
            tokens.append(game.tokens())
            actions.append(action)
            episodes.append(stretch)
            if len(tokens) % CHECK_EVERY == 0:
                check_tokens(game, sheet)
            if not game.step(action):
                return _columns(tokens, actions, episodes)
    return _columns(tokens, actions, episodes)


def _columns(tokens: list[np.ndarray], actions: list[int], episodes: list[int]) -> dict[str, np.ndarray]:
    return {
        "tokens": np.stack(tokens),
        "actions": np.array(actions, np.uint8),
        "episodes": np.array(episodes, np.int32),
    }


def check_tokens(game: Game, sheet: TileSheet) -> None:
    """Raise a `DatasetError` unless the tokens draw the very frame that the game draws."""
    if (sheet.draw(game.tokens()) != game.pixels()).any():
        raise DatasetError(
            "The game drew a tile that the table of tiles does not have.",
            fix="Use crafter 1.8.3, or add the tile to crafter_tiles.",
        )


def write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write a recording whole or not at all."""
    with written_whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **columns)


def join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parts of a recording one after the other, episodes numbered through."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
    counts = [int(part["episodes"][-1]) + 1 for part in parts]
    starts = np.cumsum([0, *counts[:-1]]).astype(np.int32)
    joined["episodes"] = np.concatenate([p["episodes"] + s for p, s in zip(parts, starts, strict=True)])
    return joined


def record(path: Path, first_seed: int, frames: int, length: int, worlds_a_part: int = 20) -> None:
    """Record the worlds from ``first_seed`` on, until there are ``frames`` frames, into ``path``."""
    sheet = tile_sheet()
    folder = path.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, np.ndarray]] = []
    total, started = 0, time.monotonic()
    while total < frames:
        number = len(parts)
        part = folder / f"{number:05d}.npz"
        if not part.exists():
            seeds = range(first_seed + number * worlds_a_part, first_seed + (number + 1) * worlds_a_part)
            write_npz(part, join([record_world(seed, length, sheet) for seed in seeds]))
        with np.load(part) as stored:
            parts.append({name: stored[name] for name in COLUMNS})
        total += len(parts[-1]["actions"])
        print(f"{total} frames of {frames}, {time.monotonic() - started:.0f} s", flush=True)
    whole = {name: column[:frames] for name, column in join(parts).items()}
    write_npz(path, whole | {"map_tiles": sheet.map_tiles, "item_tiles": sheet.item_tiles})
    for part in folder.iterdir():
        part.unlink()
    folder.rmdir()
    shares = np.bincount(whole["actions"], minlength=8) / len(whole["actions"])
    print(f"wrote {path}: {len(whole['actions'])} frames, action shares {shares.round(3).tolist()}")


def main() -> None:
    """Record what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=400_000)
    parser.add_argument("--length", type=int, default=300, help="the longest stretch of play, in frames")
    options = parser.parse_args()
    record(options.path, options.first_seed, options.frames, options.length)


if __name__ == "__main__":
    main()
