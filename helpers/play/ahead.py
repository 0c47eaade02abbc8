"""What a run refuses before anything starts: a device, a file, a clip or an action that is not there.

Every check is one that play makes itself, seconds later and with the models at hand; here none needs torch,
but for the actions of a world that is not embedded.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

from helpers.assets.dataset import FrameDataset, longest_clip
from helpers.assets.find import checkpoint_form, find_suite
from helpers.errors import ActionError, DeviceError
from helpers.files import expanded
from helpers.play.settings import Settings, names
from helpers.run_folder import ROOT
from helpers.worlds import world


def check(settings: Settings, root: Path = ROOT, fetches: bool = False) -> None:
    """Raise the `RunbookError` with which play would end.

    ``fetches`` says that the world's files are looked for, and fetched, before it is played. What a session
    that is replayed asks for is in its file, and not looked at.
    """
    check_device(settings.device)
    chosen = world(settings.dataset)
    given = {name: getattr(settings, name) for name in names("place") if name.endswith("_path")}
    for path in filter(None, given.values()):
        checkpoint_form(root / expanded(path))
    if fetches and not chosen.embedded:
        return
    paths = find_suite(chosen.name, root, **given, use_latest_checkpoints=settings.use_latest_checkpoints)
    if settings.replay:
        return
    with FrameDataset(paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        length = longest_clip(data, settings.start, *settings.clip_lengths)
        if settings.start >= 0:
            data.check_clip(settings.start, length)
    if settings.actions:
        own = chosen.embedded and not (settings.latent_actions_path or settings.use_latest_checkpoints)
        count = len(chosen.true_actions) if own else _count_actions(paths.latent_actions)
        for action in settings.actions:
            if not 0 <= action < count:
                raise ActionError.unknown(action, count)


def check_device(device: str) -> None:
    """Raise a `DeviceError` where the installed torch, by its own file of versions, has no such device."""
    found = importlib.util.find_spec("torch")
    torch = runpy.run_path(str(Path(found.origin).with_name("version.py"))) if found and found.origin else {}
    without_cuda = device.startswith("cuda") and torch and not (torch["cuda"] or torch.get("hip"))
    if without_cuda or (device == "mps" and sys.platform != "darwin"):
        raise DeviceError.missing(device, torch.get("__version__", ""), torch.get("cuda"))


def _count_actions(checkpoint: Path) -> int:
    from helpers.worldmodel.checkpoint import read_checkpoint

    # A head with an output for each bit of an id; only a latent action model has one.
    return 2 ** len(read_checkpoint(checkpoint, "latent_actions").weights["encoder.action_head.3.weight"])
