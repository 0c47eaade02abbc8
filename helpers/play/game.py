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
import math
import platform
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.errors import ActionError, ParameterError
from helpers.pictures import contact_sheet, to_uint8
from helpers.play.comparison import Replay
from helpers.play.compute import StepClock, precision
from helpers.play.gpu_trace import GpuTrace
from helpers.play.metrics import psnr
from helpers.play.recording import describe
from helpers.play.settings import ActionSource, Settings
from helpers.play.tree import Branch, Moment, Move, Play, Tree
from helpers.play.world import Clip, OpenWorld, choose_clip
from helpers.worldmodel import Session
from helpers.worldmodel.decode import is_whole

RECENT = 256
"""Steps whose exact state is kept, so that going back to them costs nothing."""

LANDMARK = 64
"""Of all older steps, one in so many keeps its state; from there the rest is stepped again, bit for bit."""


@dataclass(frozen=True)
class Rollout:
    """A branch of play as a value: what is saved, shown and measured.

    Args:
        clip: What it started from.
        given: Frames of context at the front of ``frames``.
        frames: uint8 ``[T, H, W, 3]``: the context, then the generated frames.
        truth: uint8 ``[T', H, W, 3]``, T' <= T: what the clip shows; as long as the clip.
        actions: The action that led to each generated frame; None where there was none.
        action_source: Where they came from.
        tokens: uint16 or uint32 ``[T - given, P]``: the generated frames' tokens.
        token_hashes: One a generated frame; equal tokens have equal hashes.
        seconds: Seconds each step took, the first one's warm-up included.
        psnr: dB against the truth, one a generated frame; empty where play left the clip.
        gpu_seconds: Likewise by the GPU's own clock; empty on a CPU.
        peak_memory_bytes: The most GPU memory torch held; 0 on a CPU.
    """

    clip: Clip
    given: int
    frames: np.ndarray
    truth: np.ndarray
    actions: list[int | None]
    action_source: ActionSource
    tokens: np.ndarray
    token_hashes: list[str]
    seconds: list[float]
    psnr: list[float]
    gpu_seconds: list[float]
    peak_memory_bytes: int

    @property
    def generated(self) -> int:
        """How many frames were generated."""
        return len(self.frames) - self.given


