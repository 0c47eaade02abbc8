"""Every parameter of 05_infer, declared once: its default, its range, and what depends on it.

A parameter is added here and in the notebook's parameters cell; whatever else treats parameters alike
(session files, presets, sweeps, command lines) goes by its group. Standard library only, so that a wrong
value is refused before anything is installed or computed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from helpers.errors import ActionError, ParameterError, shown
from helpers.worlds import world

if TYPE_CHECKING:
    from helpers.worldmodel.session import Feedback

ActionSource = Literal["given", "ground truth", "random", "none"]

_OWN = "the world's own"
_RATE = r"|\s*[1-9][0-9]{0,3} ?[fF][pP][sS]\s*"
_DEVICES = '"auto", "cpu", "cuda", "cuda:1" or "mps"'
_UNSET = "what the other sources of actions leave"

Group = Literal["place", "speed", "play", "show"]
"""What a parameter is about.

``"place"``: where the world's files are and which device computes; another machine has others.
``"speed"``: what decides how long a step takes, beside the decoding; a preset's measurement holds for these.
``"play"``: everything else that decides the frames. Session files record ``"speed"`` and ``"play"``.
``"show"``: what a run shows and measures, or replays; the frames do not depend on it.
"""


def _declare(default: Any, group: Group, **rule: Any) -> Any:
    """A field of `Settings`: ``low`` and ``high`` are within its range, ``above`` is not.

    A default that ``stands_for`` something, such as the world's own value, need not be within it, nor of the
    ``kind`` that values have.
    """
    high = 2**63 - 1 if type(default) is int else math.inf
    free: dict[str, Any] = {"low": -math.inf, "high": high, "above": -math.inf, "kind": type(default)}
    free |= {"choices": (), "pattern": "", "example": "", "stands_for": ""}
    return field(default=default, metadata={"group": group, **free, **rule})


@dataclass(frozen=True)
class Settings:
    """Every parameter of 05_infer; the comments in the notebook's parameters cell say what each is.

    Where the published inference config has a name for it, it has that name. ``dataset`` may be an alias, and
    whatever else stands for the world's own value: the settings hold the name and the value themselves.
    """

    dataset: str = _declare("crafter", "play")
    device: str = _declare("auto", "place", pattern=r"auto|mps|(cpu|cuda)(:\d{1,3})?", example=_DEVICES)
    generation_steps: int = _declare(16, "play", low=1)
    context_window: int = _declare(0, "speed", low=1, stands_for=_OWN)
    fps: int = _declare(0, "show", low=1, stands_for=_OWN)
    temperature: float = _declare(-1.0, "play", low=0, high=1e6, stands_for=_OWN)
    prediction_horizon: int = _declare(1, "speed", low=1)
    teacher_forced: bool = _declare(False, "play")
    use_actions: bool = _declare(None, "play", kind=bool, stands_for=_UNSET)
    use_gt_actions: bool = _declare(None, "play", kind=bool, stands_for=_UNSET)
    use_interactive_mode: bool = _declare(False, "play")
    use_latest_checkpoints: bool = _declare(False, "place")
    video_tokenizer_path: str = _declare("", "place")
    latent_actions_path: str = _declare("", "place")
    dynamics_path: str = _declare("", "place")
    preload_ratio: float = _declare(1.0, "play", above=0, high=1)
    amp: bool = _declare(False, "speed")
    tf32: bool = _declare(False, "speed")
    compile: bool = _declare(False, "speed")
    seed: int = _declare(0, "play", low=0)
    steps: int = _declare(0, "play", low=1, high=10_000, stands_for=_OWN)
    feedback: "Feedback" = _declare("", "play", choices=("tokens", "pixels"), stands_for=_OWN)  # noqa: RUF009
    actions: tuple[int, ...] = _declare((), "play")
    start: int = _declare(-1, "play", low=0, stands_for="a lively clip")
    evaluate: bool = _declare(True, "show")
    replay: str = _declare("", "show")
    replay_other_weights: bool = _declare(False, "show")
    preset: str = _declare("", "show", pattern=_RATE, example='a text such as "30fps", or an empty one')

    @classmethod
    def read(cls, namespace: Mapping[str, Any]) -> "Settings":
        """Settings from the variables of a notebook's parameters cell; other variables are ignored.

        Raises:
            ParameterError: A value has the wrong type or is out of its range.
            ActionError: ``actions`` holds something else than whole numbers.
        """
        return cls(**{name: checked(name, namespace[name]) for name in DECLARED if name in namespace})

    def __post_init__(self) -> None:
        chosen = world(self.dataset)
        values: dict[str, Any] = {"dataset": chosen.name}
        for name, setting in DECLARED.items():
            if setting.metadata["stands_for"] == _OWN and getattr(self, name) == setting.default:
                values[name] = getattr(chosen, name)
        # Sources that nobody set give way to one that is: whichever then stands back was set, see `ignored`.
        others = bool(self.actions) or self.use_interactive_mode
        if (inferred := self.use_gt_actions) is None:
            values["use_gt_actions"] = inferred = not (others or self.use_actions)
        if self.use_actions is None:
            values["use_actions"] = not (others or inferred)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def clip_lengths(self) -> tuple[int, int]:
        """Frames that a clip must have to be played from, and those that it has where there are so many.

        All that are to be generated must be there with inferred actions or teacher forcing.
        """
        wanted = self.context_window + self.generation_steps * self.prediction_horizon
        needs_truth = self.teacher_forced or self.action_source == "ground truth"
        return (wanted if needs_truth else self.context_window), wanted

    @property
    def action_source(self) -> ActionSource:
        """Where the actions come from, by the published order of precedence; ids given come first."""
        if self.actions or self.use_interactive_mode:
            return "given"
        return "ground truth" if self.use_gt_actions else "random" if self.use_actions else "none"


DECLARED: dict[str, "Field[Any]"] = {setting.name: setting for setting in fields(Settings)}
"""Every parameter's declaration, by its name."""


