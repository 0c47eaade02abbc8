"""What a rollout is worth, in numbers: one definition each for runs, regressions, sweeps and the model card.

Knows arrays and the engine, nothing of notebooks or folders. The given context is never counted: every
per-frame number is of a generated frame.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.play.branch import Rollout
from helpers.worldmodel import Session, Suite
from helpers.worldmodel.session import Decoding

DELTA_FRAME = 4
"""The generated frame, counted from 1, at which Genie measures controllability."""

RANDOM_DRAWS = 4
"""Random action sequences a run compares its own actions with."""


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95% confidence interval; infinite where there is one value only."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


def interval(values: np.ndarray) -> Interval:
    """The mean of independent values ``[n]``, such as one a clip, and Student's interval around it."""
    count, half_width = len(values), math.inf
    if count > 1:
        from scipy.special import stdtrit  # a quantile of Student's t; scipy.stats would load for a second

        half_width = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / count**0.5)
    return Interval(float(np.mean(values)), half_width)


def psnr(images: np.ndarray, truth: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, float64 ``[...]``; 100 where it equals the truth.

    An image is the last three axes of ``[..., a, b, c]``, in whatever order; ``data_range`` is the largest
    minus the smallest value: 255 for uint8, 2 for [-1, 1].
    Source: the usual definition, 10 log10(data_range^2 / mean squared error). scikit-image has it for one
    image at a time, and infinite for equal ones, which JSON cannot hold.
    """
    error = np.square(images.astype(np.float64) - truth).mean(axis=(-3, -2, -1)) / data_range**2
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-10)))


HARD_TO_TELL_APART, SOMETHING_ELSE = 30.0, 15.0
"""PSNR in dB from which people hardly see a difference, and below which frames show other things."""


def repeated_psnr(rollout: Rollout) -> np.ndarray:
    """PSNR in dB of the last given frame, repeated, against each true frame that ``rollout.psnr`` tells of.

    It is what a model that knows nothing gets for free: float64 ``[n]``, 100 where nothing has moved yet.
    """
    true = rollout.truth[rollout.given :][: len(rollout.psnr)]
    return psnr(np.broadcast_to(rollout.frames[rollout.given - 1], true.shape), true)


def quality_in_words(rollout: Rollout) -> str:
    """What the PSNR of a rollout that follows its clip means, in two sentences."""
    repeated, count = repeated_psnr(rollout), len(rollout.psnr)
    nearer = int((np.asarray(rollout.psnr) > repeated).sum())
    return (
        f"Nearer to the true frame than the last given frame, repeated, in {nearer} of {count} frames; "
        f"in the last one {rollout.psnr[-1]:.1f} dB against {repeated[-1]:.1f} dB. From "
        f"{HARD_TO_TELL_APART:g} dB on they are hard to tell apart; below {SOMETHING_ELSE:g} dB they show "
        "something else."
    )


def published_mse(psnr_db: Sequence[float]) -> float:
    """The mean squared error of frames in [-1, 1] that these PSNRs in dB, one a frame, stand for: their mean.

    It is the scale on which the published project's figures are written, such as 0.0745; smaller is better.
    """
    return float(np.mean(4 * 10 ** (-np.asarray(psnr_db) / 10)))


def ssim(images: np.ndarray, truth: np.ndarray) -> list[float]:
    """Structural similarity of each image, uint8 ``[T, H, W, 3]``, to the true one; 1 where they are equal.

    T values; none where the frames are smaller than the window of 11 pixels.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), in
    scikit-image's implementation with that paper's Gaussian window; the mean over the colour channels.
    """
    if min(images.shape[1:3]) < 11:
        return []
    from skimage.metrics import structural_similarity

    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(truth, images, strict=True)
    return [float(structural_similarity(*pair, channel_axis=-1, data_range=255, **window)) for pair in pairs]


def motion_ratio(frames: np.ndarray, truth: np.ndarray, given: int) -> float | None:
    """How much the generated frames move, against the true ones at the same moments: 0 is a still picture.

    The mean absolute change of a pixel from frame to frame, generated over true; the first change is the one
    from the last given frame to the first generated one.
    Frames are uint8 ``[T, H, W, 3]``, ``given`` of them given; the truth may end earlier. None where it ends
    with the context or stands still.
    """

    def motion(sequence: np.ndarray) -> float:
        moving = sequence[given - 1 : len(truth)].astype(np.float32)
        return float(np.abs(np.diff(moving, axis=0)).mean()) if len(moving) > 1 else 0.0

    true = motion(truth)
    return motion(frames) / true if true else None


def action_histogram(actions: Sequence[int | None], n_actions: int) -> list[int]:
    """How often each action id led to a generated frame: ``n_actions`` counts; None is left out."""
    taken = np.array([action for action in actions if action is not None], np.int64)
    return np.bincount(taken, minlength=n_actions).tolist()


def delta_psnr(followed: np.ndarray, random: np.ndarray) -> Interval:
    """Controllability: the PSNR lost when random actions are taken instead of the clip's own.

    Delta_t PSNR = PSNR(x_t, x'_t) - PSNR(x_t, x''_t), ``[n]`` each: x_t is the true frame, x'_t the generated
    one under the actions inferred from the clip, x''_t under random ones; t = 4. 0: actions change nothing.
    Source: Bruce et al., "Genie: Generative Interactive Environments" (2024), section 3.
    """
    return interval(followed - random)


def run_delta_psnr(session: Session, truth: Tensor, draws: int = RANDOM_DRAWS) -> Interval | None:
    """Delta_4 PSNR in dB of one clip, float ``[1, T, 3, H, W]`` in [-1, 1], played as ``session`` was.

    The interval is over ``draws`` random action sequences; across clips the model card's number and a sweep's
    table tell more. None where fewer than four true frames follow the context.
    """
    if truth.shape[1] < session.context_window + DELTA_FRAME:
        return None
    played = session.context_window, session.horizon, session.decoding, session.seed[0]
    followed, random = delta_rollouts(session.suite, truth, *played, draws)
    return None if random is None else delta_psnr(followed, random[0])


@torch.inference_mode()
def token_accuracy(suite: Suite, truth: Tensor, window: int, batch: int = 16) -> float | None:
    """Share of tokens, 0 to 1, that the dynamics model gets right when it sees true frames and actions only.

    Teacher forcing: for every frame behind the context of the clip, float ``[1, T, 3, H, W]`` in [-1, 1], the
    ``window`` true frames before it and the actions inferred between them are given, all tokens of the frame
    are masked, and the likeliest token of each position, from one pass over ``batch`` frames, is compared
    with the tokenised true frame. None where no true frame follows the context.
    """
    if truth.shape[1] <= window:
        return None
    pieces = truth[0].unfold(0, window + 1, 1).movedim(-1, 1)  # [n, window + 1, 3, H, W]
    right = []
    for piece in pieces.split(batch):
        actions = suite.infer_actions(piece)[:, -1].cpu()
        session = Session(suite, piece[:, :window], window, steps=1)
        session.step(actions)
        tokens = suite.video_tokenizer.tokenize(piece.to(suite.device))[:, -1]  # [n, P]
        right.append((session.tokens[:, 0] == tokens).float().mean(1).cpu())
    return float(torch.cat(right).mean())


def measure(session: Session, rollout: Rollout, evaluate: bool = True) -> dict[str, Any]:
    """Every metric of a rollout of the session's game, as plain JSON values; None or empty if none applies.

    ``evaluate`` adds what takes further passes of the models: Δ₄PSNR and token accuracy.
    """
    began = time.perf_counter()
    suite, given, truth = session.suite, rollout.given, rollout.truth
    near = slice(given, given + len(rollout.psnr))  # the generated frames that follow the clip
    delta, accuracy = None, None
    if evaluate and suite.dynamics.config.action_dim is not None and len(truth) > given:
        clip = rollout.clip.frames[:, : len(truth)]
        delta = run_delta_psnr(session, clip)
        accuracy = token_accuracy(suite, clip, session.context_window)
    return {
        "psnr_db": list(rollout.psnr),
        "ssim": ssim(rollout.frames[near], truth[near]),
        "motion_ratio": motion_ratio(rollout.frames, truth, given),
        "action_histogram": action_histogram(rollout.actions, suite.n_actions),
        "delta_4_psnr_db": None if delta is None else asdict(delta) | {"draws": RANDOM_DRAWS},
        "token_accuracy": accuracy,
        "seconds": time.perf_counter() - began,
    }


@torch.inference_mode()
def delta_rollouts(
    suite: Suite,
    clips: Tensor,
    window: int,
    horizon: int,
    decoding: Decoding,
    seed: int = 0,
    draws: int = 1,
    batch: int = 16,
) -> tuple[np.ndarray, np.ndarray | None]:
    """PSNR of the fourth generated frame under the actions inferred from a clip, and under random ones.

    The clips are float ``[B, T, 3, H, W]`` in [-1, 1], T at least ``window + 4``; ``batch`` rollouts are
    played together. The seed is that of the random actions, ``draws`` sequences a clip, and of the sampling:
    clip b is sampled with ``seed + b`` throughout.

    Returns float64 in dB, of frames clamped to [-1, 1]: ``[B]``, and ``[B, draws]``; None instead of the
    latter for a world without actions.
    """
    last, steps = window + DELTA_FRAME - 1, -(-DELTA_FRAME // horizon)
    acts = suite.dynamics.config.action_dim is not None
    rollouts = 1 + draws if acts else 1  # of a clip
    inferred = torch.cat([suite.infer_actions(part[:, : last + 1]) for part in clips.split(batch)]).cpu()
    random = np.random.default_rng(seed).integers(suite.n_actions, size=(len(clips), draws, steps))
    actions = torch.cat((inferred[:, None, window - 1 :: horizon][..., :steps], torch.from_numpy(random)), 1)
    scores = []
    for rows in torch.arange(len(clips) * rollouts).split(batch):
        clip, draw = rows // rollouts, rows % rollouts  # [b], of which draw 0 follows the clip
        played, seeds = clips[clip], (seed + clip).tolist()
        how = decoding.steps, decoding.temperature, seeds, decoding.feedback
        session = Session(suite, played[:, :window], window, horizon, *how)
        for action in actions[clip, draw].unbind(1):
            session.step(action if acts else None)
        frame = session.frames[:, last].float().clamp(-1, 1).cpu().numpy()  # [b, 3, H, W]
        scores.append(psnr(frame, played[:, last].cpu().numpy(), data_range=2))
    by_clip = np.concatenate(scores).reshape(-1, rollouts)
    return by_clip[:, 0], by_clip[:, 1:] if acts else None
