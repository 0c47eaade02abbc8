"""Finite scalar quantisation: every latent dimension is rounded to one of D levels in [-1, 1].

Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (2023), as published.
"""

import torch
from torch import Tensor, nn

from helpers.errors import ParameterError


class Quantizer(nn.Module):
    """Between latents in [-1, 1] and token indices in [0, K), K = D**L.

    Args:
        latent_dim: L, the dimensions of a latent.
        num_bins: D, the levels a dimension can take.
    """

    basis: Tensor

    def __init__(self, latent_dim: int, num_bins: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_bins = num_bins
        self.codebook_size = num_bins**latent_dim
        basis = torch.tensor([num_bins**index for index in range(latent_dim)])  # [L] int64
        self.register_buffer("basis", basis)

    def forward(self, values: Tensor) -> Tensor:
        """Quantise encoder outputs ``[..., L]`` (any float) to latents ``[..., L]`` in [-1, 1].

        The gradient passes straight through the rounding. Computed in float32 whatever comes in:
        in bfloat16 the largest index leaves the codebook.
        """
        bounded = 0.5 * (torch.tanh(values.float()) + 1) * (self.num_bins - 1)  # [..., L] in [0, D-1]
        digits = bounded + (torch.round(bounded) - bounded).detach()
        return 2 * digits / (self.num_bins - 1) - 1

    def latents_to_indices(self, latents: Tensor) -> Tensor:
        """Latents ``[..., L]`` in [-1, 1] -> indices int64 ``[...]`` in [0, K)."""
        digits = torch.round((latents.float() + 1) * (0.5 * (self.num_bins - 1))).long()  # [..., L]
        return (digits * self.basis).sum(-1)

    def indices_to_latents(self, indices: Tensor) -> Tensor:
        """Indices int64 ``[...]`` in [0, K) -> latents float32 ``[..., L]`` in [-1, 1].

        Raises:
            ParameterError: An index is outside the codebook. Checked on the CPU only: on a GPU the check
                would stall the stream.
        """
        if (
            not indices.is_cuda
            and indices.numel()
            and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size
        ):
            raise ParameterError(
                f"Token indices run from {int(indices.min())} to {int(indices.max())}; "
                f"this codebook has 0 to {self.codebook_size - 1}."
            )
        return self.latents_of(indices)

    def latents_of(self, indices: Tensor) -> Tensor:
        """As `indices_to_latents`, for indices that cannot lie outside the codebook: the engine's own."""
        digits = (
            torch.div(indices.unsqueeze(-1), self.basis, rounding_mode="floor") % self.num_bins
        )  # [..., L]
        return 2 * digits.float() / (self.num_bins - 1) - 1
