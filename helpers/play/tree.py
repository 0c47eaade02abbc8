"""Where play went: moments, the branches they lie on, where play stands. Counts steps, knows no models."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from helpers.errors import ParameterError
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
        """These with other values, checked as everywhere.

        Raises:
            ParameterError: A value is of another type or out of its range.
        """
        if unknown := sorted(values.keys() - set(self._fields)):
            raise ParameterError(
                f"{unknown[0]} cannot be changed in play.", fix=f"Use {', '.join(self._fields)}."
            )
        lowest = {"steps": 1}  # 0 stands for the world's own number, which is known by now
        values = self._asdict() | values
        return Play(*(checked(name, values[name], lowest.get(name, -math.inf)) for name in self._fields))


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
        hashes: One a frame, as `game.token_hash` computes them.
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

    def branches(self, horizon: int) -> "list[Branch]":
        """Every branch, oldest first, in frames of ``horizon`` a step."""
        return [
            Branch(number, line.parent, line.at * horizon, len(line.moments) * horizon, line.tip * horizon)
            for number, line in enumerate(self.lines)
        ]

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
