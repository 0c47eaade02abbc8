"""The doctor: what it makes of facts, what it says in text and JSON, what it hides, and what it packs."""

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from interpreters import find
from test_machine_judge import GPU, LINUX, WINDOWS

from helpers.errors import ParameterError
from helpers.machine import doctor, doctor_checks, doctor_facts
from helpers.machine.doctor import main
from helpers.machine.doctor_checks import judge_checkpoints, judge_dataset
from helpers.machine.doctor_facts import Answer, Environment, ask, find_checkpoints, gather
from helpers.machine.redact import Private, redact
from helpers.report import Check
from helpers.run_folder import ROOT
from helpers.torch_build.builds import weigh
from helpers.torch_build.judge import judge_build
from helpers.worlds import world

SECRET = "hf_" + "Abc123Xyz" * 4


# --- as a program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_it_runs_under_every_python_with_the_standard_library_alone_before_anything_is_installed(
    version, project_copy
):
    python = find(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    command = [python, "-S", "-W", "error::EncodingWarning", "-X", "warn_default_encoding", "runbook.py"]
    done = subprocess.run(
        [*command, "doctor", "--json"], cwd=project_copy, capture_output=True, encoding="utf-8", timeout=60
    )

    assert done.stderr == ""
    report = json.loads(done.stdout)
    checks = {check["id"]: check for check in report["checks"]}
    assert report["python"].startswith(version) and checks["python"]["status"] == "ok"
    assert checks["environment"]["status"] == "skip" and "no .venv" in checks["environment"]["observed"]
    assert checks["torch_kernel"]["status"] == "skip" and "setup" in checks["torch_kernel"]["fix"]
    # This copy lacks the embedded world: that is found without any package.
    assert checks["dataset_h5"]["status"] == "fail" and done.returncode == 1
    assert all(check["expected"] and check["why"] for check in report["checks"])
    assert all(check["fix"] for check in report["checks"] if check["status"] != "ok")
    assert not (project_copy / ".venv").exists(), "the doctor changes nothing"


def test_the_list_of_checks_covers_what_can_go_wrong():
    ids = [found.id for found in doctor.diagnose(ROOT)]

    wanted = (
        "python store_python conda processor path folder long_paths disk_project disk_outputs disk_temporary "
    )
    wanted += "disk_pip_cache disk_hub_cache memory files vc_runtime console variables_python variables_cuda "
    wanted += "variables_pip variables_hub variables_proxy gpu gpu_mode nvml environment pip torch_choice "
    wanted += "torch_build torch_gpu torch_kernel pip_check index torch_index hub dataset_h5 checkpoints "
    wanted += "checkpoint_form checksums encoder outputs"
    assert set(wanted.split()) <= set(ids)
    assert len(ids) == len(set(ids))


def test_an_old_python_that_alone_is_there_gets_a_sentence_or_a_judgement(project_copy):
    code = (
        "import runbook, sys; runbook.THIS = '3.14'; runbook.find_python = lambda: None; "
        "raise SystemExit(runbook.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], cwd=project_copy, capture_output=True, encoding="utf-8"
    )

    assert "doctor: " in done.stdout and "Traceback" not in done.stderr


def test_deep_waits_and_proves_torch_with_a_kernel(capsys):
    main(["--json", "--deep"])

    checks = {check["id"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["torch_kernel"]["status"] == "ok" and "is exact" in checks["torch_kernel"]["observed"]
    assert checks["pip_check"]["status"] != "skip" and checks["encoder"]["status"] == "ok"
    assert checks["checksums"]["status"] == "ok" and "sha256" in checks["checksums"]["observed"]


def test_a_world_nobody_knows_is_refused_with_a_sentence():
    with pytest.raises(ParameterError, match="tetris"):
        main(["--dataset", "tetris"])


def test_text_shows_the_remedy_under_what_is_not_ok(monkeypatch, capsys):
    bad = Check("driver", "fail", "too old", "Run: update", "a new one", "it computes")
    monkeypatch.setattr(doctor, "diagnose", lambda *_: [Check("disk", "ok", "80 GB"), bad])

    assert main([]) == 1

    text = capsys.readouterr().out
    assert text.startswith("doctor: fail") and "1 ok, 1 fail" in text
    assert "expected: a new one" in text and "why: it computes" in text and "what to do: Run: update" in text


def test_what_is_ok_is_counted_by_group_and_all_shows_it(monkeypatch, capsys):
    checks = [
        Check("python", "ok", "3.11"),
        Check("variables_pip", "ok", "none"),
        Check("gpu", "warn", "no", "x"),
    ]
    checks += [Check("variables_python", "ok", "none")]
    order = sorted(
        checks, key=lambda check: ["python", "variables_python", "variables_pip", "gpu"].index(check.id)
    )
    monkeypatch.setattr(doctor, "diagnose", lambda *_: order)

    main([])
    short = capsys.readouterr().out
    main(["--all"])
    full = capsys.readouterr().out

    assert "computer 1, variables 2 " in short and "--all" in short and "3.11" not in short
    assert "warn  gpu" in short and "what to do: x" in short
    assert "ok    python" in full and "ok    variables_pip" in full and "--all" not in full


def test_a_failure_is_never_folded_and_what_waits_for_one_remedy_is_one_check(monkeypatch, capsys):
    setup = "Run: python3 runbook.py setup"
    checks = [Check("environment", "fail", "gone", setup), Check("pip", "skip", "no environment", setup)]
    checks += [Check("torch_kernel", "skip", "nothing", setup), Check("encoder", "skip", "nothing", setup)]
    checks += [Check("hub", "skip", "no answer in time", "Run: python3 runbook.py doctor --deep")]
    monkeypatch.setattr(doctor, "diagnose", lambda *_: checks)

    assert main([]) == 1

    text = capsys.readouterr().out
    assert "fail  environment" in text and "1 fail, 4 skip" in text
    assert "no environment; so were skipped: torch_kernel, encoder" in text and "skip  hub" in text
    assert text.count(setup) == 2, "once for the failure, once for all that waits for it"


# --- repair ----------------------------------------------------------------------------------------

_RECORDING = """
import pathlib, sys
with open("seen.txt", "a", encoding="utf-8") as seen:
    print(*sys.argv[1:], file=seen)
print("did", *sys.argv[1:])
sys.exit(int("broken" in sys.argv))
"""
FETCH = "python3 runbook.py run --only 04_assets --dataset sonic@alice--worlds@v2"


def ailing(root, monkeypatch, *fixes):
    """A project whose runbook.py notes how it was started; its checks fail with ``fixes`` until it was."""
    (root / "runbook.py").write_text(_RECORDING, encoding="utf-8")
    bad = [Check(f"check{number}", "fail", "bad", fix) for number, fix in enumerate(fixes)]
    well = [Check("check0", "ok", "well")]
    monkeypatch.setattr(doctor, "diagnose", lambda *_: well if (root / "seen.txt").exists() else bad)


def ran(root):
    seen = root / "seen.txt"
    return seen.read_text(encoding="utf-8").splitlines() if seen.exists() else []


def test_fix_runs_what_is_printed_once_in_order_and_checks_again(tmp_path, monkeypatch, capfd):
    setup = "python3 runbook.py setup"
    ailing(tmp_path, monkeypatch, f"Run: {setup}", f"Run: {FETCH}", f"Run: {setup}")
    assert main(["--fix", "--yes"], root=tmp_path) == 0, "well at the end"
    assert ran(tmp_path) == ["setup", FETCH.partition("runbook.py ")[2]]
    text = capfd.readouterr().out
    assert text.index("doctor: fail") < text.index(f"Fix: {setup}") < text.index("did setup")
    assert (
        text.index("did setup")
        < text.index(f"Fix: {FETCH}")
        < text.index("did run")
        < text.index("doctor: ok")
    )


@pytest.mark.parametrize(
    "fix",
    [
        "Run: git checkout -- helpers/demo",
        "Run: .venv/bin/python -m pip install --upgrade pip",
        "Run: rm -r .venv; python3 runbook.py setup",
        "Delete it and run: python3 runbook.py setup",
        "Run: python3 runbook.py setup && curl example.org",
        "Run: python3 runbook.py setup\nrm -r data",
        "Run: python3 runbook.py setup and restart",
        "Run: python3 runbook.py run -p run_dir=FOLDER    with a folder that you may write to",
        "Run: python3 runbook.py doctor --deep",
        "Run: python3 ../runbook.py setup",
        "python3 runbook.py setup",
    ],
)
def test_fix_never_runs_another_program_nor_what_needs_a_hand_first(fix, tmp_path, monkeypatch):
    ailing(tmp_path, monkeypatch, fix)
    assert main(["--fix", "--yes"], root=tmp_path) == 1
    assert ran(tmp_path) == []


def test_every_check_that_is_ok_prints_no_fix_and_none_is_run(tmp_path, monkeypatch):
    ailing(tmp_path, monkeypatch)
    assert main(["--fix", "--yes"], root=tmp_path) == 0 and ran(tmp_path) == []


def test_fix_asks_before_each_and_runs_only_what_is_agreed_to(tmp_path, monkeypatch):
    ailing(tmp_path, monkeypatch, "Run: python3 runbook.py setup", f"Run: {FETCH}")
    answers = iter(["n", "y"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    main(["--fix"], root=tmp_path)
    assert ran(tmp_path) == [FETCH.partition("runbook.py ")[2]]


def test_after_a_command_that_fails_no_other_is_run(tmp_path, monkeypatch, capfd):
    ailing(
        tmp_path, monkeypatch, "Run: py -3.11 runbook.py run --only broken", "Run: python3 runbook.py setup"
    )
    main(["--fix", "--yes"], root=tmp_path)
    assert ran(tmp_path) == ["run --only broken"] and "status 1" in capfd.readouterr().out


def test_what_this_machine_prints_as_remedies_is_what_fix_runs():
    for machine in (LINUX, WINDOWS):
        for arguments in (["setup"], ["run", "--only", "04_assets", "--dataset", "sonic"]):
            check = Check("one", "skip", "bad", machine.run(*arguments))
            assert doctor.own_commands([check]) == [machine.runbook(*arguments)]


def test_without_an_answer_fix_changes_nothing(project_copy):
    done = subprocess.run(
        [sys.executable, "-S", "runbook.py", "doctor", "--fix"],
        cwd=project_copy,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert "runbook.py setup\nRun it now?" in done.stdout and "--yes does not ask" in done.stdout
    assert done.stderr == "" and not (project_copy / ".venv").exists()


def test_what_fix_starts_under_a_python_that_does_not_fit_looks_for_one_that_does(project_copy):
    code = (
        "import os, runbook; runbook.THIS = '3.14'; runbook.find_python = lambda: None; "
        "runbook.main(['doctor']); print('inherited', os.environ.get(runbook.STAYS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_copy, capture_output=True, encoding="utf-8"
    )
    assert done.stdout.endswith("inherited None\n")


@pytest.mark.parametrize("options", [["--fix", "--json"], ["--yes"]])
def test_options_that_do_not_go_together_are_a_sentence(options):
    with pytest.raises(ParameterError, match="--fix"):
        main(options)


# --- time ------------------------------------------------------------------------------------------


def test_facts_are_read_side_by_side_and_what_is_late_or_broken_hides_no_other():
    never = threading.Event()

    def broken():
        raise RuntimeError("odd")

    began = time.monotonic()
    found = gather({"slow": never.wait, "broken": broken, "good": lambda: 3}, 0.2)
    waited = time.monotonic() - began
    never.set()

    assert (
        isinstance(found["slow"], TimeoutError)
        and isinstance(found["broken"], RuntimeError)
        and found["good"] == 3
    )
    assert waited < 60, "a fact that never comes holds nothing up"


def test_nvml_is_asked_by_the_environments_python_and_not_by_the_one_that_runs_the_doctor(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # this Python has none of the packages
    monkeypatch.setattr(doctor_facts, "gather", lambda tasks, seconds: tasks["nvml"]())
    environment = Environment(sys.executable, None)

    names, problem = doctor_facts.slow_facts(environment, LINUX, world("crafter"), ROOT, 60)

    assert names or "NVML" in problem, problem
    assert doctor_facts.slow_facts(Environment(None, None), LINUX, world("crafter"), ROOT, 60) == (
        [],
        "nvidia-ml-py is not installed yet",
    )


def test_without_an_answer_about_gpus_nothing_is_said_of_torch():
    checks = doctor_checks.judge_torch({"gpu": TimeoutError()}, Environment(None, None), LINUX)

    assert {found.id for found in checks} >= {"torch_choice", "torch_build", "torch_kernel"}
    assert {found.status for found in checks} == {"skip"} and all(found.fix for found in checks)


def test_what_was_late_says_how_to_wait_for_it_and_what_broke_says_how_to_report_it():
    (late,) = doctor_checks.judge_fact(TimeoutError(), WINDOWS, lambda fact: [], doctor_checks.HUB)
    (broken,) = doctor_checks.judge_fact(RuntimeError("odd"), WINDOWS, lambda fact: [], doctor_checks.INDEX)

    assert (late.status, late.fix) == ("skip", "Run: py -3.11 runbook.py doctor --deep")
    assert broken.status == "skip" and "odd" in broken.observed and "--bundle" in broken.fix


# --- the network -----------------------------------------------------------------------------------


@contextmanager
def answering(status, location=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path != "/portal" else 200)
            if location and self.path != "/portal":
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "verdict"), [(200, "ok"), (404, "ok"), (403, "warn"), (503, "warn")])
def test_an_address_is_judged_by_what_it_answers(status, verdict):
    with answering(status) as address:
        answer = ask(address, LINUX, 10)

    assert answer.status == status
    assert doctor_checks.judge_hub(answer, world("sonic"), LINUX).status == verdict


def test_a_sign_in_page_of_the_network_is_not_taken_for_the_index():
    with (
        answering(200) as portal,
        answering(302, portal.replace("127.0.0.1", "localhost") + "/portal") as address,
    ):
        found = doctor_checks.judge_torch_index(ask(address, LINUX, 10), LINUX)

    assert found.status == "warn" and "sign-in page" in found.observed


def test_an_index_out_of_reach_fails_only_where_something_is_still_to_be_fetched():
    answer = ask("http://127.0.0.1:9/simple/pip/", LINUX, 5)
    nothing, whole = Environment(None, None), Environment("python", None, complete=True)

    assert answer.problem
    assert doctor_checks.judge_index(answer, nothing, WINDOWS).status == "fail"
    judged = doctor_checks.judge_index(answer, whole, WINDOWS)
    assert judged.status == "warn" and "$env:PIP_INDEX_URL = 'https://" in judged.fix


def test_a_mirror_is_offered_for_the_hub_in_the_readers_shell():
    answer = Answer("https://huggingface.co", problem="timed out")

    assert (
        "$env:HF_ENDPOINT = 'https://hf-mirror.com'"
        in doctor_checks.judge_hub(answer, world("sonic"), WINDOWS).fix
    )
    assert (
        "export HF_ENDPOINT=https://hf-mirror.com"
        in doctor_checks.judge_hub(answer, world("sonic"), LINUX).fix
    )


def test_a_certificate_that_is_not_trusted_is_told_from_no_network():
    answer = Answer("https://x", problem="[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")

    assert "PIP_CERT" in doctor_checks.judge_index(answer, Environment(None, None), WINDOWS).fix


def test_the_index_is_the_one_that_pip_is_configured_with(tmp_path):
    config = tmp_path / "pip.ini"
    config.write_text("[global]\nindex-url = https://mirror.example/simple/\n", encoding="utf-8")

    by_file = replace(WINDOWS, environ={"PIP_CONFIG_FILE": str(config)})
    by_name = replace(WINDOWS, environ={"PIP_INDEX_URL": "https://other.example/simple"})

    assert doctor_facts.index_address(by_file) == "https://mirror.example/simple"
    assert doctor_facts.index_address(by_name) == "https://other.example/simple"


# --- the environment and torch ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "status", "fix"),
    [
        (Environment(None, None), "skip", "py -3.11 runbook.py setup"),
        (Environment(None, None, home=r"C:\gone"), "fail", "Remove-Item -Recurse -Force .venv"),
        (Environment("p", None, home=r"C:\gone", home_exists=False), "fail", "Remove-Item"),
        (Environment("p", None, home=r"C:\miniconda3", complete=True), "warn", "Then delete .venv"),
        (Environment("p", None, home=r"C:\Python311", version="3.11.7"), "warn", "setup"),
        (Environment("p", None, home=r"C:\Python311", version="3.11.7", complete=True), "ok", ""),
        (Environment("p", None, own=False), "ok", ""),
    ],
)
def test_the_environment_is_judged_by_its_own_notes(environment, status, fix):
    found = doctor_checks.judge_environment(environment, WINDOWS)

    assert found.status == status and fix in found.fix


def test_an_environment_is_read_from_its_files_without_starting_it(tmp_path):
    assert doctor_facts.find_environment(tmp_path).python != str(tmp_path / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    (tmp_path / ".venv" / "runbook.json").write_text('{"key": "x"}', encoding="utf-8")

    found = doctor_facts.find_environment(tmp_path)

    assert found.python and found.packages and found.packages.is_dir()
    assert found.home_exists and found.complete and found.version.startswith("3.")


@pytest.mark.parametrize(
    ("version", "status"), [("24.0", "warn"), ("25.0.1", "warn"), ("25.2", "ok"), ("26.3", "ok")]
)
def test_an_old_pip_is_a_warning_with_the_line_that_upgrades_it(version, status, tmp_path):
    (tmp_path / f"pip-{version}.dist-info").mkdir()

    found = doctor_checks.judge_pip(Environment("p", tmp_path), WINDOWS)

    assert found.status == status
    assert status == "ok" or found.fix == r"Run: .\.venv\Scripts\python.exe -m pip install --upgrade pip"


@pytest.mark.parametrize(
    ("gpus", "version", "cuda", "status", "says"),
    [
        ([GPU], "2.13.0+cpu", None, "warn", "CPU build, although NVIDIA GeForce RTX 3060 Ti could run"),
        ([GPU], "2.13.0+cu126", "12.6", "ok", "CUDA 12.6"),
        ([replace(GPU, capability="12.0", driver="581.29")], "2.13.0+cu126", "12.6", "fail", "no code for"),
        ([], "2.13.0+cpu", None, "ok", "CPU build"),
        ([], "2.8.0+cpu", None, "warn", "CVE-2026-24747"),
        ([GPU], None, None, "skip", "not installed"),
    ],
)
def test_the_installed_build_is_held_against_driver_and_capability(gpus, version, cuda, status, says):
    found = judge_build(weigh(gpus=gpus), version, cuda, "Run: setup")

    assert found.status == status and says in found.observed
    assert status == "ok" or found.fix == "Run: setup"


# --- files -----------------------------------------------------------------------------------------


def lay_out(root, h5=b"\x89HDF\r\n\x1a\n"):
    """A published suite as a download leaves it, tiny."""
    (root / "data").mkdir()
    (root / "data" / "sonic_frames.h5").write_bytes(h5)
    for folder, kind in (
        ("video_tokenizer", "video_tokenizer"),
        ("actions", "latent_actions"),
        ("dynamics", "dynamics"),
    ):
        place = root / "results" / "20260101_000000_sonic" / folder / "checkpoints" / "sonic"
        place.mkdir(parents=True)
        (place / f"sonic_{kind}_step_500_2026.pth").write_bytes(b"PK\x03\x04")
    return root


def judge_files(world, root, machine):
    checks = [
        judge_dataset(world, root, machine),
        *judge_checkpoints(find_checkpoints(world, root), world, machine),
    ]
    return {check.id: check for check in checks}


def test_a_suite_that_is_there_is_ok(tmp_path):
    checks = judge_files(world("sonic"), lay_out(tmp_path), WINDOWS)

    assert [check.status for check in checks.values()] == ["ok", "ok", "ok"]


def test_missing_files_and_an_mp4_that_does_not_play_are_checks_with_the_command_that_helps(tmp_path):
    missing = judge_files(world("sonic"), tmp_path, WINDOWS)

    again = "Run: py -3.11 runbook.py run --only 04_assets --dataset sonic"
    assert missing["dataset_h5"].status == "warn" and missing["dataset_h5"].fix == again
    assert missing["checkpoints"].fix == again and "dynamics" in missing["checkpoints"].observed

    unplayable = doctor_checks.judge_encoder(
        SimpleNamespace(stdout="gif No MP4 was written.", stderr=""), WINDOWS
    )
    assert unplayable.status == "warn" and "frames/*.png" in unplayable.fix


def test_a_suite_is_found_with_the_standard_library_alone(tmp_path):
    root = lay_out(tmp_path)
    code = (
        "import pathlib, sys; from helpers.machine.doctor_facts import find_checkpoints; "
        "from helpers.worlds import world; "
        "print(*find_checkpoints(world('sonic'), pathlib.Path(sys.argv[1])).values(), sep='\\n')"
    )
    command = [sys.executable, "-S", "-X", "utf8", "-c", code, str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")

    paths = find_checkpoints(world("sonic"), root)
    assert set(paths) == {"video_tokenizer", "latent_actions", "dynamics"}
    assert done.stdout.splitlines() == [str(path) for path in paths.values()], done.stderr


@pytest.mark.parametrize(
    ("spoil", "id", "says"),
    [
        (
            lambda root: (root / "data" / "sonic_frames.h5").write_bytes(b"<!DOCTYPE html>"),
            "dataset_h5",
            "HTML",
        ),
        (lambda root: (root / "data" / "sonic_frames.h5").write_bytes(b"nothing"), "dataset_h5", "no HDF5"),
        (
            lambda root: next(root.rglob("*dynamics_step*")).write_bytes(b"version https://git-lfs"),
            "checkpoint_form",
            "LFS",
        ),
        (
            lambda root: next(root.rglob("*dynamics_step*")).write_bytes(b"what?"),
            "checkpoint_form",
            "no checkpoint",
        ),
    ],
)
def test_what_only_looks_like_a_file_of_a_suite_fails(spoil, id, says, tmp_path):
    spoil(lay_out(tmp_path))

    found = judge_files(world("sonic"), tmp_path, LINUX)[id]

    assert found.status == "fail" and says in found.observed and found.fix


def test_a_checkpoint_of_the_other_form_loads_too_and_half_a_folder_does_not(tmp_path):
    root = lay_out(tmp_path)
    file = next(root.rglob("*dynamics_step*"))
    file.unlink()
    folder = file.parent / "dynamics_step_900"
    folder.mkdir()
    (folder / "model_state_dict.pt").write_bytes(b"PK")

    half = judge_files(world("sonic"), root, LINUX)["checkpoint_form"]
    (folder / "state.pt").write_bytes(b"PK")
    whole = judge_files(world("sonic"), root, LINUX)["checkpoint_form"]

    assert half.status == "fail" and "without state.pt" in half.observed
    assert whole.status == "ok" and "dynamics: folder" in whole.observed


def test_a_changed_file_fails_its_checksum(tmp_path):
    rows = [["dataset", "fail", "sonic_frames.h5 has changed since it was fetched"]]
    found = doctor_checks.judge_checksums(rows, world("sonic"), LINUX)

    assert found.status == "fail" and "has changed" in found.observed


# --- what it hides ---------------------------------------------------------------------------------

MING = Private(r"C:\Users\Xiao Ming", ("Xiao Ming", "XIAOMING-PC"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (r"in C:\Users\Xiao Ming\tw\.venv", r"in ~\tw\.venv"),
        (r'"C:\\Users\\Xiao Ming\\tw"', r'"~\\tw"'),
        ("c:/users/xiao ming/tw", "~/tw"),
        (r"D:\Users\someone else\x", r"D:\Users\<user>\x"),
        ("/home/lisi/tw and /Users/wang/x", "/home/<user>/tw and /Users/<user>/x"),
        ("by Xiao Ming on XIAOMING-PC", "by <user> on <user>"),
        (f"token {SECRET}.", "token hf_…."),
        ("https://me:pa55@proxy:8080/x", "https://…@proxy:8080/x"),
        ("HF_TOKEN=abcdef123456 x", "HF_TOKEN=… x"),
        ('"password": "hunter2"', '"password": "…"'),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer …"),
        ("GPU-2f1c0a3b-1111-2222-3333-444455556666", "GPU-…"),
        ("tokens 12, 40 tokens a second", "tokens 12, 40 tokens a second"),
        (r"C:\Users\Public\x", r"C:\Users\Public\x"),
    ],
)
def test_names_homes_and_secrets_are_hidden_and_the_rest_stays(text, left):
    assert redact(text, MING) == left


def test_a_chinese_name_is_hidden_where_no_space_stands_around_it():
    assert (
        redact(r"小明的电脑 C:\Users\小明\tw", Private(r"C:\Users\小明", ("小明",))) == r"<user>的电脑 ~\tw"
    )


def test_a_common_word_as_a_name_leaves_the_report_readable():
    assert redact("torch on root", Private("/root", ("root", "torch"))) == "torch on root"


def test_the_bundle_holds_what_a_helper_needs_and_nothing_private(tmp_path, monkeypatch, capsys):
    private = Private(str(tmp_path), ("xiaoming",))
    monkeypatch.setattr(doctor.Private, "here", classmethod(lambda cls: private))
    shutil.copytree(ROOT / "helpers" / "demo", tmp_path / "helpers" / "demo")
    run = tmp_path / "outputs" / "20260101_000000_demo"
    run.mkdir(parents=True)
    (run / "run.json").write_text(f'{{"path": "{tmp_path}/x", "token": "{SECRET}"}}', encoding="utf-8")
    (run / "run.log").write_text(f"loaded {tmp_path}/data for xiaoming\n", encoding="utf-8")
    (tmp_path / "outputs" / "setup.log").write_text(f"HF_TOKEN={SECRET}\n", encoding="utf-8")

    main(["--bundle"], root=tmp_path)

    said = capsys.readouterr().out
    (packed_path,) = (tmp_path / "outputs").glob("support_*.zip")
    assert str(packed_path) in said
    with zipfile.ZipFile(packed_path) as packed:
        content = {name: packed.read(name).decode("utf-8") for name in packed.namelist()}
    assert {
        "doctor.json",
        "doctor.txt",
        "versions.txt",
        "packages.txt",
        "setup.log",
        "run.json",
        "run.log",
    } <= set(content)
    everything = "\n".join(content.values())
    assert "\nok    python " in content["doctor.txt"], "who helps sees every check"
    assert str(tmp_path) not in everything and SECRET not in everything and "xiaoming" not in everything
    assert json.loads(content["doctor.json"])["checks"] and "~/x" in content["run.json"]
    assert str(tmp_path) not in said.replace(str(packed_path), "")
