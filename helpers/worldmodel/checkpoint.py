"""Reads one checkpoint of the published project and builds its model; `archive` reads the files.

Two forms are published:

- a single file ``*.pth``: a pickled dict with the weights under ``model`` (also seen: ``state_dict``,
  ``model_state_dict``, or a bare state dict) and a ``config``;
- a directory ``<kind>_step_<n>/``: ``model_state_dict.pt`` (a bare state dict) and ``state.pt`` (the config).

Both are pickles. `write_converted` writes a third form that is none: ``<name>.safetensors`` with
``<name>.json`` beside it, read by `read_checkpoint` like the others.

A model's shape is read off its tensors; the config is asked only for what tensors do not show.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from helpers.errors import CheckpointError, shown
from helpers.files import written_whole
from helpers.worldmodel.archive import FETCH_AGAIN, load
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
# Compiled and data-parallel models saved whole carry these in front of every key, in either order.
_PREFIXES = re.compile(r"^(?:_orig_mod\.|module\.)+")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LONGEST_KEY = 500  # letters
_MOST_DIMENSIONS = 8
_MOST_SHARED = 2  # times that a stored value may be used, on the average
_LARGEST_SETTING = 1024  # pixels, heads, experts: far above any real model, far below what exhausts memory
_LARGEST_CODEBOOK = 2**31
_MOST_PATCHES = 4096  # attention takes memory by its square


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Args:
        path: The file or directory.
        kind: Which of the three models it is.
        weights: Parameter name -> float32 tensor on the CPU, prefixes stripped.
        config: The published config; empty where there is none.
    """

    path: Path
    kind: Kind
    weights: dict[str, Tensor]
    config: dict[str, Any]

    def whole_number(self, key: str, default: int) -> int:
        """The config's value of ``key``, or ``default`` where it has none.

        Raises:
            CheckpointError: It is no whole number that a model could be built from.
        """
        value = self.config.get(key, default)
        if type(value) is not int or not 1 <= value <= _LARGEST_SETTING:
            raise CheckpointError(
                f"{self.path}: its config says {key} is {shown(value)}; "
                f"it must be a whole number from 1 to {_LARGEST_SETTING}.",
                fix="Use the config it was trained with.",
            )
        return value


def read_checkpoint(path: str | Path, kind: Kind) -> Checkpoint:
    """Read and check the checkpoint at ``path``, a file or directory, for the slot ``kind``.

    Raises:
        CheckpointError: It is missing, damaged, not a checkpoint, of another kind, or holds code.
    """
    path = Path(path)
    if path.is_dir():
        weights_file, state_file = path / "model_state_dict.pt", path / "state.pt"
        if not weights_file.exists():
            raise CheckpointError(
                f"{path} is a directory without model_state_dict.pt.",
                fix="Give a directory that holds one, or the path of a .pth file.",
            )
        weights = _find_weights(load(weights_file), weights_file)
        state = load(state_file) if state_file.exists() else {}
    else:
        if path.suffix == ".safetensors":
            return _read_converted(path, kind)
        state = load(path)
        weights = _find_weights(state, path)
    config = state.get("config") if isinstance(state, Mapping) else None
    return _checked(path, kind, weights, dict(config) if isinstance(config, Mapping) else {})


def _checked(path: Path, kind: Kind, weights: dict[str, Tensor], config: dict[str, Any]) -> Checkpoint:
    actual = next((kind for kind in KINDS if _TELLTALE[kind] in weights), None)
    if actual != kind:
        what = f"a {actual} checkpoint" if actual else "not a checkpoint of a TinyWorlds suite"
        raise CheckpointError(
            f"{path} is {what}; it was given as {kind}.", fix=f"Give a {kind} checkpoint here."
        )
    _check_storage(weights, path)
    weights = {
        key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()
    }
    for key, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {key} holds NaN or infinite values, or some that are too large for 32 bits.",
                fix="This training run diverged; use an earlier step.",
            )
    return Checkpoint(path, kind, weights, config)


def write_converted(checkpoint: Checkpoint, path: Path, source: str) -> None:
    """Write a checkpoint in a form that can hold no code, to be read from then on instead of its pickle.

    Args:
        checkpoint: From `read_checkpoint`.
        path: ``<name>.safetensors``; ``<name>.json`` is written beside it, first, so that an interrupted
            write leaves nothing that could be read.
        source: SHA-256 of the file it was read from, in hex; recorded, and not checked by `read_checkpoint`.

    Raises:
        OSError: It cannot be written there.
    """
    data = save_safetensors({key: tensor.contiguous() for key, tensor in checkpoint.weights.items()})
    config = {
        str(key): value
        for key, value in checkpoint.config.items()
        if value is None or type(value) in (bool, int, float, str)
    }
    about = {"kind": checkpoint.kind, "source": source, "config": config}
    about["seal"] = _seal(about, data)
    for target, content in (
        (path.with_suffix(".json"), (json.dumps(about, indent=2) + "\n").encode()),
        (path, data),
    ):
        with written_whole(target) as partial:
            partial.write_bytes(content)


