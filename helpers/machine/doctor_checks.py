"""The doctor's judgements of slow facts: environment, torch, packages, network and a world's files.

Facts go in (`doctor_facts`), checks come out; only the first bytes of a world's files are read here.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.assets.find import dataset_path, embedded_path
from helpers.commands import set_line
from helpers.errors import ParameterError, TorchBuildError
from helpers.files import impostor
from helpers.machine.doctor_facts import Answer, Environment
from helpers.machine.facts import Machine
from helpers.machine.judge import NEW_PYTHON
from helpers.report import Check, Subject
from helpers.torch_build import judge as torch_judge
from helpers.torch_build.builds import Choice, weigh
from helpers.torch_build.probe import TorchReport, cuda_of, installed_version
from helpers.worlds import KINDS, World

ENVIRONMENT = Subject("environment", "a complete .venv of runbook.py", "it keeps other Pythons' packages out")
PIP = Subject("pip", "pip 25.2 or newer", "older: broken downloads restart; under 25.0.1, UTF-8 is misread")
PIP_CHECK = Subject("pip_check", "no package lacks what it needs", "broken packages fail later, less clearly")
INDEX = Subject("index", "the package index answers", "setup fetches packages from it")
TORCH_INDEX = Subject("torch_index", "PyTorch's index answers", "only it has the builds of torch for a GPU")
HUB = Subject("hub", "the hub or its mirror answers", "worlds other than the embedded one come from it")
CHECKPOINTS = Subject("checkpoints", "one checkpoint of each kind", f"{', '.join(KINDS)} make the world")
CHECKPOINT_FORM = Subject(
    "checkpoint_form",
    "a .pth file, or a folder with model_state_dict.pt and state.pt: both load",
    "the published loader expects folders and the hub has files: NotADirectoryError means this",
)
CHECKSUMS = Subject("checksums", "files as they were when fetched", "damaged files play nonsense or nothing")
ENCODER = Subject("encoder", "H.264 is written and read back", "else 05_infer saves no MP4, but GIF and PNG")
OUTPUTS = Subject("outputs", "outputs can be written to", "every run leaves its pictures and records there")


def judge_fact(
    fact: Any, machine: Machine, judge: Callable[[Any], Check | list[Check]], *subjects: Subject
) -> list[Check]:
    """The checks of a fact; if it is an error, or None as nothing is set up, every subject is skipped."""
    setup = machine.run("setup")
    if fact is None:
        text, fix = "nothing is set up yet that could be looked at", setup
    elif isinstance(fact, (TimeoutError, subprocess.TimeoutExpired)):
        text, fix = "no answer in time", machine.run("doctor", "--deep")
    elif isinstance(fact, Exception):
        text = f"could not be looked at ({type(fact).__name__}: {fact})"
        fix = f"{setup}    if that does not help: {machine.runbook('doctor', '--bundle')}    and report this"
    else:
        checks = judge(fact)
        return [checks] if isinstance(checks, Check) else checks
    return [subject.skip(text, fix) for subject in subjects]


def judge_environment(environment: Environment, machine: Machine) -> Check:
    """The project's environment: is it there, whole, and is its Python still there?"""
    setup = machine.run("setup")
    if not environment.own:
        return ENVIRONMENT.ok("another environment, the one that this Python is of")
    if environment.python is None and not environment.home:
        return ENVIRONMENT.skip("there is no .venv yet", setup)
    if environment.python is None or not environment.home_exists:
        remove = {"powershell": "Remove-Item -Recurse -Force .venv;", "cmd": "rmdir /s /q .venv &"}
        line = f"{remove.get(machine.terminal, 'rm -r .venv;')} {machine.runbook('setup')}"
        text = f"the Python it was made from is gone: {environment.home or 'unknown'}"
        return ENVIRONMENT.fail(text, f"Run: {line}")
    if re.search("conda|windowsapps", environment.home.lower()):
        return ENVIRONMENT.warn(f"made from {environment.home}", f"{NEW_PYTHON} Then delete .venv. {setup}")
    if not environment.complete:
        return ENVIRONMENT.warn(f"Python {environment.version}, not set up to the end", setup)
    return ENVIRONMENT.ok(f"Python {environment.version}, complete")


def judge_pip(environment: Environment, machine: Machine) -> Check:
    """How old the environment's pip is."""
    version = installed_version(environment.packages, "pip")
    if version is None:
        return PIP.skip("no environment yet; setup upgrades its pip first", machine.run("setup"))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (25, 2):
        return PIP.warn(f"pip {version}", f"Run: {machine.venv_python} -m pip install --upgrade pip")
    return PIP.ok(f"pip {version}")


