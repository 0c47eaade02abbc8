"""What can go wrong between a hub and a disk: in the end there is the verified file, or a sentence.

The real client, a real hub protocol on the loopback, real processes that are really killed.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_double import Fault, HubDouble, sha256
from test_assets import ACTIONS, DATASETS, DYNAMICS, LOCK, MODELS, QUICK, TOKENIZER, files_under

from helpers import assets
from helpers.assets import Request, fetch_suite, prepare_assets, record
from helpers.assets.hub import Patience, RemoteFile
from helpers.assets.importing import import_files
from helpers.assets.progress import Progress
from helpers.errors import AssetError
from helpers.worlds import world

FRAMES = os.urandom(100_000)
PARTS = [DATASETS["sonic_frames.h5"], MODELS[TOKENIZER], MODELS[ACTIONS]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubDouble() as double:
        double.add("AlmondGod/tinyworlds", "dataset", {"sonic_frames.h5": FRAMES})
        double.add("AlmondGod/tinyworlds-models", "model", MODELS)
        yield double


def fetch(root: Path, hub: HubDouble, patience: Patience = QUICK, **more: object) -> Path:
    """The dataset alone."""
    (path,) = fetch_suite("sonic", root, hub.endpoint, ["dataset"], patience=patience, **more)  # type: ignore[arg-type]
    return path


def part(root: Path) -> Path:
    return root / "data" / ".incoming" / "sonic" / "sonic_frames.h5.part"


def leave_a_part(root: Path, hub: HubDouble, size: int) -> None:
    """As a download that was cut off for good leaves it."""
    hub.faults["sonic_frames.h5"] = [Fault(cut_at=size), Fault(status=404)]
    with pytest.raises(AssetError):
        fetch(root, hub)
    hub.faults.clear()
    hub.ranges.clear()
    assert part(root).read_bytes() == FRAMES[:size]


# --- cut off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenth", range(10))
def test_a_download_cut_at_any_tenth_goes_on_from_there(hub: HubDouble, tmp_path: Path, tenth: int) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(cut_at=tenth * 10_000), Fault()]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == ["", f"bytes={tenth}0000-" if tenth else ""]


def test_a_line_that_breaks_every_tenth_of_the_way_arrives_all_the_same(
    hub: HubDouble, tmp_path: Path
) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(cut_at=10_000)]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert len(hub.ranges) == 10


@pytest.mark.parametrize("tenth", range(1, 10))
def test_the_next_run_goes_on_where_the_last_one_ended(hub: HubDouble, tmp_path: Path, tenth: int) -> None:
    leave_a_part(tmp_path, hub, tenth * 10_000)
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == [f"bytes={tenth}0000-"]
    assert files_under(tmp_path) == [*LOCK, "data/sonic_assets.json", "data/sonic_frames.h5"]


def start_fetching(root: Path, hub: HubDouble) -> "subprocess.Popen[str]":
    code = (
        "import sys; from helpers.assets import fetch_suite\n"
        "print(fetch_suite('sonic', sys.argv[1], sys.argv[2], ['dataset'])[0])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), hub.endpoint],
        cwd=Path(assets.__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wait_for(condition: object) -> None:
    for _ in range(3000):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")


def test_a_killed_process_leaves_what_it_had_and_no_lock(hub: HubDouble, tmp_path: Path) -> None:
    hold = threading.Event()
    hub.faults["sonic_frames.h5"] = [Fault(cut_at=60_000), Fault(before=lambda: hold.wait(30) and None)]
    killed = start_fetching(tmp_path, hub)
    wait_for(lambda: part(tmp_path).exists() and part(tmp_path).stat().st_size == 60_000)
    killed.kill()
    killed.communicate()
    hold.set()
    hub.faults.clear()
    hub.ranges.clear()
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == ["bytes=60000-"]


def test_of_two_downloaders_one_waits_and_finds_the_files(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(before=lambda: time.sleep(1.0))]
    both = [start_fetching(tmp_path, hub) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert hub.ranges == [""], "the file was fetched once"
    assert (tmp_path / "data" / "sonic_frames.h5").read_bytes() == FRAMES


# --- what goes on is the same file -----------------------------------------------------------------


def test_a_server_that_ignores_range_is_read_from_the_start(hub: HubDouble, tmp_path: Path) -> None:
    leave_a_part(tmp_path, hub, 30_000)
    hub.faults["sonic_frames.h5"] = [Fault(ignore_range=True)]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == ["bytes=30000-"]


def test_a_file_that_changed_since_the_first_half_is_fetched_whole(hub: HubDouble, tmp_path: Path) -> None:
    leave_a_part(tmp_path, hub, 50_000)
    changed = os.urandom(100_000)
    hub.add("AlmondGod/tinyworlds", "dataset", {"sonic_frames.h5": changed})
    assert fetch(tmp_path, hub).read_bytes() == changed


def test_another_etag_for_the_same_content_costs_a_fresh_download_and_no_more(
    hub: HubDouble, tmp_path: Path
) -> None:
    leave_a_part(tmp_path, hub, 50_000)
    hub.faults["sonic_frames.h5"] = [Fault(headers={"ETag": '"moved"'})]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(headers={"Content-Range": "bytes 0-99999/100000"}),
        Fault(headers={"Content-Range": "bytes 50000-99999/777777"}),
        Fault(status=416),
    ],
    ids=["another place", "another file", "416"],
)
def test_a_range_of_something_else_is_not_joined_to_the_part(
    hub: HubDouble, tmp_path: Path, wrong: Fault
) -> None:
    leave_a_part(tmp_path, hub, 50_000)
    hub.faults["sonic_frames.h5"] = [wrong, Fault(headers={})]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES


def test_a_part_that_was_damaged_here_is_found_and_the_file_fetched_whole(
    hub: HubDouble, tmp_path: Path
) -> None:
    leave_a_part(tmp_path, hub, 50_000)
    part(tmp_path).write_bytes(bytes(50_000))
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == ["bytes=50000-", ""]


# --- wrong bytes -----------------------------------------------------------------------------------


def flipped(place: int) -> bytes:
    return FRAMES[:place] + bytes([FRAMES[place] ^ 1]) + FRAMES[place + 1 :]


def test_a_bit_flipped_on_the_way_is_found_and_fixed_by_another_try(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(body=flipped(40_000)), Fault()]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(body=flipped(0)), "altered or damaged on the way"),
        (Fault(body=FRAMES + b"more"), "100,004 bytes were offered"),
        (Fault(body=FRAMES[:-7]), "99,993 bytes were offered"),
        (Fault(headers={"Content-Length": "200000"}), "200,000 bytes were offered"),
        (Fault(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), "an HTML page came"),
    ],
    ids=["bit flip", "longer", "shorter", "wrong length", "captive portal"],
)
def test_what_is_never_right_is_refused_with_a_sentence(
    hub: HubDouble, tmp_path: Path, fault: Fault, said: str
) -> None:
    hub.faults["sonic_frames.h5"] = [fault]
    with pytest.raises(AssetError, match=said) as caught:
        fetch(tmp_path, hub)
    assert caught.value.fix and files_under(tmp_path) == LOCK


def test_a_login_page_in_between_costs_nothing_of_what_came_before(hub: HubDouble, tmp_path: Path) -> None:
    leave_a_part(tmp_path, hub, 80_000)
    portal = Fault(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}, ignore_range=True)
    hub.faults["sonic_frames.h5"] = [portal]
    with pytest.raises(AssetError, match="an HTML page came"):
        fetch(tmp_path, hub)
    assert part(tmp_path).read_bytes() == FRAMES[:80_000]


# --- a hub that is busy, slow or gone --------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(hub: HubDouble, tmp_path: Path, status: int) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(status=status), Fault(status=status), Fault()]
    assert fetch(tmp_path, hub).read_bytes() == FRAMES


def test_retry_after_is_waited_for(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(status=429, headers={"Retry-After": "1"}), Fault()]
    began = time.monotonic()
    fetch(tmp_path, hub)
    assert time.monotonic() - began >= 1


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(AssetError, match="slow down") as caught:
        fetch(tmp_path, hub)
    assert "3600 seconds" in caught.value.fix and len(hub.ranges) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(hub: HubDouble, tmp_path: Path, status: int) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(status=status)]
    with pytest.raises(AssetError, match=f"HTTP {status}"):
        fetch(tmp_path, hub)
    assert len(hub.ranges) == 1


def test_a_hub_that_drips_is_given_up_and_what_dripped_is_kept(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(drip=0.05)]
    with pytest.raises(AssetError, match=r"does not deliver .* bytes came in 1 s") as caught:
        fetch(tmp_path, hub)
    assert "mirror" in caught.value.fix and "import_from" in caught.value.fix
    assert 0 < part(tmp_path).stat().st_size < 1000


def test_a_small_file_that_drips_is_given_up_no_later(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults[DYNAMICS] = [Fault(drip=0.005)]
    with pytest.raises(AssetError, match="does not deliver"):
        fetch_suite("sonic", tmp_path, hub.endpoint, patience=QUICK)
    assert hub.ranges.count("") == 4 and len(hub.ranges) <= 4 + QUICK.attempts


class _Page(BaseHTTPRequestHandler):
    """A network's login page, at whatever address, behind a redirect as such networks have it."""

    def do_GET(self) -> None:
        page = b"<html>Sign in</html>"
        moved = self.path != "/login"
        self.send_response(302 if moved else 200)
        self.send_header("Location" if moved else "Content-Type", "/login" if moved else "text/html")
        self.send_header("Content-Length", "0" if moved else str(len(page)))
        self.end_headers()
        if not moved and self.command == "GET":
            self.wfile.write(page)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize("lists", [True, False], ids=["from the start", "once it was listed"])
