"""MaskGIT decoding: all patches of the next frames start masked and are fixed in a few steps, surest first.

Source: Chang et al., "MaskGIT: Masked Generative Image Transformer" (2022), with the suite's own schedule.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from helpers.errors import ParameterError
from helpers.worldmodel.models import Dynamics
from helpers.worldmodel.quantizer import Quantizer

# 256 rows of 4096 logits are 4 MB: the CPU's fastest size. A GPU has no such limit and wants few launches.
_ROWS = 256


def unmask_counts(positions: int, steps: int, k: float = 5.0) -> list[int]:
    """How many positions each decoding step fixes: few at first, when little is known, most at the end.

    Depends on nothing but its arguments, so every shape of a decoding is known before it starts.

    Args:
        positions: N, the number of masked positions.
        steps: M, the most steps to take.
        k: Steepness of the exponential schedule.

    Returns:
        At most ``steps`` counts that add up to ``positions``.
    """
    counts: list[int] = []
    fixed = 0
    for step in range(steps):
        last = step == steps - 1
        target = positions if last else math.ceil(positions * math.expm1(k * step / steps) / math.expm1(k))
        count = max(positions // 16, 1, min(max(target - fixed, 0), positions - fixed))
        count = min(count, positions - fixed)
        counts.append(count)
        fixed += count
        if fixed == positions:
            break
    return counts


def sample(weights: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token a position by inverting the cumulative distribution.

    One uniform number a position is all the randomness used, so the numbers can be drawn on the CPU and mean
    the same on every device. The codebook is searched in two levels, which avoids a cumulative sum over it.

    Args:
        weights: How likely each token is, ``[..., K]``; they need not add up to 1.
        uniform: ``[...]`` in [0, 1).

    Returns:
        The sampled indices int64 ``[...]``.
    """
    grouped = _in_groups(weights, 0.0)  # [..., G, g]
    group = grouped.shape[-1]
    sums = grouped.sum(-1).cumsum(-1)  # [..., G]
    threshold = uniform.unsqueeze(-1) * sums[..., -1:]  # [..., 1]
    outer = _first_above(sums, threshold)  # [..., 1]
    below = torch.where(outer > 0, sums.gather(-1, (outer - 1).clamp_min(0)), 0.0)
    within = grouped.gather(-2, outer.unsqueeze(-1).expand(*outer.shape, group)).squeeze(-2)  # [..., g]
    inner = _first_above(within.cumsum(-1), threshold - below)
    return (outer * group + inner).squeeze(-1)


