"""Train the video tokenizer: ``python -m helpers.train.crafter_tokenizer train.npz weights --steps 6000``.

A tile is a token whatever surrounds it, so both attentions are switched off (their output is zero for good)
and a model of one block is trained on single tiles: every tile at every place of the frame, rare ones as
often as common ones. The encoder is told the token of each picture, the decoder the picture of each token. A
training that was killed goes on from ``tokenizer_state.pt`` in the folder.
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
from helpers.train.crafter_data import latents_of, read_recording
from helpers.train.crafter_tiles import (
    GRID,
    ITEM_TOKENS,
    MAP_PATCHES,
    MAP_TOKENS,
    PATCHES,
    TILE,
    TOKEN_BITS,
    TileSheet,
)
from helpers.worldmodel.layers import Block, SpatialAttention, TemporalAttention, Transformer
from helpers.worldmodel.models import ModelConfig, VideoTokenizer

CONFIG = ModelConfig(GRID * TILE, TILE, 64, 4, 256, 1, latent_dim=TOKEN_BITS, num_bins=2)
LEARNING_RATE = 4e-3
BATCH = 768
WINDOW = 16  # places in time that a tile may have
SURE = 1.0  # the encoder's outputs are pushed this far from zero, where the token would change


def new_tokenizer(seed: int = 0) -> VideoTokenizer:
    """A tokenizer whose attentions give nothing and never learn to."""
    torch.manual_seed(seed)
    model = VideoTokenizer(CONFIG)
    for part in model.modules():
        if isinstance(part, (SpatialAttention, TemporalAttention)):
            for name, parameter in part.named_parameters():
                if "norm" not in name:
                    parameter.requires_grad_(False)
            nn.init.zeros_(part.out_proj.weight)
            nn.init.zeros_(part.out_proj.bias)
    with torch.no_grad():
        model.encoder.patch_embed.proj.weight.mul_(4)
        model.decoder.latent_embed.weight.mul_(4)
    return model


def _transform(transformer: Transformer, x: Tensor) -> Tensor:
    """What a transformer with silent attentions does to single tiles ``[n, E]``."""
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    x = block.temporal_attn.norm(block.spatial_attn.norm(x, None), None)
    return block.ffn(x[None, None])[0, 0]


class Tiles(nn.Module):
    """The tokenizer applied to single tiles, ``n`` at a time.

    Args:
        tokenizer: From `new_tokenizer`.
    """

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def _where(self, part: nn.Module, places: Tensor) -> Tensor:
        """Encodings ``[n, E]`` of places int64 ``[n]`` at random times."""
        times = torch.randint(WINDOW, (len(places),))
        return part.encoding[places] + part.transformer.encoding[times]  # type: ignore[union-attr,index]

    def encode(self, pictures: Tensor, places: Tensor) -> Tensor:
        """Pictures ``[n, 192]`` in (c, y, x) order -> values ``[n, 8]`` whose signs are the token's bits."""
        encoder = self.tokenizer.encoder
        weight = encoder.patch_embed.proj.weight.flatten(1)
        x = F.linear(pictures, weight, encoder.patch_embed.proj.bias) + self._where(encoder, places)
        return encoder.latent_head(_transform(encoder.transformer, x))

    def decode(self, latents: Tensor, places: Tensor) -> Tensor:
        """Latents ``[n, 8]`` -> pictures ``[n, 192]``."""
        decoder = self.tokenizer.decoder
        x = decoder.latent_embed(latents) + self._where(decoder, places)
        head = decoder.frame_head.to_pixels
        return F.linear(_transform(decoder.transformer, x), head.weight.flatten(1), head.bias)


