"""The three models of a suite: video tokenizer, latent action model, dynamics.

Shape letters as in `layers`; also L latent_dim, K codebook size, S patch_size, N = 3*S*S.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.errors import ParameterError
from helpers.worldmodel.layers import (
    BlockFilms,
    Past,
    PatchEmbed,
    Transformer,
    from_patches,
    slice_films,
    spatial_encoding,
)
from helpers.worldmodel.linear import Linear, linear
from helpers.worldmodel.quantizer import Quantizer


@dataclass(frozen=True)
class ModelConfig:
    """What one checkpoint's model is built from. Field names are the published config keys where possible.

    ``ffn_width`` is floor(2*hidden_dim/3); ``num_experts`` is 0 without MoE. ``action_dim`` is A: log2 of the
    number of actions in a latent action model, the conditioning's width in a dynamics model (None there: not
    conditioned), unused in a tokenizer.
    """

    frame_size: int
    patch_size: int
    embed_dim: int
    num_heads: int
    ffn_width: int
    num_blocks: int
    latent_dim: int = 6
    num_bins: int = 4
    action_dim: int | None = None
    num_experts: int = 0
    top_k_experts: int = 2

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.frame_size // self.patch_size

    def transformer(self, conditioning_dim: int | None = None) -> Transformer:
        """A new transformer of this configuration."""
        return Transformer(
            self.embed_dim,
            self.num_heads,
            self.ffn_width,
            self.num_blocks,
            conditioning_dim,
            self.num_experts,
            self.top_k_experts,
        )

    def encoding(self) -> Tensor:
        """The spatial encoding ``[P, E]``."""
        return spatial_encoding(self.grid, self.grid, self.embed_dim)


def check_frames(frames: Tensor, config: ModelConfig) -> None:
    """Raise a `ParameterError` unless ``frames`` is a float ``[B, T, 3, frame_size, frame_size]``."""
    size = config.frame_size
    if frames.ndim != 5 or frames.shape[2:] != (3, size, size) or not frames.is_floating_point():
        raise ParameterError(
            f"Frames have shape {list(frames.shape)} and type {frames.dtype}; "
            f"this model takes float frames [B, T, 3, {size}, {size}] in [-1, 1]."
        )


class _FrameEncoder(nn.Module):
    """Frames to transformed patches; the two encoders put their heads on it."""

    encoding: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.patch_size, config.embed_dim)
        self.transformer = config.transformer()
        self.register_buffer("encoding", config.encoding(), persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` -> ``[B, T, P, E]``."""
        embedded = self.patch_embed(frames) + self.encoding
        return self.transformer(embedded, self.transformer.films(None, frames.shape[1]))[0]


class TokenizerEncoder(_FrameEncoder):
    """Frames ``[B, T, 3, H, W]`` -> pre-quantised latents ``[B, T, P, L]``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.latent_head = nn.Sequential(
            nn.LayerNorm(config.embed_dim), Linear(config.embed_dim, config.latent_dim)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Shapes as above."""
        return self.latent_head(self.encode(frames))


class PixelHead(nn.Module):
    """Patches to pixels; the published weight is that of a 1x1 convolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_size, self.rows = config.patch_size, config.grid
        self.to_pixels = nn.Conv2d(config.embed_dim, 3 * config.patch_size**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, P, E]`` -> ``[B, T, 3, H, W]``."""
        patches = linear(x, self.to_pixels.weight.flatten(1), self.to_pixels.bias)  # [B, T, P, N]
        return from_patches(patches, self.patch_size, self.rows)


class TokenizerDecoder(nn.Module):
    """Latents ``[B, T, P, L]`` -> frames ``[B, T, 3, H, W]``; no squashing, so pixels may leave [-1, 1]."""

    encoding: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.latent_embed = Linear(config.latent_dim, config.embed_dim)
        self.transformer = config.transformer()
        self.frame_head = PixelHead(config)
        self.register_buffer("encoding", config.encoding(), persistent=False)

    def forward(self, latents: Tensor, last: int | None = None) -> Tensor:
        """Shapes as above; of the ``last`` frames alone if given, the others being their context."""
        embedded = self.latent_embed(latents) + self.encoding  # [B, T, P, E]
        known = 0 if last is None else latents.shape[1] - last
        films = self.transformer.films(None, latents.shape[1])
        past = self.transformer.past(embedded[:, :known], films) if known else None
        return self.frame_head(self.transformer(embedded[:, known:], films, past)[0])


