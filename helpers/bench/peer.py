"""The published project beside ours: a checkout of it, timed as a black box in a process of its own.

Two halves that share no import. `Peer` is ours: it writes a suite's weights as the checkpoints that project
saves, starts the other half and asks it for one frame at a time. The other half, `serve`, is this file run as
a program by a Python that has the project's own dependencies; it calls the entry points that the project's
own inference script calls: its three loaders, ``tokenize``, ``forward_inference`` and ``detokenize``.
"""

import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.worldmodel import Suite

LOADERS = {
    "video_tokenizer": "load_videotokenizer_from_checkpoint",
    "latent_actions": "load_latent_actions_from_checkpoint",
    "dynamics": "load_dynamics_from_checkpoint",
}


class Peer:
    """A checkout of the published project, playing the same suite from the same window.

    Args:
        checkout: Its folder.
        python: A Python with its dependencies.
        suite: The models whose weights it is given; its FFN width must be floor(2/3 of a whole number).
        window: The frames seen, float ``[1, Tc, 3, H, W]``.
        actions: Action ids int64 ``[1, Tc]``.
        threads: Of its torch.

    Raises:
        ParameterError: The checkout or its Python cannot do it; the message holds what it said.
    """

    def __init__(
        self,
        checkout: Path,
        python: str,
        suite: "Suite",
        window: "Tensor",
        actions: "Tensor",
        threads: int,
    ) -> None:
        import torch

        from helpers.errors import ParameterError

        self._error = ParameterError
        if not (checkout / "utils" / "utils.py").is_file() or not (checkout / "models").is_dir():
            raise ParameterError(
                f"{checkout} is no checkout of the published project: it has no utils/utils.py and models/.",
                fix="Give the folder that `git clone https://github.com/AlmondGod/tinyworlds` made.",
            )
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        for kind in LOADERS:
            model = getattr(suite, kind)
            state = {name: value.cpu() for name, value in model.state_dict().items()}
            (folder / kind).mkdir()
            torch.save(state, folder / kind / "model_state_dict.pt")
            torch.save({"config": config(suite, kind), "step": 0}, folder / kind / "state.pt")
        torch.save({"window": window.cpu(), "actions": actions.cpu()}, folder / "inputs.pt")
        self._process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), str(checkout.resolve()), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self.torch: str = self._answer()["torch"]

    def step(self, steps: int, temperature: float) -> tuple[float, float, "Tensor"]:
        """Generate the frame; returns the seconds and CPU seconds it took, its tokens int64 ``[1, 1, P]``."""
        import torch

        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([steps, temperature]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["cpu"], torch.tensor(answer["tokens"])

    def close(self) -> None:
        """End the other process and remove its files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        """The next line that is an answer; what else the project prints is kept for the message."""
        assert self._process.stdout is not None
        said: list[str] = []
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
            said.append(line.rstrip())
        self._process.wait()
        self._folder.cleanup()
        raise self._error(
            "The published project could not be run: " + (" / ".join(said[-3:]) or "it said nothing") + ".",
            fix="Give a checkout with the entry points this file names, and with --peer-python a Python "
            "that has its dependencies and torch.",
        )


def config(suite: "Suite", kind: str) -> dict[str, Any]:
    """A model's configuration under the published names."""
    own = getattr(suite, kind).config
    settings = {
        "frame_size": own.frame_size,
        "patch_size": own.patch_size,
        "embed_dim": own.embed_dim,
        "num_heads": own.num_heads,
        "hidden_dim": -(-own.ffn_width * 3 // 2),
        "num_blocks": own.num_blocks,
        "latent_dim": own.latent_dim,
        "num_bins": own.num_bins,
        "n_actions": suite.n_actions,
    }
    if kind == "dynamics":
        settings["conditioning_dim"] = own.action_dim
    return settings


def serve(checkout: str, folder: Path, threads: int) -> None:
    """Answer requests ``[steps, temperature]``, one a line, with a frame's seconds and tokens."""
    sys.path[0] = checkout  # in place of this file's own folder, whose modules are none of its business
    import torch

    torch.set_num_threads(threads)
    loaders = importlib.import_module("utils.utils")
    models = {}
    for kind, name in LOADERS.items():
        loaded = getattr(loaders, name)(str(folder / kind), "cpu")
        models[kind] = (loaded[0] if isinstance(loaded, tuple) else loaded).eval()
    tokenizer, actions, dynamics = (models[kind] for kind in LOADERS)
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    to_latents = tokenizer.quantizer.get_latents_from_indices
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        steps, temperature = json.loads(line)
        torch.manual_seed(0)
        began, cpu_began = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            context = to_latents(tokenizer.tokenize(inputs["window"]))
            latents = dynamics.forward_inference(
                context_latents=context,
                prediction_horizon=1,
                num_steps=steps,
                index_to_latents_fn=lambda index: to_latents(index, dim=-1),
                conditioning=actions.quantizer.get_latents_from_indices(inputs["actions"]),
                temperature=temperature,
            )
            tokenizer.detokenize(latents)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        tokens = tokenizer.quantizer.get_indices_from_latents(latents[:, -1:], dim=-1)
        print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens.tolist()}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
