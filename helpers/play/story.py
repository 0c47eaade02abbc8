"""Pictures that explain a game: what the models see, how a frame is decoded, what an action changes.

Each is one short call of the notebook. They look at the game's world and clip, play nothing of it, and are
cheap: a headless run draws them too.
"""

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.pictures import contact_sheet, to_uint8
from helpers.play.branch import Rollout
from helpers.play.compute import precision
from helpers.play.game import Game
from helpers.play.metrics import HARD_TO_TELL_APART, SOMETHING_ELSE, quality_in_words, repeated_psnr
from helpers.play.world import action_name
from helpers.report import picture, tidy_axes
from helpers.worldmodel.decode import decoding_steps

if TYPE_CHECKING:
    from IPython.display import Image as Picture

SECONDS = 0.4
"""About as long may `action_effects` compute."""

MOST_FRAMES, MOST_ACTIONS = 4, 8
_WIDTH = 160  # pixels of a frame on these pictures, about
_TOP_DB = 50  # of the plot of quality: equal frames, which have 100, would squeeze all others
_MASKED = (221, 204, 238)  # the colour of a masked patch


def what_the_models_see(game: Game) -> Image.Image:
    """The given frames above their tokens, and the action inferred between each two of them.

    A token's colour follows from its code: patches of equal colour have equal or similar tokens.
    """
    suite, frames = game.opened.suite, _context(game)
    with torch.inference_mode():
        latents = suite.video_tokenizer.encode(frames.to(suite.device))[0].float().cpu()  # [Tc, P, L]
        actions = suite.infer_actions(frames)[0].tolist() if frames.shape[1] > 1 else []  # Tc-1
    grid = suite.video_tokenizer.config.grid
    # Three colours from L code digits: every third digit tells on the same one.
    colours = torch.stack([latents[..., first::3].mean(-1) for first in range(3)], 1)  # [Tc, 3, P]
    patch = suite.frame_size // grid
    tokens = to_uint8(colours.unflatten(-1, (grid, grid)).numpy()).repeat(patch, 1).repeat(patch, 2)
    captions = ["first frame", *(f"{action_name(game.opened, action)} led here" for action in actions)]
    rows = [("frame", to_uint8(frames[0])), (f"{grid}x{grid} tokens", tokens)]
    return contact_sheet(rows, captions, scale=_scale(game), columns=6)


def decoding(game: Game, steps: int = 8) -> Image.Image:
    """The first frame after the context, decoded in ``steps`` steps: mauve patches are still masked.

    So many steps are shown, greedily, also for a world that takes fewer or samples when it is played.
    """
    suite, settings, frames = game.opened.suite, game.settings, _context(game)
    tokenizer, grid = suite.video_tokenizer, suite.video_tokenizer.config.grid
    seen = game.clip.frames[:, : frames.shape[1] + 1]
    conditioning = None
    if suite.dynamics.config.action_dim is not None and seen.shape[1] > 1:
        actions = suite.infer_actions(seen)  # [1, Tc], or one fewer where the clip ends with the context
        ids = torch.cat([actions, actions[:, -1:]], 1)[:, : frames.shape[1]]
        conditioning = suite.action_latents(ids.cpu()).to(suite.device)
    with torch.inference_mode(), precision(settings, suite.device):
        context = tokenizer.encode(frames.to(suite.device))  # [1, Tc, P, L]
        parts = suite.dynamics, tokenizer.quantizer, context, conditioning
        states = list(decoding_steps(*parts, 1, steps, 0.0, None))
        fixed = torch.cat([latents for latents, _ in states])[:, None]  # [M, 1, P, L]
        whole = torch.cat([context.expand(len(fixed), -1, -1, -1), fixed], 1)  # [M, Tc+1, P, L]
        pictures = to_uint8(tokenizer.detokenize(whole)[:, -1].float().cpu())  # [M, H, W, 3]
    masked = np.zeros((len(states), grid**2), bool)
    for row, (_, positions) in zip(masked, states, strict=True):
        row[positions[0].cpu()] = True
    patch = suite.frame_size // grid
    pictures[masked.reshape(-1, grid, grid).repeat(patch, 1).repeat(patch, 2)] = _MASKED
    captions = [f"step {step}: {grid**2 - row.sum()} fixed" for step, row in enumerate(masked, 1)]
    return contact_sheet([("decoded", pictures)], captions, scale=_scale(game), columns=4)


