"""A rollout: a world is opened, a clip chosen, and a session stepped, action after action.

The path is `Settings` -> `open_world` -> `choose_clip` -> `roll_out`. Knows worlds' files and the engine.
Pictures and evidence are `helpers.play.results`'s business, playing by hand is `helpers.player`'s.
"""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from helpers.assets.dataset import FrameDataset, lively_starts, to_model_frames
from helpers.assets.fetch import (
    SuitePaths,
    find_suite,
    require_unchanged,
    safe_checkpoints,
    weights_file,
)
from helpers.assets.hub import sha256_of
from helpers.errors import ActionError, DatasetError, ParameterError
from helpers.pictures import to_uint8
from helpers.play.gpu_trace import GpuTrace
from helpers.play.metrics import psnr
from helpers.run_folder import ROOT
from helpers.worldmodel import Session, Suite, load_suite
from helpers.worldmodel.layers import Transformer
from helpers.worldmodel.session import Feedback
from helpers.worlds import World, world

if TYPE_CHECKING:
    from helpers.play.game import Game
    from helpers.play.session_file import Replay

log = logging.getLogger("runbook.rollout")

LOOP_STARTS, LOOP_ENDS = "inference loop starts", "inference loop ends"
"""What the log says, and what the proof looks for."""

ActionSource = Literal["given", "ground truth", "random", "none"]
LIVELY_CLIPS = 16


@dataclass(frozen=True)
class Settings:
    """Every parameter of 05_infer. Where the published inference config has a name for it, that name.

    Args:
        dataset: A world, such as ``"demo"`` or ``"SONIC"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        generation_steps: Steps to take; each generates ``prediction_horizon`` frames.
        context_window: Frames the models see; as many are given from the clip.
        fps: Of the video; 0 takes the dataset's own.
        temperature: 0 decodes greedily; above 0 samples.
        prediction_horizon: Frames a step generates; an action is held for all of them.
        teacher_forced: See the true frames, not the generated ones, at every step.
        use_actions: Random actions.
        use_gt_actions: The actions the latent action model infers from the true clip; before use_actions.
        use_interactive_mode: The user's own actions, from ``actions`` or the player; before all others.
        use_latest_checkpoints: The newest checkpoints under ``results/``, of whichever run.
        video_tokenizer_path: A checkpoint instead of the suite's own; empty for that.
        latent_actions_path: Likewise.
        dynamics_path: Likewise.
        preload_ratio: Only this share of the dataset's frames, from its start.
        amp: Compute matrix products in bfloat16.
        tf32: Allow TF32 matrix products on a GPU.
        compile: Compile the models with torch.compile, which needs a compiler on this machine.
        seed: Of the clip, the random actions and the sampling.
        steps: MaskGIT decoding steps a frame; 0 takes the world's own.
        feedback: ``"tokens"`` keeps generated tokens; ``"pixels"`` tokenises generated frames again.
        actions: Action ids to take, one a step; they come before every other source of actions.
        start: Row of the dataset to start from; -1 takes a lively clip, chosen by the seed.
        evaluate: Also measure what takes further passes of the models: Δ₄PSNR and token accuracy.
        replay: A session file to play again instead; what it recorded comes before the parameters above.
        replay_other_weights: Replay it even if the suite is not the one it was played with.
        preset: Such as ``"30fps"``: `helpers.presets` sets steps, temperature and feedback by it, as measured
            for this world on this device.
    """

    dataset: str = "demo"
    device: str = "auto"
    generation_steps: int = 16
    context_window: int = 4
    fps: int = 0
    temperature: float = 0.0
    prediction_horizon: int = 1
    teacher_forced: bool = False
    use_actions: bool = True
    use_gt_actions: bool = True
    use_interactive_mode: bool = False
    use_latest_checkpoints: bool = False
    video_tokenizer_path: str = ""
    latent_actions_path: str = ""
    dynamics_path: str = ""
    preload_ratio: float = 1.0
    amp: bool = False
    tf32: bool = False
    compile: bool = False
    seed: int = 0
    steps: int = 0
    feedback: Feedback = "tokens"
    actions: tuple[int, ...] = ()
    start: int = -1
    evaluate: bool = True
    replay: str = ""
    replay_other_weights: bool = False
    preset: str = ""

    @classmethod
    def read(cls, namespace: Mapping[str, Any]) -> "Settings":
        """Settings from the variables of a notebook's parameters cell; other variables are ignored.

        Raises:
            ParameterError: A value has the wrong type or is out of its range.
        """
        values = {each.name: namespace[each.name] for each in fields(cls) if each.name in namespace}
        for each in fields(cls):
            value = values.get(each.name, each.default)
            wanted = type(each.default)
            fits = isinstance(
                value, (list, tuple) if wanted is tuple else (int, float) if wanted is float else wanted
            )
            if not fits or (isinstance(value, bool) and wanted is not bool):
                raise ParameterError(
                    f"{each.name} is {value!r}.",
                    fix=f"It takes a {wanted.__name__}, such as {each.default!r}.",
                )
        settings = cls(**values | {"actions": tuple(values.get("actions", ()))})
        settings.check()
        return settings

    def check(self) -> None:
        """Raise a `ParameterError` for the first number out of its range."""
        lowest = {
            "generation_steps": 1,
            "context_window": 1,
            "fps": 0,
            "seed": 0,
            "temperature": 0,
            "prediction_horizon": 1,
            "steps": 0,
            "start": -1,
        }
        for name, bound in lowest.items():
            if not getattr(self, name) >= bound:
                raise ParameterError(f"{name} is {getattr(self, name)}.", fix=f"It must be at least {bound}.")
        for action in self.actions:
            if isinstance(action, bool) or not isinstance(action, int):
                raise ActionError(
                    f"actions holds {action!r}.", fix="Use a list of whole numbers, such as [2, 2, 6]."
                )
        if self.feedback not in ("pixels", "tokens"):
            raise ParameterError(f"feedback is {self.feedback!r}.", fix='Use "pixels" or "tokens".')
        if self.preset:
            frames_a_second(self.preset)
        world(self.dataset)

    @property
    def action_source(self) -> ActionSource:
        """Where the actions come from, by the published order of precedence; ids given come first."""
        if self.actions or self.use_interactive_mode:
            return "given"
        return "ground truth" if self.use_gt_actions else "random" if self.use_actions else "none"