@dataclass(frozen=True)
class Start:
    """A place to start from.

    Args:
        row: Of the dataset; what `Game.restart` takes.
        thumbnail: uint8 ``[H, W, 3]``: the last given frame, which the player sees first.
    """

    row: int
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Where the last step's time went, in seconds; zero for a step that was taken before.

    Args:
        model: The models, to the end of what they launched.
        transfer: Bringing pictures and tokens to the CPU.
    """

    model: float
    transfer: float


class Game:
    """A world, played from a clip.

    Args:
        opened: The world.
        clip: Where it starts.
        settings: Window, horizon, precision, and what steps, temperature, seed and feedback are at first.

    Raises:
        ParameterError: The settings fit neither the suite nor the clip.
    """

    def __init__(self, opened: OpenWorld, clip: Clip, settings: Settings) -> None:
        self.opened, self.settings = opened, settings
        self.clock = StepClock(opened.suite.device)
        self.timing = Timing(0.0, 0.0)
        self.trace: GpuTrace | None = None
        """What NVML saw of the GPU during `rollout.play`; None on a CPU."""
        self.replay: Replay | None = None
        """How this compares with the session file that it is a replay of; None if it is not one."""
        first = Play(settings.steps, settings.temperature, settings.seed, settings.feedback)
        self._first_play = self._play = first.changed(steps=settings.steps or opened.world.steps)
        self._first_start = clip.start
        self._events: list[tuple[str, int, Any]] = []  # what happened, at which frame, and its particulars
        self._begin(clip)

    # --- where play stands ---------------------------------------------------------------------------

    @property
    def horizon(self) -> int:
        """Frames one step generates."""
        return self.settings.prediction_horizon

    @property
    def clip(self) -> Clip:
        """What play started from."""
        return self._clip

    @property
    def frame(self) -> np.ndarray:
        """The current picture: uint8 ``[H, W, 3]``."""
        frames = self._tree.here.frames
        return (self._given if frames is None else frames)[-1]

    @property
    def generated(self) -> int:
        """Frames generated on the current branch, up to where play stands."""
        return self._tree.steps * self.horizon

    @property
    def play(self) -> Play:
        """Steps, temperature, seed and feedback as the next step will use them."""
        return self._play

    @property
    def token_type(self) -> type[np.unsignedinteger[Any]]:
        """What tokens are kept as: numpy's uint16, or uint32 for a codebook that needs it."""
        size = self.opened.suite.video_tokenizer.quantizer.codebook_size
        return np.uint16 if size <= 2**16 else np.uint32

    @property
    def last_tokens(self) -> np.ndarray:
        """The tokens of the frames that the last step generated: ``[horizon, P]``; none at the start."""
        tokens = self._tree.here.tokens
        return self._no_tokens() if tokens is None else tokens

    @property
    def token_hashes(self) -> list[str]:
        """One a generated frame of the current branch, up to where play stands."""
        return [token for moment in self._path() for token in moment.hashes]

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of the generated frames of the current branch, up to where play stands: ``[T, P]``."""
        return np.concatenate([self._no_tokens(), *(m.tokens for m in self._path() if m.tokens is not None)])

    @property
    def session(self) -> Session:
        """The engine's session where play stands; step a fork of it, not the session itself."""
        return self._state()

    def last_frames(self, count: int) -> tuple[np.ndarray, list[int | None]]:
        """The last frames, the current one at the end; costs what ``count`` costs, not what was played.

        Args:
            count: How many, at most; fewer where there are fewer.

        Returns:
            uint8 ``[<=count, H, W, 3]``, and the action that led to each; None for a given frame, and for
            one generated without an action.
        """
        parts: list[np.ndarray] = []
        actions: list[int | None] = []
        steps = self._tree.back()
        while len(actions) < count:
            moment = next(steps, None)
            if moment is None or moment.frames is None or moment.move is None:
                parts.append(self._given)
                actions += [None] * len(self._given)
                break
            parts.append(moment.frames)
            actions += [moment.move.action] * len(moment.frames)
        if not parts:
            return self._given[:0], []
        kept = min(max(count, 0), len(actions))
        frames = np.concatenate(parts[::-1])
        return frames[len(frames) - kept :], actions[:kept][::-1]

    # --- playing -------------------------------------------------------------------------------------

    def step(self, action: int | None, teacher_forced: bool = False) -> np.ndarray:
        """Take an action; from before a branch's end, another one than there opens a new branch.

        Args:
            action: Its id, or None to go on without conditioning.
            teacher_forced: See the clip's true frames, not the generated ones.

        Returns:
            The new frames: uint8 ``[horizon, H, W, 3]``.

        Raises:
            ActionError: It is not one of the suite's ids.
            ParameterError: The clip has no true frames for this step.
        """
        last = self.opened.suite.n_actions - 1
        if action is not None and not (is_whole(action) and 0 <= action <= last):
            raise ActionError(f"{action!r} is not an action id.", fix=f"Use 0 to {last}.")
        frame = self.generated
        move = Move(None if action is None else int(action), teacher_forced, self._play)
        if self._tree.follow(move):
            self.timing = Timing(0.0, 0.0)
        else:
            self._tree.add(self._take(move))
        moment = self._tree.here
        self._events.append(("step", frame, moment))
        assert moment.frames is not None
        return moment.frames

    def rewind(self, generated: int) -> None:
        """Go back, or forward again, to where so many frames were generated on the current branch.

        Raises:
            ParameterError: There are not so many, or it is not a multiple of the horizon.
        """
        last = self._tree.tip * self.horizon
        if not is_whole(generated) or not 0 <= generated <= last or generated % self.horizon:
            raise ParameterError(
                f"Going to frame {generated!r} of {last} was asked for.",
                fix=f"Use a multiple of the horizon, {self.horizon}, from 0 to {last}.",
            )
        self._events.append(("rewind", self.generated, {"to": int(generated)}))
        self._tree.rewind(int(generated) // self.horizon)

    @property
    def branches(self) -> list[Branch]:
        """Every branch since the last restart, oldest first."""
        return self._tree.branches(self.horizon)

    @property
    def branch(self) -> int:
        """The id of the branch that is played."""
        return self._tree.branch

    def select(self, branch_id: int) -> None:
        """Go to the end of another branch.

        Raises:
            ParameterError: There is no such branch.
        """
        count = len(self._tree.lines)
        if not is_whole(branch_id) or not 0 <= branch_id < count:
            raise ParameterError(f"There is no branch {branch_id!r}.", fix=f"Use 0 to {count - 1}.")
        self._events.append(("select", self.generated, {"branch": int(branch_id)}))
        self._tree.select(int(branch_id))

    def set(self, **values: Any) -> None:
        """Change steps, temperature, seed or feedback, from the next step on.

        Raises:
            ParameterError: A value is out of its range; then nothing is changed.
        """
        play = self._play.changed(**values)
        before = self._play._asdict()
        changed = {name: value for name, value in play._asdict().items() if value != before[name]}
        if changed:
            self._events.append(("set", self.generated, changed))
        self._play = play

    def restart(self, start: int | None = None) -> None:
        """Start again, from another row of the dataset or the same; branches are dropped, settings stay.

        Args:
            start: The row; None for the same clip.

        Raises:
            DatasetError: No clip can start there; then nothing is changed.
            ParameterError: ``start`` is not a whole number of at least 0.
        """
        if start is not None and not (is_whole(start) and start >= 0):
            raise ParameterError(f"start is {start!r}.", fix="Use a row of the dataset, 0 or more.")
        clip = self._clip
        if start is not None and start != clip.start:
            by_hand = replace(
                self.settings, start=int(start), use_interactive_mode=True, teacher_forced=False
            )
            clip = choose_clip(self.opened, by_hand)
        self._events.append(("restart", self.generated, {"start": clip.start}))
        self._begin(clip)

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

        Args:
            frames: How many frames to look ahead.

        Returns:
            uint8 ``[n_actions, frames, H, W, 3]``.

        Raises:
            ParameterError: ``frames`` is not a whole number of at least 1.
        """
        if not is_whole(frames) or frames < 1:
            raise ParameterError(f"frames is {frames!r}.", fix="Use a whole number of at least 1.")
        ids = torch.arange(self.opened.suite.n_actions)
        worlds = self._ready(self._state(), self._play, len(ids))
        steps = math.ceil(frames / self.horizon)
        with precision(self.settings, self.opened.suite.device):
            generated = [worlds.step(ids) for _ in range(steps)]  # of [n, horizon, 3, H, W]
        return to_uint8(torch.cat(generated, 1)[:, :frames].float().cpu())

    def warm_up(self) -> float:
        """Take a step that counts for nothing, so that the first real one takes no longer than others.

        Returns:
            The seconds it took.
        """
        session = self._ready(self._state(), self._play)
        clock = StepClock(self.opened.suite.device)
        with precision(self.settings, self.opened.suite.device), clock:
            session.step(0)
        return clock.seconds[0]

    def as_if(self, tokens: np.ndarray) -> np.ndarray:
        """The pictures that the step which led here would have shown for other tokens.

        Args:
            tokens: Of its frames, whole numbers ``[horizon, P]`` in the codebook.

        Returns:
            uint8 ``[horizon, H, W, 3]``.

        Raises:
            ParameterError: No step led here.
        """
        move = self._tree.here.move
        if move is None:
            raise ParameterError("No step led here.", fix="Step first.")
        steps, suite = self._tree.steps, self.opened.suite
        self._tree.rewind(steps - 1)
        try:
            before, generated = self._state(), self.generated
        finally:
            self._tree.rewind(steps)
        tokenizer, quantizer = suite.video_tokenizer, suite.video_tokenizer.quantizer
        count = self.settings.context_window
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

    # --- what is left of it --------------------------------------------------------------------------

    def rollout(self) -> Rollout:
        """The current branch, up to where play stands."""
        path = self._path()
        frames = np.concatenate([self._given, *(m.frames for m in path if m.frames is not None)])
        truth = to_uint8(self._clip.frames[0])[: len(frames)]
        given, source = len(self._given), self.settings.action_source
        # Only inferred actions and teacher forcing keep a rollout near its clip.
        near = source == "ground truth" or self.settings.teacher_forced
        return Rollout(
            clip=self._clip,
            given=given,
            frames=frames,
            truth=truth,
            actions=[m.move.action for m in path if m.move for _ in m.hashes],
            action_source=source,
            tokens=self.tokens,
            token_hashes=self.token_hashes,
            seconds=[m.seconds for m in path],
            psnr=psnr(frames[given : len(truth)], truth[given:]).tolist() if near else [],
            gpu_seconds=[m.gpu_seconds for m in path if m.gpu_seconds is not None],
            peak_memory_bytes=self.clock.peak_memory_bytes,
        )

    def recording(self) -> dict[str, Any]:
        """Everything that happened since this game began: the content of a session file, plain JSON."""
        opened, suite = self.opened, self.opened.suite
        settings = asdict(self.settings) | self._first_play._asdict()
        settings |= {
            "dataset": opened.world.name,
            "start": self._first_start,
            "compile": self.settings.compile and not opened.notes,
            "actions": list(self.settings.actions),
        }
        files = {
            part: {"name": path.name, "sha256": opened.hashes[part]} for part, path in opened.paths.items()
        }
        made_on = {
            "device": str(suite.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
        }
        return describe(settings, files, suite_shape(opened), made_on, self._events)

    # --- the engine behind it ------------------------------------------------------------------------

    def _begin(self, clip: Clip) -> None:
        window, play = self.settings.context_window, self._play
        context = clip.frames[:, :window]
        session = Session(
            *(self.opened.suite, context, window, self.horizon),
            *(play.steps, play.temperature, play.seed, play.feedback),
        )
        self._clip = clip
        self._given = to_uint8(context[0])  # [Tc, H, W, 3]
        self._tree = Tree(Moment(session=session))
        self._states: deque[tuple[int, Moment]] = deque()

    def _no_tokens(self) -> np.ndarray:
        return np.empty((0, self.opened.suite.video_tokenizer.config.grid**2), self.token_type)

    def _path(self) -> list[Moment]:
        """The moments of the current branch, from the first step to where play stands."""
        return list(self._tree.back())[::-1]

    def _ready(self, session: Session, play: Play, batch: int | None = None) -> Session:
        """A fork of the session that plays as ``play`` says; of ``batch`` worlds if given."""
        fork = session.fork(keep=self.settings.context_window, batch=batch)
        fork.steps, fork.temperature, fork.feedback = play.steps, play.temperature, play.feedback
        fork.seed = [play.seed] * (batch or 1)
        return fork

    def _take(self, move: Move) -> Moment:
        """The moment that ``move`` leads to from here."""
        session = self._ready(self._state(), move.play)
        seen = self._seen(self.generated) if move.teacher_forced else None
        with precision(self.settings, self.opened.suite.device), self.clock:
            new = session.step(move.action, seen)  # [1, horizon, 3, H, W]
        began = time.perf_counter()
        frames = to_uint8(new[0].float().cpu())
        tokens = session.tokens[0, -self.horizon :].cpu().numpy().astype(self.token_type)
        self.timing = Timing(self.clock.seconds[-1], time.perf_counter() - began)
        gpu_seconds = self.clock.gpu_seconds[-1] if self.clock.gpu_seconds else None
        hashes = [token_hash(row) for row in tokens]
        session = session.fork(keep=self.settings.context_window)
        moment = Moment(move, frames, tokens, hashes, self.clock.seconds[-1], gpu_seconds, session)
        self._keep_few(moment)
        return moment

    def _state(self) -> Session:
        """The session that stands here; one that was let go of is stepped again from the last landmark."""
        again: list[Move] = []
        session = self._tree.start.session
        for moment in self._tree.back():
            if moment.session is not None:
                session = moment.session
                break
            assert moment.move is not None
            again.append(moment.move)
        assert session is not None
        if not again:
            return session
        with precision(self.settings, self.opened.suite.device):
            for move in reversed(again):
                session = self._ready(session, move.play)
                session.step(move.action, self._seen(session.generated) if move.teacher_forced else None)
        here = self._tree.here
        here.session = session.fork(keep=self.settings.context_window)
        self._keep_few(here)
        return here.session

    def _seen(self, generated: int) -> Tensor:
        """The true frames before the step that goes on after ``generated`` frames: ``[1, Tc, 3, H, W]``."""
        window = self.settings.context_window
        seen = self._clip.frames[:, generated : generated + window]
        if seen.shape[1] < window:
            raise ParameterError(
                f"The clip has {self._clip.frames.shape[1]} frames: too few to force the frame after "
                f"{generated} generated ones.",
                fix="Start from a clip that goes on for longer.",
            )
        return seen

    def _keep_few(self, moment: Moment) -> None:
        """Note a new state, and let go of one that is no longer recent, unless it is a landmark."""
        assert moment.session is not None
        self._states.append((moment.session.generated // self.horizon, moment))
        if len(self._states) > RECENT:
            step, old = self._states.popleft()
            if step % LANDMARK:
                old.session = None


def token_hash(tokens: np.ndarray) -> str:
    """What identifies a frame's tokens, int ``[P]``: 16 hexadecimal digits of their sha256 as int32."""
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()[:16]


def what_if_picture(now: np.ndarray, grid: np.ndarray, names: list[str] | None = None) -> Image.Image:
    """A what-if grid with its labels: one row an action, the present in front.

    Args:
        now: The present picture, uint8 ``[H, W, 3]``.
        grid: uint8 ``[n_actions, frames, H, W, 3]``, as `Game.what_if` returns it.
        names: What to call each action; None calls them "action 0", "action 1", …
    """
    rows = [
        (names[action] if names else f"action {action}", np.concatenate([now[None], future]))
        for action, future in enumerate(grid)
    ]
    captions = ["now", *[f"+{step}" for step in range(1, grid.shape[1] + 1)]]
    return contact_sheet(rows, captions, scale=max(1, 128 // now.shape[0]), columns=grid.shape[1] + 1)


def suite_shape(opened: OpenWorld) -> dict[str, int]:
    """The sizes of a suite that a recording depends on: its actions, patches a frame, and codebook."""
    tokenizer = opened.suite.video_tokenizer
    return {
        "actions": opened.suite.n_actions,
        "patches": tokenizer.config.grid**2,
        "codebook": tokenizer.quantizer.codebook_size,
    }
