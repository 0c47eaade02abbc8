"""A world being played: step, rewind, branch, ask what if, and record everything as it happens.

    game = Game(opened, clip, settings)
    game.step(2)                       # uint8 [horizon, H, W, 3]
    game.rewind(0)
    game.step(6)                       # another branch; the first one stays
    game.select(0)

One thread plays a game at a time; it knows no widget and no clock but that of its steps. However long it is
played, a step costs the same: nothing that is done for a frame looks at all frames.
"""

import hashlib
import itertools
import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.errors import ActionError, ParameterError
from helpers.pictures import to_uint8
from helpers.play.branch import Branch, Rollout, Start, Timing
from helpers.play.comparison import Replay
from helpers.play.compute import StepClock, precision, threads_for
from helpers.play.gpu_trace import GpuTrace
from helpers.play.metrics import psnr
from helpers.play.recording import describe
from helpers.play.settings import Settings
from helpers.play.tree import Moment, Move, Play, Tree
from helpers.play.world import Clip, OpenWorld, choose_clip
from helpers.worldmodel import Session
from helpers.worldmodel.decode import is_whole

STATES_BYTES = 2**28
"""Memory for the exact states of the last steps, to which going back costs nothing: thousands in Crafter."""

LANDMARK = 64
"""Of all older steps, one in so many keeps its state; from there the rest is stepped again, bit for bit."""

Going = Callable[[int, int], bool]
"""Asked between the parts of long work, with how many are done and of how many: False ends it."""


