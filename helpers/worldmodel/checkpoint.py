"""Reads one checkpoint of the published project, without running anything inside it.

Two forms are published:

- a single file ``*.pth``: a pickled dict with the weights under ``model`` (also seen: ``state_dict``,
  ``model_state_dict``, or a bare state dict) and a ``config``;
- a directory ``<kind>_step_<n>/``: ``model_state_dict.pt`` (a bare state dict) and ``state.pt`` (the config).

Both are pickles. `write_converted` keeps what was read as a third form, which is none: ``<name>.safetensors``
with ``<name>.json`` beside it, read by `read_checkpoint` like the others.

Whatever shapes the model is read off the tensors; the config is asked only for what tensors do not show.
"""

import hashlib
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from helpers.errors import CheckpointError
from helpers.file_kind import impostor
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
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST_SETTING = 1024  # pixels, heads, experts: far above any real model, far below what exhausts memory
_LARGEST_CODEBOOK = 2**31
_MOST_PATCHES = 4096  # attention takes memory by its square
_LARGEST_FILE = 4 * 10**9  # the published ones have 20 MB
_LARGEST_PICKLE = 64 * 10**6
_MOST_MEMBERS = 100_000
_FETCH_AGAIN = "Fetch the file again (notebook 04_assets), or check the path."


class _Inert:
    """Stands in for a class pickled into a config. Takes any arguments and does nothing with them."""

    def __new__(cls, *_arguments: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass


# The classes of the published project that directory checkpoints hold in their config.
_FOREIGN = [
    f"utils.config.{name}" for name in ("DeviceType", "DistributedConfig", "FSDPMixedPrecisionConfig")
]


# Everything else that a checkpoint of tensors and plain values names. torch's own list is longer: some of its
# entries allocate what a file merely claims.
_ALLOWED = {
    *_FOREIGN,
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    *(
        f"torch.{kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char")
    ),
    *(f"torch.{kind}Storage" for kind in ("Byte", "Bool")),
    *(f"torch.{dtype}" for dtype in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool")),
}


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

    def whole_number(self, key: str, default: int) -> int:
        """What the config says of ``key``, or ``default`` where it is silent.

        Raises:
            CheckpointError: It is no whole number that a model could be built from.
        """
        value = self.config.get(key, default)
        if type(value) is not int or not 1 <= value <= _LARGEST_SETTING:
            shown = repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"
            raise CheckpointError(
                f"{self.path}: its config says {key} is {shown}; "
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
        weights = _find_weights(_load(weights_file), weights_file)
        state = _load(state_file) if state_file.exists() else {}
    else:
        if path.suffix == ".safetensors":
            return _read_converted(path, kind)
        state = _load(path)
        weights = _find_weights(state, path)
    config = state.get("config") if isinstance(state, Mapping) else None
    return _checked(path, kind, weights, dict(config) if isinstance(config, Mapping) else {})


def _checked(path: Path, kind: Kind, weights: dict[str, Tensor], config: dict[str, Any]) -> Checkpoint:
    found = _tell_kind(weights)
    if found != kind:
        what = f"a {found} checkpoint" if found else "not a checkpoint of a TinyWorlds suite"
        raise CheckpointError(
            f"{path} is {what}; it was given as {kind}.", fix=f"Give a {kind} checkpoint here."
        )
    _check_values(weights, path)
    weights = {
        key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()
    }
    return Checkpoint(path, kind, weights, config)


def write_converted(checkpoint: Checkpoint, path: Path, source: str) -> None:
    """Keep a checkpoint in a form that can hold no code, to be read from then on instead of its pickle.

    Args:
        checkpoint: From `read_checkpoint`.
        path: ``<name>.safetensors``; ``<name>.json`` is written beside it, first, so that an interrupted
            write leaves nothing that could be read.
        source: SHA-256 of what it was read from, in hex; `read_checkpoint` leaves it to the caller.

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
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")  # several workers may convert at once
        partial.write_bytes(content)
        partial.replace(target)


def _read_converted(path: Path, kind: Kind) -> Checkpoint:
    try:
        data = path.read_bytes()
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about.pop("seal") != _seal(about, data) or not isinstance(about["config"], dict):
            raise ValueError("its checksum is wrong")
        weights = load_safetensors(data)
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
            f"{path} cannot be read as a converted checkpoint ({error}).",
            fix="Delete it and its .json: it is made again from its source.",
        ) from error
    return _checked(path, kind, weights, about["config"])


def _seal(about: Mapping[str, Any], data: bytes) -> str:
    """SHA-256 over both files of a converted checkpoint, in hex."""
    text = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + hashlib.sha256(data).digest()).hexdigest()


def _load(path: Path) -> Any:
    """What `torch.load` finds in one file, unpickled by its restricted unpickler alone.

    No message repeats torch's own: for a refused file it advises to load it with all checks off.
    """
    _check_is_archive(path)
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _FOREIGN]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} {_describe_refusal(path)}; nothing was run and it was refused.",
            fix="Use a checkpoint from a source you trust.",
        ) from error
    except Exception as error:  # a damaged pickle can end in any of them
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}).", fix=_FETCH_AGAIN
        ) from error


def _describe_refusal(path: Path) -> str:
    try:
        foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(_FOREIGN)
    except Exception:  # it reads the same damaged pickle
        foreign = set()
    if foreign:
        return f"wants to run code ({', '.join(sorted(foreign))})"
    return "holds something other than tensors and plain values"


def _check_is_archive(path: Path) -> None:
    """Say what a file is that is no intact archive of `torch.save`: torch's words for these cases mislead."""
    try:
        if found := impostor(path):
            raise CheckpointError(f"{path} is {found}, not a checkpoint.", fix=_FETCH_AGAIN)
        with path.open("rb") as file:
            magic = file.read(2)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist.", fix=_FETCH_AGAIN) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}).", fix="Check its permissions."
        ) from error
    if magic != b"PK":
        raise CheckpointError(
            f"{path} is not a checkpoint: torch.save has written zip archives since torch 1.6, this is none.",
            fix=_FETCH_AGAIN,
        )
    try:
        with zipfile.ZipFile(path) as archive:
            complaint = _complain_of_members(archive.infolist(), size)
            damaged = None if complaint else archive.testzip()
            foreign = set() if complaint or damaged else _foreign_names(archive)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).", fix=_FETCH_AGAIN) from error
    if complaint:
        raise CheckpointError(f"{path} is a zip archive, but no checkpoint: {complaint}.", fix=_FETCH_AGAIN)
    if foreign:
        names, tensors = ", ".join(sorted(foreign)), all(name.startswith("torch.") for name in foreign)
        what = "holds more than plain tensors and values" if tensors else "wants to run code"
        raise CheckpointError(
            f"{path} {what} ({names}); nothing was run and it was refused.",
            fix="Use a checkpoint from a source you trust.",
        )
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong.", fix=_FETCH_AGAIN)


