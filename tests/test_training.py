"""Training a world of one's own: three tiny models, killed and gone on with, and played at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.assets import find_suite, latest_checkpoint
from helpers.assets.fetch import Request, prepare_assets
from helpers.errors import OutputError, ParameterError, TrainingError
from helpers.h5 import Rows, write_dataset
from helpers.run_folder import ROOT
from helpers.training import objectives
from helpers.training.clips import Batch, Clips
from helpers.training.command import Order, Run, read_order, train
from helpers.training.objectives import DynamicsObjective, mask, spread_loss
from helpers.training.plan import make_plan
from helpers.training.prepare import Recording
from helpers.training.trainer import Progress, rate_at, read_log
from helpers.worldmodel import Session, load_suite
from helpers.worldmodel.checkpoint import KINDS, Kind, read_checkpoint
from helpers.worldmodel.models import Dynamics, LatentActions, VideoTokenizer
from helpers.worlds import world

TINY = [
    *("patch_size=8", "latent_dim=3", "num_bins=2", "n_actions=4", "save_seconds=0"),
    *(f"{kind}.{name}" for kind in KINDS for name in ("embed_dim=24", "num_heads=2", "hidden_dim=24")),
    *(f"{kind}.{name}" for kind in KINDS for name in ("num_blocks=1", "batch_size_per_gpu=4")),
]
"""Models of a few thousand parameters; a checkpoint every ten updates."""


def record(path: Path, count: int = 400, actions: bool = False) -> Path:
    """Write a game of 16x16 pixels in which four actions move a block of four."""
    rng = np.random.default_rng(0)
    ids = np.repeat(rng.integers(4, size=count // 4), 4).astype(np.uint8)
    steps = np.cumsum(np.array([(0, 2), (0, -2), (2, 0), (-2, 0)])[ids], 0) % 12
    frames = np.full((count, 16, 16, 3), (20, 30, 60), np.uint8)
    for frame, (y, x) in zip(frames[1:], steps[:-1], strict=True):
        frame[y : y + 4, x : x + 4] = (240, 200, 40)
    write_dataset(path, [Rows(frames, ids if actions else None, np.arange(count) // 100)], "a test")
    return path


def order(root: Path, *more: str, updates: int = 30, actions: bool = False) -> Order:
    """Train on the game, in a folder of its own."""
    source = root / "my_game.h5"
    if not source.exists():
        record(source, actions=actions)
    settings = [word for text in (*TINY, *more) for word in ("-p", text)]
    arguments = ["--steps", str(updates), "--size", "16", "--frames", "100", "--device", "cpu"]
    return read_order([str(source), *arguments, *settings])


def weights(root: Path) -> dict[Kind, dict[str, torch.Tensor]]:
    paths = {kind: latest_checkpoint(kind, root, "my_game") for kind in KINDS}
    assert all(paths.values())
    return {kind: read_checkpoint(path, kind).weights for kind, path in paths.items() if path}


def quiet(progress: Progress) -> None:
    """Watch nothing."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A world that was trained without a stop."""
    root = tmp_path_factory.mktemp("trained")
    return train(order(root), root, lambda line: None, quiet)


# --- the world at the end ---------------------------------------------------------------------------


def test_a_trained_world_is_found_and_played_like_any_other(trained: Run) -> None:
    chosen = world("my_game", trained.root)
    paths = find_suite("my_game", trained.root)
    _, checks = prepare_assets(Request("my_game"), trained.root)
    parts = {kind: getattr(paths, kind) for kind in KINDS}

    session = Session(load_suite(**parts), torch.zeros(1, 4, 3, 16, 16), chosen.context_window, steps=1)

    assert session.step(3).shape == (1, 1, 3, 16, 16)
    assert (chosen.title, chosen.skip, chosen.trained, chosen.embedded) == ("My Game", 1, True, False)
    assert {check.status for check in checks} <= {"ok", "warn"}
    assert checks[0].observed == "trained here; no network needed"


def test_a_checkpoint_has_the_published_single_file_form(trained: Run) -> None:
    path = latest_checkpoint("dynamics", trained.root, "my_game")
    assert path is not None
    content = torch.load(path, weights_only=True)

    named = "config model optimizer_state_dict scheduler_state_dict step timestamp"
    assert " ".join(sorted(content)) == named
    assert path.parent.relative_to(trained.folder).as_posix() == "dynamics/checkpoints/my_game"
    expected = {"frame_size": 16, "patch_size": 8, "hidden_dim": 24, "n_actions": 4, "conditioning_dim": 2}
    assert content["config"].items() >= expected.items()


