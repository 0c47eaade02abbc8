"""Step 0: the machine is judged, by facts fed to it: Windows' own above all, and those of this machine."""

from dataclasses import replace

import pytest

from helpers.commands import set_line, this_shell, unset_line
from helpers.gpu import Gpu
from helpers.machine import judge as check
from helpers.machine.facts import Machine, Place, drive_in, read_machine, total_memory, write_problem
from helpers.machine.judge import judge_machine
from helpers.run_folder import ROOT

GIB = 2**30
GPU = Gpu("NVIDIA GeForce RTX 3060 Ti", "560.94", "8.6", 8192, "GPU-1", "WDDM")
ROOMY = tuple(
    Place(name, f"D:\\{name}", 50 * GIB) for name in ("project", "outputs", "temporary", "pip_cache")
)
WINDOWS = Machine(
    system="windows",
    release="11",
    processor="AMD64",
    version=(3, 11, 7),
    bits=64,
    executable=r"C:\Program Files\Python311\python.exe",
    base=r"C:\Program Files\Python311",
    virtual=False,
    root=r"C:\tw",
    environ={"SYSTEMROOT": r"C:\Windows", "ONEDRIVE": r"C:\Users\小明\OneDrive"},
    terminal="powershell",
    py_launcher=True,
    long_paths=False,
    memory=16 * GIB,
    code_page=65001,
    places=ROOMY,
)
LINUX = replace(
    WINDOWS,
    system="linux",
    processor="x86_64",
    root="/home/ming/tw",
    environ={},
    terminal="bash",
    long_paths=None,
    code_page=None,
    py_launcher=False,
)


def judged(machine):
    return {found.id: found for found in judge_machine(machine)}


@pytest.mark.parametrize("machine", [WINDOWS, LINUX], ids=["windows", "linux"])
def test_a_good_machine_has_nothing_to_mend(machine):
    assert {found.status for found in judge_machine(machine)} == {"ok"}