class TileTable:
    """Every tile at every place, and how often to draw each.

    Args:
        sheet: The pictures.
        tokens: Recorded frames uint8 ``[N, 81]``: half of the draws follow them, half are uniform.
    """

    def __init__(self, sheet: TileSheet, tokens: np.ndarray) -> None:
        pairs = [(place, token) for place in range(MAP_PATCHES) for token in MAP_TOKENS]
        pairs += [(place, token) for place in range(MAP_PATCHES, PATCHES) for token in ITEM_TOKENS]
        table = np.array(pairs, np.int64)
        self.places, self.tokens = torch.from_numpy(table[:, 0].copy()), torch.from_numpy(table[:, 1].copy())
        pictures = sheet.pictures[table[:, 0], table[:, 1]]  # [n, 8, 8, 3]
        flat = pictures.transpose(0, 3, 1, 2).reshape(len(table), -1)
        self.pictures = torch.from_numpy(flat).float() / 127.5 - 1
        counts = np.zeros((PATCHES, 256))
        for place in range(PATCHES):
            counts[place] = np.bincount(tokens[:, place], minlength=256)
        often = counts[table[:, 0], table[:, 1]] / counts.sum()
        inventory = table[:, 0] >= MAP_PATCHES
        even = np.where(inventory, 0.4 / inventory.sum(), 0.6 / (~inventory).sum())
        self.cumulative = np.cumsum(0.5 * often + 0.5 * even)

    def draw(self, seed: int, step: int) -> Tensor:
        """Rows of the table for one step, int64 ``[BATCH]``."""
        numbers = np.random.default_rng((seed, step)).random(BATCH) * self.cumulative[-1]
        return torch.from_numpy(np.searchsorted(self.cumulative, numbers).clip(max=len(self.cumulative) - 1))


def losses(tiles: Tiles, table: TileTable, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of the decoder, and how far the encoder is from the tokens it is told."""
    pictures, places = table.pictures[rows], table.places[rows]
    latents = latents_of(table.tokens[rows])
    drawn = tiles.decode(latents, places)
    # What is encoded may be the world's own picture, a redrawn one, or slightly off.
    spoiled = pictures + 0.06 * torch.randn_like(pictures)
    seen = torch.where(torch.rand(len(rows), 1) < 0.5, spoiled, drawn.detach().clamp(-1.2, 1.2))
    values = tiles.encode(seen, places)
    return F.mse_loss(drawn, pictures), F.relu(SURE - values * latents).mean()


def rate(step: int, steps: int) -> float:
    """Learning rate: warm-up, then a cosine to nearly zero."""
    return LEARNING_RATE * min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.003)


def train(recording: Path, folder: Path, steps: int, seed: int = 0, save_every: int = 500) -> VideoTokenizer:
    """Train, or go on training, a tokenizer; writes ``crafter_video_tokenizer.pth`` into ``folder``."""
    data = read_recording(recording)
    table = TileTable(data.sheet, data.tokens)
    model = new_tokenizer(seed)
    tiles = Tiles(model)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    first = go_on(folder / "tokenizer_state.pt", model, optimizer)
    started = time.monotonic()
    for step in range(first, steps):
        torch.manual_seed(seed + step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        drawing, reading = losses(tiles, table, table.draw(seed, step))
        optimizer.zero_grad(set_to_none=True)
        (drawing + 0.1 * reading).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            contents = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_atomically(contents, folder / "tokenizer_state.pt")
            decibels = 10 * math.log10(4 / drawing.item())
            print(
                f"step {step + 1} of {steps}, {time.monotonic() - started:.0f} s, drawn {decibels:.1f} dB, "
                f"encoder's loss {reading.item():.5f}",
                flush=True,
            )
    export(folder / "crafter_video_tokenizer.pth", model.state_dict(), CONFIG, steps)
    return model


@torch.inference_mode()
def check(model: VideoTokenizer, recording: Path, frames: int = 200) -> dict[str, float]:
    """PSNR in dB on recorded frames, the share of tokens found, also from the model's own drawings."""
    data = read_recording(recording)
    rows = np.random.default_rng(0).choice(len(data.tokens), frames, replace=False)
    tokens = data.tokens[rows]
    pixels = torch.from_numpy(data.sheet.draw(tokens)).permute(0, 3, 1, 2).float()[:, None] / 127.5 - 1
    found = model.tokenize(pixels)[:, 0]
    drawn = model.detokenize(latents_of(torch.from_numpy(tokens).long())[:, None]).clamp(-1, 1)
    again = model.tokenize(drawn)[:, 0]
    wanted = torch.from_numpy(tokens).long()
    each = 10 * torch.log10(4 / (drawn - pixels).square().mean((1, 2, 3, 4)))
    return {
        "psnr": each.mean().item(),
        "psnr_worst_frame": each.min().item(),
        "tokens_right": (found == wanted).float().mean().item(),
        "tokens_right_again": (again == wanted).float().mean().item(),
    }


def main() -> None:
    """Train what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--held-out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = train(options.recording, options.folder, options.steps)
    print(check(model.eval(), options.held_out or options.recording))


if __name__ == "__main__":
    main()
