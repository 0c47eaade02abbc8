"""The thread that plays: it alone steps the game, at the pace of a clock. Knows no widgets and no messages.

Whoever asks for something, from whatever thread, takes a lock, leaves a note of it and goes. Nothing queues
up: a held action is one value, other requests are few, and a browser that falls behind is waited for.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from helpers.errors import RunbookError
from helpers.play.compute import a_core_to_spare
from helpers.play.game import Game

WAITING = 8
"""Requests that may wait; later ones are dropped, or the world would lag ever further behind its player."""

BEHIND, SILENT = 1.0, 5.0
"""Seconds without a sign of the browser after which play waits for it, and after which play is paused."""

FASTEST = 60
"""Frames a second; no screen needs more."""


@dataclass(frozen=True)
class Shown:
    """What one step has to show.

    Args:
        sequence: Counts the steps shown, from 1.
        frames: uint8 ``[horizon, H, W, 3]``.
        action: What led to them; None where there was none.
        generated: Frames generated on this branch, these included.
        press: Number of the key press or click that the step answers; 0 where it answers none.
        model: Seconds the models took.
        transfer: Seconds it took to bring the pictures to the CPU.
    """

    sequence: int
    frames: np.ndarray
    action: int | None
    generated: int
    press: int
    model: float
    transfer: float


class Watch:
    """How far the browser is behind: what was sent, and which of it was reported as shown.

    Nothing is sent while it is `behind`, so it holds a second's worth of frames at most.
    """

    def __init__(self) -> None:
        self._unseen: deque[tuple[int, float]] = deque()

    def sent(self, sequence: int, now: float) -> None:
        """Note that a frame was sent."""
        self._unseen.append((sequence, now))

    def seen(self, sequence: int) -> None:
        """Note that this frame was shown, and so every frame before it was, or never will be."""
        while self._unseen and self._unseen[0][0] <= sequence:
            self._unseen.popleft()

    def lag(self, now: float) -> float:
        """Seconds since the oldest frame was sent of which nothing was heard; 0 where there is none."""
        return now - self._unseen[0][1] if self._unseen else 0.0

    def forget(self) -> None:
        """Expect nothing any more."""
        self._unseen.clear()


class Loop:
    """Plays a game in a thread of its own, which lives from `wake` to `sleep`.

    Args:
        game: What is played. Touch it in a job (`put`) or within `alone` only.
        show: Called by the thread with what each step has to show.
        report: Called by the thread when something else changed; the text is a note for the player, or empty.
        fps: Frames a second to aim at.
        idle: The action where no key is held.
        watched: Whether the front reports what it showed (`Watch`).
    """

    def __init__(
        self,
        game: Game,
        show: Callable[[Shown], None],
        report: Callable[[str], None],
        fps: float,
        idle: int,
        watched: bool = True,
    ) -> None:
        self.game = game
        self.fps = fps
        self.idle = idle
        self._show, self._report, self._watched = show, report, watched
        self._changed = threading.Condition()
        self._owner = threading.RLock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._busy = False
        self._awake = False
        self._thread: threading.Thread | None = None
        self._playing = False
        self._held: int | None = None
        self._pressed: tuple[int, int] | None = None  # an action not yet taken, and the number of its press
        self._last: int | None = None
        self._due = 0.0
        self._sequence = 0
        self._watch = Watch()

    # --- for whoever asks, from any thread -----------------------------------------------------------

    @property
    def playing(self) -> bool:
        """Whether the world goes on by itself."""
        return self._playing

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> bool:
        """See to it that the thread runs; True where it was started by this call."""
        with self._changed:
            self._awake = True
            self._changed.notify_all()
            if self.alive:
                return False
            self._thread = threading.Thread(target=self._run, name="player", daemon=True)
            self._thread.start()
            return True

    def sleep(self, timeout: float = 10.0) -> None:
        """Pause and end the thread, at the latest after the step it is in; what waited is forgotten."""
        with self._changed:
            self._awake = self._playing = False
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def play(self, on: bool) -> None:
        """Let the world go on by itself, or pause."""
        with self._changed:
            if on and not self._playing:
                self._due = time.monotonic()
                self._watch.forget()
                self._pressed = None
            self._playing = on
            self._changed.notify_all()

    def hold(self, action: int | None, press: int = 0) -> None:
        """Hold an action down, or let go (None). Even the shortest press is taken for one step."""
        with self._changed:
            self._held = action
            if action is not None and self._playing:
                self._pressed = (action, press)
                if action != self._last:
                    self._due = min(self._due, time.monotonic())  # a key is answered at once
                self._changed.notify_all()

    def tap(self, action: int, press: int = 0) -> None:
        """Take an action for one step: the next one while playing, else one right now."""
        with self._changed:
            if self._playing:
                self._pressed = (action, press)
                self._due = min(self._due, time.monotonic())
                self._changed.notify_all()
                return
        self.put(lambda: self._step(action, press))

    def put(self, job: Callable[[], None]) -> bool:
        """Have the thread do something to the game; False where too much waits already."""
        with self._changed:
            if len(self._jobs) >= WAITING:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
        self.wake()
        return True

    def seen(self, sequence: int) -> None:
        """The front showed this frame."""
        with self._changed:
            self._watch.seen(sequence)
            self._changed.notify_all()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until everything asked for is done; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout)

    @contextlib.contextmanager
    def alone(self, timeout: float = 60.0) -> Iterator[Game]:
        """The game, paused and nobody else's within the block.

        Raises:
            RunbookError: A step did not end in time.
        """
        self.play(False)
        self.wait(timeout)
        if not self._owner.acquire(timeout=timeout):
            raise RunbookError(
                f"The player's last step did not end within {timeout:.0f} s.", fix="Try again."
            )
        try:
            yield self.game
        finally:
            self._owner.release()

    # --- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with a_core_to_spare():
            self._work()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            note = ""
            try:
                with self._owner:
                    job()
            except RunbookError as error:
                note = str(error)
            except Exception as error:  # whatever a step raises, the thread must live to take the next one
                note = f"{type(error).__name__}: {error}"
            finally:
                with self._changed:
                    self._busy = False
                    self._playing = self._playing and not note
                    self._changed.notify_all()
            if note:
                self._report(note)

    def _next(self) -> Callable[[], None] | None:
        """What to do now, waited for; None at the end of the thread."""
        with self._changed:
            while self._awake:
                now = time.monotonic()
                lag = self._watch.lag(now) if self._watched else 0.0
                if self._jobs:
                    self._busy = True
                    return self._jobs.popleft()
                if self._playing and lag > SILENT:
                    self._playing = False
                    self._watch.forget()
                    self._busy = True
                    return lambda: self._report("Paused: the page has not been seen for a while.")
                if self._playing and lag <= BEHIND and now >= self._due:
                    self._busy = True
                    return self._advance
                rest = self._due - now if self._playing and lag <= BEHIND else 0.5
                self._changed.wait(min(max(rest, 0.0), 0.5))
            self._thread = None
            return None

    def _advance(self) -> None:
        """The next step of continuous play."""
        with self._changed:
            action, press = self._pressed or (self.idle if self._held is None else self._held, 0)
            self._pressed = None
            now = time.monotonic()
            period = self.game.horizon / self.fps
            # Late by more than a little, it does not try to catch up: that would be a backlog.
            self._due = max(self._due, now - 0.1) + period
        self._step(action, press)

    def _step(self, action: int, press: int) -> None:
        branch = self.game.branch
        frames = self.game.step(action)
        timing = self.game.timing
        with self._changed:
            self._last = action
            self._sequence += 1
            if self._watched and self._playing:
                self._watch.sent(self._sequence, time.monotonic())
        self._show(
            Shown(
                self._sequence,
                frames,
                action,
                self.game.generated,
                press,
                timing.model,
                timing.transfer,
            )
        )
        if self.game.branch != branch:
            self._report("")