class VideoTokenizer(nn.Module):
    """Between frames and tokens. Causal in time: a frame's tokens do not depend on later frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TokenizerEncoder(config)
        self.quantizer = Quantizer(config.latent_dim, config.num_bins)
        self.decoder = TokenizerDecoder(config)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames float ``[B, T, 3, H, W]`` in [-1, 1] -> latents float ``[B, T, P, L]`` in [-1, 1].

        Raises:
            ParameterError: The frames have another size or type.
        """
        check_frames(frames, self.config)
        return self.quantizer(self.encoder(frames))

    def tokenize(self, frames: Tensor) -> Tensor:
        """Frames as `encode` takes them -> token indices int64 ``[B, T, P]``."""
        return self.quantizer.latents_to_indices(self.encode(frames))

    def detokenize(self, latents: Tensor, last: int | None = None) -> Tensor:
        """Latents float ``[B, T, P, L]`` in [-1, 1] -> frames float ``[B, T, 3, H, W]``, unclamped.

        With ``last``, the frames ``[B, last, 3, H, W]`` at the end alone; those before are their context.
        """
        return self.decoder(latents, last)

    def forward(self, frames: Tensor) -> Tensor:
        """Reconstruct frames ``[B, T, 3, H, W]``."""
        return self.detokenize(self.encode(frames))


