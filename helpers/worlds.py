"""The worlds there are: what each is called, where its files come from, how its clips are cut.

Standard library only. Knows names and numbers; what lies on this disk is `helpers.assets.fetch`' business.
Numbers and repositories: the public project AlmondGod/tinyworlds and its two repositories on the hub.
"""

from dataclasses import dataclass

from helpers.errors import ParameterError

KINDS: dict[str, tuple[str, ...]] = {
    "video_tokenizer": ("video_tokenizer",),
    "latent_actions": ("latent_actions", "actions", "lam", "action_tokenizer"),
    "dynamics": ("dynamics",),
}
"""The three kinds of checkpoint a suite has, each with the names that files in the wild give it."""


@dataclass(frozen=True)
class World:
    """One world: a dataset and the suite of checkpoints trained on it.

    Args:
        name: Lower-case name, as in file and folder names: ``"pole_position"``.
        title: Name for people: ``"Pole Position"``.
        dataset_file: File name of the h5.
        fps: Frames per second of its clips.
        skip: Rows of the h5 from one frame of a clip to the next.
        first_frame: First usable row (what comes before is a title screen).
        dataset_repo: Dataset repository on the hub; None for the embedded world.
        model_repo: Model repository on the hub, which has one folder a suite; None for the embedded world.
        steps: MaskGIT decoding steps a frame.
        revision: Branch or commit of both repositories at which files are first looked for. The commit found
            is then locked on this disk, and later fetches take the same one.
        checkpoints: Paths of the published checkpoints in the model repository, for mirrors that serve files
            and cannot list them.
        true_actions: What the dataset's true action ids mean, in their order; empty where it has none.
    """

    name: str
    title: str
    dataset_file: str
    fps: int
    skip: int
    first_frame: int
    dataset_repo: str | None
    model_repo: str | None
    steps: int = 10
    revision: str = "main"
    checkpoints: tuple[str, ...] = ()
    true_actions: tuple[str, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether the world ships with this repository and needs no network."""
        return self.model_repo is None


def _published(
    name: str, title: str, fps: int, first_frame: int = 0, checkpoints: tuple[str, ...] = ()
) -> World:
    """A world on the hub; all of them were recorded at 60 frames a second."""
    return World(
        name=name,
        title=title,
        dataset_file=f"{name}_frames.h5",
        fps=fps,
        skip=max(1, 60 // fps),
        first_frame=first_frame,
        dataset_repo="AlmondGod/tinyworlds",
        model_repo="AlmondGod/tinyworlds-models",
        checkpoints=checkpoints,
    )


def _keys(*keys: str) -> tuple[str, ...]:
    """Names of the ids whose bits are keys held down, the first key being bit 0: "nothing", "left", …"""
    held = ([key for bit, key in enumerate(keys) if number >> bit & 1] for number in range(2 ** len(keys)))
    return tuple(" + ".join(names) or "nothing" for names in held)


WORLDS: dict[str, World] = {
    each.name: each
    for each in (
        # CoinRun is recorded one row a step, and every step is shown: fps is only how fast it plays.
        # More decoding steps are slower and no better: `python runbook.py presets`.
        World(
            "demo",
            "CoinRun",
            "clips.h5",
            fps=15,
            skip=1,
            first_frame=0,
            dataset_repo=None,
            model_repo=None,
            steps=1,
            true_actions=_keys("left", "right", "jump"),
        ),
        _published(
            "sonic",
            "Sonic",
            fps=15,
            first_frame=100,
            checkpoints=(
                "sonic/sonic_video_tokenizer_step_27500_2025_09_17_06_20_26.pth",
                "sonic/sonic_latent_actions_step_2500_2025_09_17_06_50_59.pth",
                "sonic/sonic_dynamics_step_97500_2025_09_18_11_25_59.pth",
            ),
        ),
        _published("pong", "Pong", fps=15),
        _published("zelda", "Zelda", fps=15, first_frame=1000),
        _published("picodoom", "PicoDoom", fps=30, first_frame=300),
        _published("pole_position", "Pole Position", fps=15),
    )
}
"""Every world by its name."""


def world(name: str) -> World:
    """The world called ``name``, in upper or lower case: ``world("SONIC")`` is ``world("sonic")``.

    Raises:
        ParameterError: No world has this name; the message lists those there are.
    """
    found = WORLDS.get(name.strip().lower())
    if found is None:
        raise ParameterError(f"There is no dataset {name!r}.", fix=f"Choose one of {', '.join(WORLDS)}.")
    return found
