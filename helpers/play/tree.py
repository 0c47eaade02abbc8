"""Where play went: moments, the branches they lie on, where play stands. Counts steps, knows no models."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from helpers.errors import ParameterError
from helpers.play.branch import Branch
from helpers.play.settings import checked
from helpers.worldmodel import Session
from helpers.worldmodel.session import Feedback


class Play(NamedTuple):
    """The settings that may be changed while a world is played, as `Session` takes them."""

    steps: int
    temperature: float
    seed: int
    feedback: Feedback

    def changed(self, **values: object) -> "Play":
        """These with other values; a ParameterError says which one is of another type or out of its range."""
        if unknown := sorted(values.keys() - set(self._fields)):
            fix = f"Use {', '.join(self._fields)}."
            raise ParameterError(f"{unknown[0]} cannot be changed in play.", fix=fix)
        values = self._asdict() | values
        return Play(*(checked(name, values[name], itself=True) for name in self._fields))


class Move(NamedTuple):
    """All that decides a step from a given state: the same move leads to the same frames, bit for bit."""

    action: int | None
    teacher_forced: bool
    play: Play


@dataclass(eq=False)
class Moment:
    """What one step generated, and the state right after it; at the start, the given frames and no tokens."""

    move: Move | None = None  # what led here; None at the start
    frames: np.ndarray = field(default_factory=partial(np.empty, 0))  # uint8 [horizon, H, W, 3]
    tokens: np.ndarray = field(default_factory=partial(np.empty, 0))  # uint16 or uint32 [horizon, P]
    hashes: list[str] = field(default_factory=list)  # one a frame, as `game.token_hash` computes them
    seconds: float = 0.0  # how long the step took
    gpu_seconds: float | None = None  # likewise by the GPU's own clock; None on a CPU
    strain: float = 0.0  # how far its last frame is from what the data shows, 0 to 1, as `Game.judge` says
    real: int = 0  # frames that led here, from the start on, before the first of strain 1
    session: Session | None = None  # the state; None once it was let go of
    onward: dict[Move, int] = field(default_factory=dict)  # by each move from here, the branch it led to
    foreseen: dict[Move, "Moment"] = field(default_factory=dict)  # where moves lead that were not taken yet


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

    Branch 0 begins at ``start``, the moment before any step.
    """

    def __init__(self, start: Moment) -> None:
        self.start = start
        self.lines = [_Line(None, 0)]
        self.branch = self.steps = 0  # where play stands: after so many steps of that branch, at most `tip`

    @property
    def tip(self) -> int:
        """How many steps lead to the end of the current branch."""
        return self.lines[self.branch].tip

    @property
    def here(self) -> Moment:
        """The moment where play stands."""
        return next(self.back())

    def back(self) -> Iterator[Moment]:
        """The moments from here back to the start."""
        line = self.lines[self.branch]
        for steps in range(self.steps, 0, -1):
            line = self._holder(line, steps)
            yield line.moments[steps - line.at - 1]
        yield self.start

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

    def branches(self, horizon: int) -> list[Branch]:
        """Every branch, oldest first, in frames of ``horizon`` a step."""
        return [
            Branch(number, line.parent, line.at * horizon, len(line.moments) * horizon, line.tip * horizon)
            for number, line in enumerate(self.lines)
        ]

    def tips(self) -> list[Moment]:
        """The moment at the end of every branch, oldest first."""
        return [line.moments[-1] if line.moments else self.start for line in self.lines]

    def select(self, branch: int) -> None:
        """Stand at the end of a branch."""
        self.branch, self.steps = branch, self.lines[branch].tip

    def _holder(self, line: _Line, steps: int) -> _Line:
        """The line that holds the moment after so many steps of ``line``; ``steps`` is at least 1."""
        while steps <= line.at:
            assert line.parent is not None
            line = self.lines[line.parent]
        return line
