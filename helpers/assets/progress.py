"""A download's progress, with rate and time left, wherever it runs.

A terminal gets a bar, a notebook the same as a widget. A bar written into a log is a flood, so wherever
output goes to no terminal there is a line at most every ten seconds, and none for what is done by then. A
notebook gets both: it cannot tell whether somebody looks at it or papermill runs it, whose log shows lines
alone.
"""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

_LINE_EVERY_SECONDS = 10.0


class Progress:
    """Counts bytes while its ``with`` block runs.

    Args:
        label: What is fetched.
        total: Bytes in all; below 0 if unknown.
        start: Bytes that were here before, which count for no rate.
        stream: Where to show it; standard error by default.
    """

    def __init__(self, label: str, total: int, start: int = 0, stream: TextIO | None = None) -> None:
        self._label, self._total, self._start, self._now = label, total, start, start
        self._stream = stream if stream is not None else sys.stderr
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        self._terminal = False

    def __enter__(self) -> "Progress":
        self._terminal = self._stream is not None and self._stream.isatty()
        if self._terminal or "ipykernel" in sys.modules:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                desc=self._label,
                total=self._total if self._total >= 0 else None,
                initial=self._start,
                unit="B",
                unit_scale=True,
                file=self._stream,
                mininterval=0.5,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """``count`` more bytes are here."""
        self.at(self._now + count)

    def at(self, position: int) -> None:
        """``position`` bytes are here in all, which may be fewer than before."""
        moved, self._now = position - self._now, position
        if moved < 0:  # it began again: what came before counts for no rate
            self._start, self._began = position, time.monotonic()
        if self._bar is not None:
            self._bar.update(moved)
        if self._terminal or self._stream is None:
            return
        if time.monotonic() - self._last >= _LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Where it stands, in words: ``"a.h5: 42 % of 249.0 MB, 3.1 MB/s, 0:46 left"``."""
        rate = (self._now - self._start) / max(time.monotonic() - self._began, 1e-3)
        if self._total <= 0:
            return f"{self._label}: {self._now / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s"
        share = f"{self._label}: {100 * self._now / self._total:.0f} % of {self._total / 1e6:,.1f} MB"
        if rate <= 0:
            return share
        minutes, seconds = divmod(round((self._total - self._now) / rate), 60)
        return f"{share}, {rate / 1e6:.1f} MB/s, {minutes}:{seconds:02d} left"
