"""Step 2: a matrix of machines and the build each must get, and the judgement of an installed torch."""

import subprocess
import sys

import pytest

from helpers.errors import ParameterError, RunbookError, TorchBuildError
from helpers.gpu import Gpu, parse_nvidia_smi, read_nvidia_smi
from helpers.torch_build.builds import (
    Choice,
    TorchBuild,
    candidates,
    choose,
    fitting,
    install_command,
    judge,
    serves,
    this_machine,
)
from helpers.torch_build.probe import TorchReport, verify

# system, driver, capability, Python, lock -> torch, tag
SERVED = [
    # the machine of the plan's author, and its neighbours
    ("windows", "560.94", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "560.94", "8.6", "3.10", "auto", "2.13.0", "cu126"),
    ("windows", "560.94", "8.6", "3.12", "auto", "2.13.0", "cu126"),
    ("windows", "560.94", "8.6", "3.13", "auto", "2.13.0", "cu126"),
    ("windows", "560.94", "8.6", "3.11.7", "auto", "2.13.0", "cu126"),
    ("windows", "528.33", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "581.29", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "525.60.13", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "535.183.01", "8.6", "3.12", "auto", "2.13.0", "cu126"),
    # older GPUs that cu126 still serves: GTX 980 Ti, GTX 1080, P100, V100, T4, RTX 2080
    ("windows", "560.94", "5.2", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "560.94", "6.1", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "581.29", "6.1", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "550.54.14", "6.0", "3.10", "auto", "2.13.0", "cu126"),
    ("linux", "550.54.14", "7.0", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "580.65.06", "7.0", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "535.183.01", "7.5", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "537.13", "7.5", "3.13", "auto", "2.13.0", "cu126"),
    # A100, RTX 4090 (8.9 runs 8.6 code), H100
    ("linux", "550.54.14", "8.0", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "566.36", "8.9", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "560.35.03", "8.9", "3.12", "auto", "2.13.0", "cu126"),
    ("linux", "570.86.15", "9.0", "3.11", "auto", "2.13.0", "cu126"),
    # Blackwell: no cu126 build has code for it
    ("windows", "572.16", "12.0", "3.11", "auto", "2.11.0", "cu128"),
    ("windows", "579.99", "12.0", "3.11", "auto", "2.11.0", "cu128"),
    ("windows", "580", "12.0", "3.11", "auto", "2.13.0", "cu130"),
    ("windows", "581.29", "12.0", "3.11", "auto", "2.13.0", "cu130"),
    ("linux", "570.86.15", "12.0", "3.10", "auto", "2.11.0", "cu128"),
    ("linux", "580.65.06", "12.0", "3.13", "auto", "2.13.0", "cu130"),
    ("linux", "570.86.15", "10.0", "3.11", "auto", "2.11.0", "cu128"),
    ("linux", "580.65.06", "10.0", "3.11", "auto", "2.13.0", "cu130"),
    ("linux", "580.65.06", "10.3", "3.11", "auto", "2.13.0", "cu130"),
    # no GPU, and macOS
    ("windows", None, None, "3.11", "auto", "2.13.0", "cpu"),
    ("linux", None, None, "3.10", "auto", "2.13.0", "cpu"),
    ("linux", None, None, "3.13", "2.8.0", "2.8.0", "cpu"),
    ("macos", None, None, "3.11", "auto", "2.13.0", "cpu"),
    # two GPUs: one build for both where there is one, else the stronger GPU
    ("windows", "560.94", ["8.6", "6.1"], "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "572.16", "8.6,12.0", "3.11", "auto", "2.11.0", "cu128"),
    ("linux", "580.65.06", ["8.6", "12.0"], "3.11", "auto", "2.13.0", "cu130"),
    ("linux", "580.65.06", ["7.0", "12.0"], "3.11", "auto", "2.10.0", "cu128"),
    ("windows", "581.29", ["6.1", "12.0"], "3.11", "auto", "2.13.0", "cu130"),
    ("linux", "550.54.14", ["3.5", "8.0"], "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "550.54.14", ["3.5", "7.0", "8.0"], "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "580.65.06", ["11.0", "8.6"], "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "572.16", ["12.0", "6.1"], "3.11", "auto", "2.11.0", "cu128"),
    ("windows", "560.94", ["8.6", "12.0"], "3.11", "2.8.0+cu126", "2.8.0", "cu126"),
    # Blackwell's and Ada's further capabilities; what a Jetson's or a laptop's owner asks
    ("linux", "580.65.06", "12.1", "3.12", "auto", "2.13.0", "cu130"),
    ("linux", "570.86.15", "12.1", "3.12", "auto", "2.11.0", "cu128"),
    ("linux", "580.65.06", "8.9", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "550.54.14", "8.7", "3.11", "auto", "2.13.0", "cu126"),
    # Python's edges: 2.13 begins with 3.10 and has 3.14, 2.8 begins with 3.9
    ("linux", "580.65.06", "8.6", "3.14", "auto", "2.13.0", "cu126"),
    ("windows", None, None, "3.14", "auto", "2.13.0", "cpu"),
    ("windows", "572.16", "12.0", "3.9", "2.8.0", "2.8.0", "cu128"),
    ("windows", "560.94", "8.6", "3.14.0rc1", "auto", "2.13.0", "cu126"),
    # Device Manager's way of counting, and other odd spellings of a driver
    ("windows", "32.0.15.6094", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("windows", "32.0.15.7216", "12.0", "3.11", "auto", "2.11.0", "cu128"),
    ("windows", "32.0.15.8129", "12.0", "3.11", "auto", "2.13.0", "cu130"),
    ("windows", " 560.94 ", " 8.6 ", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "535.183.01-0ubuntu1", "8.6", "3.11", "auto", "2.13.0", "cu126"),
    ("linux", "NVIDIA 580.65.06", "12.0", "3.11", "auto", "2.13.0", "cu130"),
    ("Windows", "560.94", "8.6", "3.11", "AUTO", "2.13.0", "cu126"),
    ("linux", "[N/A]", "[N/A]", "3.11", "auto", "2.13.0", "cpu"),
    ("linux", "", "", "3.11", "auto", "2.13.0", "cpu"),
    ("darwin", None, None, "3.13", "2.8.0", "2.8.0", "cpu"),
    # locks: the plan's version and its order, other versions, one exact build, the CPU build
    ("windows", "560.94", "8.6", "3.11", "2.8.0", "2.8.0", "cu126"),
    ("windows", "572.16", "12.0", "3.11", "2.8.0", "2.8.0", "cu128"),
    ("linux", "535.183.01", "7.0", "3.9", "2.8.0", "2.8.0", "cu126"),
    ("windows", "560.94", "8.6", "3.11", "2.8.0+cu129", "2.8.0", "cu129"),
    ("windows", "560.94", "8.6", "3.11", "2.11.0", "2.11.0", "cu126"),
    ("windows", "572.16", "12.0", "3.11", "2.10.0", "2.10.0", "cu128"),
    ("windows", "581.29", "12.0", "3.11", "2.12.1", "2.12.1", "cu130"),
    ("windows", "560.94", "8.6", "3.11", "2.8", "2.8.0", "cu126"),
    ("windows", "560.94", "8.6", "3.11", "2.12", "2.12.1", "cu126"),
    ("linux", "550.54.14", "6.1", "3.11", "2.8.0", "2.8.0", "cu126"),
    ("linux", "550.54.14", "10.0", "3.12", "2.8.0", "2.8.0", "cu128"),
    ("windows", "560.94", "8.6", "3.11", "cpu", "2.13.0", "cpu"),
    ("windows", "391.35", "3.5", "3.11", "cpu", "2.13.0", "cpu"),
]

# system, driver, capability, Python, lock -> what the message must say
REFUSED = [
    ("windows", "527.41", "8.6", "3.11", "auto", "528.33"),
    ("windows", "472.12", "6.1", "3.11", "auto", "528.33"),
    ("linux", "525.53", "8.6", "3.11", "auto", "525.60.13"),
    ("linux", "470.256.02", "7.0", "3.12", "auto", "525.60.13"),
    ("windows", "572.16", "12.0", "3.11", "2.13.0", "580"),
    ("windows", None, "8.6", "3.11", "auto", "528.33"),
    ("windows", "470.05", None, "3.11", "auto", "528.33"),
    ("windows", "31.0.15.2741", "8.6", "3.11", "auto", "527.41 is installed"),
    ("windows", "552.22", None, "3.11", "auto", "newest driver"),
    ("linux", "580.65.06", "11.0", "3.11", "auto", "compute capability 11.0"),
    ("linux", "580.65.06", "7.0", "3.11", "2.13.0+cu130", 'torch_lock="auto"'),
    ("linux", "470.256.02", ["6.1", "8.6"], "3.11", "auto", "525.60.13"),
    ("linux", "550.54.14", ["3.5", "3.7"], "3.11", "auto", "compute capability 3.7"),
    ("windows", "474.30", "3.5", "3.11", "auto", "no code|No build .* 3.5"),
    ("linux", "550.54.14", "3.7", "3.11", "auto", "CPU build"),
    ("windows", "560.94", "12.0", "3.11", "2.8.0+cu126", 'torch_lock="auto"'),
    ("windows", "560.94", "8.6", "3.9", "auto", "Python 3.9"),
    ("windows", None, None, "3.14", "2.8.0", "3.9 to 3.13"),
]


@pytest.mark.parametrize(("system", "driver", "capability", "python", "lock", "torch", "tag"), SERVED)
def test_a_machine_gets_the_build_that_has_code_for_it(system, driver, capability, python, lock, torch, tag):
    build = choose(os=system, driver=driver, capability=capability, python=python, lock=lock)

    assert (build.torch, build.tag) == (torch, tag)
    assert build.reason
    assert build.index_url == f"https://download.pytorch.org/whl/{tag}"


@pytest.mark.parametrize(("system", "driver", "capability", "python", "lock", "says"), REFUSED)
def test_a_machine_that_no_build_fits_is_told_what_to_change(system, driver, capability, python, lock, says):
    with pytest.raises(TorchBuildError, match=says) as caught:
        choose(os=system, driver=driver, capability=capability, python=python, lock=lock)

    assert caught.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {"os": "beos"},
        {"driver": "newest"},
        {"capability": "sm_86"},
        {"python": "three"},
        {"driver": "R"},
        {"driver": "unknown driver"},
        {"python": "3"},
        {"lock": "2.8.7"},
        {"lock": "2.13.0+cu128"},
    ],
)
def test_an_argument_of_no_known_form_is_named(wrong):
    arguments = {"os": "windows", "driver": "560.94", "capability": "8.6", "python": "3.11", "lock": "auto"}

    with pytest.raises(ParameterError, match=next(iter(wrong.values())).partition("+")[0]):
        choose(**(arguments | wrong))


def test_the_plans_lock_says_what_its_security_defect_means_and_newer_versions_do_not():
    machine = {"os": "windows", "driver": "560.94", "capability": "8.6", "python": "3.11"}

    assert "CVE-2026-24747" in choose(**machine, lock="2.8.0").reason
    assert "CVE-2026-24747" in choose(**machine, lock="2.9.1").reason
    assert "CVE" not in choose(**machine, lock="2.10.0").reason


def test_the_reason_names_a_gpu_that_stays_unused():
    build = choose(os="windows", driver="581.29", capability=["6.1", "12.0"], python="3.11")

    assert "6.1 stay unused" in build.reason


def test_the_tables_machines_are_many_and_of_every_kind():
    assert len(SERVED) + len(REFUSED) >= 40
    assert {os.lower() for os, *_ in SERVED} >= {"windows", "linux", "macos"}
    assert {python[:4] for _, _, _, python, *_ in SERVED} >= {"3.10", "3.11", "3.12", "3.13"}


def test_a_reason_names_only_the_gpus_that_stay_unused():
    build = choose(os="linux", driver="550.54.14", capability=["3.5", "7.0", "8.0"], python="3.11")

    assert "of capability 3.5 stay unused" in build.reason


def test_every_build_that_fits_is_in_line_to_be_tried_best_first():
    builds = fitting(os="windows", driver="581.29", capability="8.6", python="3.11")

    assert [(build.torch, build.tag) for build in builds] == [
        ("2.13.0", "cu126"),
        ("2.13.0", "cu130"),
        ("2.11.0", "cu128"),
        ("2.10.0", "cu128"),
    ]


@pytest.mark.parametrize(
    ("version", "cuda", "capability", "answer"),
    [
        ("2.13.0+cu126", "12.6", "12.0", False),
        ("2.13.0+cu126", "12.6", "8.9", True),
        ("2.13.0", "13.0", "6.1", False),
        ("2.13.0+cu130", "13.0", "12.1", True),
        ("9.9.9+cu126", "12.6", "8.6", None),
        ("2.13.0+cpu", None, "8.6", None),
    ],
)
def test_an_installed_build_is_known_to_have_code_for_a_gpu_or_not(version, cuda, capability, answer):
    assert serves(version, cuda, capability) is answer


def test_a_gpu_beside_one_that_computes_is_named_and_hidden():
    found = TorchReport(
        "2.13.0+cu130", "13.0", True, "A", "12.0", (), "cuda", "", failing=("B: no kernel image",)
    )
    kernel = next(check for check in judge(Choice((GPU,), (), BUILD), found) if check.id == "torch_kernel")

    assert kernel.status == "warn" and "not on B" in kernel.observed and "CUDA_VISIBLE_DEVICES" in kernel.fix


def test_the_plans_lock_is_weighed_in_the_plans_order():
    rows = candidates(os="windows", driver="572.16", capability="12.0", python="3.11", lock="2.8.0")

    assert [(row.tag, row.fits) for row in rows] == [("cu126", False), ("cu128", True), ("cu129", True)]
    assert "no code for capability 12.0" in rows[0].why


def test_pip_is_asked_for_the_exact_build_because_it_ignores_the_tag_of_an_installed_one():
    build = choose(os="windows", driver="560.94", capability="8.6", python="3.11")

    assert build.pip_args() == [
        "torch==2.13.0+cu126",
        "--index-url",
        "https://download.pytorch.org/whl/cu126",
    ]
    assert install_command(build, r"C:\py\python.exe")[:4] == [r"C:\py\python.exe", "-m", "pip", "install"]


def test_macos_wheels_carry_no_tag():
    assert choose(os="macos", driver=None, capability=None, python="3.11").requirement == "torch==2.13.0"


def test_two_gpus_are_read_from_nvidia_smi():
    text = (
        "NVIDIA GeForce RTX 3060 Ti, 560.94, 8.6, 8192, GPU-11111111-2222-3333-4444-555555555555\n"
        "NVIDIA GeForce GTX 1080, 560.94, 6.1, 8192, GPU-99999999-2222-3333-4444-555555555555\n"
    )

    first, second = parse_nvidia_smi(text)

    assert first == Gpu(
        "NVIDIA GeForce RTX 3060 Ti", "560.94", "8.6", 8192, "GPU-11111111-2222-3333-4444-555555555555"
    )
    assert second.capability == "6.1"
    assert this_machine([first, second])["capability"] == ["8.6", "6.1"]


@pytest.mark.parametrize(
    ("unknown", "asked", "capability", "model"),
    [
        ((), 1, "8.6", "WDDM"),
        (("mig.mode.current",), 2, "8.6", None),
        (("mig.mode.current", "compute_cap"), 3, None, None),
    ],
)
def test_a_driver_that_lacks_a_field_is_asked_again_without_it(
    unknown, asked, capability, model, monkeypatch
):
    values = {"name": "RTX", "driver_version": "560.94", "compute_cap": "8.6", "memory.total": "8192"}
    values |= {"uuid": "GPU-1", "driver_model.current": "WDDM", "mig.mode.current": "[N/A]"}
    calls = []

    def nvidia_smi(command, **options):
        calls.append(command)
        fields = command[1].partition("=")[2].split(",")
        if bad := [field for field in fields if field in unknown]:
            text = f'Field "{bad[0]}" is not a valid field to query.'
            return subprocess.CompletedProcess(command, 2, text, "")
        return subprocess.CompletedProcess(
            command, 0, ", ".join(values[field] for field in fields) + "\r\n", ""
        )

    monkeypatch.setattr("helpers.gpu.find_nvidia_smi", lambda: "nvidia-smi")
    monkeypatch.setattr("helpers.gpu.subprocess.run", nvidia_smi)

    (gpu,), problem = read_nvidia_smi()

    assert (len(calls), gpu.capability, gpu.driver_model, problem) == (asked, capability, model, "")


MODES = ("driver_model.current", "mig.mode.current")


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        (
            "NVIDIA GeForce GTX 970, 471.41, 4096, GPU-1\r\n",
            ("name", "driver_version", "memory.total", "uuid"),
            [Gpu("NVIDIA GeForce GTX 970", "471.41", None, 4096, "GPU-1")],
        ),
        (
            "NVIDIA GeForce RTX 3060 Ti, 560.94, 8.6, 8192, GPU-1, WDDM, [N/A]\r\n",
            ("name", "driver_version", "compute_cap", "memory.total", "uuid", *MODES),
            [Gpu("NVIDIA GeForce RTX 3060 Ti", "560.94", "8.6", 8192, "GPU-1", "WDDM", False)],
        ),
        (
            "NVIDIA A100-SXM4-40GB, 550.54.14, 8.0, 40960, GPU-1, [N/A], Enabled",
            ("name", "driver_version", "compute_cap", "memory.total", "uuid", *MODES),
            [Gpu("NVIDIA A100-SXM4-40GB", "550.54.14", "8.0", 40960, "GPU-1", None, True)],
        ),
        (
            "NVIDIA A100, 550.54.14, [N/A], [Not Supported], MIG-1",
            ("name", "driver_version", "compute_cap", "memory.total", "uuid"),
            [Gpu("NVIDIA A100", "550.54.14", None, None, "MIG-1")],
        ),
        ("No devices were found\n", ("name", "driver_version", "compute_cap", "memory.total", "uuid"), []),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            ("name", "uuid"),
            [],
        ),
        ("\x00\x00,garbage\n,,,\n", ("name", "driver_version", "compute_cap", "memory.total", "uuid"), []),
        ("", ("name",), []),
    ],
)
def test_what_nvidia_smi_prints_on_odd_machines_is_read_without_a_crash(text, fields, expected):
    assert parse_nvidia_smi(text, fields) == expected


