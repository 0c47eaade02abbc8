"""Train the dynamics model: ``python -m helpers.train.crafter_dynamics train.npz runs/first --steps 20000``.

The folder holds ``state.pt`` (weights, their running average, optimisers, step), ``log.jsonl`` and the
averaged weights as ``crafter_dynamics.pth``. The same command goes on from the last state, with the weights
that an undisturbed training would have. With more ``--steps`` a finished training goes on from ``stable.pt``,
the state before its learning rate began to fall.

Needs no tokenizer: the tokens are the recording's own (`crafter_tiles`), and the tokenizer is trained to find
the same ones.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.errors import ParameterError
from helpers.train.crafter_checkpoint import Average, export, read_state, save_atomically
from helpers.train.crafter_data import ACTION_BITS, Batch, Batches, Noise, bits_of, latents_of, read_recording
from helpers.train.crafter_initial import start_from_neighbours
from helpers.train.crafter_tiles import GRID, MAP_PATCHES, TILE, TOKEN_BITS
from helpers.training.parallel import hidden
from helpers.worldmodel.models import Dynamics, ModelConfig


@dataclass(frozen=True)
class Plan:
    """A training's settings; all but ``steps`` and ``decay_steps`` stay the same when it goes on.

    Args:
        steps: Steps in all.
        decay_steps: The last so many steps, over which the learning rate falls to zero.
        batch: Clips a step.
        context: Context frames of a clip: the longest context window the model can be played with.
        embed_dim: E.
        heads: Attention heads.
        ffn_width: F.
        blocks: Number of blocks.
        learning_rate: At its peak.
        noise_clips: Share of clips with spoiled context.
        noise_rate: The largest share of tiles spoiled in one.
        whole: Share of clips masked whole.
        thrown: Share of clips whose context shows its dice.
        temperature: At which the world will be played: tiles that chance decides then have the game's shares,
            and all others are surer than the model is at temperature 1.
        effects: Share of clips in which do, place or craft has an effect.
        seed: Of weights and batches.
        muon: Use Muon for the blocks' matrices, else AdamW for all.
        half: Matrix products in bfloat16.
        neighbours: Start with attention at the neighbours of each tile.
    """

    steps: int = 20_000
    decay_steps: int = 3000
    batch: int = 24
    context: int = 1
    embed_dim: int = 128
    heads: int = 4
    ffn_width: int = 192
    blocks: int = 4
    learning_rate: float = 2e-3
    noise_clips: float = 0.25
    noise_rate: float = 0.04
    whole: float = 0.85
    thrown: float = 0.8
    temperature: float = 0.5
    effects: float = 0.4
    seed: int = 0
    muon: bool = True
    half: bool = True
    neighbours: bool = True

    def config(self) -> ModelConfig:
        """The model's configuration."""
        return ModelConfig(
            frame_size=GRID * TILE,
            patch_size=TILE,
            embed_dim=self.embed_dim,
            num_heads=self.heads,
            ffn_width=self.ffn_width,
            num_blocks=self.blocks,
            latent_dim=TOKEN_BITS,
            num_bins=2,
            action_dim=ACTION_BITS,
        )

    def rate(self, step: int) -> float:
        """The learning rate at ``step``: warm-up, constant, then linearly to zero."""
        left = (self.steps - step) / max(1, self.decay_steps)
        return self.learning_rate * min(1.0, (step + 1) / 200, max(left, 0.0))


def new_model(plan: Plan) -> Dynamics:
    """A model with random weights; the eight bits of a token start as loud as its place."""
    torch.manual_seed(plan.seed)
    model = Dynamics(plan.config())
    with torch.no_grad():
        model.latent_embed.weight.mul_(3)
    if plan.neighbours:
        start_from_neighbours(model)
    return model


