"""A world being played: step, rewind, branch, ask what if, and write down everything as it happens.

    game = Game(opened, clip, settings)
    game.step(2)                       # uint8 [horizon, H, W, 3]
    game.rewind(0)
    game.step(6)                       # another branch; the first one stays
    game.select(0)

One thread plays a game at a time; there is no widget in it and no clock but that of its steps. However long
it is played, a step costs the same: nothing that is done for each frame looks at all frames.
"""

import base64
import math
import platform
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.errors import ActionError, ParameterError
from helpers.pictures import contact_sheet, to_uint8
from helpers.play.rollout import (
    Clip,
    OpenWorld,
    Rollout,
    Settings,
    StepClock,
    choose_clip,
    frames_psnr,
    open_session,
    precision,
    token_hash,
)
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.decode import check_numbers, is_whole
from helpers.worldmodel.session import Feedback

RECENT = 256
"""Steps whose exact state is kept, so that going back to them costs nothing."""

LANDMARK = 64
"""Of all older steps, every so many keep it; from there the rest is stepped again, bit for bit."""

FORMAT, VERSION = "tinyworlds-session", 1
"""What a recording says it is; `helpers.play.session_file` describes it."""

NOT_RECORDED = (
    *("device", "fps", "use_latest_checkpoints", "evaluate", "preset", "replay", "replay_other_weights"),
    *("video_tokenizer_path", "latent_actions_path", "dynamics_path"),
)
"""Settings that tell where a world is found and shown, not what is played; what a preset set is recorded."""


class Play(NamedTuple):
    """What may be changed while a world is played; each as `Session` takes it."""

    steps: int
    temperature: float
    seed: int
    feedback: Feedback


class Move(NamedTuple):
    """All that decides a step from a given state: the same move leads to the same frames, bit for bit."""

    action: int | None
    teacher_forced: bool
    play: Play


