"""The published project's half of `peer`: run as a program by a Python that has that project's dependencies.

It imports nothing of ours, and calls what the project's own inference script calls: its three loaders,
``tokenize``, ``forward_inference`` and ``detokenize``.
"""

import importlib
import json
import sys
import time
from pathlib import Path

LOADERS = {
    "video_tokenizer": "load_videotokenizer_from_checkpoint",
    "latent_actions": "load_latent_actions_from_checkpoint",
    "dynamics": "load_dynamics_from_checkpoint",
}


def serve(checkout: str, folder: Path, threads: int) -> None:
    """Answer requests ``[steps, temperature]``, one a line, with a frame's seconds and tokens."""
    sys.path[0] = checkout  # in place of this file's own folder, whose modules are none of its business
    import torch

    torch.set_num_threads(threads)
    loaders = importlib.import_module("utils.utils")
    loaded = [getattr(loaders, name)(str(folder / kind), "cpu") for kind, name in LOADERS.items()]
    models = [(model[0] if isinstance(model, tuple) else model).eval() for model in loaded]
    tokenizer, actions, dynamics = models
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    to_latents = tokenizer.quantizer.get_latents_from_indices
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        steps, temperature = json.loads(line)
        torch.manual_seed(0)
        began, cpu_began = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            latents = dynamics.forward_inference(
                context_latents=to_latents(tokenizer.tokenize(inputs["window"])),
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
