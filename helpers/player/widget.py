"""The player's widget: what the page says to the kernel and back. What is seen is in ``player.js``.

Two traits are kept in step on both sides: ``world``, which never changes, and ``state``, which changes when
something but the next frame happens. The rest are messages.

Page to kernel, each with a ``type``; none is answered with anything but the messages below:

    hello; bye                  a view came; the last one went
    seen {sequence}             the newest frame that was drawn, at most every 200 ms
    play {on}; step; reset      go on by itself or pause; one step of the idle action; back to the clip
    hold {action, press}        an action is held down (null: let go); press numbers the key press or click
    tap {action, press}         one step of an action
    rewind {to}; select {branch}
    set {name, value}           steps, temperature, seed, feedback, preset, fps or idle
    starts; restart {start}     ask for places to start from; start from one
    what_if {frames}
    save {kind, overlay}        png, mp4, gif or session
    keys {keys}                 the key map, as its file has it

Kernel to page, each with its pictures as raw RGB (or one PNG) in ``buffers``:

    frame {sequence, action, generated, press, model, transfer}   one buffer a frame of the step
    strip {actions, generated}                                    the last frames, after a jump
    starts {rows}; what_if; saved {path}; refused {text}

JupyterLab may call a handler on any thread, so a handler takes a lock, leaves a note for the loop, and goes.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from helpers.errors import ParameterError, RunbookError
from helpers.play import recording
from helpers.play.game import Game, what_if_picture
from helpers.player.keep import keep_picture, keep_video, unused
from helpers.player.keymap import KeyMap, default_keys, keys_file, load_keys, save_keys
from helpers.player.labels import ActionLabel, label_actions, suggest_keys
from helpers.player.loop import FASTEST, Loop, Shown
from helpers.player.plain import png
from helpers.player.preset import Preset
from helpers.run_folder import ROOT

HERE = Path(__file__).resolve().parent
STRIP = 12
"""Frames in the strip below the picture."""

LABEL_CLIPS = 128
"""Clips from which it is learned what the actions do: some seconds on a slow CPU, once for a world."""

_PLAY = ("steps", "temperature", "seed", "feedback")


class Player(anywidget.AnyWidget):
    """A game on a canvas: buttons, a field and keys for the actions, a strip of the last frames, and tools.

    Args:
        game: What is played.
        run: The folder for what is saved.
        root: The folder that holds ``data/``, where a world's keys and labels are kept, and ``outputs/``,
            where its presets are.
    """

    _esm = HERE / "player.js"
    _css = HERE / "player.css"
    world = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, game: Game, run: Path, root: Path = ROOT) -> None:
        opened, suite = game.opened, game.opened.suite
        super().__init__(
            world={
                "title": opened.world.title,
                "size": suite.frame_size,
                "actions": suite.n_actions,
                "horizon": game.horizon,
                "device": str(suite.device),
                "fastest": FASTEST,
            }
        )
        self.game = game
        self._run, self._root = run, root
        self._lock = threading.Lock()
        self._rewind_to: int | None = None
        self._views = 0
        self._phase, self._note = "warming up", ""
        self._labels = expected_labels(game)
        self._keys_path = keys_file(opened.world.name, root)
        self._own_keys, self._note = load_keys(self._keys_path, suite.n_actions)
        keys = self._own_keys or default_keys(self._labels)
        self.loop = Loop(game, self._show, self._report, opened.world.fps, keys.idle)
        self._preset = Preset(game, self.loop, root)
        self._say()
        self._prepared = False
        self.on_msg(self._receive)

    # --- for the notebook ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Play stands still within the block, and nothing that the page asks for is done."""
        with self.loop.alone():
            yield
        self._say()

    def close(self) -> None:
        """End the thread and take the player off the page."""
        self.loop.sleep()
        super().close()

    # --- what the page asks for ----------------------------------------------------------------------

    def _receive(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Note what was asked for. Nothing that a page sends can do more than be refused."""
        if not isinstance(content, dict):
            return
        handler = getattr(self, f"_on_{content.get('type')}", None)
        if handler is None:
            return
        try:
            handler(**{name: value for name, value in content.items() if name != "type"})
        except RunbookError as error:
            self.send({"type": "refused", "text": str(error)})
        except (TypeError, ValueError, OverflowError) as error:
            self.send({"type": "refused", "text": f"{content.get('type')}: {error}"})

    def _on_hello(self) -> None:
        with self._lock:
            self._views += 1
            first, self._prepared = not self._prepared, True
        self.loop.wake()
        if not first:
            self._do(self._preset.look)
        self._do(self._jumped)
        if first:  # not before somebody looks: a headless run has no use for it
            self.loop.put(self._warm_up)

    def _on_bye(self) -> None:
        with self._lock:
            self._views = max(0, self._views - 1)
            gone = not self._views
        if gone:
            self.loop.sleep(timeout=0)
            self._say()

    def _on_seen(self, sequence: int) -> None:
        self.loop.seen(int(sequence))

    def _on_play(self, on: bool) -> None:
        self._note = ""
        self.loop.wake()
        self.loop.play(bool(on))
        self._say()

    def _on_step(self) -> None:
        self.loop.tap(self.loop.idle)

    def _on_hold(self, action: int | None, press: int = 0) -> None:
        if action is None:
            self.loop.hold(None)
            return
        known = self._known(action)
        if self.loop.playing:
            self.loop.hold(known, int(press))
        else:
            self.loop.tap(known, int(press))

    def _on_tap(self, action: int, press: int = 0) -> None:
        self.loop.tap(self._known(action), int(press))

    def _on_reset(self) -> None:
        self._on_restart(None)

    def _on_restart(self, start: int | None) -> None:
        self.loop.play(False)
        self._do(lambda: self.game.restart(start), jump=True)

    def _on_select(self, branch: int) -> None:
        self.loop.play(False)
        self._do(lambda: self.game.select(int(branch)), jump=True)

    def _on_rewind(self, to: int) -> None:
        """A dragged finger asks for many: the last of them counts."""
        self.loop.play(False)
        with self._lock:
            waits = self._rewind_to is not None
            self._rewind_to = int(to)
        if not waits and not self._do(self._rewind, jump=True):
            with self._lock:
                self._rewind_to = None

    def _on_set(self, name: str, value: Any) -> None:
        if name == "fps":
            self.loop.fps = min(max(_finite(name, value), 0.5), FASTEST)
        elif name == "idle":
            self._keep_keys(KeyMap(self._keys.keys, self._known(value)))
        elif name == "preset":
            self._do(lambda: self._preset.choose(str(value)))
            return
        elif name in _PLAY:
            self._do(lambda: self.game.set(**{name: _number(name, value)}))
            return
        self._say()

    def _on_keys(self, keys: Any) -> None:
        self._keep_keys(KeyMap.read(keys, self.game.opened.suite.n_actions))
        self._say()

    def _on_starts(self) -> None:
        self.loop.play(False)
        self._do(self._send_starts)

    def _on_what_if(self, frames: int = 4) -> None:
        self.loop.play(False)
        count = min(max(int(frames), 1), 16)
        self._do(lambda: self._send_what_if(count))

    def _on_save(self, kind: str, overlay: bool = False) -> None:
        if kind not in ("png", "mp4", "gif", "session"):
            raise ParameterError(f"{kind!r} cannot be saved.", fix="Use png, mp4, gif or session.")
        self.loop.play(False)
        self._do(lambda: self._save(kind, bool(overlay)))

    def _do(self, job: Callable[[], None], jump: bool = False) -> bool:
        """Have the loop do something, then tell the page; False where too much waits already."""

        def told() -> None:
            job()
            self._note = ""
            if jump:
                self._jumped()
            self._say()

        taken = self.loop.put(told)
        if not taken:
            self.send({"type": "refused", "text": "That was too fast; once more, please."})
        return taken

    def _known(self, action: Any) -> int:
        count = self.game.opened.suite.n_actions
        if isinstance(action, bool) or not isinstance(action, int) or not 0 <= action < count:
            raise ParameterError(f"{action!r} is not an action id.", fix=f"Use 0 to {count - 1}.")
        return action

    @property
    def _keys(self) -> KeyMap:
        return self._own_keys or default_keys(self._labels)

    def _keep_keys(self, keys: KeyMap) -> None:
        self._own_keys, self.loop.idle = keys, keys.idle
        try:
            save_keys(self._keys_path, keys)
        except OSError as error:
            self._note = f"The keys hold for now; {self._keys_path} cannot be written ({error.strerror})."

    # --- in the loop's thread ------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """A first step that nobody sees."""
        self.game.warm_up()
        self._phase = "learning what each action does"
        self._say()
        self.loop.put(self._learn)

    def _learn(self) -> None:
        """What the world's actions do: some seconds, once; then it is kept."""
        try:
            self._labels = label_actions(self.game.opened, LABEL_CLIPS, self._root)
            if self._own_keys is None:
                self.loop.idle = self._keys.idle
        finally:
            self._phase = "ready"
            self._say()

    def _show(self, shown: Shown) -> None:
        self.send(
            {
                "type": "frame",
                "sequence": shown.sequence,
                "action": shown.action,
                "generated": shown.generated,
                "press": shown.press,
                "model": shown.model,
                "transfer": shown.transfer,
            },
            [frame.tobytes() for frame in shown.frames],
        )
        if not self.loop.playing:
            self._say()

    def _report(self, note: str) -> None:
        self._note = note
        self._say()

    def _say(self) -> None:
        """Bring the page's ``state`` up to date."""
        game = self.game
        self.state = {
            "phase": self._phase,
            "note": self._note,
            "playing": self.loop.playing,
            "alive": self.loop.alive,
            "generated": game.generated,
            "tip": game.branches[game.branch].generated,
            "branch": game.branch,
            "branches": [asdict(branch) for branch in game.branches],
            "start": game.clip.start,
            **game.play._asdict(),
            # Beyond what JavaScript's numbers hold exactly.
            "seed": str(game.play.seed),
            "preset": self._preset.chosen,
            "presets": self._preset.options,
            "preset_help": self._preset.help,
            "fps": self.loop.fps,
            "idle": self.loop.idle,
            "keys": self._keys.to_json()["keys"],
            "labels": [asdict(label) | {"arrow": label.arrow} for label in self._labels],
        }

    def _jumped(self) -> None:
        frames, actions = self.game.last_frames(STRIP)
        content = {"type": "strip", "actions": actions, "generated": self.game.generated}
        self.send(content, [frame.tobytes() for frame in frames])

    def _rewind(self) -> None:
        with self._lock:
            to, self._rewind_to = self._rewind_to, None
        if to is not None:
            self.game.rewind(min(max(to, 0), self.game.branches[self.game.branch].generated))

    def _send_starts(self) -> None:
        starts = self.game.starts()
        content = {"type": "starts", "rows": [int(start.row) for start in starts]}
        self.send(content, [start.thumbnail.tobytes() for start in starts])

    def _send_what_if(self, frames: int) -> None:
        names = [f"{label.id} {label.name}".strip() for label in self._labels]
        picture = what_if_picture(self.game.frame, self.game.what_if(frames), names)
        self.send({"type": "what_if"}, [png(picture)])

    def _save(self, kind: str, overlay: bool) -> None:
        if kind == "session":
            path = unused(self._run, ".json")
            recording.write(path, self.game.recording())
        elif kind == "png":
            path = keep_picture(self.game.frame, unused(self._run, ".png"))
        else:
            made = self.game.rollout()
            actions = [*[None] * made.given, *made.actions]
            path = keep_video(
                np.asarray(made.frames), actions, unused(self._run, f".{kind}"), self.loop.fps, overlay
            )
        self.send({"type": "saved", "path": str(path)})


def expected_labels(game: Game) -> list[ActionLabel]:
    """The labels until they are learned: the names of the true actions where the world tells them."""
    names = game.opened.world.true_actions
    return suggest_keys(
        [
            ActionLabel(
                id=action,
                name=names[action] if action < len(names) else "",
                count=0,
                share=0.0,
                dead=False,
                motion=(0.0, 0.0),
                effect=(0.0, 0.0),
                true_action=None,
                certainty=None,
                keys=(),
            )
            for action in range(game.opened.suite.n_actions)
        ]
    )


def _number(name: str, value: Any) -> Any:
    """A value from a field of the page: text or number, as `Game.set` takes it."""
    if name == "feedback":
        return value
    if name == "temperature":
        return _finite(name, value)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(f"{name} is {value!r}.", fix="Give a whole number.") from error


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ParameterError(f"{name} is {value!r}.", fix="Give a number.")
    return number
