"""Train the latent action model: ``python -m helpers.train.crafter_actions train.npz weights --steps 6000``.

It is told the true actions: the three bits of its code are the bits of the action's id, so that an id
inferred from two frames is the id of a key. Where an action changed nothing (bumping into what one faces
already) no model can tell which it was. Only the encoder is trained: the published decoder serves a training
that knows no actions. A training that was killed goes on from ``actions_state.pt`` in the folder.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.train.crafter_checkpoint import export, go_on, save_atomically
from helpers.train.crafter_data import ACTION_BITS, Recording, bits_of, has_effect, read_recording, to_frames
from helpers.train.crafter_initial import look_around, place_columns
from helpers.train.crafter_tiles import GRID, TILE
from helpers.worldmodel.models import LatentActions, ModelConfig

CONFIG = ModelConfig(GRID * TILE, TILE, 64, 4, 96, 2, action_dim=ACTION_BITS)
LEARNING_RATE = 2e-3
LENGTHS = (2, 3, 5, 8, 32)
FRAMES = 32  # a batch


def new_actions(seed: int = 0) -> LatentActions:
    """A model whose first block begins by comparing each tile with its neighbours."""
    torch.manual_seed(seed)
    model = LatentActions(CONFIG)
    with torch.no_grad():
        embed = model.encoder.patch_embed.proj
        embed.weight.mul_(4)
        embed.weight[place_columns(CONFIG.embed_dim)] = 0
        assert embed.bias is not None
        embed.bias[place_columns(CONFIG.embed_dim)] = 0
    look_around(model.encoder.transformer.blocks[0].spatial_attn, CONFIG.embed_dim)  # type: ignore[arg-type]
    return model


def draw(data: Recording, busy: np.ndarray, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Clips of one length, every other one with an action of the hands that has an effect.

    Args:
        data: What to draw from.
        busy: Whether the hands' action at each row has an effect, bool ``[N]``.
        seed: Of the drawing.
        step: Number of the step.

    Returns:
        Frames float ``[B, T, 3, 72, 72]`` and the actions between, int64 ``[B, T-1]``.
    """
    rng = np.random.default_rng((seed, step))
    length = int(rng.choice(LENGTHS))
    starts = data.starts(length)
    ends_busy = starts[busy[starts + length - 2]]
    count = FRAMES // length
    drawn = rng.choice(starts, count)
    if len(ends_busy):
        drawn = np.where(rng.random(count) < 0.5, rng.choice(ends_busy, count), drawn)
    rows = drawn[:, None] + np.arange(length)
    frames = to_frames(data.sheet.draw(data.tokens[rows]))
    return frames, torch.from_numpy(data.actions[rows[:, :-1]]).long()


def train(recording: Path, folder: Path, steps: int, seed: int = 0, save_every: int = 250) -> LatentActions:
    """Train, or go on training; writes ``crafter_latent_actions.pth`` into ``folder``."""
    data = read_recording(recording)
    busy = np.zeros(len(data.tokens), bool)
    busy[:-1] = has_effect(data, np.arange(len(data.tokens) - 1))
    model = new_actions(seed)
    optimizer = torch.optim.AdamW(
        model.encoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    first = go_on(folder / "actions_state.pt", model, optimizer)
    started, right = time.monotonic(), 0.0
    for step in range(first, steps):
        frames, actions = draw(data, busy, seed, step)
        values = model.encoder(frames)  # [B, T-1, 3]
        signs = bits_of(actions, ACTION_BITS)
        loss = F.softplus(-values * signs).mean()
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = LEARNING_RATE * min((step + 1) / 100, cosine + 0.003)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0)
        optimizer.step()
        right += 0.02 * ((values.sign() == signs).all(-1).float().mean().item() - right)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            contents = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_atomically(contents, folder / "actions_state.pt")
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} of {steps}, {seconds:.0f} s, loss {loss.item():.4f}, ids right {right:.3f}",
                flush=True,
            )
    export(folder / "crafter_latent_actions.pth", model.state_dict(), CONFIG, steps)
    return model


def main() -> None:
    """Train what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options.recording, options.folder, options.steps)


if __name__ == "__main__":
    main()
