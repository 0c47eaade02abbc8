"""The quantizer: latents in [-1, 1] and token indices are two names for the same thing."""

import itertools

import pytest
import torch

from helpers.errors import ParameterError
from helpers.worldmodel.quantizer import Quantizer

SHAPES = [(6, 4), (5, 4), (4, 3), (3, 5), (2, 8), (1, 2), (4, 2), (1, 7), (2, 16)]  # L, D


@pytest.mark.parametrize(("latent_dim", "num_bins"), SHAPES)
def test_every_index_of_the_codebook_survives_the_way_to_latents_and_back(latent_dim, num_bins):
    quantizer = Quantizer(latent_dim, num_bins)
    indices = torch.arange(num_bins**latent_dim)

    latents = quantizer.indices_to_latents(indices)

    assert torch.equal(quantizer.latents_to_indices(latents), indices)
    assert latents.min() == -1 and latents.max() == 1
    assert len(latents.unique(dim=0)) == len(indices) == quantizer.codebook_size


@pytest.mark.parametrize(("latent_dim", "num_bins"), [(3, 4), (2, 5)])
def test_the_first_dimension_is_the_lowest_digit(latent_dim, num_bins):
    levels = torch.linspace(-1, 1, num_bins)
    by_hand = [
        levels[list(reversed(digits))] for digits in itertools.product(range(num_bins), repeat=latent_dim)
    ]

    latents = Quantizer(latent_dim, num_bins).indices_to_latents(torch.arange(num_bins**latent_dim))

    torch.testing.assert_close(latents, torch.stack(by_hand))


@pytest.mark.parametrize(("latent_dim", "num_bins"), SHAPES)
def test_quantised_values_lie_on_the_levels_nearest_to_their_tanh(latent_dim, num_bins):
    values = torch.randn(500, latent_dim, generator=torch.Generator().manual_seed(0)) * 3
    levels = torch.linspace(-1, 1, num_bins, dtype=torch.float64)

    latents = Quantizer(latent_dim, num_bins)(values)

    nearest = levels[(values.double().tanh().unsqueeze(-1) - levels).abs().argmin(-1)]
    torch.testing.assert_close(latents.double(), nearest, rtol=0, atol=1e-6)


def test_a_value_half_way_between_two_levels_goes_to_the_even_one():
    half = torch.zeros(1, 1)  # tanh 0 lies in the middle: between digits 0 and 1 of 2, between 1 and 2 of 4
    assert Quantizer(1, 2).latents_to_indices(Quantizer(1, 2)(half)).item() == 0
    assert Quantizer(1, 4).latents_to_indices(Quantizer(1, 4)(half)).item() == 2


def test_the_largest_index_stays_in_the_codebook_where_bfloat16_would_leave_it():
    quantizer = Quantizer(6, 4)
    assert torch.tensor(4095).bfloat16().int() == 4096  # what made it leave

    with torch.autocast("cpu", torch.bfloat16):
        latents = quantizer(torch.full((1, 6), 9.0, dtype=torch.bfloat16))
        index = quantizer.latents_to_indices(latents.bfloat16())

    assert index.item() == 4095
    assert latents.dtype == torch.float32


def test_the_gradient_passes_straight_through_the_rounding():
    values = torch.tensor([[-1.2, 0.1, 0.4]], requires_grad=True)

    Quantizer(3, 4)(values).sum().backward()

    torch.testing.assert_close(values.grad, 1 - values.detach().tanh() ** 2)


@pytest.mark.parametrize("indices", [[0, 64], [-1, 3], [4096]])
def test_an_index_outside_the_codebook_is_refused(indices):
    with pytest.raises(ParameterError, match=r"run from .* codebook has 0 to 63"):
        Quantizer(3, 4).indices_to_latents(torch.tensor(indices))


def test_no_indices_have_no_latents():
    assert Quantizer(3, 4).indices_to_latents(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, 3)
