"""What is left of a game: pictures, ``session.json``, ``run.json``, and the proof that it ran.

The notebook calls `save`, `show` and `verify`, in this order.
"""

import logging
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers.commands import lab_fix, memory_settings
from helpers.pictures import VideoResult, contact_sheet, write_pngs, write_video
from helpers.play import recording
from helpers.play.branch import Rollout
from helpers.play.comparison import Replay
from helpers.play.compute import precision
from helpers.play.conditions import environment_facts
from helpers.play.game import Game
from helpers.play.gpu_trace import plot_trace
from helpers.play.metrics import measure, published_mse, quality_in_words
from helpers.play.settings import ignored, overridden, source_of_actions
from helpers.play.watch import LOOP_ENDS, LOOP_STARTS
from helpers.play.world import OpenWorld, action_name
from helpers.report import Check, Subject, picture, write_json
from helpers.run_folder import writing

log = logging.getLogger("runbook.results")

SCALE = 4
"""Pixels of a PNG for each pixel of a frame, along either side."""


@dataclass(frozen=True)
class Saved:
    """What a game left in the run's folder."""

    rollout: Rollout  # the branch that was saved
    pngs: list[Path]  # a file a frame
    contact_sheet: Path  # the true frames above the generated ones
    video: VideoResult  # MP4 or GIF
    session: Path  # the session file


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


def sheet(rollout: Rollout, opened: OpenWorld) -> Image.Image:
    """The contact sheet: the true clip above the generated frames, with the action that led to each."""
    captions = ["-" if action is None else action_name(opened, action) for action in rollout.actions]
    captions = ["given"] * rollout.given + captions
    truth = np.full_like(rollout.frames, 235)  # grey where the clip has ended
    truth[: len(rollout.truth)] = rollout.truth
    return contact_sheet([("true", truth), ("generated", rollout.frames)], captions, rollout.given)


def save(game: Game, run: Path) -> Saved:
    """Write every picture of the branch where play stands, and the session file, into the run's folder.

    An `OutputError` says what could not be written.
    """
    rollout, different = game.rollout(), run / "replay_difference.png"
    with writing(run):
        for old in [*(run / "frames").glob("frame_*.png"), run / "rollout.gif", different]:
            old.unlink(missing_ok=True)
        pngs = write_pngs(rollout.frames, run / "frames", scale=SCALE)
        sheet_path, text = run / "contact_sheet.png", recording.file_text(game.recording())
        session = recording.own_place(run, text)
        sheet(rollout, game.opened).save(sheet_path)
        fps = game.settings.fps
        video = write_video(rollout.frames, run / "rollout.mp4", fps)
        tokens = rollout.tokens.astype(np.int32)  # [T', P]
        np.savez_compressed(run / "rollout.npz", frames=rollout.frames, tokens=tokens)
        recording.write_text(session, text)
        if game.replay and (difference := game.replay.picture()):
            difference.save(different)
    for path in (run / "frames", sheet_path, video.path, session):
        log.info("wrote %s", path)
    return Saved(rollout, pngs, sheet_path, video, session)


def show(saved: Saved, game: Game) -> None:
    """Show the contact sheet, the video and, where a GPU was watched, its trace."""
    from IPython.display import Image as Picture
    from IPython.display import Video, display

    if waits(game):
        print("Nothing was played yet: play above, then run the cells below the player.")
        return
    display(Picture(filename=str(saved.contact_sheet)))
    if saved.video.codec == "h264":
        display(Video(str(saved.video.path), embed=True, html_attributes="controls loop autoplay muted"))
    else:
        display(Picture(filename=str(saved.video.path)))
    if difference := game.replay.picture() if game.replay else None:
        display(difference)
    if game.trace and game.trace.samples:
        display(picture(plot_trace(game.trace.samples), alt="GPU memory and utilisation"))


def waits(game: Game) -> bool:
    """Whether this is to be played by hand and nothing was played yet."""
    return game.settings.use_interactive_mode and not game.generated


def verify(game: Game, saved: Saved, run: Path, given: Mapping[str, Any]) -> list[Check]:
    """The verdict's checks of what was saved of a game: log, file and GPU evidence; also writes ``run.json``.

    ``given`` holds the parameters as they were set, for what a preset or a session replayed set otherwise.
    An `OutputError` says that ``run.json`` could not be written.
    """
    rollout, settings = saved.rollout, game.settings
    checks = [
        check_log(run, game),
        *check_files(saved),
        check_play(game) if waits(game) else check_frames_differ(rollout),
        check_device(game, rollout),
        Subject("actions").ok(source_of_actions(settings)),
        *check_silent_failures(game, given),
    ]
    if game.replay:
        checks.append(check_replay(game.replay))
    if rollout.psnr:
        mean = f"Mean: {statistics.mean(rollout.psnr):.1f} dB"
        published = f"MSE in [-1, 1], as the published project counts: {published_mse(rollout.psnr):.4f}"
        checks.append(Subject("psnr").ok(f"{quality_in_words(rollout)} {mean}; {published}"))
    with precision(settings, game.opened.suite.device):
        metrics = measure(game.session, rollout, settings.evaluate)
    with writing(run):
        write_json(run / "run.json", describe_run(game, saved, checks) | {"metrics": metrics})
    return checks


def check_log(run: Path, game: Game) -> Check:
    """The log must say which files were loaded, and that the loop began and ended."""
    log_file = Subject("log")
    text = (run / "run.log").read_text(encoding="utf-8")
    wanted = [*(str(path) for _, path in game.opened.paths.items()), LOOP_STARTS, LOOP_ENDS]
    missing = [line for line in wanted if line not in text]
    if missing:
        observed = f"run.log does not mention {', '.join(missing)}"
        return log_file.fail(observed, "Run the notebook from the top.")
    return log_file.ok("run.log names the dataset, the three checkpoints, and the loop's start and end")


