"""Step 0: the machine is judged, by facts fed to it and by what is here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import check
from helpers.gpu import Gpu
from helpers.run_folder import ROOT

GIB = 2**30
GPU = Gpu("NVIDIA GeForce RTX 3060 Ti", "560.94", "8.6", 8192, "GPU-1")


def test_this_machine_is_judged_with_the_standard_library_alone():
    code = (
        "import json; from helpers.check import check_machine; from helpers.run_folder import ROOT; "
        "print(json.dumps({check.id: check.status for check in check_machine(ROOT)}))"
    )
    command = [sys.executable, "-S", "-X", "utf8", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["python", "system", "disk", "memory", "path", "gpu", "nvml"]
    assert found["python"] == "ok" and found["gpu"] in ("ok", "warn")


@pytest.mark.parametrize(
    ("version", "bits", "status"),
    [
        ((3, 10, 0), 64, "ok"),
        ((3, 13, 9), 64, "ok"),
        ((3, 9, 18), 64, "fail"),
        ((3, 14, 0), 64, "fail"),
        ((3, 11, 7), 32, "fail"),
    ],
)
def test_a_python_is_judged_by_version_and_bits(version, bits, status):
    assert check.judge_python(version, bits).status == status


@pytest.mark.parametrize(("free", "status"), [(1 * GIB, "fail"), (5 * GIB, "warn"), (50 * GIB, "ok")])
def test_a_disk_is_judged_by_what_is_free(free, status):
    assert check.judge_disk(free, Path("here")).status == status


@pytest.mark.parametrize(
    ("total", "status"), [(None, "warn"), (1 * GIB, "fail"), (4 * GIB, "warn"), (16 * GIB, "ok")]
)
def test_memory_is_judged_and_a_system_that_says_nothing_only_warns(total, status):
    assert check.judge_memory(total).status == status


@pytest.mark.parametrize(
    ("root", "windows", "long_paths", "status", "says"),
    [
        (r"C:\tw", True, False, "ok", "5 characters"),
        (r"C:\Users\小明\my files\tw", True, False, "ok", "with spaces, with letters outside ASCII"),
        ("C:\\" + "d" * 80, True, False, "warn", "83 characters"),
        ("C:\\" + "d" * 80, True, True, "ok", "83 characters"),
        ("/home/" + "d" * 80, False, True, "ok", "86 characters"),
    ],
)
def test_a_path_is_judged_by_what_windows_can_open_below_it(root, windows, long_paths, status, says):
    judged = check.judge_path(root, windows, long_paths)

    assert judged.status == status and says in judged.observed


def test_no_gpu_is_a_warning_and_a_gpu_is_described():
    assert check.judge_gpus([], "nvidia-smi was not found").status == "warn"
    seen = check.judge_gpus([GPU, Gpu("Old", None, None, None, None)], "")
    assert seen.status == "ok"
    assert "driver 560.94, capability 8.6, 8192 MiB" in seen.observed and "unknown" in seen.observed


def test_nvml_matters_only_where_there_is_a_gpu():
    assert check.judge_nvml([], "not installed", []).status == "ok"
    assert check.judge_nvml([], "not installed", [GPU]).status == "warn"
    assert check.judge_nvml(["RTX"], "", [GPU]).status == "ok"


def test_every_check_that_is_not_ok_says_what_to_do():
    judged = [
        check.judge_python((3, 9), 64),
        check.judge_disk(0, Path("here")),
        check.judge_disk(5 * GIB, Path("here")),
        check.judge_memory(None),
        check.judge_memory(0),
        check.judge_path("C:\\" + "d" * 200, windows=True, long_paths=False),
        check.judge_gpus([], "none"),
        check.judge_nvml([], "none", [GPU]),
    ]

    assert all(found.status != "ok" and found.fix for found in judged)


def test_this_machines_memory_is_read():
    total = check.total_memory()

    assert total is not None and total > GIB // 2
