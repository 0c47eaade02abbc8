"""Reads one checkpoint of the published project, without running anything inside it.

Two forms are published:

- a single file ``*.pth``: a pickled dict with the weights under ``model`` (also seen: ``state_dict``,
  ``model_state_dict``, or a bare state dict) and a ``config``;
- a directory ``<kind>_step_<n>/``: ``model_state_dict.pt`` (a bare state dict) and ``state.pt`` (the config).

Whatever shapes the model is read off the tensors; the config is asked only for what tensors do not show.
"""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from helpers.errors import CheckpointError
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer

Kind = Literal["video_tokenizer", "latent_actions", "dynamics"]
KINDS: tuple[Kind, ...] = ("video_tokenizer", "latent_actions", "dynamics")

# A key that each kind has and the others lack.
_TELLTALE: dict[Kind, str] = {
    "video_tokenizer": "decoder.frame_head.to_pixels.weight",
    "latent_actions": "encoder.action_head.3.weight",
    "dynamics": "output_mlp.weight",
}
_WEIGHT_KEYS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("_orig_mod.", "module.")
_FETCH_AGAIN = "Fetch the file again (notebook 04_assets), or check the path."


class _Inert:
    """Stands in for a class pickled into a config. Takes any arguments and does nothing with them."""

    def __new__(cls, *_arguments: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass


# The classes of the published project that directory checkpoints hold in their config.
_STAND_INS = [
    (_Inert, f"utils.config.{name}") for name in ("DeviceType", "DistributedConfig", "FSDPMixedPrecisionConfig")
]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        path: The file or directory.
        kind: Which of the three models it is, told by its keys.
        weights: Parameter name -> float32 tensor on the CPU, prefixes stripped.
        config: The published config; empty where there is none.
    """

    path: Path
    kind: Kind
    weights: dict[str, Tensor]
    config: dict[str, Any]


def read_checkpoint(path: str | Path, kind: Kind) -> Checkpoint:
    """Read and check the checkpoint at ``path``, a file or directory, for the slot ``kind``.

    Raises:
        CheckpointError: It is missing, damaged, not a checkpoint, of another kind, or holds code.
    """
    path = Path(path)
    if path.is_dir():
        weights_file, state_file = path / "model_state_dict.pt", path / "state.pt"
        weights = _find_weights(_load(weights_file), weights_file)
        state = _load(state_file) if state_file.exists() else {}
    else:
        state = _load(path)
        weights = _find_weights(state, path)
    config = state.get("config") if isinstance(state, dict) else None
    weights = {_strip_prefixes(key): tensor for key, tensor in weights.items()}
    found = _tell_kind(weights)
    if found != kind:
        what = f"a {found} checkpoint" if found else "not a checkpoint of a TinyWorlds suite"
        raise CheckpointError(f"{path} is {what}; it was given as {kind}.", fix=f"Give a {kind} checkpoint here.")
    _check_values(weights, path)
    weights = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    return Checkpoint(path, kind, weights, dict(config) if isinstance(config, Mapping) else {})


def _load(path: Path) -> Any:
    """What `torch.load` finds in one file, unpickled by its restricted unpickler alone."""
    _check_is_archive(path)
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_describe_refusal(path, _STAND_INS), fix="Use a checkpoint from a source you trust.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error}).", fix=_FETCH_AGAIN) from error


def _describe_refusal(path: Path, known: list[tuple[type, str]]) -> str:
    foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - {name for _, name in known}
    if foreign:
        return f"{path} wants to run code ({', '.join(sorted(foreign))}); nothing was run and it was refused."
    return f"{path} holds something other than tensors and plain values; nothing was run and it was refused."


def _check_is_archive(path: Path) -> None:
    """Say what a file is that is no intact zip archive: torch's own words for these cases mislead."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist.", fix=_FETCH_AGAIN) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).", fix="Check its permissions.") from error
    if not head:
        raise CheckpointError(f"{path} is empty.", fix=_FETCH_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file it points to.", fix=_FETCH_AGAIN)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, not a checkpoint.", fix=_FETCH_AGAIN)
    if not head.startswith(b"PK"):
        raise CheckpointError(f"{path} is not a checkpoint: torch.save writes zip archives, this is none.", fix=_FETCH_AGAIN)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).", fix=_FETCH_AGAIN) from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong.", fix=_FETCH_AGAIN)


