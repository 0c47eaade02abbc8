"""Sweeps: combinations become jobs, Dask workers run them, and a killed worker or driver costs no result."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, Worker
from pyarrow import parquet

from helpers.batch.cluster import LOOPBACK, disk_is_full, visible_gpus, worker_options
from helpers.batch.storage import (
    open_storage,
    partial_folder,
    publish,
    read_record,
    read_records,
    remove_leftovers,
)
from helpers.batch.summary import plot, read_summary, summarise, varied_columns, write_summary
from helpers.batch.sweep import read_sweep, unused
from helpers.errors import OutputError, ParameterError
from helpers.machine.judge import _LONGEST_ROOT
from helpers.play.rollout import play
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.run_folder import ROOT, folder_name

# --- what a sweep.yaml means -------------------------------------------------------------------------


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_grid_is_every_combination_and_a_list_each_of_its_entries_with_the_grid(tmp_path: Path) -> None:
    text = """
    name: my sweep
    parameters: {generation_steps: 2}
    grid: {seed: [0, 1], temperature: [0, 0.5]}
    list: [{feedback: tokens}, {name: pixels, feedback: pixels, context_window: 2}]
    """
    sweep = read_sweep(sweep_file(tmp_path, text))
    assert sweep.name == "my-sweep" and len(sweep.jobs) == 8
    assert sweep.jobs[1].parameters == {
        "generation_steps": 2,
        "feedback": "tokens",
        "seed": 0,
        "temperature": 0.5,
    }
    assert sweep.jobs[0].name == "feedback-tokens_seed-0_temperature-0"
    assert sweep.jobs[7].name == "pixels_seed-1_temperature-0.5"


def test_equal_jobs_run_once_and_a_name_given_twice_gets_a_number(tmp_path: Path) -> None:
    text = "list: [{name: A, seed: 1}, {name: a, seed: 2}, {name: b, seed: 1}]"
    sweep = read_sweep(sweep_file(tmp_path, text))
    assert [job.name for job in sweep.jobs] == ["A", "a_2"]
    assert sweep.repeated == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid: {temprature: [1]}", "temprature"),
        ("grid: {temperature: [hot]}", "temperature is 'hot'. Use a number from 0"),
        ("grid: {temperature: 1}", "Give a list"),
        ("grid: {run_dir: [a]}", "run_dir"),
        ("grid: {dataset: [tetris]}", "tetris"),
        ("jobs: 3", "jobs"),
        ("grid: {dynamics_path: ['//server/share/x.pth']}", "dynamics_path in .* a network share"),
        (
            "{notebook: 04_assets, list: [{import_from: '//server/share'}]}",
            "import_from in .* a network share",
        ),
        ("notebook: 09_dream", "09_dream"),
        ("list: [3]", "no mapping"),
        ("- 3", "not a YAML mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=says):
        read_sweep(sweep_file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b:c*?", "a-b-c"),
        ("con", "job-con"),
        ("NUL.txt", "job-NUL.txt"),
        ("COM¹", "job-COM¹"),
        ("lpt³.a", "job-lpt³.a"),
        ("trailing. .", "trailing"),
        ("..", "job"),
        ("温度-0.5", "温度-0.5"),
        ("actions-[2, 2]", "actions--2-2"),
    ],
)
def test_every_job_name_is_a_folder_on_every_system(text: str, name: str) -> None:
    assert folder_name(text) == name


def test_long_names_stay_apart() -> None:
    one, two = folder_name("x" * 100 + "1"), folder_name("x" * 100 + "2")
    assert one != two and len(one) == len(two) == 60


def test_the_longest_path_of_a_sweep_is_no_longer_than_those_of_torch_which_windows_must_allow() -> None:
    name = folder_name("x" * 100)
    longest = Path("outputs", f"sweep_{name}", "jobs", partial_folder(name), "notebooks", "05_infer.ipynb")
    assert len(str(longest)) <= 260 - _LONGEST_ROOT


def test_upper_and_lower_case_are_one_name() -> None:
    names: set[str] = set()
    assert [unused(name, names) for name in ("a", "A", "a_2", "b")] == ["a", "A_2", "a_2_2", "b"]


def test_four_gpus_get_a_worker_each_and_each_worker_one_job_at_a_time() -> None:
    options = worker_options(["0", "1", "2", "3"], cores=32, jobs=200)
    assert [each["env"]["CUDA_VISIBLE_DEVICES"] for each in options] == ["0", "1", "2", "3"]
    assert all(each["resources"] == {"GPU": 1} and each["nthreads"] == 1 for each in options)
    assert len(worker_options(["0", "1", "2", "3"], cores=32, jobs=2)) == 2


def test_a_gpu_that_the_user_hides_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-2f1c")
    assert visible_gpus() == ["1", "GPU-2f1c"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_without_a_gpu_the_workers_share_the_cores() -> None:
    assert [each["env"]["OMP_NUM_THREADS"] for each in worker_options([], 8, 200)] == ["1"] * 8
    assert [each["env"]["OMP_NUM_THREADS"] for each in worker_options([], 8, 200, workers=2)] == ["4", "4"]
    assert len(worker_options([], 8, 3)) == 3


def test_two_sweeps_at_once_share_no_port(recwarn: pytest.WarningsRecorder) -> None:
    async def run() -> None:
        async with Scheduler(**LOOPBACK), Scheduler(**LOOPBACK):
            assert not [each for each in recwarn if "already in use" in str(each.message)]

    asyncio.run(run())


def test_a_clock_that_is_set_forward_costs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Scheduler(**LOOPBACK) as scheduler, Worker(scheduler.address, dashboard=False):
            now = time.time()
            monkeypatch.setattr("distributed.scheduler.time", lambda: now + 24 * 3600)
            await scheduler.check_worker_ttl()
            assert len(scheduler.workers) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "message", ["[Errno 28] No space left on device", "[WinError 112] There is not enough space on the disk"]
)
def test_a_full_disk_is_recognised_on_every_system(message: str) -> None:
    assert disk_is_full(message) and not disk_is_full("ZeroDivisionError: division by zero")


# --- where results go --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["{}", "file://{}", "local://{}"])
def test_results_are_published_to_a_folder_a_uri_and_through_fsspec(kind: str, tmp_path: Path) -> None:
    if sys.platform == "win32" and "://" in kind:
        pytest.skip("a drive letter needs another form of URI")
    storage, root = open_storage(kind.format((tmp_path / "out").as_posix()))
    for content in ("first", "second"):
        run = tmp_path / f"{content}.part"
        (run / "frames").mkdir(parents=True)
        (run / "frames" / "0.png").write_text(content, encoding="utf-8")
        (run / "job.json").write_text(json.dumps({"digest": content}), encoding="utf-8")
        publish(run, storage, f"{root}/jobs/a")
    assert (tmp_path / "out" / "jobs" / "a" / "frames" / "0.png").read_text(encoding="utf-8") == "second"
    assert set(read_records(storage, root)) == {"second"}


def test_a_job_that_has_ended_is_not_run_again_when_dask_loses_its_result(tmp_path: Path) -> None:
    storage, root = open_storage(str(tmp_path))
    assert read_record(storage, f"{root}/a", "this") == {}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "job.json").write_text('{"session": "this", "status": "ok"}', encoding="utf-8")
    assert read_record(storage, f"{root}/a", "this") == {"session": "this", "status": "ok"}
    assert read_record(storage, f"{root}/a", "another") == {}


def test_what_killed_jobs_left_is_removed_and_no_job_that_ended_whatever_its_name(tmp_path: Path) -> None:
    storage, root = open_storage(str(tmp_path))
    for text in ("run.part", "a~b.part", "run"):
        ended = tmp_path / "jobs" / folder_name(text)
        ended.mkdir(parents=True)
        (ended / "job.json").write_text(json.dumps({"digest": text}), encoding="utf-8")
    (tmp_path / "jobs" / partial_folder("run.part")).mkdir()
    assert set(read_records(storage, root)) == {"run.part", "a~b.part", "run"}
    remove_leftovers(storage, root)
    assert {path.name for path in tmp_path.glob("jobs/*")} == {"run.part", "a-b.part", "run"}


def test_an_address_that_nothing_serves_is_a_sentence() -> None:
    with pytest.raises(OutputError, match="nothing://here"):
        open_storage("nothing://here")


# --- the table and the plot --------------------------------------------------------------------------


def record(seed: int, feedback: str, psnr: float, **changes: object) -> dict[str, object]:
    run = {
        "metrics": {"psnr_db": [psnr, psnr + 2], "ssim": [], "motion_ratio": None, "seconds": 0.5},
        "timings": {"step_seconds": [1.0, 1.0], "median_ms_per_frame": 50.0},
        "frames": [{"tokens": "a"}, {"tokens": "b"}],
    }
    made = {"name": f"{feedback}-{seed}", "status": "ok", "message": "", "seconds": 3.0, "run": run}
    return made | {"varied": {"feedback": feedback, "seed": seed}} | changes


def test_the_table_has_a_row_a_job_and_failed_ones_keep_their_message() -> None:
    failed = record(2, "pixels", 0, status="fail", message="no", run={})
    table = summarise([record(0, "tokens", 20), record(1, "tokens", 22), failed])
    assert table["psnr_db"].to_pylist() == [21, 23, None]
    assert table["rollout_seconds"].to_pylist() == [2, 2, None]
    assert table["message"].to_pylist() == [None, None, "no"]
    assert varied_columns(table) == ["feedback", "seed"]


def test_a_table_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, root = open_storage(str(tmp_path))
    write_summary([record(0, "tokens", 20)], storage, root)

    def fail(_table: object, stream: Any) -> None:
        stream.write(b"half of a ta")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_summary([record(1, "tokens", 20)], storage, root)
    assert read_summary(tmp_path)["name"].to_pylist() == ["tokens-0"]
    assert {path.name for path in tmp_path.iterdir()} == {"summary.csv", "summary.parquet"}


def test_the_plot_shows_the_mean_over_seeds_and_a_line_for_each_second_parameter() -> None:
    rows = [record(seed, feedback, 20 + seed) for seed in (0, 1, 2) for feedback in ("tokens", "pixels")]
    axes = plot(summarise(rows)).axes
    assert [each.get_title(loc="left") for each in axes] == ["PSNR (dB)", "ms a frame"]
    assert axes[0].get_xlabel() == "feedback"
    assert axes[0].lines[0].get_ydata().tolist() == [22, 22]
    by_seed = plot(summarise(rows), x="seed", line="feedback").axes[0]
    assert [text.get_text() for text in by_seed.get_legend().get_texts()] == [
        "feedback tokens",
        "feedback pixels",
    ]
    with pytest.raises(ParameterError, match="dreams"):
        plot(summarise(rows), x="dreams")


# --- for real ----------------------------------------------------------------------------------------

SHORT = "{generation_steps: 2, steps: 2, evaluate: false}"


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A sweep, as its own process: the driver."""
    command = [
        sys.executable,
        "-m",
        "helpers.batch.sweep",
        str(folder / "sweep.yaml"),
        "--output",
        str(folder),
    ]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUTF8": "1"},
    )