def names(*groups: Group) -> tuple[str, ...]:
    """The parameters of some groups, in the order of their declaration."""
    return tuple(name for name, setting in DECLARED.items() if setting.metadata["group"] in groups)


def checked(name: str, value: Any, itself: bool = False) -> Any:
    """A parameter's value as plain Python, if the parameter takes it; numpy's numbers and lists are fine.

    ``itself`` takes no default that stands for another value.

    Raises:
        ParameterError: The value has another type or is out of range; the message says what is taken.
        ActionError: ``actions`` holds something else than whole numbers of 64 bits.
    """
    setting = DECLARED[name]
    rule, kind = setting.metadata, setting.metadata["kind"]
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            fix = "Use a list of action ids, such as [2, 2, 6]."
            raise ParameterError(f"{name} is {shown(value)}.", fix=fix)
        for action in value:
            # torch holds ids in 64 bits, and would overflow without naming the parameter.
            if not _is_number(action, Integral) or not -(2**63) <= action < 2**63:
                fix = "Use a list of whole numbers, such as [2, 2, 6]."
                raise ActionError(f"{name} holds {shown(action)}.", fix=fix)
        return tuple(int(action) for action in value)
    stands = bool(rule["stands_for"]) and not itself
    if value is None and stands and setting.default is None:
        return None
    if kind in (int, float):
        if _is_number(value, Integral if kind is int else Real):
            within = rule["low"] <= value <= rule["high"] and value > rule["above"]
            if within or (stands and value == setting.default):
                return kind(value)
    elif isinstance(value, kind):
        chosen = not rule["choices"] or value in rule["choices"] or (stands and value == setting.default)
        if chosen and (not rule["pattern"] or re.fullmatch(rule["pattern"], str(value))):
            return value
    taken = _taken(setting)
    if stands and setting.default is not None:  # which is left out, not written
        taken += f", or {json.dumps(setting.default)} for {rule['stands_for']}"
    raise ParameterError(f"{name} is {shown(value)}.", fix=f"Use {taken}.")


