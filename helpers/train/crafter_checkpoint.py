"""Files that training writes: states to go on from, and checkpoints in the published single-file form."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.errors import CheckpointError
from helpers.files import written_whole
from helpers.worldmodel.models import ModelConfig

N_ACTIONS = 8


def save_atomically(contents: Any, path: Path) -> None:
    """Write ``contents`` with `torch.save`; killed at any moment, the file is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        torch.save(contents, part)


def read_state(path: Path) -> dict[str, Any] | None:
    """The state that a training left behind; None where there is none.

    Raises:
        CheckpointError: The file cannot be read.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path} could not be read ({error}).", fix="Remove it to start the training anew."
        ) from error


def go_on(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a model and its optimizer where an earlier training left them; the steps done, 0 without one."""
    state = read_state(path)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def export(path: Path, weights: dict[str, Tensor], config: ModelConfig, step: int) -> None:
    """Write a model's weights as the published project's single-file form has them."""
    save_atomically(
        {
            "model": {name: tensor.detach().clone() for name, tensor in weights.items()},
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "config": asdict(config)
            | {
                "hidden_dim": math.ceil(config.ffn_width * 3 / 2),
                "n_actions": N_ACTIONS,
                "dataset": "CRAFTER",
            },
            "step": step,
            "timestamp": time.strftime("%Y_%m_%d_%H_%M_%S"),
        },
        path,
    )


class Average:
    """The running average of a model's weights: steadier than the weights of any one step.

    Args:
        model: Whose weights are averaged.
        decay: Share of the average that stays at every step.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number ``step``; early steps count more."""
        share = 1 - min(self.decay, (step + 1) / (step + 10))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, share)
