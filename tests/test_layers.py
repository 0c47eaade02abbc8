"""The building blocks, each against a slow and literal reading of its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import random_model

from helpers.worldmodel import linear
from helpers.worldmodel.layers import (
    MixtureOfExperts,
    Norm,
    PatchEmbed,
    SpatialAttention,
    TemporalAttention,
    Transformer,
    from_patches,
    sincos,
    slice_films,
    spatial_encoding,
    stack_projections,
    temporal_width,
    to_patches,
)
from helpers.worldmodel.linear import Linear

# --- positional encodings --------------------------------------------------------------------------


def angle_encoding(position: int, width: int) -> list[float]:
    """The encoding of one position, entry by entry."""
    angles = [position / 10000 ** (2 * (column // 2) / width) for column in range(width)]
    return [math.cos(a) if column % 2 else math.sin(a) for column, a in enumerate(angles)]


def even(number: int) -> int:
    return number - number % 2


@pytest.mark.parametrize("embed_dim", [32, 48, 128, 100])
def test_a_patch_gets_its_column_then_its_row_then_zeros(embed_dim):
    temporal = even(embed_dim // 3)
    x_width = even((embed_dim - temporal) // 2)
    y_width = embed_dim - temporal - x_width
    rows, columns = 3, 5

    encoding = spatial_encoding(rows, columns, embed_dim)

    assert temporal_width(embed_dim) == temporal
    for patch in range(rows * columns):
        row, column = divmod(patch, columns)
        expected = [*angle_encoding(column, x_width), *angle_encoding(row, y_width), *[0.0] * temporal]
        torch.testing.assert_close(encoding[patch], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [10, 16, 42, 32])
def test_the_temporal_encoding_is_that_of_the_frames_index(width):
    expected = torch.tensor([angle_encoding(position, width) for position in range(7)])
    torch.testing.assert_close(sincos(7, width), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("embed_dim", [32, 48, 100])
def test_a_transformer_adds_the_frames_index_to_the_last_columns_alone(embed_dim):
    empty = Transformer(embed_dim, 4, 8, 0)
    x = torch.randn(1, 4, 2, embed_dim)
    width = even(embed_dim // 3)

    added = empty(x, [])[0] - x

    assert not added[..., : embed_dim - width].any()
    expected = torch.tensor([angle_encoding(time, width) for time in range(4)])
    torch.testing.assert_close(added[0, :, 1, embed_dim - width :], expected, rtol=0, atol=1e-5)


# --- patches ---------------------------------------------------------------------------------------


def test_patches_are_row_major_and_hold_channel_then_row_then_column():
    size, rows, columns = 4, 2, 3
    frames = torch.randn(2, 2, 3, rows * size, columns * size)

    patches = to_patches(frames, size)

    assert patches.shape == (2, 2, rows * columns, 3 * size * size)
    for row, column, channel, p1, p2 in [(0, 0, 0, 0, 1), (0, 2, 1, 3, 0), (1, 0, 2, 1, 2), (1, 2, 0, 3, 3)]:
        entry = patches[1, 1, row * columns + column, (channel * size + p1) * size + p2]
        assert entry == frames[1, 1, channel, row * size + p1, column * size + p2]


@pytest.mark.parametrize(("size", "rows", "columns"), [(1, 3, 2), (2, 2, 5), (4, 3, 3), (8, 1, 2)])
def test_putting_patches_together_undoes_taking_them_apart(size, rows, columns):
    frames = torch.randn(2, 3, 3, rows * size, columns * size)
    assert torch.equal(from_patches(to_patches(frames, size), size, rows), frames)


def test_a_patch_is_embedded_as_the_published_convolution_does_it():
    embed = random_model(PatchEmbed(4, 16), 0)
    frames = torch.randn(1, 2, 3, 8, 12)
    # A 1x1 convolution over patches is a strided convolution over pixels with the same weights.
    weight = embed.proj.weight.reshape(16, 3, 4, 4)
    expected = torch.nn.functional.conv2d(frames[0], weight, embed.proj.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(embed(frames)[0], expected, rtol=1e-4, atol=1e-5)


# --- attention -------------------------------------------------------------------------------------


def attend(queries, keys, values, heads):
    """Softmax attention of one query over some keys, head by head."""
    parts = []
    for q, k, v in zip(queries.chunk(heads, -1), keys.chunk(heads, -1), values.chunk(heads, -1), strict=True):
        scores = torch.stack([(q * key).sum() for key in k]) / len(q) ** 0.5
        parts.append((scores.softmax(0)[:, None] * v).sum(0))
    return torch.cat(parts)


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 5, 12), (0, 12)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_map_is_torchs_own_however_it_is_computed(shape, biased, monkeypatch):
    monkeypatch.setattr(linear, "_LARGE", 0)
    part, x = random_model(Linear(12, 7, bias=biased), 1), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(part(x), F.linear(x, part.weight, part.bias))


@pytest.mark.parametrize("reason", ["gradients", "autocast", "another type", "no oneDNN", "a small product"])
def test_torchs_own_linear_map_is_taken_where_onednns_cannot_be(reason, monkeypatch):
    part, x = Linear(12, 7), torch.randn(5, 12)
    monkeypatch.setattr(linear, "_LARGE", 5 * 12 * 7 + (reason == "a small product"))
    if reason == "no oneDNN":
        monkeypatch.setattr(linear, "_onednn_computes", lambda: False)
    if reason == "another type":
        part, x = part.double(), x.double()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: pytest.fail("oneDNN was used"))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast")
    with torch.set_grad_enabled(reason == "gradients"), autocast:
        found = part(x)
    assert found.requires_grad == (reason == "gradients")
    assert found.dtype == (torch.bfloat16 if reason == "autocast" else x.dtype)


def test_a_torch_without_onednns_linear_map_is_noticed(monkeypatch):
    assert linear._onednn_computes.__wrapped__() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, weight, *_: x @ weight.T + 1)
    assert not linear._onednn_computes.__wrapped__()
    monkeypatch.delattr(torch.ops.mkldnn, "_linear_pointwise")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not linear._onednn_computes.__wrapped__()


def test_spatial_attention_is_over_the_patches_of_one_frame():
    part, x = random_model(SpatialAttention(12, 3, None), 1), torch.randn(2, 3, 5, 12)
    attended = torch.empty_like(x)
    for b, t, p in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)):
        frame = x[b, t]
        attended[b, t, p] = attend(part.q_proj(frame[p]), part.k_proj(frame), part.v_proj(frame), 3)

    expected = rms_norm(x + part.out_proj(attended), part.norm.rms.weight)

    torch.testing.assert_close(part(x, None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 4, 6])  # written out up to 4, more by torch's own attention
def test_temporal_attention_is_over_this_and_earlier_frames_at_one_patch_position(frames):
    part, x = random_model(TemporalAttention(12, 3, None), 2), torch.randn(2, frames, 5, 12)
    attended = torch.empty_like(x)
    for b, t, p in torch.cartesian_prod(torch.arange(2), torch.arange(frames), torch.arange(5)):
        line = x[b, : t + 1, p]
        attended[b, t, p] = attend(part.q_proj(line[-1]), part.k_proj(line), part.v_proj(line), 3)

    expected = rms_norm(x + part.out_proj(attended), part.norm.rms.weight)

    torch.testing.assert_close(part(x, None, None)[0], expected, rtol=1e-4, atol=1e-5)


# --- norms and experts -----------------------------------------------------------------------------


def test_conditioning_scales_and_shifts_a_parameter_free_layer_norm():
    norm, x, actions = random_model(Norm(8, 2), 3), torch.randn(1, 3, 4, 8), torch.randn(1, 3, 2)
    project = norm.to_gamma_beta[1]
    gamma, beta = project(actions * actions.sigmoid()).chunk(2, -1)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    expected = normed * (1 + gamma[:, :, None]) + beta[:, :, None]

    torch.testing.assert_close(norm(x, norm.film(actions, 3)), expected)
    torch.testing.assert_close(norm(x, None), normed)


def test_with_one_action_fewer_than_frames_frame_0_is_not_modulated_and_the_rest_moves_up():
    norm, x, actions = random_model(Norm(8, 2), 4), torch.randn(1, 4, 2, 8), torch.randn(1, 3, 2)

    film = norm.film(actions, 4)

    torch.testing.assert_close(norm(x, film)[:, :1], norm(x[:, :1], None))
    torch.testing.assert_close(norm(x, film)[:, 1:], norm(x[:, 1:], norm.film(actions, 3)))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_a_token_gets_the_weighted_sum_of_its_best_experts(top_k):
    part, x = random_model(MixtureOfExperts(8, 6, None, 4, top_k), 5), torch.randn(2, 3, 4, 8)
    mixed = []
    for token in x.reshape(-1, 8):
        scores = (part.router.weight @ token).tolist()
        best = sorted(range(4), key=lambda expert: -scores[expert])[:top_k]
        total = sum(math.exp(scores[expert]) for expert in best)
        mixed.append(sum(math.exp(scores[expert]) / total * part.experts[expert](token) for expert in best))

    expected = rms_norm(x + torch.stack(mixed).reshape(x.shape), part.norm.rms.weight)

    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_the_ffn_gates_its_silu_branch():
    part = random_model(Transformer(8, 2, 6, 1), 6).blocks[0].ffn
    x = torch.randn(1, 1, 1, 8)
    v, g = part.w_v(x), part.w_g(x)

    expected = rms_norm(x + part.w_o(v * v.sigmoid() * g), part.norm.rms.weight)

    torch.testing.assert_close(part(x), expected)


@pytest.mark.parametrize("experts", [0, 3])
def test_stacked_projections_keep_their_names_and_compute_the_same(experts):
    # In float64, where nothing but a mistake could tell them apart.
    plain = random_model(Transformer(16, 4, 10, 2, 2, experts), 9).double()
    stacked = random_model(Transformer(16, 4, 10, 2, 2, experts), 9).double()
    stack_projections(stacked)
    x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    films = plain.films(torch.randn(2, 2, 2, dtype=torch.float64), 3)

    assert stacked.state_dict().keys() == plain.state_dict().keys()
    for own, other in zip(stacked.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    torch.testing.assert_close(stacked(x, films)[0], plain(x, films)[0], rtol=1e-9, atol=1e-9)


def test_weights_loaded_or_converted_after_stacking_are_the_ones_that_count():
    other = random_model(Transformer(16, 4, 10, 1), 11)
    x, films = torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(0)), [(None, None, None)]
    for change in (
        lambda model: model.load_state_dict(other.state_dict()),
        lambda model: model.double().load_state_dict(other.state_dict()),
    ):
        stacked = random_model(Transformer(16, 4, 10, 1), 10)
        stack_projections(stacked)
        change(stacked)
        given = x.to(stacked.blocks[0].ffn.w_o.weight.dtype)
        torch.testing.assert_close(stacked(given, films)[0].float(), other(x, films)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("known", [1, 3])
def test_the_past_alone_is_the_past_that_a_whole_pass_returns(known):
    transformer = random_model(Transformer(16, 4, 10, 3), 12).double()
    x, films = torch.randn(2, known, 5, 16, dtype=torch.float64), transformer.films(None, known)
    for own, whole in zip(transformer.past(x, films), transformer(x, films)[1], strict=True):
        for part, expected in zip(own, whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)


def test_a_window_longer_than_the_encodings_at_hand_has_an_encoding_too():
    empty = Transformer(32, 4, 8, 0)
    x = torch.zeros(1, 70, 1, 32)
    expected = torch.tensor([angle_encoding(time, 10) for time in range(70)])
    torch.testing.assert_close(empty(x, [])[0][0, :, 0, 22:], expected, rtol=0, atol=1e-5)


# --- the whole stack -------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize(("known", "new"), [(1, 1), (3, 1), (2, 2), (1, 3)])
def test_keeping_the_past_gives_what_computing_everything_gives(known, new, conditioned, experts):
    transformer = random_model(Transformer(16, 4, 10, 2, 2 if conditioned else None, experts), 7)
    x, time = torch.randn(2, known + new, 5, 16), known + new
    films = transformer.films(torch.randn(2, time - 1, 2) if conditioned else None, time)
    whole, _ = transformer(x, films)

    context, past = transformer(x[:, :known], slice_films(films, 0, known))
    rest, _ = transformer(x[:, known:], slice_films(films, known, time), past)

    torch.testing.assert_close(torch.cat((context, rest), 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize(("blocks", "known"), [(1, 2), (2, 2), (2, 0)])
def test_patches_chosen_of_a_frame_are_those_of_the_whole_frame(blocks, known, experts):
    transformer = random_model(Transformer(16, 4, 10, blocks, 2, experts), 9)
    x = torch.randn(2, known + 1, 5, 16)
    films = transformer.films(torch.randn(2, known + 1, 2), known + 1)
    past = transformer.past(x[:, :known], slice_films(films, 0, known)) if known else None
    last, chosen = slice_films(films, known, known + 1), torch.tensor([[0, 3, 4], [1, 2, 3]])

    some, _ = transformer(x[:, known:], last, past, chosen)

    whole, _ = transformer(x[:, known:], last, past)
    expected = torch.stack([whole[b, :, chosen[b]] for b in range(2)])
    torch.testing.assert_close(some, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditioned", [True, False])
def test_a_frame_depends_on_no_later_one(conditioned):
    transformer = random_model(Transformer(16, 4, 10, 2, 2 if conditioned else None), 8)
    films = transformer.films(torch.randn(1, 4, 2) if conditioned else None, 5)
    x = torch.randn(1, 5, 3, 16)
    for time in range(1, 5):
        changed = x.clone()
        changed[:, time] += 1

        difference = (transformer(changed, films)[0] - transformer(x, films)[0]).abs().amax((0, 2, 3))

        assert (difference[:time] < 1e-5).all() and difference[time] > 1e-3
