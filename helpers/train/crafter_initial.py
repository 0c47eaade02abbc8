"""Where the dynamics model's attention starts: at the tile's neighbours, and at the player.

A step scrolls the map by one tile, so all that a tile of the next frame needs is the four neighbours of its
place, and whether the player moves. Training finds that out by itself, after thousands of steps; told at the
start, it spends them on the game's rules instead. Only initial values are set: every weight goes on learning.
"""

import torch
from torch import Tensor

from helpers.train.crafter_tiles import CENTRE, DOWN, LEFT, RIGHT, STEPS, UP
from helpers.worldmodel.layers import Attention, temporal_width
from helpers.worldmodel.models import Dynamics

PAIRS = 3  # of sine and cosine a direction in space: enough to tell nine places apart
SHARPNESS = 5.0  # of attention to a neighbour: logits about this much higher there than one tile further


def place_columns(embed_dim: int) -> Tensor:
    """The columns of an embedding that carry the highest frequencies of x and y, int64 ``[4 * PAIRS]``."""
    spatial = embed_dim - temporal_width(embed_dim)
    start_of_y = spatial // 2 // 2 * 2
    return torch.cat((torch.arange(2 * PAIRS), start_of_y + torch.arange(2 * PAIRS)))


def rotation(step: tuple[int, int], embed_dim: int) -> Tensor:
    """Turns the encoding of a place, in its `place_columns`, into that of the place a ``step`` further.

    Returns:
        ``[4 * PAIRS, 4 * PAIRS]``.
    """
    spatial = embed_dim - temporal_width(embed_dim)
    x_width = spatial // 2 // 2 * 2
    turned = torch.zeros(4 * PAIRS, 4 * PAIRS)
    for axis, width in enumerate((x_width, spatial - x_width)):
        for pair in range(PAIRS):
            angle = torch.tensor(step[axis] * 10000 ** (-2 * pair / width))
            row = 2 * (axis * PAIRS + pair)
            # sin(a + b) = sin a cos b + cos a sin b; cos(a + b) = cos a cos b - sin a sin b
            turned[row, row], turned[row, row + 1] = angle.cos(), angle.sin()
            turned[row + 1, row], turned[row + 1, row + 1] = -angle.sin(), angle.cos()
    return turned


def _gain(head_dim: int) -> float:
    """By how much queries and keys are scaled so that one tile's distance makes `SHARPNESS` of logits."""
    angles = torch.tensor([10000 ** (-2 * pair / 42) for pair in range(PAIRS)])
    gap = (1 - angles.cos()).sum().item()
    return (SHARPNESS * head_dim**0.5 / gap) ** 0.5


@torch.no_grad()
def look_around(attention: Attention, embed_dim: int) -> None:
    """Let four heads look at the tile left, right, above and below."""
    columns, gain = place_columns(embed_dim), _gain(attention.head_dim)
    for head, action in enumerate((LEFT, RIGHT, UP, DOWN)):
        rows = slice(head * attention.head_dim, head * attention.head_dim + len(columns))
        whole = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        for layer, matrix in (
            (attention.q_proj, rotation(STEPS[action], embed_dim)),
            (attention.k_proj, torch.eye(len(columns))),
        ):
            layer.weight[whole] *= 0.1
            layer.bias[whole] = 0
            block = torch.zeros(len(columns), embed_dim)
            block[:, columns] = gain * matrix
            layer.weight[rows] = block


@torch.no_grad()
def look_at_player(attention: Attention, encoding: Tensor, heads: int) -> None:
    """Let the first ``heads`` heads of every place look at the centre of the view."""
    embed_dim = encoding.shape[1]
    columns, gain = place_columns(embed_dim), _gain(attention.head_dim)
    for head in range(heads):
        rows = slice(head * attention.head_dim, head * attention.head_dim + len(columns))
        whole = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        attention.q_proj.weight[whole] *= 0.1
        attention.k_proj.weight[whole] *= 0.1
        attention.q_proj.bias[whole] = 0
        attention.q_proj.bias[rows] = gain * encoding[CENTRE, columns]
        block = torch.zeros(len(columns), embed_dim)
        block[:, columns] = gain * torch.eye(len(columns))
        attention.k_proj.weight[rows] = block


@torch.no_grad()
def start_from_neighbours(model: Dynamics) -> None:
    """Set the model's first two blocks as this module says, and keep places free of what is on them."""
    width = model.config.embed_dim
    model.latent_embed.weight[place_columns(width)] = 0
    model.latent_embed.bias[place_columns(width)] = 0
    blocks = list(model.transformer.blocks)
    look_around(blocks[0].spatial_attn, width)  # type: ignore[arg-type]
    if len(blocks) > 1:
        look_at_player(blocks[1].spatial_attn, model.encoding, 2)  # type: ignore[arg-type]