class Game:
    """A world, played from a clip.

    The settings say its window, horizon and precision, and what steps, temperature, seed and feedback are at
    first; a `ParameterError` says that they fit neither the suite nor the clip.
    """

    def __init__(self, opened: OpenWorld, clip: Clip, settings: Settings) -> None:
        self.opened, self.settings = opened, settings
        self.horizon = settings.prediction_horizon
        """Frames one step generates."""
        self.clock = StepClock(opened.suite.device)
        self.timing = Timing(0.0, 0.0)
        self.trace: GpuTrace | None = None
        """What NVML saw of the GPU during `rollout.play`; None on a CPU."""
        self.replay: Replay | None = None
        """How this compares with the session file that it is a replay of; None if it is not one."""
        self.play = Play(settings.steps, settings.temperature, settings.seed, settings.feedback)
        """Steps, temperature, seed and feedback as the next step will use them; `set` changes them."""
        self._first_play, self._first_start = self.play, clip.start
        self._events: list[tuple[str, int, Any]] = []  # what happened, at which frame, and its particulars
        self._plays: list[tuple[Clip, Tree]] = []  # from the first on, each as it was left
        self._states: deque[tuple[int, Moment]] = deque()
        self.number = 0
        """Which play this is: each restart begins another."""
        self.left: int | None = None
        """The play that was left last, by a restart or to resume this one; None where there is but one."""
        self.judge: Callable[[np.ndarray], float] | None = None
        """Says how far a picture, uint8 ``[H, W, 3]``, is from what the data shows, 0 to 1; see `reality`."""
        self._foresaw = Moment()  # from where futures were foreseen last
        self._begin(clip)

    @property
    def frame(self) -> np.ndarray:
        """The current picture: uint8 ``[H, W, 3]``."""
        return self._tree.here.frames[-1]

    @property
    def generated(self) -> int:
        """Frames generated on the current branch, up to where play stands."""
        return self._tree.steps * self.horizon

    @property
    def token_type(self) -> type[np.unsignedinteger[Any]]:
        """What tokens are kept as: numpy's uint16, or uint32 for a codebook that needs it."""
        size = self.opened.suite.video_tokenizer.quantizer.codebook_size
        return np.uint16 if size <= 2**16 else np.uint32

    @property
    def last_tokens(self) -> np.ndarray:
        """The tokens of the frames that the last step generated: ``[horizon, P]``; none at the start."""
        return self._tree.here.tokens

    @property
    def token_hashes(self) -> list[str]:
        """One a generated frame of the current branch, up to where play stands."""
        return [token for moment in self._path() for token in moment.hashes]

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of the generated frames of the current branch, up to where play stands: ``[T, P]``."""
        return np.concatenate([moment.tokens for moment in self._path()])

    def last_frames(self, count: int) -> tuple[np.ndarray, list[int | None]]:
        """The last frames, uint8 ``[<=count, H, W, 3]``, and the action, or None, that led to each.

        The current frame is at the end. This costs what ``count`` costs, not what was played.
        """
        count = max(count, 0)
        moments = list(itertools.islice(self._tree.back(), -(-count // self.horizon) or 1))[::-1]
        frames = np.concatenate([moment.frames for moment in moments])
        actions = [moment.move.action if moment.move else None for moment in moments for _ in moment.frames]
        first = max(len(frames) - count, 0)
        return frames[first:], actions[first:]

    def step(self, action: int | None, teacher_forced: bool = False) -> np.ndarray:
        """Take an action; from before a branch's end, another one than there opens a new branch.

        Without an id the world goes on unconditioned; ``teacher_forced`` it sees the clip's true frames, not
        the generated ones. Returns the new frames: uint8 ``[horizon, H, W, 3]``.

        Raises:
            ActionError: It is not one of the suite's ids.
            ParameterError: The clip has no true frames for this step.
        """
        last = self.opened.suite.n_actions - 1
        if action is not None and not (is_whole(action) and 0 <= action <= last):
            raise ActionError(f"{action!r} is not an action id.", fix=f"Use 0 to {last}.")
        frame = self.generated
        move = Move(None if action is None else int(action), teacher_forced, self.play)
        self.timing = Timing(0.0, 0.0)
        if not self._tree.follow(move):
            before, foreseen = self._tree.here, self._tree.here.foreseen
            self._tree.add(foreseen.pop(move) if move in foreseen else self._take(move, self.session))
            kept = before.real == frame and self._tree.here.strain < 1
            self._tree.here.real = before.real + self.horizon * kept
        self._events.append(("step", frame, self._tree.here))
        return self._tree.here.frames

    def rewind(self, generated: int) -> None:
        """Go back, or forward again, to where so many frames were generated on the current branch.

        A `ParameterError` if there are not so many, or it is not a multiple of the horizon.
        """
        last = self._tree.tip * self.horizon
        if not is_whole(generated) or not 0 <= generated <= last or generated % self.horizon:
            raise ParameterError(
                f"Going to frame {generated!r} of {last} was asked for.",
                fix=f"Use a multiple of the horizon, {self.horizon}, from 0 to {last}.",
            )
        self._events.append(("rewind", self.generated, {"to": int(generated)}))
        self._tree.steps = int(generated) // self.horizon

    @property
    def branches(self) -> list[Branch]:
        """Every branch since the last restart, oldest first."""
        return self._tree.branches(self.horizon)

    def tips(self) -> list[np.ndarray]:
        """The last frame of every branch, uint8 ``[H, W, 3]``."""
        return [moment.frames[-1] for moment in self._tree.tips()]

    @property
    def branch(self) -> int:
        """The id of the branch that is played."""
        return self._tree.branch

    def select(self, branch_id: int) -> None:
        """Go to the end of another branch; a `ParameterError` if there is none of that id."""
        count = len(self._tree.lines)
        if not is_whole(branch_id) or not 0 <= branch_id < count:
            raise ParameterError(f"There is no branch {branch_id!r}.", fix=f"Use 0 to {count - 1}.")
        self._events.append(("select", self.generated, {"branch": int(branch_id)}))
        self._tree.select(int(branch_id))

    def set(self, **values: Any) -> None:
        """Change steps, temperature, seed or feedback, from the next step on.

        A `ParameterError` says which value is out of its range; then nothing is changed.
        """
        before, self.play = self.play._asdict(), self.play.changed(**values)
        changed = {name: value for name, value in self.play._asdict().items() if value != before[name]}
        if changed:
            self._events.append(("set", self.generated, changed))

    def restart(self, start: int | None = None) -> None:
        """Start again, from another row of the dataset or the same clip; settings stay. `resume` goes back.

        Raises:
            DatasetError: No clip can start there; then nothing is changed.
            ParameterError: ``start`` is not a whole number of at least 0.
        """
        if start is not None and not (is_whole(start) and start >= 0):
            raise ParameterError(f"start is {start!r}.", fix="Use a row of the dataset, 0 or more.")
        clip = self.clip
        if start is not None and start != clip.start:
            by_hand = replace(self.settings, use_interactive_mode=True, teacher_forced=False)
            clip = choose_clip(self.opened, replace(by_hand, start=int(start)))
        self._events.append(("restart", self.generated, {"start": clip.start}))
        self.left = self.number
        self._begin(clip)

    def resume(self, play: int) -> None:
        """Go back to a play that a restart left, with all its branches, to where it was left.

        A `ParameterError` if there is none of that number; the first is 0.
        """
        last = len(self._plays) - 1
        if not is_whole(play) or not 0 <= play <= last:
            raise ParameterError(f"There is no play {play!r}.", fix=f"Use 0 to {last}.")
        self._events.append(("resume", self.generated, {"play": int(play)}))
        if play != self.number:
            self.left, self.number = self.number, int(play)
        self.clip, self._tree = self._plays[play]

    @property
    def plays(self) -> int:
        """How many plays there are: one more than restarts."""
        return len(self._plays)

    def starts(self, count: int = 12) -> list[Start]:
        """Places to start from, spread over the dataset where something moves; in the order of their rows."""
        window, size = self.settings.context_window, self.opened.suite.frame_size
        world, ratio = self.opened.world, self.settings.preload_ratio
        with FrameDataset(self.opened.paths.dataset, world.skip, world.first_frame, ratio) as data:
            rows = sorted(lively_starts(data, max(window, 2), count))
            frames = [to_model_frames(data.clip(row, window)[-1:], size)[0, -1] for row in rows]
        return [Start(row, to_uint8(frame)) for row, frame in zip(rows, frames, strict=True)]

    def what_if(self, frames: int = 4) -> np.ndarray:
        """What each action, held, leads to from here, all with the same noise; play stays where it is.

        Returns the next ``frames`` frames, 1 or more: uint8 ``[n_actions, frames, H, W, 3]``.
        """
        if not is_whole(frames) or frames < 1:
            raise ParameterError(f"frames is {frames!r}.", fix="Use a whole number of at least 1.")
        ids = torch.arange(self.opened.suite.n_actions)
        worlds = self._ready(self.session, self.play, len(ids))
        with precision(self.settings, self.opened.suite.device):  # steps of [n, horizon, 3, H, W]
            generated = [worlds.step(ids) for _ in range(math.ceil(frames / self.horizon))]
        return to_uint8(torch.cat(generated, 1)[:, :frames].float().cpu())

    def back(self) -> Iterator[Moment]:
        """The moments from here back to the start; nothing may be changed in them."""
        return self._tree.back()

    def foresee(self, action: int, frames: int = 4) -> np.ndarray:
        """What an action, held, leads to from here: the next frames, uint8 ``[frames, H, W, 3]``.

        Play stays where it is. The steps are kept until something is foreseen from elsewhere: taking them
        runs no model, and makes these very frames. An `ActionError` if it is not one of the suite's ids.
        """
        self.opened.suite.check_actions(torch.tensor([action]))
        here, move, timing = self._tree.here, Move(action, False, self.play), self.timing
        if self._foresaw is not here:
            self._foresaw.foreseen.clear()
            self._foresaw = here
        session, found = self.session, []
        for _ in range(math.ceil(frames / self.horizon)):
            moment = here.foreseen.get(move)
            if moment is None or moment.session is None:
                moment = self._take(move, session)
            assert moment.session is not None
            here.foreseen[move], session = moment, moment.session
            found.append(moment.frames)
            here = moment
        self.timing = timing
        return np.concatenate(found)[:frames]

    def warm_up(self) -> float:
        """Take a step that counts for nothing, so that the first real one takes no longer; its seconds."""
        session = self._ready(self.session, self.play)
        clock = StepClock(self.opened.suite.device)
        with precision(self.settings, self.opened.suite.device), clock:
            session.step(0)
        return clock.seconds[0]

    def as_if(self, tokens: np.ndarray) -> np.ndarray:
        """The pictures ``[horizon, H, W, 3]`` that the step which led here would have shown for other tokens.

        The tokens are whole numbers ``[horizon, P]`` in the codebook; a `ParameterError` if no step led here.
        """
        move = self._tree.here.move
        if move is None:
            raise ParameterError("No step led here.", fix="Step first.")
        self._tree.steps -= 1
        try:
            before, generated = self.session, self.generated
        finally:
            self._tree.steps += 1
        suite, count = self.opened.suite, self.settings.context_window
        tokenizer, quantizer = suite.video_tokenizer, suite.video_tokenizer.quantizer
        window = self._seen(generated) if move.teacher_forced else before.frames
        ids = torch.from_numpy(tokens.astype(np.int64))[None].to(suite.device)  # [1, horizon, P]
        with torch.inference_mode(), precision(self.settings, suite.device):
            latents = tokenizer.encode(window[:, -count:].to(suite.device)).float()  # [1, Tc, P, L]
            kept = before.tokens[:, -count:]
            if move.play.feedback == "tokens" and not move.teacher_forced and kept.shape[1]:
                latents = torch.cat([latents[:, : -kept.shape[1]], quantizer.indices_to_latents(kept)], 1)
            whole = torch.cat([latents, quantizer.indices_to_latents(ids)], 1)  # [1, Tc+H, P, L]
            pictures = tokenizer.detokenize(whole)[0, -self.horizon :]  # [H, 3, H, W]
        return to_uint8(pictures.float().cpu())

    def rollout(self) -> Rollout:
        """The current branch, up to where play stands."""
        path = self._path()
        frames = np.concatenate([moment.frames for moment in path])
        truth = to_uint8(self.clip.frames[0])[: len(frames)]
        given, source = self.settings.context_window, self.settings.action_source
        # Only inferred actions and teacher forcing keep a rollout near its clip.
        near = source == "ground truth" or self.settings.teacher_forced
        return Rollout(
            clip=self.clip,
            given=given,
            frames=frames,
            truth=truth,
            actions=[m.move.action for m in path if m.move for _ in m.hashes],
            action_source=source,
            tokens=self.tokens,
            token_hashes=self.token_hashes,
            seconds=[m.seconds for m in path if m.move],
            psnr=psnr(frames[given : len(truth)], truth[given:]).tolist() if near else [],
            gpu_seconds=[m.gpu_seconds for m in path if m.gpu_seconds is not None],
            peak_memory_bytes=self.clock.peak_memory_bytes,
        )

    def recording(self, since: int = 0) -> dict[str, Any]:
        """Everything that happened since this game began: the content of a session file, plain JSON.

        From event number ``since`` on. Any thread may ask, while another one plays.
        """
        opened = self.opened
        settings = asdict(self.settings) | self._first_play._asdict()
        settings |= {
            "dataset": opened.world.name,
            "start": self._first_start,
            "compile": self.settings.compile and not opened.notes,
            "actions": list(self.settings.actions),
        }
        hashes = opened.hashes
        files = {part: {"name": path.name, "sha256": hashes[part]} for part, path in opened.paths.items()}
        suite, made_on = suite_shape(opened), conditions(opened)
        return describe(settings, self._events[since:], files=files, suite=suite, made_on=made_on)

    def _begin(self, clip: Clip) -> None:
        window, suite = self.settings.context_window, self.opened.suite
        context = clip.frames[:, :window]
        session = Session(suite, context, window, self.horizon, *self.play)
        self.clip = clip
        """What play started from."""
        no_tokens = np.empty((0, suite.video_tokenizer.config.grid**2), self.token_type)
        self._tree = Tree(Moment(frames=to_uint8(context[0]), tokens=no_tokens, session=session))
        self._foresaw = self._tree.start
        self.number = len(self._plays)
        self._plays.append((clip, self._tree))

    def _path(self) -> list[Moment]:
        """The moments of the current branch, from the start to where play stands."""
        return list(self._tree.back())[::-1]

    def _ready(self, session: Session, play: Play, batch: int | None = None) -> Session:
        """A fork of the session that plays as ``play`` says; of ``batch`` worlds if given."""
        fork = session.fork(keep=self.settings.context_window, batch=batch)
        fork.steps, fork.temperature, fork.feedback = play.steps, play.temperature, play.feedback
        fork.seed = [play.seed] * (batch or 1)
        return fork

    def _take(self, move: Move, session: Session) -> Moment:
        """The moment that ``move`` leads to from where a session stands."""
        session = self._ready(session, move.play)
        seen = self._seen(session.generated) if move.teacher_forced else None
        with precision(self.settings, self.opened.suite.device), self.clock:
            new = session.step(move.action, seen)  # [1, horizon, 3, H, W]
        began = time.perf_counter()
        frames = to_uint8(new[0].float().cpu())
        tokens = session.tokens[0, -self.horizon :].cpu().numpy().astype(self.token_type)
        self.timing = Timing(self.clock.seconds[-1], time.perf_counter() - began)
        gpu_seconds = self.clock.gpu_seconds[-1] if self.clock.gpu_seconds else None
        hashes = [token_hash(row) for row in tokens]
        session = session.fork(keep=self.settings.context_window)
        moment = Moment(move, frames, tokens, hashes, self.timing.model, gpu_seconds, session=session)
        moment.strain = self.judge(frames[-1]) if self.judge else 0.0
        self._keep_few(moment)
        return moment

    @property
    def session(self) -> Session:
        """The engine's session where play stands; step a fork of it, not the session itself.

        One that was let go of is stepped again, see `ready`.
        """
        self.ready()
        session = self._tree.here.session
        assert session is not None
        return session

    def ready(self, going: Going = lambda _done, _total: True) -> bool:
        """Step again, from the last state that is kept, to where play stands; False where ``going`` ended it.

        What was stepped again is kept, and counts when this is asked for once more.
        """
        again: list[Moment] = []
        for moment in self._tree.back():
            if moment.session is not None:
                session = moment.session
                break
            again.append(moment)
        reached = None
        with precision(self.settings, self.opened.suite.device):
            for done, moment in enumerate(reversed(again)):
                if not going(done, len(again)):
                    break
                assert moment.move is not None
                session = self._ready(session, moment.move.play)
                forced = moment.move.teacher_forced
                session.step(moment.move.action, self._seen(session.generated) if forced else None)
                reached = moment
        if reached is not None:
            reached.session = session.fork(keep=self.settings.context_window)
            self._keep_few(reached)
        return self._tree.here.session is not None

    def _seen(self, generated: int) -> Tensor:
        """The true frames before the step that goes on after ``generated`` frames: ``[1, Tc, 3, H, W]``."""
        window = self.settings.context_window
        seen = self.clip.frames[:, generated : generated + window]
        if seen.shape[1] < window:
            raise ParameterError(
                f"The clip has {self.clip.frames.shape[1]} frames: too few to force the frame after "
                f"{generated} generated ones.",
                fix="Start from a clip that goes on for longer.",
            )
        return seen

    def _keep_few(self, moment: Moment) -> None:
        """Note a new state, and let go of one that is no longer recent, unless it is a landmark."""
        assert moment.session is not None
        self._states.append((moment.session.generated // self.horizon, moment))
        state = moment.session.state  # which shares all but its newest frames with the one before
        new = (*state.frames[-self.horizon :], *state.latents[-self.horizon :])
        if len(self._states) * sum(tensor.nbytes for tensor in new) > STATES_BYTES:
            step, old = self._states.popleft()
            if step % LANDMARK and old is not moment:
                old.session = None


def token_hash(tokens: np.ndarray) -> str:
    """What identifies a frame's tokens, int ``[P]``: 16 hexadecimal digits of their sha256 as int32."""
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()[:16]


def conditions(opened: OpenWorld) -> dict[str, str | int]:
    """What play is recorded on: where it differs, the last bits of the numbers may."""
    return {
        "device": str(opened.suite.device),
        "torch": torch.__version__,
        "threads": threads_for(opened.world),
        "platform": platform.platform(),
    }


def suite_shape(opened: OpenWorld) -> dict[str, int]:
    """The sizes of a suite that a recording depends on: its actions, patches a frame, and codebook."""
    tokenizer = opened.suite.video_tokenizer
    return {
        "actions": opened.suite.n_actions,
        "patches": tokenizer.config.grid**2,
        "codebook": tokenizer.quantizer.codebook_size,
    }