@pytest.mark.parametrize(
    ("facts", "id", "status", "says", "mends"),
    [
        # Python
        ({"version": (3, 9, 18)}, "python", "fail", "3.9.18", "Python 3.11 from python.org"),
        ({"version": (3, 14, 0)}, "python", "fail", "3.14.0", "py -3.11 runbook.py"),
        ({"bits": 32}, "python", "fail", "32 bits", "64-bit"),
        (
            {"executable": r"C:\Users\小明\AppData\Local\Microsoft\WindowsApps\python.exe"},
            "store_python",
            "warn",
            "the Store's Python",
            "App execution aliases",
        ),
        (
            {
                "python_command": r"C:\Users\a b\AppData\Local\Microsoft\WindowsApps\python.EXE",
                "python_command_size": 0,
            },
            "store_python",
            "warn",
            "starts no Python",
            "py -3.11 runbook.py",
        ),
        (
            {
                "environ": {"CONDA_PREFIX": r"C:\Users\a\miniconda3", "CONDA_DEFAULT_ENV": "base"},
                "virtual": True,
            },
            "conda",
            "warn",
            "base is active inside a virtual environment",
            "conda deactivate",
        ),
        ({"processor": "ARM64"}, "processor", "warn", "ARM64", "build of torch"),
        # the folder
        ({"root": "C:\\" + "d" * 80}, "path", "warn", "83 characters", r"C:\tw"),
        ({"root": "C:\\" + "d" * 80}, "long_paths", "warn", "path is long", "LongPathsEnabled 1"),
        ({"root": r"C:\Users\小明\OneDrive\桌面\tw"}, "folder", "warn", "OneDrive", r"C:\tw"),
        ({"root": r"C:\Users\a\OneDrive - Contoso Ltd\tw"}, "folder", "warn", "OneDrive - Contoso", r"C:\tw"),
        ({"root": r"D:\坚果云\tw"}, "folder", "warn", "坚果云", r"C:\tw"),
        ({"root": r"\\server\share\tw"}, "folder", "warn", "network", r"C:\tw"),
        ({"root": r"Z:\tw", "drive": "network"}, "folder", "warn", "network", r"C:\tw"),
        # room
        ({"memory": 1 * GIB}, "memory", "fail", "1.0 GiB", "another machine"),
        ({"memory": 4 * GIB}, "memory", "warn", "4.0 GiB", "Close other programs"),
        ({"memory": None}, "memory", "skip", "does not say", "look for yourself"),
        ({"places": (Place("project", "C:\\tw", GIB),)}, "disk_project", "fail", "1.0 GiB", "Storage"),
        (
            {"places": (Place("project", "C:\\tw", 5 * GIB),)},
            "disk_project",
            "warn",
            "5.0 GiB",
            "5.0 GiB there",
        ),
        ({"places": (Place("temporary", "C:\\t", GIB),)}, "disk_temporary", "warn", "1.0", "$env:TMP = "),
        (
            {"places": (Place("pip_cache", "C:\\c", 0),)},
            "disk_pip_cache",
            "warn",
            "0.0",
            "$env:PIP_CACHE_DIR",
        ),
        ({"places": (Place("hub_cache", "C:\\h", 0),)}, "disk_hub_cache", "warn", "0.0", "$env:HF_HOME"),
        ({"places": (Place("project", "C:\\h", None),)}, "disk_project", "skip", "does not say", "yourself"),
        (
            {"places": (Place("project", r"C:\tw", 50 * GIB, problem="Access is denied"),)},
            "files",
            "fail",
            "Access is denied",
            "ransomware protection",
        ),
        # Windows' own
        ({"vc_missing": ("vcruntime140_1.dll",)}, "vc_runtime", "fail", "vcruntime140_1", "winget install"),
        ({"console": "cp936", "code_page": 936}, "console", "warn", "code page 936", "chcp 65001"),
        ({"console": "gbk", "terminal": "cmd"}, "console", "warn", "gbk", "set PYTHONUTF8=1"),
        # variables
        (
            {"environ": {"PYTHONPATH": r"C:\old"}},
            "variables_python",
            "warn",
            "PYTHONPATH",
            "Remove-Item Env:",
        ),
        (
            {"environ": {"PythonHome": r"C:\x"}, "terminal": "cmd"},
            "variables_python",
            "warn",
            "HOME",
            "set PYTHONHOME=",
        ),
        ({"environ": {"CUDA_VISIBLE_DEVICES": "-1"}}, "variables_cuda", "warn", "hides every", "Remove-Item"),
        ({"environ": {"CUDA_VISIBLE_DEVICES": ""}}, "variables_cuda", "warn", "hides every", "Remove-Item"),
        ({"environ": {"CUDA_VISIBLE_DEVICES": "0"}}, "variables_cuda", "ok", "see 0", ""),
        ({"environ": {"PIP_USER": "1"}}, "variables_pip", "warn", "user's home", "Env:PIP_USER"),
        ({"environ": {"PIP_USER": "0", "PIP_CERT": "c"}}, "variables_pip", "ok", "PIP_CERT", ""),
        (
            {"environ": {"HF_HUB_OFFLINE": "1"}},
            "variables_hub",
            "warn",
            "fetch nothing",
            "Env:HF_HUB_OFFLINE",
        ),
        ({"environ": {"HF_ENDPOINT": "https://m"}}, "variables_hub", "ok", "HF_ENDPOINT", ""),
        ({"environ": {"HTTPS_PROXY": "http://h:8080"}}, "variables_proxy", "ok", "h:8080", ""),
        ({"environ": {"https_proxy": "h:8080"}}, "variables_proxy", "warn", "no address", "http://HOST:PORT"),
    ],
)
def test_a_fault_of_windows_is_seen_and_its_mending_is_a_command_or_a_click(facts, id, status, says, mends):
    found = judged(replace(WINDOWS, **facts))[id]

    assert (found.status, says in found.observed, mends in found.fix) == (status, True, True), found
    assert found.expected and found.why


@pytest.mark.parametrize(
    ("facts", "id", "status", "mends"),
    [
        ({"environ": {"PYTHONPATH": "/old"}}, "variables_python", "warn", "unset PYTHONPATH"),
        ({"drive": "windows_from_wsl"}, "folder", "warn", "~/tw"),
        ({"drive": "network"}, "folder", "warn", "python3 runbook.py"),
        ({"places": (Place("temporary", "/tmp", GIB),)}, "disk_temporary", "warn", "export TMPDIR="),
        (
            {"places": (Place("project", "/a b", GIB, problem="Read-only"),)},
            "files",
            "fail",
            "chmod u+rwx '/a b'",
        ),
        ({"system": "macos", "processor": "x86_64"}, "processor", "fail", "another machine"),
        ({"system": "macos", "processor": "arm64"}, "processor", "ok", ""),
        ({"root": "/home/" + "d" * 300}, "path", "ok", ""),
        ({"console": "ascii"}, "console", "warn", "export LANG=C.UTF-8"),
    ],
)
def test_linux_and_macos_get_their_own_commands(facts, id, status, mends):
    found = judged(replace(LINUX, **facts))[id]

    assert found.status == status and mends in found.fix