def frames_a_second(preset: str) -> int:
    """What a preset asks for: 30 for ``"30fps"``.

    Raises:
        ParameterError: It is no such preset.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,3}) ?fps", preset.strip().lower())
    if match is None:
        raise ParameterError(
            f"preset is {preset!r}.", fix='Use a number of frames a second, such as "30fps".'
        )
    return int(match[1])


@dataclass(frozen=True)
class OpenWorld:
    """A world ready to play.

    Args:
        world: Its names and numbers.
        paths: Where its parts lie.
        suite: The models, loaded.
        hashes: sha256 of each part's file, by the part's name.
        load_seconds: How long loading took.
        notes: What the user should know and need not stop for.
    """

    world: World
    paths: SuitePaths
    suite: Suite
    hashes: dict[str, str]
    load_seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        suite = self.suite
        lines = [f"{part:<16}{path}  sha256 {self.hashes[part][:12]}" for part, path in self.paths.items()]
        size = f"{suite.parameter_count():,} parameters on {suite.device}, {suite.n_actions} actions"
        return "\n".join([f"{self.world.title}: {size}, loaded in {self.load_seconds:.1f} s", *lines])


@dataclass(frozen=True)
class Clip:
    """The piece of play a rollout starts from.

    Args:
        start: Row of the dataset.
        frames: float32 ``[1, T, 3, H, W]`` in [-1, 1]: the context and, as far as the dataset goes, the rest.
        true_actions: int64 ``[T-1]`` where the dataset holds them, else None.
    """

    start: int
    frames: Tensor
    true_actions: np.ndarray | None


@dataclass(frozen=True)
class Rollout:
    """What a rollout made.

    Args:
        clip: What it started from.
        given: Frames of context at the front of ``frames``.
        frames: uint8 ``[T, H, W, 3]``: the context, then the generated frames.
        truth: uint8 ``[T', H, W, 3]``, T' <= T: what the clip shows; as long as the clip.
        actions: The action that led to each generated frame; None where there was none.
        action_source: Where they came from.
        token_hashes: One a generated frame; equal tokens have equal hashes.
        seconds: Seconds each step took, the first one's warm-up included.
        psnr: dB against the truth, one a generated frame, as far as the truth reaches.
        gpu_seconds: Likewise by the GPU's own clock; empty on a CPU.
        peak_memory_bytes: The most GPU memory torch held; 0 on a CPU.
        trace: What NVML saw of the GPU; None on a CPU.
        session: What was stepped; a player goes on from it.
        game: The game of which this is one branch; None if the session was stepped from start to end.
        replay: How it compares with the session file that it is a replay of; None if it is not one.
    """

    clip: Clip
    given: int
    frames: np.ndarray
    truth: np.ndarray
    actions: list[int | None]
    action_source: ActionSource
    token_hashes: list[str]
    seconds: list[float]
    psnr: list[float]
    gpu_seconds: list[float]
    peak_memory_bytes: int
    trace: GpuTrace | None
    session: Session
    game: "Game | None" = None
    replay: "Replay | None" = None

    @property
    def generated(self) -> int:
        """How many frames were generated."""
        return len(self.frames) - self.given


def open_world(settings: Settings, root: Path = ROOT) -> OpenWorld:
    """Find a world's files and load its suite.

    Raises:
        RunbookError: Of the kind that fits: a file is missing or wrong, or the device cannot be used.
    """
    chosen = world(settings.dataset)
    paths = find_suite(
        chosen.name,
        root,
        settings.video_tokenizer_path,
        settings.latent_actions_path,
        settings.dynamics_path,
        use_latest_checkpoints=settings.use_latest_checkpoints,
    )
    began = time.perf_counter()
    require_unchanged(chosen, paths, root)
    checkpoints = safe_checkpoints(paths, root)
    suite = load_suite(**checkpoints, device=settings.device)
    load_seconds = time.perf_counter() - began
    hashes = {
        part: sha256_of(weights_file(path) if part != "dataset" else path) for part, path in paths.items()
    }
    for part, path in paths.items():
        log.info("loaded %s %s sha256 %s", part, path, hashes[part])
    notes = [compile_models(suite, settings)] if settings.compile else []
    return OpenWorld(chosen, paths, suite, hashes, load_seconds, tuple(note for note in notes if note))


def compile_models(suite: Suite, settings: Settings) -> str:
    """Compile the models in place and try them; where that fails, why, and they run as they were."""
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    transformers = [part for model in models for part in model.modules() if isinstance(part, Transformer)]
    for transformer in transformers:
        transformer.compile()
    size, window = suite.frame_size, settings.context_window
    try:
        with precision(settings, suite.device):
            session = Session(
                suite, torch.zeros(1, window, 3, size, size), window, settings.prediction_horizon
            )
            session.step(0)
    except Exception as error:  # torch.compile raises whatever its back ends and compilers raise
        for transformer in transformers:
            transformer._compiled_call_impl = None  # what Module.compile set; torch has no call to undo it
        return f"compile was asked for and failed ({type(error).__name__}); the models run as they are"
    return ""


def choose_clip(opened: OpenWorld, settings: Settings) -> Clip:
    """The clip to start from: the row ``settings.start``, or a lively one chosen by the seed.

    Raises:
        DatasetError: The dataset is missing, damaged, or shorter than what the settings need of the truth:
            all frames to be generated with inferred actions or teacher forcing, the context otherwise.
    """
    chosen = opened.world
    wanted = settings.context_window + settings.generation_steps * settings.prediction_horizon
    needs_truth = settings.teacher_forced or settings.action_source == "ground truth"
    with FrameDataset(opened.paths.dataset, chosen.skip, chosen.first_frame, settings.preload_ratio) as data:
        length = wanted
        if not needs_truth:
            length = longest_clip(data, settings.start, settings.context_window, wanted)
        if settings.start >= 0:
            start = settings.start
        else:
            lively = lively_starts(data, length, LIVELY_CLIPS)
            start = lively[settings.seed % len(lively)]
        pixels = data.clip(start, length)
        frames = torch.from_numpy(to_model_frames(pixels, opened.suite.frame_size))
        true_actions = data.clip_actions(start, length)
    log.info("clip of %d frames from row %d of %s", length, start, opened.paths.dataset)
    return Clip(start, frames, true_actions)


def longest_clip(data: FrameDataset, start: int, shortest: int, wanted: int) -> int:
    """The most frames, up to ``wanted``, of a clip from ``start`` (-1: from anywhere); at least ``shortest``.

    Raises:
        DatasetError: Not even ``shortest`` frames fit.
    """

    def fits(length: int) -> bool:
        with contextlib.suppress(DatasetError):
            return start in data.starts(length) if start >= 0 else len(data.starts(length)) > 0
        return False

    low, high = shortest, wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    data.starts(low)
    return low


def choose_actions(opened: OpenWorld, clip: Clip, settings: Settings) -> list[int | None]:
    """One action a step, from wherever the settings say.

    Raises:
        ActionError: An id given is not one of the suite's.
    """
    source, suite, horizon = settings.action_source, opened.suite, settings.prediction_horizon
    if source == "given":
        for action in settings.actions:
            suite.action_latents(torch.tensor(action))
        return list(settings.actions)
    if source == "none":
        return [None] * settings.generation_steps
    if source == "random":
        return (
            np.random.default_rng(settings.seed)
            .integers(suite.n_actions, size=settings.generation_steps)
            .tolist()
        )
    inferred = suite.infer_actions(clip.frames)[0]  # [T-1]
    first = settings.context_window - 1
    return inferred[first : first + settings.generation_steps * horizon : horizon].tolist()


def open_session(opened: OpenWorld, clip: Clip, settings: Settings) -> Session:
    """A session at the clip's context, as the settings say."""
    return Session(
        opened.suite,
        clip.frames[:, : settings.context_window],
        settings.context_window,
        settings.prediction_horizon,
        settings.steps or opened.world.steps,
        settings.temperature,
        settings.seed,
        settings.feedback,
    )


@contextlib.contextmanager
def a_core_to_spare() -> Iterator[None]:
    """Let torch leave one core to the browser and the rest of the machine within the block.

    Its threads wait for each other busily, hundreds of times a frame. With one on every core, whatever else
    wants to run makes all of them wait: play is slower than with a thread fewer, and stumbles.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, (os.cpu_count() or 1) - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def precision(settings: Settings, device: torch.device) -> Iterator[None]:
    """Compute as ``amp`` and ``tf32`` say within the block, and as before after it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def roll_out(opened: OpenWorld, clip: Clip, settings: Settings) -> Rollout:
    """Generate the frames, with a progress bar; the GPU, if one is used, is watched meanwhile."""
    from tqdm.auto import tqdm

    device, horizon = opened.suite.device, settings.prediction_horizon
    actions = choose_actions(opened, clip, settings)
    session = open_session(opened, clip, settings)
    clock = StepClock(device)
    trace = GpuTrace(uuid=gpu_uuid(device)) if device.type == "cuda" else None
    log.info(f"{LOOP_STARTS}: %d steps of %d frame(s) on %s", len(actions), horizon, device)
    with trace or contextlib.nullcontext(), precision(settings, device):
        for index, action in enumerate(tqdm(actions, desc="generating", unit="step")):
            window = clip.frames[:, index * horizon : index * horizon + settings.context_window]
            with clock:
                session.step(action, window if settings.teacher_forced else None)
    rollout = describe_rollout(session, clip, settings, clock, trace)
    log.info(f"{LOOP_ENDS}: %d frames in %.2f s", rollout.generated, sum(rollout.seconds))
    return rollout


class StepClock:
    """Times steps, to the end of what they launched: ``with clock: session.step(…)``.

    Args:
        device: Where the models are.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self.gpu_seconds: list[float] = []
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                self._events[0].record()
        self._began = time.perf_counter()

    def __exit__(self, *_raised: object) -> None:
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._events[1].record()
                self._events[1].synchronize()
            self.gpu_seconds.append(self._events[0].elapsed_time(self._events[1]) / 1000)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        self.seconds.append(time.perf_counter() - self._began)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory torch held on the GPU since this clock was made; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0


def describe_rollout(
    session: Session, clip: Clip, settings: Settings, clock: StepClock, trace: GpuTrace | None
) -> Rollout:
    """What a session holds, as pixels, hashes and numbers; ``session`` may have been played by hand."""
    chosen = session.actions[0].repeat_interleave(session.horizon).tolist()
    frames = to_uint8(session.frames[0].float().cpu())
    return Rollout(
        clip=clip,
        given=settings.context_window,
        frames=frames,
        truth=to_uint8(clip.frames[0])[: len(frames)],
        actions=[None if action < 0 else int(action) for action in chosen],
        action_source=settings.action_source,
        token_hashes=[token_hash(row) for row in session.tokens[0].cpu().numpy()],
        seconds=list(clock.seconds),
        psnr=frames_psnr(frames, clip, settings),
        gpu_seconds=list(clock.gpu_seconds),
        peak_memory_bytes=clock.peak_memory_bytes,
        trace=trace,
        session=session,
    )


def token_hash(tokens: np.ndarray) -> str:
    """What identifies a frame's tokens, int ``[P]``: 16 hexadecimal digits of their sha256 as int32."""
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()[:16]


def frames_psnr(frames: np.ndarray, clip: Clip, settings: Settings) -> list[float]:
    """PSNR of each generated frame against the clip's, as far as that goes; none where play left the clip.

    Args:
        frames: uint8 ``[T, H, W, 3]``, the context first.
        clip: What they started from.
        settings: Only inferred actions and teacher forcing keep a rollout near its clip.
    """
    if settings.action_source != "ground truth" and not settings.teacher_forced:
        return []
    truth = to_uint8(clip.frames[0])[: len(frames)]
    given = settings.context_window
    return [float(value) for value in psnr(frames[given : len(truth)], truth[given:])]


def gpu_uuid(device: torch.device) -> str:
    """The UUID by which NVML knows a CUDA device, whatever CUDA_VISIBLE_DEVICES made of its number."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