def _is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _taken(setting: "Field[Any]") -> str:
    """What a parameter takes beside a default that stands for another value, in words."""
    rule, kind = setting.metadata, setting.metadata["kind"]
    if kind is bool:
        return "true or false"
    if kind is str:
        if rule["choices"]:
            return " or ".join(f'"{choice}"' for choice in rule["choices"])
        return str(rule["example"]) or "a text"
    number = "a whole number" if kind is int else "a number"
    if rule["above"] > -math.inf:
        return f"{number} above {rule['above']:g} and up to {rule['high']:g}"
    if rule["high"] in (math.inf, 2**63 - 1):
        return f"{number} of at least {rule['low']:g}"
    return f"{number} from {rule['low']:g} to {rule['high']:g}"


def ignored(settings: Settings, device: str) -> list[str]:
    """The parameters that were set and have no effect on a type of device (``"cpu"``…), a sentence each."""
    sentences = []
    if settings.tf32 and device != "cuda":
        sentences.append(f"tf32 has no effect on {device}: only NVIDIA GPUs have TF32.")
    count, steps = len(settings.actions), settings.generation_steps
    if count and steps not in (count, Settings.generation_steps):
        sentences.append(
            f"generation_steps={steps} has no effect: {count} actions are given, and each is one step."
        )
    paths = [name for name in names("place") if name.endswith("_path") and getattr(settings, name)]
    if settings.use_latest_checkpoints and len(paths) == 3:
        sentences.append("use_latest_checkpoints has no effect: a path is given for all three checkpoints.")
    if not settings.replay:
        used, *unused = _sources(settings) or [""]
        if settings.actions and settings.use_interactive_mode:
            unused.remove("use_interactive_mode")  # the player goes on from the given ones
        sentences += [f"{name}=true has no effect: {used} comes first." for name in unused]
    return sentences


def overridden(namespace: Mapping[str, Any], played: Settings) -> list[str]:
    """The parameters that were given, and set otherwise by a preset or a session to replay, a sentence each.

    ``namespace`` holds the values as they stand in the notebook's parameters cell, ``played`` those that were
    played with. A value that is the parameter's default was not given.
    """
    if not (played.preset or played.replay):
        return []
    values = {name: checked(name, namespace[name]) for name in DECLARED if name in namespace}
    given = {name: value for name, value in values.items() if value != DECLARED[name].default}
    meant = Settings(**given)
    cause = "the session to replay has" if played.replay else f"the preset {played.preset} sets"
    sentences = [
        f"{name}={shown(value)} has no effect: {cause} {shown(getattr(played, name))}."
        for name, value in given.items()
        if name in names("speed", "play") and getattr(meant, name) != getattr(played, name)
    ]
    if played.replay and "preset" in given:
        sentences.append(f"preset={given['preset']} has no effect: a replay plays what was recorded.")
    return sentences


_SOURCES = {  # in the order of precedence
    "actions": "given in `actions`",
    "use_interactive_mode": "chosen in the player",
    "use_gt_actions": "inferred from the true clip (use_gt_actions)",
    "use_actions": "random (use_actions)",
}


def _sources(settings: Settings) -> list[str]:
    return [name for name in _SOURCES if getattr(settings, name)]


def source_of_actions(settings: Settings) -> str:
    """Which parameter the actions come from, in words; `ignored` names others that were set."""
    if settings.replay:
        return "recorded in the session file"
    words = [_SOURCES[name] for name in _sources(settings)]
    if settings.actions and settings.use_interactive_mode:
        return f"{words[0]}, then {words[1]}"
    return words[0] if words else "none: frames are generated without conditioning"
