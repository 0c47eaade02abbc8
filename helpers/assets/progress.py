"""A download's progress, with rate and time left: a bar in a terminal, a line every ten seconds in a log.

A notebook gets a bar and lines: it cannot tell whether papermill runs it, whose log shows lines alone.
"""

import sys
import time
from typing import Any


class Progress:
    """Counts bytes while its ``with`` block runs, and shows them on standard error.

    ``total`` is below 0 if unknown; the ``start`` bytes that were here before count for no rate.
    """

    def __init__(self, label: str, total: int, start: int = 0) -> None:
        self._label, self._total, self._start, self._now = label, total, start, start
        self._stream = sys.stderr
        self._began = self._last = time.monotonic()
        self._terminal = self._stream is not None and self._stream.isatty()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._terminal or "ipykernel" in sys.modules:
            from tqdm.auto import tqdm

            total = self._total if self._total >= 0 else None
            shown = {"desc": self._label, "unit": "B", "unit_scale": True, "mininterval": 0.5}
            self._bar = tqdm(total=total, initial=self._start, file=self._stream, **shown)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, position: int) -> None:
        """Set the bytes here in all, which may be fewer than before."""
        moved, self._now = position - self._now, position
        if moved < 0:  # it began again: earlier bytes count for no rate
            self._start, self._began = position, time.monotonic()
        if self._bar is not None:
            self._bar.update(moved)
        if not self._terminal and self._stream is not None and time.monotonic() - self._last >= 10:
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
