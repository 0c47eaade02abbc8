"""Step 2 installs: real pip, a package index on loopback, and a torch of a few lines in real wheels."""

import os

import pytest
import torch_index
from torch_index import damage, environment_with_pip, make_torch, make_wheel

import runbook
from helpers.commands import Progress
from helpers.errors import SetupError, TorchBuildError
from helpers.torch_build import builds as torch_build
from helpers.torch_build.builds import Choice, TorchBuild, install, install_if, with_fallback
from helpers.torch_build.probe import (
    CONSTRAINT_NAME,
    cuda_of,
    installed_version,
    libraries,
    remove_remains,
    verify,
)

CU126, CU130, CPU = ("2.13.0", "cu126"), ("2.13.0", "cu130"), ("2.13.0", "cpu")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An index, an environment that holds nothing but pip, and a way from the one into the other."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {
        "CONFIG_FILE": os.devnull,
        "RETRIES": "0",
        "RESUME_RETRIES": "0",
        "TIMEOUT": "5",
        "NO_CACHE_DIR": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with torch_index.serve(tmp_path / "index") as index:
        yield Place(tmp_path, index)


class Place:
    """What the tests install into."""

    def __init__(self, folder, index):
        self.folder, self.index = folder, index
        self.python, self.packages = environment_with_pip(folder / "somebody's 环境")
        self.said: list[str] = []

    def build(self, torch, tag):
        return TorchBuild(torch, tag, "It fits.", index=self.index.address)

    def offer(self, torch, tag, **how):
        cuda = None if tag == "cpu" else f"{tag[2:4]}.{tag[4:]}"
        return make_torch(self.index.folder / tag, f"{torch}+{tag}", cuda, **how)

    def install(self, *builds):
        log, constraint = self.folder / "setup.log", self.folder / CONSTRAINT_NAME
        wanted = [self.build(*each) for each in builds]
        return install(wanted, self.python, self.packages, log, constraint, self.said.append)

    @property
    def torches(self):
        """Whatever in the environment has to do with a torch, but for the metadata folder's version."""
        return sorted(path.name for path in self.packages.iterdir() if "orch" in path.name.lower())


WHOLE_CU126 = ["functorch", "torch", "torch-2.13.0+cu126.dist-info"]
WHOLE_CU130 = ["functorch", "torch", "torch-2.13.0+cu130.dist-info"]


def test_the_best_build_is_installed_proved_and_held_by_a_constraint(place):
    place.offer(*CU126)

    assert place.install(CU126, CU130).tag == "cu126"

    assert place.torches == WHOLE_CU126
    assert (place.folder / CONSTRAINT_NAME).read_text(encoding="utf-8") == "torch==2.13.0+cu126\n"
    assert verify(place.python).kernel == "cuda"
    assert cuda_of(place.packages, "2.13.0+cu126") == "12.6"
    assert any("Downloading" in line for line in place.said), "progress is shown"
    assert not [path for path in place.index.asked if "cu130" in path], "the second was not needed"


def test_what_is_there_and_computes_is_not_fetched_again(place):
    place.offer(*CU126)
    place.install(CU126)
    place.index.asked.clear()

    place.install(CU126)

    assert place.index.asked == []


def test_a_transfer_that_breaks_off_leads_to_the_next_build(place):
    place.offer(*CU126)
    place.offer(*CU130)
    place.index.cut.add("cu126")

    assert place.install(CU126, CU130).tag == "cu130"

    assert place.torches == WHOLE_CU130
    assert any("does not work here" in line and "cu126" in line for line in place.said)


def test_a_build_that_does_not_compute_is_removed_with_its_libraries_before_the_next_is_tried(place):
    place.offer(*CU126, computes=False, requires=("nvidia-pretended-cu12",))
    make_wheel(place.index.folder / "cu126", "nvidia_pretended_cu12", "1.0", {"nvidia/pretended.py": ""})
    place.offer(*CU130)

    assert place.install(CU126, CU130).tag == "cu130"

    assert place.torches == WHOLE_CU130
    assert libraries(place.packages) == set()
    assert any("no kernel image" in line for line in place.said)


def test_a_wheel_that_breaks_while_it_is_unpacked_leaves_no_half_and_none_of_its_libraries(place):
    damage(place.offer(*CU126, requires=("nvidia-pretended-cu12",)))
    make_wheel(place.index.folder / "cu126", "nvidia_pretended_cu12", "1.0", {"nvidia/pretended.py": ""})

    with pytest.raises(TorchBuildError, match="cu126") as caught:
        place.install(CU126)

    assert "No torch is installed now" in caught.value.what
    assert place.torches == [] and libraries(place.packages) == set()


def test_a_torch_that_is_whole_survives_a_successor_that_breaks_while_it_is_unpacked(place):
    place.offer(*CU126)
    place.install(CU126)
    damage(place.offer(*CU130))

    with pytest.raises(TorchBuildError, match="which was there, still is"):
        place.install(CU130)

    assert place.torches == WHOLE_CU126
    assert verify(place.python).version == "2.13.0+cu126"


