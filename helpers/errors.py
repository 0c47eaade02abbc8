"""Every error the project raises on purpose: one family, whose messages are sentences.

A message says what happened, with which file or value, and what to do about it. In a notebook it is
shown as that sentence; the traceback is for errors nobody foresaw.
"""

import difflib
from collections.abc import Iterable

TO_DO = "What to do: "
"""What stands before a remedy wherever it has a line of its own."""


class RunbookError(Exception):
    """Base of the family: ``what`` happened, naming the file, key or value, and ``fix``, what to do then."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        self.what, self.fix = harmless(what), harmless(fix)
        super().__init__(f"{self.what} {self.fix}".strip())

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this instead of printing a traceback."""
        return [f"{type(self).__name__}: {self.what}", *([TO_DO + self.fix] if self.fix else [])]


class CheckpointError(RunbookError):
    """A checkpoint file is missing, damaged, hostile, or not what its slot needs."""


class SuiteError(RunbookError):
    """The three checkpoints are each sound and do not belong together."""


class DatasetError(RunbookError):
    """An h5 dataset is missing, damaged, too short or of another layout."""


class ActionError(RunbookError):
    """An action id is not one of the suite's."""

    @classmethod
    def unknown(cls, action: object, count: int) -> "ActionError":
        """Of an ``action`` that a suite with so many has not."""
        return cls(f"{action} is not an action id of this suite.", fix=f"Use 0 to {count - 1}.")


class ParameterError(RunbookError):
    """A parameter has a value that its docstring rules out, or a name nobody knows."""


class DeviceError(RunbookError):
    """The device asked for cannot be used."""

    @classmethod
    def missing(cls, device: str, torch: str, cuda: str | None) -> "DeviceError":
        """Of a ``"cuda…"`` or ``"mps"`` that is not there; ``torch`` and ``cuda`` are versions."""
        if device == "mps":
            return cls('device is "mps" and this machine has no Metal GPU.', fix='Use device="cpu".')
        built = f"built for CUDA {cuda}" if cuda else "a CPU build"
        what = f"device is {device!r} and CUDA is not available (torch {torch}, {built})."
        return cls(what, fix='Run 02_torch to see why, or use device="cpu".')


class AssetError(RunbookError):
    """A suite's files could not be found, fetched or verified."""


class TorchBuildError(RunbookError):
    """No torch build serves this machine, or the installed one does not work."""


class SetupError(RunbookError):
    """A step of the installation failed."""


class OutputError(RunbookError):
    """A run's results could not be written."""


class TrainingError(RunbookError):
    """A training cannot go on."""


class SessionFileError(RunbookError):
    """A session file is missing, damaged, of another version, or was played with other weights."""


class CellOrderError(RunbookError):
    """A notebook's cell ran before the cells it builds on."""


class VerdictError(RunbookError):
    """A step ended with at least one failed check."""


def shown(value: object) -> str:
    """A value of unknown origin for a message: one short line of ASCII."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # Python prints no whole number of thousands of digits
        text = f"a value of type {type(value).__name__} too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def choices(text: str, known: Iterable[str], further: Iterable[str] = ()) -> str:
    """What to do about a name that nobody knows: which it may be meant for, or else which there are.

    Of ``further`` ones it may be meant for, they are not listed.
    """
    names, wanted = list(known), text.strip().lower()
    every = [*names, *further]
    # A part of a name is meant for it, however much longer the name is.
    near = [name for name in every if len(wanted) > 2 and (wanted in name.lower() or name.lower() in wanted)]
    near = near or difflib.get_close_matches(wanted, every, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(names) or 'none'}."


def harmless(text: str) -> str:
    """The text as every terminal prints it and none obeys it: foreign files put escape codes into names."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text
    )
