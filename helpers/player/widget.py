"""The player's widget: what the page says to the kernel and back. What is seen is in ``page/``.

Two traits are kept in step on both sides: ``world``, which never changes, and ``state``, which changes when
something but the next frame happens: see `Player._update`. Its ``about`` says what a ``note`` is about, such
as fps or keys. The rest are messages.

Page to kernel, each with a ``type``; none is answered with anything but the messages below:

    hello; bye                  a view came; the last one went
    seen {sequence}             the newest frame that was drawn, at most every 200 ms
    play {on}                   go on by itself, or pause
    hidden                      the page is no longer seen: pause, and say so for when it is
    hold {action, press, times} an action is held down (null: let go); press numbers the key press or click
    tap {action, press, times}  one step of an action; in pause, as many as times says
    rewind {to}; select {branch}
    restart {start}             from a row of the dataset (null: from the same clip)
    resume {play}               back to a play that a restart left; state's undo is the number of the last one
    go_on                       play again what an earlier kernel kept, state's last, and go on from there
    set {name, value}           steps, temperature, seed, feedback, preset or fps
    starts                      ask for places to start from
    last_good                   back to the last frame before the picture left what the dataset shows
    true_frame                  start from the place of the dataset that is most like that frame
    what_if {frames}            show what each action leads to
    live {action, frames}       go on with one of these futures: its very frames become the branch
    save {kind, overlay}        png, mp4, gif or session, or film: GIF and MP4 with the keys
    keys {keys}                 the key map, as its file has it (null: the world's defaults)

Kernel to page, each with its pictures as raw RGB in ``buffers``:

    frame {sequence, action, generated, press, model, transfer}   one buffer a frame of the step; also gauge
                                and score, as state has them
    strip {actions, generated}                                    the last frames, after a jump
    tips                        the last frame of each branch, after a jump or when one was opened
    starts {rows}; saved {path}; refused {text}
    what_if {actions, length}   futures of all actions are about to come, from here
    future {action}             one of them, one buffer a frame
    progress {text, share}      long work is under way, share of it is done; an empty text ends it
    look                        come into view: what lies behind in the notebook waits for play

JupyterLab may deliver a message on any thread, so its handler, ``_on_…``, leaves a note for the loop and
goes. The game, the presets, the keys and ``state`` are touched by the loop's jobs, ``_do_…``, only.
"""

import math
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from helpers.errors import ParameterError, RunbookError
from helpers.play import reality, recording
from helpers.play.game import Game, Going
from helpers.play.replay import go_on
from helpers.play.settings import checked
from helpers.play.tree import Play
from helpers.player import captures
from helpers.player.gauge import Gauge, calibrated
from helpers.player.keeping import Keeper
from helpers.player.keycaps import Keycaps
from helpers.player.keymap import KeyMap, action_id, default_keys, load_keys, save_keys
from helpers.player.labels import LABEL_CLIPS, ActionLabel, label_actions
from helpers.player.loop import FASTEST, MOST_TIMES, Job, Loop, Step
from helpers.player.preset import Preset
from helpers.run_folder import ROOT

STRIP = 12  # frames in the strip below the picture
FILM_WIDTH = 432  # pixels, at least
MOST_AHEAD = 16  # frames that a future may have
PAGE = Path(__file__).with_name("page")


def page_script() -> str:
    """The page's script: one module, for anywidget takes one, of all files in ``page/``.

    Their order does not matter: outside `render`, which ``player.js`` exports, they only declare.
    """
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(PAGE.glob("*.js")))


