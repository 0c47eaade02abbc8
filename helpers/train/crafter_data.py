"""Recordings of Crafter, and the batches that training draws from them. Knows no model.

A batch follows from the seed and the number of the step alone, so a training that was killed and goes on
sees the batches that it would have seen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.errors import DatasetError
from helpers.train.crafter_chance import DICE, UNKNOWN, by_chance, throw, with_dice
from helpers.train.crafter_measures import effects as changed_places
from helpers.train.crafter_measures import faced_place
from helpers.train.crafter_tiles import (
    DO,
    INVENTORY_BIT,
    ITEM_TOKENS,
    MAP_PATCHES,
    MAP_TOKENS,
    TOKEN_BITS,
    TileSheet,
)

ACTION_BITS = 3


@dataclass(frozen=True)
class Recording:
    """What `crafter_record` wrote.

    Args:
        tokens: uint8 ``[N, 81]``.
        actions: uint8 ``[N]``, each taken at its row's frame.
        episodes: int32 ``[N]``.
        sheet: The pictures of all tiles.
    """

    tokens: np.ndarray
    actions: np.ndarray
    episodes: np.ndarray
    sheet: TileSheet

    def starts(self, length: int) -> np.ndarray:
        """Rows at which ``length`` frames of one episode begin, int64."""
        return np.flatnonzero(self.episodes[length - 1 :] == self.episodes[: len(self.episodes) - length + 1])


def read_recording(*paths: Path) -> Recording:
    """Read one recording, or several as if they were one.

    Raises:
        DatasetError: A file is missing or is no recording.
    """
    parts = []
    for path in paths:
        try:
            with np.load(path) as stored:
                parts.append({name: stored[name] for name in stored.files})
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} could not be read ({error}).", fix="Record it again.") from error
        missing = {"tokens", "actions", "episodes", "map_tiles", "item_tiles"} - set(parts[-1])
        if missing:
            raise DatasetError(f"{path} has no {sorted(missing)}.", fix="Record it with crafter_record.")
    numbered, first = [], 0
    for part in parts:
        numbered.append(part["episodes"] + first)
        first += int(part["episodes"].max()) + 1
    return Recording(
        np.concatenate([part["tokens"] for part in parts]),
        np.concatenate([part["actions"] for part in parts]),
        np.concatenate(numbered),
        TileSheet(parts[0]["map_tiles"], parts[0]["item_tiles"]),
    )


def bits_of(numbers: Tensor, bits: int) -> Tensor:
    """Numbers int64 ``[...]`` -> their bits as latents float32 ``[..., bits]``, each -1 or 1."""
    return ((numbers.unsqueeze(-1) >> torch.arange(bits, device=numbers.device)) & 1).float() * 2 - 1


def latents_of(tokens: Tensor) -> Tensor:
    """Tokens int64 ``[...]`` -> latents float32 ``[..., 8]``."""
    return bits_of(tokens, TOKEN_BITS)


def to_frames(pictures: np.ndarray) -> Tensor:
    """Frames uint8 ``[..., H, W, 3]`` -> float32 ``[..., 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 127.5 - 1


def has_effect(recording: Recording, rows: np.ndarray) -> np.ndarray:
    """Whether the hands' action at each of ``rows``, int64 ``[n]``, changes the next frame: bool ``[n]``."""
    hands = np.flatnonzero(recording.actions[rows] >= DO)
    found = np.zeros(len(rows), bool)
    found[hands] = changed_places(recording.tokens[rows[hands]], recording.tokens[rows[hands] + 1]).any(1)
    return found


def effect_weights(recording: Recording, rows: np.ndarray, share: float) -> np.ndarray:
    """How often to draw each of ``rows``: steps with an effect of the hands make up ``share`` of the draws.

    Effects are told apart by what they change. A kind a hundred times as frequent as another is drawn ten
    times as often.
    """
    hands = np.flatnonzero(has_effect(recording, rows))
    weights = np.ones(len(rows))
    if not 0 < len(hands) < len(rows):
        return weights
    before, after = (recording.tokens[rows[hands] + later] for later in (0, 1))
    signs = np.sign(after.astype(np.int16) - before)[:, MAP_PATCHES:].astype(np.int8)
    faced = after[np.arange(len(hands)), faced_place(before)].astype(np.int8)
    changed = np.concatenate((signs, faced[:, None]), 1)
    _, kind, counts = np.unique(changed, axis=0, return_inverse=True, return_counts=True)
    own = counts[kind.reshape(-1)] ** -0.5
    weights[hands] = own / own.sum() * (len(rows) - len(hands)) * share / (1 - share)
    return weights


@dataclass(frozen=True)
class Noise:
    """How clips are spoiled, so that the model recovers from its own mistakes.

    Args:
        clips: Share of clips with spoiled context.
        rate: The largest share of tiles replaced in one of them.
    """

    clips: float = 0.25
    rate: float = 0.04


@dataclass(frozen=True)
class Batch:
    """Clips of n context frames, and the n frames that follow each of them.

    Args:
        context: int64 ``[B, n, 81]``, some tokens spoiled.
        target: int64 ``[B, n, 81]``, the true next frames.
        masked: bool ``[B, n, 81]``, the target's tokens to predict; the others are shown.
        chance: bool ``[B, n, 81]``, the target's tokens that chance decides.
        actions: int64 ``[B, n]``, from context frame i to target frame i.
    """

    context: Tensor
    target: Tensor
    masked: Tensor
    chance: Tensor
    actions: Tensor


class Batches:
    """Draws batches from a recording.

    Args:
        recording: What to draw from.
        seed: Of the drawing.
        size: B, clips a batch.
        context: n, context frames of a clip.
        noise: How contexts are spoiled.
        whole: Share of clips whose target frames are masked whole, as decoding in one step masks them.
        thrown: Share of clips whose context shows its dice.
        effects: Share of clips drawn at whose end do, place or craft has an effect that one can see coming,
            rare effects more often than their number; None draws all clips alike.
    """

    def __init__(
        self,
        recording: Recording,
        seed: int,
        size: int,
        context: int = 1,
        noise: Noise = Noise(),
        whole: float = 0.85,
        thrown: float = 0.8,
        effects: float | None = 0.4,
    ) -> None:
        dice = throw(recording.tokens, recording.actions, recording.episodes)
        self.tokens, self.actions = with_dice(recording.tokens, dice), recording.actions
        self.seed, self.size, self.context = seed, size, context
        self.noise, self.whole, self.thrown = noise, whole, thrown
        self.starts = recording.starts(context + 1)
        weights = np.ones(len(self.starts))
        if effects is not None:
            weights = effect_weights(recording, self.starts + context - 1, effects)
        self.cumulative = np.cumsum(weights) / weights.sum()
        self.vocabulary = torch.from_numpy(np.concatenate((np.tile(MAP_TOKENS, 2), ITEM_TOKENS))).long()

    def draw(self, step: int) -> Batch:
        """The batch of step number ``step``."""
        rng = np.random.default_rng((self.seed, step))
        drawn = np.searchsorted(self.cumulative, rng.random(self.size), side="right")
        rows = self.starts[drawn.clip(max=len(self.starts) - 1)][:, None] + np.arange(self.context + 1)
        clip, actions = self.tokens[rows], self.actions[rows[:, :-1]]  # [B, n+1, 81], [B, n]
        shape = (self.size, self.context, clip.shape[2])
        chance = by_chance(clip[:, :-1].reshape(-1, shape[2]), actions.reshape(-1)).reshape(shape)
        context = self._spoil(torch.from_numpy(clip[:, :-1]).long(), rng)
        hidden = torch.from_numpy(rng.random(self.size) >= self.thrown)
        context[hidden, :, DICE[0] :] = INVENTORY_BIT | UNKNOWN
        masked = self._mask(shape, rng)
        target = torch.from_numpy(clip[:, 1:]).long()
        masked[..., DICE[0] :] &= target[..., DICE[0] :] != INVENTORY_BIT | UNKNOWN
        return Batch(context, target, masked, torch.from_numpy(chance), torch.from_numpy(actions).long())

    def _spoil(self, context: Tensor, rng: np.random.Generator) -> Tensor:
        """Replace a few tokens of some clips by any others."""
        rate = (
            self.noise.rate
            * rng.random((len(context), 1, 1))
            * (rng.random((len(context), 1, 1)) < self.noise.clips)
        )
        hit = torch.from_numpy(rng.random(context.shape) < rate)
        other = self.vocabulary[torch.from_numpy(rng.integers(0, len(self.vocabulary), context.shape))]
        return torch.where(hit, other, context)

    def _mask(self, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """What to predict: whole frames mostly, else a random share of the tokens."""
        share = np.where(rng.random((shape[0], 1, 1)) < self.whole, 1.0, rng.random((shape[0], 1, 1)))
        return torch.from_numpy(rng.random(shape) < share)