def test_each_stage_leaves_a_log_a_verdict_and_a_picture(trained: Run) -> None:
    for kind in KINDS:
        folder = trained.folder / kind
        assert [line["step"] for line in read_log(folder / "log.jsonl")] == [10, 20, 30]
        verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
        assert verdict["checks"] and all(np.isfinite(list(verdict["numbers"].values())))
        assert (folder / "verdict.png").stat().st_size > 1000


def test_the_same_command_after_the_end_changes_nothing(trained: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.pth")}

    train(order(trained.root), trained.root, lambda line: None, quiet)

    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.pth")} == before


def test_other_sizes_under_the_same_name_are_refused(trained: Run) -> None:
    other = order(trained.root, "dynamics.embed_dim=48")

    with pytest.raises(TrainingError, match="other settings: dynamics"):
        train(other, trained.root, lambda line: None, quiet)


def test_true_actions_name_the_ids(tmp_path: Path) -> None:
    run = train(order(tmp_path, actions=True, updates=10), tmp_path, lambda line: None, quiet)

    assert run.plan.n_actions == 4
    assert world("my_game", tmp_path).true_actions == tuple(f"action {number}" for number in range(4))
    numbers = json.loads((run.folder / "latent_actions" / "verdict.json").read_text(encoding="utf-8"))
    assert 0 <= numbers["numbers"]["right"] <= 1


# --- stops -----------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from helpers.training.command import read_order, train
root = Path(sys.argv[1])
train(read_order(sys.argv[2:]), root, watch=lambda progress: print(progress.kind, progress.step, flush=True))
"""


def arguments(root: Path) -> list[str]:
    settings = [word for text in TINY for word in ("-p", text)]
    more = ["--steps", "30", "--size", "16", "--frames", "100", "--device", "cpu", *settings]
    return [sys.executable, "-c", PROGRAM, str(root), str(root / "my_game.h5"), *more]


def test_killed_in_every_stage_it_ends_with_the_weights_and_the_log_of_an_undisturbed_training(
    trained: Run, tmp_path: Path
) -> None:
    record(tmp_path / "my_game.h5")
    for kind in KINDS:
        with subprocess.Popen(
            arguments(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            # Killed while it learns, between two lines of the log and two checkpoints.
            assert any(line.startswith(f"{kind} 10") for line in process.stdout)
            process.kill()
        saved = latest_checkpoint(kind, tmp_path, "my_game")
        assert saved is not None and "_step_30_" not in saved.name
    run = train(order(tmp_path), tmp_path, lambda line: None, quiet)

    for kind, expected in weights(trained.root).items():
        for name, tensor in weights(tmp_path)[kind].items():
            assert torch.equal(tensor, expected[name]), (kind, name)
        logs = [(where / kind / "log.jsonl").read_text("utf-8") for where in (run.folder, trained.folder)]
        assert logs[0] == logs[1]


def test_a_loss_that_is_no_number_is_a_sentence_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = objectives.TokenizerObjective.forward

    def broken(self: nn.Module, batch: Batch, progress: float) -> objectives.Learned:
        loss, numbers = whole(self, batch, progress)  # type: ignore[arg-type]
        return (loss * float("nan") if progress > 0.5 else loss), numbers

    monkeypatch.setattr(objectives.TokenizerObjective, "forward", broken)
    with pytest.raises(TrainingError, match=r"loss is nan at update 20.*learning_rate=0\.001"):
        train(order(tmp_path), tmp_path, lambda line: None, quiet)

    saved = latest_checkpoint("video_tokenizer", tmp_path, "my_game")
    assert saved is not None and "_step_10_" in saved.name


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full(content: object, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        train(order(tmp_path), tmp_path, lambda line: None, quiet)

    saved = latest_checkpoint("video_tokenizer", tmp_path, "my_game")
    assert saved is not None and "_step_10_" in saved.name
    assert read_checkpoint(saved, "video_tokenizer")


def test_minutes_become_a_number_of_updates_that_later_runs_keep(tmp_path: Path) -> None:
    given = order(tmp_path, updates=0)
    run = Run(
        Order(given.recording, "my_game", minutes=0.01, settings=given.settings, device="cpu"), tmp_path
    )
    run.say = lambda line: None
    run.prepare()
    run.train("video_tokenizer")
    settled = run.plan.video_tokenizer.n_updates

    again = Run(run.order, tmp_path, lambda line: None)
    again.prepare()

    assert settled >= 20
    assert again.plan.video_tokenizer.n_updates == settled


def test_two_processes_learn_what_one_learns_from_the_same_clips(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
        record(root / "my_game.h5")
    train(order(one, updates=10), one, lambda line: None, quiet)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    # Half the clips for each of two processes.
    words = [word.replace("_per_gpu=4", "_per_gpu=2") for word in arguments(two)[3:]]
    words[words.index("30")] = "10"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    done = subprocess.run(
        [sys.executable, *launch, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]

    for kind in KINDS:
        logs = [read_log(next(root.glob(f"results/*/{kind}/log.jsonl"))) for root in (one, two)]
        alone, together = (log[0] for log in logs)
        # Each process weighs moving pixels within its own clips, so the same update is not bit-equal.
        assert together["step"] == alone["step"] == 10
        assert together["loss"] == pytest.approx(alone["loss"], rel=0.1)


# --- small parts -----------------------------------------------------------------------------------


def test_a_batch_follows_from_its_number_alone(tmp_path: Path) -> None:
    with Clips(record(tmp_path / "game.h5"), 5, seed=3) as clips:
        one, same, other = (clips.draw(2, update, 4, 4) for update in (7, 7, 8))
        coming = clips.batches(2, 7, 4, 4)
        prefetched = next(coming)
        coming.close()

    for batch in (same, prefetched):
        assert torch.equal(one.frames, batch.frames) and torch.equal(one.uniform, batch.uniform)
    assert not torch.equal(one.uniform, other.uniform)


def test_clips_cross_no_cut_and_the_end_is_held_out(tmp_path: Path) -> None:
    with Clips(record(tmp_path / "game.h5"), 5, seed=0) as clips:
        for starts in (clips.starts, clips.held_out):
            assert ((starts % 100) <= 95).all()
        assert clips.starts.max() + 5 <= 380 <= clips.held_out.min()


def test_ids_that_are_spread_evenly_cost_nothing() -> None:
    every = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]).repeat(25, 1)[:, None]
    collapsed = torch.full((100, 1, 2), -0.3) + 0.01 * torch.randn(100, 1, 2)
    places = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]).expand(100, -1, -1)

    assert spread_loss(1.01 * every) < 0.01
    assert spread_loss(collapsed) > 0.9
    assert spread_loss(every[..., :1].expand(-1, -1, 2)) > 0.9  # the second bit repeats the first
    assert spread_loss(places) > 0.9  # they tell where in the clip an action was


def some_batch(size: int = 6) -> Batch:
    chance = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (size, 5, 16, 16, 3), dtype=torch.uint8, generator=chance)
    uniform = torch.rand(size, 4, 4, 4, generator=chance)
    return Batch(frames, None, uniform, torch.rand(size, 4, 3, generator=chance))


def test_targets_are_masked_by_half_at_least_and_some_context_is_wrong() -> None:
    tokens = torch.arange(6 * 5 * 400).reshape(6, 5, 400)
    chance = torch.Generator().manual_seed(0)
    uniform = torch.rand(6, 4, 400, 4, generator=chance)
    batch = Batch(torch.zeros(0), None, uniform, torch.rand(6, 4, 3, generator=chance))

    shown = mask(tokens, batch, noise=0.2, whole=0.5)

    shares = shown.hidden.float().mean(-1)
    assert shares.min() > 0.4 and 0.2 < (shares == 1).float().mean() < 0.8
    wrong = (shown.context != tokens[:, :-1]).float().mean()
    assert 0.05 < wrong < 0.15
    assert torch.equal(shown.target, tokens[:, 1:])


def test_the_published_objective_learns_too() -> None:
    plan = make_plan("x", "small", [*TINY, "frame_size=16"])
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(plan.config("video_tokenizer")).eval()
    actions = LatentActions(plan.config("latent_actions")).eval()
    dynamics = Dynamics(plan.config("dynamics"))
    objective = DynamicsObjective(dynamics, tokenizer, actions, published=True, noise=0.1, whole=0.5)

    loss, numbers = objective(some_batch(), 0.0)
    loss.backward()

    assert loss.item() == pytest.approx(np.log(8), rel=0.2)  # 2**3 codes, all as likely
    assert 0 <= numbers["right"] <= 1
    assert all(parameter.grad is not None for parameter in dynamics.parameters())


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [rate_at(step, 1000, 1.0) for step in range(1000)]

    assert rates[0] == pytest.approx(0.01) and max(rates) > 0.9
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("patch_size=7", "no multiple of patch_size"),
        ("n_actions=6", "no power of 2"),
        ("dynamics.num_heads=5", "num_heads"),
        ("nothing=1", "is no setting"),
        ("dynamics.learning_rate=fast", "is no float"),
        ("optimizer=sgd", "optimizer is 'sgd'"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(setting: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        make_plan("x", "small", [setting])


@pytest.mark.parametrize("name", ["crafter", "demo", "con/x", "A", ""])
def test_a_world_takes_no_name_that_is_taken_or_no_folder_could_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="cannot be called"):
        Run(Order(Recording(tmp_path), name), tmp_path)
