"""The space-time transformer all three models are made of.

Parameter names are the published ones. Shape letters: B batch, T frames, P patches of a frame, E embed_dim,
A action_dim, h heads, d = E/h.

A frame attends to its own patches (spatial attention) and, at each patch position, to that position in
earlier frames (temporal attention, causal). So a frame never depends on later ones, and what earlier frames
contribute is only their temporal keys and values, the *past*. Whoever computes new frames behind the same
context again and again (MaskGIT decoding does) keeps the past and pays for the new frames alone.
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.worldmodel.linear import Linear, Stacked, linear


class Film(NamedTuple):
    """What conditioning does to one norm: ``y = norm(x) * scale + shift``."""

    scale: Tensor  # [B, T, 1, E], 1 + gamma
    shift: Tensor  # [B, T, 1, E], beta

    def frames(self, start: int, stop: int) -> "Film":
        """The part for frames ``start`` to ``stop - 1``."""
        return Film(self.scale[:, start:stop], self.shift[:, start:stop])


BlockFilms = tuple[Film | None, ...]
"""For the norms after spatial attention, temporal attention and FFN of one block."""


class KeysValues(NamedTuple):
    """The temporal keys and values of some frames in one block."""

    keys: Tensor  # [B, T, P, E]
    values: Tensor  # [B, T, P, E]

    def first(self, frames: int) -> "KeysValues":
        """Those of the first ``frames`` frames."""
        return KeysValues(self.keys[:, :frames], self.values[:, :frames])


Past = list[KeysValues]
"""One entry a block."""


def sincos(length: int, width: int) -> Tensor:
    """1-D encoding ``[length, width]``: sin and cos of pos / 10000**(2i/width) in columns 2i and 2i+1."""
    if torch.empty(0).is_meta:  # shapes alone are wanted, and arithmetic there imports torch's compiler
        return torch.empty(length, width)
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = position * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :width]


def temporal_width(embed_dim: int) -> int:
    """How many of the last columns carry the frame's index; the columns before carry the patch's place."""
    return embed_dim // 3 // 2 * 2


def spatial_encoding(rows: int, columns: int, embed_dim: int) -> Tensor:
    """``[P, E]`` for a row-major grid: x-encoding of the column, y-encoding of the row, zeros."""
    spatial = embed_dim - temporal_width(embed_dim)
    x_width = spatial // 2 // 2 * 2
    y_width = spatial - x_width
    encoding = torch.zeros(rows, columns, embed_dim)
    encoding[:, :, :x_width] = sincos(columns, x_width)[None, :, :]
    encoding[:, :, x_width:spatial] = sincos(rows, y_width)[:, None, :]
    return encoding.flatten(0, 1)


def to_patches(frames: Tensor, size: int) -> Tensor:
    """``[B, T, 3, H, W]`` -> ``[B, T, P, 3*S*S]``, channel order (c, p1, p2), patches row-major."""
    batch, time, channels, height, width = frames.shape
    grid = frames.reshape(batch, time, channels, height // size, size, width // size, size)
    return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, time, -1, channels * size * size)


def from_patches(patches: Tensor, size: int, rows: int) -> Tensor:
    """The inverse of `to_patches`, to ``[B, T, 3, H, W]`` with ``rows`` rows of patches."""
    batch, time, count, _ = patches.shape
    grid = patches.reshape(batch, time, rows, count // rows, 3, size, size)
    return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, time, 3, rows * size, -1)


class RMSNorm(nn.Module):
    """Holds the gain under the published name ``rms.weight``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., E]`` -> ``[..., E]``."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Norm(nn.Module):
    """RMS norm in an unconditioned model; layer norm without parameters, then FiLM, in a conditioned one.

    FiLM: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer" (2018).
    """

    def __init__(self, embed_dim: int, conditioning_dim: int | None) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        if conditioning_dim is None:
            self.rms = RMSNorm(embed_dim)
        else:
            self.to_gamma_beta = nn.Sequential(nn.SiLU(), Linear(conditioning_dim, 2 * embed_dim))

    def film(self, conditioning: Tensor, frames: int) -> Film:
        """The modulation of ``frames`` frames by ``conditioning`` ``[B, T or T-1, A]``.

        With one entry fewer than there are frames, entry t acts on frame t+1 and frame 0 is not modulated.
        """
        gamma_beta = self.to_gamma_beta(conditioning)  # [B, T or T-1, 2E]
        if conditioning.shape[1] == frames - 1:
            gamma_beta = F.pad(gamma_beta, (0, 0, 1, 0))
        gamma, beta = gamma_beta.unsqueeze(2).chunk(2, dim=-1)  # [B, T, 1, E] each
        return Film(1 + gamma, beta)

    def forward(self, x: Tensor, film: Film | None) -> Tensor:
        """``[B, T, P, E]`` -> ``[B, T, P, E]``; ``film`` is that of these T frames, None for none."""
        if hasattr(self, "rms"):
            return self.rms(x)
        shape = (self.embed_dim,)
        if film is not None and film.scale.numel() == self.embed_dim:  # one frame: one kernel does both
            scale, shift = film.scale.flatten().to(x.dtype), film.shift.flatten().to(x.dtype)
            return F.layer_norm(x, shape, scale, shift, 1e-5)
        normed = F.layer_norm(x, shape, eps=1e-5)
        return normed if film is None else torch.addcmul(film.shift, normed, film.scale)


