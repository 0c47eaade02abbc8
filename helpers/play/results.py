"""Step 05: what becomes of a rollout: pictures, ``run.json``, and the proof that it ran.

The notebook calls `helpers.play.rollout` to get one, then `save`, `show` and `verify`.
"""

import itertools
import logging
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers.errors import OutputError
from helpers.pictures import VideoResult, contact_sheet, write_pngs, write_video
from helpers.play import session_file
from helpers.play.conditions import environment_facts
from helpers.play.game import Game
from helpers.play.gpu_trace import plot_trace
from helpers.play.metrics import measure
from helpers.play.rollout import LOOP_ENDS, LOOP_STARTS, OpenWorld, Rollout, Settings, precision
from helpers.report import Check, Status, picture, write_json

log = logging.getLogger("runbook.infer")


@dataclass(frozen=True)
class Saved:
    """What a rollout left in the run's folder."""

    pngs: list[Path]
    contact_sheet: Path
    video: VideoResult
    session: Path


def start_log(run: Path) -> None:
    """Send the steps' log lines to ``<run>/run.log`` as well, once, whatever run was logged before."""
    root = logging.getLogger("runbook")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(run / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def sheet(rollout: Rollout) -> Image.Image:
    """The contact sheet: the true clip above the generated frames, with the action that led to each."""
    captions = ["given"] * rollout.given + [
        "-" if action is None else f"action {action}" for action in rollout.actions
    ]
    truth = rollout.truth
    if len(truth) < len(rollout.frames):
        grey = np.full_like(rollout.frames[len(truth) :], 235)
        truth = np.concatenate((truth, grey))
    return contact_sheet([("true", truth), ("generated", rollout.frames)], captions, rollout.given)


def save(rollout: Rollout, opened: OpenWorld, settings: Settings, run: Path) -> Saved:
    """Write every picture of the rollout, and its session file, into the run's folder.

    Raises:
        OutputError: Something could not be written.
    """
    different = run / "replay_difference.png"
    for old in [*(run / "frames").glob("frame_*.png"), run / "rollout.gif", different]:
        old.unlink(missing_ok=True)
    pngs = write_pngs(rollout.frames, run / "frames", scale=4)
    sheet_path = run / "contact_sheet.png"
    sheet(rollout).save(sheet_path)
    fps = settings.fps or opened.world.fps
    video = write_video(rollout.frames, run / "rollout.mp4", fps)
    write_arrays(rollout, run / "rollout.npz")
    session = run / "session.json"
    session_file.write(session, Game.from_rollout(opened, rollout, settings).recording())
    for path in (run / "frames", sheet_path, video.path, session):
        log.info("wrote %s", path)
    picture = rollout.replay.picture() if rollout.replay else None
    if picture:
        picture.save(different)
    return Saved(pngs, sheet_path, video, session)


def write_arrays(rollout: Rollout, path: Path) -> None:
    """Write what a rollout is made of: ``frames`` uint8 ``[T, H, W, 3]``, ``tokens`` int32 ``[T', P]``.

    Raises:
        OutputError: The file cannot be written.
    """
    # A game's session keeps its last frames only; the game itself keeps all.
    tokens = rollout.game.tokens if rollout.game else rollout.session.tokens[0].cpu().numpy()
    try:
        np.savez_compressed(path, frames=rollout.frames, tokens=tokens.astype(np.int32))
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}).", fix="Free some disk and run again."
        ) from error


def show(saved: Saved, rollout: Rollout) -> None:
    """Show the contact sheet, the video and, where a GPU was watched, its trace."""
    from IPython.display import Image as Picture
    from IPython.display import Video, display

    display(Picture(filename=str(saved.contact_sheet)))
    if saved.video.codec == "h264":
        display(Video(str(saved.video.path), embed=True, html_attributes="controls loop autoplay muted"))
    else:
        display(Picture(filename=str(saved.video.path)))
    if difference := rollout.replay.picture() if rollout.replay else None:
        display(difference)
    if rollout.trace and rollout.trace.samples:
        display(picture(plot_trace(rollout.trace.samples), alt="GPU memory and utilisation"))


def verify(opened: OpenWorld, rollout: Rollout, saved: Saved, settings: Settings, run: Path) -> list[Check]:
    """The hard verification: log, file and GPU evidence; also writes ``run.json``.

    Args:
        opened: The world that was played.
        rollout: What came of it.
        saved: What was written.
        settings: What was asked for.
        run: The run's folder.

    Returns:
        The checks of the notebook's verdict.
    """
    checks = [
        check_log(run, opened),
        *check_files(saved, rollout),
        check_frames_differ(rollout),
        check_device(opened, rollout),
    ]
    if rollout.replay:
        checks.append(check_replay(rollout.replay))
    checks += [Check("note", "warn", note, "Nothing needs to be done.") for note in opened.notes]
    if rollout.psnr:
        mean = f"{statistics.mean(rollout.psnr):.1f} dB against the true frames (mean of {len(rollout.psnr)})"
        checks.append(Check("psnr", "ok", mean))
    with precision(settings, opened.suite.device):
        metrics = measure(
            rollout.session,
            rollout.frames,
            rollout.truth,
            rollout.given,
            rollout.actions,
            len(rollout.psnr),
            settings.evaluate,
        )
    record = describe_run(opened, rollout, saved, settings, checks) | {"metrics": metrics}
    write_json(run / "run.json", record)
    return checks


