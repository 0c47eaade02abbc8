"""What a rollout is worth, in numbers: one definition each for runs, regressions, sweeps and the model card.

Knows arrays and the engine, nothing of notebooks or folders. The given context is never counted: every
per-frame number is of a generated frame.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import to_model_frames
from helpers.pictures import to_uint8
from helpers.worldmodel import Session, Suite

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
    count = len(values)
    if count < 2:
        return Interval(float(np.mean(values)), math.inf)
    return Interval(
        float(np.mean(values)), float(student_quantile(count - 1) * np.std(values, ddof=1) / count**0.5)
    )


def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """A quantile of Student's t distribution: 1.96 for many degrees of freedom, more for few.

    Exact for one and two degrees of freedom, within 0.2% for more.
    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z, n = NormalDist().inv_cdf(probability), degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def psnr(images: np.ndarray, truth: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each image; 100 where it equals the truth.

    Source: the usual definition, 10 log10(data_range^2 / mean squared error). scikit-image has it for one
    image at a time, and infinite for equal ones, which JSON cannot hold.

    Args:
        images: ``[..., a, b, c]``; an image is the last three axes, in whatever order.
        truth: Likewise.
        data_range: Largest minus smallest value: 255 for uint8, 2 for [-1, 1].

    Returns:
        float64 ``[...]``.
    """
    error = np.square(images.astype(np.float64) - truth).mean(axis=(-3, -2, -1)) / data_range**2
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-10)))


def ssim(images: np.ndarray, truth: np.ndarray) -> list[float]:
    """Structural similarity of each image to the true one, 1 where they are equal.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), in
    scikit-image's implementation with that paper's Gaussian window; the mean over the colour channels.

    Args:
        images: uint8 ``[T, H, W, 3]``.
        truth: Likewise.

    Returns:
        T values; none where the frames are smaller than the window of 11 pixels.
    """
    if min(images.shape[1:3]) < 11:
        return []
    from skimage.metrics import structural_similarity

    return [
        float(
            structural_similarity(
                true,
                image,
                channel_axis=-1,
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
        for image, true in zip(images, truth, strict=True)
    ]


def motion_ratio(frames: np.ndarray, truth: np.ndarray, given: int) -> float | None:
    """How much the generated frames move, against the true ones at the same moments: 0 is a still picture.

    The mean absolute change of a pixel from frame to frame, generated over true; the first change is the one
    from the last given frame to the first generated one.

    Args:
        frames: uint8 ``[T, H, W, 3]``, the given ones first.
        truth: uint8 ``[T', H, W, 3]``, T' <= T.
        given: How many are given.

    Returns:
        The ratio; None where the truth ends with the context or stands still.
    """

    def motion(sequence: np.ndarray) -> float:
        moving = sequence[given - 1 : len(truth)].astype(np.float32)
        return float(np.abs(np.diff(moving, axis=0)).mean()) if len(moving) > 1 else 0.0

    true = motion(truth)
    return motion(frames) / true if true else None


def action_histogram(actions: Sequence[int | None], n_actions: int) -> list[int]:
    """How often each action id led to a generated frame: ``n_actions`` counts; None is left out."""
    taken = np.array([action for action in actions if action is not None], np.int64)
    return [int(count) for count in np.bincount(taken, minlength=n_actions)]


def delta_psnr(followed: np.ndarray, random: np.ndarray) -> Interval:
    """Controllability: the PSNR lost when random actions are taken instead of the clip's own.

    Delta_t PSNR = PSNR(x_t, x'_t) - PSNR(x_t, x''_t): x_t is the true frame, x'_t the generated one under the
    actions inferred from the clip, x''_t under random ones; t = 4. 0 means that actions change nothing.
    Source: Bruce et al., "Genie: Generative Interactive Environments" (2024), section 3.

    Args:
        followed: PSNR ``[n]`` of the t-th generated frame under the clip's actions.
        random: Likewise under random actions.
    """
    return interval(followed - random)


@torch.inference_mode()
def run_delta_psnr(session: Session, truth: Tensor, draws: int = RANDOM_DRAWS) -> Interval | None:
    """Delta_4 PSNR of one clip, over ``draws`` random action sequences, played as ``session`` was.

    The interval is over the random sequences of this one clip; across clips the model card's number and a
    sweep's table tell more.

    Args:
        session: Gives the suite, window, horizon, decoding steps, temperature, seed and feedback.
        truth: The clip, float ``[1, T, 3, H, W]`` in [-1, 1].
        draws: Random action sequences, taken in one batch with the clip's own actions.

    Returns:
        The interval in dB; None where fewer than four true frames follow the context.
    """
    suite, window, horizon = session.suite, session.context_window, session.horizon
    steps = -(-DELTA_FRAME // horizon)
    if truth.shape[1] < window + DELTA_FRAME:
        return None
    inferred = suite.infer_actions(truth[:, : window + DELTA_FRAME])[0].cpu()  # [window + 3]
    own = inferred[window - 1 :: horizon][:steps]  # [steps]
    random = torch.from_numpy(
        np.random.default_rng(session.seed[0]).integers(suite.n_actions, size=(draws, steps))
    )
    actions = torch.cat([own[None], random])  # [1 + draws, steps]
    twin = Session(
        suite,
        truth[:, :window].expand(1 + draws, -1, -1, -1, -1),
        window,
        horizon,
        session.steps,
        session.temperature,
        [session.seed[0]] * (1 + draws),
        session.feedback,
    )
    for taken in actions.unbind(1):
        twin.step(taken)
    last = window + DELTA_FRAME - 1
    made = to_uint8(twin.frames[:, last].float().cpu())  # [1 + draws, H, W, 3]
    scores = psnr(made, to_uint8(truth[0, last].cpu()))
    return delta_psnr(scores[:1], scores[1:])


@torch.inference_mode()
def token_accuracy(suite: Suite, truth: Tensor, window: int, batch: int = 16) -> float | None:
    """Share of tokens that the dynamics model gets right when it sees true frames and actions only.

    Teacher forcing: for every frame behind the context, the ``window`` true frames before it and the actions
    inferred between them are given, all tokens of the frame are masked, and the likeliest token of each
    position, found in one pass, is compared with the tokenised true frame.

    Args:
        suite: The models.
        truth: The clip, float ``[1, T, 3, H, W]`` in [-1, 1].
        window: Frames of context.
        batch: Frames to look at in one pass.

    Returns:
        The share in [0, 1]; None where no true frame follows the context.
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


def measure(
    session: Session,
    frames: np.ndarray,
    truth: np.ndarray,
    given: int,
    actions: Sequence[int | None],
    comparable: int,
    evaluate: bool = True,
) -> dict[str, Any]:
    """Every metric of a rollout, as plain JSON values; those that do not apply are None or empty.

    Args:
        session: What was stepped.
        frames: uint8 ``[T, H, W, 3]``, the given ones first.
        truth: uint8 ``[T', H, W, 3]``, T' <= T.
        given: Frames of context at the front of both.
        actions: What led to each generated frame.
        comparable: How many generated frames follow the clip and may be compared with it one by one.
        evaluate: Also measure what takes further passes of the models: ``delta_4_psnr_db`` and
            ``token_accuracy``.
    """
    began = time.perf_counter()
    shown, true = frames[given : given + comparable], truth[given : given + comparable]
    delta, accuracy = None, None
    takes_actions = session.suite.dynamics.config.action_dim is not None
    if evaluate and takes_actions and len(truth) > given:
        clip = torch.from_numpy(to_model_frames(truth, session.suite.frame_size))
        delta = run_delta_psnr(session, clip)
        accuracy = token_accuracy(session.suite, clip, session.context_window)
    return {
        "psnr_db": psnr(shown, true).tolist(),
        "ssim": ssim(shown, true),
        "motion_ratio": motion_ratio(frames, truth, given),
        "action_histogram": action_histogram(actions, session.suite.n_actions),
        "delta_4_psnr_db": None if delta is None else asdict(delta) | {"draws": RANDOM_DRAWS},
        "token_accuracy": accuracy,
        "seconds": time.perf_counter() - began,
    }