def judge_torch(facts: Mapping[str, Any], environment: Environment, machine: Machine) -> list[Check]:
    """The right build for the GPUs, the installed one against it, and a kernel."""
    fix = machine.run("setup")
    version = installed_version(environment.packages)
    gpus, report = facts.get("gpu"), facts.get("torch_kernel")
    if not isinstance(gpus, tuple):
        subjects = (torch_judge.CHOICE, torch_judge.BUILD, torch_judge.GPU_USE, torch_judge.KERNEL)
        return judge_fact(gpus, machine, lambda fact: [], *subjects)
    try:
        choice = weigh("auto", gpus[0], environment.version if environment.own else None)
    except ParameterError as error:
        choice = Choice(tuple(gpus[0]), (), TorchBuildError(error.what, fix=error.fix))

    def judge_report(report: TorchReport) -> list[Check]:
        seen = [torch_judge.judge_gpu_use(choice, report, fix)] if report.version else []
        return [*seen, torch_judge.judge_kernel(report, fix)]

    if isinstance(report, TorchReport) and report.timed_out:
        report = TimeoutError()
    return [
        torch_judge.judge_choice(choice),
        torch_judge.judge_build(choice, version, cuda_of(environment.packages, version or ""), fix),
        *judge_fact(report, machine, judge_report, torch_judge.GPU_USE, torch_judge.KERNEL),
    ]


def judge_pip_check(done: "subprocess.CompletedProcess[str]", machine: Machine) -> Check:
    """What ``pip check`` said."""
    if done.returncode == 0:
        return PIP_CHECK.ok("no broken requirements")
    text = "; ".join((done.stdout or done.stderr).strip().splitlines()[:3])
    return PIP_CHECK.warn(text, machine.run("setup"))


def judge_index(answer: Answer, environment: Environment, machine: Machine) -> Check:
    """Whether the package index answers; what is set up needs it no more."""
    mirror = set_line("PIP_INDEX_URL", "https://pypi.tuna.tsinghua.edu.cn/simple", machine.terminal)
    check = _judge_answer(INDEX, answer, machine, f"or take a mirror: {mirror}")
    local = machine.environ.get("PIP_FIND_LINKS") or environment.complete
    return check if check.status == "ok" or local else INDEX.fail(check.observed, check.fix)


def judge_torch_index(answer: Answer, machine: Machine) -> Check:
    """Whether PyTorch's own index answers."""
    cpu = machine.runbook("setup", "--torch-lock", "cpu")
    otherwise = f"or take the CPU build, which pip's own index has: {cpu}"
    return _judge_answer(TORCH_INDEX, answer, machine, otherwise)


def judge_hub(answer: Answer, world: World, machine: Machine) -> Check:
    """Whether the hub, or the mirror that HF_ENDPOINT names, answers."""
    mirror = set_line("HF_ENDPOINT", "https://hf-mirror.com", machine.terminal)
    needed = "The embedded world needs none; for others: " if world.embedded else f"For {world.title}: "
    return _judge_answer(HUB, answer, machine, f"or take a mirror: {mirror}", needed)


def _judge_answer(subject: Subject, answer: Answer, machine: Machine, other: str, needed: str = "") -> Check:
    """Whether an address answers as it should; ``needed`` and ``other`` begin and end what to do."""
    if answer.status is None:
        text = f"{answer.url} does not answer ({answer.problem})"
    elif answer.status in (401, 403, 407, 451, 511) or answer.status >= 500:
        text = f"{answer.url} answers with status {answer.status}"
    elif answer.landed and _organisation(answer.landed) != _organisation(answer.url):
        text = f"{answer.url} leads to {urlsplit(answer.landed).hostname}: a sign-in page of this network?"
    else:
        return subject.ok(f"{answer.url} answers")
    proxy = set_line("HTTPS_PROXY", "http://HOST:PORT", machine.terminal)
    fix = f"Sign in to the network, or name its proxy: {proxy}; {other}"
    if "CERTIFICATE" in answer.problem.upper():
        certificate = set_line("PIP_CERT", "FILE", machine.terminal)
        fix = f"Your network re-signs connections: ask for its certificate and run: {certificate}"
    return subject.warn(text, needed + fix)


def _organisation(address: str) -> list[str]:
    """The last two parts of a host's name are an organisation's, whatever stands before them."""
    return (urlsplit(address).hostname or "").split(".")[-2:]


