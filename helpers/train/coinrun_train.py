"""Train the embedded world's three models on clips recorded by `record.py`.

    python -m helpers.train.coinrun_train video_tokenizer train.h5 weights --steps 5000
    python -m helpers.train.coinrun_train latent_actions train.h5 weights --steps 4000
    python -m helpers.train.coinrun_train dynamics train.h5 weights --minutes 58 --bf16

The first two do not depend on each other; the dynamics model needs the tokenizer. Checkpoints are written
in the published single-file form, weights only. Where the training departs from the published one:

- the latent action model is told the true actions: each bit of its code is one key;
- the dynamics model is conditioned on the true actions and trained as it is decoded: an intact (but slightly
  corrupted) context, and one frame behind it masked in part or whole.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.worldmodel.checkpoint import Kind, build_model, read_checkpoint
from helpers.worldmodel.layers import slice_films
from helpers.worldmodel.models import Dynamics, LatentActions, ModelConfig, VideoTokenizer

CLIP = 5  # frames: a context window of up to four, and the frame behind it
ACTION_DIM = 3  # left, right, jump
CONFIGS: dict[Kind, ModelConfig] = {
    "video_tokenizer": ModelConfig(64, 4, 64, 4, 85, 2, latent_dim=6, num_bins=4),
    "latent_actions": ModelConfig(64, 4, 64, 4, 85, 2, action_dim=ACTION_DIM),
    "dynamics": ModelConfig(64, 4, 96, 4, 128, 3, latent_dim=6, num_bins=4, action_dim=ACTION_DIM),
}
# A frame differs from the one before by at least this much on average, of 255, where something moves.
MOVING = 1.0


class Clips:
    """Clips of five frames within one episode, mostly of those in which something moves.

    Args:
        path: An h5 that `record.py` wrote.
        seed: Of the drawing.
        coins: Share of clips drawn from those that show a coin, which few do.
    """

    def __init__(self, path: Path, seed: int, coins: float = 0.0) -> None:
        with h5py.File(path, "r") as file:
            self.frames: np.ndarray = file["frames"][:]
            self.actions: np.ndarray = file["actions"][:]
            episodes: np.ndarray = file["episodes"][:]
        self.rng = np.random.default_rng(seed)
        whole = episodes[CLIP - 1 :] == episodes[: -CLIP + 1]
        moves = np.array(
            [
                np.abs(a.astype(np.int16) - b).mean() > MOVING
                for a, b in zip(self.frames[1:, ::4, ::4], self.frames[:-1, ::4, ::4], strict=True)
            ]
        )
        moving = np.convolve(moves, np.ones(CLIP - 1), "valid") >= CLIP - 2
        # One clip in ten of the still ones stays in: standing still is something to learn, too.
        kept = whole & (moving | (self.rng.random(len(whole)) < 0.1))
        self.starts = np.flatnonzero(kept)
        if coins:
            golden = (self.frames[..., 0] > 200) & (self.frames[..., 1] > 150) & (self.frames[..., 2] < 90)
            shown = self.starts[golden.sum((1, 2))[self.starts + CLIP - 1] >= 4]
            extra = self.rng.choice(shown, int(coins / (1 - coins) * len(self.starts)))
            self.starts = np.concatenate((self.starts, extra))

    def batch(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames float ``[B, T, 3, 64, 64]`` in [-1, 1] and the actions between, bits ``[B, T-1, A]``."""
        rows = starts[:, None] + np.arange(CLIP)
        frames = torch.from_numpy(self.frames[rows]).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        ids = torch.from_numpy(self.actions[rows[:, :-1]]).long()
        bits = (ids.unsqueeze(-1) >> torch.arange(ACTION_DIM)) & 1
        return frames, bits.float()

    def shuffled(self, size: int) -> Iterator[np.ndarray]:
        """Starting rows, ``size`` at a time, without end; every clip once before any comes again."""
        while True:
            order = self.rng.permutation(self.starts)
            yield from (order[i : i + size] for i in range(0, len(order) - size + 1, size))