@dataclass(eq=False)
class Moment:
    """What one step made, and the state right after it.

    Args:
        move: What led here; None at the start.
        frames: uint8 ``[horizon, H, W, 3]``; None at the start.
        tokens: uint16 or uint32 ``[horizon, P]``; None at the start.
        hashes: One a frame, as `helpers.play.rollout.token_hash` makes them.
        seconds: How long the step took.
        gpu_seconds: Likewise by the GPU's own clock; None on a CPU.
        session: The state; None once it was let go of.
        onward: For each move made from here, the branch on which its moment lies.
    """

    move: Move | None = None
    frames: np.ndarray | None = None
    tokens: np.ndarray | None = None
    hashes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    gpu_seconds: float | None = None
    session: Session | None = None
    onward: dict[Move, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Line:
    """A branch's own moments: the one after step ``at`` of its parent comes first."""

    parent: int | None
    at: int
    moments: list[Moment] = field(default_factory=list)

    @property
    def tip(self) -> int:
        return self.at + len(self.moments)


class Tree:
    """Where play went: lines of moments that fork from each other, and where on them it stands.

    Counts steps, knows nothing of models. Branch 0 begins at the start.

    Args:
        start: The moment before any step.
    """

    def __init__(self, start: Moment) -> None:
        self.start = start
        self.lines = [_Line(None, 0)]
        self.branch = 0
        self.steps = 0

    @property
    def tip(self) -> int:
        """How many steps lead to the end of the current branch."""
        return self.lines[self.branch].tip

    @property
    def here(self) -> Moment:
        """The moment where play stands."""
        return next(self.back(), self.start)

    def back(self) -> Iterator[Moment]:
        """The moments from here back to the start, which is not among them."""
        line, steps = self.lines[self.branch], self.steps
        while steps:
            line = self._holder(line, steps)
            yield line.moments[steps - line.at - 1]
            steps -= 1

    def follow(self, move: Move) -> bool:
        """Go on to where ``move`` led from here before, on the current branch if it is there; else False."""
        if self.steps < self.tip:
            line = self._holder(self.lines[self.branch], self.steps + 1)
            if line.moments[self.steps - line.at].move == move:
                self.steps += 1
                return True
        branch = self.here.onward.get(move)
        if branch is None:
            return False
        self.branch, self.steps = branch, self.steps + 1
        return True

    def add(self, moment: Moment) -> None:
        """Go on to a new moment: at the end of the current branch, else on a new one that leaves it here."""
        here = self.here
        if self.steps < self.tip:
            holder = self._holder(self.lines[self.branch], self.steps) if self.steps else self.lines[0]
            self.lines.append(_Line(self.lines.index(holder), self.steps))
            self.branch = len(self.lines) - 1
        assert moment.move is not None
        self.lines[self.branch].moments.append(moment)
        here.onward[moment.move] = self.branch
        self.steps += 1

    def rewind(self, steps: int) -> None:
        """Stand after so many steps of the current branch; at most `tip`."""
        self.steps = steps

    def select(self, branch: int) -> None:
        """Stand at the end of a branch."""
        self.branch, self.steps = branch, self.lines[branch].tip

    def _holder(self, line: _Line, steps: int) -> _Line:
        """The line that holds the moment after so many steps of ``line``; ``steps`` is at least 1."""
        while steps <= line.at:
            assert line.parent is not None
            line = self.lines[line.parent]
        return line


@dataclass(frozen=True)
class Branch:
    """One way play went.

    Args:
        id: Its number; 0 is the first.
        parent: The branch it left; None for the first.
        at: Generated frames it shares with its parent.
        length: Generated frames of its own.
        generated: Generated frames from the start to its end: ``at + length``.
    """

    id: int
    parent: int | None
    at: int
    length: int
    generated: int


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
    """Where the last step's time went, in seconds; zero for a step that was made before.

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
        steps = settings.steps or opened.world.steps
        self._first_play = checked_play(Play(steps, settings.temperature, settings.seed, settings.feedback))
        self._first_start = clip.start
        self._play = self._first_play
        self._events: list[tuple[str, int, Any]] = []  # what happened, at which frame, and its particulars
        self._begin(clip, open_session(opened, clip, settings))

    @classmethod
    def from_rollout(cls, opened: OpenWorld, rollout: Rollout, settings: Settings) -> "Game":
        """The game that goes on from a rollout, whose steps count as played; a game's own is that game."""
        if rollout.game is not None:
            return rollout.game
        game = cls(opened, rollout.clip, settings)
        whole, horizon = rollout.session, game.horizon
        tokens = whole.tokens[0].cpu().numpy().astype(game.token_type)  # [generated, P]
        pictures = rollout.frames[rollout.given :]
        for number in range(0, rollout.generated, horizon):
            step, made = number // horizon, slice(number, number + horizon)
            moment = Moment(
                Move(rollout.actions[number], settings.teacher_forced, game._play),
                pictures[made],
                tokens[made],
                rollout.token_hashes[made],
                rollout.seconds[step],
                rollout.gpu_seconds[step] if rollout.gpu_seconds else None,
                whole.fork(number + horizon, keep=whole.context_window),
            )
            game._events.append(("step", number, moment))
            game._tree.add(moment)
            game._keep_few(moment)
        return game

    # --- where play stands ---------------------------------------------------------------------------

    @property
    def horizon(self) -> int:
        """Frames one step generates."""
        return self.settings.prediction_horizon

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
    def clip(self) -> Clip:
        """What play started from."""
        return self._clip

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
        """The tokens of the frames that the last step made: ``[horizon, P]``; none at the start."""
        tokens = self._tree.here.tokens
        patches = self.opened.suite.video_tokenizer.config.grid**2
        return np.empty((0, patches), self.token_type) if tokens is None else tokens

    @property
    def token_hashes(self) -> list[str]:
        """One a generated frame of the current branch, up to where play stands."""
        return [each for moment in self._path() for each in moment.hashes]

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of the generated frames of the current branch, up to where play stands: ``[T, P]``."""
        made = [moment.tokens for moment in self._path() if moment.tokens is not None]
        return np.concatenate(made) if made else np.empty((0, 0), np.uint16)

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
        suite = self.opened.suite
        if action is not None and not (is_whole(action) and 0 <= action < suite.n_actions):
            raise ActionError(f"{action!r} is not an action id.", fix=f"Use 0 to {suite.n_actions - 1}.")
        frame = self.generated
        move = Move(None if action is None else int(action), teacher_forced, self._play)
        if self._tree.follow(move):
            self.timing = Timing(0.0, 0.0)
        else:
            self._tree.add(self._made(move))
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
        return [
            Branch(
                number,
                line.parent,
                line.at * self.horizon,
                len(line.moments) * self.horizon,
                line.tip * self.horizon,
            )
            for number, line in enumerate(self._tree.lines)
        ]

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

    def set(
        self,
        *,
        steps: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        """Change what is given, from the next step on.

        Raises:
            ParameterError: A value is out of its range; then nothing is changed.
        """
        now = self._play
        play = checked_play(
            Play(
                now.steps if steps is None else steps,
                now.temperature if temperature is None else temperature,
                now.seed if seed is None else seed,
                now.feedback if feedback is None else feedback,
            )
        )
        changed = {
            name: value for name, value in play._asdict().items() if value != getattr(self._play, name)
        }
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
        session = open_session(self.opened, clip, self.settings)
        self._events.append(("restart", self.generated, {"start": clip.start}))
        self._begin(clip, session)

    def starts(self, count: int = 12) -> list[Start]:
        """Places to start from, spread over the dataset where something moves; in the order of their rows."""
        window = self.settings.context_window
        world, size = self.opened.world, self.opened.suite.frame_size
        ratio = self.settings.preload_ratio
        with FrameDataset(self.opened.paths.dataset, world.skip, world.first_frame, ratio) as data:
            rows = sorted(lively_starts(data, max(window, 2), count))
            clips = [to_model_frames(data.clip(row, window)[-1:], size) for row in rows]
        return [Start(row, to_uint8(clip[0, -1])) for row, clip in zip(rows, clips, strict=True)]

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
        worlds = self._state().fork(keep=self.settings.context_window, batch=len(ids))
        _set(worlds, self._play, len(ids))
        with precision(self.settings, self.opened.suite.device):
            made = [
                worlds.step(ids) for _ in range(math.ceil(frames / self.horizon))
            ]  # [n, horizon, 3, H, W]
        return to_uint8(torch.cat(made, 1)[:, :frames].float().cpu())

    def warm_up(self) -> float:
        """Take a step that counts for nothing, so that the first real one takes no longer than others.

        Returns:
            The seconds it took.
        """
        session = self._state().fork(keep=self.settings.context_window)
        _set(session, self._play)
        clock = StepClock(self.opened.suite.device)
        with precision(self.settings, self.opened.suite.device), clock:
            session.step(0)
        return clock.seconds[0]

    def as_if(self, tokens: np.ndarray) -> np.ndarray:
        """The pictures that the step which led here would have made of other tokens.

        Args:
            tokens: Of its frames, whole numbers ``[horizon, P]`` in the codebook.

        Returns:
            uint8 ``[horizon, H, W, 3]``.
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
        window = self._seen(generated) if move.teacher_forced else before.frames
        ids = torch.from_numpy(tokens.astype(np.int64))[None].to(suite.device)  # [1, horizon, P]
        with torch.inference_mode(), precision(self.settings, suite.device):
            latents = tokenizer.encode(window[:, -self.settings.context_window :].to(suite.device))
            kept = before.tokens[:, -self.settings.context_window :]
            if move.play.feedback == "tokens" and not move.teacher_forced and kept.shape[1]:
                latents = torch.cat(
                    [latents[:, : -kept.shape[1]].float(), quantizer.indices_to_latents(kept)], 1
                )
            whole = torch.cat([latents.float(), quantizer.indices_to_latents(ids)], 1)  # [1, Tc+H, P, L]
            made = tokenizer.detokenize(whole)[0, -self.horizon :]  # [H, 3, H, W]
        return to_uint8(made.float().cpu())

    # --- what is left of it --------------------------------------------------------------------------

    def rollout(self) -> Rollout:
        """The current branch, up to where play stands, as `helpers.play.results` saves and verifies it."""
        path = self._path()
        frames = np.concatenate(
            [self._given, *[moment.frames for moment in path if moment.frames is not None]]
        )
        actions = [moment.move.action for moment in path if moment.move for _ in moment.hashes]
        return Rollout(
            clip=self._clip,
            given=len(self._given),
            frames=frames,
            truth=to_uint8(self._clip.frames[0])[: len(frames)],
            actions=actions,
            action_source=self.settings.action_source,
            token_hashes=self.token_hashes,
            seconds=[moment.seconds for moment in path],
            psnr=frames_psnr(frames, self._clip, self.settings),
            gpu_seconds=[moment.gpu_seconds for moment in path if moment.gpu_seconds is not None],
            peak_memory_bytes=self.clock.peak_memory_bytes,
            trace=None,
            session=self._state(),
            game=self,
        )

    def recording(self) -> dict[str, Any]:
        """Everything that happened since this game was made: the content of a session file, plain JSON."""
        opened, suite, play = self.opened, self.opened.suite, self._first_play
        settings = asdict(self.settings) | play._asdict()
        settings |= {
            "dataset": opened.world.name,
            "start": self._first_start,
            "compile": self.settings.compile and not opened.notes,
            "actions": list(self.settings.actions),
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": {name: value for name, value in settings.items() if name not in NOT_RECORDED},
            "files": {
                part: {"name": path.name, "sha256": opened.hashes[part]}
                for part, path in opened.paths.items()
            },
            "suite": suite_shape(suite),
            "made_on": {
                "device": str(suite.device),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "platform": platform.platform(),
            },
            "events": [_event(*each) for each in self._events],
        }

    # --- the engine behind it ------------------------------------------------------------------------

    def _begin(self, clip: Clip, session: Session) -> None:
        self._clip = clip
        self._given = to_uint8(clip.frames[0, : self.settings.context_window])  # [Tc, H, W, 3]
        self._tree = Tree(Moment(session=session))
        self._states: deque[tuple[int, Moment]] = deque()

    def _path(self) -> list[Moment]:
        """The moments of the current branch, from the first step to where play stands."""
        return list(self._tree.back())[::-1]

    def _made(self, move: Move) -> Moment:
        """The moment that ``move`` leads to from here."""
        state = self._state()
        session = state.fork(keep=state.context_window)
        seen = self._seen(self.generated) if move.teacher_forced else None
        _set(session, move.play)
        with precision(self.settings, self.opened.suite.device), self.clock:
            new = session.step(move.action, seen)  # [1, horizon, 3, H, W]
        began = time.perf_counter()
        frames = to_uint8(new[0].float().cpu())
        tokens = session.tokens[0, -self.horizon :].cpu().numpy().astype(self.token_type)
        self.timing = Timing(self.clock.seconds[-1], time.perf_counter() - began)
        gpu_seconds = self.clock.gpu_seconds[-1] if self.clock.gpu_seconds else None
        hashes = [token_hash(row) for row in tokens]
        session = session.fork(keep=state.context_window)
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
        session = session.fork(keep=session.context_window)
        with precision(self.settings, self.opened.suite.device):
            for move in reversed(again):
                seen = self._seen(session.generated) if move.teacher_forced else None
                _set(session, move.play)
                session.step(move.action, seen)
        here = self._tree.here
        here.session = session.fork(keep=session.context_window)
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


def what_if_picture(now: np.ndarray, grid: np.ndarray, names: list[str] | None = None) -> Image.Image:
    """A what-if grid with its labels: one row an action, the present in front.

    Args:
        now: The present picture, uint8 ``[H, W, 3]``.
        grid: uint8 ``[n_actions, frames, H, W, 3]``, as `Game.what_if` makes it.
        names: What to call each action; None calls them "action 0", "action 1", …
    """
    rows = [
        (names[action] if names else f"action {action}", np.concatenate([now[None], future]))
        for action, future in enumerate(grid)
    ]
    captions = ["now", *[f"+{step}" for step in range(1, grid.shape[1] + 1)]]
    return contact_sheet(rows, captions, scale=max(1, 128 // now.shape[0]), columns=grid.shape[1] + 1)


def suite_shape(suite: Suite) -> dict[str, int]:
    """The sizes of a suite that a recording depends on: its actions, patches a frame, and codebook."""
    tokenizer = suite.video_tokenizer
    return {
        "actions": suite.n_actions,
        "patches": tokenizer.config.grid**2,
        "codebook": tokenizer.quantizer.codebook_size,
    }


def _set(session: Session, play: Play, batch: int = 1) -> None:
    session.steps, session.temperature, session.feedback = play.steps, play.temperature, play.feedback
    session.seed = [play.seed] * batch


def checked_play(play: Play) -> Play:
    """What may be played with, in plain Python numbers; a `ParameterError` for a value out of its range."""
    check_numbers(1, play.steps, play.temperature)
    if play.steps > 10_000:
        raise ParameterError(f"steps is {play.steps}.", fix="Use at most 10000; few worlds gain from 20.")
    if play.temperature > 1e6:
        raise ParameterError(f"temperature is {play.temperature}.", fix="Use at most 1e6.")
    if not is_whole(play.seed) or not 0 <= play.seed < 2**63:
        raise ParameterError(f"seed is {play.seed!r}.", fix="Use a whole number from 0 to 2**63 - 1.")
    if play.feedback not in ("pixels", "tokens"):
        raise ParameterError(f"feedback is {play.feedback!r}.", fix='Use "pixels" or "tokens".')
    return Play(int(play.steps), float(play.temperature), int(play.seed), play.feedback)


def _event(kind: str, frame: int, what: Any) -> dict[str, Any]:
    """An event as plain JSON values."""
    if not isinstance(what, Moment):
        return {"event": kind, "frame": frame, **what}
    assert what.move is not None and what.tokens is not None
    forced = {"teacher_forced": True} if what.move.teacher_forced else {}
    rows = [
        base64.b64encode(row.astype(row.dtype.newbyteorder("<")).tobytes()).decode() for row in what.tokens
    ]
    return {
        "event": kind,
        "frame": frame,
        "action": what.move.action,
        **forced,
        "hashes": what.hashes,
        "tokens": rows,
    }
