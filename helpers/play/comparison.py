"""How playing a session again compares with what was recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.pictures import contact_sheet


@dataclass(frozen=True)
class Difference:
    """The first frame of a replay that is another one than was recorded."""

    event: int  # number of the event that led to it, from 0
    branch: int
    frame: int  # generated frames before it on that branch
    tokens: int  # how many of its tokens differ
    patches: int  # of how many
    recorded: np.ndarray  # uint8 [H, W, 3]: what was recorded, decoded here
    replayed: np.ndarray  # uint8 [H, W, 3]

    def __str__(self) -> str:
        much = f"{self.tokens} of its {self.patches} tokens" if self.tokens else "its recorded hash alone"
        return f"generated frame {self.frame} of branch {self.branch} (event {self.event}) by {much}"


@dataclass(frozen=True)
class Replay:
    """How playing a session again went."""

    path: Path  # the session file
    compared: int  # frames that were compared: all that were played, on every branch
    different: int  # how many of them differ
    first: Difference | None  # the first that does; None if all are equal
    notes: tuple[str, ...] = ()  # what was not as it was when the session was played

    @property
    def equal(self) -> bool:
        """Whether every frame has exactly the tokens that were recorded."""
        return self.first is None

    def __str__(self) -> str:
        text = f"all {self.compared} frames of {self.path} are identical, token for token"
        if self.first:
            text = f"{self.different} of {self.compared} frames of {self.path} differ; first: {self.first}"
        return "; ".join([text, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: ``"replay"`` of ``run.json``."""
        first = self.first
        return {
            "session": str(self.path),
            "equal": self.equal,
            "first_difference": first.frame if first else None,
            "branch": first.branch if first else None,
            "event": first.event if first else None,
            "tokens_different": first.tokens if first else 0,
            "tokens_per_frame": first.patches if first else None,
            "frames_compared": self.compared,
            "frames_different": self.different,
            "notes": list(self.notes),
        }

    def picture(self) -> Image.Image | None:
        """The first frame that differs, as it was and as it is, and where; None if there is none."""
        if self.first is None:
            return None
        was, now = self.first.recorded, self.first.replayed
        apart = np.abs(was.astype(np.int16) - now.astype(np.int16)).astype(np.uint8)
        rows = [(f"frame {self.first.frame}", np.stack([was, now, 255 - apart]))]
        captions = ["recorded", "replayed", "difference"]
        return contact_sheet(rows, captions, scale=max(1, 256 // len(was)))