def action_effects(game: Game, rollout: Rollout) -> Image.Image | str:
    """What each action, held, leads to from the rollout's start, and how that differs from its first one's.

    As many frames ahead, up to four, as this machine generates in a moment.
    """
    suite = game.opened.suite
    if suite.dynamics.config.action_dim is None:
        return f"{game.opened.world.title} was trained without actions."
    seconds = statistics.median(rollout.seconds) if rollout.seconds else SECONDS
    frames = max(1, min(MOST_FRAMES, int(SECONDS / (suite.n_actions * seconds / 1.5))))
    start = Game(game.opened, rollout.clip, replace(game.settings, teacher_forced=False))
    futures = start.what_if(frames)[:MOST_ACTIONS, -1]  # [n, H, W, 3]
    taken = rollout.actions[:1] or [0]
    first = taken[0] if taken[0] is not None and taken[0] < len(futures) else 0
    apart = np.abs(futures.astype(np.int16) - futures[first]).max(-1, keepdims=True).astype(np.uint8)
    names = [action_name(game.opened, action) for action in range(len(futures))]
    rows = [
        (f"after {frames} frame{'s' * (frames > 1)}", futures),
        (f"unlike {names[first]}", 255 - apart.repeat(3, -1)),
    ]
    return contact_sheet(rows, names, scale=_scale(game), columns=8)


def quality(rollout: Rollout) -> "Picture | str":
    """PSNR of each generated frame against the true one, beside that of repeating the last given frame.

    Above the dashed line the model knows more than "nothing moves"; where the lines meet, it lost the clip.
    """
    if not rollout.generated:
        return "Nothing was played yet."
    if not rollout.psnr:
        return "These frames follow other actions than the clip's, so there is no true frame to compare with."
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for low, high, colour, meaning in (
        (HARD_TO_TELL_APART, _TOP_DB, "#1d6b40", "hard to tell\nfrom the true frame"),
        (SOMETHING_ELSE, HARD_TO_TELL_APART, "#59636f", "the same scene,\nwith differences"),
        (0, SOMETHING_ELSE, "#a12c20", "shows\nsomething else"),
    ):
        axes.axhspan(low, high, color=colour, alpha=0.07, lw=0)
        centre = 1.01, (low + high) / 2
        axes.text(*centre, meaning, color=colour, transform=axes.get_yaxis_transform(), va="center")
    numbers = range(1, len(rollout.psnr) + 1)
    for values, style, colour, label in (
        (rollout.psnr, "o-", "#2a6fbb", "generated"),
        (repeated_psnr(rollout), "--", "#59636f", "the last given frame, repeated"),
    ):
        axes.plot(numbers, np.minimum(values, _TOP_DB), style, ms=4, color=colour, label=label, clip_on=False)
    axes.set(xlabel="generated frame", ylabel="PSNR, dB: higher is nearer to the true frame")
    axes.set(xlim=(0.5, len(numbers) + 0.5), ylim=(0, _TOP_DB))
    axes.set_yticks([*(ticks := (0, 5, 10, 15, 20, 25, 30, 40)), _TOP_DB], [*map(str, ticks), f"{_TOP_DB}+"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy_axes(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    alt = f"PSNR from {rollout.psnr[0]:.1f} dB to {rollout.psnr[-1]:.1f} dB. {quality_in_words(rollout)}"
    return picture(figure, alt=alt)


def _context(game: Game) -> Tensor:
    """The given frames, float32 ``[1, Tc, 3, H, W]``."""
    return game.clip.frames[:, : game.settings.context_window]


def _scale(game: Game) -> int:
    return max(1, _WIDTH // game.opened.suite.frame_size)
