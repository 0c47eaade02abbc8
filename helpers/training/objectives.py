"""What each of the three models learns: a batch of clips goes in, a loss and numbers for people come out.

The published losses, and where they collapse what was found to help ("remedied"). One module a stage, so that
torch's DistributedDataParallel wraps it whole. Shape letters as in `helpers.worldmodel.models`; n = T-1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.training.clips import Batch
from helpers.training.parallel import hidden, product
from helpers.worldmodel.models import Dynamics, LatentActions, VideoTokenizer

Learned = tuple[Tensor, dict[str, Tensor]]
"""A loss, and numbers for people: scalars, detached."""

MOVING = 4.0
"""How much more an error counts where something moves: a small sprite is what a game is about."""


def moving_weights(frames: Tensor) -> Tensor:
    """Weights of pixels, ``[B, T, 3, H, W]`` -> ``[B, T, 1, H, W]`` of mean 1: more where frames change."""
    change = (frames[:, 1:] - frames[:, :-1]).abs().amax(2, keepdim=True)  # [B, n, 1, H, W]
    change = torch.cat((change[:, :1], change), 1)
    weights = 1 + MOVING * (change > 0.1)
    return weights / weights.mean()


def decibels(error: Tensor) -> Tensor:
    """PSNR in dB of a mean squared error of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


class TokenizerObjective(nn.Module):
    """Frames are reconstructed from their tokens.

    Most updates see two frames of each clip: how many updates there are counts for more than their size.
    """

    def __init__(self, model: VideoTokenizer, published: bool) -> None:
        super().__init__()
        self.model, self.published = model, published

    def forward(self, batch: Batch, progress: float) -> Learned:
        """``progress`` runs from 0 to 1; in the last third, whole clips teach every place in the window."""
        frames = batch.pixels
        if not self.published and progress < 2 / 3:
            frames = frames[:, :2]
        shown = self.model(frames).float()
        error = F.smooth_l1_loss(shown, frames, reduction="none")
        loss = error.mean() if self.published else (error * moving_weights(frames)).mean()
        return loss, {"db": decibels(F.mse_loss(shown.detach().clamp(-1, 1), frames))}


class ActionsObjective(nn.Module):
    """The next frame is told from those before and a few bits, so that the bits come to mean the actions.

    As published, the decoder sees the first frame alone, and a model may learn to ignore the actions: then
    most frames have one id. Remedied, it sees every frame before, so that the action is the only news; it
    predicts the change (its output is half of it), so that a picture that stands still is no effort; and the
    ids must be spread (`spread_loss`). True actions make it supervised.
    """

    def __init__(self, model: LatentActions, published: bool) -> None:
        super().__init__()
        self.model, self.published = model, published

    def forward(self, batch: Batch, progress: float) -> Learned:
        """``progress`` has no effect here."""
        frames = batch.pixels
        values = self.model.encoder(frames).float()  # [B, n, A], before quantisation
        shown = self.model.quantizer(values)
        guessed, loss = shown.detach(), values.new_zeros(())
        if batch.actions is not None:
            shown = self.model.quantizer.latents_of(batch.actions)
            # D = 2 levels: a bit is the sign of its value x, and sigmoid(2x) = (tanh(x)+1)/2 its probability.
            loss = loss + F.binary_cross_entropy_with_logits(2 * values, (shown > 0).float())
        elif self.published:
            loss = loss + 100 * F.relu(0.01 - values.var((0, 1))).mean()
        else:
            loss = loss + spread_loss(values)
        predicted = predict(self.model, frames, shown, self.published)
        error = F.smooth_l1_loss(predicted, frames[:, 1:], reduction="none")
        weights = 1.0 if self.published else moving_weights(frames)[:, 1:]
        loss = loss + (error * weights).mean()
        ids = self.model.quantizer.latents_to_indices(guessed).flatten()
        used = torch.bincount(ids, minlength=self.model.n_actions).float() / len(ids)
        numbers = {"bits": entropy_bits(used), "db": decibels(F.mse_loss(predicted.detach(), frames[:, 1:]))}
        if batch.actions is not None:
            numbers["right"] = (ids == batch.actions.flatten()).float().mean()
        return loss, numbers


def predict(model: LatentActions, frames: Tensor, actions: Tensor, published: bool) -> Tensor:
    """Frames 1 to n, ``[B, n, 3, H, W]``, told from those before and the action latents ``[B, n, A]``."""
    output = model.decoder(frames, actions, masked=published).float()
    return output if published else frames[:, :-1] + 2 * output


def spread_loss(values: Tensor) -> Tensor:
    """How far pre-quantised actions ``[B, n, A]`` are from using all ids evenly; 0 where they do.

    Each bit's values should lie around 0 with a standard deviation of 1, and no bit should repeat another. At
    each place in the clip by itself: else the id comes to tell the place, which is no effort to know.
    Source: Bardes et al., "VICReg" (2022), for the variance and covariance terms.
    """
    centre, deviation = values.mean(0), values.std(0)  # [n, A]
    normed = ((values - centre) / deviation.clamp_min(1e-4)).flatten(0, 1)  # [B*n, A]
    together = normed.T @ normed / len(normed)  # [A, A]
    repeated = (together - torch.diag(together.diagonal())).square().sum() / len(together)
    return F.relu(1 - deviation).mean() + centre.square().mean() + repeated


