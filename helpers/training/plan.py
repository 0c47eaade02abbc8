"""What a training is asked to do: sizes, rates and budget, under the published config's names.

A plan is a value, kept as ``plan.json`` in the run's folder, so that the same command goes on after a kill.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from helpers.errors import ParameterError, shown
from helpers.report import write_json
from helpers.worldmodel.checkpoint import KINDS, Kind
from helpers.worldmodel.models import ModelConfig


@dataclass(frozen=True)
class Stage:
    """The settings of one model's training."""

    embed_dim: int
    num_heads: int
    hidden_dim: int
    num_blocks: int
    batch_size_per_gpu: int  # clips of an update on one device
    learning_rate: float  # at its peak
    n_updates: int = 0  # updates in all; 0: as many as the budget gives
    share: float = 1.0  # of the minutes, against the other stages'


@dataclass(frozen=True)
class Plan:
    """The settings of a whole training; names are the published config's wherever it has one."""

    name: str
    video_tokenizer: Stage
    latent_actions: Stage
    dynamics: Stage
    frame_size: int = 64  # pixels a side
    patch_size: int = 8
    context_length: int = 4  # frames that the dynamics model sees, at most
    latent_dim: int = 6
    num_bins: int = 4
    n_actions: int = 8
    optimizer: str = "muon"  # for the matrices inside the blocks; "adamw" for all
    amp: bool = False  # matrix products in bfloat16
    tf32: bool = True
    objectives: str = "remedied"  # or "published": exactly the published losses
    noise: float = 0.1  # largest share of context tokens that are wrong, so that a world forgives its own
    whole: float = 0.5  # share of target frames masked whole, as at the start of decoding
    seed: int = 0
    minutes: float = 0.0  # for all three stages; 0: n_updates decides
    save_seconds: float = 60.0
    fps: float = 15.0
    labels: tuple[str, ...] = field(default=())  # meanings of the ids where the true actions are known

    def stage(self, kind: Kind) -> Stage:
        """The settings of one stage."""
        return getattr(self, kind)

    def config(self, kind: Kind) -> ModelConfig:
        """A stage's model."""
        stage = self.stage(kind)
        return ModelConfig(
            frame_size=self.frame_size,
            patch_size=self.patch_size,
            embed_dim=stage.embed_dim,
            num_heads=stage.num_heads,
            ffn_width=2 * stage.hidden_dim // 3,
            num_blocks=stage.num_blocks,
            latent_dim=self.latent_dim,
            num_bins=self.num_bins,
            action_dim=None if kind == "video_tokenizer" else round(math.log2(self.n_actions)),
        )

    def published_config(self, kind: Kind) -> dict[str, Any]:
        """A stage's config as a published checkpoint holds it: plain values."""
        own = {name: value for name, value in asdict(self).items() if name not in KINDS}
        stage = {name: value for name, value in asdict(self.stage(kind)).items() if name != "share"}
        conditioned = {} if kind == "video_tokenizer" else {"conditioning_dim": self.config(kind).action_dim}
        return {**own, **stage, **conditioned, "labels": list(self.labels), "dataset": self.name.upper()}

    def with_stage(self, kind: Kind, **changes: Any) -> "Plan":
        """The same with some of a stage's settings changed."""
        stages: dict[str, Any] = {kind: replace(self.stage(kind), **changes)}
        return replace(self, **stages)


def _stages(sizes: dict[Kind, tuple[int, int, int, int, int, float, int, float]]) -> dict[str, Stage]:
    return {kind: Stage(*values) for kind, values in sizes.items()}


SIZES: dict[str, dict[str, Any]] = {
    # For CPUs: 64 patches a frame.
    "small": _stages(
        {
            "video_tokenizer": (96, 4, 192, 2, 16, 2e-3, 0, 0.2),
            "latent_actions": (64, 4, 128, 2, 16, 1e-3, 0, 0.3),
            "dynamics": (128, 4, 256, 3, 12, 2e-3, 0, 0.5),
        }
    ),
    # For a GPU: the sizes of the published Sonic suite, 256 patches a frame.
    "large": {
        **_stages(
            {
                "video_tokenizer": (128, 8, 256, 4, 64, 1e-3, 0, 0.2),
                "latent_actions": (128, 8, 256, 4, 64, 5e-4, 0, 0.3),
                "dynamics": (128, 8, 256, 4, 64, 1e-3, 0, 0.5),
            }
        ),
        "patch_size": 4,
        "amp": True,
    },
    # The published training's own settings, losses included.
    "published": {
        **_stages(
            {
                "video_tokenizer": (32, 8, 128, 4, 350, 1e-3, 40_000, 0.25),
                "latent_actions": (32, 8, 128, 2, 350, 1e-4, 10_000, 0.15),
                "dynamics": (32, 8, 128, 8, 500, 1e-2, 300_000, 0.6),
            }
        ),
        "patch_size": 4,
        "latent_dim": 5,
        "n_actions": 4,
        "amp": True,
        "optimizer": "adamw",
        "objectives": "published",
    },
}
"""Settings that go together; single ones may be given beside them."""