def judge_dataset(world: World, root: Path, machine: Machine) -> Check:
    """Whether a world's h5 is there, by its name and first bytes; ``checksums`` reads it."""
    path = embedded_path(world, "dataset", root) if world.embedded else dataset_path(world, root)
    dataset = Subject("dataset_h5", f"{path.name} in {path.parent.name}", "rollouts begin with its frames")
    if not path.is_file():
        problem = f"{path.name} is not in {path.parent}"
    elif not (problem := _form_problem(path, b"\x89HDF\r\n\x1a\n", "no HDF5 file")):
        return dataset.ok(f"{path.name}, {path.stat().st_size / 1e6:,.1f} MB")
    fix = _how_to_get(world, machine)
    return dataset.fail(problem, fix) if path.exists() or world.embedded else dataset.warn(problem, fix)


def judge_checkpoints(paths: Mapping[str, Path], world: World, machine: Machine) -> list[Check]:
    """Whether a world's three checkpoints are there (``paths``, by kind) and, by their first bytes, load."""
    fix = _how_to_get(world, machine)
    there = CHECKPOINTS.ok("all three are there")
    if absent := ", ".join(kind for kind in KINDS if kind not in paths):
        text = f"not found: {absent} of {world.title}"
        there = CHECKPOINTS.fail(text, fix) if world.embedded else CHECKPOINTS.warn(text, fix)
    if not paths:
        return [there, CHECKPOINT_FORM.skip("no checkpoint to look at", fix)]
    problems = [problem for path in paths.values() if (problem := _checkpoint_problem(path))]
    if problems:
        again = f"Delete it. {fix}" if world.embedded else fix.replace("Run:", "Delete it and run:")
        return [there, CHECKPOINT_FORM.fail("; ".join(problems), again)]
    forms = (f"{kind}: {'folder' if path.is_dir() else 'file'}" for kind, path in paths.items())
    return [there, CHECKPOINT_FORM.ok("; ".join(forms))]


def _how_to_get(world: World, machine: Machine) -> str:
    if world.embedded:
        return "Run: git checkout -- helpers/demo"
    if world.trained:
        return "Run its `runbook.py train` command again: it goes on from where it was."
    return machine.run("run", "--only", "04_assets", "--dataset", world.name)


def _checkpoint_problem(path: Path) -> str:
    if path.is_dir():
        lacking = [name for name in ("model_state_dict.pt", "state.pt") if not (path / name).is_file()]
        return f"{path.name} is a folder without {' and '.join(lacking)}" if lacking else ""
    # Zip is torch's form since 1.6, 0x80 begins a bare pickle.
    return _form_problem(path, (b"PK", b"\x80"), "no checkpoint")


def _form_problem(path: Path, starts: bytes | tuple[bytes, ...], otherwise: str) -> str:
    """What a file is that begins with none of the bytes in ``starts``; empty for one that does."""
    if kind := impostor(path):
        return f"{path.name} is {kind}"
    with path.open("rb") as file:
        return "" if file.read(8).startswith(starts) else f"{path.name} is {otherwise}"


def judge_checksums(rows: Sequence[Sequence[str]], world: World, machine: Machine) -> Check:
    """What `helpers.assets` says of a world's files: id, status and text of each of its checks."""
    bad = [f"{id}: {text}" for id, status, text in rows if status != "ok"]
    if not bad:
        return CHECKSUMS.ok("; ".join(text for _, _, text in rows))
    result = CHECKSUMS.skip if rows[0][0] == "suite" else CHECKSUMS.fail  # no suite, no checksums
    return result("; ".join(bad), machine.run("run", "--only", "04_assets", "--dataset", world.name))


def judge_encoder(done: "subprocess.CompletedProcess[str]", machine: Machine) -> Check:
    """Whether a video that browsers play could be written."""
    codec, _, note = (done.stdout.strip().splitlines() or [""])[-1].partition(" ")
    if codec == "h264":
        return ENCODER.ok("an MP4 was written and its frames were counted")
    text = note or (done.stderr.strip().splitlines() or ["no output"])[-1]
    fix = f"to fix it run: {machine.venv_python} -m pip install --force-reinstall --no-deps av"
    return ENCODER.warn(text, f"Look at frames/*.png or rollout.gif in the run's folder; {fix}")


def judge_outputs(machine: Machine) -> Check:
    """Whether runs can leave their results."""
    place = next((place for place in machine.places if place.name == "outputs"), None)
    fix = f"Run: {machine.runbook('run', '-p', 'run_dir=FOLDER')}    with a folder that you may write to"
    if place is None:
        return OUTPUTS.skip("not looked at", fix)
    if place.problem:
        return OUTPUTS.fail(f"{place.path}: {place.problem}", fix)
    return OUTPUTS.ok(f"{place.path} can be written to")
