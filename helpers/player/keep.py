"""What a player leaves in the run's folder: a picture, a video, a session file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from helpers.errors import OutputError
from helpers.pictures import upscale, write_gif, write_video

SIDE = 384
"""Saved pictures are about this large, in whole multiples of the frames' size."""


def keep_picture(frame: np.ndarray, path: Path) -> Path:
    """Write a frame, uint8 ``[H, W, 3]``, as a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        Image.fromarray(upscale(frame, scale_of(frame))).save(path)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}).", fix="Free some disk."
        ) from error
    return path


def keep_video(
    frames: np.ndarray, actions: Sequence[int | None], path: Path, fps: float, overlay: bool
) -> Path:
    """Write frames as the MP4 or GIF that ``path`` names; with ``overlay``, each with its action id.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        actions: T of them; None for a frame that no action led to.
        path: Ends with ``.mp4`` or ``.gif``.
        fps: Frames per second.
        overlay: Whether ids are drawn into the frames.

    Returns:
        The file: a GIF where no MP4 could be written.

    Raises:
        OutputError: It cannot be written.
    """
    large = upscale(frames, scale_of(frames[0]))
    if overlay:
        large = np.stack([with_id(frame, action) for frame, action in zip(large, actions, strict=True)])
    if path.suffix == ".gif":
        return write_gif(large, path, fps)
    return write_video(large, path, fps, scale=1).path


def with_id(frame: np.ndarray, action: int | None) -> np.ndarray:
    """A frame, uint8 ``[H, W, 3]``, with its action id in a corner; as it was where there is none."""
    if action is None:
        return frame
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    size = max(12, frame.shape[0] // 14)
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((size // 2, size // 2), str(action), font=font)
    draw.rectangle((left - 5, top - 4, right + 5, bottom + 4), fill="#10151d")
    draw.text((size // 2, size // 2), str(action), fill="#ffffff", font=font)
    return np.asarray(image)


def scale_of(frame: np.ndarray) -> int:
    """How many times larger a frame of ``[H, W, 3]`` is saved."""
    return max(1, SIDE // frame.shape[0])


def unused(folder: Path, suffix: str) -> Path:
    """``folder/played_01<suffix>``, or the next number that no file has."""
    number = 1
    while (path := folder / f"played_{number:02d}{suffix}").exists():
        number += 1
    return path