QKV, KV = ("q_proj", "k_proj", "v_proj"), ("k_proj", "v_proj")


class Attention(Stacked):
    """Multi-head attention with the projections both kinds share; post-norm: ``norm(x + attn(x))``."""

    def __init__(self, embed_dim: int, num_heads: int, conditioning_dim: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.q_proj = Linear(embed_dim, embed_dim)
        self.k_proj = Linear(embed_dim, embed_dim)
        self.v_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        self.norm = Norm(embed_dim, conditioning_dim)

    def heads(self, x: Tensor) -> Tensor:
        """``[..., E]`` -> ``[..., h, d]``."""
        return x.unflatten(-1, (self.num_heads, self.head_dim))


def pick(x: Tensor, chosen: Tensor) -> Tensor:
    """Of ``[B, T, P, E]`` the patches ``chosen``, int64 ``[B, n]``, of every frame: ``[B, T, n, E]``."""
    index = chosen[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
    return x.gather(2, index)


class SpatialAttention(Attention):
    """Every patch of a frame attends to all patches of that frame."""

    def forward(self, x: Tensor, film: Film | None, chosen: Tensor | None = None) -> Tensor:
        """``[B, T, P, E]`` -> the same shape; with ``chosen``, of those patches alone, ``[B, 1, n, E]``."""
        frames = x.flatten(0, 1)  # [B*T, P, E]
        if chosen is None:
            parts = self.project(frames, *QKV)
        else:
            x = pick(x, chosen)  # [B, 1, n, E]
            parts = (self.q_proj(x.flatten(0, 1)), *self.project(frames, *KV))
        queries, keys, values = (self.heads(part).transpose(1, 2) for part in parts)  # [B*T, h, P or n, d]
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(x.shape)
        return self.norm(x + self.out_proj(attended), film)


_FEW = 16
"""Up to this many query–key frame pairs, attention is broadcast by hand."""


class TemporalAttention(Attention):
    """Every patch attends to its own position in this frame and the frames before it."""

    def known(self, x: Tensor) -> KeysValues:
        """What later frames need of these: ``[B, T, P, E]`` -> their keys and values."""
        return KeysValues(*self.project(x, *KV))

    def forward(self, x: Tensor, film: Film | None, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """``[B, T, P, E]`` -> the same shape, and the keys and values of these T frames."""
        queries, keys, values = self.project(x, *QKV)  # [B, T, P, E]
        new = KeysValues(keys, values)
        if past is not None:
            keys = torch.cat((past.keys, keys), 1)  # [B, Tpast+T, P, E]
            values = torch.cat((past.values, values), 1)
        return self.norm(x + self.out_proj(self._attend(queries, keys, values)), film), new

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each of ``[B, T, P, E]``, the last frames of ``[B, Tk, P, E]``, over the frames up to itself."""
        frames, known = queries.shape[1], keys.shape[1]
        seen = None
        if frames > 1:
            seen = torch.ones(frames, known, dtype=torch.bool, device=queries.device).tril(known - frames)
        if frames * known > _FEW:
            queries, keys, values = (
                self.heads(part).permute(0, 2, 3, 1, 4)  # [B, P, h, T, d]
                for part in (queries, keys, values)
            )
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            return attended.permute(0, 3, 1, 2, 4).flatten(-2)
        # Written out: a few products of whole frames are cheaper than thousands of tiny matrix products.
        products = self.heads(queries).unsqueeze(2) * self.heads(keys).unsqueeze(1)  # [B, T, Tk, P, h, d]
        scores = products.sum(-1) * self.head_dim**-0.5  # [B, T, Tk, P, h]
        if seen is not None:
            scores = scores.masked_fill(~seen[:, :, None, None], float("-inf"))
        weights = scores.softmax(2).unsqueeze(-1)  # [B, T, Tk, P, h, 1]
        return (weights * self.heads(values).unsqueeze(1)).sum(2).flatten(-2)


GLU = ("w_v", "w_g")


class SwiGLU(Stacked):
    """``w_o(silu(w_v x) * (w_g x))``. Source: Shazeer, "GLU Variants Improve Transformer" (2020)."""

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.w_v = Linear(embed_dim, width)
        self.w_g = Linear(embed_dim, width)
        self.w_o = Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., E]`` -> ``[..., E]``."""
        value, gate = self.project(x, *GLU)
        return self.w_o(F.silu(value) * gate)


class FeedForward(SwiGLU):
    """SwiGLU with its residual and norm."""

    def __init__(self, embed_dim: int, width: int, conditioning_dim: int | None) -> None:
        super().__init__(embed_dim, width)
        self.norm = Norm(embed_dim, conditioning_dim)

    def forward(self, x: Tensor, film: Film | None = None) -> Tensor:
        """``[B, T, P, E]`` -> ``[B, T, P, E]``."""
        return self.norm(x + super().forward(x), film)


class MixtureOfExperts(nn.Module):
    """Each token takes the softmax-weighted sum of its top-k experts.

    All experts are computed and the others weighted zero: shapes then never depend on the data.
    """

    def __init__(
        self, embed_dim: int, width: int, conditioning_dim: int | None, experts: int, top_k: int
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = Linear(embed_dim, experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(embed_dim, width) for _ in range(experts))
        self.norm = Norm(embed_dim, conditioning_dim)

    def forward(self, x: Tensor, film: Film | None = None) -> Tensor:
        """``[B, T, P, E]`` -> ``[B, T, P, E]``."""
        scores, chosen = self.router(x).topk(self.top_k, dim=-1)  # [B, T, P, k]
        shares = scores.softmax(-1)  # under autocast of another type than the scores
        weights = torch.zeros(*x.shape[:-1], len(self.experts), dtype=shares.dtype, device=x.device)
        weights = weights.scatter(-1, chosen, shares)  # [B, T, P, n]
        mixed = sum(weights[..., i, None] * expert(x) for i, expert in enumerate(self.experts))
        return self.norm(x + mixed, film)


class Block(nn.Module):
    """Spatial attention, temporal attention, FFN."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_width: int,
        conditioning_dim: int | None,
        experts: int,
        top_k: int,
    ) -> None:
        super().__init__()
        self.spatial_attn = SpatialAttention(embed_dim, num_heads, conditioning_dim)
        self.temporal_attn = TemporalAttention(embed_dim, num_heads, conditioning_dim)
        self.ffn = (
            MixtureOfExperts(embed_dim, ffn_width, conditioning_dim, experts, top_k)
            if experts
            else FeedForward(embed_dim, ffn_width, conditioning_dim)
        )

    def films(self, conditioning: Tensor, frames: int) -> BlockFilms:
        """The three norms' modulations of a window of ``frames`` frames."""
        parts = (self.spatial_attn, self.temporal_attn, self.ffn)
        return tuple(part.norm.film(conditioning, frames) for part in parts)

    def forward(
        self, x: Tensor, films: BlockFilms, past: KeysValues | None, chosen: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """``[B, T, P, E]`` -> the same shape, and the keys and values of these T frames.

        With ``chosen``, int64 ``[B, n]``, both of these patches of a single frame alone.
        """
        x = self.spatial_attn(x, films[0], chosen)
        if chosen is not None and past is not None:
            past = KeysValues(pick(past.keys, chosen), pick(past.values, chosen))
        x, new = self.temporal_attn(x, films[1], past)
        return self.ffn(x, films[2]), new

    def known(self, x: Tensor, films: BlockFilms) -> KeysValues:
        """The keys and values alone that `forward` returns."""
        return self.temporal_attn.known(self.spatial_attn(x, films[0]))


_ENCODED_FRAMES = 64
"""Window lengths up to this have their encoding at hand."""


class Transformer(nn.Module):
    """A stack of blocks behind the temporal encoding.

    Args:
        embed_dim: E.
        num_heads: h, a divisor of E.
        ffn_width: F, the inner width of the FFN: floor(2*hidden_dim/3) in a published checkpoint.
        num_blocks: Number of blocks.
        conditioning_dim: A of the actions that condition every norm; None for an unconditioned model.
        experts: Experts of the MoE FFN; 0 for the plain FFN.
        top_k: Experts a token uses.
    """

    encoding: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_width: int,
        num_blocks: int,
        conditioning_dim: int | None = None,
        experts: int = 0,
        top_k: int = 2,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, ffn_width, conditioning_dim, experts, top_k)
            for _ in range(num_blocks)
        )
        # Kept where the model is: a copy from the CPU would stall a GPU's stream at every call.
        encoding = F.pad(
            sincos(_ENCODED_FRAMES, temporal_width(embed_dim)), (embed_dim - temporal_width(embed_dim), 0)
        )
        self.register_buffer("encoding", encoding, persistent=False)  # [frames, E]

    def films(self, conditioning: Tensor | None, frames: int) -> list[BlockFilms]:
        """Every norm's modulation for a window; computed once, whatever is decoded from it.

        Args:
            conditioning: Action latents ``[B, T or T-1, A]``, or None for no modulation.
            frames: T, the window's frames.
        """
        if conditioning is None:
            return [(None, None, None)] * len(self.blocks)
        return [block.films(conditioning, frames) for block in cast(Iterable[Block], self.blocks)]

    def forward(
        self,
        x: Tensor,
        films: list[BlockFilms],
        past: Past | None = None,
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """Transform frames that follow ``past``.

        Args:
            x: Embedded patches ``[B, T, P, E]``.
            films: From `films`, for these T frames.
            past: Temporal keys and values of the frames before these; None where these are the first.
            chosen: Of a single frame (T is 1), the patches whose result is wanted, int64 ``[B, n]``: the
                last block leaves out what the others alone need. None: all.

        Returns:
            The transformed patches, ``[B, T, P, E]`` or ``[B, 1, n, E]``, and these frames' own keys and
            values (of the chosen patches alone in the last block).
        """
        x = self._encoded(x, past[0].keys.shape[1] if past else 0)
        new: Past = []
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            x, keys_values = block(x, films[index], past[index] if past else None, chosen if last else None)
            new.append(keys_values)
        return x, new

    def past(self, x: Tensor, films: list[BlockFilms]) -> Past:
        """The keys and values of the first frames, ``[B, T, P, E]``, where nobody needs what they turn into.

        As `forward` would return them, without the larger part of the last block.
        """
        x = self._encoded(x, 0)
        new: Past = []
        blocks = list(cast(Iterable[Block], self.blocks))
        for block, film in zip(blocks[:-1], films[:-1], strict=True):
            x, keys_values = block(x, film, None)
            new.append(keys_values)
        return [*new, *(block.known(x, film) for block, film in zip(blocks[-1:], films[-1:], strict=True))]

    def _encoded(self, x: Tensor, start: int) -> Tensor:
        """With the encoding of the frames' place in the window, of which the first is number ``start``."""
        stop = start + x.shape[1]
        encoding = self.encoding
        if stop > len(encoding):
            width = temporal_width(self.embed_dim)
            encoding = F.pad(sincos(stop, width), (self.embed_dim - width, 0))
        return x + encoding[start:stop, None].to(x)


def stack_projections(model: nn.Module) -> None:
    """Let every attention and FFN of a frozen model compute what reads the same input in one product."""
    for part in model.modules():
        if isinstance(part, Attention):
            part.stack(*QKV)
        elif isinstance(part, SwiGLU):
            part.stack(*GLU)


def slice_films(films: list[BlockFilms], start: int, stop: int) -> list[BlockFilms]:
    """The modulations of frames ``start`` to ``stop - 1`` of a window."""
    return [tuple(film and film.frames(start, stop) for film in block) for block in films]


class PatchEmbed(nn.Module):
    """Frames to embedded patches; the published weight is that of a 1x1 convolution."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3 * patch_size**2, embed_dim, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` of any float type -> ``[B, T, P, E]``, before the spatial encoding."""
        patches = to_patches(frames, self.patch_size).to(self.proj.weight.dtype)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)
