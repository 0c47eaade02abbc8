"""Every error the project raises on purpose: one family, whose messages are sentences.

A message says what happened, with which file or value, and what to do about it. In a notebook it is
shown as that sentence; the traceback is for errors nobody foresaw.
"""


class RunbookError(Exception):
    """Base of the family: ``what`` happened, naming the file, key or value, and ``fix``, what to do then."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        self.what, self.fix = harmless(what), harmless(fix)
        super().__init__(f"{self.what} {self.fix}".strip())

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this instead of printing a traceback."""
        return [f"{type(self).__name__}: {self.what}", *([f"What to do: {self.fix}"] if self.fix else [])]


class CheckpointError(RunbookError):
    """A checkpoint file is missing, damaged, hostile, or not what its slot needs."""


class SuiteError(RunbookError):
    """The three checkpoints are each sound and do not belong together."""


class DatasetError(RunbookError):
    """An h5 dataset is missing, damaged, too short or of another layout."""


class ActionError(RunbookError):
    """An action id is not one of the suite's."""


class ParameterError(RunbookError):
    """A parameter has a value that its docstring rules out, or a name nobody knows."""


class DeviceError(RunbookError):
    """The device asked for cannot be used."""


class AssetError(RunbookError):
    """A suite's files could not be found, fetched or verified."""


class TorchBuildError(RunbookError):
    """No torch build serves this machine, or the installed one does not work."""


class SetupError(RunbookError):
    """A step of the installation failed."""


class OutputError(RunbookError):
    """A run's results could not be written."""


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


def harmless(text: str) -> str:
    """The text as every terminal prints it and none obeys it: foreign files put escape codes into names."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text
    )
