"""Where a world's files lie on this disk. Uses no network, opens nothing; standard library only.

The layout, under the root, is that of the public project, so that its files and ours are interchangeable:

    data/<file>.h5                                                           a dataset
    results/<YYYYmmdd_HHMMSS>_<suite>/<type>/checkpoints/<suite>/<file>.pth  a published checkpoint
    results/<YYYYmmdd_HHMMSS>_<suite>@<owner>--<repository>[@<revision>]/…   the same, of another repository
    results/<YYYYmmdd_HHMMSS>/<stage>/checkpoints/<stage>_step_<n>[….pth]    one of the user's own training
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from helpers.commands import runbook_line
from helpers.errors import AssetError
from helpers.files import expanded
from helpers.run_folder import ROOT
from helpers.worlds import KINDS, World, world

EMBEDDED = ROOT / "helpers" / "demo"  # with a folder for each embedded world

# The kind's name must be whole (`lam` is also the end of `slam`) and stand right before the step.
_CHECKPOINT = {
    kind: re.compile(rf"(?:^|_)(?:{'|'.join(aliases)})_step_(\d+)(?:_|$)", re.IGNORECASE)
    for kind, aliases in KINDS.items()
}
RUN_TIME = re.compile(r"\d{8}_\d{6}")
_WEIGHTS_IN_DIRECTORY = "model_state_dict.pt"


@dataclass(frozen=True)
class SuitePaths:
    """Where a suite's four parts lie. Checkpoints are files or directories (see `checkpoint_form`)."""

    dataset: Path
    video_tokenizer: Path
    latent_actions: Path
    dynamics: Path

    def items(self) -> Iterator[tuple[str, Path]]:
        """The parts' names with their paths."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        return "\n".join(f"{part:<16} {path}" for part, path in self.items())


def find_suite(
    name: str,
    root: Path = ROOT,
    video_tokenizer_path: str = "",
    latent_actions_path: str = "",
    dynamics_path: str = "",
    use_latest_checkpoints: bool = False,
) -> SuitePaths:
    """Where a suite's parts lie on this disk; an `AssetError` says where a part was looked for in vain.

    A checkpoint is the one whose path is given (a .pth or a checkpoint directory; a relative path counts from
    ``root``, which holds ``data/`` and ``results/``); else, with ``use_latest_checkpoints``, the latest of
    its kind under ``results/``, of any world; else the embedded world's own; else this suite's latest.
    """
    chosen = world(name, root)
    command = runbook_line("run", "--only", "04_assets", "--dataset", chosen.name)
    get = f'Run 04_assets with dataset = "{chosen.name}" and download = True, or: {command}'
    if chosen.embedded:
        get = "It belongs to this repository: restore it with `git checkout -- helpers/demo`."
    elif chosen.trained:
        get = "It is trained here: run its `runbook.py train` command again, which goes on from where it was."
    dataset = dataset_path(chosen, root)
    if not dataset.is_file():
        raise AssetError(f"The dataset of {chosen.title} is not at {dataset}.", fix=get)
    checkpoints = []
    for kind, given in zip(KINDS, (video_tokenizer_path, latent_actions_path, dynamics_path), strict=True):
        if given:
            path: Path | None = root / expanded(given)
        elif chosen.embedded and not use_latest_checkpoints:
            path = embedded_path(chosen, kind)
        else:
            path = latest_checkpoint(kind, root, None if use_latest_checkpoints else chosen.name)
        if path is None:
            whose = "" if use_latest_checkpoints else f" of {chosen.title}"
            if use_latest_checkpoints:  # of any world, such as one's own training
                get = "Train one there, or leave use_latest_checkpoints out."
            raise AssetError(f"There is no {kind} checkpoint{whose} under {root / 'results'}.", fix=get)
        checkpoint_form(path)
        checkpoints.append(path)
    return SuitePaths(dataset, *checkpoints)


def dataset_path(chosen: World, root: Path = ROOT) -> Path:
    """Where a world's h5 belongs; another repository's that holds none is played with the usual one."""
    if chosen.embedded:
        return embedded_path(chosen, "dataset")
    own = fetched_dataset_path(chosen, root)
    return dataset_path(world(chosen.suite, root), root) if chosen.origin and not own.is_file() else own


def embedded_path(chosen: World, part: str, root: Path = ROOT) -> Path:
    """Where a part of an embedded world lies in the repository at ``root``."""
    name = chosen.dataset_file if part == "dataset" else f"{chosen.name}_{part}.pth"
    return root / "helpers" / "demo" / chosen.name / name


def fetched_dataset_path(chosen: World, root: Path = ROOT) -> Path:
    """Where the h5 of a world's own repository is fetched to."""
    return root / "data" / (chosen.name if chosen.origin else "") / chosen.dataset_file


def latest_checkpoint(kind: str, root: Path = ROOT, suite: str | None = None) -> Path | None:
    """The latest checkpoint of a kind under ``root/results``: newest run directory, then highest step.

    Only those published as ``suite`` (a world's name, with its origin); without one any, by any alias, the
    user's own training included.
    """
    results, ages = root / "results", {}
    for path in results.glob("**/checkpoints/**/*_step_*"):
        run, step = results / path.relative_to(results).parts[0], step_in_name(path.name, kind)
        base, folder = (suite or "").partition("@")[0], run.name.lower().partition("@")[0]
        named_so = path.parent.name.lower() == base or folder.endswith(f"_{base}")
        of_suite = suite is None or (named_so and same_origin(run.name, suite))
        weights = path if path.suffix == ".pth" else path / _WEIGHTS_IN_DIRECTORY
        if step is not None and of_suite and weights.is_file():
            named = RUN_TIME.search(run.name)
            began = named[0] if named else time.strftime("%Y%m%d_%H%M%S", time.localtime(run.stat().st_mtime))
            ages[path] = began, step, path.name
    return max(ages, key=ages.__getitem__, default=None)


def same_origin(run: str, name: str) -> bool:
    """Whether a folder of ``results/`` holds files of the repository that a world's name says."""
    return run.lower().partition("@")[2] == name.lower().partition("@")[2]


def step_in_name(name: str, kind: str) -> int | None:
    """The training step in a checkpoint's name; None if the name is not of this kind."""
    match = _CHECKPOINT[kind].search(name.removesuffix(".pth"))
    return int(match[1]) if match else None


def checkpoint_form(path: Path) -> Literal["file", "directory"]:
    """Which of the two checkpoint forms ``path`` has; an `AssetError` if neither."""
    if path.is_file():
        return "file"
    if (path / _WEIGHTS_IN_DIRECTORY).is_file():
        return "directory"
    if path.is_dir():
        what = f"{path} is a folder without {_WEIGHTS_IN_DIRECTORY}, so it is no checkpoint."
        raise AssetError(what, fix="Give the folder named <kind>_step_<n>, or a .pth file.")
    raise AssetError(f"There is no checkpoint at {path}.", fix="Check the path, or run 04_assets.")


def weights_file(path: Path) -> Path:
    """The file with a part's content: the h5 or .pth itself, or the weights in a checkpoint directory."""
    return path if checkpoint_form(path) == "file" else path / _WEIGHTS_IN_DIRECTORY