def test_the_half_of_a_torch_that_a_killed_pip_left_is_gone_after_the_next_installation(place):
    (place.packages / "torch").mkdir()
    (place.packages / "torch" / "half.py").write_text("", encoding="utf-8")
    (place.packages / "~orch").mkdir()
    place.offer(*CU126)

    place.install(CU126)

    assert place.torches == WHOLE_CU126
    assert not (place.packages / "torch" / "half.py").exists()


def test_an_exchange_of_builds_takes_the_old_ones_libraries_along(place):
    place.offer(*CU126, requires=("nvidia-pretended-cu12",))
    make_wheel(place.index.folder / "cu126", "nvidia_pretended_cu12", "1.0", {"nvidia/pretended.py": ""})
    place.offer(*CU130)
    place.install(CU126)
    assert libraries(place.packages) == {"nvidia-pretended-cu12"}

    place.install(CU130)

    assert place.torches == WHOLE_CU130 and libraries(place.packages) == set()


def test_with_the_index_out_of_reach_the_torch_that_was_there_stays_and_a_sentence_says_so(place):
    place.offer(*CU126)
    place.install(CU126)
    place.index.address = "http://127.0.0.1:9"

    with pytest.raises(TorchBuildError, match=r"torch 2\.13\.0\+cu126, which was there, still is") as caught:
        place.install(CU130)

    assert place.torches == WHOLE_CU126
    assert verify(place.python).kernel == "cuda"
    assert "setup.log" in caught.value.fix


def test_a_build_that_sees_no_gpu_at_all_stays_and_the_doctor_is_named(place):
    place.offer(*CU126, sees_gpu=False)

    assert place.install(CU126, CU130).tag == "cu126"

    assert place.torches == WHOLE_CU126
    assert "sees no GPU" in place.said[-1] and "doctor" in place.said[-1]


def test_a_cpu_build_is_proved_on_the_cpu(place):
    place.offer(*CPU)

    assert place.install(CPU).tag == "cpu"
    assert verify(place.python).kernel == "cpu"
    assert cuda_of(place.packages, "2.13.0+cpu") is None


def test_what_an_interrupted_pip_left_is_removed_and_nothing_else(tmp_path):
    leftovers = ["~orch", "~orch-2.8.0+cu126.dist-info", "~-rch", "~unctorch", "torch", "torchgen"]
    others = ["torchmetrics", "torch_geometric-2.0.dist-info", "~umpy", "numpy"]
    for name in [*leftovers, *others]:
        (tmp_path / name).mkdir()

    remove_remains(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_whole_torch_is_no_remainder(tmp_path):
    for name in ("torch", "torch-2.13.0+cpu.dist-info", "~orch"):
        (tmp_path / name).mkdir()

    remove_remains(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["torch", "torch-2.13.0+cpu.dist-info"]
    assert installed_version(tmp_path) == "2.13.0+cpu"


def test_a_file_that_another_program_holds_is_named(tmp_path, monkeypatch):
    (tmp_path / "~orch").mkdir()

    def held(path):
        raise PermissionError(13, "Access is denied", str(path))

    monkeypatch.setattr("helpers.torch_build.probe.shutil.rmtree", held)

    with pytest.raises(SetupError, match="~orch") as caught:
        remove_remains(tmp_path)
    assert "Close JupyterLab" in caught.value.fix


def test_the_notebook_installs_only_if_it_is_wanted_and_passes_a_refusal_on(tmp_path):
    refused = Choice((), (), TorchBuildError("No build fits.", fix="Update the driver."))

    install_if(False, refused, tmp_path / "pip.log")
    with pytest.raises(TorchBuildError, match="No build fits"):
        install_if(True, refused, tmp_path / "pip.log")


def test_notebook_and_setup_share_one_installation(place, monkeypatch, capsys):
    place.offer(*CPU)
    log, builds = place.folder / "setup.log", [place.build(*CPU)]
    monkeypatch.setattr(runbook, "VENV", place.packages.parents[2])
    monkeypatch.setattr(runbook, "LOG", log)
    monkeypatch.setattr(torch_build, "fitting", lambda **machine: builds)

    runbook.install_torch(place.python, "3.11.7", "auto")

    assert "Trying torch==2.13.0+cpu" in capsys.readouterr().out
    assert (place.packages.parents[2] / CONSTRAINT_NAME).read_text(encoding="utf-8") == "torch==2.13.0+cpu\n"


def test_a_cpu_build_whose_index_is_out_of_reach_comes_from_pips_own():
    cpu, cuda = TorchBuild("2.13.0", "cpu", ""), TorchBuild("2.13.0", "cu126", "")

    assert with_fallback([cpu, cuda], lambda url: False) == [TorchBuild("2.13.0", "cpu", "", False, ""), cuda]
    assert with_fallback([cpu, cuda], lambda url: True) == [cpu, cuda]
    assert with_fallback([cpu], lambda url: False)[0].pip_args() == ["torch==2.13.0"]


def test_pips_numbers_become_a_line_now_and_then():
    progress = Progress(every=5)
    lines = [progress(f"Progress {done * 1_000_000} of 100000000", float(done)) for done in range(1, 12)]

    assert [line for line in lines if line] == [
        "    6% of 100 MB, 1.0 MB/s, 94 s left",
        "    11% of 100 MB, 1.0 MB/s, 89 s left",
    ]
    assert progress("Installing collected packages: torch", 12.0) == "Installing collected packages: torch"