def optimizers(model: Dynamics, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "blocks" in name and "to_gamma_beta" not in name
        (inner if matrix and plan.muon else outer).append(parameter)
    adam = torch.optim.AdamW(outer, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    if not inner:
        return [adam]
    return [
        torch.optim.Muon(inner, lr=plan.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        adam,
    ]


def logits_of(model: Dynamics, batch: Batch, half: bool) -> Tensor:
    """Logits of the masked target tokens, float ``[masked, 256]``."""
    shown = latents_of(batch.target)
    seen = torch.where(batch.masked.unsqueeze(-1), model.mask_token, shown)
    found = hidden(model, latents_of(batch.context), seen, bits_of(batch.actions, ACTION_BITS), half)
    return F.linear(found[batch.masked], model.output_mlp.weight, model.output_mlp.bias)


class Training:
    """A dynamics training that can be killed at any moment.

    Args:
        plan: Its settings.
        folder: Where its files are.
        batches: Where its clips come from.
        held_out: Batches never trained on; None measures nothing.
    """

    def __init__(self, plan: Plan, folder: Path, batches: Batches, held_out: Batches | None = None) -> None:
        self.plan, self.folder, self.batches, self.held_out = plan, folder, batches, held_out
        self.model = new_model(plan)
        self.optimizers = optimizers(self.model, plan)
        self.average = Average(self.model)
        self.step = 0
        self.shown: dict[str, float] = {}
        self._restore()

    def _restore(self) -> None:
        """Go on from the last state; from the one before the decay, if that was of a shorter training."""
        state = read_state(self.folder / "state.pt")
        if state and state["plan"]["steps"] != self.plan.steps:
            before = state["plan"]["steps"] - state["plan"]["decay_steps"]
            state = state if state["step"] <= before else read_state(self.folder / "stable.pt")
        if state is None:
            return
        shape = asdict(self.plan.config())
        if state["shape"] != shape:
            raise ParameterError(
                f"{self.folder} holds a model of another shape: {state['shape']}.", fix="Use another folder."
            )
        self.load(state)

    def load(self, state: dict[str, Any]) -> None:
        """Take over weights, average, optimisers and step."""
        self.model.load_state_dict(state["model"])
        self.average.weights = state["average"]
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step = state["step"]

    def save(self, name: str = "state.pt") -> None:
        """Write the state, and the averaged weights as a checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "plan": asdict(self.plan),
            "shape": asdict(self.plan.config()),
        }
        save_atomically(state, self.folder / name)
        export(self.folder / "crafter_dynamics.pth", self.average.weights, self.plan.config(), self.step)

    def learn(self) -> None:
        """One step."""
        batch = self.batches.draw(self.step)
        found = logits_of(self.model, batch, self.plan.half)
        wanted = batch.target[batch.masked]
        loss = F.cross_entropy(self._played(found, batch), wanted)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate(self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.average.update(self.model, self.step)
        with torch.no_grad():
            before = batch.context[batch.masked]
            right = (found.argmax(-1) == wanted).float()
            changed = wanted != before
            self._note(loss=loss.item(), right=right.mean().item(), changed=right[changed].mean().item())

    def _played(self, found: Tensor, batch: Batch) -> Tensor:
        """Logits of masked tokens ``[masked, 256]``, warmed where chance decides, as they will be played."""
        warmth = torch.where(batch.chance[batch.masked], 1 / self.plan.temperature, 1.0)
        return found * warmth.unsqueeze(-1)

    def _note(self, **numbers: float) -> None:
        for name, value in numbers.items():
            self.shown[name] = value + 0.98 * (self.shown.get(name, value) - value)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The averaged weights on held-out frames masked whole: cross-entropy, and shares of tiles right."""
        assert self.held_out is not None
        model = Dynamics(self.plan.config())
        model.load_state_dict(self.average.weights)
        sums: dict[str, float] = {}
        batches = 8
        for number in range(batches):
            batch = self.held_out.draw(number)
            found = logits_of(model, batch, self.plan.half)
            wanted, before = batch.target[batch.masked], batch.context[batch.masked]
            view = batch.masked.nonzero()[:, 2] < MAP_PATCHES
            right = (found.argmax(-1) == wanted).float()
            drawn = (found / self.plan.temperature).softmax(-1).gather(-1, wanted[:, None])[:, 0]
            chance = batch.chance[batch.masked]
            for name, value in {
                "loss": F.cross_entropy(self._played(found, batch), wanted),
                "view": right[view].mean(),
                "changed": right[wanted != before].mean(),
                "drawn_view": drawn[view].mean(),
                "drawn_certain": drawn[view & ~chance].mean(),
            }.items():
                sums[f"held_{name}"] = sums.get(f"held_{name}", 0.0) + value.item() / batches
        return sums

    def log(self, **numbers: float) -> None:
        """One line of progress, shown and kept."""
        line = {"step": self.step, "cpu_seconds": round(time.process_time()), **numbers}
        text = json.dumps({name: round(value, 5) for name, value in line.items()})
        print(text, flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def run(self, save_seconds: float = 120, stop: Callable[[], bool] = lambda: False) -> None:
        """Learn until the plan's last step, saving now and then; ``stop`` may end it early, saved."""
        saved = time.monotonic()
        stable = self.plan.steps - self.plan.decay_steps
        while self.step < self.plan.steps and not stop():
            self.learn()
            if self.step == stable:
                self.save("stable.pt")
            if self.step % 50 == 0:
                self.log(**self.shown)
            if time.monotonic() - saved > save_seconds:
                self.save()
                saved = time.monotonic()
                if self.held_out is not None:
                    self.log(**self.measure())
        self.save()
        if self.held_out is not None:
            self.log(**self.measure())


def read_plan() -> tuple[Plan, argparse.Namespace]:
    """The plan and the other arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", type=Path, nargs="+", help="recordings, then the training's folder")
    parser.add_argument("--held-out", type=Path, help="a recording to measure on while training")
    parser.add_argument("--save-seconds", type=float, default=120)
    for name, value in asdict(Plan()).items():
        kind = (lambda text: text in ("1", "true", "True")) if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    options = parser.parse_args()
    return Plan(**{name: getattr(options, name) for name in asdict(Plan())}), options


def main() -> None:
    """Train what the arguments ask for."""
    plan, options = read_plan()
    *recordings, folder = options.recordings
    if not recordings:
        raise ParameterError("No recording was given.", fix="Name a recording, then the folder.")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    batches = Batches(
        read_recording(*recordings),
        plan.seed,
        plan.batch,
        plan.context,
        Noise(plan.noise_clips, plan.noise_rate),
        plan.whole,
        plan.thrown,
        plan.effects,
    )
    held_out = None
    if options.held_out:
        held_out = Batches(
            read_recording(options.held_out), 1, 64, plan.context, Noise(0.0, 0.0), 1.0, 0.0, None
        )
    Training(plan, folder, batches, held_out).run(options.save_seconds)


if __name__ == "__main__":
    main()
