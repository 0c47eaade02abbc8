"""What the Crafter world reaches: ``python runbook.py evaluate``, in ten minutes of one core.

Prints a line for each target. The recording must come from seeds that no model was trained on, and settings
must not be chosen on it: they are chosen on one recording (seeds from 1,000,000), reported on another (from
2,000,000), which ships with the world. Frames are read from the pixels that the world draws, as somebody sees
them who plays it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.assets.find import EMBEDDED
from helpers.play.metrics import delta_psnr, interval, psnr
from helpers.train import crafter_measures as measures
from helpers.train.crafter_data import Recording, read_recording, to_frames
from helpers.train.crafter_tiles import ACTIONS, CRAFT, DO, MAP_PATCHES, NOTHING, PLACE, STEPS
from helpers.worldmodel import Session, Suite, load_suite
from helpers.worldmodel.session import Feedback
from helpers.worlds import WORLDS

BACK = {1: 2, 2: 1, 3: 4, 4: 3}
SHEET_FRAMES = (1, 16, 64, 256, 900)


@dataclass(frozen=True)
class Decoding:
    """How the world is played.

    Args:
        steps: MaskGIT decoding steps a frame.
        temperature: Of the sampling; 0 is greedy.
        window: Context frames.
        feedback: As in `Session`.
    """

    steps: int = 1
    temperature: float = 1.0
    window: int = 1
    feedback: Feedback = "tokens"


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        name: What was measured.
        value: The number.
        least: What it must reach, as the issue says.
        beyond: What would be excellent.
        note: How it was counted.
    """

    name: str
    value: str
    least: str = ""
    beyond: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name:<44}{self.value:>20}{self.least:>12}{self.beyond:>10}  {self.note}"