def probabilities(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """The softmax of ``logits / temperature``, ``[..., K]``; divides them in place, as they are many.

    Args:
        logits: Float32 ``[..., K]``; overwritten.
        temperature: Above 0: a float, or a tensor of no dimensions.
    """
    # Colder than this the quotients would leave float32, and the likeliest token is certain long before.
    coldest = 1e-30
    colder = temperature.clamp_min(coldest) if isinstance(temperature, Tensor) else max(temperature, coldest)
    return logits.div_(colder).softmax(-1)


def _in_groups(values: Tensor, filler: float) -> Tensor:
    """``[..., K]`` -> ``[..., G, g]``, G and g about the root of K; the last group is filled up."""
    size = values.shape[-1]
    group = 1 << (math.isqrt(size - 1).bit_length() if size > 1 else 0)
    if size % group:
        values = F.pad(values, (0, -size % group), value=filler)
    return values.unflatten(-1, (-1, group))


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Where ``cumulative`` ``[..., n]`` first exceeds ``threshold`` ``[..., 1]``.

    A threshold that rounding has lifted to the end falls on the last entry that weighs anything.
    """
    before_end = cumulative[..., -1:] * (1 - 2**-24)  # the float32 before it; not every device has nextafter
    index = torch.searchsorted(cumulative, torch.minimum(threshold, before_end), right=True)
    return index.clamp_max(cumulative.shape[-1] - 1)


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """From logits ``[B, n, K]`` each position's likeliest token ``[B, n]`` and its probability ``[B, n]``.

    The first of equals, as ``argmax`` would find it in ten times the time: in two levels, it looks for the
    group with the largest logit, then within.
    """
    grouped = _in_groups(logits, -math.inf)  # [B, n, G, g]
    group = grouped.shape[-1]
    outer = grouped.amax(-1).argmax(-1, keepdim=True)  # [B, n, 1]
    chosen = grouped.gather(-2, outer.unsqueeze(-1).expand(*outer.shape, group)).squeeze(-2)  # [B, n, g]
    index = outer * group + chosen.argmax(-1, keepdim=True)  # [B, n, 1]
    return index.squeeze(-1), logits.softmax(-1).gather(-1, index).squeeze(-1)


def guess(
    dynamics: Dynamics, hidden: Tensor, temperature: float | Tensor, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A token for each position, and how sure the model is of it.

    Positions are taken a few at a time: the logits of a whole batch would leave the processor's caches.

    Args:
        dynamics: The model.
        hidden: ``[B, n, E]``.
        temperature: Of the sampling.
        uniform: ``[B, n]`` in [0, 1) to sample with; None takes the likeliest tokens.

    Returns:
        Indices int64 ``[B, n]`` and confidences ``[B, n]`` in (0, 1].
    """
    rows = hidden.flatten(0, 1)  # [B*n, E]
    numbers = None if uniform is None else uniform.flatten()
    guesses = []
    few = _ROWS if hidden.device.type == "cpu" else len(rows)
    for start in range(0, len(rows), few):
        logits = dynamics.output_mlp(rows[start : start + few]).float()  # [<=few, K]
        if numbers is None:
            guesses.append(greedy(logits))
        else:
            weights = probabilities(logits, temperature)
            guesses.append((sample(weights, numbers[start : start + few]), weights.amax(-1)))
    index, confidence = (
        torch.cat(parts).unflatten(0, hidden.shape[:2]) for parts in zip(*guesses, strict=True)
    )
    return index, confidence


def draw_uniform(
    batch: int,
    steps: int,
    positions: int,
    generator: Generator | Sequence[Generator] | None,
    device: torch.device,
) -> Tensor:
    """The random numbers of one decoding, ``[B, M, N]`` in [0, 1), always drawn on the CPU.

    With one generator for each batch element, an element's numbers do not depend on the others.
    """
    if generator is None or isinstance(generator, Generator):
        numbers = torch.rand(batch, steps, positions, generator=generator)
    else:
        numbers = torch.stack([torch.rand(steps, positions, generator=own) for own in generator])
    return numbers.to(device)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python's or numpy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_numbers(horizon: int, steps: int, temperature: float) -> None:
    """Raise a `ParameterError` unless these are numbers that `maskgit_decode` takes."""
    for name, value in (("horizon", horizon), ("steps", steps)):
        if not is_whole(value) or value < 1:
            raise ParameterError(f"{name} is {value!r}.", fix="Use a whole number of at least 1.")
    number: object = temperature
    if not isinstance(number, Real) or isinstance(number, bool) or not 0 <= temperature < math.inf:
        raise ParameterError(f"temperature is {temperature!r}.", fix="Use 0, or a number above it to sample.")


def _check_shapes(
    dynamics: Dynamics,
    quantizer: Quantizer,
    context_latents: Tensor,
    conditioning: Tensor | None,
    generator: Generator | Sequence[Generator] | None,
) -> None:
    """Raise a `ParameterError` for what would otherwise fail inside a model, or be broadcast by mistake."""
    shape, wanted = list(context_latents.shape), [dynamics.config.grid**2, quantizer.latent_dim]
    if len(shape) != 4 or shape[2:] != wanted or not shape[1]:
        raise ParameterError(
            f"The context's latents have shape {shape}; this model takes [B, T, {wanted[0]}, {wanted[1]}]."
        )
    if conditioning is not None and list(conditioning.shape[:1]) != shape[:1]:
        raise ParameterError(
            f"The conditioning has shape {list(conditioning.shape)} for a batch of {shape[0]}."
        )
    generators = generator if isinstance(generator, Sequence) else [generator] if generator else []
    if any(own.device.type != "cpu" for own in generators):
        raise ParameterError(
            "The generator is not on the CPU.", fix="Use torch.Generator(): numbers are always drawn there."
        )
    if isinstance(generator, Sequence) and len(generator) != shape[0]:
        raise ParameterError(f"{len(generator)} generators were given for a batch of {shape[0]}.")


@torch.inference_mode()
def maskgit_decode(
    dynamics: Dynamics,
    quantizer: Quantizer,
    context_latents: Tensor,
    conditioning: Tensor | None = None,
    horizon: int = 1,
    steps: int = 10,
    temperature: float = 0.0,
    generator: Generator | Sequence[Generator] | None = None,
) -> Tensor:
    """Generate the latents of the next ``horizon`` frames.

    The context passes through the model once; every step then computes the new frames alone, and logits only
    where tokens are still masked.

    Args:
        dynamics: The model.
        quantizer: The video tokenizer's quantizer.
        context_latents: ``[B, Tc, P, L]`` float in [-1, 1].
        conditioning: Action latents ``[B, Tc+H-1, A]`` (entry t acts on frame t+1), or None.
        horizon: H, frames to generate at once.
        steps: M, decoding steps.
        temperature: 0 takes the likeliest token; above 0 tokens are sampled from the logits divided by it.
        generator: CPU generator of the random numbers, or one for each batch element. None: torch's own.

    Returns:
        The latents ``[B, Tc+H, P, L]``: the context, then the new frames.

    Raises:
        ParameterError: A number is out of its range, or a shape does not fit the model.
    """
    check_numbers(horizon, steps, temperature)
    _check_shapes(dynamics, quantizer, context_latents, conditioning, generator)
    batch, _, patches, _ = context_latents.shape
    uniform = None
    if temperature > 0:
        count = len(unmask_counts(horizon * patches, steps))
        uniform = draw_uniform(batch, count, horizon * patches, generator, context_latents.device)
    return decode(dynamics, quantizer, context_latents, conditioning, horizon, steps, temperature, uniform)


def decode(
    dynamics: Dynamics,
    quantizer: Quantizer,
    context_latents: Tensor,
    conditioning: Tensor | None,
    horizon: int,
    steps: int,
    temperature: float | Tensor,
    uniform: Tensor | None,
) -> Tensor:
    """`maskgit_decode` for arguments known to be good, with its random numbers drawn.

    Every shape follows from the arguments' shapes and numbers, and no value is ever read back: on a GPU the
    whole of it can be recorded and replayed.

    Arguments and result are those of `maskgit_decode`, but that ``temperature`` is a tensor of no dimensions
    where it may change from replay to replay, and ``uniform`` comes from `draw_uniform`, ``[B, M, N]`` on the
    models' device; without it tokens are decoded greedily.
    """
    walk = decoding_steps(
        dynamics, quantizer, context_latents, conditioning, horizon, steps, temperature, uniform
    )
    ((latents, _),) = deque(walk, maxlen=1)
    return torch.cat((context_latents, latents.unflatten(1, (horizon, -1))), 1)


def decoding_steps(
    dynamics: Dynamics,
    quantizer: Quantizer,
    context_latents: Tensor,
    conditioning: Tensor | None,
    horizon: int,
    steps: int,
    temperature: float | Tensor,
    uniform: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps of `decode`, for those who want to watch: its arguments, and after each step where it stands.

    Yields:
        The new frames' latents ``[B, H*P, L]``, the mask token where nothing is fixed yet, and the masked
        positions, int64 ``[B, n]``, ascending; none after the last step.
    """
    batch, _, patches, width = context_latents.shape
    past, films = dynamics.context(context_latents, conditioning, horizon)
    positions = horizon * patches  # N
    masked = torch.arange(positions, device=context_latents.device).expand(batch, -1)  # [B, n], ascending
    latents = dynamics.mask_token[0].expand(batch, positions, width).to(context_latents.dtype)

    # The context has passed through the model once, for its keys and values, and all new patches are masked.
    # Each step guesses all masked patches and fixes the surest. Only masked patches need logits, so the last
    # block computes these alone, and all blocks before it whole frames.
    for step, count in enumerate(unmask_counts(positions, steps)):
        chosen = masked if step and horizon == 1 else None
        hidden, _ = dynamics.hidden(latents.unflatten(1, (horizon, patches)), films, past, chosen)
        hidden = hidden.flatten(1, 2)  # [B, n or N, E]
        if step and horizon > 1:
            hidden = hidden.gather(1, masked.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))  # [B, n, E]
        numbers = None if uniform is None else uniform[:, step].gather(1, masked)  # [B, n]
        index, confidence = guess(dynamics, hidden, temperature, numbers)
        order = confidence.argsort(dim=-1, descending=True, stable=True)  # [B, n]
        surest = order[:, :count]
        fixed = masked.gather(1, surest)  # [B, count]
        values = quantizer.latents_of(index.gather(1, surest))  # [B, count, L]
        latents = latents.scatter(1, fixed.unsqueeze(-1).expand(-1, -1, width), values.to(latents.dtype))
        masked = masked.gather(1, order[:, count:].sort(-1).values)
        yield latents, masked
