"""A first player for the notebook: choose an action, see the next frame.

JupyterLab may call a widget's handlers on any thread, so a handler only notes what was asked for; one worker
thread owns the session and alone touches the models. Without a front end the widgets are built all the same,
and nothing ever waits for one.
"""

import io
import threading
from collections import deque
from collections.abc import Callable

import ipywidgets as widgets
from PIL import Image

from helpers.rollout import (
    Clip,
    OpenWorld,
    Rollout,
    Settings,
    StepClock,
    describe_rollout,
    open_session,
    precision,
)
from helpers.video import contact_sheet, to_uint8, upscale
from helpers.worldmodel import Session

WAITING = 4
"""Clicks that may wait; later ones are dropped, or the world would lag ever further behind the player."""

STRIP = 8
"""Frames in the strip below the picture."""


def open_player(opened: OpenWorld, clip: Clip, settings: Settings, rollout: Rollout) -> "Player | None":
    """A player that goes on from ``rollout``, shown in the cell; None unless ``use_interactive_mode``."""
    if not settings.use_interactive_mode:
        return None
    from IPython.display import display

    player = Player(opened, clip, settings, rollout)
    display(player.view)
    return player


def played(player: "Player | None", rollout: Rollout) -> Rollout:
    """What there is to save: what was played by now, or ``rollout`` where there is no player."""
    return player.rollout() if player else rollout


class Player:
    """A button for each action id, a field for ids, the current frame, and a strip of the last ones.

    Args:
        opened: The world to play.
        clip: Where a reset goes back to.
        settings: Temperature, seed, decoding steps and so on.
        rollout: Where the game starts: its session is played on.
        size: Side of the shown frame, in screen pixels.
    """

    def __init__(
        self, opened: OpenWorld, clip: Clip, settings: Settings, rollout: Rollout, size: int = 384
    ) -> None:
        self._opened, self._clip, self._settings, self._start = opened, clip, settings, rollout
        self._session: Session = rollout.session
        self._clock = StepClock(opened.suite.device)
        self._clock.seconds += rollout.seconds
        self._clock.gpu_seconds += rollout.gpu_seconds
        self._scale = max(1, size // opened.suite.frame_size)
        self._asked: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False

        ids = range(opened.suite.n_actions)
        self.buttons = [widgets.Button(description=str(action), layout={"width": "48px"}) for action in ids]
        for action, button in zip(ids, self.buttons, strict=True):
            button.on_click(lambda _, action=action: self.ask(action))
        self.field = widgets.Text(
            placeholder=f"action id, 0 to {ids[-1]}", continuous_update=False, layout={"width": "170px"}
        )
        self.field.observe(self._read_field, "value")
        self.reset_button = widgets.Button(description="reset", icon="undo", layout={"width": "90px"})
        self.reset_button.on_click(lambda _: self.reset())
        self.message = widgets.Label()
        self.image = widgets.Image(format="png", width=size, height=size)
        self.strip = widgets.Image(format="png")
        self.view = widgets.VBox(
            [
                self.image,
                widgets.HBox(self.buttons, layout={"flex_flow": "row wrap"}),
                widgets.HBox([self.field, self.reset_button, self.message]),
                self.strip,
            ]
        )
        self._show()
        threading.Thread(target=self._work, name="player", daemon=True).start()

    def ask(self, action: int) -> None:
        """Ask for one step under ``action``; what is no id is refused beside the field, and play goes on."""
        if not 0 <= action < self._opened.suite.n_actions:
            self.message.value = f"{action} is not an action id. Use 0 to {self._opened.suite.n_actions - 1}."
            return
        self._put(lambda: self._step(action))

    def reset(self) -> None:
        """Ask to go back to the clip's context; what waits is forgotten."""
        with self._changed:
            self._asked.clear()
        self._put(self._reset)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until everything asked for is done; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._asked and not self._busy, timeout)

    def close(self) -> None:
        """End the worker thread and take the widgets off the page."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.view.close()

    def rollout(self) -> Rollout:
        """Everything played since the last reset, as `helpers.infer.roll_out` would describe it."""
        self.wait()
        return describe_rollout(self._session, self._clip, self._settings, self._clock, self._start.trace)

    def _put(self, job: Callable[[], None]) -> None:
        with self._changed:
            if len(self._asked) < WAITING:
                self._asked.append(job)
                self._changed.notify_all()

    def _read_field(self, change: dict[str, str]) -> None:
        text = change["new"].strip()
        if not text:
            return
        self.field.value = ""
        try:
            self.ask(int(text))
        except ValueError:
            self.message.value = f"{text!r} is not an action id. Use 0 to {self._opened.suite.n_actions - 1}."

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._asked) or self._closed)
                if self._closed:
                    return
                job, self._busy = self._asked.popleft(), True
            try:
                job()
            except Exception as error:  # whatever a step raises, the thread must live to take the next one
                self.message.value = f"{type(error).__name__}: {error}"
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _step(self, action: int) -> None:
        with precision(self._settings, self._opened.suite.device), self._clock:
            self._session.step(action)
        self._show()

    def _reset(self) -> None:
        self._session = open_session(self._opened, self._clip, self._settings)
        self._clock = StepClock(self._opened.suite.device)
        self._show()

    def _show(self) -> None:
        frames = to_uint8(self._session.frames[0, -STRIP:].float().cpu())  # [<=STRIP, H, W, 3]
        taken = self._session.actions[0].repeat_interleave(self._session.horizon).tolist()[-len(frames) :]
        taken = [-1] * (len(frames) - len(taken)) + taken
        captions = ["given" if action < 0 else str(action) for action in taken]
        self.image.value = _png(Image.fromarray(upscale(frames[-1:], self._scale)[0]))
        self.strip.value = _png(contact_sheet([("", frames)], captions, scale=1, columns=STRIP))
        count = self._session.frames.shape[1] - self._settings.context_window
        last = f", last step {1000 * self._clock.seconds[-1]:.0f} ms" if self._clock.seconds else ""
        self.message.value = f"{count} frame(s){last}"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
