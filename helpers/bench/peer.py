"""The published project beside ours: a checkout of it, timed as a black box in a process of its own.

`Peer` writes a suite's weights as the checkpoints that project saves, starts `published` and asks it for one
frame at a time.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.bench import published
from helpers.commands import JsonProgram
from helpers.errors import ParameterError
from helpers.worldmodel import Suite


class Peer:
    """A checkout of the published project, run by ``python``, playing the same suite from the same window.

    Frames seen are float ``[1, Tc, 3, H, W]``, action ids int64 ``[1, Tc]``; ``threads`` are its torch's. The
    suite's FFN width must be floor(2/3 of a whole number). Raises a `ParameterError`, with what it printed,
    where the checkout or its Python cannot do it.
    """

    def __init__(
        self, checkout: Path, python: str, suite: Suite, window: Tensor, actions: Tensor, threads: int
    ) -> None:
        if not (checkout / "utils" / "utils.py").is_file() or not (checkout / "models").is_dir():
            what = (
                f"{checkout} is no checkout of the published project: it has no utils/utils.py and models/."
            )
            fix = "Give the folder that `git clone https://github.com/AlmondGod/tinyworlds` made."
            raise ParameterError(what, fix=fix)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        for kind in published.LOADERS:
            (folder / kind).mkdir()
            weights = {name: value.cpu() for name, value in getattr(suite, kind).state_dict().items()}
            torch.save(weights, folder / kind / "model_state_dict.pt")
            torch.save({"config": config(suite, kind), "step": 0}, folder / kind / "state.pt")
        torch.save({"window": window.cpu(), "actions": actions.cpu()}, folder / "inputs.pt")
        arguments = Path(published.__file__).resolve(), checkout.resolve(), folder, threads
        self._program = JsonProgram([python, *map(str, arguments)])
        self.torch: str = self._check(self._program.answer())["torch"]

    def step(self, steps: int, temperature: float) -> tuple[float, float, Tensor]:
        """Generate the frame; returns the seconds and CPU seconds it took, its tokens int64 ``[1, 1, P]``."""
        answer = self._check(self._program.ask([steps, temperature]))
        return answer["seconds"], answer["cpu"], torch.tensor(answer["tokens"])

    def close(self) -> None:
        """End the other process and remove its files."""
        self._program.close(timeout=30)
        self._folder.cleanup()

    def _check(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer, or what the project printed instead as an error."""
        if answer:
            return answer
        end = " / ".join(self._program.last_lines(3)) or "it printed nothing"
        self._folder.cleanup()
        fix = "Give a checkout with the entry points that helpers/bench/published.py names, and with "
        fix += "--peer-python a Python that has its dependencies and torch."
        raise ParameterError(f"The published project could not be run: {end}.", fix=fix)


def config(suite: Suite, kind: str) -> dict[str, Any]:
    """A model's configuration under the published names."""
    own = getattr(suite, kind).config
    alike = ("frame_size", "patch_size", "embed_dim", "num_heads", "num_blocks", "latent_dim", "num_bins")
    settings = {name: getattr(own, name) for name in alike}
    settings |= {"hidden_dim": -(-own.ffn_width * 3 // 2), "n_actions": suite.n_actions}
    return settings | ({"conditioning_dim": own.action_dim} if kind == "dynamics" else {})
