"""Every parameter of 05_infer, declared once: its default, its range, and what depends on it.

A parameter is added here and in the notebook's parameters cell; whatever else treats parameters alike
(session files, presets, sweeps, command lines) goes by its group. Standard library only, so that a wrong
value is refused before anything is installed or computed.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from helpers.errors import ActionError, ParameterError
from helpers.worlds import world

if TYPE_CHECKING:
    from helpers.worldmodel.session import Feedback

ActionSource = Literal["given", "ground truth", "random", "none"]

Group = Literal["place", "speed", "play", "show"]
"""What a parameter is about.

``"place"``: where the world's files are and which device computes; another machine has others.
``"speed"``: what decides how long a step takes, beside the decoding; a preset's measurement holds for these.
``"play"``: everything else that decides the frames. Session files record ``"speed"`` and ``"play"``.
``"show"``: what a run shows and measures, or replays; the frames do not depend on it.
"""


def _declare(
    default: Any,
    group: Group,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    pattern: str = "",
    example: str = "",
    above: float = -math.inf,
) -> Any:
    """A field of `Settings`: ``low`` and ``high`` are within its range, ``above`` is not."""
    if isinstance(default, int) and not isinstance(default, bool):
        high = min(high, 2**63 - 1)
    rule = {"low": low, "high": high, "above": above, "choices": choices, "pattern": pattern}
    return field(default=default, metadata={"group": group, **rule, "example": example})


@dataclass(frozen=True)
class Settings:
    """Every parameter of 05_infer. Where the published inference config has a name for it, that name.

    Args:
        dataset: A world, such as ``"demo"`` or ``"SONIC"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        generation_steps: Steps to take; each generates ``prediction_horizon`` frames.
        context_window: Frames the models see; as many are given from the clip.
        fps: Of the video; 0 takes the dataset's own.
        temperature: 0 decodes greedily; above 0 samples.
        prediction_horizon: Frames a step generates; an action is held for all of them.
        teacher_forced: See the true frames, not the generated ones, at every step.
        use_actions: Random actions.
        use_gt_actions: The actions the latent action model infers from the true clip; before use_actions.
        use_interactive_mode: The user's own actions, from ``actions`` or the player; before all others.
        use_latest_checkpoints: The newest checkpoints under ``results/``, of whichever run.
        video_tokenizer_path: A checkpoint instead of the suite's own; empty for that.
        latent_actions_path: Likewise.
        dynamics_path: Likewise.
        preload_ratio: Only this share of the dataset's frames, from its start.
        amp: Compute matrix products in bfloat16.
        tf32: Allow TF32 matrix products on a GPU.
        compile: Compile the models with torch.compile, which needs a compiler on this machine.
        seed: Of the clip, the random actions and the sampling.
        steps: MaskGIT decoding steps a frame; 0 takes the world's own.
        feedback: ``"tokens"`` keeps generated tokens; ``"pixels"`` tokenises generated frames again.
        actions: Action ids to take, one a step; they come before every other source of actions.
        start: Row of the dataset to start from; -1 takes a lively clip, chosen by the seed.
        evaluate: Also measure what takes further passes of the models: Δ₄PSNR and token accuracy.
        replay: A session file to play again instead; what it recorded comes before the parameters above.
        replay_other_weights: Replay it even if the suite is not the one it was played with.
        preset: Such as ``"30fps"``: `helpers.presets` sets steps, temperature and feedback by it, as measured
            for this world on this device.
    """

    dataset: str = _declare("demo", "play")
    device: str = _declare("auto", "place")
    generation_steps: int = _declare(16, "play", low=1)
    context_window: int = _declare(4, "speed", low=1)
    fps: int = _declare(0, "show", low=0)
    temperature: float = _declare(0.0, "play", low=0, high=1e6)
    prediction_horizon: int = _declare(1, "speed", low=1)
    teacher_forced: bool = _declare(False, "play")
    use_actions: bool = _declare(True, "play")
    use_gt_actions: bool = _declare(True, "play")
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
    steps: int = _declare(0, "play", low=0, high=10_000)
    feedback: "Feedback" = _declare("tokens", "play", choices=("tokens", "pixels"))  # noqa: RUF009
    actions: tuple[int, ...] = _declare((), "play")
    start: int = _declare(-1, "play", low=-1)
    evaluate: bool = _declare(True, "show")
    replay: str = _declare("", "show")
    replay_other_weights: bool = _declare(False, "show")
    preset: str = _declare("", "show", pattern=r"\s*[1-9][0-9]{0,3} ?fps\s*", example="30fps")

    @classmethod
    def read(cls, namespace: Mapping[str, Any]) -> "Settings":
        """Settings from the variables of a notebook's parameters cell; other variables are ignored.

        Raises:
            ParameterError: A value has the wrong type or is out of its range.
            ActionError: ``actions`` holds something else than whole numbers.
        """
        settings = cls(**{name: checked(name, namespace[name]) for name in DECLARED if name in namespace})
        world(settings.dataset)
        return settings

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


def checked(name: str, value: Any, low: float = -math.inf) -> Any:
    """A parameter's value as plain Python, if the parameter takes it.

    Args:
        name: The parameter.
        value: What was given; numpy's numbers and lists are fine.
        low: The least number to take, where that is more than the parameter's own least.

    Raises:
        ParameterError: The value has another type or is out of range; the message says what is taken.
        ActionError: ``actions`` holds something else than whole numbers.
    """
    setting = DECLARED[name]
    rule, kind = setting.metadata, type(setting.default)
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            raise ParameterError(
                f"{name} is {shown(value)}.", fix="Use a list of action ids, such as [2, 2, 6]."
            )
        for action in value:
            if not isinstance(action, Integral) or isinstance(action, bool):
                raise ActionError(
                    f"{name} holds {shown(action)}.", fix="Use a list of whole numbers, such as [2, 2, 6]."
                )
        return tuple(int(action) for action in value)
    low = max(low, rule["low"])
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        if number and low <= value <= rule["high"] and value > rule["above"]:
            return kind(value)
    elif isinstance(value, kind):
        fits = value in rule["choices"] if rule["choices"] else True
        if fits and not (rule["pattern"] and value and not re.fullmatch(rule["pattern"], str(value).lower())):
            return value
    raise ParameterError(f"{name} is {shown(value)}.", fix=f"Use {_taken(setting, low)}.")


def _taken(setting: "Field[Any]", low: float) -> str:
    """What a parameter takes, in words."""
    rule, kind = setting.metadata, type(setting.default)
    if kind is bool:
        return "true or false"
    if kind is str:
        if rule["choices"]:
            return " or ".join(f'"{choice}"' for choice in rule["choices"])
        return f'a text such as "{rule["example"]}", or an empty one' if rule["example"] else "a text"
    number = "a whole number" if kind is int else "a number"
    if rule["above"] > -math.inf:
        return f"{number} above {rule['above']:g} and up to {rule['high']:g}"
    if rule["high"] in (math.inf, 2**63 - 1):
        return f"{number} of at least {low:g}"
    return f"{number} from {low:g} to {rule['high']:g}"


def shown(value: Any) -> str:
    """A value of unknown origin for a message: one short line of ASCII."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # Python prints no whole number of thousands of digits
        text = f"a value of type {type(value).__name__} too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def ignored(settings: Settings, device: str) -> list[str]:
    """The parameters that were set and have no effect, in a sentence each.

    Args:
        settings: Of the run.
        device: Type of the device that computes: ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """
    sentences = []
    if settings.tf32 and device != "cuda":
        sentences.append(f"tf32 has no effect on {device}: only NVIDIA GPUs have TF32.")
    if settings.actions and settings.generation_steps not in (
        len(settings.actions),
        Settings.generation_steps,
    ):
        sentences.append(
            f"generation_steps={settings.generation_steps} has no effect: "
            f"{len(settings.actions)} actions are given, and each is one step."
        )
    paths = [name for name in names("place") if name.endswith("_path") and getattr(settings, name)]
    if settings.use_latest_checkpoints and len(paths) == 3:
        sentences.append("use_latest_checkpoints has no effect: a path is given for all three checkpoints.")
    return sentences


def source_of_actions(settings: Settings) -> str:
    """Which parameter the actions come from, and which others were set and had to stand back, in words."""
    if settings.replay:
        return "recorded in the session file"
    set_ones = [
        (bool(settings.actions), "actions", "given in `actions`"),
        (settings.use_interactive_mode, "use_interactive_mode", "chosen in the player"),
        (settings.use_gt_actions, "use_gt_actions", "inferred from the true clip (use_gt_actions)"),
        (settings.use_actions, "use_actions", "random (use_actions)"),
    ]
    active = [(name, words) for is_set, name, words in set_ones if is_set]
    if not active:
        return "none: frames are generated without conditioning"
    if settings.actions and settings.use_interactive_mode:
        active = [("actions", "given in `actions`, then chosen in the player"), *active[2:]]
    unused = ", ".join(name for name, _ in active[1:])
    return active[0][1] + (f"; set as well and not used: {unused}" if unused else "")
