"""Decoding: what the engine does not recompute changes no token, and chance has the odds it should have."""

import math

import pytest
import torch
from golden_cases import SMALL, random_actions, random_latents, random_suite

from helpers.bench.frames import straight_decode
from helpers.errors import ParameterError
from helpers.worldmodel import maskgit_decode
from helpers.worldmodel.decode import draw_uniform, greedy, probabilities, sample, unmask_counts


def decode(suite, context, conditioning=None, **options):
    return maskgit_decode(suite.dynamics, suite.video_tokenizer.quantizer, context, conditioning, **options)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# --- the schedule ----------------------------------------------------------------------------------


def published_counts(positions, steps, k=5):
    """The schedule as the specification words it."""
    fixed, counts = 0, []
    for m in range(steps):
        target = (
            positions
            if m == steps - 1
            else math.ceil(positions * (math.exp(k * m / steps) - 1) / (math.exp(k) - 1))
        )
        masked = positions - fixed
        wanted = max(max(positions // 16, 1), min(max(target - fixed, 0), masked))
        counts.append(min(wanted, masked))
        fixed += counts[-1]
        if fixed == positions:
            return counts
    return counts


@pytest.mark.parametrize("positions", [1, 2, 7, 15, 16, 17, 64, 100, 128, 256, 512])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 10, 12, 16, 50, 1000])
def test_every_position_is_fixed_once_on_the_published_schedule(positions, steps):
    counts = unmask_counts(positions, steps)

    assert counts == published_counts(positions, steps)
    assert sum(counts) == positions and len(counts) <= steps and min(counts) >= 1


def test_few_positions_are_fixed_at_first_and_most_at_the_end():
    assert unmask_counts(256, 10) == [16] * 9 + [112]
    assert unmask_counts(32, 8) == [2] * 7 + [18]


# --- the same tokens as the straight way -----------------------------------------------------------


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize(("steps", "known"), [(1, 1), (2, 3), (4, 2), (7, 1), (12, 4)])
def test_keeping_the_context_decodes_the_tokens_that_recomputing_it_does(conditioned, horizon, steps, known):
    for seed in range(3):
        suite = random_suite(seed)
        context = random_latents(suite, 2, known, seed)
        conditioning = random_actions(suite, 2, known + horizon - 1, seed) if conditioned else None

        latents = decode(suite, context, conditioning, horizon=horizon, steps=steps)

        assert latents.shape == (2, known + horizon, 9, 3)
        assert torch.equal(latents, straight_decode(suite, context, conditioning, horizon, steps))


def test_the_context_is_returned_as_it_was_given():
    suite = random_suite()
    context = random_latents(suite, 2, 3)
    given = context.clone()

    latents = decode(suite, context, temperature=1.0)

    assert torch.equal(latents[:, :3], given) and torch.equal(context, given)


def test_new_frames_are_made_of_tokens_alone_and_no_mask_is_left():
    suite = random_suite()
    quantizer = suite.video_tokenizer.quantizer
    for temperature in (0.0, 1.0):
        latents = decode(suite, random_latents(suite, 2, 2), horizon=2, steps=3, temperature=temperature)
        assert torch.equal(quantizer.indices_to_latents(quantizer.latents_to_indices(latents)), latents)


def test_actions_change_what_is_decoded():
    suite = random_suite()
    context = random_latents(suite, 1, 2)
    results = {
        tuple(decode(suite, context, random_actions(suite, 1, 2, seed)).flatten().tolist())
        for seed in range(8)
    }
    assert len(results) > 2


# --- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("horizon", [1, 2])
def test_a_batch_element_decodes_as_it_would_alone(temperature, horizon):
    suite = random_suite(1)
    context, actions = random_latents(suite, 4, 2), random_actions(suite, 4, 1 + horizon)
    options = {"horizon": horizon, "steps": 6, "temperature": temperature}

    together = decode(suite, context, actions, generator=generators(*range(4)), **options)

    for b in range(4):
        alone = decode(suite, context[b : b + 1], actions[b : b + 1], generator=generators(b), **options)
        assert torch.equal(together[b : b + 1], alone)


def test_the_order_within_a_batch_does_not_matter():
    suite = random_suite(2)
    context = random_latents(suite, 3, 2)
    there = decode(suite, context, temperature=1.0, generator=generators(5, 6, 7))
    back = decode(suite, context.flip(0), temperature=1.0, generator=generators(7, 6, 5))
    assert torch.equal(there, back.flip(0))


# --- chance ----------------------------------------------------------------------------------------


