"""Frames to pictures: PNG files, a contact sheet, a video that a browser plays. Knows pixels only."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from helpers.errors import OutputError

_PAPER, _INK, _FAINT, _MARK = "#ffffff", "#1c2430", "#6b7685", "#e08a00"
_GAP = 6


@dataclass(frozen=True)
class VideoResult:
    """A video that was written, re-opened and counted.

    Args:
        path: The file; a .gif where H.264 could not be written.
        codec: ``"h264"`` or ``"gif"``.
        frames: How many frames it holds.
        note: Empty, or why this is not the MP4 that was asked for.
    """

    path: Path
    codec: str
    frames: int
    note: str = ""


def to_uint8(frames: Any) -> np.ndarray:
    """Model frames as pixels; values outside [-1, 1], which decoders do give, are clamped.

    Args:
        frames: float ``[..., 3, H, W]`` in about [-1, 1]: an array, or a tensor on the CPU.

    Returns:
        uint8 ``[..., H, W, 3]``.
    """
    values = np.asarray(frames, dtype=np.float32)
    pixels = np.rint((np.clip(values, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))


def upscale(frames: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel as a square of ``scale`` pixels, so that edges stay crisp: uint8 ``[..., H, W, 3]``."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def write_pngs(frames: np.ndarray, folder: Path, scale: int = 1) -> list[Path]:
    """Write every frame as a file: ``folder/frame_0000.png`` and so on.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        folder: Made if it is not there.
        scale: How many times larger than the frames.

    Raises:
        OutputError: A file cannot be written.
    """
    paths = [folder / f"frame_{number:04d}.png" for number in range(len(frames))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for frame, path in zip(upscale(frames, scale), paths, strict=True):
            Image.fromarray(frame).save(path)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return paths


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]],
    captions: Sequence[str],
    given: int = 0,
    scale: int = 2,
    columns: int = 12,
) -> Image.Image:
    """A picture of all frames: one row a sequence, one column a moment, captions over the columns.

    Sequences longer than ``columns`` go on in bands below.

    Args:
        rows: Label and frames of each row: uint8 ``[T, H, W, 3]``, all of one shape.
        captions: One text a column, such as ``"action 3"``; T of them.
        given: This many first columns are framed, and captioned "given": they were not generated.
        scale: How many times larger than the frames.
        columns: Frames in a band.
    """
    frames = [upscale(sequence, scale) for _, sequence in rows]
    total, height, width = frames[0].shape[:3]
    font_size = max(11, min(15, width // 9))
    font = ImageFont.load_default(font_size)
    heads = ["given"] * given + list(captions[given:])
    cell = max(width, *(_text_width(font, text) for text in heads)) + _GAP
    margin = max(_text_width(font, label) for label, _ in rows) + 3 * _GAP
    head = font_size + _GAP
    band = head + len(rows) * (height + _GAP) + 2 * _GAP
    bands = -(-total // columns)
    sheet = Image.new("RGB", (margin + min(total, columns) * cell + _GAP, bands * band), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column in range(total):
        ink = _MARK if column < given else _INK
        left = margin + (column % columns) * cell
        top = (column // columns) * band + _GAP
        draw.text((left + width / 2, top), heads[column], fill=ink, font=font, anchor="mt")
        for row, sequence in enumerate(frames):
            y = top + head + row * (height + _GAP)
            sheet.paste(Image.fromarray(sequence[column]), (left, y))
            if column < given:
                draw.rectangle((left - 2, y - 2, left + width + 1, y + height + 1), outline=_MARK, width=2)
    for start in range(bands):
        for row, (label, _) in enumerate(rows):
            y = start * band + _GAP + head + row * (height + _GAP) + height / 2
            draw.text((margin - 2 * _GAP, y), label, fill=_FAINT, font=font, anchor="rm")
    return sheet


def write_video(
    frames: np.ndarray, path: Path, fps: float, scale: int = 4, codec: str = "libx264"
) -> VideoResult:
    """Write an MP4 that every browser plays (H.264, yuv420p, index in front), or a GIF where that fails.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        path: Where the .mp4 goes; a GIF takes the same name with ``.gif``.
        fps: Frames per second.
        scale: How many times larger than the frames. Odd sizes, which H.264 cannot hold, get one more row
            or column of the last pixels.
        codec: PyAV's name of the encoder.

    Returns:
        What was written, after it was opened again and its frames were counted.

    Raises:
        OutputError: Neither the MP4 nor the GIF could be written.
    """
    large = upscale(frames, scale)
    height, width = large.shape[1:3]
    large = np.pad(large, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        _encode_h264(large, path, fps, codec)
        counted = _count_frames(path)
        if counted != len(frames):
            raise ValueError(f"{counted} of {len(frames)} frames can be read back")
    # ImportError: Windows may refuse PyAV's libraries. PyAV's own errors are OSErrors and ValueErrors.
    except (ImportError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # Windows keeps a file that a player holds open
            path.unlink(missing_ok=True)
        gif = write_gif(large, path.with_suffix(".gif"), fps)
        return VideoResult(gif, "gif", len(frames), f"No MP4 was written ({error}); a GIF was.")
    return VideoResult(path, "h264", counted)


def _encode_h264(frames: np.ndarray, path: Path, fps: float, codec: str) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream(codec, rate=rate, options={"crf": "16"})
        if not isinstance(stream, av.VideoStream):
            raise ValueError(f"{codec} does not encode video")
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _count_frames(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def write_gif(frames: np.ndarray, path: Path, fps: float) -> Path:
    """Write a GIF and check its length: equal neighbours share a picture, so playing time is counted.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        path: Where it goes.
        fps: Frames per second.

    Raises:
        OutputError: It cannot be written.
    """
    # GIF counts in hundredths of a second, and players slow down what is faster than 50 a second.
    milliseconds = max(20, round(100 / fps) * 10)
    first, *others = [Image.fromarray(frame) for frame in frames]
    try:
        first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
        with Image.open(path) as written:
            played = 0
            for number in range(getattr(written, "n_frames", 1)):
                written.seek(number)
                played += int(written.info.get("duration", milliseconds))
    except OSError as error:
        raise _unwritable(path, error) from error
    if played != milliseconds * len(frames):
        raise OutputError(
            f"{path} plays {played} ms, not the {milliseconds * len(frames)} ms of its {len(frames)} frames.",
            fix="Look at the PNG files instead, and report this.",
        )
    return path


def _text_width(font: Any, text: str) -> int:
    return int(font.getlength(text)) + 1


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} could not be written ({error.strerror or error}).",
        fix="Free some disk, or choose another folder with the parameter run_dir.",
    )