def _find_weights(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file held, under any of the names it goes by."""
    candidates = [loaded[key] for key in _WEIGHT_KEYS if key in loaded] if isinstance(loaded, Mapping) else []
    for candidate in [*candidates, loaded]:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            return {str(key): value for key, value in candidate.items()}
    held = f"the keys {sorted(map(str, loaded))[:8]}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    raise CheckpointError(
        f"{path} holds no weights under {', '.join(_WEIGHT_KEYS)} or bare; it holds {held}.",
        fix="Give a checkpoint saved by the published project.",
    )


def _strip_prefixes(key: str) -> str:
    """Compiled and data-parallel models saved whole carry these in front of every key, in either order."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _tell_kind(weights: Mapping[str, Tensor]) -> Kind | None:
    return next((kind for kind in KINDS if _TELLTALE[kind] in weights), None)


def _check_values(weights: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{path}: {key} claims the shape {list(tensor.shape)} and stores less.", fix=_FETCH_AGAIN)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {key} holds NaN or infinite values.", fix="This training run diverged; use an earlier step.")


def build_model(checkpoint: Checkpoint, frame_size: int, device: torch.device) -> VideoTokenizer | LatentActions | Dynamics:
    """The model a checkpoint describes, with its weights, in evaluation mode on ``device``.

    Args:
        checkpoint: From `read_checkpoint`.
        frame_size: Pixels of a frame's side, as agreed among the suite.
        device: Where to put it.

    Raises:
        CheckpointError: A tensor is missing, left over, or of a shape that fits no model; the message names it.
    """
    config = model_config(checkpoint, frame_size)
    model: VideoTokenizer | LatentActions | Dynamics
    if checkpoint.kind == "video_tokenizer":
        model = VideoTokenizer(config)
    elif checkpoint.kind == "latent_actions":
        model = LatentActions(config)
    else:
        model = Dynamics(config)
    _check_keys(model, checkpoint)
    model.load_state_dict(checkpoint.weights)
    return model.to(device).eval().requires_grad_(False)


def _check_keys(model: nn.Module, checkpoint: Checkpoint) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in checkpoint.weights.items()}
    complaints = [f"{key} is missing" for key in expected.keys() - found.keys()]
    complaints += [f"{key} belongs to no part of the model" for key in found.keys() - expected.keys()]
    complaints += [
        f"{key} has shape {list(found[key])} where {list(shape)} is needed"
        for key, shape in expected.items()
        if found.get(key, shape) != shape
    ]
    if complaints:
        more = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
        raise CheckpointError(
            f"{checkpoint.path} is no whole {checkpoint.kind}: {'; '.join(sorted(complaints)[:3])}{more}.",
            fix="Its weights come from another model or version; use a checkpoint of the published project.",
        )


def model_config(checkpoint: Checkpoint, frame_size: int) -> ModelConfig:
    """What to build: from the tensors' shapes, and from the config what shapes do not tell.

    Raises:
        CheckpointError: The shapes or the config's values are those of no model.
    """
    weights, config, kind = checkpoint.weights, checkpoint.config, checkpoint.kind
    stack = "transformer" if kind == "dynamics" else "encoder.transformer"
    first = f"{stack}.blocks.0"

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        tensor = weights.get(key)
        if tensor is None or tensor.ndim != dimensions:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise CheckpointError(f"{checkpoint.path}: {key} {found}; {kind} needs it with {dimensions} dimensions.", fix=_FETCH_AGAIN)
        return tuple(tensor.shape)

    embed_dim = shape(f"{first}.spatial_attn.q_proj.weight", 2)[0]
    experts = len({key for key in weights if key.startswith(f"{first}.ffn.experts.") and key.endswith(".w_v.weight")})
    ffn_width = shape(f"{first}.ffn.{'experts.0.' if experts else ''}w_v.weight", 2)[0]
    num_blocks = len({key for key in weights if key.startswith(f"{stack}.blocks.") and key.endswith(".spatial_attn.q_proj.weight")})
    latent_dim, num_bins, action_dim = 6, 4, None
    if kind == "dynamics":
        patch_size = _whole_number(config, "patch_size", 8, checkpoint)
        latent_dim = shape("latent_embed.weight", 2)[1]
        codebook_size = shape("output_mlp.weight", 2)[0]
        num_bins = round(codebook_size ** (1 / latent_dim))
        film = weights.get(f"{first}.spatial_attn.norm.to_gamma_beta.1.weight")
        action_dim = None if film is None else film.shape[1]
        if num_bins**latent_dim != codebook_size:
            raise CheckpointError(
                f"{checkpoint.path}: output_mlp.weight has {codebook_size} outputs, which is no power of {latent_dim} "
                "(latent_dim, from latent_embed.weight).",
                fix=_FETCH_AGAIN,
            )
    else:
        patch_size = round((shape("encoder.patch_embed.proj.weight", 4)[1] / 3) ** 0.5)
        if kind == "latent_actions":
            action_dim = shape("encoder.action_head.3.weight", 2)[0]
        else:
            latent_dim = shape("encoder.latent_head.1.weight", 2)[0]
            basis = weights.get("quantizer.basis")
            num_bins = (
                int(basis[1]) if basis is not None and basis.numel() > 1 else _whole_number(config, "num_bins", 4, checkpoint)
            )
    built = ModelConfig(
        frame_size=frame_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        num_heads=_whole_number(config, "num_heads", 8, checkpoint),
        ffn_width=ffn_width,
        num_blocks=num_blocks,
        latent_dim=latent_dim,
        num_bins=num_bins,
        action_dim=action_dim,
        num_experts=experts,
        top_k_experts=min(_whole_number(config, "top_k_experts", 2, checkpoint), experts) if experts else 2,
    )
    if built.embed_dim % built.num_heads or built.frame_size % built.patch_size:
        raise CheckpointError(
            f"{checkpoint.path}: embed_dim {built.embed_dim} is no multiple of num_heads {built.num_heads}, or "
            f"frame_size {built.frame_size} none of patch_size {built.patch_size}.",
            fix="Its config does not fit its weights; use the config it was trained with.",
        )
    return built


def _whole_number(config: Mapping[str, Any], key: str, default: int, checkpoint: Checkpoint) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"{checkpoint.path}: its config says {key} is {value!r}; it must be a whole number of at least 1.",
            fix="Use the config it was trained with.",
        )
    return value
