"""The thread that plays: it alone steps the game, at the pace of a clock. Knows no widgets and no messages.

Whoever asks for something, from whatever thread, takes a lock, leaves a note of it and goes. Nothing queues
up: a held action is one value, other requests are few, and a browser that falls behind is waited for.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from helpers.errors import RunbookError
from helpers.play.compute import stepping
from helpers.play.game import Game, Going

Job = Callable[[], object]

QUEUE = 8  # jobs that may wait; with more of them the world would lag ever further behind its player
BEHIND = 1.0  # seconds without a sign of the browser after which play waits for it
SILENT = 5.0  # seconds without a sign of the browser after which play is paused
FASTEST = 60  # frames a second; no screen needs more
MOST_TIMES = 60  # steps that one press in pause may take
TELL = 0.1  # seconds between two words about long work


@dataclass(frozen=True)
class Step:
    """One step of the game, to be drawn."""

    sequence: int  # number of the step since the loop was made, from 1
    frames: np.ndarray  # uint8 [horizon, H, W, 3]
    action: int  # the id taken
    generated: int  # frames generated on this branch, these included
    press: int  # number of the key press or click that the step answers; 0 where it answers none
    model: float  # seconds the models took
    transfer: float  # seconds it took to bring the pictures to the CPU


class Backlog(deque[tuple[int, float]]):
    """Steps sent to the browser and not yet reported as drawn: number and time, a second's worth at most."""

    def drawn(self, sequence: int) -> None:
        """Take this step off, and all before it: they were drawn too, or never will be."""
        while self and self[0][0] <= sequence:
            self.popleft()

    def age(self, now: float) -> float:
        """Seconds since the oldest step was sent; 0 without any."""
        return now - self[0][1] if self else 0.0


