"""A suite: the three models that make one world, loaded together and proved to belong together."""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from helpers.errors import ActionError, DeviceError, SuiteError
from helpers.worldmodel.checkpoint import (
    KINDS,
    Checkpoint,
    Kind,
    build_model,
    model_config,
    read_checkpoint,
)
from helpers.worldmodel.graph import Graphs
from helpers.worldmodel.layers import stack_projections
from helpers.worldmodel.models import Dynamics, LatentActions, VideoTokenizer


@dataclass(frozen=True)
class Suite:
    """The three models of one world.

    Args:
        video_tokenizer: Frames <-> tokens.
        latent_actions: Clips -> action latents.
        dynamics: Tokens and actions -> next tokens.
        device: Where all their parameters are.
        paths: The checkpoint each was read from.
        graphs: What a GPU has recorded of these models' work, to be shared by all sessions.
    """

    video_tokenizer: VideoTokenizer
    latent_actions: LatentActions
    dynamics: Dynamics
    device: torch.device
    paths: dict[Kind, Path]
    graphs: Graphs = field(default_factory=Graphs, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for model in (self.video_tokenizer, self.latent_actions, self.dynamics):
            if not any(parameter.requires_grad for parameter in model.parameters()):
                stack_projections(model)

    def on(self, device: torch.device) -> "Suite":
        """A copy of the suite on another device."""
        models: dict[str, Any] = {kind: copy.deepcopy(getattr(self, kind)).to(device) for kind in KINDS}
        return replace(self, **models, device=device)

    @property
    def frame_size(self) -> int:
        """Pixels of a frame's side."""
        return self.video_tokenizer.config.frame_size

    @property
    def n_actions(self) -> int:
        """Action ids run from 0 to one less than this."""
        return self.latent_actions.n_actions

    def action_latents(self, actions: Tensor) -> Tensor:
        """Action ids int64 ``[...]`` -> action latents float32 ``[..., A]`` on the suite's device.

        Raises:
            ActionError: An id is not one of the suite's.
        """
        self.check_actions(actions)
        return self.latent_actions.quantizer.latents_of(actions.to(self.device))

    def check_actions(self, actions: Tensor) -> None:
        """Raise an `ActionError` unless all of ``actions``, int64 ``[...]``, are ids of the suite."""
        outside = actions[(actions < 0) | (actions >= self.n_actions)]
        if outside.numel():
            raise ActionError.unknown(int(outside.flatten()[0]), self.n_actions)

    def infer_actions(self, frames: Tensor) -> Tensor:
        """Which actions led from frame to frame: ``[B, T, 3, H, W]`` in [-1, 1] -> ids int64 ``[B, T-1]``."""
        with torch.inference_mode():
            latents = self.latent_actions.encode(frames.to(self.device))
        return self.latent_actions.quantizer.latents_to_indices(latents)

    def parameter_count(self) -> int:
        """Parameters of the three models together."""
        models = (self.video_tokenizer, self.latent_actions, self.dynamics)
        return sum(parameter.numel() for model in models for parameter in model.parameters())


def load_suite(
    *,
    video_tokenizer: str | Path,
    latent_actions: str | Path,
    dynamics: str | Path,
    device: str | torch.device = "cpu",
) -> Suite:
    """Load the three checkpoints of a suite, each a single file or a directory.

    Args:
        video_tokenizer: Path of the video tokenizer's checkpoint.
        latent_actions: Path of the latent action model's checkpoint.
        dynamics: Path of the dynamics model's checkpoint.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``: cuda where it works, else cpu.

    Raises:
        CheckpointError: A checkpoint cannot be used; the message names file and key.
        SuiteError: They do not belong together; the message names both files and the value they disagree on.
        DeviceError: The device cannot be used.
    """
    where = resolve_device(device)
    paths: dict[Kind, str | Path] = {
        "video_tokenizer": video_tokenizer,
        "latent_actions": latent_actions,
        "dynamics": dynamics,
    }
    checkpoints = {kind: read_checkpoint(paths[kind], kind) for kind in KINDS}
    frame_size = _agree_on_frame_size(list(checkpoints.values()))
    checkpoints["dynamics"] = _with_patch_size(
        checkpoints["dynamics"], checkpoints["video_tokenizer"], frame_size
    )
    models = {kind: build_model(checkpoint, frame_size, where) for kind, checkpoint in checkpoints.items()}
    suite = Suite(
        cast(VideoTokenizer, models["video_tokenizer"]),
        cast(LatentActions, models["latent_actions"]),
        cast(Dynamics, models["dynamics"]),
        where,
        {kind: checkpoint.path for kind, checkpoint in checkpoints.items()},
    )
    _check_agreement(suite)
    return suite


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant by ``device``, proved usable.

    Raises:
        DeviceError: There is no such device, or it is not there; never falls back silently.
    """
    if device == "auto":
        cuda = torch.device("cuda")
        return cuda if torch.cuda.is_available() and _computes(cuda) else torch.device("cpu")
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"{device!r} is not a device.", fix='Use "auto", "cpu", "cuda", "cuda:1" or "mps".'
        ) from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError.missing(str(device), torch.__version__, torch.version.cuda)
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"There is no {where}: this machine has {torch.cuda.device_count()} CUDA device(s).",
            fix='Use "cuda:0".',
        )
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError.missing(str(device), torch.__version__, torch.version.cuda)
    if where.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(
            f"device {str(device)!r} is not supported.", fix='Use "auto", "cpu", "cuda" or "mps".'
        )
    if not _computes(where):
        raise DeviceError(
            f"{where} is there and cannot run the simplest kernel.",
            fix='Run 02_torch to see why, or use device="cpu".',
        )
    return where


def _computes(device: torch.device) -> bool:
    """Whether one small kernel runs there: a build for other GPUs finds the device and fails at the first."""
    try:
        return int(torch.ones(1, device=device).add(1)) == 2
    except (RuntimeError, AssertionError):
        return False


def _agree_on_frame_size(checkpoints: list[Checkpoint]) -> int:
    """No tensor shows the frame's size, so those configs that state it must agree; 128 if none does."""
    stated = {
        checkpoint.path: checkpoint.whole_number("frame_size", 128)
        for checkpoint in checkpoints
        if "frame_size" in checkpoint.config
    }
    if len(set(stated.values())) > 1:
        listing = ", ".join(f"{path} says {size}" for path, size in stated.items())
        raise SuiteError(
            f"The checkpoints disagree on frame_size: {listing}.", fix="Use three checkpoints of one suite."
        )
    return next(iter(stated.values()), 128)


def _with_patch_size(dynamics: Checkpoint, tokenizer: Checkpoint, frame_size: int) -> Checkpoint:
    """A dynamics model's patch size shows in its config alone; if that is silent, it is the tokenizer's."""
    known = {"patch_size": model_config(tokenizer, frame_size).patch_size}
    return replace(dynamics, config={**known, **dynamics.config})


# What two parts of a suite must have in common.
_SHARED: list[tuple[str, Kind, Kind]] = [
    ("patch_size", "video_tokenizer", "latent_actions"),
    ("patch_size", "video_tokenizer", "dynamics"),
    ("latent_dim", "video_tokenizer", "dynamics"),
    ("num_bins", "video_tokenizer", "dynamics"),
    ("action_dim", "latent_actions", "dynamics"),
]


def _check_agreement(suite: Suite) -> None:
    for name, one, other in _SHARED:
        value, other_value = (getattr(getattr(suite, kind).config, name) for kind in (one, other))
        if other_value not in (value, None):  # None: a dynamics model that takes no actions
            raise SuiteError(
                f"{suite.paths[one]} and {suite.paths[other]} disagree on {name}: {value} and {other_value}.",
                fix="Use three checkpoints of one suite.",
            )