def check_files(saved: Saved) -> list[Check]:
    """Every picture is opened again."""
    png, video = Subject("png"), Subject("video")
    count, size = len(saved.rollout.frames), saved.rollout.frames.shape[1] * SCALE
    intact = 0
    for path in saved.pngs:
        with Image.open(path) as image:
            intact += image.size == (size, size)
    observed = f"{intact} of {count} frames as {size}x{size} PNG"
    files = png.ok(observed) if intact == count else png.fail(observed, "Free some disk and run again.")
    if saved.video.codec == "h264":
        return [files, video.ok(f"{saved.video.path.name}: H.264, {saved.video.frames} frames read back")]
    fix = "The PNG files and the GIF hold the same frames; reinstall the package av for MP4."
    return [files, video.warn(saved.video.note, fix)]


def check_play(game: Game) -> Check:
    """Nothing was played yet, which is no fault."""
    where = f"{game.opened.world.title} is open and waits: nothing was played yet"
    return Subject("play").skip(where, "Play above, then run the cells below the player.")


def check_frames_differ(rollout: Rollout) -> Check:
    """A model that does nothing repeats one frame."""
    frames = Subject("frames")
    if not rollout.generated:
        fix = "Play above, then run this cell again; or set actions."
        return frames.warn("no frame was generated yet", fix)
    tail = rollout.frames[rollout.given - 1 :]
    changed = (tail[1:] != tail[:-1]).any((1, 2, 3)).sum()
    observed = f"{changed} of {rollout.generated} generated frames differ from the one before"
    return frames.ok(observed) if changed else frames.warn(observed, "Try other actions or another start.")


def check_device(game: Game, rollout: Rollout) -> Check:
    """Where the models ran, proved by their parameters and, on a GPU, by its memory and its own clock."""
    device, suite = Subject("device"), game.opened.suite
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    parameters = [parameter for model in models for parameter in model.parameters()]
    places = sorted({str(parameter.device) for parameter in parameters})
    if suite.device.type != "cuda":
        kind = "CPU" if suite.device.type == "cpu" else "Metal"
        where = f"{kind} run: all {suite.parameter_count():,} parameters on {', '.join(places)}"
        idle = suite.device.type == "cpu" and torch.cuda.is_available()
        return (
            device.warn(where, 'A CUDA device is there: set device to "cuda".') if idle else device.ok(where)
        )
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    peak, event = rollout.peak_memory_bytes, sum(rollout.gpu_seconds)
    rise = game.trace.memory_rise if game.trace else 0
    observed = (
        f"{torch.cuda.get_device_name(suite.device)}: parameters on {', '.join(places)}, "
        f"peak memory {peak / 1e6:.0f} MB (weights {needed / 1e6:.0f} MB), "
        f"{event:.2f} s on the GPU's clock, device memory rose {rise / 1e6:.0f} MB"
    )
    proved = all(place.startswith("cuda") for place in places) and peak >= needed and event > 0
    return device.ok(observed) if proved else device.fail(observed, "Run 02_torch and see its verdict.")


def check_silent_failures(game: Game, given: Mapping[str, Any]) -> list[Check]:
    """What was asked for and did not happen although nothing failed: a line each."""
    suite, slower = game.opened.suite, "Nothing needs to be done: the frames are the same, and slower."
    checks = [Subject("note").warn(note, slower) for note in game.opened.notes]
    if suite.graphs.refusal:
        observed = f"steps run without a recorded CUDA graph: {suite.graphs.refusal}"
        checks.append(Subject("cuda_graph").warn(observed, f"{slower} Please report this line."))
    if suite.device.type == "cpu" and (lost := memory_settings(os.environ, sys.platform)):
        checks.append(Subject("memory_settings").skip(lost, lab_fix()))
    fix = "Take the parameter out, or change the one that goes before it."
    texts = ignored(game.settings, suite.device.type) + overridden(given, game.settings)
    return checks + [Subject("ignored").warn(text, fix) for text in texts]


def check_replay(replay: Replay) -> Check:
    """Every frame must have the tokens that were recorded."""
    if replay.equal:
        return Subject("replay").ok(str(replay))
    return Subject("replay").fail(
        str(replay),
        "See replay_difference.png. Only the same files, device and torch give the same bits; if these are "
        "the same, the session file was changed.",
    )


def describe_run(game: Game, saved: Saved, checks: Sequence[Check]) -> dict[str, Any]:
    """Everything about the run but its metrics, as plain JSON values: the content of ``run.json``."""
    opened, rollout, trace = game.opened, saved.rollout, game.trace
    facts = environment_facts(opened.suite.device)
    steady = rollout.seconds[1:] or rollout.seconds
    per_frame = statistics.median(steady) / game.horizon if steady else None
    return {
        "parameters": asdict(game.settings),
        "versions": {name: facts[name] for name in ("python", "torch", "numpy")},
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
        "environment": facts,
        "replay": game.replay.to_dict() if game.replay else None,
        "evidence": {
            "checks": [asdict(check) for check in checks],
            "gpu_seconds": rollout.gpu_seconds,
            "gpu_peak_memory_bytes": rollout.peak_memory_bytes,
            "gpu_trace": [asdict(sample) for sample in trace.samples] if trace else [],
            "gpu_trace_note": trace.note if trace else "no CUDA device in use",
        },
        "outputs": {
            "frames": len(saved.pngs),
            "contact_sheet": saved.contact_sheet.name,
            "video": saved.video.path.name,
            "session": saved.session.name,
        },
    }
