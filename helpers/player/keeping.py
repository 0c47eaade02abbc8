"""Keeps what is played while it is played, so that no kernel that dies and no cell that runs again loses it.

The session file is brought up to date by a thread of its own, which lives only while there is something to
write. ``root/data/<world>_played.json`` says where the last one is, for a player that is opened later.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.errors import OutputError
from helpers.play import recording
from helpers.play.game import Game
from helpers.report import write_json
from helpers.run_folder import writing

EVERY = 2.0  # seconds between two writes while the world is played
SOON = 0.2  # seconds until what is played is written where play stands
SHARE = 20  # of so much time, at most one part is spent on writing: a long session takes longer


class Keeper:
    """Keeps a game in ``session.json`` in the folder ``run``, or in ``session_02.json`` if that is another's.

    ``written`` is called, by the thread, with "" after each write, or with why it could not be done.
    """

    def __init__(self, game: Game, run: Path, root: Path) -> None:
        self.game, self.run = game, run
        self.written: Callable[[str], None] = lambda _problem: None
        self.path: Path | None = None
        """The session file; None until something was played."""
        self._pointer = root / "data" / f"{game.opened.world.name}_played.json"
        self._lines: list[str] = []  # the events, as the file has them
        self._left: tuple[int, int] | None = None  # time and size of the file as it was written
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._soon = threading.Event()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def note(self, soon: bool) -> None:
        """Something was played: have it written within `EVERY` seconds, or soon. Costs next to nothing."""
        with self._lock:
            self._wanted = True
            if soon:
                self._soon.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
                self._thread.start()

    def save(self) -> None:
        """Write what was played; an `OutputError` where that is impossible."""
        with self._writing:
            new = self.game.recording(since=len(self._lines))
            self._lines += map(recording.event_line, new["events"])
            if not self._lines:
                return
            text = recording.file_text(new, self._lines)
            if self.path is None or _stamp(self.path) != self._left:
                with writing(self.run):
                    self.path = recording.own_place(self.run, text)
            recording.write_text(self.path, text)
            self._left = _stamp(self.path)
            self._point()

    def _run(self) -> None:
        pause = EVERY
        while True:
            if self._soon.wait(pause):
                time.sleep(SOON)
            self._soon.clear()
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            began, problem = time.monotonic(), ""
            try:
                self.save()
            except OutputError as error:
                problem = str(error)
            self.written(problem)
            pause = max(EVERY, SHARE * (time.monotonic() - began))

    def _point(self) -> None:
        when, frames = time.strftime("%Y-%m-%d %H:%M"), self.game.generated
        content = {"session": str(self.path), "frames": frames, "when": when, "fits": _fits(self.game)}
        with contextlib.suppress(OSError):  # the session itself is written
            self._pointer.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._pointer, content)

    def last(self) -> dict[str, Any] | None:
        """What was kept last of this world as it is here: session, frames and when; None without any."""
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            kept = json.loads(self._pointer.read_text(encoding="utf-8"))
            if kept["fits"] == _fits(self.game) and Path(kept["session"]).is_file() and int(kept["frames"]):
                return {name: kept[name] for name in ("session", "frames", "when")}
        return None


def _fits(game: Game) -> dict[str, Any]:
    """What has to be the same for play to be gone on with."""
    return {"files": game.opened.hashes, **{name: getattr(game.settings, name) for name in recording.FIXED}}


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns, path.stat().st_size
    return None
