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

from helpers.errors import CheckpointError, shown
from helpers.files import impostor

FETCH_AGAIN = "Fetch the file again (notebook 04_assets), or check the path."

_LARGEST_FILE = 4 * 10**9  # the published ones have 20 MB
_LARGEST_PICKLE = 10**6  # the published ones have 30 kB
_MOST_MEMBERS = 100_000
_MOST_ARGUMENTS = 100  # of a call, one level down: a tensor's shape and strides are among them
_DEEPEST = 100  # tuples within tuples


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
        return f"wants to run code ({_listed(foreign)})"
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
    foreign: set[str] = set()
    try:
        with zipfile.ZipFile(path) as archive:
            flaw = _describe_members(archive.infolist(), size)
            damaged = None if flaw else archive.testzip()
            if not flaw and not damaged:
                (pickled,) = (name for name in archive.namelist() if name.lower().endswith("/data.pkl"))
                foreign, flaw = _survey(archive.read(pickled))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({str(error)[:200]}).", fix=FETCH_AGAIN
        ) from error
    if foreign:
        names, tensors = _listed(foreign), all(name.startswith("torch.") for name in foreign)
        what = "holds more than plain tensors and values" if tensors else "wants to run code"
        raise CheckpointError(
            f"{path} {what} ({names}); nothing was run and it was refused.",
            fix="Use a checkpoint from a source you trust.",
        )
    if flaw:
        raise CheckpointError(f"{path} is a zip archive, but no checkpoint: {flaw}.", fix=FETCH_AGAIN)
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: the checksum of {shown(damaged)} is wrong.", fix=FETCH_AGAIN
        )


def _listed(names: set[str]) -> str:
    """Names of unknown origin for a message, the first few of them."""
    return ", ".join(shown(name)[1:-1] for name in sorted(names)[:8])


class _Outline(list["_Outline"]):
    """A value that a pickle would make: the values within it, and how deep it is."""

    depth = 0


def _survey(pickled: bytes) -> tuple[set[str], str]:
    """The names in a pickle that are not on our list, and why its values are none of a checkpoint, or ``""``.

    It is not unpickled: its operations are followed with outlines in place of values. Tensors that share a
    shape of a hundred thousand dimensions take torch hours, and keys as deep end the interpreter.
    """
    names, flaw = set(), ""
    stack: list[Any] = []
    memo: dict[Any, _Outline] = {}
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            name, before = operation.name, operation.stack_before
            if name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".").replace("__builtin__", "builtins"))
            elif name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                names.add(name)
            if name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
                continue
            if name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
                continue
            parts: list[_Outline] = []
            if pickletools.markobject in before:
                while (part := stack.pop()) is not pickletools.markobject:
                    parts.append(part)
                before = before[: before.index(pickletools.markobject)]
            parts += [stack.pop() for _ in before]
            if name in ("REDUCE", "NEWOBJ") and len(parts[0]) + sum(map(len, parts[0])) > _MOST_ARGUMENTS:
                flaw = "one of its tensors has far too many dimensions"
            grows = name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")
            whole = parts.pop() if grows else _Outline()
            whole += parts
            whole.depth = max([whole.depth, *(part.depth + 1 for part in parts)])
            if whole.depth > _DEEPEST:
                flaw = "its values lie in one another far too deep"
            if flaw:
                break
            stack += [pickletools.markobject] if name == "MARK" else [whole] * len(operation.stack_after)
    except Exception:  # a senseless pickle, of many kinds
        return set(), "its pickle makes no sense"
    return names - _ALLOWED, flaw


def _describe_members(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why an archive of ``size`` bytes cannot be one that `torch.save` wrote; ``""`` if it can.

    `torch.save` does not compress, so members that are larger than their archive are a zip bomb; and of two
    members of one name we might check the one and torch read the other.
    """
    names = [member.filename.lower() for member in members]
    if size > _LARGEST_FILE or len(members) > _MOST_MEMBERS:
        return f"it has {size} bytes and {len(members)} members, far more than any of a suite"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it has no data.pkl"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it holds a TorchScript program, which is code"
    if len(set(names)) < len(names):
        return "two of its members have the same name"
    if sum(name.endswith("/data.pkl") for name in names) > 1:
        return "it has several data.pkl"
    claimed = sum(member.file_size for member in members)
    if claimed > size:
        return f"its members claim {claimed} bytes of a file of {size}"
    large = any(member.file_size > _LARGEST_PICKLE for member in members if member.filename.endswith(".pkl"))
    return "its pickle is far larger than any of a suite" if large else ""