def check_log(run: Path, opened: OpenWorld) -> Check:
    """The log must say which files were loaded, and that the loop began and ended."""
    text = (run / "run.log").read_text(encoding="utf-8")
    wanted = [*(str(path) for _, path in opened.paths.items()), LOOP_STARTS, LOOP_ENDS]
    missing = [line for line in wanted if line not in text]
    if missing:
        return Check(
            "log", "fail", f"run.log does not mention {', '.join(missing)}", "Run the notebook from the top."
        )
    return Check(
        "log", "ok", "run.log names the dataset, the three checkpoints, and the loop's start and end"
    )


def check_files(saved: Saved, rollout: Rollout) -> list[Check]:
    """Every picture is opened again."""
    size = rollout.frames.shape[1] * 4
    intact = 0
    for path in saved.pngs:
        with Image.open(path) as picture:
            intact += picture.size == (size, size)
    whole = intact == len(rollout.frames)
    files = Check(
        "png",
        "ok" if whole else "fail",
        f"{intact} of {len(rollout.frames)} frames as {size}x{size} PNG",
        "" if whole else "Free some disk and run again.",
    )
    video = saved.video
    if video.codec == "h264":
        return [files, Check("video", "ok", f"{video.path.name}: H.264, {video.frames} frames read back")]
    return [
        files,
        Check(
            "video",
            "warn",
            video.note,
            "The PNG files and the GIF hold the same frames; reinstall the package av for MP4.",
        ),
    ]


def check_frames_differ(rollout: Rollout) -> Check:
    """A model that does nothing repeats one frame."""
    if not rollout.generated:
        return Check(
            "frames",
            "warn",
            "no frame was generated yet",
            "Play above, then run this cell again; or set actions.",
        )
    tail = rollout.frames[rollout.given - 1 :]
    changed = sum(not np.array_equal(a, b) for a, b in itertools.pairwise(tail))
    status: Status = "ok" if changed else "warn"
    return Check(
        "frames",
        status,
        f"{changed} of {rollout.generated} generated frames differ from the one before",
        "" if changed else "Try other actions or another start.",
    )


def check_device(opened: OpenWorld, rollout: Rollout) -> Check:
    """Where the models ran, proved by their parameters and, on a GPU, by its memory and its own clock."""
    suite = opened.suite
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    parameters = [parameter for model in models for parameter in model.parameters()]
    devices = sorted({str(parameter.device) for parameter in parameters})
    if suite.device.type != "cuda":
        kind = "CPU" if suite.device.type == "cpu" else "Metal"
        where = f"{kind} run: all {suite.parameter_count():,} parameters on {', '.join(devices)}"
        if suite.device.type == "cpu" and torch.cuda.is_available():
            return Check("device", "warn", where, 'A CUDA device is there: set device to "cuda".')
        return Check("device", "ok", where)
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    peak, event = rollout.peak_memory_bytes, sum(rollout.gpu_seconds)
    rise = rollout.trace.memory_rise if rollout.trace else 0
    observed = (
        f"{torch.cuda.get_device_name(suite.device)}: parameters on {', '.join(devices)}, "
        f"peak memory {peak / 1e6:.0f} MB (weights {needed / 1e6:.0f} MB), "
        f"{event:.2f} s on the GPU's clock, device memory rose {rise / 1e6:.0f} MB"
    )
    proved = all(device.startswith("cuda") for device in devices) and peak >= needed and event > 0
    return Check(
        "device", "ok" if proved else "fail", observed, "" if proved else "Run 02_torch and see its verdict."
    )


def check_replay(replay: session_file.Replay) -> Check:
    """Every frame must have the tokens that were recorded."""
    if replay.equal:
        return Check("replay", "ok", str(replay))
    return Check(
        "replay",
        "fail",
        str(replay),
        "See replay_difference.png. Only the same files, device and torch give the same bits; if these are "
        "the same, the session file was changed.",
    )


def describe_run(
    opened: OpenWorld, rollout: Rollout, saved: Saved, settings: Settings, checks: Sequence[Check]
) -> dict[str, Any]:
    """Everything about the run but its metrics, as plain JSON values: the content of ``run.json``."""
    generated_seconds = rollout.seconds[1:] or rollout.seconds
    per_frame = (
        statistics.median(generated_seconds) / settings.prediction_horizon if generated_seconds else None
    )
    return {
        "parameters": asdict(settings),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "device": str(opened.suite.device),
        "platform": platform.platform(),
        "files": {
            part: {"path": str(path), "sha256": opened.hashes[part]} for part, path in opened.paths.items()
        },
        "n_actions": opened.suite.n_actions,
        "action_source": rollout.action_source,
        "frames": [
            {"index": rollout.given + index, "action": action, "tokens": tokens}
            for index, (action, tokens) in enumerate(zip(rollout.actions, rollout.token_hashes, strict=True))
        ],
        "timings": {
            "load_seconds": opened.load_seconds,
            "step_seconds": rollout.seconds,
            "median_ms_per_frame": None if per_frame is None else per_frame * 1000,
            "frames_per_second": None if per_frame is None else 1 / per_frame,
        },
        "environment": environment_facts(opened.suite.device),
        "replay": rollout.replay.to_dict() if rollout.replay else None,
        "evidence": {
            "checks": [asdict(check) for check in checks],
            "gpu_seconds": rollout.gpu_seconds,
            "gpu_peak_memory_bytes": rollout.peak_memory_bytes,
            "gpu_trace": [asdict(sample) for sample in rollout.trace.samples] if rollout.trace else [],
            "gpu_trace_note": rollout.trace.note if rollout.trace else "no CUDA device in use",
        },
        "outputs": {
            "frames": len(saved.pngs),
            "contact_sheet": saved.contact_sheet.name,
            "video": saved.video.path.name,
            "session": saved.session.name,
        },
    }