class ActionEncoder(_FrameEncoder):
    """Frames ``[B, T, 3, H, W]`` -> pre-quantised actions ``[B, T-1, A]``, one a pair of neighbours."""

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.action_head = nn.Sequential(
            nn.LayerNorm(2 * width),
            Linear(2 * width, 4 * action_dim),
            nn.GELU(),
            Linear(4 * action_dim, action_dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Shapes as above."""
        pooled = self.encode(frames).mean(2)  # [B, T, E]
        return self.action_head(torch.cat((pooled[:, :-1], pooled[:, 1:]), -1))


class ActionDecoder(nn.Module):
    """Training only: predicts each frame from those before and the actions, so that actions mean changes."""

    encoding: Tensor

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__()
        pixels = 3 * config.patch_size**2
        self.patch_size, self.rows = config.patch_size, config.grid
        self.mask_token = nn.Parameter(torch.empty(1, 1, 1, config.embed_dim).uniform_(-0.03, 0.03))
        self.patch_embed = PatchEmbed(config.patch_size, config.embed_dim)
        self.transformer = config.transformer(action_dim)
        self.frame_head = nn.Sequential(
            nn.LayerNorm(config.embed_dim), Linear(config.embed_dim, pixels), nn.Tanh()
        )
        self.register_buffer("encoding", config.encoding(), persistent=False)

    def forward(self, frames: Tensor, actions: Tensor, masked: bool = False) -> Tensor:
        """Predict frames 1..T-1, ``[B, T-1, 3, H, W]`` in [-1, 1].

        Takes frames ``[B, T, 3, H, W]`` in [-1, 1] and the action latents ``[B, T-1, A]`` between them.
        With ``masked`` only frame 0 is shown and the later ones are mask tokens, as in training.
        """
        embedded = self.patch_embed(frames[:, :-1])  # [B, T-1, P, E]
        if masked:
            hidden = self.mask_token.expand_as(embedded[:, 1:])
            embedded = torch.cat((embedded[:, :1], hidden), 1)
        films = self.transformer.films(actions, embedded.shape[1])
        x, _ = self.transformer(embedded + self.encoding, films)
        return from_patches(self.frame_head(x), self.patch_size, self.rows)


class LatentActions(nn.Module):
    """The latent action model: which of ``n_actions`` "buttons" was pressed between two frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.action_dim is None:
            raise ParameterError("A latent action model needs action_dim.")
        self.config = config
        self.n_actions = 2**config.action_dim
        self.encoder = ActionEncoder(config, config.action_dim)
        self.quantizer = Quantizer(config.action_dim, 2)
        self.decoder = ActionDecoder(config, config.action_dim)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames float ``[B, T, 3, H, W]`` in [-1, 1] -> action latents ``[B, T-1, A]``, each -1 or 1.

        Raises:
            ParameterError: The frames have another size or type, or are fewer than two.
        """
        check_frames(frames, self.config)
        if frames.shape[1] < 2:
            raise ParameterError(
                "An action lies between two frames; this clip has one.", fix="Pass at least two frames."
            )
        return self.quantizer(self.encoder(frames))


class Dynamics(nn.Module):
    """Predicts the tokens of masked patches from the tokens of the others, earlier frames and actions."""

    encoding: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, 1, config.latent_dim).uniform_(-0.03, 0.03))
        self.latent_embed = Linear(config.latent_dim, config.embed_dim)
        self.transformer = config.transformer(config.action_dim)
        self.output_mlp = Linear(config.embed_dim, config.num_bins**config.latent_dim)
        self.register_buffer("encoding", config.encoding(), persistent=False)

    def forward(self, latents: Tensor, conditioning: Tensor | None) -> Tensor:
        """Logits of every patch of a window.

        Args:
            latents: Float ``[B, T, P, L]``; masked patches hold ``mask_token``.
            conditioning: Action latents ``[B, T-1, A]`` (entry t acts on frame t+1), ``[B, T, A]``, or None.

        Returns:
            Float ``[B, T, P, K]``.

        Raises:
            ParameterError: The conditioning fits neither the frames nor the model.
        """
        films = self.films(conditioning, latents.shape[1])
        return self.output_mlp(self.hidden(latents, films)[0])

    def films(self, conditioning: Tensor | None, frames: int) -> list[BlockFilms]:
        """The modulations of a window of ``frames`` frames; see `forward` for shapes and errors."""
        if conditioning is not None and (
            self.config.action_dim is None
            or conditioning.ndim != 3
            or conditioning.shape[1] not in (frames - 1, frames)
            or conditioning.shape[2] != self.config.action_dim
        ):
            wanted = f"[B, {frames - 1} or {frames}, {self.config.action_dim}]"
            raise ParameterError(
                f"The conditioning has shape {list(conditioning.shape)}; for {frames} frames this model "
                f"takes {wanted if self.config.action_dim else 'None'}."
            )
        return self.transformer.films(conditioning, frames)

    def hidden(
        self,
        latents: Tensor,
        films: list[BlockFilms],
        past: Past | None = None,
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """What `output_mlp` turns into logits, for frames that follow ``past``.

        Args:
            latents: Float ``[B, T, P, L]``.
            films: The modulations of these T frames.
            past: Of the frames before; None where there are none.
            chosen: Of a single frame, the patches whose result is wanted, int64 ``[B, n]``; None: all.

        Returns:
            Float ``[B, T, P, E]``, or ``[B, 1, n, E]`` of the chosen patches, and these frames' keys and
            values, to be the past of later ones.
        """
        return self.transformer(self.latent_embed(latents) + self.encoding, films, past, chosen)

    def context(
        self, latents: Tensor, conditioning: Tensor | None, horizon: int
    ) -> tuple[Past, list[BlockFilms]]:
        """All that the frames to come need to know of the context.

        Args:
            latents: The context's ``[B, Tc, P, L]``.
            conditioning: Of the whole window, ``[B, Tc+H-1 or Tc+H, A]``, or None.
            horizon: H.

        Returns:
            The context's past, and the modulations of the H frames to come.
        """
        known = latents.shape[1]
        films = self.films(conditioning, known + horizon)
        past = self.transformer.past(self.latent_embed(latents) + self.encoding, slice_films(films, 0, known))
        return past, slice_films(films, known, known + horizon)