def entropy_bits(shares: Tensor) -> Tensor:
    """The entropy in bits of shares ``[k]`` that add up to 1."""
    return -(shares * shares.clamp_min(1e-12).log2()).sum()


class Masked(NamedTuple):
    """Tokens as the dynamics model sees them in training."""

    context: Tensor  # int64 [B, n, P], frames 0 to n-1, some of it wrong
    target: Tensor  # int64 [B, n, P], frames 1 to n
    hidden: Tensor  # bool [B, n, P], whether a target token is masked


class DynamicsObjective(nn.Module):
    """Masked tokens of a frame are told from the rest of it, the frames before, and the actions.

    Remedied, every frame but the first is a target behind an intact context, as in play, all of them in one
    pass (`parallel.hidden`); and some context is wrong, as it will be when a world sees what it made itself.
    """

    def __init__(
        self,
        model: Dynamics,
        tokenizer: VideoTokenizer,
        actions: LatentActions,
        published: bool,
        noise: float,
        whole: float,
        in_half: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.published, self.noise, self.whole = model, published, noise, whole
        self.in_half = in_half  # matrix products in bfloat16 without autocast: on a CPU that is faster
        self.frozen = (tokenizer, actions)  # in a tuple, so that they are no part of this module

    def forward(self, batch: Batch, progress: float) -> Learned:
        """``progress`` has no effect here."""
        tokens, actions = self.observe(batch)
        quantizer = self.frozen[0].quantizer
        if self.published:
            logits, wanted, before = self._published(tokens, actions, batch)
        else:
            shown = mask(tokens, batch, self.noise, self.whole)
            targets = quantizer.latents_of(shown.target)
            seen = torch.where(shown.hidden.unsqueeze(-1), self.model.mask_token, targets)
            context = quantizer.latents_of(shown.context)
            found = hidden(self.model, context, seen, actions, self.in_half)  # [B, n, P, E]
            logits = product(found[shown.hidden], self.in_half, self.model.output_mlp).float()  # [masked, K]
            wanted, before = shown.target[shown.hidden], tokens[:, :-1][shown.hidden]
        right = (logits.detach().argmax(-1) == wanted).float()
        changed = (wanted != before).float()
        numbers = {"right": right.mean(), "changed": (right * changed).sum() / changed.sum().clamp_min(1)}
        return F.cross_entropy(logits, wanted), numbers

    @torch.no_grad()
    def observe(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A batch's tokens int64 ``[B, T, P]`` and action latents ``[B, n, A]``, in float32 as in play."""
        tokenizer, actions = self.frozen
        with torch.autocast(batch.frames.device.type, enabled=False):
            frames = batch.pixels
            if batch.actions is not None:
                return tokenizer.tokenize(frames), actions.quantizer.latents_of(batch.actions)
            return tokenizer.tokenize(frames), actions.encode(frames)

    def _published(self, tokens: Tensor, actions: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, true tokens and those one frame before, of masked tokens anywhere in the clip.

        One mask ratio a batch, from [0.5, 1); of each patch position, one frame is kept.
        """
        count = tokens.shape[1]
        ratio = 0.5 + 0.5 * batch.share[0, 0, 0]
        chance = torch.cat((batch.uniform[..., 0], batch.uniform[:, :1, :, 1]), 1)  # [B, T, P]
        kept = (batch.uniform[:, 0, :, 2] * count).long()  # [B, P]
        masked = (chance < ratio).scatter(1, kept.unsqueeze(1), False)
        latents = self.frozen[0].quantizer.latents_of(tokens)
        latents = torch.where(masked.unsqueeze(-1), self.model.mask_token, latents)
        found, _ = self.model.hidden(latents, self.model.films(actions, count))
        before = torch.cat((tokens[:, :1], tokens[:, :-1]), 1)
        return self.model.output_mlp(found[masked]).float(), tokens[masked], before[masked]


def mask(tokens: Tensor, batch: Batch, noise: float, whole: float) -> Masked:
    """Hide targets and spoil context, int64 ``[B, T, P]``, by the batch's own random numbers.

    A wrong token is another clip's at the same place: one that may well stand there. A share ``whole`` of the
    target frames is hidden whole, of the others between half and all (the published ratio).
    """
    other = tokens.roll(1, 0)
    spoiled = batch.uniform[..., 0] < noise * batch.share[..., :1]  # [B, n, P]
    context = torch.where(spoiled, other[:, :-1], tokens[:, :-1])
    ratio = torch.where(batch.share[..., 1:2] < whole, 1.0, 0.5 + 0.5 * batch.share[..., 2:])
    hidden_ = batch.uniform[..., 1] < ratio
    return Masked(context, tokens[:, 1:], hidden_)