@dataclass(eq=False)
class Loop:
    """Plays a game in a thread of its own, which lives from `wake` to `sleep`."""

    game: Game  # touch it in a job (`put`) only, or while play is `paused`
    draw: Callable[[Step], None]  # called by the thread with each step
    report: Callable[[str], None]  # called when something else changed, with a note for the player or ""
    fps: float  # frames a second to aim at
    idle: int  # the action where no key is held
    watched: bool = True  # whether the front end reports what it drew
    progress: Callable[[str, float], None] = lambda _text, _share: None  # of long work; "" where it ended

    def __post_init__(self) -> None:
        self.playing = False  # whether the world goes on by itself; `play` changes it
        self._changed = threading.Condition()
        self._jobs: deque[tuple[int, Job]] = deque()  # with the number of the wish that each belongs to
        self._wishes = self._granting = 0  # how many there were; which one the thread is at work for
        self._busy = self._awake = self._stopped = False
        self._thread: threading.Thread | None = None
        self._held: int | None = None
        self._pressed: tuple[int, int] | None = None  # an action not yet taken, and the number of its press
        self._last: int | None = None
        self._due = 0.0
        self._sequence = 0
        self._backlog = Backlog()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> bool:
        """Start the thread unless it runs; True where this call started it."""
        with self._changed:
            self._awake = True
            if self.alive:
                return False
            self._thread = threading.Thread(target=self._run, name="player", daemon=True)
            self._thread.start()
            return True

    def sleep(self, timeout: float = 10.0) -> None:
        """Pause and end the thread, at the latest after the step it is in; waiting jobs are dropped."""
        with self._changed:
            self._awake = self.playing = False
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def play(self, on: bool) -> None:
        """Let the world go on by itself, or pause after the step it is in."""
        with self._changed:
            self._wishes += 1
            if on and not self.playing:
                self._due = time.monotonic()
                self._backlog.clear()
                self._pressed = None
            self.playing = on
            self._changed.notify_all()

    @contextlib.contextmanager
    def paused(self, timeout: float = 120.0) -> Iterator[None]:
        """Play stands still within the block, and jobs wait; a `RunbookError` if a step does not end."""
        with self._changed:
            played, self.playing = self.playing, False
            if not self.wait(timeout):
                what = f"The player's last step did not end within {timeout:.0f} s."
                raise RunbookError(what, fix="Try again.")
            self._stopped = True
        try:
            if played:
                self.report("")
            yield
        finally:
            with self._changed:
                self._stopped = False
                self._changed.notify_all()

    def hold(self, action: int | None, press: int = 0, times: int = 1) -> None:
        """Hold an action down, or let go (None). Even the shortest press is taken as `tap` takes it."""
        with self._changed:
            self._held = action
        if action is not None:
            self.tap(action, press, times)

    def tap(self, action: int, press: int = 0, times: int = 1) -> None:
        """Take an action: for the next step while playing, else for ``times`` steps right now."""
        with self._changed:
            if self.playing:
                self._pressed = (action, press)
                if action != self._last:
                    self._due = min(self._due, time.monotonic())  # a key is answered at once
                self._changed.notify_all()
                return
            self._wishes += 1
        self.put(partial(self._repeat, action, press, times))

    def put(self, job: Job) -> bool:
        """Have the thread do something to the game; False where too much waits already."""
        with self._changed:
            if len(self._jobs) >= QUEUE:
                return False
            self._jobs.append((self._wishes, job))
            self.wake()
            self._changed.notify_all()
            return True

    def drawn(self, sequence: int) -> None:
        """The browser drew this step."""
        with self._changed:
            self._backlog.drawn(sequence)
            self._changed.notify_all()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until every job is done; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def work(self, text: str, work: Callable[[Going], bool]) -> bool:
        """Do long work within a job; False where it was ended by another wish: to play, pause, step or go.

        The front end is told how far it is; ``{}`` in ``text`` stands for how many parts it has.
        """
        told = -math.inf

        def going(done: int, total: int) -> bool:
            nonlocal told
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                self.progress(text.format(total), done / total)
            with self._changed:
                return self._awake and self._wishes == self._granting

        try:
            return work(going)
        finally:
            if told > 0:
                self.progress("", 1.0)

    def ready(self) -> bool:
        """Have the game's state where it stands, see `Game.ready`, as `work`."""
        return self.game.ready(lambda *_: False) or self.work("recomputing {} frames", self.game.ready)

    def _run(self) -> None:
        with stepping(self.game.opened.world, spare=1):
            while (job := self._next()) is not None:
                try:
                    job()
                except Exception as error:  # whatever a step raises, the thread must live to take the next
                    self.play(False)
                    known = isinstance(error, RunbookError)
                    self.report(str(error) if known else f"{type(error).__name__}: {error}")
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        """The next job, or step of continuous play, once it is due; None at the end of the thread."""
        with self._changed:
            while self._awake:
                now = time.monotonic()
                age = self._backlog.age(now)
                plays = self.playing and age <= BEHIND and not self._stopped
                self._busy = True
                self._granting = self._wishes
                if self._jobs and not self._stopped:
                    self._granting, job = self._jobs.popleft()
                    return job
                if self.playing and age > SILENT:
                    self.playing = False
                    return partial(self.report, "Paused: the page has not been seen for a while.")
                if plays and now >= self._due:
                    return self._advance
                self._busy = False
                self._changed.wait(min(self._due - now, 0.5) if plays else 0.5)
            self._thread = None
            return None

    def _advance(self) -> None:
        """The next step of continuous play."""
        with self._changed:
            action, press = self._pressed or (self.idle if self._held is None else self._held, 0)
            self._pressed = None
            # Late by more than a little, it does not try to catch up: that would be a backlog.
            self._due = max(self._due, time.monotonic() - 0.1) + self.game.horizon / self.fps
        self._step(action, press)

    def _repeat(self, action: int, press: int, times: int) -> None:
        """A step, and the rest as the next job: between them play can be paused and the thread end."""
        if not self._step(action, press):
            return
        with self._changed:
            if times > 1 and self._awake:
                self._jobs.appendleft((self._granting, partial(self._repeat, action, press, times - 1)))

    def _step(self, action: int, press: int) -> bool:
        """Take a step; False where it was not, as getting ready took long and something else was wished."""
        if not self.ready():
            return False
        game, branch = self.game, self.game.branch
        frames = game.step(action)
        with self._changed:
            self._last = action
            self._sequence += 1
            if self.watched and self.playing:
                self._backlog.append((self._sequence, time.monotonic()))
        seconds = game.timing.model, game.timing.transfer
        self.draw(Step(self._sequence, frames, action, game.generated, press, *seconds))
        if game.branch != branch:
            self.report("")
        return True