def test_the_installed_torch_computes_in_a_fresh_process():
    found = verify()

    assert found.error == ""
    assert found.kernel == ("cuda" if found.available else "cpu")
    assert found.version


def test_a_python_without_torch_is_reported_and_not_raised(tmp_path):
    assert "no answer" in verify(str(tmp_path / "python")).error


GPU = Gpu("NVIDIA GeForce RTX 5090", "581.29", "12.0", 32607, "GPU-1")
BUILD = TorchBuild("2.13.0", "cu130", "It fits.")
REFUSAL = TorchBuildError("No build fits.", fix="Use the CPU build.")


@pytest.mark.parametrize(
    ("gpus", "outcome", "found", "statuses"),
    [
        # no GPU: a CPU build is all there is to have
        (
            (),
            TorchBuild("2.13.0", "cpu", ""),
            TorchReport("2.13.0+cpu", kernel="cpu"),
            {"torch_gpu": "ok", "torch_kernel": "ok"},
        ),
        # a CPU build over a GPU: the run can go on, and the reader is told
        ((GPU,), BUILD, TorchReport("2.13.0+cpu", kernel="cpu"), {"torch_gpu": "warn"}),
        ((GPU,), REFUSAL, TorchReport("2.13.0+cpu", kernel="cpu"), {"torch_choice": "warn"}),
        # all is well
        (
            (GPU,),
            BUILD,
            TorchReport("2.13.0+cu130", "13.0", True, GPU.name, "12.0", ("sm_120",), "cuda"),
            {"torch_gpu": "ok", "torch_kernel": "ok"},
        ),
        # is_available is True, and the build has no code for the GPU
        (
            (GPU,),
            BUILD,
            TorchReport(
                "2.8.0+cu126",
                "12.6",
                True,
                GPU.name,
                "12.0",
                ("sm_90",),
                "",
                "AcceleratorError: no kernel image",
            ),
            {"torch_gpu": "ok", "torch_kernel": "fail"},
        ),
        # the driver does not answer
        ((GPU,), BUILD, TorchReport("2.13.0+cu130", "13.0", kernel="cpu"), {"torch_gpu": "warn"}),
        ((), BUILD, TorchReport(error="No module named 'torch'"), {"torch_installed": "fail"}),
    ],
)
def test_an_installed_torch_is_judged_against_the_machine(gpus, outcome, found, statuses):
    checks = {check.id: check for check in judge(Choice(gpus, (), outcome), found)}

    assert {name: checks[name].status for name in statuses} == statuses
    assert all(check.fix for check in checks.values() if check.status != "ok")


def test_a_wrong_build_is_mended_by_the_exact_line_to_run():
    checks = judge(Choice((GPU,), (), BUILD), TorchReport("2.13.0+cpu", kernel="cpu"))

    fix = next(check.fix for check in checks if check.id == "torch_gpu")
    assert "torch==2.13.0+cu130 --index-url https://download.pytorch.org/whl/cu130" in fix
    assert sys.executable in fix.replace("'", "")


def test_the_choice_is_shown_as_a_table_with_the_line_to_run():
    rows = tuple(candidates(os="windows", driver="581.29", capability="12.0", python="3.11"))
    shown = Choice((GPU,), rows, BUILD)

    assert shown._repr_html_().count("<tr>") == len(rows) + 1
    assert "pip install torch==2.13.0+cu130" in shown._repr_html_()
    assert "no code for capability 12.0" in str(shown)


def test_every_refusal_is_of_the_projects_family():
    assert issubclass(TorchBuildError, RunbookError) and issubclass(ParameterError, RunbookError)
