"""Let free play show each kind of tile as often as the game does.

    python -m helpers.train.crafter_balance weights train.npz balanced/crafter_dynamics.pth --temperature 0.3

Sampled below the temperature at which chance has the game's shares, a world draws common land more often
than the game has it, sees what it drew, and draws more of it: grass begets grass. So the world walks, its
tiles are counted, and the logit of each kind of tile is raised or lowered by how much rarer or commoner than
in the game it was; then it walks again. A shift so small decides only where several tiles are about equally
likely: in new land. The recording to count the game's tiles in is that of the training.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from helpers.train import crafter_measures as measures
from helpers.train.crafter_checkpoint import save_atomically
from helpers.train.crafter_data import read_recording
from helpers.train.crafter_evaluate import Decoding, World, open_suite
from helpers.train.crafter_tiles import MAP_PATCHES

LONGEST = 0.3
"""How far one round moves a token's log probability at most."""


def correction(game: np.ndarray, own: np.ndarray, tiles: int) -> np.ndarray:
    """What to add to the log probability of each token, float ``[256]``.

    Args:
        game: Shares of the tokens in the game, float ``[256]``.
        own: Their shares in ``tiles`` tiles of the world's own walks; twenty tiles are added to either count,
            so that what neither has stays as it is.
        tiles: How many tiles were counted.
    """
    few = 20 / tiles
    return np.clip(0.5 * np.log((game + few) / (own + few)), -LONGEST, LONGEST)


def main() -> None:
    """Balance the checkpoint that the arguments name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the three checkpoints are")
    parser.add_argument("recording", type=Path)
    parser.add_argument("path", type=Path, help="the dynamics checkpoint to write")
    parser.add_argument("--temperature", type=float, required=True, help="at which the world will be played")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--walks", type=int, default=32)
    parser.add_argument("--frames", type=int, default=240, help="of a walk; the last two thirds count")
    options = parser.parse_args()
    torch.set_num_threads(1)
    suite, data = open_suite(options.folder), read_recording(options.recording)
    game, bias = measures.histogram(data.tokens), suite.dynamics.output_mlp.bias
    for number in range(options.rounds):
        world = World(suite, data, Decoding(temperature=options.temperature), seed=101 + number)
        walk = world.walk(world.rows(options.walks, 1), options.frames)
        tokens = np.stack([world.read(pixels) for _, pixels in walk])[options.frames // 3 :]
        own = measures.histogram(tokens)
        distance = measures.jensen_shannon(game, own)
        kinds = measures.kinds(tokens) / measures.kinds(data.tokens)
        print(f"round {number}: {distance:.4f} bits, kinds {kinds:.2f}", flush=True)
        shift = correction(game, own, tokens[..., :MAP_PATCHES].size)
        with torch.inference_mode():
            bias.add_(options.temperature * torch.from_numpy(shift).to(bias))
    checkpoint = torch.load(options.folder / "crafter_dynamics.pth", weights_only=True)
    checkpoint["model"]["output_mlp.bias"] = bias.detach().clone()
    save_atomically(checkpoint, options.path)


if __name__ == "__main__":
    main()
