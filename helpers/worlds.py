"""The worlds there are: what each is called, where its files come from, how its clips are cut.

Standard library only. Knows names and numbers; what lies on this disk is `helpers.assets.find`'s business.
Numbers and repositories: the public project AlmondGod/tinyworlds and its two repositories on the hub.
"""

from dataclasses import dataclass
from typing import Literal

from helpers.errors import ParameterError

KINDS: dict[str, tuple[str, ...]] = {
    "video_tokenizer": ("video_tokenizer",),
    "latent_actions": ("latent_actions", "actions", "lam", "action_tokenizer"),
    "dynamics": ("dynamics",),
}
"""The three kinds of checkpoint in a suite, each with the names that published files give it."""

PARTS = ("dataset", *KINDS)
"""The parts of a suite: the dataset and one checkpoint of each kind."""

HUB = "https://huggingface.co"
"""The hub from which worlds are fetched, unless a mirror's address is given."""


@dataclass(frozen=True)
class World:
    """One world: a dataset and the suite of checkpoints trained on it."""

    name: str  # in lower case, as in file and folder names: "pole_position"
    title: str  # for people: "Pole Position"
    dataset_file: str  # file name of the h5
    fps: int  # frames per second of its clips
    skip: int  # rows of the h5 from one frame of a clip to the next
    first_frame: int = 0  # first usable row: what comes before is a title screen
    dataset_repo: str | None = None  # on the hub; None for the embedded world
    model_repo: str | None = None  # on the hub, with one folder per suite; None for the embedded world
    context_window: int = 4  # frames the models see; these four are how the world is played at its best
    steps: int = 10  # MaskGIT decoding steps a frame
    temperature: float = 0.0  # of the sampling; 0 takes the likeliest tokens
    feedback: Literal["tokens", "pixels"] = "tokens"  # what of a generated frame is seen next
    threads: int = 0  # of a CPU, at most, where more make so small a world slower; 0 for any number
    revision: str = "main"  # branch or commit of both repositories at the first fetch, which locks its commit
    checkpoints: tuple[str, ...] = ()  # paths in the model repository, for mirrors that cannot list them
    true_actions: tuple[str, ...] = ()  # meanings of the dataset's action ids, in order; () where it has none

    @property
    def embedded(self) -> bool:
        """Whether the world ships with this repository and needs no network."""
        return self.model_repo is None


def _published(
    name: str, title: str, fps: int = 15, first_frame: int = 0, checkpoints: tuple[str, ...] = ()
) -> World:
    """A world on the hub; all of them were recorded at 60 frames a second, and are played with two frames."""
    file, repos = f"{name}_frames.h5", ("AlmondGod/tinyworlds", "AlmondGod/tinyworlds-models")
    return World(name, title, file, fps, max(1, 60 // fps), first_frame, *repos, 2, checkpoints=checkpoints)


def _keys(*keys: str) -> tuple[str, ...]:
    """Names of action ids whose bits are held keys, the first key being bit 0: "nothing", "left", …"""
    held = ([key for bit, key in enumerate(keys) if number >> bit & 1] for number in range(2 ** len(keys)))
    return tuple(" + ".join(names) or "nothing" for names in held)


_SONIC = (
    "sonic/sonic_video_tokenizer_step_27500_2025_09_17_06_20_26.pth",
    "sonic/sonic_latent_actions_step_2500_2025_09_17_06_50_59.pth",
    "sonic/sonic_dynamics_step_97500_2025_09_18_11_25_59.pth",
)

WORLDS: dict[str, World] = {
    entry.name: entry
    for entry in (
        # Both are recorded one row a step, and every step is shown: fps is only how fast they play.
        World(
            *("crafter", "Crafter", "clips.h5", 8, 1),
            context_window=1,
            steps=1,
            temperature=0.32,
            threads=1,
            true_actions=("nothing", "left", "right", "up", "down", "do", "place", "craft"),
        ),
        # More decoding steps are slower and no better: `python runbook.py presets`. Greedily, free play ends
        # under an empty sky.
        World(
            *("coinrun", "CoinRun", "clips.h5", 15, 1),
            steps=1,
            temperature=1.0,
            true_actions=_keys("left", "right", "jump"),
        ),
        _published("sonic", "Sonic", first_frame=100, checkpoints=_SONIC),
        _published("pong", "Pong"),
        _published("zelda", "Zelda", first_frame=1000),
        _published("picodoom", "PicoDoom", fps=30, first_frame=300),
        _published("pole_position", "Pole Position"),
    )
}
"""Every world by its name."""

ALIASES = {"demo": "crafter"}
"""Other names of worlds: the demo is the embedded world that is shown first."""


def world(name: str) -> World:
    """The world called ``name``, in upper or lower case; a `ParameterError` lists those there are."""
    wanted = name.strip().lower()
    if chosen := WORLDS.get(ALIASES.get(wanted, wanted)):
        return chosen
    raise ParameterError(f"There is no dataset {name!r}.", fix=f"Choose one of {', '.join(WORLDS)}.")
