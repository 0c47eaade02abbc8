"""Which keys mean which action: a table that is edited in the player and kept with the world.

A chord is one key or several held together, written as browsers name keys: ``"ArrowRight"``,
``"ArrowRight+Space"``. Of all chords that are held the longest counts, so right and jump together may mean
an action of their own. The file is JSON: ``{"version": 1, "idle": 0, "keys": {"6": ["ArrowRight+Space"]}}``.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ParameterError
from helpers.player.labels import ActionLabel, idle_action, key_map
from helpers.report import write_json
from helpers.run_folder import ROOT

_CODE = re.compile(r"[A-Z][A-Za-z0-9]{0,19}")
_LONGEST_CHORD = 4


@dataclass(frozen=True)
class KeyMap:
    """The chords of each action, and the action of no key.

    Args:
        keys: For each action id, its chords.
        idle: The action where nothing is held.
    """

    keys: dict[int, tuple[str, ...]]
    idle: int = 0

    def to_json(self) -> dict[str, Any]:
        """What the file and the browser hold."""
        return {
            "version": 1,
            "idle": self.idle,
            "keys": {str(action): list(chords) for action, chords in sorted(self.keys.items())},
        }

    @classmethod
    def read(cls, content: Any, n_actions: int) -> "KeyMap":
        """A key map from what a file or a browser holds, checked.

        Raises:
            ParameterError: It is not one, has ids that the world has not, or means two things by one chord.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("keys"), Mapping):
            raise ParameterError("A key map is an object with an object of keys.", fix="Delete the file.")
        keys: dict[int, tuple[str, ...]] = {}
        for action, chords in content["keys"].items():
            if not isinstance(chords, list):
                raise ParameterError(f"The keys of action {action} are no list.", fix="Delete the file.")
            keys[action_id(action, n_actions)] = tuple(dict.fromkeys(map(_chord, chords)))
        taken = [chord for chords in keys.values() for chord in chords]
        twice = sorted({chord for chord in taken if taken.count(chord) > 1})
        if twice:
            raise ParameterError(f"{twice[0]} stands for two actions.", fix="Take it away from one of them.")
        return cls(keys, action_id(content.get("idle", 0), n_actions))


def default_keys(labels: Sequence[ActionLabel]) -> KeyMap:
    """Digits and letters for the ids, the keys that labels suggest, and chords for ``"right + jump"``.

    Args:
        labels: One for each action id.
    """
    keys: dict[int, list[str]] = {label.id: [] for label in labels}
    for key, action in key_map(labels).items():
        keys[action].append(key)
        if key.startswith("Digit"):
            keys[action].append(key.replace("Digit", "Numpad"))
    named = {label.name: label.keys for label in labels if label.keys}
    for label in labels:
        parts = [named.get(name, ()) for name in label.name.split(" + ")]
        if len(parts) > 1 and all(parts):
            together = (dict.fromkeys(chord) for chord in itertools.product(*parts))
            chords = ["+".join(sorted(chord)) for chord in together if len(chord) == len(parts)]
            keys[label.id] = [*chords, *keys[label.id]]
    return KeyMap({action: tuple(chords) for action, chords in keys.items()}, idle_action(labels))


def keys_file(world: str, root: Path = ROOT) -> Path:
    """Where a world's key map is kept: beside its other files."""
    return root / "data" / f"{world}_keys.json"


def load_keys(path: Path, n_actions: int) -> tuple[KeyMap | None, str]:
    """The key map kept in ``path``, None where there is none; and a note where it cannot be used."""
    try:
        return KeyMap.read(json.loads(path.read_text(encoding="utf-8")), n_actions), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, ParameterError) as error:
        return None, f"{path.name} cannot be used ({error}) The usual keys are."


def save_keys(path: Path, keys: KeyMap) -> None:
    """Keep a key map; raises `OSError` where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, keys.to_json())


def action_id(value: Any, n_actions: int) -> int:
    """The id that somebody typed, or that a file or a page holds.

    Raises:
        ParameterError: It is none of the suite's.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) < n_actions):
        raise ParameterError(f"{text[:40]!r} is not an action id.", fix=f"Use 0 to {n_actions - 1}.")
    return int(text)


def _chord(text: Any) -> str:
    codes = [code.strip() for code in str(text).split("+")]
    if len(codes) > _LONGEST_CHORD or not all(_CODE.fullmatch(code) for code in codes):
        raise ParameterError(f"{str(text)[:40]!r} is not a key.", fix='Write keys like "ArrowRight+Space".')
    return "+".join(sorted(dict.fromkeys(codes)))
