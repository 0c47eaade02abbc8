"""What a player leaves in the run's folder: a picture, a video, a session file."""

import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from helpers.errors import ParameterError
from helpers.pictures import png, upscale, write_animation, write_video
from helpers.play import recording
from helpers.play.game import Game
from helpers.player.keycaps import Keycaps
from helpers.run_folder import writing

SIDE = 384  # pixels: about the size of pictures, which is a whole multiple of the frames'
ENDINGS = {"png": ".png", "mp4": ".mp4", "gif": ".gif", "session": ".json"}


def save(game: Game, kind: str, folder: Path, fps: float, ids: bool) -> Path:
    """Write the current frame, the video of the current branch, or the session, to a new file.

    The file is ``played_01.png`` in ``folder``, or the next number that is free; a GIF where no MP4 can be
    written. ``kind`` is one of `ENDINGS`; a video plays at ``fps`` and, with ``ids``, shows its action ids.
    An `OutputError` where it could not be written.
    """
    if kind not in ENDINGS:
        raise ParameterError(f"{kind!r} cannot be saved.", fix=f"Use one of {', '.join(ENDINGS)}.")
    paths = (folder / f"played_{number:02d}{ENDINGS[kind]}" for number in itertools.count(1))
    path = next(path for path in paths if not path.exists())
    if kind == "session":
        recording.write(path, game.recording())
        return path
    frames, actions = game.last_frames(1 if kind == "png" else sys.maxsize)
    large = upscale(frames, max(1, SIDE // frames.shape[1]))  # [T, H, W, 3]
    if kind == "png":
        with writing(path):
            path.write_bytes(png(Image.fromarray(large[-1])))
        return path
    if ids:
        large = np.stack([_with_id(frame, action) for frame, action in zip(large, actions, strict=True)])
    return write_animation(large, path, fps) if kind == "gif" else write_video(large, path, fps, scale=1).path


def film(game: Game, caps: Keycaps, folder: Path, fps: float) -> list[Path]:
    """Write the current branch above its keys as ``film_01.gif`` and ``.mp4``, or with the next free number.

    Where its actions are those of the dataset, the true frames stand to the left of the imagined ones. One
    file where no MP4 can be written. An `OutputError` where none could be.
    """
    played = game.rollout()
    frames = played.frames  # [T, H, W, 3]
    if played.psnr:
        truth = np.zeros_like(frames)  # black behind its end
        truth[: len(played.truth)] = played.truth
        frames = np.concatenate([truth, frames], axis=2)  # [T, H, 2*W, 3]
    large = upscale(frames, max(1, caps.width // frames.shape[2]))
    edge = caps.width - large.shape[2]
    large = np.pad(large, ((0, 0), (0, 0), (edge // 2, edge - edge // 2), (0, 0)))
    actions = [None] * played.given + played.actions
    keys = {action: caps.draw(action) for action in set(actions)}
    pictures = np.stack([np.concatenate([f, keys[a]]) for f, a in zip(large, actions, strict=True)])
    names = (folder / f"film_{number:02d}" for number in itertools.count(1))
    path = next(path for path in names if not list(folder.glob(f"{path.name}.*")))
    files = (
        write_animation(pictures, path.with_suffix(".gif"), fps),
        write_video(pictures, path.with_suffix(".mp4"), fps, scale=1),
    )
    return list(dict.fromkeys([files[0], files[1].path]))  # without H.264, the MP4 is the GIF again


def _with_id(frame: np.ndarray, action: int | None) -> np.ndarray:
    """A frame, uint8 ``[H, W, 3]``, with its action id in a corner; as it was without an action."""
    image, size = Image.fromarray(frame), max(12, frame.shape[0] // 14)
    place, text = (size // 2, size // 2), "" if action is None else str(action)
    font, border = ImageFont.load_default(size), size // 8
    ImageDraw.Draw(image).text(place, text, "#ffffff", font, stroke_width=border, stroke_fill="#10151d")
    return np.asarray(image)
