"""A step of a world as one ONNX graph: tokens and actions in, the next tokens and frames out.

The graph computes what `helpers.worldmodel.session.step_frames` computes for one world. Its decoding is
written again here, with the operators that ONNX has: no search in sorted sums, and `topk` for the stable sort
(of equal values ONNX takes the one with the lower index first). One graph decodes greedily and samples, for
its temperature is an input. The tests compare every token with the engine's.

torch's older exporter is used: it is in every torch that this project installs, takes a tenth of the newer
one's time, and needs the package onnx alone.
"""

import copy
import io
import math
import warnings
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.errors import SuiteError
from helpers.play.settings import Settings
from helpers.worldmodel import Suite
from helpers.worldmodel.decode import unmask_counts
from helpers.worldmodel.layers import RMSNorm

OPSET = 17
"""Of the operators: the first with layer norm as one."""


class Step(nn.Module):
    """One step of one world, with the settings' window, horizon, decoding steps and feedback.

    Takes, for window W, horizon H, P patches, N = H*P and M decoding steps:

        seen         int32 [W, P]: the tokens of the last frames; with pixels feedback, these frames
                     themselves, float32 [W, 3, S, S]
        actions      int32 [W+H-1]: ids; what led from frame to frame, then the chosen one, held
        uniform      float32 [M, N] in [0, 1), as the engine draws them; without effect at temperature 0
        temperature  float32 []

    and gives tokens int32 ``[H, P]``; frames float32 ``[H, 3, S, S]``, unclamped; and margin float32 []: how
    far the closest choice of a token was from another one. Sampling, that is the distance of its random
    number from the nearest end of the token's share of [0, 1); greedily, of the likeliest logits.
    Where it is within the rounding of float32, another machine may choose otherwise.
    """

    INPUTS, OUTPUTS = ("seen", "actions", "uniform", "temperature"), ("tokens", "frames", "margin")

    def __init__(self, suite: Suite, settings: Settings) -> None:
        super().__init__()
        if suite.dynamics.config.action_dim is None:
            what = "This world's dynamics model takes no actions, so there is nothing to play."
            raise SuiteError(what, fix="Share a world whose dynamics model is conditioned on actions.")
        self.tokenizer = _exportable(suite.video_tokenizer)
        self.dynamics = _exportable(suite.dynamics)
        self.action_quantizer = suite.latent_actions.quantizer
        self.window, self.horizon = settings.context_window, settings.prediction_horizon
        self.pixels = settings.feedback == "pixels"
        self.patches = suite.dynamics.config.grid**2
        self.counts = unmask_counts(self.horizon * self.patches, settings.steps)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the shapes and types that the graph takes."""
        size, ids = self.tokenizer.config.frame_size, torch.int32
        frames = torch.zeros(self.window, 3, size, size)
        tokens = torch.zeros(self.window, self.patches, dtype=ids)
        actions = torch.zeros(self.window + self.horizon - 1, dtype=ids)
        uniform = torch.full((len(self.counts), self.horizon * self.patches), 0.5)
        return frames if self.pixels else tokens, actions, uniform, torch.tensor(1.0)

    def forward(
        self, seen: Tensor, actions: Tensor, uniform: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as above."""
        quantizer = self.tokenizer.quantizer
        known = self.tokenizer.encode(seen[None]) if self.pixels else quantizer.latents_of(seen[None].long())
        conditioning = self.action_quantizer.latents_of(actions[None].long())  # [1, W+H-1, A]
        tokens, margin = self._decode(known, conditioning, uniform, temperature)  # [1, H, P]
        latents = torch.cat((known, quantizer.latents_of(tokens)), 1)
        frames = self.tokenizer.detokenize(latents, last=self.horizon)
        return tokens[0].int(), frames[0], margin

    def _decode(
        self, known: Tensor, conditioning: Tensor, uniform: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `helpers.worldmodel.decode.decoding_steps`: new tokens int64 ``[1, H, P]``, and the margin."""
        past, films = self.dynamics.context(known, conditioning, self.horizon)
        positions, width = self.horizon * self.patches, known.shape[-1]
        masked = torch.arange(positions)[None]  # [1, n], ascending
        tokens, closest = torch.zeros_like(masked), torch.tensor(math.inf)
        latents = self.dynamics.mask_token[0].expand(1, positions, width)
        for step, count in enumerate(self.counts):
            chosen = masked if step and self.horizon == 1 else None
            shaped = latents.unflatten(1, (self.horizon, self.patches))
            hidden = self.dynamics.hidden(shaped, films, past, chosen)[0].flatten(1, 2)  # [1, n or N, E]
            if step and self.horizon > 1:
                hidden = hidden.gather(1, masked.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            logits = self.dynamics.output_mlp(hidden)  # [1, n, K]
            index, confidence, margin = _guess(logits, temperature, uniform[step][None].gather(1, masked))
            closest = torch.minimum(closest, margin.amin())
            if count == masked.shape[1]:  # all that are left: which is the surest does not matter
                tokens = tokens.scatter(1, masked, index)
                return tokens.unflatten(1, (self.horizon, self.patches)), closest
            order = confidence.topk(masked.shape[1]).indices  # [1, n], the surest first
            surest = order[:, :count]
            fixed, found = masked.gather(1, surest), index.gather(1, surest)  # [1, count]
            tokens = tokens.scatter(1, fixed, found)
            values = self.tokenizer.quantizer.latents_of(found)  # [1, count, L]
            latents = latents.scatter(1, fixed.unsqueeze(-1).expand(-1, -1, width), values)
            rest = masked.gather(1, order[:, count:])
            masked = rest.topk(rest.shape[1], largest=False).values
        raise AssertionError("the last step fixes all that is left")


Model = TypeVar("Model", bound=nn.Module)


def _exportable(model: Model) -> Model:
    """A copy on the CPU, whose RMS norms are written out, as the exporter knows none.

    Moving it also undoes the engine's stacked projections: the exporter would keep one copy of them a use.
    """
    copied = copy.deepcopy(model).to("cpu")
    for part in list(copied.modules()):
        for name, child in part.named_children():
            if isinstance(child, RMSNorm):
                setattr(part, name, _WrittenOut(child.weight))
    return copied


class _WrittenOut(nn.Module):
    """`RMSNorm` in simple operators."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., E]`` -> ``[..., E]``."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


def _guess(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A token for each position, how sure the model is of it, and the margin: all ``[1, n]``.

    From logits ``[1, n, K]`` as `helpers.worldmodel.decode.guess`, which takes another way at temperature 0.
    """
    sampling = temperature > 0
    weights = (logits / torch.where(sampling, temperature.clamp_min(1e-30), 1.0)).softmax(-1)
    sampled, margin = _sample(weights, uniform)
    best = logits.topk(min(2, int(logits.shape[-1]))).values  # [1, n, 2]
    index = torch.where(sampling, sampled, logits.argmax(-1))
    return index, weights.amax(-1), torch.where(sampling, margin, best[..., 0] - best[..., -1])


def _sample(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """As `helpers.worldmodel.decode.sample`, for ``[1, n, K]`` and ``[1, n]``: int64 ``[1, n]``, and margins.

    Of a certain token no end of its share is near, though the random number may be.
    """
    size = int(weights.shape[-1])  # while it is traced it is a tensor
    group = 1 << (math.isqrt(size - 1).bit_length() if size > 1 else 0)
    grouped = F.pad(weights, (0, -size % group)).unflatten(-1, (-1, group))  # [1, n, G, g]
    sums = _sums(grouped.sum(-1))  # [1, n, G]
    threshold = uniform.unsqueeze(-1) * sums[..., -1:]  # [1, n, 1]
    outer = _first_above(sums, threshold)  # [1, n, 1]
    below = torch.where(outer > 0, sums.gather(-1, (outer - 1).clamp_min(0)), 0.0)
    within = grouped.gather(-2, outer.unsqueeze(-1).expand(-1, -1, 1, group)).squeeze(-2)  # [1, n, g]
    ends = _sums(within)
    inner = _first_above(ends, threshold - below)
    end = below + ends.gather(-1, inner)
    begin = end - within.gather(-1, inner)
    nearest = torch.minimum(
        torch.where(begin < _NONE, 1.0, threshold - begin), torch.where(end > 1 - _NONE, 1.0, end - threshold)
    )
    return (outer * group + inner).squeeze(-1), nearest.squeeze(-1)


_NONE = 1e-7
"""A share of [0, 1) that no rounding enlarges to one that counts."""


def _sums(values: Tensor) -> Tensor:
    """Cumulative sums over the last dimension, added in float64 as torch does on a CPU."""
    return values.double().cumsum(-1).float()


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Where ``[1, n, m]`` first exceeds ``[1, n, 1]``, as in the engine: int64 ``[1, n, 1]``."""
    threshold = torch.minimum(threshold, cumulative[..., -1:] * (1 - 2**-24))
    return (cumulative <= threshold).long().sum(-1, keepdim=True).clamp_max(cumulative.shape[-1] - 1)


def export(suite: Suite, settings: Settings) -> bytes:
    """The graph of a world's step, weights included, as an ONNX file; a `SuiteError` if it has no actions."""
    step, file = Step(suite, settings).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one, and of shapes that never vary
        torch.onnx.export(
            step,
            step.example(),
            cast(str, file),  # the older exporter writes to any file
            dynamo=False,
            opset_version=OPSET,
            input_names=step.INPUTS,
            output_names=step.OUTPUTS,
        )
    return file.getvalue()
