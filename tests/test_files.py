"""Files: moved although another program has one open for a moment, written whole or not at all."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.errors import OutputError
from helpers.files import alone, expanded, is_share, replace_file, written_whole
from helpers.run_folder import ROOT, open_run

OPEN = 32  # Windows: another program uses the file


@pytest.fixture
def opened(monkeypatch):
    """Another program that keeps a file open: for real on Windows, elsewhere by what Windows would answer."""
    until, files = {}, []
    real = Path.replace

    def refuse(self, target):
        if time.monotonic() < until[Path(target)]:
            error = PermissionError(13, "The process cannot access the file", str(self))
            error.winerror = OPEN
            raise error
        return real(self, target)

    def keep_open(path, seconds):
        if sys.platform == "win32":
            files.append(path.open("rb"))
            timer = threading.Timer(seconds, files[-1].close)
            timer.daemon = True
            timer.start()
        else:
            until[path] = time.monotonic() + seconds
            monkeypatch.setattr(Path, "replace", refuse)

    yield keep_open
    for file in files:
        file.close()


def two_files(folder):
    new, old = folder / "新 a.json", folder / "b.json"
    new.write_text("new", encoding="utf-8")
    old.write_text("old", encoding="utf-8")
    return new, old


@pytest.mark.parametrize(
    "path",
    [
        r"\\server\share\a.pth",
        "//server/share",
        r"\/server/share",
        r"\\?\UNC\server\share",
        r"\\.\UNC\server\share",
        r"\??\UNC\server\share",
        r" \\server\share",
        r"\\server@SSL\DavWWWRoot\a",
    ],
)
def test_a_path_to_another_computer_is_told_in_every_way_that_windows_writes_it(path):
    assert is_share(path)


@pytest.mark.parametrize(
    "path", ["", "a//b", "/srv/a", r"C:\a", r"C:\\a", r"..\a", r"\a", "~/a", "s3://bucket"]
)
def test_other_paths_lead_to_no_other_computer(path):
    assert not is_share(path)


def test_a_file_that_is_open_elsewhere_for_a_moment_is_replaced_when_it_is_closed(tmp_path, opened):
    new, old = two_files(tmp_path)
    opened(old, 0.4)

    assert replace_file(new, old) == old
    assert old.read_text(encoding="utf-8") == "new" and not new.exists()


def test_after_two_seconds_the_refusal_is_raised_and_both_files_are_as_they_were(tmp_path, opened):
    new, old = two_files(tmp_path)
    opened(old, 30)
    began = time.monotonic()

    with pytest.raises(PermissionError):
        replace_file(new, old)

    assert 2 <= time.monotonic() - began < 10
    assert (new.read_text(encoding="utf-8"), old.read_text(encoding="utf-8")) == ("new", "old")


def test_what_no_waiting_mends_is_raised_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere", tmp_path / "b.json")
    assert time.monotonic() - began < 1


def test_a_home_folder_that_the_system_does_not_know_stays_a_name(tmp_path):
    assert expanded("~") == Path.home()
    if sys.platform != "win32":  # which takes every name for that of a folder beside one's own
        assert expanded("~nobody has this name/x.pth") == Path("~nobody has this name/x.pth")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_run_folder_with_letters_that_no_name_has_is_a_sentence(name, tmp_path):
    if name == "\ud800" and sys.platform == "win32":
        pytest.skip("Windows takes half a letter")
    with pytest.raises(OutputError, match="can be no folder"):
        open_run("x", str(tmp_path / name))


@pytest.mark.skipif(sys.platform != "linux", reason="paths end at 4096 bytes on Linux")
def test_a_run_folder_whose_files_would_have_too_long_a_path_is_refused_at_once(tmp_path):
    deep = str(tmp_path) + "/nnnnnnnnn" * 410
    with pytest.raises(OutputError, match="shorter path"):
        open_run("x", deep[: 4095 - len("/notebooks/05_infer")])


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    _, old = two_files(tmp_path)
    with pytest.raises(ZeroDivisionError), written_whole(old) as partial:
        partial.write_text("hal", encoding="utf-8")
        raise ZeroDivisionError
    assert old.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "新 a.json"]


def hold(lock, code):
    """A process that is alone with a lock, and runs a step there that a program of its own goes on with."""
    holder = (
        "import sys; from pathlib import Path\n"
        "from helpers.commands import run_step; from helpers.files import alone\n"
        "with alone(Path(sys.argv[1]), print):\n"
        "    print('in', flush=True)\n"
        "    run_step('A step', [sys.executable, '-c', sys.argv[2]], Path(sys.argv[1]).with_suffix('.log'))"
    )
    command = [sys.executable, "-X", "utf8", "-S", "-c", holder, str(lock), code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    return process, process.stdout.readline().strip()


def test_a_second_process_is_told_who_is_at_work_and_since_when_and_waits(tmp_path):
    first, said = hold(tmp_path / "setup.lock", "import time; time.sleep(1)")
    second, who = hold(tmp_path / "setup.lock", "")

    pid = r"\d+" if sys.platform == "win32" else first.pid  # there an environment's Python starts another one
    assert said == "in" and re.fullmatch(rf"process {pid}, since 20\d\d-[\d: -]+", who)
    assert second.stdout.readline().strip() == "in"
    # On Windows the one that was started ends first.
    assert (first.wait(5) if sys.platform == "win32" else first.poll()) == 0
    assert second.wait(60) == 0


def test_what_a_killed_process_started_is_waited_for_too(tmp_path):
    mark = tmp_path / "世界 done"
    code = f"import time; time.sleep(2); open({str(mark)!r}, 'w').close()"
    killed, _ = hold(tmp_path / "setup.lock", code)
    while not (tmp_path / "setup.log").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    killed.kill()
    killed.wait()
    began = time.monotonic()

    with alone(tmp_path / "setup.lock", print):
        assert mark.exists() and time.monotonic() - began > 0.5


def test_processes_that_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys; from pathlib import Path; from helpers.report import write_json\n"
        "for _ in range(300): write_json(Path(sys.argv[1]), [int(sys.argv[2])] * 5000)"
    )
    command = [sys.executable, "-S", "-c", code, str(tmp_path / "same.json")]
    writers = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(3)]

    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(set(json.loads((tmp_path / "same.json").read_text(encoding="utf-8")))) == 1