class Player(anywidget.AnyWidget):
    """A game on a canvas: buttons, a field and keys for the actions, a strip of the last frames, and tools.

    It saves to ``run``, and what is played as it goes; ``keeper`` is who did so before. A world's keys and
    labels are kept in ``root/data``, its presets in ``root/outputs``.
    """

    _css = PAGE / "player.css"
    world = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    _esm = traitlets.Unicode().tag(sync=True)

    @traitlets.default("_esm")
    def _script(self) -> str:
        return page_script()

    def __init__(self, game: Game, run: Path, root: Path = ROOT, keeper: Keeper | None = None) -> None:
        world, suite = game.opened.world, game.opened.suite
        super().__init__()
        self.world = {
            "title": world.title,
            "size": suite.frame_size,
            "actions": suite.n_actions,
            "horizon": game.horizon,
            "device": str(suite.device),
            "fastest": FASTEST,
            "most_times": MOST_TIMES,
        }
        self.game, self._run, self._root, self._n_actions = game, run, root, suite.n_actions
        self._lock = threading.Lock()
        self._rewind_to = self._views = 0
        self._phase = "warming up"
        self._gauge: Gauge | None = None
        names = dict(enumerate(world.true_actions))
        self._labels = [ActionLabel(action, names.get(action, "")) for action in range(suite.n_actions)]
        self._keys_path = root / "data" / f"{world.name}_keys.json"
        self._own_keys, self._note = load_keys(self._keys_path, suite.n_actions)
        self._about = "keys" * bool(self._note)
        self._heard = 0
        self.loop = Loop(game, self._draw, self._update, world.fps, self._keys.idle, progress=self._progress)
        self.keeper = keeper or Keeper(game, run, root)
        self._last = None if game.generated or game.plays > 1 else self.keeper.last()
        self._preset = Preset(game, self.loop, root)
        self._note = self._note or self._preset.note
        self._update()
        self.on_msg(self._receive)

    def close(self) -> None:
        """End the thread and take the player off the page."""
        self.loop.sleep()
        super().close()

    def look(self) -> None:
        """Have the page bring the player into view."""
        self._say("look")

    def _receive(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Note what was asked for. Nothing that a page sends can do more than be refused."""
        message = dict(content) if isinstance(content, dict) else {}
        kind = message.pop("type", "")
        note, job = (getattr(self, f"_{prefix}_{kind}", None) for prefix in ("on", "do"))
        try:
            if note:
                note(**message)
            elif job:
                about = str(message.get("name", "")) if kind == "set" else "keys" * (kind == "keys")
                self._put(partial(job, **message), pause=kind not in ("set", "keys"), about=about)
        except RunbookError as error:
            self._say("refused", text=str(error))
        except (TypeError, ValueError, OverflowError) as error:
            self._say("refused", text=f"{kind}: {error}")

    def _say(self, kind: str, frames: Iterable[np.ndarray] = (), **content: Any) -> None:
        """Send the page a message; each frame is uint8 ``[H, W, 3]``."""
        self.send({"type": kind, **content}, [frame.tobytes() for frame in frames])

    def _put(self, job: Job, pause: bool, about: str = "") -> None:
        """Have the loop do something; what it refuses is a note for the player, and play goes on.

        The note stands where ``about`` is set, and goes when that is mended.
        """

        def job_and_update() -> None:
            if self._about in ("", about) or about == "preset":  # which sets all the others
                self._note = self._about = ""
            try:
                job()
            except RunbookError as error:
                self._note, self._about = str(error), about
            self._heard += 1
            self._update()

        if pause:
            self.loop.play(False)
        if not self.loop.put(job_and_update):
            self._say("refused", text="That was too fast; once more, please.")

    def _on_hello(self) -> None:
        with self._lock:
            self._views += 1
        self.loop.put(self._welcome)

    def _on_bye(self) -> None:
        with self._lock:
            self._views = max(0, self._views - 1)
            if not self._views:
                self.loop.sleep(timeout=0)

    def _on_seen(self, sequence: int) -> None:
        self.loop.drawn(int(sequence))

    def _on_play(self, on: bool) -> None:
        self.loop.play(bool(on))
        self.loop.put(partial(self._update, ""))

    def _on_hidden(self) -> None:
        if self.loop.playing:
            self.loop.play(False)
            self.loop.put(partial(self._update, "Paused while hidden."))

    def _on_hold(self, action: int | None, press: int = 0, times: int = 1) -> None:
        self.loop.hold(None if action is None else self._known(action), int(press), _times(times))

    def _on_tap(self, action: int, press: int = 0, times: int = 1) -> None:
        self.loop.tap(self._known(action), int(press), _times(times))

    def _on_rewind(self, to: int) -> None:
        """A dragged finger asks for many: all that wait go to the last of them."""
        self._rewind_to = int(to)
        self._put(self._rewind, pause=True)

    def _known(self, action: Any) -> int:
        return action_id(repr(action), self._n_actions)  # by repr(), a text is none

    def _rewind(self) -> None:
        self.game.rewind(min(max(self._rewind_to, 0), self.game.branches[self.game.branch].generated))
        self._send_strip()

        self.loop.ready()

    def _progress(self, text: str, share: float) -> None:
        self._say("progress", text=text, share=share)

    def _do_select(self, branch: int) -> None:
        self.game.select(branch)
        self._send_strip()
        self.loop.ready()

    def _do_restart(self, start: int | None) -> None:
        self.game.restart(start)
        self._send_strip()

    def _do_resume(self, play: int) -> None:
        self.game.resume(play)
        self._send_strip()
        self.loop.ready()

    def _do_last_good(self) -> None:
        self._to_last_good()
        self._send_strip()
        self.loop.ready()

    def _to_last_good(self) -> None:
        game = self.game
        needed = math.ceil(game.settings.context_window / game.horizon)
        game.rewind(game.generated - reality.last_good(game.back(), needed) * game.horizon)

    def _do_true_frame(self) -> None:
        if self._gauge is None:
            raise ParameterError("The data was not looked at yet.", fix="Wait until the player is ready.")
        self._to_last_good()
        self._do_restart(self._gauge.nearest(self.game.frame))
        self._note = "Started from the true frame that is most like the last good one. Undo goes back."

    def _do_go_on(self) -> None:
        if self._last is None:
            raise ParameterError("Nothing was kept to go on with.", fix="Play.")
        kept = recording.read(self._last["session"])

        def work(going: Going) -> bool:
            self._note, self._about = go_on(self.game, kept, going), ""
            return True

        self.loop.work("going on: {} events are played again", work)
        self._last = None
        self._send_strip()

    def _do_set(self, name: str, value: Any) -> None:
        if name == "preset":
            self._preset.choose(str(value))
        elif name == "fps":
            fps = checked(name, _number(value), itself=True)
            if fps > FASTEST:
                raise ParameterError(f"fps is {fps}.", fix=f"Use 1 to {FASTEST}.")
            self.loop.fps = fps
        elif name in Play._fields:
            most = self.game.opened.suite.video_tokenizer.config.grid**2
            if name == "steps" and _number(value) == checked(name, _number(value)) > most:
                raise ParameterError(f"steps is {value}.", fix=f"Use 1 to {most}: a frame has {most} tokens.")
            self.game.set(**{name: _number(value)})

    def _do_keys(self, keys: Any) -> None:
        self._own_keys = None if keys is None else KeyMap.read(keys, self._n_actions)
        self.loop.idle = self._keys.idle
        save_keys(self._keys_path, self._own_keys)

    def _do_starts(self) -> None:
        starts = self.game.starts()
        self._say("starts", [start.thumbnail for start in starts], rows=[int(start.row) for start in starts])

    def _do_what_if(self, frames: int = 4) -> None:
        count = min(max(int(frames), 1), MOST_AHEAD)
        if not self.loop.ready():
            return
        self._say("what_if", actions=self._n_actions, length=count)

        def work(going: Going) -> bool:
            for action in range(self._n_actions):
                if not going(action, self._n_actions):
                    return False
                self._say("future", self.game.foresee(action, count), action=action)
            return True

        self.loop.work("looking ahead: {} futures", work)

    def _do_live(self, action: int, frames: int) -> None:
        action = self._known(action)
        if self.loop.ready():
            for _ in range(math.ceil(min(max(int(frames), 1), MOST_AHEAD) / self.game.horizon)):
                self.game.step(action)
            self._send_strip()

    def _do_save(self, kind: str, overlay: bool = False) -> None:
        if kind == "film":
            width = max(FILM_WIDTH, 2 * self.game.opened.suite.frame_size)
            caps = Keycaps(self._labels, self._keys, width)
            files = captures.film(self.game, caps, self._run, self.loop.fps)
            self._say("saved", path=" and ".join(map(str, files)))
            return
        self._say("saved", path=str(captures.save(self.game, kind, self._run, self.loop.fps, bool(overlay))))

    @property
    def _keys(self) -> KeyMap:
        return self._own_keys or default_keys(self._labels)

    def _welcome(self) -> None:
        """Bring a view up to date. The first one waits for what a headless run has no use for."""
        self._preset.look()
        self._send_strip()
        self._update()
        if self._phase == "ready":
            return
        try:
            self.game.warm_up()
            self._phase = "learning what each action does"
            self._update()
            self._labels = label_actions(self.game.opened, LABEL_CLIPS, self._root)
            self.loop.idle = self._keys.idle
            self._phase = "learning what the world looks like"
            self._update()
            self._gauge = self.game.judge = calibrated(self.game.opened, self.game.settings.context_window)
        finally:
            self._phase = "ready"
            self._update()

    def _draw(self, step: Step) -> None:
        real = self._reality()
        self._say("frame", **vars(step), **real)
        if self.loop.playing and real["stuck"] != self.state["stuck"]:
            self._update()
        if self.loop.playing:
            self.keeper.note(soon=False)
        else:
            self._update("")

    def _update(self, note: str | None = None) -> None:
        """Bring the page's ``state`` up to date, with another note for the player or the one that it has."""
        game = self.game
        if note or (note is not None and not self._about):  # what a field refused stands until it is mended
            self._note, self._about = note, ""
        if self.state and len(self.state["branches"]) < len(game.branches):
            self._say("tips", game.tips())
        self.state = {
            "phase": self._phase,
            "note": self._note,
            "about": self._about,
            "heard": self._heard,  # wishes that were granted or refused, so that each changes something
            "playing": self.loop.playing,
            "generated": game.generated,
            "branch": game.branch,
            "tip": game.branches[game.branch].generated,
            "branches": [asdict(branch) for branch in game.branches],
            "start": game.clip.start,
            **self._reality(),
            "undo": game.left,
            "last": self._last and {name: self._last[name] for name in ("frames", "when")},
            **game.play._asdict(),
            "seed": str(game.play.seed),  # it may be beyond what JavaScript's numbers hold exactly
            "preset": self._preset.chosen,
            "presets": self._preset.options,
            "preset_help": self._preset.help,
            "preset_meaning": self._preset.meaning,
            "fps": self.loop.fps,
            "idle": self.loop.idle,
            "keys": self._keys.to_json()["keys"],
            "labels": [asdict(label) | {"arrow": label.arrow} for label in self._labels],
        }

        if game.generated or game.plays > 1:
            self.keeper.note(soon=not self.loop.playing)

    def _reality(self) -> dict[str, Any]:
        """How far the picture is from the data, how many frames it was not, whether it is stuck for good."""
        back, score = self.game.back, next(self.game.back()).real
        return {"gauge": round(reality.strain(back()), 3), "score": score, "stuck": reality.stuck(back())}

    def _send_strip(self) -> None:
        frames, actions = self.game.last_frames(STRIP)
        self._say("strip", frames, actions=actions, generated=self.game.generated)
        self._say("tips", self.game.tips())


def _times(value: int) -> int:
    return min(max(int(value), 1), MOST_TIMES)


def _number(value: Any) -> Any:
    """A field's text as the finite number that it is; anything else as it came, to be refused by name."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            if abs(number := kind(value)) < math.inf:
                return number
    return value
