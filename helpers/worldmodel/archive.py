"""Reads one file that `torch.save` wrote, without running anything inside it.

Such a file is a zip archive with a pickle, and unpickling runs whatever a pickle names. So the archive is
checked first, then the names in its pickle, and torch's restricted unpickler reads what is left.
"""

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from helpers.errors import CheckpointError
from helpers.files import impostor

FETCH_AGAIN = "Fetch the file again (notebook 04_assets), or check the path."

_LARGEST_FILE = 4 * 10**9  # the published ones have 20 MB
_LARGEST_PICKLE = 64 * 10**6
_MOST_MEMBERS = 100_000


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


def load(path: Path) -> Any:
    """The contents of one file, unpickled by torch's restricted unpickler alone.

    No message repeats torch's own: for a refused file it advises to load it with all checks off.

    Raises:
        CheckpointError: It is missing, damaged, no such archive, or holds code.
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
            f"{path} cannot be read as a checkpoint ({type(error).__name__}).", fix=FETCH_AGAIN
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
    """Raise a `CheckpointError` unless `torch.save` wrote this archive: torch's own words for it mislead."""
    try:
        if other := impostor(path):
            raise CheckpointError(f"{path} is {other}, not a checkpoint.", fix=FETCH_AGAIN)
        with path.open("rb") as file:
            magic = file.read(2)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist.", fix=FETCH_AGAIN) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}).", fix="Check its permissions."
        ) from error
    if magic != b"PK":
        raise CheckpointError(
            f"{path} is not a checkpoint: torch.save has written zip archives since torch 1.6, this is none.",
            fix=FETCH_AGAIN,
        )
    try:
        with zipfile.ZipFile(path) as archive:
            flaw = _describe_members(archive.infolist(), size)
            damaged = None if flaw else archive.testzip()
            foreign = set() if flaw or damaged else _foreign_names(archive)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).", fix=FETCH_AGAIN) from error
    if flaw:
        raise CheckpointError(f"{path} is a zip archive, but no checkpoint: {flaw}.", fix=FETCH_AGAIN)
    if foreign:
        names, tensors = ", ".join(sorted(foreign)), all(name.startswith("torch.") for name in foreign)
        what = "holds more than plain tensors and values" if tensors else "wants to run code"
        raise CheckpointError(
            f"{path} {what} ({names}); nothing was run and it was refused.",
            fix="Use a checkpoint from a source you trust.",
        )
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong.", fix=FETCH_AGAIN)


def _foreign_names(archive: zipfile.ZipFile) -> set[str]:
    """The names in an archive's pickle that are not on our list, read without unpickling it."""
    (pickled,) = (name for name in archive.namelist() if name.lower().endswith("/data.pkl"))
    names = set()
    try:
        for operation, argument, _ in pickletools.genops(archive.read(pickled)):
            if operation.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".").replace("__builtin__", "builtins"))
            elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                names.add(operation.name)
    except Exception:  # a senseless pickle, of which torch will say so
        return set()
    return names - _ALLOWED


def _describe_members(members: list[zipfile.ZipInfo], size: int) -> str:
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