class Trainer:
    """AdamW with warm-up and cosine decay, gradient clipping, and a line of progress now and then.

    Args:
        model: What to train.
        steps: Steps to take.
        learning_rate: At its peak.
        minutes: If given, time ends the training instead of ``steps``, and the schedule follows the clock.
    """

    def __init__(
        self, model: nn.Module, steps: int, learning_rate: float, minutes: float | None = None
    ) -> None:
        self.model, self.steps, self.minutes, self.done = model, steps, minutes, 0
        self.started = time.perf_counter()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / 200, 0.5 * (1 + math.cos(math.pi * min(self.progress, 1))) + 0.01),
        )
        self.averages: dict[str, float] = {}

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return self.seconds / (60 * self.minutes) if self.minutes else self.done / self.steps

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def update(self, loss: Tensor, **shown: float) -> None:
        """One optimiser step; ``shown`` numbers are averaged into the progress line."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        for name, value in {"loss": loss.item(), **shown}.items():
            self.averages[name] = value + 0.98 * (self.averages.get(name, value) - value)
        if self.done % 50 == 0 or self.progress >= 1:
            numbers = " ".join(f"{name} {value:.4f}" for name, value in self.averages.items())
            print(f"step {self.done} ({self.progress:.0%}) {self.seconds:.0f}s {numbers}", flush=True)


def fit(trainer: Trainer, clips: Clips, batch: int, learn: Callable[[np.ndarray], None]) -> None:
    """Call ``learn`` on batch after batch until the trainer is through; Ctrl+C keeps what was learned."""
    try:
        for starts in clips.shuffled(batch):
            learn(starts)
            if trainer.progress >= 1:
                return
    except KeyboardInterrupt:
        print(f"stopped at {trainer.progress:.0%}", flush=True)


def train_tokenizer(
    clips: Clips, steps: int, batch: int, minutes: float | None
) -> tuple[VideoTokenizer, Trainer]:
    """Reconstruct clips, pixel by pixel.

    Most steps see two frames a clip: the model learns from the number of steps more than from their size.
    The last third sees whole clips, so that every place in the window is learned.
    """
    model = VideoTokenizer(CONFIGS["video_tokenizer"])
    trainer = Trainer(model, steps, 3e-3, minutes)

    def learn(starts: np.ndarray) -> None:
        frames, _ = clips.batch(starts)
        frames = frames[:, :2] if trainer.progress < 2 / 3 else frames[:batch]
        reconstruction = model(frames).float()
        trainer.update(F.mse_loss(reconstruction, frames), psnr=decibels(reconstruction.detach(), frames))

    fit(trainer, clips, 2 * batch, learn)
    return model, trainer


def decibels(reconstruction: Tensor, frames: Tensor) -> float:
    """PSNR of frames in [-1, 1], clamped as they are shown."""
    return 10 * math.log10(4 / F.mse_loss(reconstruction.clamp(-1, 1), frames).item())


def train_latent_actions(
    clips: Clips, steps: int, batch: int, minutes: float | None
) -> tuple[LatentActions, Trainer]:
    """Tell the true actions from the frames around them: from two frames at first, then from whole clips."""
    model = LatentActions(CONFIGS["latent_actions"])
    with torch.no_grad():
        # Motion shows in pixels; at the usual scale the positions drown them and nothing is learned for long.
        model.encoder.patch_embed.proj.weight.mul_(4)
    trainer = Trainer(model, steps, 1.2e-3, minutes)

    def learn(starts: np.ndarray) -> None:
        frames, bits = clips.batch(starts)
        if trainer.progress < 1 / 2:
            frames, bits = frames[:, :2], bits[:, :1]
        else:
            frames, bits = frames[:batch], bits[:batch]
        values = model.encoder(frames).float()  # [B, T-1, A]
        # D = 2 levels: a bit is the sign of its value x, and sigmoid(2x) = (tanh(x)+1)/2 its probability.
        loss = F.binary_cross_entropy_with_logits(2 * values, bits)
        if trainer.done % 4 == 0:
            # The decoder only shows what a code means; the encoder learns from the true actions alone.
            predicted = model.decoder(frames, bits * 2 - 1, masked=True).float()
            loss = loss + F.smooth_l1_loss(predicted, frames[:, 1:])
        right = ((values > 0) == (bits > 0)).float().mean().item()
        trainer.update(loss, bits_right=right)

    fit(trainer, clips, 4 * batch, learn)
    return model, trainer


def train_dynamics(
    clips: Clips,
    tokenizer: VideoTokenizer,
    steps: int,
    batch: int,
    minutes: float | None,
    start: Dynamics | None = None,
) -> tuple[Dynamics, Trainer]:
    """Predict the masked tokens of a frame from the rest of it, the frames before, and the true actions.

    A model to ``start`` from goes on at half the learning rate.
    """
    model = start or Dynamics(CONFIGS["dynamics"])
    if start is None:
        with torch.no_grad():
            # As above: tokens, too, are drowned by positions at the usual scale.
            model.latent_embed.weight.mul_(4)
    model.train().requires_grad_(True)
    trainer = Trainer(model, steps, 1e-3 if start else 2e-3, minutes)

    def learn(starts: np.ndarray) -> None:
        frames, bits = clips.batch(starts)
        with torch.no_grad():
            tokens = tokenizer.tokenize(frames)  # [B, T, P]
        loss, right = dynamics_loss(model, tokenizer, tokens, blur_dead_actions(bits) * 2 - 1)
        trainer.update(loss, token_accuracy=right)

    fit(trainer, clips, batch, learn)
    return model, trainer


def blur_dead_actions(bits: Tensor) -> Tensor:
    """Left and right together are never recorded; taught as neither, they stay playable. ``[B, T-1, A]``."""
    neither = (bits[..., :2].sum(-1, keepdim=True) == 0) & (torch.rand(*bits.shape[:-1], 1) < 0.15)
    both = torch.tensor([1.0, 1.0, 0.0])
    return torch.where(neither, torch.maximum(bits, both), bits)


def dynamics_loss(
    model: Dynamics, tokenizer: VideoTokenizer, tokens: Tensor, actions: Tensor
) -> tuple[Tensor, float]:
    """Cross-entropy on masked tokens of every frame but the first, each behind the intact frames before it.

    Args:
        model: What is trained.
        tokenizer: Whose tokens these are.
        tokens: ``[B, T, P]``.
        actions: Action latents ``[B, T-1, A]``.

    Returns:
        The loss and the share of masked tokens guessed right.
    """
    batch, time_, patches = tokens.shape
    films = model.films(actions, time_)
    # A rollout's context holds the model's own mistakes; some here make it forgiving.
    context = tokenizer.quantizer.indices_to_latents(corrupt(tokens, model, 0.08 * torch.rand(batch, 1, 1)))
    _, past = model.hidden(context, films)
    ratio = torch.rand(batch, time_ - 1, 1) * 0.9 + 0.3  # a third of the frames are masked whole
    masked = torch.rand(batch, time_ - 1, patches) < ratio  # [B, T-1, P]
    targets = tokens[:, 1:]
    seen = tokenizer.quantizer.indices_to_latents(corrupt(targets, model, torch.tensor(0.03)))
    seen = torch.where(masked.unsqueeze(-1), model.mask_token, seen)
    hidden = torch.cat(
        [
            model.hidden(
                seen[:, t - 1 : t], slice_films(films, t, t + 1), [block.first(t) for block in past]
            )[0]
            for t in range(1, time_)
        ],
        1,
    )  # [B, T-1, P, E]
    logits = model.output_mlp(hidden[masked]).float()  # [masked, K]
    wanted = targets[masked]
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean().item()


def corrupt(tokens: Tensor, model: Dynamics, rate: Tensor) -> Tensor:
    """Replace a share ``rate`` of tokens by random ones."""
    config = model.config
    noise = torch.randint_like(tokens, config.num_bins**config.latent_dim)
    return torch.where(torch.rand(tokens.shape) < rate, noise, tokens)


def save(model: nn.Module, config: ModelConfig, trainer: Trainer, path: Path) -> None:
    """Write the published single-file form, without the optimiser's state."""
    published = asdict(config) | {
        "hidden_dim": math.ceil(config.ffn_width * 3 / 2),
        "n_actions": 2**ACTION_DIM,
        "dataset": "DEMO",
    }
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "config": published,
            "step": trainer.done,
            "timestamp": time.strftime("%Y_%m_%d_%H_%M_%S"),
        },
        path,
    )
    record = {
        "steps": trainer.done,
        "seconds": round(trainer.seconds),
        "threads": torch.get_num_threads(),
    } | {name: round(value, 4) for name, value in trainer.averages.items()}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, kind: Kind) -> nn.Module:
    """The model of this kind that was trained before."""
    checkpoint = read_checkpoint(folder / f"coinrun_{kind}.pth", kind)
    return build_model(checkpoint, CONFIGS[kind].frame_size, torch.device("cpu"))


