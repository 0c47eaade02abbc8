"""Frames to pictures: PNG files, a contact sheet, videos that a browser plays. Knows pixels only."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageSequence

from helpers.errors import OutputError
from helpers.run_folder import writing

_PAPER, _INK, _FAINT, _MARK = "#ffffff", "#1c2430", "#6b7685", "#e08a00"
_GAP = 6


@dataclass(frozen=True)
class VideoResult:
    """A video that was written, opened again and counted."""

    path: Path  # a .gif where H.264 could not be written
    codec: str  # "h264" or "gif"
    frames: int  # number of frames in it
    note: str = ""  # why it is no MP4


def to_uint8(frames: Any) -> np.ndarray:
    """Pixels, uint8 ``[..., H, W, 3]``, of model frames: float ``[..., 3, H, W]``, an array or a CPU tensor.

    Values outside [-1, 1], which decoders do give, are clamped.
    """
    values = np.asarray(frames, dtype=np.float32)
    pixels = np.rint((np.clip(values, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))


def upscale(frames: np.ndarray, scale: int) -> np.ndarray:
    """Frames with every pixel as a square of ``scale`` pixels: uint8 ``[..., H*scale, W*scale, 3]``."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def write_pngs(frames: np.ndarray, folder: Path, scale: int = 1) -> list[Path]:
    """Write frames, uint8 ``[T, H, W, 3]``, as ``folder/frame_0000.png`` and so on, or an `OutputError`."""
    paths = [folder / f"frame_{number:04d}.png" for number in range(len(frames))]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for frame, path in zip(upscale(frames, scale), paths, strict=True):
            Image.fromarray(frame).save(path)
    return paths


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]],
    captions: Sequence[str],
    given: int = 0,
    scale: int = 2,
    columns: int = 12,
) -> Image.Image:
    """A picture of all frames: one row per sequence, one column per frame, captions over the columns.

    Rows are a label and frames, uint8 ``[T, H, W, 3]``, all of one shape, with T captions. The ``given`` ones
    in front are framed, and captioned "given". After ``columns`` frames a sequence continues in a band below.
    """
    frames = [upscale(sequence, scale) for _, sequence in rows]
    total, height, width = frames[0].shape[:3]
    font_size = max(11, min(15, width // 9))
    font = ImageFont.load_default(font_size)
    heads = ["given"] * given + list(captions[given:])
    cell = max(width, *(int(font.getlength(text)) + 1 for text in heads)) + _GAP
    margin = int(max(font.getlength(label) for label, _ in rows)) + 1 + 3 * _GAP
    head = font_size + _GAP
    band = head + len(rows) * (height + _GAP) + 2 * _GAP
    size = margin + min(total, columns) * cell + _GAP, -(-total // columns) * band
    sheet = Image.new("RGB", size, _PAPER)
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
            if left == margin:
                place = margin - 2 * _GAP, y + height / 2
                draw.text(place, rows[row][0], fill=_FAINT, font=font, anchor="rm")
    return sheet


def write_video(
    frames: np.ndarray, path: Path, fps: float, scale: int = 4, codec: str = "libx264"
) -> VideoResult:
    """Write an MP4 that every browser plays (H.264, yuv420p, index in front), or a GIF where that fails.

    Frames are uint8 ``[T, H, W, 3]``; a GIF takes the name of ``path`` with ``.gif``. Odd sizes, which H.264
    cannot hold, get one more row or column of the last pixels. ``codec`` is PyAV's name of the encoder.

    Raises:
        OutputError: Neither the MP4 nor the GIF could be written.
    """
    large = upscale(frames, scale)
    height, width = large.shape[1:3]
    large = np.pad(large, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        readable = _write_h264(large, path, fps, codec)
        if readable != len(frames):
            raise ValueError(f"{readable} of {len(frames)} frames can be read back")
    # ImportError: Windows may refuse PyAV's libraries. PyAV's own errors are OSErrors and ValueErrors.
    except (ImportError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # Windows keeps a file that a player holds open
            path.unlink(missing_ok=True)
        gif = write_animation(large, path.with_suffix(".gif"), fps)
        return VideoResult(gif, "gif", len(frames), f"No MP4 was written ({error}); a GIF was.")
    return VideoResult(path, "h264", readable)


def _write_h264(frames: np.ndarray, path: Path, fps: float, codec: str) -> int:
    """Write an MP4; how many frames can be read back from it."""
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
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def write_animation(frames: np.ndarray, path: Path, fps: float) -> Path:
    """Write frames, uint8 ``[T, H, W, 3]``, as a GIF or a ``.webp``, which loses nothing, as the name ends.

    Its playing time is checked; an `OutputError` says that it is wrong, or that the file cannot be written.
    Time and not pictures are counted, since equal neighbours may share a picture.
    """
    # GIF counts in hundredths of a second, and players slow down what is faster than 50 a second.
    milliseconds = max(20, round(100 / fps) * 10) if path.suffix == ".gif" else round(1000 / fps)
    first, *others = [Image.fromarray(frame) for frame in frames]
    with writing(path):
        # GIF takes neither of the last two; method 0, Pillow's own, makes a WebP three times as large.
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=milliseconds,
            loop=0,
            lossless=True,
            method=4,
        )
        with Image.open(path) as written:
            played = 0
            for picture in ImageSequence.Iterator(written):
                picture.load()  # a WebP tells the time of a picture that is decoded
                played += int(picture.info.get("duration", milliseconds))
    if played != (due := milliseconds * len(frames)):
        what = f"{path} plays {played} ms, not the {due} ms of its {len(frames)} frames."
        raise OutputError(what, fix="Look at the PNG files instead, and report this.")
    return path