def test_a_login_page_instead_of_every_answer_is_called_so(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    if not lists:
        listed = [RemoteFile("AlmondGod/tinyworlds", "dataset", "main", "sonic_frames.h5")]
        monkeypatch.setattr("helpers.assets.hub.Hub.list_files", lambda *_arguments: listed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        with pytest.raises(AssetError, match="login page or a proxy may be in between") as caught:
            fetch_suite(
                "sonic", tmp_path, f"http://127.0.0.1:{server.server_port}", ["dataset"], patience=QUICK
            )
    finally:
        server.shutdown()
        server.server_close()
    assert "in a browser" in caught.value.fix and files_under(tmp_path) == LOCK


def test_a_part_outlives_a_time_without_network(hub: HubDouble, tmp_path: Path) -> None:
    leave_a_part(tmp_path, hub, 40_000)
    with pytest.raises(AssetError, match="could not be reached"):
        fetch_suite("sonic", tmp_path, "http://127.0.0.1:9", ["dataset"], patience=QUICK)
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert hub.ranges == ["bytes=40000-"]


def test_a_root_that_is_no_folder_is_a_sentence(hub: HubDouble, tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file")
    with pytest.raises(AssetError, match="could not be written") as caught:
        fetch(tmp_path / "root", hub)
    assert caught.value.fix


def test_a_hub_that_says_nothing_is_given_up(hub: HubDouble, tmp_path: Path) -> None:
    hub.faults["sonic_frames.h5"] = [Fault(before=lambda: time.sleep(3))]
    with pytest.raises(AssetError, match=r"nothing came for 1 s|could not be reached"):
        fetch(tmp_path, hub)


def test_content_that_another_host_serves_arrives(hub: HubDouble, tmp_path: Path) -> None:
    with HubDouble() as storage:
        storage.add("AlmondGod/tinyworlds", "dataset", {"sonic_frames.h5": FRAMES})
        hub.redirect = storage.endpoint
        assert fetch(tmp_path, hub).read_bytes() == FRAMES
        assert storage.ranges == [""]


def test_a_mirror_that_serves_files_and_lists_none_is_enough_for_a_suite_whose_names_are_known(
    hub: HubDouble, tmp_path: Path
) -> None:
    hub.lists = False
    assert [path.name for path in fetch_suite("sonic", tmp_path, hub.endpoint)][3] == DYNAMICS.split("/")[1]


def test_where_no_checksum_is_published_the_first_one_is_learned_and_locked(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_double.git_oid", lambda content: "no-checksum")
    monkeypatch.setattr("hub_double.in_lfs", lambda path: False)
    path = fetch(tmp_path, hub)
    path.unlink()
    hub.add("AlmondGod/tinyworlds", "dataset", {"sonic_frames.h5": FRAMES[::-1]})
    with pytest.raises(AssetError, match=r"altered|is not what"):
        fetch(tmp_path, hub)


def test_offline_mode_uses_no_network_and_needs_none_once_the_files_are_here(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE"):
        fetch(tmp_path, hub)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = fetch(tmp_path, hub)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(tmp_path, hub, verify=True) == path and len(hub.requests) == asked


def test_xet_that_fails_is_followed_by_plain_http(hub: HubDouble, tmp_path: Path) -> None:
    """As behind a mirror, which does not serve Xet's own host."""
    hub.head_headers = {
        "X-Xet-Hash": "0" * 64,
        "X-Xet-Refresh-Route": f"{hub.endpoint}/api/datasets/none/xet-read-token/x",
    }
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert any("xet-read-token" in request for request in hub.requests), "Xet was tried first"


# --- the disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not mount or not umount or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield disk
    subprocess.run([umount, "-l", str(disk)], check=True)


def test_a_small_disk_is_refused_before_the_first_byte(hub: HubDouble, small_disk: Path) -> None:
    with pytest.raises(AssetError, match="files to fetch take"):
        fetch(small_disk, hub)
    assert hub.ranges == []


def test_a_disk_that_fills_up_on_the_way_is_a_sentence(
    hub: HubDouble, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(AssetError, match="disk filled up") as caught:
        fetch(small_disk, hub)
    assert "goes on from where it stopped" in caught.value.fix


def test_a_folder_that_may_only_be_read_serves_what_it_has_and_says_so_otherwise(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(tmp_path, hub)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    bind = [str(mount), "--bind", str(tmp_path), str(tmp_path)]
    if not mount or not umount or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run([mount, "-o", "remount,ro,bind", str(tmp_path)], check=True)
        assert fetch(tmp_path, hub) == path
        with pytest.raises(AssetError, match="could not be written"):
            fetch_suite("sonic", tmp_path, hub.endpoint, patience=QUICK)
    finally:
        subprocess.run([umount, "-l", str(tmp_path)], check=True)


# --- what lies here --------------------------------------------------------------------------------


def test_a_damaged_file_is_set_aside_and_fetched_again(hub: HubDouble, tmp_path: Path) -> None:
    path = fetch(tmp_path, hub)
    path.write_bytes(flipped(5))
    assert fetch(tmp_path, hub).read_bytes() == FRAMES
    assert path.with_name("sonic_frames.h5.aside1").read_bytes() == flipped(5)


def test_a_file_of_the_users_own_is_not_lost_where_ours_takes_its_name(
    hub: HubDouble, tmp_path: Path
) -> None:
    own = tmp_path / "data" / "sonic_frames.h5"
    own.parent.mkdir()
    own.write_bytes(b"years of work")
    fetch(tmp_path, hub)
    assert own.read_bytes() == FRAMES
    assert own.with_name("sonic_frames.h5.aside1").read_bytes() == b"years of work"


def test_a_damaged_file_stays_where_it_is_until_a_good_one_is_there(hub: HubDouble, tmp_path: Path) -> None:
    path = fetch(tmp_path, hub)
    path.write_bytes(flipped(5))
    hub.faults["sonic_frames.h5"] = [Fault(status=404)]
    with pytest.raises(AssetError):
        fetch(tmp_path, hub)
    assert path.read_bytes() == flipped(5)


def test_only_a_full_hash_finds_what_leaves_every_time_stamp_as_it_was(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(tmp_path, hub)
    kept = record._stamps(path)
    path.write_bytes(flipped(5))  # as a failing disk does, which leaves the stamps
    monkeypatch.setattr(record, "_stamps", lambda path: kept)
    asked = len(hub.requests)
    fetch(tmp_path, hub)
    assert len(hub.requests) == asked, "the fast path reads nothing"
    assert fetch(tmp_path, hub, verify=True).read_bytes() == FRAMES


def test_what_the_hub_changed_since_is_taken_only_when_that_is_meant(hub: HubDouble, tmp_path: Path) -> None:
    path = fetch(tmp_path, hub)
    path.unlink()
    changed = os.urandom(100_000)
    hub.add("AlmondGod/tinyworlds", "dataset", {"sonic_frames.h5": changed})
    with pytest.raises(AssetError, match=f"{sha256(changed)[:12]}.* locks {sha256(FRAMES)[:12]}") as caught:
        fetch(tmp_path, hub)
    assert "update = True" in caught.value.fix
    assert fetch(tmp_path, hub, update=True).read_bytes() == changed
    assert fetch(tmp_path, hub).read_bytes() == changed


def test_a_published_users_folder_is_adopted_whatever_its_type_is_called(
    hub: HubDouble, tmp_path: Path
) -> None:
    theirs = tmp_path / "results" / "20250917_062026_sonic" / "latent_actions" / "checkpoints" / ACTIONS
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(MODELS[ACTIONS])
    paths = fetch_suite("sonic", tmp_path, hub.endpoint)
    assert paths[2] == theirs and ACTIONS.split("/")[1] not in hub.downloads()


@pytest.mark.parametrize(
    "name", ["..\\..\\evil_dynamics_step_99999999.pth", "C:evil_dynamics_step_99999999.pth"]
)
def test_a_name_that_leads_out_of_its_folder_is_passed_over(
    hub: HubDouble, tmp_path: Path, name: str
) -> None:
    hub.add("AlmondGod/tinyworlds-models", "model", {f"sonic/{name}": b"evil"})
    assert fetch_suite("sonic", tmp_path, hub.endpoint)[3].name == DYNAMICS.split("/")[1]


# --- files that a browser fetched ------------------------------------------------------------------


def test_files_from_a_browser_are_recognised_by_their_hash_where_it_is_known(
    hub: HubDouble, tmp_path: Path
) -> None:
    path = fetch(tmp_path, hub)
    path.unlink()
    download = tmp_path / "downloads" / "anything.h5"
    download.parent.mkdir()
    download.write_bytes(flipped(7))
    with pytest.raises(AssetError, match="holds no file of Sonic"):
        import_files("sonic", download, tmp_path)
    renamed = download.rename(download.with_name("sonic_frames (1).h5"))
    with pytest.raises(AssetError, match="is not what was fetched before"):
        import_files("sonic", renamed, tmp_path)
    download.write_bytes(FRAMES)
    # Its content is not an h5; what is locked by hash needs no further proof than its hash.
    assert import_files("sonic", download, tmp_path, update=False) == {"dataset": path}
    assert path.read_bytes() == FRAMES and download.exists()


def test_a_page_that_a_browser_saved_instead_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "sonic_frames.h5").write_bytes(b"<html>")
    with pytest.raises(AssetError, match="is an HTML page"):
        import_files("sonic", tmp_path / "sonic_frames.h5", tmp_path)
    with pytest.raises(AssetError, match=r"does not exist|could not be read|holds no file"):
        import_files("sonic", tmp_path / "nowhere", tmp_path)


def test_a_folder_of_downloads_becomes_a_suite_without_a_network(tmp_path: Path) -> None:
    import h5py
    import numpy as np
    import torch

    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with h5py.File(downloads / "sonic_frames (2).h5", "w") as file:
        file["frames"] = np.zeros((200, 8, 8, 3), np.uint8)
    for name in (TOKENIZER, ACTIONS, DYNAMICS):
        torch.save({"model": name}, downloads / name.split("/")[1])
    (downloads / "pong_dynamics_step_9.pth").write_bytes(b"of another world")
    request = Request("sonic", download=False, import_from=str(downloads))
    paths, checks = prepare_assets(request, tmp_path / "root")
    assert paths.dynamics.parts[-5:-2] == (paths.dynamics.parts[-5], "dynamics", "checkpoints")
    assert [check.status for check in checks] == ["ok"] * 6
    assert paths.dataset.name == "sonic_frames.h5"


# --- progress --------------------------------------------------------------------------------------


def test_a_line_of_progress_has_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress("a.h5", 249_000_000, 49_000_000)
    clock[0] += 10
    progress.at(79_000_000)
    assert progress.line() == "a.h5: 32 % of 249.0 MB, 3.0 MB/s, 0:57 left"


def test_a_log_is_not_flooded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    del sys.modules["ipykernel"]
    with Progress("a.h5", 10_000) as progress:
        for count in range(1, 1001):
            clock[0] += 0.05
            progress.at(10 * count)
    assert 1 <= len(capsys.readouterr().err.splitlines()) <= 5


# --- checkpoints without code ----------------------------------------------------------------------


def golden_suite(root: Path, case: str) -> "assets.SuitePaths":
    from golden_cases import golden_paths

    return assets.SuitePaths(root / "none.h5", **{kind: Path(p) for kind, p in golden_paths(case).items()})


@pytest.mark.parametrize("case", ["small_pth", "small_dir"])
def test_a_pickle_is_read_once_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    import torch

    from helpers.worldmodel import load_suite

    first = assets.safe_checkpoints(golden_suite(tmp_path, case), tmp_path)
    assert all(path.suffix == ".safetensors" for path in first.values())
    monkeypatch.setattr(torch, "load", None)
    assert assets.safe_checkpoints(golden_suite(tmp_path, case), tmp_path) == first
    assert load_suite(**first).frame_size == 32


def test_a_kept_checkpoint_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    kept = assets.safe_checkpoints(golden_suite(tmp_path, "small_pth"), tmp_path)["dynamics"]
    good = kept.read_bytes()
    for broken in (kept, kept.with_suffix(".json")):
        broken.write_bytes(b"[]")
        assert assets.safe_checkpoints(golden_suite(tmp_path, "small_pth"), tmp_path)["dynamics"] == kept
        assert kept.read_bytes() == good


def test_where_nothing_can_be_kept_the_source_is_used(tmp_path: Path) -> None:
    (tmp_path / "results").write_bytes(b"a file where the folder should be")
    suite = golden_suite(tmp_path, "small_pth")
    assert assets.safe_checkpoints(suite, tmp_path)["dynamics"] == suite.dynamics


def published_sonic(root: Path) -> "assets.SuitePaths":
    """Sonic's parts, as a fetch leaves them: in their places and recorded."""
    import json

    from golden_cases import golden_paths

    (root / "data").mkdir()
    (root / "data" / "sonic_frames.h5").write_bytes(FRAMES)
    files = {"dataset": root / "data" / "sonic_frames.h5"}
    for kind, source in golden_paths("small_pth").items():
        name = f"sonic_{kind}_step_1.pth"
        files[kind] = root / "results" / "20250917_062026_sonic" / kind / "checkpoints" / "sonic" / name
        files[kind].parent.mkdir(parents=True)
        shutil.copyfile(source, files[kind])
    entries = {
        part: {
            "path": path.relative_to(root).as_posix(),
            "size": path.stat().st_size,
            "sha256": sha256(path.read_bytes()),
            **record._stamps(path),
        }
        for part, path in files.items()
    }
    (root / "data" / "sonic_assets.json").write_text(json.dumps(entries), encoding="utf-8")
    return assets.SuitePaths(**files)


def hashed_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on."""
    hashed: list[Path] = []

    def note(path: Path) -> str:
        hashed.append(path)
        return sha256(path.read_bytes())

    for module in ("record", "converted"):
        monkeypatch.setattr(f"helpers.assets.{module}.sha256_of", note)
    return hashed


@pytest.mark.parametrize("path", [r"\\server\share\sonic.h5", 3, None, ["a"]])
def test_a_record_that_leads_to_another_computer_or_nowhere_records_nothing(
    tmp_path: Path, path: object
) -> None:
    entry = {"path": path, "size": 1, "sha256": "0" * 64}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sonic_assets.json").write_text(json.dumps({"dataset": entry}), encoding="utf-8")
    assert record.Record(world("sonic"), tmp_path).entries == {}


def test_a_recorded_world_is_opened_without_hashing_and_an_unrecorded_one_hashes_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = published_sonic(tmp_path)
    hashed = hashed_files(monkeypatch)
    suite, hashes = assets.open_suite(world("sonic"), paths, tmp_path)
    assert hashed == []
    assert hashes == {part: sha256(path.read_bytes()) for part, path in paths.items()}
    assert {path.suffix for path in suite.paths.values()} == {".safetensors"}
    (tmp_path / "data" / "sonic_assets.json").unlink()
    assert assets.open_suite(world("sonic"), paths, tmp_path)[1] == hashes
    assert sorted(hashed) == sorted(path for _, path in paths.items())


def test_a_world_whose_files_were_touched_is_hashed_and_one_that_changed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = published_sonic(tmp_path)
    os.utime(paths.dataset)
    hashed = hashed_files(monkeypatch)
    assets.open_suite(world("sonic"), paths, tmp_path)
    assert hashed == [paths.dataset]
    paths.dataset.write_bytes(flipped(5))
    with pytest.raises(AssetError, match="has changed since it was fetched") as caught:
        assets.open_suite(world("sonic"), paths, tmp_path)
    assert "04_assets" in caught.value.fix


def test_opening_makes_a_damaged_kept_checkpoint_again(tmp_path: Path) -> None:
    paths = published_sonic(tmp_path)
    suite, _ = assets.open_suite(world("sonic"), paths, tmp_path)
    kept = suite.paths["dynamics"]
    good = kept.read_bytes()
    kept.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    again, _ = assets.open_suite(world("sonic"), paths, tmp_path)
    assert again.paths == suite.paths and kept.read_bytes() == good
