"""One model's training: updates that can be stopped at any moment, and go on as if nothing had happened.

What an update does follows from its number and the weights alone (`clips.Clips.draw`), and a checkpoint holds
weights, optimiser and number. So a training that is killed computes, from its last checkpoint on, what it
would have computed: the same weights and the same log, bit for bit on one machine.
"""

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers.assets.find import step_in_name
from helpers.errors import TrainingError
from helpers.files import written_whole
from helpers.run_folder import writing
from helpers.training.clips import Batch, Clips
from helpers.training.plan import Plan
from helpers.worldmodel.checkpoint import KINDS, Kind

EVERY = 10
"""Updates between two lines of the log; a checkpoint is written at a multiple of it, at the earliest."""
_FREE_DISK = "Free some disk, then run the same command again: it goes on from the last checkpoint."


@dataclass(frozen=True)
class Progress:
    """Where a stage stands."""

    kind: Kind
    step: int
    n_updates: int
    seconds_left: float  # of this stage, at its present speed
    numbers: dict[str, float]  # loss, and what else the objective tells, averaged


Watch = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Place:
    """Where a training runs: which device, and which of how many processes this is."""

    device: torch.device
    rank: int = 0
    processes: int = 1


def optimizers(model: nn.Module, rate: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks where it is wanted and torch has it, AdamW for all else."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "blocks" in name and "to_gamma_beta" not in name
        (inner if matrix and muon and hasattr(torch.optim, "Muon") else outer).append(parameter)
    adam = torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    if not inner:
        return [adam]
    return [torch.optim.Muon(inner, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"), adam]


def rate_at(step: int, n_updates: int, peak: float) -> float:
    """The learning rate of an update: warm-up, then a cosine down to a hundredth of the peak."""
    warm = min(200, max(1, n_updates // 10))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / n_updates)))
    return peak * min((step + 1) / warm, 0.99 * cosine + 0.01)


def checkpoint_folder(folder: Path, kind: Kind, name: str) -> Path:
    """Where a run keeps its checkpoints of a kind: where published ones of a world lie."""
    return folder / ("actions" if kind == "latent_actions" else kind) / "checkpoints" / name


def write_checkpoint(
    folder: Path, model: nn.Module, plan: Plan, kind: Kind, step: int, optimizer: dict[str, Any]
) -> Path:
    """Write a checkpoint in the published single-file form; an `OutputError` where the disk refuses."""
    stamp = time.strftime("%Y_%m_%d_%H_%M_%S")
    contents = {
        "model": {key: tensor.cpu() for key, tensor in model.state_dict().items()},
        "optimizer_state_dict": optimizer,
        "scheduler_state_dict": {"last_epoch": step, "n_updates": plan.stage(kind).n_updates},
        "config": plan.published_config(kind),
        "step": step,
        "timestamp": stamp,
    }
    path = folder / f"{plan.name}_{kind}_step_{step}_{stamp}.pth"
    with writing(folder, _FREE_DISK):
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            try:
                torch.save(contents, partial)
            except RuntimeError as error:  # torch's writer reports a full disk so
                raise OSError(str(error)[:200]) from error
    return path


class Trainer:
    """Trains one model from its last checkpoint, or from the start, to the plan's last update.

    Args:
        kind: Which model.
        objective: What it learns; its ``model`` is what is trained.
        plan: The settings.
        folder: The run's folder, ``results/<time>_<name>``.
        clips: What is learned from.
        place: Where.

    Raises:
        TrainingError: The last checkpoint cannot be read.
    """

    def __init__(
        self, kind: Kind, objective: nn.Module, plan: Plan, folder: Path, clips: Clips, place: Place
    ) -> None:
        self.kind, self.plan, self.clips, self.place = kind, plan, clips, place
        self.stage = plan.stage(kind)
        self.objective = objective.to(place.device)
        self.model = cast(nn.Module, objective.model)
        self.optimizers = optimizers(self.model, self.stage.learning_rate, plan.optimizer == "muon")
        self.step = 0
        self.log_path = folder / kind / "log.jsonl"
        self.checkpoints = checkpoint_folder(folder, kind, plan.name)
        self._restore()

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return (self.plan.frame_size // self.plan.patch_size) ** 2

    # --- going on ----------------------------------------------------------------------------------

    def _saved(self) -> list[Path]:
        """This run's checkpoints of this model, the oldest first."""
        steps = {path: step_in_name(path.name, self.kind) for path in self.checkpoints.glob("*.pth")}
        own = {path: step for path, step in steps.items() if step is not None}
        return sorted(
            (path for path in own if own[path] <= max(1, self.stage.n_updates)), key=lambda p: own[p]
        )

    def _restore(self) -> None:
        for path in self._saved()[-1:]:
            try:
                state = torch.load(path, map_location=self.place.device, weights_only=True)
                self.model.load_state_dict(state["model"])
                for optimizer, stored in zip(self.optimizers, self._stored(state), strict=True):
                    optimizer.load_state_dict(stored)
                self.step = state["step"]
            except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
                what = f"{path} cannot be gone on from ({str(error)[:200]})."
                raise TrainingError(what, fix="Remove it: the training goes on from an older one.") from error
        self._cut_log()

    @staticmethod
    def _stored(state: dict[str, Any]) -> list[dict[str, Any]]:
        own = state["optimizer_state_dict"]
        return [own["muon"], own["adamw"]] if "muon" in own else [own]

    def _cut_log(self) -> None:
        """Forget the log's lines about updates that were lost with the process: they come again."""
        if self.place.rank or not self.log_path.exists():
            return
        lines = self.log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        with writing(self.log_path, _FREE_DISK), written_whole(self.log_path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")

    def save(self) -> None:
        """Write a checkpoint in the published single-file form, in place of the last one."""
        if self.place.rank:
            return
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        stored = dict(zip(("muon", "adamw"), states, strict=True)) if len(states) == 2 else states[0]
        before = [path for path in self._saved() if step_in_name(path.name, self.kind) != self.step]
        write_checkpoint(self.checkpoints, self.model, self.plan, self.kind, self.step, stored)
        for path in before:
            with suppress(OSError):  # Windows keeps a file that a player has open
                path.unlink()

    # --- learning ----------------------------------------------------------------------------------

    def rehearse(self, updates: int = 4) -> float:
        """Seconds of an update, measured on a copy that is then forgotten; the first one does not count."""
        twin = copy.copy(self)
        twin.objective = copy.deepcopy(self.objective)
        twin.model = cast(nn.Module, twin.objective.model)
        twin.optimizers = optimizers(twin.model, self.stage.learning_rate, self.plan.optimizer == "muon")
        batches = twin._batches()
        seconds = []
        for batch, _ in zip(batches, range(updates + 1), strict=False):
            began = time.perf_counter()
            float(twin._learn(twin.objective, batch, 1)["loss"])
            seconds.append(time.perf_counter() - began)
        batches.close()
        return statistics.median(seconds[1:])

    def _batches(self) -> Any:
        """This process's part of every batch from this update on."""
        size = self.stage.batch_size_per_gpu * self.place.processes

        def parts() -> Iterator[Batch]:
            batches = self.clips.batches(KINDS.index(self.kind), self.step, size, self.patches)
            for batch in batches:
                yield batch.rows(self.place.rank, self.place.processes).to(self.place.device)

        return parts()

    def _learn(self, objective: nn.Module, batch: Batch, n_updates: int) -> dict[str, Tensor]:
        """One update; the loss and the objective's numbers."""
        rate = rate_at(self.step, n_updates, self.stage.learning_rate)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        device = self.place.device.type  # on a CPU autocast costs more than it saves
        with torch.autocast(device, torch.bfloat16, enabled=self.plan.amp and device != "cpu"):
            loss, numbers = objective(batch, self.step / n_updates)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return {"loss": loss.detach(), **numbers}

    def run(self, watch: Watch = ignore) -> None:
        """Learn until the plan's last update.

        Raises:
            TrainingError: The loss is no number any more; the last checkpoint stays.
            OutputError: The disk refuses a checkpoint or the log.
        """
        n_updates = self.stage.n_updates
        wrapped = self.objective
        if self.place.processes > 1:
            wrapped = DistributedDataParallel(self.objective, find_unused_parameters=True)
        if self.step == 0:
            self.save()
        self.model.train().requires_grad_(True)
        saved = began = time.monotonic()
        first, sums = self.step, dict[str, Tensor]()
        batches = self._batches()
        while self.step < n_updates:
            for name, value in self._learn(wrapped, next(batches), n_updates).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            self.step += 1
            if self.step % EVERY and self.step < n_updates:
                continue
            count = self.step % EVERY or EVERY
            numbers = {name: self._mean(value) / count for name, value in sums.items()}
            sums = {}
            self._check(numbers)
            self._log(numbers)
            if time.monotonic() - saved > self.plan.save_seconds or self.step == n_updates:
                self.save()
                saved = time.monotonic()
            pace = (time.monotonic() - began) / (self.step - first)
            watch(Progress(self.kind, self.step, n_updates, pace * (n_updates - self.step), numbers))
        batches.close()
        self.model.eval().requires_grad_(False)

    def _mean(self, value: Tensor) -> float:
        """A number's mean over all processes."""
        if self.place.processes > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value) / self.place.processes

    def _check(self, numbers: dict[str, float]) -> None:
        if not math.isfinite(numbers["loss"]):
            rate = self.stage.learning_rate
            what = f"The {self.kind}'s loss is {numbers['loss']} at update {self.step}."
            fix = "Nothing is lost: run the same command with half the learning rate, "
            fix += f"-p {self.kind}.learning_rate={rate / 2:g}; it goes on from the last checkpoint."
            raise TrainingError(what, fix=fix)

    def _log(self, numbers: dict[str, float]) -> None:
        if self.place.rank:
            return
        line = {"step": self.step, **{name: round(value, 6) for name, value in numbers.items()}}
        with writing(self.log_path, _FREE_DISK):
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a stage's log, one every ten updates; none where it has not begun."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
