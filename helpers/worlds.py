"""The worlds there are: what each is called, where its files come from, how its clips are cut.

Standard library only. Knows names and numbers; what lies on this disk is `helpers.assets.find`'s business,
but for the worlds that were trained here: each has a file of its names and numbers in ``data/``.
Numbers and repositories: the public project AlmondGod/tinyworlds and its two repositories on the hub.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from helpers.errors import ParameterError, choices, shown
from helpers.report import write_json
from helpers.run_folder import ROOT

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
    trained: bool = False  # whether it was trained here: see `trained_worlds`

    @property
    def embedded(self) -> bool:
        """Whether the world ships with this repository and needs no network."""
        return self.model_repo is None and not self.trained

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
        if self.trained:
            fix = "Leave repo and revision empty."
            raise ParameterError(f"{self.title} was trained here and comes from no repository.", fix=fix)
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


def world(name: str, root: Path = ROOT) -> World:
    """The world called ``name``, in upper or lower case; a `ParameterError` lists those there are.

    ``"sonic@owner/repository@revision"`` is `World.from_repository`; so is the ``name`` that it has. Worlds
    that were trained here are those of ``root``.
    """
    wanted, at, origin = name.strip().partition("@")
    wanted = ALIASES.get(wanted.lower(), wanted.lower())
    if chosen := WORLDS.get(wanted) or _trained_world(wanted, root):
        repo, _, revision = origin.partition("@")
        return chosen.from_repository(repo.replace("--", "/", 1), revision) if at else chosen
    names = [*WORLDS, *trained_worlds(root)]
    raise ParameterError(f"There is no dataset {shown(name)}.", fix=choices(wanted, names))


_OWN_NAME = r"[a-z][a-z0-9_-]{0,39}"
_OWN_FILE = "_world.json"
_STORED = ("title", "fps", "context_window", "steps", "temperature", "feedback", "true_actions")


def own_world(name: str, **numbers: Any) -> World:
    """A world trained here, which is kept by `add_world`; a `ParameterError` where its name is none."""
    if not re.fullmatch(_OWN_NAME, name) or name in WORLDS or name in ALIASES:
        fix = "Choose --name: small letters, digits, _ and -, up to 40, and no other world's name."
        raise ParameterError(f"A world cannot be called {ascii(name)[:60]}.", fix=fix)
    return World(name, dataset_file=f"{name}_frames.h5", skip=1, trained=True, **numbers)


def add_world(chosen: World, root: Path = ROOT) -> Path:
    """Keep a world's names and numbers beside its dataset, from where `world` reads them; the file."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    path = root / "data" / f"{chosen.name}{_OWN_FILE}"
    write_json(path, {name: value for name, value in asdict(chosen).items() if name in _STORED})
    return path


def trained_worlds(root: Path = ROOT) -> tuple[str, ...]:
    """The names of the worlds that were trained here."""
    names = sorted(path.name.removesuffix(_OWN_FILE) for path in (root / "data").glob(f"*{_OWN_FILE}"))
    return tuple(name for name in names if re.fullmatch(_OWN_NAME, name) and name not in WORLDS)


def _trained_world(name: str, root: Path) -> World | None:
    if name not in trained_worlds(root):
        return None
    path = root / "data" / f"{name}{_OWN_FILE}"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        numbers["true_actions"] = tuple(map(str, numbers["true_actions"]))
        kinds = {key: type(value) for key, value in numbers.items()}
        whole = {"title": str, "fps": int, "context_window": int, "steps": int, "temperature": float}
        if any(kinds[key] is not kind for key, kind in whole.items()) or set(kinds) - set(_STORED):
            raise ValueError("a value is of another kind")
        if numbers["feedback"] not in ("tokens", "pixels") or not all(
            1 <= numbers[key] <= 1000 for key in ("fps", "context_window", "steps")
        ):
            raise ValueError("a value is out of range")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        fix = "Remove it, then run the training's command again: it is made anew."
        raise ParameterError(f"{path} cannot be read as a world's numbers ({error}).", fix=fix) from error
    return own_world(name, **numbers)
