"""The program to start: what it says, what it recognises, and how it goes on after a failure."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import make_environment

import runbook
from helpers.batch.headless import NOTEBOOKS
from helpers.commands import (
    JsonProgram,
    advice,
    child_environment,
    memory_settings,
    printable,
    run_module,
    run_step,
    runbook_line,
)
from helpers.errors import SetupError
from helpers.parameters import FOLDER, declarations, groups, list_parameters
from helpers.run_folder import ROOT


def start(folder, *arguments, code="", **environment):
    """Run ``runbook.py`` in a folder, or a line of code that imports it."""
    command = [sys.executable, *(["-c", code] if code else ["runbook.py"]), *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONUTF8": "1"} | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )


def test_help_needs_nothing_but_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-S", "runbook.py", "--help"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )

    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("lab", "test", "setup", "--only"))


@pytest.mark.parametrize("only", [NOTEBOOKS, ("05_infer",)], ids=len)
@pytest.mark.parametrize("first", ["--only", "--help"])
def test_help_of_run_lists_every_parameter_of_its_notebooks_before_anything_is_installed(only, first):
    choice = ["--only", *only] if only != NOTEBOOKS else []
    arguments = [*choice, "--help"] if first == "--only" else ["--help", *choice]
    done = subprocess.run(
        [sys.executable, "-S", "runbook.py", "run", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUTF8": "1", "COLUMNS": "300"},
        capture_output=True,
        encoding="utf-8",
    )

    assert done.returncode == 0, done.stderr
    headings = [line.split()[2].strip(",") for line in done.stdout.splitlines() if line[:11] == "parameters "]
    assert headings == list(only)
    declared = [each for name in only for each in declarations(FOLDER / f"{name}.ipynb")]
    listed = " ".join(done.stdout.partition("\nparameters of")[2].split())
    assert listed.count(", default: ") == len(declared)
    for name, kind, default, meaning in declared:
        assert f"{name} {meaning} ({kind}, default: {default})" in listed


@pytest.mark.parametrize("name", ["04_assets", "05_infer"])
def test_what_most_people_change_stands_apart_in_the_notebook_and_in_the_help(name):
    common, expert = groups(FOLDER / f"{name}.ipynb").items()
    assert (common[0], expert[0]) == ("What most people change", "For experts")
    assert common[1][0].name == "dataset" and len(common[1]) < len(expert[1])
    first, second = list_parameters([name]).split(f"more parameters of {name} (for experts):")
    assert "(what most people change):" in first
    assert all(f"\n  {each.name}" in first for each in common[1])
    assert all(f"\n  {each.name}" in second for each in expert[1])


def test_a_declaration_is_read_in_the_words_of_its_cell(tmp_path):
    source = 'where: str = "a # b"  # 目录, of 5% # or more\nsteps: int = 0x10\n'
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source.splitlines(True)}
    notebook = tmp_path / "00_a.ipynb"
    notebook.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")

    assert declarations(notebook) == [
        ("where", "str", '"a # b"', "目录, of 5% # or more"),
        ("steps", "int", "0x10", ""),
    ]
    assert '目录, of 5% # or more (str, default: "a # b")' in list_parameters(["00_a"], tmp_path)


@pytest.mark.parametrize("parameter", ["steps=10001", "steps=many", "actions=[0.5]", "datset=demo"])
def test_a_wrong_parameter_ends_with_status_2_before_anything_is_set_up(parameter):
    code = (
        f"import runbook; runbook.set_up = None; raise SystemExit(runbook.main(['run', '-p', {parameter!r}]))"
    )
    done = start(ROOT, code=code)

    assert done.returncode == 2, done.stderr
    assert parameter.partition("=")[0] in done.stderr and "What to do: " in done.stderr


def test_an_old_python_can_read_the_program_far_enough_to_find_a_fitting_one():
    ast.parse((ROOT / "runbook.py").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_under_a_python_that_does_not_fit_it_starts_again_under_one_that_does():
    code = "import runbook; runbook.THIS = '3.9'; raise SystemExit(runbook.main(['--help']))"
    done = start(ROOT, code=code)

    assert done.returncode == 0, done.stderr
    assert "the only program to start" in done.stdout


def test_without_a_fitting_python_one_sentence_says_which_to_install():
    code = (
        "import runbook; runbook.THIS = '3.14'; runbook.find_python = lambda: None; "
        "raise SystemExit(runbook.main(['run']))"
    )
    done = start(ROOT, code=code)

    assert done.returncode == 1
    assert "This is Python 3.14" in done.stderr and "Install Python 3.11" in done.stderr


def test_a_name_on_the_path_that_starts_no_python_is_passed_over(tmp_path):
    code = "import runbook; print(runbook.ask([r'%s'], 'print(1)'))" % (tmp_path / "python3.11")

    assert start(ROOT, code=code).stdout.strip() == "None"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["dance"],
            ", ".join(runbook.COMMANDS),
        ),
        (["run", "--only", "99"], "There is no notebook '99'"),
        (["run", "--only", "00", "-p", "run_dri=x"], "Did you mean run_dir"),
        (["film", "-p", "tempreature=1"], "Did you mean temperature?"),
        (["presets", "-p", "device=gpu"], '"cuda:1"'),
        (["play", "--dataset", "sonik"], "Did you mean sonic?"),
        (["run", "--datset", "sonic"], "Did you mean --dataset?"),
        (["setup", "--torch-lock", "9.9"], "no known version"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_installed(arguments, says, project_copy):
    done = start(project_copy, *arguments)

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project_copy / ".venv").exists()


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("bsaeline", "baseline"),
        ("05_infer", "run --only 05_infer"),
        ("sonic", "run --dataset sonic"),
        ("eval", "evaluate"),
    ],
)
def test_a_command_that_is_misspelt_is_guessed(command, meant):
    done = start(ROOT, command)

    assert done.returncode == 2
    assert done.stderr == f"There is no command {command!r}.\nWhat to do: Did you mean {meant}?\n"


def test_whatever_reads_the_output_gets_one_encoding_of_the_program_and_of_what_it_starts():
    code = (
        "import sys, runbook; from helpers.commands import child_environment; runbook.main(['世界'])\n"
        "child = 'import sys; print(chr(0x4e16) + chr(0x754c), file=sys.stderr)'\n"
        "runbook.follow([sys.executable, '-c', child], env=child_environment())"
    )
    environment = os.environ | {"PYTHONIOENCODING": "cp936", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)

    assert done.stderr.decode("utf-8").count("世界") == 2


def test_every_command_is_a_module_whose_main_reads_its_own_arguments():
    started = [line[1:] for line in runbook.INSIDE.values() if line[1] == "helpers.commands"]
    assert len(started) >= 10
    for _, command, module in started:
        assert runbook.INSIDE[command][-1] == module
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        (main,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "main")
        assert len(main.args.args) == len(main.args.defaults), f"{module} needs arguments"


# --- Ctrl+C ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to one process")
def test_ctrl_c_ends_a_run_with_one_line_and_takes_its_kernel_along(tmp_path):
    command = [sys.executable, "-m", "helpers.commands", "run", "helpers.batch.headless", "--only", "05"]
    process = subprocess.Popen(
        [*command, "-p", f"run_dir={tmp_path}", "-p", "use_actions=true", "-p", "generation_steps=5000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=child_environment() | {"TMPDIR": str(tmp_path)},  # where the kernel's file lies
    )
    assert process.stdout is not None and "Running 05_infer" in process.stdout.readline()
    while not list(tmp_path.glob("tmp*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said.strip().splitlines() == ["Stopped. The same command begins again, and keeps what is saved."]
    running = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, encoding="utf-8").stdout
    assert str(tmp_path) not in running, "the kernel's command line names its file"


def test_ctrl_c_before_a_command_is_imported_or_from_within_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=interrupted))
    assert run_module("bench", "a_command", []) == 130
    monkeypatch.setattr("helpers.commands.importlib.import_module", interrupted)
    assert run_module("bench", "a_command", []) == 130

    assert capsys.readouterr().err.count("Stopped. ") == 2


def test_a_program_that_ctrl_c_killed_ends_with_its_status():
    end = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    if sys.platform == "win32":
        end = "import os; os._exit(0xC000013A)"
    code = (
        "import signal, sys, runbook\n"
        f"child = 'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); {end}'\n"
        "raise SystemExit(runbook.follow([sys.executable, '-c', child]))"
    )
    assert start(ROOT, code=code).returncode == 130


@pytest.fixture
def ready_copy(project_copy):
    """A copy whose environment is complete: made, and stamped as a finished setup stamps it."""
    make_environment(project_copy)
    code = (
        "import runbook; from helpers.machine.interpreter import venv_python; "
        "version = runbook.environment_version(venv_python(runbook.ROOT)); "
        "runbook.write_stamp(runbook.fingerprint(version, 'auto'), 'auto')"
    )
    done = start(project_copy, code=code)
    assert done.returncode == 0, done.stderr
    return project_copy


def test_what_is_done_is_skipped_and_notebooks_run_from_an_awkward_folder(ready_copy):
    done = start(ready_copy, "--only", "00", "01")

    assert done.returncode == 0, done.stderr
    assert "Setting up" not in done.stdout
    (run,) = (path for path in (ready_copy / "outputs").iterdir() if path.is_dir())
    assert sorted(path.name for path in (run / "notebooks").iterdir()) == ["00_check.ipynb", "01_env.ipynb"]
    verdict = json.loads((run / "01_env.json").read_text(encoding="utf-8"))
    checks = {check["id"]: check for check in verdict["checks"]}
    assert checks["environment"]["status"] == "ok" and ".venv" in checks["environment"]["observed"]


def test_a_second_start_reaches_the_notebooks_within_five_seconds(ready_copy):
    started = time.monotonic()
    command = [sys.executable, "runbook.py", "--only", "00"]
    with subprocess.Popen(command, cwd=ready_copy, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.monotonic() - started
        process.communicate(timeout=120)

    assert first.startswith("Running 00_check into ")
    assert seconds < 5
    assert process.returncode == 0


def test_lab_and_test_hand_their_arguments_over(ready_copy):
    lab, test = start(ready_copy, "lab", "--version"), start(ready_copy, "test", "--version")

    assert lab.returncode == 0 and lab.stdout.strip()[0].isdigit(), lab.stderr
    assert test.returncode == 0 and "pytest" in test.stdout + test.stderr


def test_a_changed_lock_file_makes_setup_start_again(ready_copy):
    with (ready_copy / "requirements-notorch.txt").open("a", encoding="utf-8") as file:
        file.write("no-such-package-for-this-test==1.0\n")

    done = start(ready_copy, "--only", "00", PIP_NO_INDEX="1", HTTPS_PROXY="http://127.0.0.1:9")

    assert done.returncode == 1
    assert "Setting up" in done.stdout
    assert "no-such-package-for-this-test" in done.stderr and "pip install -r" in done.stderr


def test_a_broken_environment_is_made_anew_and_a_failing_step_says_what_to_try(project_copy):
    broken = project_copy / ".venv"
    broken.mkdir()
    (broken / "pyvenv.cfg").write_text("home = gone\n", encoding="utf-8")
    (broken / "left over").write_text("", encoding="utf-8")
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(broken), "HTTPS_PROXY": "http://127.0.0.1:9"}
    # The machine's own pip configuration may hold a constraint, which changes what pip says.
    nothing |= {"PIP_CONFIG_FILE": os.devnull, "PIP_CONSTRAINT": ""}

    done = start(project_copy, "setup", "--torch-lock", "cpu", **nothing)

    assert done.returncode == 1
    assert "made anew" in done.stdout and not (broken / "left over").exists()
    assert "out of reach" in done.stdout
    assert "Installing torch==2.13.0 failed" in done.stderr
    assert "What to do: " in done.stderr and "Traceback" not in done.stderr
    assert json.loads((broken / "runbook.json").read_text(encoding="utf-8")) == {
        "key": "",
        "torch_lock": "cpu",
    }
    assert "No matching distribution" in (project_copy / "outputs" / "setup.log").read_text(encoding="utf-8")


def test_half_a_pip_that_a_full_disk_left_is_made_anew(project_copy):
    subprocess.run([sys.executable, "-m", "venv", project_copy / ".venv"], check=True)
    (half,) = project_copy.glob(".venv/**/pip/_vendor/rich/themes.py")
    half.unlink()
    nothing = {"PIP_NO_INDEX": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull}

    done = start(project_copy, "setup", "--torch-lock", "cpu", **nothing)

    assert "made anew" in done.stdout and "Installing pip: done" in done.stdout
    assert "Installing torch==2.13.0 failed" in done.stderr and half.exists()


def test_of_two_setups_at_once_the_second_says_who_is_at_work_waits_and_goes_on(project_copy):
    nothing = {"PIP_NO_INDEX": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull}
    both = [
        subprocess.Popen(
            [sys.executable, "runbook.py", "setup", "--torch-lock", "cpu"],
            cwd=project_copy,
            env=os.environ | {"PYTHONUTF8": "1"} | nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in both]
    first, second = sorted(range(2), key=lambda index: "Another set-up" in ended[index][0])

    assert f"Another set-up is at work here (process {both[first].pid}, since 2" in ended[second][0]
    assert "Another set-up" not in ended[first][0]
    assert ["Making .venv: done" in shown for shown, _ in (ended[first], ended[second])] == [True, False]
    assert all("Installing torch==2.13.0 failed" in problem for _, problem in ended)


@pytest.mark.skipif(sys.platform == "win32", reason="the system cannot be told to refuse long files")
def test_what_setup_remembers_outlives_a_disk_that_is_full(tmp_path):
    code = (
        "import pathlib, resource, sys, runbook\n"
        "runbook.STAMP = pathlib.Path(sys.argv[1])\n"
        "runbook.write_stamp('key', 'cpu')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "try: runbook.write_stamp('', 'auto')\n"
        "except OSError: print(runbook.read_stamp())"
    )
    done = start(ROOT, str(tmp_path / "runbook.json"), code=code)

    assert done.stdout.strip() == "{'key': 'key', 'torch_lock': 'cpu'}", done.stderr


def test_a_folder_that_cannot_be_written_to_is_a_sentence(project_copy):
    (project_copy / "outputs").write_text("a file where the folder should be", encoding="utf-8")

    done = start(project_copy, "setup")

    assert done.returncode == 1
    assert (
        "outputs" in done.stderr and "where you may write" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_failed_step_shows_its_command_and_the_end_of_its_output(tmp_path):
    code = "print('世界'); print('ERROR: No matching distribution found for torch'); raise SystemExit(3)"

    with pytest.raises(SetupError) as caught:
        run_step("Installing torch", [sys.executable, "-c", code], tmp_path / "setup.log")

    message = str(caught.value)
    assert "Installing torch failed (exit status 3)" in message and "世界" in message
    assert "Python 3.11, or another index" in caught.value.fix
    assert "世界" in (tmp_path / "setup.log").read_text(encoding="utf-8")


def test_a_cause_is_found_above_the_traceback_that_follows_it(tmp_path):
    code = "print('[Errno 28] No space left on device'); [print('  File', n) for n in range(40)]; exit(1)"
    with pytest.raises(SetupError) as caught:
        run_step("Installing pip", [sys.executable, "-c", code], tmp_path / "setup.log")
    assert "Free some disk" in caught.value.fix
    assert "File 25" in caught.value.what and "File 24" not in caught.value.what


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SetupError, match="cannot be started"):
        run_step("Making .venv", [str(tmp_path / "python")], tmp_path / "setup.log")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("OSError: [Errno 28] No space left on device", "Free some disk"),
        ("PermissionError: [WinError 5] Access is denied", "antivirus"),
        ("[WinError 4551] An Application Control policy has blocked this file", "antivirus"),
        ("socket.gaierror: [Errno 11001] getaddrinfo failed", "proxy"),
        (
            "WARNING: Retrying after connection broken by 'OSError(22, None)': /simple/torch/\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "not reached",
        ),
        ("HTTPSConnectionPool(host='download.pytorch.org', port=443): Read timed out.", "--torch-lock cpu"),
        ("ssl.SSLError: CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
        ("The virtual environment was not created: ensurepip is not available", "python3-venv"),
        ("something nobody foresaw", "Read the output"),
    ],
)
def test_known_troubles_of_a_machine_get_advice(output, says):
    assert says in advice(output)


def test_runbook_is_called_as_this_system_calls_python():
    windows = {"windows": True, "launcher": True}
    assert runbook_line("lab", **windows, version=(3, 12, 4)) == "py -3.12 runbook.py lab"
    assert runbook_line(**windows, version=(3, 14, 0)) == "py -3.11 runbook.py"  # which cannot run it itself
    assert runbook_line("lab", windows=True, launcher=False) == "python runbook.py lab"
    assert runbook_line("lab", windows=False) == "python3 runbook.py lab"


def test_a_command_is_printed_for_the_readers_own_shell():
    command = [r"C:\Program Files\py\python.exe", "-m", "pip", "install", "it's"]

    assert printable(command, "powershell") == r"& 'C:\Program Files\py\python.exe' -m pip install 'it''s'"
    assert printable(["python", "-m", "pip"], "powershell") == "python -m pip"
    assert printable(["/a b/python", "-m"], "bash") == "'/a b/python' -m"


@pytest.mark.parametrize(
    ("word", "cmd", "powershell"),
    [
        ("a&b|c<d>e^f", '"a&b|c<d>e^f"', "'a&b|c<d>e^f'"),
        ("C:\\a b\\", '"C:\\a b\\\\"', "'C:\\a b\\'"),
        ("100%PATH%", '"100"^%"PATH"^%""', "'100%PATH%'"),
        ('"&calc', '""\\^""&calc"', "'\"&calc'"),
        ("it\u2019s;calc", '"it\u2019s;calc"', "'it\u2019\u2019s;calc'"),
        ("", '""', "''"),
        ("C:\\世界\\x.pth", "C:\\世界\\x.pth", "C:\\世界\\x.pth"),
    ],
)
def test_a_pasted_line_runs_one_command_whatever_its_words_are(word, cmd, powershell):
    assert printable(["python", word], "cmd") == f"python {cmd}"
    assert printable(["python", word], "powershell") == f"python {powershell}"


@pytest.mark.skipif(sys.platform != "win32", reason="only Windows has cmd")
@pytest.mark.parametrize("word", ["a&b|c<d>e^f", "100%PATH%", '"&calc', "a b\\", 'x"y%z"', ""])
def test_cmd_passes_every_word_on_as_it_is(word):
    line = printable([sys.executable, "-c", "import sys;print(ascii(sys.argv[1]))", word], "cmd")

    assert subprocess.run(f'cmd /d /s /c "{line}"', capture_output=True, text=True).stdout.strip() == ascii(
        word
    )


def test_children_get_utf_8_and_no_other_pythons_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("JUPYTER_PATH", "elsewhere")

    environment = child_environment()

    assert not {"PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH"} & set(environment)
    assert environment["PYTHONUTF8"] == environment["PYTHONNOUSERSITE"] == "1"


def test_jupyterlab_is_told_not_to_ask_about_news_over_the_page_at_its_first_start(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "the user's own")
    environment = child_environment()
    code = "from jupyterlab_server.config import get_page_config; print(get_page_config([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8"
    )
    assert environment["JUPYTER_CONFIG_PATH"].endswith(f"{os.pathsep}the user's own")
    assert "@jupyterlab/apputils-extension:announcements" in done.stdout, done.stderr


def test_a_user_without_a_name_and_a_home_folder_gets_one_for_every_child():
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import os; from pathlib import Path; from helpers import commands, run_folder\n"
        "from helpers.machine import facts, redact\n"
        "del os.environ['HOME']; os.setuid(54321)\n"
        "redact.Private.here(); facts.places(Path('/'), {})\n"
        "print(Path(commands.child_environment()['HOME']) == run_folder.ROOT / 'outputs')"
    )
    done = start(ROOT, code=code)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(("platform", "kept"), [("linux", True), ("win32", False), ("darwin", False)])
def test_linux_is_asked_to_keep_freed_memory_unless_the_user_says_otherwise(monkeypatch, platform, kept):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert ("MALLOC_TRIM_THRESHOLD_" in child_environment()) == kept
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert child_environment()["MALLOC_TRIM_THRESHOLD_"] == "1000"


@pytest.mark.parametrize(
    ("environ", "platform", "lost"),
    [
        ({}, "linux", True),
        ({"MALLOC_MMAP_THRESHOLD_": "1"}, "linux", True),
        ({"MALLOC_MMAP_THRESHOLD_": "1", "MALLOC_TRIM_THRESHOLD_": "1"}, "linux", False),
        ({}, "win32", False),
        ({}, "darwin", False),
    ],
)
def test_a_process_started_otherwise_says_that_it_gives_freed_memory_back(environ, platform, lost):
    sentence = memory_settings(environ, platform)

    assert bool(sentence) == lost
    assert not lost or "MALLOC_TRIM_THRESHOLD_" in sentence


def test_what_runbook_starts_has_the_memory_settings():
    assert memory_settings(child_environment()) == ""


def test_a_program_answers_json_lines_until_it_ends_and_its_last_lines_say_why():
    code = (
        "import json, sys; print('hello', flush=True); question = json.loads(input()); "
        "print(json.dumps({'twice': 2 * question}), flush=True); input(); sys.exit('世界 broke')"
    )
    program = JsonProgram([sys.executable, "-c", code], env=child_environment())

    assert program.ask(21) == {"twice": 42}
    assert program.ask(1) == {}
    assert program.last_lines(2) == ["hello", "世界 broke"]
    assert program.process.returncode == 1
