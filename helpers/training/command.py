"""``python runbook.py train my_game.mp4 --minutes 60``: from a screen recording to a world in the player.

The run's folder, ``results/<time>_<name>/``, holds the plan, ``recording.png``, and for each model its log,
its verdict, pictures and its checkpoint. The same command goes on from there, however it ended.

With several GPUs: ``torchrun --nproc-per-node 4 -m helpers.training.command my_game.mp4 --minutes 60``.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from helpers.assets.find import dataset_path, latest_checkpoint
from helpers.commands import exit_status, runbook_line
from helpers.errors import ParameterError, TrainingError
from helpers.files import expanded
from helpers.parameters import command_parser
from helpers.pictures import png
from helpers.report import Check, Verdict, write_json
from helpers.run_folder import ROOT, writing
from helpers.training import gates
from helpers.training.clips import Clips
from helpers.training.objectives import ActionsObjective, DynamicsObjective, TokenizerObjective
from helpers.training.plan import Plan, make_plan, read_plan, shape_of, write_plan
from helpers.training.prepare import ENOUGH, Recording, prepare, prepared_here
from helpers.training.trainer import Place, Progress, Trainer
from helpers.worldmodel.checkpoint import KINDS, Kind, build_model, read_checkpoint
from helpers.worldmodel.models import Dynamics, LatentActions, VideoTokenizer
from helpers.worldmodel.session import Decoding
from helpers.worldmodel.suite import Suite, resolve_device
from helpers.worlds import add_world, own_world

PICTURE_SECONDS = 180.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    recording: Recording
    name: str
    size: str = ""  # of `helpers.training.plan.SIZES`; empty: large on a GPU, small elsewhere
    minutes: float = 60.0
    steps: int = 0  # updates of each stage, instead of minutes
    settings: tuple[str, ...] = ()
    device: str = "auto"
    look: bool = False  # only prepare the dataset and draw its picture


class Run:
    """A training's folder, and the world that it makes.

    Args:
        order: What is asked for.
        root: The folder that holds ``data/`` and ``results/``.
        say: Called with every line for people.
        watch: Called with every progress.
    """

    def __init__(
        self,
        order: Order,
        root: Path = ROOT,
        say: Say = print,
        watch: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.order, self.root, self.say, self.watch = order, root, say, watch
        self.place = _place(order.device)
        self.world = own_world(
            order.name,
            title=order.name.replace("_", " ").title(),
            fps=max(1, round(order.recording.fps)),
        )
        self.dataset = dataset_path(self.world, root)
        before = sorted((root / "results").glob(f"*_{order.name}/recording.json"))
        self.folder = before[-1].parent if before else root / "results" / f"{_stamp()}_{order.name}"
        self.plan: Plan
        self._drawn = time.monotonic()

    # --- the parts, in order -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the dataset and the plan, or take those that are there.

        Raises:
            RunbookError: The recording cannot be read or is too short, or the settings do not go together.
        """
        if self.place.rank == 0:
            labels = self._prepare_dataset()
            asked = self._ask(labels)
            if not (self.folder / "plan.json").exists():
                write_plan(self.folder / "asked.json", asked)
                write_plan(self.folder / "plan.json", asked)
            before = read_plan(self.folder / "asked.json")
            if different := [key for key, value in shape_of(asked).items() if value != shape_of(before)[key]]:
                what = f"{self.folder} was begun with other settings: {', '.join(different)}."
                raise TrainingError(what, fix="Use the same ones, or train anew under another --name.")
            self._take(asked)
            add_world(self.world, self.root)
        self._meet()
        self.plan = read_plan(self.folder / "plan.json")

    def _prepare_dataset(self) -> tuple[str, ...]:
        """The meanings of the action ids, once the dataset is there."""
        about = self.folder / "recording.json"
        if about.exists() and self.dataset.exists():
            return tuple(json.loads(about.read_text(encoding="utf-8"))["labels"])
        if self.dataset.exists() and not prepared_here(self.dataset):
            what = f"{self.dataset} is there already, and is not of this training."
            raise ParameterError(what, fix="Choose another --name, or move that file away.")
        self.say(f"Reading {self.order.recording.source} …")
        picture = self.folder / "recording.png"
        made = prepare(self.order.recording, self.dataset, picture, self.say)
        self._conclude("recording", made.checks)
        self.say(
            f"Look at {picture} before the time is spent: Ctrl+C stops, and --crop, --fps or --size mend."
        )
        with writing(about):
            write_json(about, {"labels": list(made.labels), "frames": made.frames, "episodes": made.episodes})
        return made.labels

    def _ask(self, labels: tuple[str, ...]) -> Plan:
        order = self.order
        size = order.size or ("large" if self.place.device.type == "cuda" else "small")
        given: dict[str, Any] = {
            "labels": labels,
            "fps": order.recording.fps,
            "frame_size": order.recording.size,
        }
        if labels:
            given["n_actions"] = max(2, len(labels))
        plan = make_plan(
            order.name, size, order.settings, minutes=0 if order.steps else order.minutes, **given
        )
        for kind in KINDS if order.steps else ():
            plan = plan.with_stage(kind, n_updates=order.steps)
        return plan

    def _take(self, asked: Plan) -> None:
        """Take over what may change when a training goes on: rates, and how often it saves."""
        plan = read_plan(self.folder / "plan.json")
        for kind in KINDS:
            rate = asked.stage(kind).learning_rate
            n_updates = asked.stage(kind).n_updates or plan.stage(kind).n_updates
            plan = plan.with_stage(kind, learning_rate=rate, n_updates=n_updates)
        write_plan(self.folder / "plan.json", replace(plan, save_seconds=asked.save_seconds))

    def train(self, kind: Kind) -> None:
        """Train one model to its end, and judge it.

        Raises:
            TrainingError: It cannot go on; the message says what to do.
        """
        if (self.folder / kind / "verdict.json").exists():
            return
        with self._clips() as clips:
            torch.manual_seed(self.plan.seed + KINDS.index(kind))
            objective = self._objective(kind)
            if not self.plan.stage(kind).n_updates:
                self._settle(kind, Trainer(kind, objective, self.plan, self.folder, clips, self.place))
            trainer = Trainer(kind, objective, self.plan, self.folder, clips, self.place)
            if trainer.step:
                whole = self.plan.stage(kind).n_updates
                self.say(f"{kind}: goes on from update {trainer.step:,} of {whole:,}")
            trainer.run(lambda progress: self._see(progress, objective, clips))
            if self.place.rank == 0:
                self._judge(kind, objective, clips)
        self._meet()
        self.plan = read_plan(self.folder / "plan.json")

    def _clips(self, more: int = 1) -> Clips:
        return Clips(self.dataset, self.plan.context_length + more, self.plan.seed)

    def _settle(self, kind: Kind, trainer: Trainer) -> None:
        """Fix how many updates the stage's share of the minutes is; from here on that number counts."""
        if self.place.rank == 0:
            shares = sum(self.plan.stage(other).share for other in KINDS)
            seconds = 60 * self.plan.minutes * self.plan.stage(kind).share / shares
            pace = trainer.rehearse()
            n_updates = max(20, int(seconds / pace))
            self.say(f"{kind}: {n_updates:,} updates of {pace:.2f} s in {seconds / 60:.0f} minutes")
            write_plan(self.folder / "plan.json", self.plan.with_stage(kind, n_updates=n_updates))
        self._meet()
        self.plan = read_plan(self.folder / "plan.json")

    # --- models ------------------------------------------------------------------------------------

    def load(self, kind: Kind) -> nn.Module:
        """A model that this run has trained, frozen."""
        path = latest_checkpoint(kind, self.root, self.plan.name)
        if path is None:
            raise TrainingError(f"{self.folder} holds no {kind} yet.", fix="Run the same command again.")
        model = build_model(read_checkpoint(path, kind), self.plan.frame_size, self.place.device)
        return model.requires_grad_(False)

    def _objective(self, kind: Kind) -> nn.Module:
        plan, published = self.plan, self.plan.objectives == "published"
        config = plan.config(kind)
        if kind == "video_tokenizer":
            tokenizer = VideoTokenizer(config)
            _louder(tokenizer.encoder.patch_embed.proj, published)
            return TokenizerObjective(tokenizer, published)
        if kind == "latent_actions":
            actions = LatentActions(config)
            _louder(actions.encoder.patch_embed.proj, published)
            _louder(actions.decoder.patch_embed.proj, published)
            return ActionsObjective(actions, published)
        dynamics = Dynamics(config)
        _louder(dynamics.latent_embed, published)
        tokenizer = cast(VideoTokenizer, self.load("video_tokenizer"))
        actions = cast(LatentActions, self.load("latent_actions"))
        in_half = plan.amp and self.place.device.type == "cpu"
        settings = plan.noise, plan.whole, in_half
        return DynamicsObjective(dynamics, tokenizer, actions, published, *settings)

    def suite(self, dynamics: Dynamics) -> Suite:
        """The world as it would be played, with these dynamics."""
        tokenizer = cast(VideoTokenizer, self.load("video_tokenizer"))
        actions = cast(LatentActions, self.load("latent_actions"))
        return Suite(tokenizer, actions, dynamics, self.place.device, {})

    # --- telling -----------------------------------------------------------------------------------

    def _see(self, progress: Progress, objective: nn.Module, clips: Clips) -> None:
        if self.place.rank:
            return
        self.watch(progress)
        if time.monotonic() - self._drawn > PICTURE_SECONDS:
            picture = self._gate(progress.kind, objective, clips, quick=True).picture
            self._draw(progress.kind, f"update_{progress.step:06d}", picture)
            self._drawn = time.monotonic()

    def _gate(self, kind: Kind, objective: nn.Module, clips: Clips, quick: bool = False) -> gates.Gate:
        model = cast(nn.Module, objective.model)
        model.eval()
        try:
            if kind == "video_tokenizer":
                return gates.judge_tokenizer(cast(VideoTokenizer, model), clips, self.place.device)
            if kind == "latent_actions":
                return gates.judge_actions(cast(LatentActions, model), clips, self.place.device, self.plan)
            suite, window = self.suite(cast(Dynamics, model)), self.plan.context_length
            with self._clips(4) as longer:
                if quick:
                    return gates.judge_dynamics(suite, longer, Decoding(4, 0.5, "tokens"), window, 8, 24)
                decoding = gates.choose_decoding(suite, longer, window)
                self.world = replace(
                    self.world,
                    context_window=window,
                    feedback=decoding.feedback,
                    steps=decoding.steps,
                    temperature=float(decoding.temperature),
                )
                return gates.judge_dynamics(suite, longer, decoding, window)
        finally:
            model.train()

    def _judge(self, kind: Kind, objective: nn.Module, clips: Clips) -> None:
        gate = self._gate(kind, objective, clips)
        self._draw(kind, "verdict", gate.picture)
        self._conclude(kind, gate.checks, gate.numbers)
        if kind == "dynamics":
            names = self.plan.labels
            add_world(replace(self.world, true_actions=names), self.root)

    def _draw(self, kind: Kind, name: str, picture: "object") -> None:
        path = self.folder / kind / f"{name}.png"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture))  # type: ignore[arg-type]

    def _conclude(self, step: str, checks: Sequence[Check], numbers: dict[str, float] | None = None) -> None:
        verdict = Verdict(step, tuple(checks))
        self.say(str(verdict))
        path = self.folder / step / "verdict.json"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**verdict.to_dict(), "numbers": numbers or {}})

    def _meet(self) -> None:
        """Wait for the other processes."""
        if self.place.processes > 1:
            dist.barrier()