def make_plan(name: str, size: str, settings: Sequence[str] = (), **given: Any) -> Plan:
    """A plan of a size, changed by texts such as ``"n_actions=4"`` and ``"dynamics.learning_rate=0.001"``.

    Raises:
        ParameterError: A setting has no such name or value, or they do not go together.
    """
    if size not in SIZES:
        raise ParameterError(f"There is no size {shown(size)}.", fix=f"There are {', '.join(SIZES)}.")
    plan = Plan(name, **{**SIZES[size], **given})
    for text in settings:
        path, _, value = text.partition("=")
        where, _, key = path.rpartition(".")
        target = plan.stage(where) if where in KINDS else plan
        changed = _changed(target, key, value, text)
        plan = replace(plan, **{where: changed}) if where in KINDS else changed
    _check(plan)
    return plan


def _changed(target: Any, key: str, text: str, whole: str) -> Any:
    kinds = {setting.name: type(getattr(target, setting.name)) for setting in fields(target)}
    settable = {name: kind for name, kind in kinds.items() if kind in (int, float, str, bool)}
    settable.pop("name", None)
    if key not in settable:
        stages = ", ".join(f"{kind}.…" for kind in KINDS)
        raise ParameterError(
            f"{shown(whole)} is no setting.", fix=f"There are {stages}{', '.join(settable)}."
        )
    kind = settable[key]
    try:
        value = text.lower() in ("1", "true") if kind is bool else kind(text)
    except ValueError as error:
        raise ParameterError(f"{shown(whole)} is no {kind.__name__}.", fix="Give a number.") from error
    return replace(target, **{key: value})


def _check(plan: Plan) -> None:
    wrong = ""
    stages = [plan.stage(kind) for kind in KINDS]
    if plan.patch_size < 1 or plan.frame_size % plan.patch_size:
        wrong = f"frame_size {plan.frame_size} is no multiple of patch_size {plan.patch_size}"
    elif plan.n_actions < 2 or math.log2(plan.n_actions) % 1 or plan.n_actions > 256:
        wrong = f"n_actions {plan.n_actions} is no power of 2 from 2 to 256"
    elif any(stage.embed_dim % stage.num_heads for stage in stages):
        wrong = "an embed_dim is no multiple of its num_heads"
    elif min(plan.context_length, plan.num_bins - 1, plan.latent_dim) < 1:
        wrong = "context_length, num_bins or latent_dim is too small"
    elif plan.optimizer not in ("muon", "adamw") or plan.objectives not in ("remedied", "published"):
        wrong = f"optimizer is {plan.optimizer!r} and objectives is {plan.objectives!r}"
    elif any(min(stage.batch_size_per_gpu, stage.learning_rate) <= 0 for stage in stages):
        wrong = "a batch_size_per_gpu or learning_rate is not above 0"
    if wrong:
        raise ParameterError(f"The settings do not go together: {wrong}.", fix="Change one of them.")


def write_plan(path: Path, plan: Plan) -> None:
    """Keep a plan, whole or not at all."""
    write_json(path, asdict(plan))


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` kept; a `ParameterError` where it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        stages = {kind: Stage(**values.pop(kind)) for kind in KINDS}
        return Plan(**{**values, **stages, "labels": tuple(values.pop("labels", ()))})
    except (OSError, ValueError, TypeError, KeyError) as error:
        fix = "Remove its folder to train anew."
        raise ParameterError(f"{path} cannot be read as a training's plan ({error}).", fix=fix) from error


def shape_of(plan: Plan) -> dict[str, Any]:
    """What cannot change when a training goes on."""
    shared = ("frame_size", "patch_size", "context_length", "latent_dim", "num_bins", "n_actions", "seed")
    sizes = ("embed_dim", "num_heads", "hidden_dim", "num_blocks", "batch_size_per_gpu")
    models: dict[str, Any] = {kind: [getattr(plan.stage(kind), name) for name in sizes] for kind in KINDS}
    others = ("optimizer", "objectives", "labels", "noise", "whole")
    return {**{name: getattr(plan, name) for name in (*shared, *others)}, **models}