def _foreign_names(archive: zipfile.ZipFile) -> set[str]:
    """The names in an archive's pickle that are not on our list; found without unpickling it."""
    (name,) = (name for name in archive.namelist() if name.lower().endswith("/data.pkl"))
    found = set()
    try:
        for operation, argument, _ in pickletools.genops(archive.read(name)):
            if operation.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", ".").replace("__builtin__", "builtins"))
            elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                found.add(operation.name)
    except Exception:  # a senseless pickle, of which torch will say so
        return set()
    return found - _ALLOWED


def _complain_of_members(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why an archive of ``size`` bytes cannot be one that `torch.save` wrote; ``""`` if it can.

    `torch.save` does not compress, so members that are larger than their archive are a zip bomb; and of two
    members of one name we might check the one and torch read the other.
    """
    names = [member.filename.lower() for member in members]
    if size > _LARGEST_FILE or len(members) > _MOST_MEMBERS:
        return f"it has {size} bytes and {len(members)} members, far more than any of a suite"
    if any(member.file_size > _LARGEST_PICKLE for member in members if member.filename.endswith(".pkl")):
        return "its pickle is far larger than any of a suite"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it has no data.pkl"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it holds a TorchScript program, which is code"
    if len(set(names)) < len(names):
        return "two of its members have the same name"
    if sum(name.endswith("/data.pkl") for name in names) > 1:
        return "it has several data.pkl"
    claimed = sum(member.file_size for member in members)
    return f"its members claim {claimed} bytes of a file of {size}" if claimed > size else ""


def _find_weights(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file held, under any of the names it goes by, prefixes stripped."""
    held = loaded if isinstance(loaded, Mapping) else {}
    for candidate in [*(held.get(key) for key in _WEIGHT_KEYS), held]:
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            break
    else:
        what = f"the keys {sorted(map(str, held))[:8]}" if held else f"a {type(loaded).__name__}"
        raise CheckpointError(
            f"{path} holds no weights under {', '.join(_WEIGHT_KEYS)} or bare; it holds {what}.",
            fix="Give a checkpoint saved by the published project.",
        )
    weights: dict[str, Tensor] = {}
    for key, value in candidate.items():
        name = _strip_prefixes(str(key))
        if not isinstance(value, Tensor) or name in weights:
            what = "occurs twice" if name in weights else f"is a {type(value).__name__}, not a tensor"
            raise CheckpointError(
                f"{path}: {name} {what}.", fix="Give a checkpoint saved by the published project."
            )
        weights[name] = value
    return weights


def _strip_prefixes(key: str) -> str:
    """Compiled and data-parallel models saved whole carry these in front of every key, in either order."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _tell_kind(weights: Mapping[str, Tensor]) -> Kind | None:
    return next((kind for kind in KINDS if _TELLTALE[kind] in weights), None)


def _check_values(weights: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in weights.items():
        if tensor.dtype not in (*_FLOATS, torch.int64) or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"{path}: {key} is a {tensor.dtype} tensor on {tensor.device} with layout {tensor.layout}; "
                "models are built from plain floats.",
                fix="Give a checkpoint saved by the published project.",
            )
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(
                f"{path}: {key} claims the shape {list(tensor.shape)} and stores less.", fix=_FETCH_AGAIN
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {key} holds NaN or infinite values.",
                fix="This training run diverged; use an earlier step.",
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
    expected, found = model.state_dict(), checkpoint.weights
    complaints = [f"{key} is missing" for key in expected.keys() - found.keys()]
    complaints += [f"{key} belongs to no part of the model" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if expected[key].shape != found[key].shape:
            shapes = f"{list(found[key].shape)} where {list(expected[key].shape)} is needed"
            complaints.append(f"{key} has shape {shapes}")
        elif expected[key].dtype != found[key].dtype:
            complaints.append(f"{key} holds {found[key].dtype} where {expected[key].dtype} is needed")
        elif (
            key == "quantizer.basis"
            and not expected[key].is_meta
            and not torch.equal(expected[key], found[key])
        ):
            complaints.append(f"{key} is {found[key].tolist()} where {expected[key].tolist()} is needed")
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
    weights, kind = checkpoint.weights, checkpoint.kind
    stack = "transformer" if kind == "dynamics" else "encoder.transformer"
    first = f"{stack}.blocks.0"

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        tensor = weights.get(key)
        if tensor is None or tensor.ndim != dimensions or not tensor.numel():
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{checkpoint.path}: {key} {found}; a {kind} needs it, with {dimensions} dimensions.",
                fix=_FETCH_AGAIN,
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
            fix=_FETCH_AGAIN,
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
