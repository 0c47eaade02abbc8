"""Files: moved although another program has one open for a moment, written whole or not at all."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.files import replace_file, written_whole
from helpers.run_folder import ROOT

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


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    _, old = two_files(tmp_path)
    with pytest.raises(ZeroDivisionError), written_whole(old) as partial:
        partial.write_text("hal", encoding="utf-8")
        raise ZeroDivisionError
    assert old.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "新 a.json"]


def test_processes_that_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys; from pathlib import Path; from helpers.report import write_json\n"
        "for _ in range(300): write_json(Path(sys.argv[1]), [int(sys.argv[2])] * 5000)"
    )
    command = [sys.executable, "-S", "-c", code, str(tmp_path / "same.json")]
    writers = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(3)]

    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(set(json.loads((tmp_path / "same.json").read_text(encoding="utf-8")))) == 1
