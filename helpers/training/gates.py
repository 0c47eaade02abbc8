"""After each stage: is the model good enough for the next one, in words and numbers, and in a picture.

All of it is measured on frames that nothing was trained on.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.pictures import contact_sheet, to_uint8
from helpers.play.metrics import delta_psnr, delta_rollouts, psnr
from helpers.report import Check, Subject
from helpers.training.clips import Clips, to_pixels
from helpers.training.objectives import entropy_bits, predict
from helpers.training.plan import Plan
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.models import LatentActions, VideoTokenizer
from helpers.worldmodel.session import Decoding

_CLIPS = 64
DRIFT = 256
"""Frames of the longest free play that is measured."""


class Gate(NamedTuple):
    """How a stage ended."""

    checks: list[Check]
    picture: Image.Image
    numbers: dict[str, float]


def held_out(clips: Clips, count: int, device: torch.device) -> Tensor:
    """Clips that nothing was trained on, spread evenly: float32 ``[n, T, 3, H, W]`` in [-1, 1]."""
    frames, _ = clips.read(spread(clips, count))
    return to_pixels(frames).to(device)


def spread(clips: Clips, count: int) -> np.ndarray:
    """First rows of clips that nothing was trained on, int64 ``[n]``, spread evenly."""
    places = np.linspace(0, len(clips.held_out) - 1, count).astype(int)
    return clips.held_out[np.unique(places)]


def _rows(*named: tuple[str, Tensor]) -> list[tuple[str, np.ndarray]]:
    return [(name, to_uint8(frames.cpu())) for name, frames in named]


@torch.no_grad()
def judge_tokenizer(model: VideoTokenizer, clips: Clips, device: torch.device) -> Gate:
    """Whether frames survive being tokens."""
    frames = held_out(clips, _CLIPS, device)
    shown = model(frames).float().clamp(-1, 1)
    db = float(np.mean(psnr(shown.cpu().numpy(), frames.cpu().numpy(), data_range=2)))
    # What a still picture of everything would reach: a game of small things on one colour is easily told.
    mean = frames.mean((0, 1), keepdim=True).expand_as(frames)
    guess = float(np.mean(psnr(mean.cpu().numpy(), frames.cpu().numpy(), data_range=2)))
    moving = _moving_db(shown, frames)
    tokens = model.tokenize(frames).flatten()
    used = torch.bincount(tokens, minlength=model.quantizer.codebook_size).float() / len(tokens)
    codes, bits = int((used > 0).sum()), float(entropy_bits(used))
    reconstruction = Subject("reconstruction", "25 dB", "what the tokens lose, no later stage brings back")
    text = f"{db:.1f} dB, {moving:.1f} dB where things move (the mean picture: {guess:.1f} dB)"
    good = reconstruction.ok(text)
    if db < 22 or moving < 12:
        good = reconstruction.warn(
            text, "Train longer (--minutes), or with smaller patches: -p patch_size=4."
        )
    size = model.quantizer.codebook_size
    codebook = Subject("codebook", "no collapse: more than 4 bits a token")
    text = f"{codes:,} of {size:,} codes in use, {bits:.1f} bits a token"
    fix = "Lower -p video_tokenizer.learning_rate, or train longer; a picture of few colours needs few codes."
    checks = [good, codebook.ok(text) if bits > 4 or db > 30 else codebook.warn(text, fix)]
    named = [
        (f"{row}{what}", part[row]) for row in range(3) for what, part in ((" true", frames), ("", shown))
    ]
    picture = contact_sheet(_rows(*named), [f"frame {n}" for n in range(frames.shape[1])])
    return Gate(checks, picture, {"db": db, "moving_db": moving, "codes": codes, "bits": bits})


def _moving_db(shown: Tensor, frames: Tensor) -> float:
    """PSNR in dB over the pixels that change from the frame before, ``[B, T, 3, H, W]`` each."""
    moves = ((frames[:, 1:] - frames[:, :-1]).abs().amax(2, keepdim=True) > 0.1).expand_as(frames[:, 1:])
    error = (shown - frames)[:, 1:][moves].square()
    return float(10 * torch.log10(4 / error.mean().clamp_min(1e-10))) if len(error) else 100.0


@dataclass(frozen=True)
class ActionUse:
    """What a latent action model does with its ids, on held-out clips."""

    ids: list[float]  # share of each id
    bits_set: list[float]  # of each bit, how often it is set
    effects: list[float]  # of each bit, how much the predicted frame changes with it
    own_db: float  # PSNR where things move, of the next frame told by its own action
    other_db: float  # the same, told by another clip's action

    @property
    def idle(self) -> list[int]:
        """The bits that do nothing, or are always the same."""
        most = max(self.effects)
        both = enumerate(zip(self.effects, self.bits_set, strict=True))
        return [bit for bit, (effect, often) in both if effect < 0.05 * most or not 0.01 < often < 0.99]


@torch.no_grad()
def measure_actions(model: LatentActions, frames: Tensor, published: bool) -> ActionUse:
    """How a model uses its ids on clips, float ``[n, T, 3, H, W]`` in [-1, 1]."""
    latents = model.encode(frames)  # [n, T-1, A]
    ids = model.quantizer.latents_to_indices(latents).flatten()
    used = torch.bincount(ids, minlength=model.n_actions).float() / len(ids)
    told = predict(model, frames, latents, published)
    effects = []
    for bit in range(latents.shape[-1]):
        flipped = latents.clone()
        flipped[..., bit] *= -1
        effects.append(float((predict(model, frames, flipped, published) - told).abs().mean()))
    other = predict(model, frames, latents.roll(1, 0), published)
    shares = torch.gt(latents, 0).float().mean((0, 1)).tolist()
    both = [_moving_db(torch.cat((frames[:, :1], one), 1), frames) for one in (told, other)]
    return ActionUse(used.tolist(), shares, effects, both[0], both[1])


@torch.no_grad()
def judge_actions(model: LatentActions, clips: Clips, device: torch.device, plan: Plan) -> Gate:
    """Whether the ids mean something, and are used."""
    frames = held_out(clips, _CLIPS, device)
    published = plan.objectives == "published"
    use = measure_actions(model, frames, published)
    shares = torch.tensor(use.ids)
    bits, most = float(entropy_bits(shares)), max(use.ids)
    usage = Subject("usage", "no id for more than half of the frames", "an id for everything means nothing")
    rarely = sum(share < 0.01 for share in use.ids)
    text = f"{len(use.ids) - rarely} of {len(use.ids)} ids in use, {bits:.2f} bits, the commonest {most:.0%}"
    fix = "Use -p objectives=remedied, or train longer; record more varied play."
    used = usage.ok(text) if most <= 0.5 or plan.labels else usage.warn(text, fix)
    effect = Subject("effect", "at least 0.3 dB", "a decoder that ignores the ids teaches them nothing")
    gain = use.own_db - use.other_db
    told = f"another clip's action costs {gain:.2f} dB where things move ({use.own_db:.1f} dB with its own)"
    checks = [used, effect.ok(told) if gain >= 0.3 else effect.warn(told, fix)]
    if use.idle and not plan.labels:
        fewer = max(2, plan.n_actions >> len(use.idle))
        what = f"{len(use.idle)} of the ids' {len(use.effects)} bits do nothing: as many keys are dead"
        checks.append(
            Subject("dead_keys").warn(what, f"Train under another --name with -p n_actions={fewer}.")
        )
    numbers = {"bits": bits, "most": most, "gain_db": gain}
    if plan.labels:
        _, ids = clips.read(spread(clips, _CLIPS))
        inferred = model.quantizer.latents_to_indices(model.encode(frames)).cpu()
        right = float(torch.eq(inferred, ids).float().mean()) if ids is not None else 0.0
        truth = Subject("truth", "70% of the true ids told from the frames")
        text = f"{right:.0%} of the true ids are told from the frames"
        checks.append(truth.ok(text) if right > 0.7 else truth.warn(text, "Train longer (--minutes)."))
        numbers["right"] = right
    clip = frames[:1, :2].expand(model.n_actions, -1, -1, -1, -1)
    every = model.quantizer.latents_of(torch.arange(model.n_actions, device=device)).unsqueeze(1)
    told_frames = predict(model, clip, every, published)[:, 0].clamp(-1, 1)
    before = frames[:1, 0].expand_as(told_frames)
    named = _rows(("before", before), ("told", told_frames))
    picture = contact_sheet(named, [f"id {number}" for number in range(model.n_actions)])
    return Gate(checks, picture, numbers)


@torch.no_grad()
def judge_dynamics(
    suite: Suite, clips: Clips, decoding: Decoding, window: int, count: int = 32, length: int = DRIFT
) -> Gate:
    """Whether the world follows its actions, and stays itself in long play.

    ``clips`` are at least ``window + 4`` frames long; ``count`` of them are followed, and free play is of
    ``length`` frames.
    """
    frames = held_out(clips, count, suite.device)
    followed, random = delta_rollouts(suite, frames.cpu(), window, 1, decoding)
    assert random is not None
    delta = delta_psnr(followed, random[:, 0])
    control = Subject("control", "Δ₄PSNR above 0", "random actions must lead elsewhere than the clip's own")
    text = f"Δ₄PSNR {delta} dB; the fourth frame {followed.mean():.1f} dB under the clip's own actions"
    fix = "Look at the picture of the actions; train longer, or give the true actions with --actions."
    lively = delta.mean - delta.half_width > 0
    checks = [control.ok(text) if lively else control.warn(text, fix)]
    played, overlap, motion = free_play(suite, frames, decoding, window, length)
    drift = Subject("drift", "half of the tokens as in the recording", "a world must not fade or freeze")
    text = f"after {length} frames {overlap:.0%} of the tokens are spread as in the recording; "
    text += f"motion {motion:.2f} times"
    fix = "Train longer, or raise -p noise (now it recovers too little from its own mistakes)."
    checks.append(drift.ok(text) if overlap > 0.5 and 0.3 < motion < 3 else drift.warn(text, fix))
    shown = [number for number in (0, 1, 4, 16, 64, 128) if number < length - 1] + [length - 1]
    named = [(f"play {row}", played[row, shown]) for row in range(min(4, len(played)))]
    picture = contact_sheet(_rows(*named), ["given", *(f"frame {n}" for n in shown[1:])], given=1)
    numbers = {"delta_4_psnr_db": delta.mean, "followed_db": float(followed.mean())}
    return Gate(checks, picture, numbers | {"overlap": overlap, "motion": motion})


@torch.no_grad()
def free_play(
    suite: Suite, frames: Tensor, decoding: Decoding, window: int, length: int, games: int = 4
) -> tuple[Tensor, float, float]:
    """Play some games for ``length`` frames, each action, drawn at random, held for five.

    Args:
        suite: The world.
        frames: Clips of the recording, float ``[n, T, 3, H, W]`` in [-1, 1]; play begins in some of them.
        decoding: How.
        window: Context frames.
        length: Frames to generate.
        games: Games side by side.

    Returns:
        The last given and the generated frames ``[games, length, 3, H, W]`` in [-1, 1]; which share of the
        last quarter's tokens is spread over the codebook as the recording's; and how much that quarter
        moves, against the recording.
    """
    given = frames[:games, :window]
    how = decoding.steps, decoding.temperature, 0, decoding.feedback
    session = Session(suite, given, window, 1, *how)
    rng = np.random.default_rng(0)
    played = [given[:, -1]]
    for step in range(length - 1):
        if step % 5 == 0:
            ids = torch.from_numpy(rng.integers(suite.n_actions, size=len(given)))
        played.append(session.step(ids)[:, -1].float().clamp(-1, 1))
    whole = torch.stack(played, 1)
    late = whole[:, -length // 4 :]
    size = suite.video_tokenizer.quantizer.codebook_size
    shares = []
    for part in (late, frames):
        tokens = [
            suite.video_tokenizer.tokenize(some[:, :window]).flatten() for some in _windows(part, window)
        ]
        counts = torch.bincount(torch.cat(tokens), minlength=size).float()
        shares.append(counts / counts.sum())
    overlap = float(torch.minimum(*shares).sum())
    true = float((frames[:, 1:] - frames[:, :-1]).abs().mean())
    moved = float((late[:, 1:] - late[:, :-1]).abs().mean())
    return whole, overlap, moved / max(true, 1e-9)


def _windows(frames: Tensor, window: int) -> list[Tensor]:
    """Clips as long as the window, from ``[n, T, 3, H, W]``, one after the other."""
    return [frames[:, first : first + window] for first in range(0, frames.shape[1] - window + 1, window)]


def choose_decoding(suite: Suite, clips: Clips, window: int) -> Decoding:
    """The decoding whose free play of 48 frames stays most like the recording, of a few."""
    frames = held_out(clips, 32, suite.device)
    some = [Decoding(steps, warmth, "tokens") for steps in (1, 4) for warmth in (0.0, 0.7)]
    return max(some, key=lambda one: _likeness(*free_play(suite, frames, one, window, 48)[1:]))


def _likeness(overlap: float, motion: float) -> float:
    return overlap - 0.2 * abs(np.log2(max(motion, 1e-3)))