def test_the_same_seed_decodes_the_same_and_another_seed_does_not():
    suite = random_suite()
    context = random_latents(suite, 1, 2)
    first, again, other = (
        decode(suite, context, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def sampled(logits, temperature, uniform):
    """Tokens sampled from the softmax of ``logits / temperature``, and the largest probabilities."""
    weights = probabilities(logits.clone(), temperature)
    return sample(weights, uniform), weights.amax(-1)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_every_decoding_step_samples_with_numbers_of_its_own(temperature):
    suite, horizon, steps = random_suite(1), 2, 5
    quantizer, positions = suite.video_tokenizer.quantizer, horizon * SMALL.grid**2
    context, actions = random_latents(suite, 1, 2), random_actions(suite, 1, 3)
    counts = unmask_counts(positions, steps)
    uniform = draw_uniform(1, len(counts), positions, generators(3), torch.device("cpu"))
    new = suite.dynamics.mask_token.expand(1, horizon, SMALL.grid**2, -1).clone()
    masked = list(range(positions))
    for step, count in enumerate(counts):
        logits = suite.dynamics(torch.cat((context, new), 1), actions)[:, 2:].flatten(1, 2)
        index, confidence = sampled(logits, temperature, uniform[:, step])
        surest = sorted(masked, key=lambda position: -confidence[0, position])[:count]
        new.flatten(1, 2)[0, surest] = quantizer.indices_to_latents(index[0, surest])
        masked = [position for position in masked if position not in surest]

    latents = decode(
        suite, context, actions, horizon=2, steps=5, temperature=temperature, generator=generators(3)
    )

    assert torch.equal(latents[:, 2:], new)


@pytest.mark.parametrize("size", [1, 2, 9, 64, 81])
def test_tokens_are_sampled_with_the_probabilities_of_the_softmax(size):
    draws, temperature = 40_000, 0.8
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 1.5
    probabilities = (logits.double() / temperature).softmax(0)
    uniform = torch.rand(1, draws, generator=torch.Generator().manual_seed(1))

    index, confidence = sampled(logits.expand(1, draws, size), temperature, uniform)

    counts = index.flatten().bincount(minlength=size).double()
    chi_square = ((counts - draws * probabilities).square() / (draws * probabilities)).sum()
    assert chi_square < size + 5 * (2 * size) ** 0.5  # its mean is size-1, its variance 2(size-1)
    torch.testing.assert_close(confidence.double(), probabilities.max().expand(1, draws), rtol=1e-5, atol=0)


def test_sampling_inverts_the_cumulative_distribution_in_the_order_of_the_codebook():
    size = 81
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0))
    ends = logits.double().softmax(0).cumsum(0)
    middles = ends - logits.double().softmax(0) / 2

    index, _ = sampled(logits.expand(1, size, size), 1.0, middles.float()[None])

    assert index.tolist() == [list(range(size))]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("certain", [0, 17, 40])
def test_a_token_without_any_probability_is_never_sampled(certain, uniform):
    logits = torch.full((1, 1, 41), -1e4)
    logits[..., certain] = 0

    index, confidence = sampled(logits, 1.0, torch.full((1, 1), uniform))

    assert index.item() == certain and confidence.item() == 1


def test_rounding_at_the_very_end_of_the_distribution_does_not_leave_the_tokens_that_weigh_anything():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 20_000, 30, generator=generator) * 3
    logits[..., 11:] = -math.inf  # in a group of several, of which most weigh nothing
    index, _ = sampled(logits, 1.0, torch.full((1, 20_000), 1 - 2**-24))
    assert index.max() <= 10


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-40, 5e-324])
def test_a_temperature_close_to_0_takes_the_likeliest_tokens(temperature):
    suite = random_suite()
    context, actions = random_latents(suite, 2, 2), random_actions(suite, 2, 2)
    # In one step: in several, a temperature makes all tokens equally certain and so changes their order.
    cold = decode(suite, context, actions, steps=1, temperature=temperature)
    assert torch.equal(cold, decode(suite, context, actions, steps=1))


def test_a_temperature_sharpens_or_flattens_what_is_sampled():
    logits = torch.tensor([2.0, 1.0, 0.0]).expand(1, 20_000, 3)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    shares = [(sampled(logits, t, uniform)[0] == 0).float().mean().item() for t in (0.25, 1.0, 4.0)]
    expected = [(torch.tensor([2.0, 1.0, 0.0]) / t).softmax(0)[0].item() for t in (0.25, 1.0, 4.0)]
    assert shares == pytest.approx(expected, abs=0.015)


def test_greedy_takes_the_likeliest_token_and_its_probability():
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    index, confidence = greedy(logits)
    assert torch.equal(index, logits.softmax(-1).argmax(-1))
    torch.testing.assert_close(confidence, logits.softmax(-1).amax(-1))


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": 1.0}, "horizon is 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"generator": generators(1, 2, 3)}, "3 generators"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(options, name):
    suite = random_suite()
    with pytest.raises(ParameterError, match=name):
        decode(suite, random_latents(suite, 2, 2), **options)


@pytest.mark.parametrize("shape", [(2, 2, 9), (2, 2, 8, 3), (2, 2, 9, 4), (2, 0, 9, 3)])
def test_context_latents_that_do_not_fit_the_model_are_refused(shape):
    with pytest.raises(ParameterError, match=r"takes \[B, T, 9, 3\]"):
        decode(random_suite(), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 1, 2), (2, 4, 2), (2, 2, 3), (1, 2, 2), (3, 2, 2), (2, 2), ()])
def test_conditioning_that_does_not_fit_is_refused_rather_than_broadcast(shape):
    suite = random_suite()
    with pytest.raises(ParameterError, match="conditioning"):
        decode(suite, random_latents(suite, 2, 2), torch.zeros(shape))


def test_conditioning_may_have_an_entry_for_frame_0_too():
    suite = random_suite()
    context, actions = random_latents(suite, 1, 2), random_actions(suite, 1, 3)
    assert decode(suite, context, actions).shape == (1, 3, SMALL.grid**2, SMALL.latent_dim)