def main() -> None:
    """Train one model and write its checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=CONFIGS)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="train for this long, however many steps that is")
    parser.add_argument("--batch", type=int, default=4, help="clips of five frames")
    parser.add_argument("--coins", type=float, default=0.0, help="share of clips that must show a coin")
    parser.add_argument("--go-on", action="store_true", help="dynamics: start from the checkpoint in OUT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU has bfloat16 instructions")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    clips = Clips(options.data, options.seed, options.coins)
    print(f"{len(clips.starts)} clips", flush=True)
    model: nn.Module
    # The cache would keep the weights of the first step for the whole training.
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16, cache_enabled=False):
        if options.kind == "video_tokenizer":
            model, trainer = train_tokenizer(clips, options.steps, options.batch, options.minutes)
        elif options.kind == "latent_actions":
            model, trainer = train_latent_actions(clips, options.steps, options.batch, options.minutes)
        else:
            tokenizer = load(options.out, "video_tokenizer")
            start = load(options.out, "dynamics") if options.go_on else None
            assert isinstance(tokenizer, VideoTokenizer) and (start is None or isinstance(start, Dynamics))
            model, trainer = train_dynamics(
                clips, tokenizer, options.steps, options.batch, options.minutes, start
            )
    save(model, CONFIGS[options.kind], trainer, options.out / f"coinrun_{options.kind}.pth")


if __name__ == "__main__":
    main()