def _read_converted(path: Path, kind: Kind) -> Checkpoint:
    try:
        data = path.read_bytes()
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about.pop("seal") != _seal(about, data) or not isinstance(about["config"], dict):
            raise ValueError("its checksum is wrong")
        weights = _find_weights(load_safetensors(data), path)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read as a converted checkpoint ({str(error)[:200]}).",
            fix="Delete it and its .json: it is made again from its source.",
        ) from error
    return _checked(path, kind, weights, about["config"])


def _seal(about: Mapping[str, Any], data: bytes) -> str:
    """SHA-256 over both files of a converted checkpoint, in hex."""
    text = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + hashlib.sha256(data).digest()).hexdigest()


def _find_weights(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's contents, under any of its names, prefixes stripped."""
    held = loaded if isinstance(loaded, Mapping) else {}
    for candidate in [*(held.get(key) for key in _WEIGHT_KEYS), held]:
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            break
    else:
        what = f"the keys {', '.join(sorted(map(shown, held))[:8])}" if held else f"a {type(loaded).__name__}"
        raise CheckpointError(
            f"{path} holds no weights under {', '.join(_WEIGHT_KEYS)} or bare; it holds {what}.",
            fix="Give a checkpoint saved by the published project.",
        )
    weights: dict[str, Tensor] = {}
    for key, value in candidate.items():
        if not isinstance(key, str) or len(key) > _LONGEST_KEY or not (key.isascii() and key.isprintable()):
            raise CheckpointError(
                f"{path}: {shown(key)} is no name of a parameter.",
                fix="Give a checkpoint saved by the published project.",
            )
        name = _PREFIXES.sub("", key)
        if not isinstance(value, Tensor) or name in weights:
            what = "occurs twice" if name in weights else f"is a {type(value).__name__}, not a tensor"
            raise CheckpointError(
                f"{path}: {name} {what}.", fix="Give a checkpoint saved by the published project."
            )
        weights[name] = value
    return weights


def _check_storage(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not plain, or claim more than is stored, before anything looks at a value."""
    claimed, stored = 0, {}
    for key, tensor in weights.items():
        if tensor.dtype not in (*_FLOATS, torch.int64) or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"{path}: {key} is a {tensor.dtype} tensor on {tensor.device} with layout {tensor.layout}; "
                "models are built from plain floats.",
                fix="Give a checkpoint saved by the published project.",
            )
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        if tensor.ndim > _MOST_DIMENSIONS or storage.nbytes() < size:
            raise CheckpointError(
                f"{path}: {key} claims the shape {shown(list(tensor.shape))} and stores less.",
                fix=FETCH_AGAIN,
            )
        claimed, stored[storage.data_ptr()] = claimed + size, storage.nbytes()
    if claimed > _MOST_SHARED * sum(stored.values()):
        raise CheckpointError(
            f"{path}: its {len(weights)} tensors share their values: they claim {claimed} bytes and store "
            f"{sum(stored.values())}.",
            fix="Give a checkpoint saved by the published project.",
        )


def build_model(
    checkpoint: Checkpoint, frame_size: int, device: torch.device
) -> VideoTokenizer | LatentActions | Dynamics:
    """The model a checkpoint describes, with its weights, in evaluation mode on ``device``.

    Args:
        checkpoint: From `read_checkpoint`.
        frame_size: Pixels of a frame's side, as agreed among the suite.
        device: Where to put it.

    Raises:
        CheckpointError: A tensor is missing, left over, or fits no model; the message names it.
    """
    config = model_config(checkpoint, frame_size)
    # Shapes alone: a few odd tensors can describe a model of terabytes. What the models compute when they are
    # made keeps to operations (no arange, pow or randn) that do not import torch's compiler there.
    with torch.device("meta"):
        _check_keys(_new_model(checkpoint.kind, config), checkpoint)
    model = _new_model(checkpoint.kind, config)
    _check_keys(model, checkpoint)
    model.load_state_dict(checkpoint.weights)
    return model.to(device).eval().requires_grad_(False)


def _new_model(kind: Kind, config: ModelConfig) -> VideoTokenizer | LatentActions | Dynamics:
    if kind == "video_tokenizer":
        return VideoTokenizer(config)
    return LatentActions(config) if kind == "latent_actions" else Dynamics(config)


def _check_keys(model: nn.Module, checkpoint: Checkpoint) -> None:
    expected, given = model.state_dict(), checkpoint.weights
    complaints = [f"{key} is missing" for key in expected.keys() - given.keys()]
    complaints += [f"{key} belongs to no part of the model" for key in given.keys() - expected.keys()]
    for key in expected.keys() & given.keys():
        own, needed = given[key], expected[key]
        if own.shape != needed.shape:
            complaints.append(f"{key} has shape {list(own.shape)} where {list(needed.shape)} is needed")
        elif own.dtype != needed.dtype:
            complaints.append(f"{key} holds {own.dtype} where {needed.dtype} is needed")
        elif key == "quantizer.basis" and not needed.is_meta and not torch.equal(own, needed):
            complaints.append(f"{key} is {own.tolist()} where {needed.tolist()} is needed")
    if complaints:
        more = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
        raise CheckpointError(
            f"{checkpoint.path} is no whole {checkpoint.kind}: {'; '.join(sorted(complaints)[:3])}{more}.",
            fix="Its weights come from another model or version; use a checkpoint of the published project.",
        )


def model_config(checkpoint: Checkpoint, frame_size: int) -> ModelConfig:
    """The model's configuration, from the tensors' shapes, and from the config where shapes do not show it.

    Raises:
        CheckpointError: The shapes or the config's values are those of no model.
    """
    weights, kind = checkpoint.weights, checkpoint.kind
    stack = "transformer" if kind == "dynamics" else "encoder.transformer"
    first = f"{stack}.blocks.0"

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        tensor = weights.get(key)
        if tensor is None or tensor.ndim != dimensions or not tensor.numel():
            state = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{checkpoint.path}: {key} {state}; a {kind} needs it, with {dimensions} dimensions.",
                fix=FETCH_AGAIN,
            )
        return tuple(tensor.shape)

    def count(start: str, end: str) -> int:
        return sum(key.startswith(start) and key.endswith(end) for key in weights)

    embed_dim = shape(f"{first}.spatial_attn.q_proj.weight", 2)[0]
    experts = count(f"{first}.ffn.experts.", ".w_v.weight")
    latent_dim, num_bins, action_dim = 6, 4, None
    if kind == "dynamics":
        patch_size = checkpoint.whole_number("patch_size", 8)
        latent_dim = shape("latent_embed.weight", 2)[1]
        num_bins = _root(shape("output_mlp.weight", 2)[0], latent_dim, checkpoint)
        film = f"{first}.spatial_attn.norm.to_gamma_beta.1.weight"
        action_dim = shape(film, 2)[1] if film in weights else None
    else:
        patch_size = round((shape("encoder.patch_embed.proj.weight", 4)[1] / 3) ** 0.5)
        if kind == "latent_actions":
            action_dim = shape("encoder.action_head.3.weight", 2)[0]
        else:
            latent_dim = shape("encoder.latent_head.1.weight", 2)[0]
            basis = shape("quantizer.basis", 1)
            num_bins = (
                int(weights["quantizer.basis"][1]) if basis[0] > 1 else checkpoint.whole_number("num_bins", 4)
            )
    config = ModelConfig(
        frame_size=frame_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        num_heads=checkpoint.whole_number("num_heads", 8),
        ffn_width=shape(f"{first}.ffn.{'experts.0.' if experts else ''}w_v.weight", 2)[0],
        num_blocks=count(f"{stack}.blocks.", ".spatial_attn.q_proj.weight"),
        latent_dim=latent_dim,
        num_bins=num_bins,
        action_dim=action_dim,
        num_experts=experts,
        top_k_experts=min(checkpoint.whole_number("top_k_experts", 2), experts) if experts else 2,
    )
    _check_config(config, checkpoint)
    return config


def _root(codebook_size: int, latent_dim: int, checkpoint: Checkpoint) -> int:
    """D, from K = D**L."""
    num_bins = round(codebook_size ** (1 / latent_dim))
    if num_bins**latent_dim != codebook_size:
        raise CheckpointError(
            f"{checkpoint.path}: output_mlp.weight has {codebook_size} outputs, which is no whole number "
            f"to the power of {latent_dim} (latent_dim, from latent_embed.weight).",
            fix=FETCH_AGAIN,
        )
    return num_bins


def _check_config(config: ModelConfig, checkpoint: Checkpoint) -> None:
    complaint = ""
    if config.embed_dim % config.num_heads:
        complaint = f"embed_dim {config.embed_dim} is no multiple of num_heads {config.num_heads}"
    elif not config.patch_size or config.frame_size % config.patch_size:
        complaint = f"frame_size {config.frame_size} is no multiple of patch_size {config.patch_size}"
    elif config.grid**2 > _MOST_PATCHES:
        complaint = f"frame_size {config.frame_size} makes {config.grid**2} patches of {config.patch_size}"
    elif config.num_bins < 2 or not _fits(config.num_bins, config.latent_dim):
        complaint = f"num_bins {config.num_bins} and latent_dim {config.latent_dim} make no codebook"
    elif not _fits(2, config.action_dim or 1):
        complaint = f"action_dim {config.action_dim} makes no codebook"
    if complaint:
        raise CheckpointError(
            f"{checkpoint.path}: {complaint}.",
            fix="Its config does not fit its weights; use the config it was trained with.",
        )


def _fits(num_bins: int, dimensions: int) -> bool:
    return dimensions < 32 and num_bins**dimensions <= _LARGEST_CODEBOOK
