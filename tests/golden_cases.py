"""What the engine's tests compare with: the published project's own results, and small random worlds.

``golden/<case>/`` holds three checkpoints that the published project wrote, and in ``io.npz`` what it
computed from them. Random worlds reach the shapes that the two cases do not have.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers.worldmodel import Suite, load_suite
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer

GOLDEN = Path(__file__).parent / "golden"
CASES = ("small_pth", "small_dir")
torch.set_num_threads(1)  # the models are so small that threads cost more than they save
KINDS = ("video_tokenizer", "latent_actions", "dynamics")


@cache
def golden_paths(case: str) -> dict[str, Path]:
    """Where a case's three checkpoints are."""
    description = json.loads((GOLDEN / case / "case.json").read_text(encoding="utf-8"))
    return {kind: GOLDEN / case / description["checkpoints"][kind] for kind in KINDS}


@cache
def golden_suite(case: str) -> Suite:
    """A case's suite; read only, as it is shared."""
    return load_suite(**golden_paths(case))


@cache
def golden_io(case: str) -> dict[str, Tensor]:
    """What the published project took in and gave out; read only, as it is shared."""
    with np.load(GOLDEN / case / "io.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


SMALL = ModelConfig(
    frame_size=12,
    patch_size=4,
    embed_dim=32,
    num_heads=4,
    ffn_width=20,
    num_blocks=2,
    latent_dim=3,
    action_dim=2,
)
"""The smallest world that still has everything: 3x3 patches, 64 tokens, 4 actions."""


def random_model(model: nn.Module, seed: int) -> nn.Module:
    """The model with random weights, large enough for its inputs to matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 2 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.4
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.eval().requires_grad_(False)


def random_suite(seed: int = 0, config: ModelConfig = SMALL, conditioned: bool = True) -> Suite:
    """A world of random weights, whose frames use the whole codebook and all actions."""
    tokenizer = random_model(VideoTokenizer(config), 3 * seed)
    actions = random_model(LatentActions(config), 3 * seed + 1)
    dynamics = random_model(
        Dynamics(config if conditioned else replace(config, action_dim=None)), 3 * seed + 2
    )
    for encoder, head in ((tokenizer.encoder, "latent_head"), (actions.encoder, "action_head")):
        spread_out(encoder, getattr(encoder, head)[-1], random_frames(4, 6, config.frame_size))
    return Suite(tokenizer, actions, dynamics, torch.device("cpu"), {})


def spread_out(encoder: nn.Module, last: nn.Linear, frames: Tensor) -> None:
    """Give an encoder's outputs for ``frames`` mean 0 and deviation 1, by its last layer."""
    outputs = encoder(frames).flatten(0, -2)
    last.weight /= outputs.std(0)[:, None]
    last.bias.copy_((last.bias - outputs.mean(0)) / outputs.std(0))


def random_frames(batch: int, time: int, size: int = SMALL.frame_size, seed: int = 0) -> Tensor:
    """Frames float ``[B, T, 3, size, size]`` in [-1, 1]."""
    return torch.rand(batch, time, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_latents(suite: Suite, batch: int, time: int, seed: int = 0) -> Tensor:
    """Latents ``[B, T, P, L]`` of random tokens."""
    quantizer, patches = suite.video_tokenizer.quantizer, suite.dynamics.config.grid**2
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(quantizer.codebook_size, (batch, time, patches), generator=generator)
    return quantizer.indices_to_latents(tokens)


def random_actions(suite: Suite, batch: int, time: int, seed: int = 0) -> Tensor:
    """Action latents ``[B, T, A]`` of random actions."""
    generator = torch.Generator().manual_seed(seed)
    return suite.action_latents(torch.randint(suite.n_actions, (batch, time), generator=generator))