def finish(driver: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = driver.communicate(timeout=240)
    return driver.returncode, output


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass within two minutes"
        time.sleep(0.02)


def jobs(folder: Path) -> dict[str, dict[str, object]]:
    """The records of the jobs that ended, by name."""
    found = folder.glob("jobs/*/job.json")
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def hashes(folder: Path, name: str) -> list[str]:
    run = json.loads((folder / "jobs" / name / "run.json").read_text(encoding="utf-8"))
    return [frame["tokens"] for frame in run["frames"]]


def test_jobs_give_the_tokens_of_single_runs_and_a_failing_one_stops_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "out 世界 {x}"
    folder.mkdir()
    text = f"parameters: {SHORT}\nlist: [{{name: bad, dynamics_path: nowhere.pth}}, {{seed: 1}}, {{seed: 2}}]"
    sweep_file(folder, text)

    status, output = finish(start(folder, "--workers", "1"))

    assert status == 1, output
    assert "bad failed" in output and "nowhere.pth" in output and "2 succeeded, 1 failed, 0 left" in output
    done = jobs(folder)
    assert {name: found["status"] for name, found in done.items()} == {
        "bad": "fail",
        "seed-1": "ok",
        "seed-2": "ok",
    }
    assert (folder / "jobs" / "bad" / "notebooks" / "05_infer.ipynb").is_file()
    settings = Settings(generation_steps=2, steps=2)
    opened = open_world(settings)
    for seed in (1, 2):  # the second ran in the first one's kernel
        alone = replace(settings, seed=seed)
        expected = play(opened, choose_clip(opened, alone), alone).token_hashes
        assert hashes(folder, f"seed-{seed}") == expected
    table = read_summary(folder)
    assert table["status"].to_pylist() == ["fail", "ok", "ok"]
    assert parquet.read_table(folder / "summary.parquet").equals(table)
    assert (folder / "summary.csv").read_text(encoding="utf-8").count("\n") == 4


def test_a_killed_driver_goes_on_where_it_was_and_leaves_finished_jobs_alone(tmp_path: Path) -> None:
    sweep_file(tmp_path, f"parameters: {SHORT}\ngrid: {{seed: [0, 1, 2, 3]}}")
    driver = start(tmp_path, "--workers", "1")
    wait_for(lambda: bool(jobs(tmp_path)))
    driver.kill()
    driver.communicate()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/job.json")}
    assert 1 <= len(before) < 4

    status, output = finish(start(tmp_path, "--workers", "1"))

    assert status == 0, output
    assert f"{len(before)} done before" in output
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert len(jobs(tmp_path)) == 4
    assert not list(tmp_path.glob("jobs/*.part")) and not (tmp_path / "attempts").exists()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """A Dask scheduler and two workers on loopback, each started by hand as its own process."""
    found = tmp_path / "scheduler.json"
    common = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    processes = [
        subprocess.Popen(
            [*dask, "scheduler", *options, "--port", "0", "--scheduler-file", str(found)], **common
        )
    ]
    try:
        wait_for(lambda: found.is_file() and bool(found.read_text(encoding="utf-8").strip()))
        address = json.loads(found.read_text(encoding="utf-8"))["address"]
        for _ in range(2):
            worker = [*dask, "worker", address, *options, "--no-nanny", "--nthreads", "1"]
            processes.append(subprocess.Popen(worker, **common))
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_job_whose_worker_is_killed_is_run_again_by_another(
    scheduler: tuple[str, list["subprocess.Popen[bytes]"]], tmp_path: Path
) -> None:
    address, workers = scheduler
    folder = tmp_path / "out"
    folder.mkdir()
    sweep_file(folder, f"parameters: {SHORT}\ngrid: {{seed: [0, 1, 2]}}")

    driver = start(folder, "--scheduler", address)
    wait_for(lambda: len(list(folder.glob("jobs/*.part/notebooks"))) == 2)
    workers[0].kill()
    status, output = finish(driver)

    assert status == 0, output
    done = jobs(folder)
    assert sorted(found["attempt"] for found in done.values()) == [1, 1, 2]
    assert len({found["worker"] for found in done.values()}) == 1
    assert not list(folder.glob("jobs/*.part"))


def test_a_full_disk_ends_the_sweep_with_a_sentence_and_with_more_room_it_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        sweep_file(disk, f"parameters: {SHORT}\ngrid: {{seed: [0, 1]}}")
        status, output = finish(start(disk, "--workers", "1"))
        assert status == 1, output
        assert "The disk is full." in output and "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        status, output = finish(start(disk, "--workers", "1"))
        assert status == 0, output
        assert {found["status"] for found in jobs(disk).values()} == {"ok"} and len(jobs(disk)) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_scheduler_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    sweep_file(tmp_path, f"parameters: {SHORT}")
    status, output = finish(start(tmp_path, "--scheduler", "tcp://127.0.0.1:1"))
    assert status == 2 and "No Dask scheduler answers at tcp://127.0.0.1:1" in output
    assert "Traceback" not in output