class World:
    """A suite, a recording of the true game, and the way it is played.

    Args:
        suite: The models.
        data: The recording.
        decoding: How to play.
        seed: Of every draw here.
    """

    def __init__(self, suite: Suite, data: Recording, decoding: Decoding, seed: int = 0) -> None:
        self.suite, self.data, self.decoding, self.seed = suite, data, decoding, seed

    def rows(self, count: int, length: int, among: np.ndarray | None = None) -> np.ndarray:
        """``count`` rows, int64 ``[B]``, at which a context is complete and ``length`` frames follow."""
        window = self.decoding.window
        ends = self.data.starts(window + length) + window - 1
        ends = ends if among is None else np.intersect1d(ends, among)
        return np.random.default_rng(self.seed).permutation(ends)[:count]

    def truth(self, rows: np.ndarray, length: int) -> np.ndarray:
        """The ``length`` true frames after each row, tokens ``[B, length, 81]``."""
        return self.data.tokens[rows[:, None] + 1 + np.arange(length)]

    def session(self, rows: np.ndarray) -> Session:
        """A world a row, standing at that row's frame."""
        window = self.decoding.window
        tokens = self.data.tokens[rows[:, None] + np.arange(1 - window, 1)]
        frames = to_frames(self.data.sheet.draw(tokens))
        return Session(
            self.suite,
            frames,
            window,
            1,
            self.decoding.steps,
            self.decoding.temperature,
            [self.seed * 1_000_003 + int(row) for row in rows],
            self.decoding.feedback,
        )

    def step(self, session: Session, actions: np.ndarray) -> np.ndarray:
        """Take actions ``[B]``; the new frames as shown, uint8 ``[B, 72, 72, 3]``."""
        return to_pixels(session.step(torch.from_numpy(np.asarray(actions, np.int64)))[:, 0])

    def read(self, pixels: np.ndarray) -> np.ndarray:
        """The nearest tiles of frames, tokens ``[B, 81]``."""
        return measures.read(self.data.sheet, pixels).tokens

    def walk(self, rows: np.ndarray, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Random keys from each row: actions int64 ``[B]`` and uint8 ``[B, 72, 72, 3]``, frame by frame."""
        session = self.session(rows)
        for number, taken in enumerate(held_keys(np.random.default_rng(self.seed), len(rows), frames).T, 1):
            yield taken, self.step(session, taken)
            if number % 32 == 0:
                session = session.fork(keep=self.decoding.window)  # an endless session holds every frame

    def after(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The frame after one action, tokens ``[B, 81]``."""
        parts = [
            self.read(self.step(self.session(rows[i : i + 64]), actions[i : i + 64]))
            for i in range(0, len(rows), 64)
        ]
        return np.concatenate(parts)


def to_pixels(frames: Tensor) -> np.ndarray:
    """Frames float ``[B, 3, H, W]`` -> uint8 ``[B, H, W, 3]``, as shown."""
    shown = (frames.clamp(-1, 1) + 1) * 127.5
    return shown.round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def held_keys(rng: np.random.Generator, walks: int, frames: int) -> np.ndarray:
    """Random actions as somebody takes who tries the keys, int64 ``[walks, frames]``."""
    shares = np.array([0.06, 0.17, 0.17, 0.17, 0.17, 0.14, 0.06, 0.06])
    found = np.empty((walks, frames), np.int64)
    for walk in found:
        done = 0
        while done < frames:
            action = int(rng.choice(8, p=shares))
            longest = 8 if action in STEPS else 4
            held = int(rng.integers(1, longest))
            walk[done : done + held] = action
            done += held
    return found


def flow(before: np.ndarray, after: np.ndarray, actions: np.ndarray) -> tuple[float, float]:
    """Of the creatures in steps of tokens ``[N, 81]``: shares that vanished, and that came from nowhere."""
    counts = np.zeros(4, int)
    busy = np.flatnonzero(measures.creatures(before).any(1) | measures.creatures(after).any(1))
    for old, new, action in zip(before[busy], after[busy], actions[busy], strict=True):
        moved = int(action) in STEPS and measures.is_free(old, int(action))
        x, y = STEPS[int(action)] if moved else (0, 0)
        counts[:2] += measures.vanished(old, new, (x, y))
        counts[2:] += measures.vanished(new, old, (-x, -y))
    return counts[0] / max(1, counts[1]), counts[2] / max(1, counts[3])


@torch.inference_mode()
def reconstruction(world: World, count: int) -> Iterator[Line]:
    """PSNR of tokenising and drawing again."""
    tokens = world.data.tokens[world.rows(count, 1)]
    frames = to_frames(world.data.sheet.draw(tokens))[:, None]
    drawn = torch.cat([world.suite.video_tokenizer(part) for part in frames.split(64)]).clamp(-1, 1)
    each = psnr(drawn[:, 0].numpy(), frames[:, 0].numpy(), 2)
    yield Line("reconstruction, dB", str(interval(each)), "36", "40", f"{len(each)} frames")


def next_frame(world: World, count: int) -> Iterator[Line]:
    """One frame under the true action."""
    rows = world.rows(count, 1)
    found = world.after(rows, world.data.actions[rows])
    right = found == world.truth(rows, 1)[:, 0]
    view = right[:, :MAP_PATCHES].mean(1)
    note = f"{len(rows)} frames; inventory {right[:, MAP_PATCHES:].mean():.2%}"
    yield Line("next frame: tiles of the view right", percent(view), "97%", "99%", note)


def walking(world: World, count: int) -> Iterator[Line]:
    """All four ways from each of ``count`` frames."""
    rows = world.rows(count, 1)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for action in STEPS:
        before = world.data.tokens[rows]
        found = world.after(rows, np.full(len(rows), action))
        lava = measures.is_lava(before, action)
        for old, new, free in zip(
            before[~lava], found[~lava], measures.is_free(before[~lava], action), strict=True
        ):
            moved = measures.did_scroll(old, new, action)
            if moved is not None:
                hits[bool(free)].append(moved == free)
    free, blocked = np.array(hits[True]), np.array(hits[False])
    note = f"free {free.mean():.1%} of {len(free)}, blocked {blocked.mean():.1%} of {len(blocked)}"
    yield Line(
        "walking scrolls when free, not when blocked",
        percent(np.concatenate((free, blocked))),
        "95%",
        "99%",
        note,
    )


def hands(world: World, count: int) -> Iterator[Line]:
    """Steps of the true game in which do, place or craft changed something: is it the same here?"""
    notes, least = [], 1.0
    for action in (DO, PLACE, CRAFT):
        among = np.flatnonzero(world.data.actions == action)
        rows = world.rows(len(among), 1, among)
        truth = world.truth(rows, 1)[:, 0]
        changed = measures.effects(world.data.tokens[rows], truth)
        kept = np.flatnonzero(changed.any(1))[:count]
        found = world.after(rows[kept], np.full(len(kept), action))
        right = ((found == truth[kept]) | ~changed[kept]).all(1)
        notes.append(f"{ACTIONS[action]} {np.mean(right):.1%} of {len(right)}")
        least = min(least, float(np.mean(right)))
    yield Line("do, place, craft have their effect (least)", f"{least:.1%}", "80%", "95%", ", ".join(notes))


def controllability(world: World, count: int) -> Iterator[Line]:
    """PSNR of the fourth frame under the true actions, over that under random ones."""
    rows = world.rows(count, 4)
    true = world.data.actions[rows[:, None] + np.arange(4)]
    random = np.random.default_rng(world.seed).integers(0, 8, true.shape)
    truth = world.data.sheet.draw(world.truth(rows, 4)[:, 3])
    scores = []
    for actions in (true, random):
        parts = []
        for start in range(0, len(rows), 64):
            session = world.session(rows[start : start + 64])
            for taken in actions[start : start + 64].T:
                pixels = world.step(session, taken)
            parts.append(pixels)
        scores.append(psnr(np.concatenate(parts), truth))
    gain = delta_psnr(scores[0], scores[1])
    note = f"{gain} over {len(rows)} clips; {np.mean(scores[0]):.1f} dB under the true actions"
    yield Line("delta 4 PSNR, lower end, dB", f"{gain.mean - gain.half_width:.2f}", "1.91", "6", note)


def walks(world: World, count: int, frames: int, sheet_path: Path | None) -> Iterator[Line]:
    """Long walks with random keys."""
    rows = world.rows(count, 1)
    seen: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    broken, pictures = 0, {}
    for frame, (taken, pixels) in enumerate(world.walk(rows, frames), 1):
        reading = measures.read(world.data.sheet, pixels)
        broken += int(reading.broken.sum())
        seen.append(reading.tokens)
        keys.append(taken)
        if frame in SHEET_FRAMES:
            pictures[frame] = pixels
    if sheet_path:
        contact_sheet(pictures, sheet_path)
    tokens, actions = np.stack(seen), np.stack(keys, 1)  # [frames, walks, 81], [walks, frames]
    game = measures.histogram(world.data.tokens)
    quarters = [measures.jensen_shannon(game, measures.histogram(part)) for part in np.array_split(tokens, 4)]
    note = f"{len(rows)} walks of {frames} frames"
    yield Line("tiles that are none of the game's", f"{broken / tokens.size:.3%}", "1%", "0.1%", note)
    text = "by quarter " + " ".join(f"{number:.3f}" for number in quarters)
    yield Line("histogram distance, last quarter, bits", f"{quarters[-1]:.3f}", "0.12", "0.03", text)
    ratios = [measures.kinds(part) / measures.kinds(world.data.tokens) for part in np.array_split(tokens, 4)]
    text = "by quarter " + " ".join(f"{number:.2f}" for number in ratios)
    yield Line("kinds of tile a view, over the game's", f"{ratios[-1]:.2f}", "0.6-1.6", "0.9-1.1", text)
    held = world.data.starts(2)[:20_000]
    game_flow = flow(world.data.tokens[held], world.data.tokens[held + 1], world.data.actions[held])
    flat = tokens.swapaxes(0, 1)  # [walks, frames, 81]
    own_flow = flow(flat[:, :-1].reshape(-1, 81), flat[:, 1:].reshape(-1, 81), actions[:, 1:].reshape(-1))
    text = f"in the game {game_flow[0]:.2%} and {game_flow[1]:.2%}"
    yield Line("creatures that vanish, and from nowhere", f"{own_flow[0]:.2%} {own_flow[1]:.2%}", note=text)
    last = np.concatenate(np.array_split(tokens, 4)[3:])
    number = measures.jensen_shannon(measures.pairs(world.data.tokens), measures.pairs(last))
    yield Line("distance of neighbouring tiles, bits", f"{number:.3f}")
    players = np.isin(tokens[..., :MAP_PATCHES], measures.PLAYER_TOKENS).sum(-1)
    yield Line(
        "views with one player", f"{(players == 1).mean():.2%}", "", "", f"most in a view: {players.max()}"
    )


def there_and_back(world: World, count: int, steps: int = 10) -> Iterator[Line]:
    """Ten steps, each way held for one to three of them, and the same way back."""
    rows = world.rows(count, 1)
    rng = np.random.default_rng(world.seed)
    ways = np.stack([np.repeat(rng.integers(1, 5, steps), rng.integers(1, 4, steps))[:steps] for _ in rows])
    session = world.session(rows)
    now = world.data.tokens[rows]
    tracks = [measures.Track(tokens) for tokens in now]
    moved = np.zeros(ways.shape, bool)
    for index in range(2 * steps):
        place = index if index < steps else 2 * steps - 1 - index
        wanted = ways[:, place] if index < steps else np.array([BACK[int(way)] for way in ways[:, place]])
        if index >= steps:
            wanted = np.where(moved[:, place], wanted, NOTHING)
        went = [
            action != NOTHING and track.move(tokens, int(action))
            for track, tokens, action in zip(tracks, now, wanted, strict=True)
        ]
        if index < steps:
            moved[:, place] = went
        now = world.read(world.step(session, wanted))
        for track, tokens in zip(tracks, now, strict=True):
            track.see(tokens)
    counts = np.array([track.unchanged(tokens) for track, tokens in zip(tracks, now, strict=True)]).sum(0)
    note = (
        f"{counts[1]} tiles of {len(rows)} walks; out of view and back: {counts[2] / max(1, counts[3]):.1%}"
    )
    yield Line(
        "ten steps and back: in view unchanged", f"{counts[0] / max(1, counts[1]):.2%}", "95%", "99%", note
    )


def actions_inferred(world: World, count: int) -> Iterator[Line]:
    """Which action led from a frame to the next, where it changed more than nothing."""
    rows = world.rows(count, 1)
    tokens = np.stack((world.data.tokens[rows], world.data.tokens[rows + 1]), 1)
    frames = to_frames(world.data.sheet.draw(tokens))
    found = torch.cat([world.suite.infer_actions(part) for part in frames.split(64)])[:, 0].numpy()
    true = world.data.actions[rows]
    parts = [f"{name} {np.mean(found[true == index] == index):.0%}" for index, name in enumerate(ACTIONS)]
    yield Line("action inferred from two frames", percent(found == true), "", "", ", ".join(parts))


def speed(world: World, frames: int = 200) -> Iterator[Line]:
    """Frames a second of one world, with one thread and with two."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        session = world.session(world.rows(1, 1))
        seconds = []
        for frame in range(frames):
            started = time.perf_counter()
            session.step(frame // 7 % 5)
            seconds.append(time.perf_counter() - started)
        middle = statistics.median(seconds[20:])
        note = f"median {1000 * middle:.1f} ms, fastest {1000 * min(seconds):.1f} ms"
        note += f", {os.cpu_count()} cores"
        if hasattr(os, "getloadavg"):  # Windows counts none
            note += f", load {os.getloadavg()[0]:.1f}"
        yield Line(f"frames a second, {threads} thread(s)", f"{1 / middle:.0f}", "60", "120", note)
    torch.set_num_threads(1)


def file_sizes(suite: Suite) -> Iterator[Line]:
    """The three files together."""
    size = sum(path.stat().st_size for path in suite.paths.values()) / 1e6
    yield Line("the three files, MB", f"{size:.2f}", "12", "6", f"{suite.parameter_count()} parameters")


def percent(hits: np.ndarray) -> str:
    """A mean share with its 95% interval."""
    found = interval(np.asarray(hits, np.float64) * 100)
    return f"{found.mean:.2f} ± {found.half_width:.2f}%"


def contact_sheet(pictures: dict[int, np.ndarray], path: Path, columns: int = 10) -> None:
    """Walks side by side, a row for each of the frames in ``pictures``."""
    rows = [np.concatenate(list(pixels[:columns]), 1) for _, pixels in sorted(pictures.items())]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)


def open_suite(folder: Path) -> Suite:
    """The three checkpoints in ``folder``."""
    return load_suite(
        video_tokenizer=folder / "crafter_video_tokenizer.pth",
        latent_actions=folder / "crafter_latent_actions.pth",
        dynamics=folder / "crafter_dynamics.pth",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    own, folder = WORLDS["crafter"], EMBEDDED / "crafter"
    parser.add_argument("folder", type=Path, nargs="?", default=folder, help="of the three checkpoints")
    parser.add_argument("recording", type=Path, nargs="?", default=folder / "test.npz")
    parser.add_argument("--steps", type=int, default=own.steps)
    parser.add_argument("--temperature", type=float, default=own.temperature)
    parser.add_argument("--window", type=int, default=own.context_window)
    parser.add_argument("--feedback", choices=("tokens", "pixels"), default=own.feedback)
    parser.add_argument("--clips", type=int, default=1024, help="frames or clips of the short measurements")
    parser.add_argument("--walks", type=int, default=64)
    parser.add_argument("--frames", type=int, default=900, help="of a walk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of the functions to run")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the walks here")
    parser.add_argument("--save", type=Path, help="write the lines as JSON, too")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    decoding = Decoding(options.steps, options.temperature, options.window, options.feedback)
    world = World(open_suite(options.folder), read_recording(options.recording), decoding, options.seed)
    clips = options.clips
    parts = {
        "reconstruction": lambda: reconstruction(world, clips),
        "next_frame": lambda: next_frame(world, clips),
        "walking": lambda: walking(world, clips // 2),
        "hands": lambda: hands(world, clips // 2),
        "controllability": lambda: controllability(world, clips // 2),
        "there_and_back": lambda: there_and_back(world, clips // 4),
        "actions_inferred": lambda: actions_inferred(world, clips),
        "speed": lambda: speed(world),
        "file_sizes": lambda: file_sizes(world.suite),
        "walks": lambda: walks(world, options.walks, options.frames, options.sheet),
    }
    lines: list[Line] = []
    print(f"{decoding}, {options.recording.name}, seed {options.seed}")
    print(Line("", "measured", "at least", "beyond"))
    for name in options.only or parts:
        for line in parts[name]():
            lines.append(line)
            print(line, flush=True)
    if options.save:
        found = {"decoding": vars(decoding), "lines": [vars(line) for line in lines]}
        options.save.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