def train(
    order: Order, root: Path = ROOT, say: Say = print, watch: Callable[[Progress], None] = print
) -> Run:
    """Train a world, or go on; every line for people goes to ``say``, progress to ``watch``.

    Raises:
        RunbookError: Of the kind that fits; what was trained stays, and the same order goes on from there.
    """
    run = Run(order, root, say, watch)
    run.prepare()
    if not order.look:
        for kind in KINDS:
            run.train(kind)
    return run


def _louder(layer: nn.Module, published: bool) -> None:
    """Let what is seen begin four times as loud: at the usual scale the positions drown it for long."""
    if not published:
        with torch.no_grad():
            cast(nn.Linear, layer).weight.mul_(4)


def _stamp() -> str:
    return time.strftime("%Y%m%d_%H%M%S")


def _place(device: str) -> Place:
    """Where this process trains; torchrun says which of several it is."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return Place(resolve_device(device))
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    where = resolve_device(f"cuda:{local}" if device == "auto" and torch.cuda.is_available() else device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Place(where, rank, processes)


class Line:
    """Progress as one line of a terminal, which a terminal redraws and a log gets now and then."""

    def __init__(self, every: float = 30.0) -> None:
        self.live = sys.stdout.isatty()
        self.every, self.last = 0.5 if self.live else every, 0.0

    def __call__(self, progress: Progress) -> None:
        """Show where a stage stands."""
        now, ends = time.monotonic(), progress.step == progress.n_updates
        if now - self.last < self.every and not ends:
            return
        self.last = now
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in progress.numbers.items())
        left = time.strftime("%H:%M:%S", time.gmtime(progress.seconds_left))
        share = progress.step / progress.n_updates
        text = f"{progress.kind}  {progress.step:,} of {progress.n_updates:,} ({share:.0%})  "
        text += f"{numbers}  {left} left"
        print(f"\r{text:<110}" if self.live else text, end="\n" if ends or not self.live else "", flush=True)


def read_order(argv: Sequence[str] | None = None) -> Order:
    """The order that a command line means; a `ParameterError` where it means none."""
    parser = command_parser(
        "train", "Train a world on a screen recording.", "a setting, such as -p n_actions=4"
    )
    add = parser.add_argument
    add("source", help="an MP4, MKV, GIF, a folder of PNGs, or an h5 with `frames`")
    add("--minutes", type=float, default=60.0, help="time for all three models (default: 60)")
    add("--steps", type=int, default=0, help="updates of each model, instead of minutes")
    add("--name", default="", help="the world's name (default: the file's)")
    add(
        "--actions",
        metavar="KEYS.csv",
        help="the true actions: lines `seconds,keys`, such as 0.533,left+jump",
    )
    add("--fps", type=float, default=15.0, help="frames a second to train on (default: 15)")
    add("--skip", type=int, default=1, help="of an h5: rows from one frame to the next (default: 1)")
    add("--size", type=int, default=64, help="pixels a side, a multiple of the patch (default: 64)")
    add("--crop", metavar="L,T,R,B", help="what of the picture to keep")
    add("--model", default="", help="small, large or published (default: large on a GPU, small elsewhere)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--look", action="store_true", help="only read the recording and draw the picture")
    add("--frames", type=int, default=ENOUGH, help="fewest frames to train on; for tests and experts")
    given = parser.parse_args(argv)
    source = given.called_from / expanded(given.source)
    name = given.name or re.sub(r"[^a-z0-9_-]+", "_", source.stem.lower()).strip("_-")
    if given.minutes <= 0 or given.steps < 0 or not 0 < given.fps <= 240 or given.size < 8 or given.skip < 1:
        raise ParameterError("--minutes, --steps, --fps, --size or --skip is out of range.", fix="Raise it.")
    crop = None
    if given.crop:
        with suppress(ValueError):
            left, top, right, bottom = (int(part) for part in given.crop.split(","))
            crop = left, top, right, bottom
        if crop is None:
            raise ParameterError(f"--crop is {given.crop!r}.", fix="Give left,top,right,bottom in pixels.")
    keys = given.called_from / expanded(given.actions) if given.actions else None
    recording = Recording(source, given.fps, given.size, given.skip, crop, keys, given.frames)
    return Order(
        *(recording, name, given.model, given.minutes, given.steps),
        *(tuple(given.parameter), given.device, given.look),
    )


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Train what the arguments ask for; the exit status is 0 if the world is there."""
    order = read_order(argv)
    run = train(order, watch=Line())
    if not order.look:
        print(f"Play it: {runbook_line('run', '--only', '05_infer', '--dataset', run.plan.name)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
