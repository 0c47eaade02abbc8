"""Which keys mean which action: a table that is edited in the player and kept with the world.

A chord is one key or several held together, written as browsers name keys (``event.code``): ``"ArrowRight"``,
``"ArrowRight+Space"``. Of all chords that are held the longest counts, so right and jump together may mean
an action of their own; of equally long ones the latest counts. The file is JSON:
``{"version": 1, "idle": 0, "keys": {"6": ["ArrowRight+Space"]}}``.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ParameterError
from helpers.player.labels import ActionLabel
from helpers.report import write_json
from helpers.run_folder import writing

_CODE = re.compile(r"[A-Z][A-Za-z0-9]{0,19}")
_LONGEST_CHORD = 4
_FREE = [f"Key{letter}" for letter in "ZXCVBNMFGHJKLRTYUIOP"]  # for ids beyond the digits

# Keys that suggest themselves for a label's name.
_SUGGESTED = {
    "left": ("ArrowLeft", "KeyA"),
    "right": ("ArrowRight", "KeyD"),
    "up": ("ArrowUp", "KeyW"),
    **dict.fromkeys(("down", "nothing", "still"), ("ArrowDown", "KeyS")),
    "jump": ("ArrowUp", "KeyW", "Space"),
    "left + jump": ("KeyQ",),
    "right + jump": ("KeyE",),
    "do": ("Space",),
    "place": ("KeyE",),
    "craft": ("KeyC",),
}


@dataclass(frozen=True)
class KeyMap:
    """The chords of each action id, and the action where no key is held."""

    keys: dict[int, tuple[str, ...]]
    idle: int = 0

    def to_json(self) -> dict[str, Any]:
        """What the file and the browser hold."""
        keys = {str(action): list(chords) for action, chords in sorted(self.keys.items())}
        return {"version": 1, "idle": self.idle, "keys": keys}

    @classmethod
    def read(cls, content: Any, n_actions: int) -> "KeyMap":
        """A key map from what a file or a browser holds; a `ParameterError` where that is none.

        Nor is one that has ids that the world has not, or that means two things by one chord.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("keys"), Mapping):
            raise ParameterError("A key map is an object with an object of keys.", fix="Delete the file.")
        keys: dict[int, tuple[str, ...]] = {}
        for action, chords in content["keys"].items():
            if not isinstance(chords, list):
                raise ParameterError(f"The keys of action {action} are no list.", fix="Delete the file.")
            keys[action_id(action, n_actions)] = tuple(dict.fromkeys(map(_chord, chords)))
        for chord, count in sorted(Counter(itertools.chain(*keys.values())).items()):
            if count > 1:
                raise ParameterError(f"{chord} stands for two actions.", fix="Take it away from one of them.")
        return cls(keys, action_id(content.get("idle", 0), n_actions))


def default_keys(labels: Sequence[ActionLabel]) -> KeyMap:
    """Chords for ``"right + jump"``, suggested keys, and a digit or else a free letter for every id."""
    suggested = suggested_keys(labels)
    named = {label.name: suggested[label.id] for label in labels if suggested[label.id]}
    keys = {}
    for label in labels:
        parts = [named.get(name, ()) for name in label.name.split(" + ")]
        together = [sorted(set(chord)) for chord in itertools.product(*parts) if len(parts) > 1]
        chords = ["+".join(chord) for chord in together if len(chord) == len(parts)]
        number = label.id
        own = [f"Digit{number}", f"Numpad{number}"] if number < 10 else _FREE[number - 10 : number - 9]
        keys[number] = (*chords, *suggested[number], *own)
    return KeyMap(keys, idle_action(labels))


def suggested_keys(labels: Sequence[ActionLabel]) -> dict[int, tuple[str, ...]]:
    """The keys that suggest themselves for each id, () where none do.

    Of ids with one meaning that with the surest true action gets the keys, or else with the largest effect.
    """

    def strength(label: ActionLabel) -> float:
        return math.hypot(*label.effect) if label.certainty is None else label.certainty

    taken: set[str] = set()
    keys: dict[int, tuple[str, ...]] = {}
    for label in sorted(labels, key=strength, reverse=True):
        wanted = () if label.dead else _SUGGESTED.get(label.name, ())
        keys[label.id] = wanted if taken.isdisjoint(wanted) else ()
        taken.update(keys[label.id])
    return keys


def idle_action(labels: Sequence[ActionLabel]) -> int:
    """The action for when no key is down: the one that stands for nothing, or else that of least motion."""
    alive = [label for label in labels if not label.dead] or list(labels)
    named = [label for label in alive if label.name == "nothing"]
    return min(named or alive, key=lambda label: math.hypot(*label.motion)).id


def load_keys(path: Path, n_actions: int) -> tuple[KeyMap | None, str]:
    """The key map kept in ``path``, None where there is none; and a note where it cannot be used."""
    try:
        return KeyMap.read(json.loads(path.read_text(encoding="utf-8")), n_actions), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, ParameterError) as error:
        return None, f"{path.name} could not be read ({error}); using the default keys."


def save_keys(path: Path, keys: KeyMap | None) -> None:
    """Keep a key map, or none; raises an `OutputError` where it cannot be written."""
    with writing(path, fix="The keys hold for now; free some disk to keep them."):
        if keys is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, keys.to_json())


def action_id(value: Any, n_actions: int) -> int:
    """The id that somebody typed, or that a file or a page holds; a `ParameterError` if it is none."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) < n_actions):
        raise ParameterError(f"{text[:40]!r} is not an action id.", fix=f"Use 0 to {n_actions - 1}.")
    return int(text)


def _chord(text: Any) -> str:
    codes = [code.strip() for code in str(text).split("+")]
    if len(codes) > _LONGEST_CHORD or not all(_CODE.fullmatch(code) for code in codes):
        raise ParameterError(f"{str(text)[:40]!r} is not a key.", fix='Write keys like "ArrowRight+Space".')
    return "+".join(sorted(dict.fromkeys(codes)))
