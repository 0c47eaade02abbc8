"""The worlds there are: what each is called, where its files come from, how its clips are cut.

Standard library only. Knows names and numbers; what lies on this disk is `helpers.assets.find`'s business.
Numbers and repositories: the public project AlmondGod/tinyworlds and its two repositories on the hub.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from helpers.errors import ParameterError, choices, shown

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

    name: str  # as in file and folder names: "pole_position", "sonic@owner--repository@revision"
    title: str  # for people: "Pole Position"
    dataset_file: str  # file name of the h5
    fps: int  # frames per second of its clips
    skip: int  # rows of the h5 from one frame of a clip to the next
    first_frame: int = 0  # first usable row: what comes before is a title screen
    dataset_repo: str | None = None  # on the hub; None for the embedded world, and for `from_repository`
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

    @property
    def suite(self) -> str:
        """The name without repository and revision: the world's, and its folder's on the hub."""
        return self.name.partition("@")[0]

    @property
    def origin(self) -> str:
        """Repository and revision in the name; ``""`` for what this project itself names."""
        return self.name.partition("@")[2]

    def from_repository(self, repo: str = "", revision: str = "") -> "World":
        """The same world with another model repository's checkpoints, and with its h5 if it holds one.

        ``repo`` is ``"owner/name"``, empty for this world's own; ``revision`` is a branch, tag or commit,
        empty for ``main``; with both empty it is this world. A `ParameterError` where one has another form.
        """
        if not (repo or revision):
            return self
        usual, repo, revision = (
            WORLDS[self.suite],
            repo.strip() or self.model_repo or "",
            revision.strip() or "main",
        )
        # Both become parts of folder names; the hub itself allows neither -- nor .. in a repository's name.
        if not re.fullmatch(f"{_WORD}/{_WORD}", repo) or re.search(r"--|\.\.", repo):
            fix = "Give the model repository as owner/name."
            raise ParameterError(f"repo is {ascii(repo)[:120]}, which names no repository.", fix=fix)
        if not re.fullmatch(_WORD, revision):
            fix = "Give a branch, tag or commit of letters, digits, dots, hyphens and underscores."
            raise ParameterError(f"revision is {ascii(revision)[:120]}.", fix=fix)
        if (repo, revision) == (usual.model_repo, usual.revision):
            return usual
        name = f"{self.suite}@{repo.replace('/', '--')}" + (f"@{revision}" if revision != "main" else "")
        return replace(usual, name=name, model_repo=repo, revision=revision, dataset_repo=None)


_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"


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


def recorded_name(name: str) -> str:
    """The world that a name in a file means. Files hold names: "demo" is from when CoinRun was called so."""
    return "coinrun" if name == "demo" else name


def world(name: str) -> World:
    """The world called ``name``, in upper or lower case; a `ParameterError` lists those there are.

    ``"sonic@owner/repository@revision"`` is `World.from_repository`; so is the ``name`` that it has.
    """
    wanted, at, origin = name.strip().partition("@")
    if chosen := WORLDS.get(ALIASES.get(wanted.lower(), wanted.lower())):
        repo, _, revision = origin.partition("@")
        return chosen.from_repository(repo.replace("--", "/", 1), revision) if at else chosen
    raise ParameterError(f"There is no dataset {shown(name)}.", fix=choices(wanted, WORLDS))