def test_every_check_says_what_was_expected_and_why_and_what_is_not_ok_says_what_to_do():
    bad = replace(
        WINDOWS,
        version=(3, 9),
        environ={
            name: "x" for name in ("CONDA_PREFIX", "PYTHONPATH", "PIP_USER", "HF_HUB_OFFLINE", "HTTP_PROXY")
        }
        | {"CUDA_VISIBLE_DEVICES": ""},
        root="C:\\OneDrive\\" + "d" * 90,
        places=tuple(replace(place, free=0, problem="full") for place in ROOMY),
        memory=0,
        vc_missing=("msvcp140.dll",),
        console="cp936",
    )
    checks = judge_machine(bad)

    assert all(found.expected and found.why for found in checks)
    assert all(found.fix for found in checks if found.status != "ok")
    assert sum(found.status != "ok" for found in checks) >= 15


def test_paths_with_spaces_and_chinese_letters_are_named_and_do_no_harm():
    found = judged(replace(WINDOWS, root=r"C:\Users\小明\my files\tw"))["path"]

    assert found.status == "ok" and "with spaces, with letters outside ASCII" in found.observed


def test_gpus_are_described_with_driver_model_and_no_gpu_is_a_warning():
    none, mode = check.judge_gpus(WINDOWS, [], "nvidia-smi was not found")
    assert (none.status, mode.status) == ("warn", "ok") and "nvidia.com/drivers" in none.fix

    gpu, mode = check.judge_gpus(WINDOWS, [GPU, Gpu("Old", None, None, None, None)], "")
    assert "driver 560.94, capability 8.6, 8192 MiB" in gpu.observed and "unknown" in gpu.observed
    assert "WDDM" in mode.observed and mode.status == "ok"


def test_a_gpu_split_by_mig_or_with_little_memory_is_a_warning():
    _, mode = check.judge_gpus(LINUX, [replace(GPU, mig=True)], "")
    small, _ = check.judge_gpus(WINDOWS, [replace(GPU, memory_mib=2048)], "")

    assert mode.status == "warn" and "export CUDA_VISIBLE_DEVICES=" in mode.fix
    assert small.status == "warn" and small.fix


def test_nvml_matters_only_where_there_is_a_gpu():
    assert check.judge_nvml([], "not installed", []).status == "ok"
    assert check.judge_nvml([], "not installed", [GPU]).status == "warn"
    assert check.judge_nvml(["RTX"], "", [GPU]).status == "ok"


CMD = r"C:\Program Files\WindowsPowerShell\Modules;C:\Windows\system32\WindowsPowerShell\v1.0\Modules"


@pytest.mark.parametrize(
    ("environ", "windows", "shell"),
    [
        ({"PSMODULEPATH": r"C:\Users\a\Documents\WindowsPowerShell\Modules;" + CMD}, True, "powershell"),
        ({"PSMODULEPATH": CMD, "PROMPT": "$P$G"}, True, "cmd"),
        ({"PSMODULEPATH": r"D:\我\PowerShell\Modules;" + CMD, "PROMPT": "$P$G"}, True, "powershell"),
        ({}, True, "powershell"),
        ({"MSYSTEM": "MINGW64"}, True, "bash"),
        ({}, False, "bash"),
    ],
)
def test_the_shell_is_recognised_by_what_it_leaves_in_the_environment(environ, windows, shell):
    assert this_shell(environ, windows) == shell


def test_variables_are_set_and_taken_away_as_each_shell_does_it():
    assert [set_line("A", "b c", shell) for shell in ("powershell", "cmd", "bash")] == [
        "$env:A = 'b c'",
        "set A=b c",
        "export A='b c'",
    ]
    assert [unset_line(["A", "B"], shell) for shell in ("powershell", "cmd", "bash")] == [
        "Remove-Item Env:A; Remove-Item Env:B",
        "set A= & set B=",
        "unset A; unset B",
    ]


@pytest.mark.parametrize(
    ("mounts", "root", "drive"),
    [
        ("/dev/sda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n", "/home/me/tw", "network"),
        ("/dev/sda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n", "/homes/tw", "local"),
        ("/dev/sda / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw 0 0\n", "/mnt/c/tw", "windows_from_wsl"),
        ("//nas/s /media/nas cifs rw 0 0\n", "/media/nas", "network"),
        ("", "/x", "local"),
    ],
)
def test_a_network_folder_is_known_by_its_mount_point(mounts, root, drive):
    assert drive_in(mounts, root) == drive


def test_this_machine_is_read():
    machine = read_machine(ROOT)

    assert machine.root == str(ROOT) and machine.memory == total_memory() and machine.memory > GIB // 2
    assert {place.name for place in machine.places} == set(check._ROOM)
    assert all(place.free for place in machine.places)


def test_a_folder_that_cannot_be_written_to_is_found_by_trying_and_leaves_no_trace(tmp_path, monkeypatch):
    assert write_problem(tmp_path) == "" and list(tmp_path.iterdir()) == []
    assert write_problem(tmp_path / "not" / "yet") == ""

    def denied(self, target):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr("pathlib.Path.replace", denied)

    assert write_problem(tmp_path) == "Access is denied" and list(tmp_path.iterdir()) == []
