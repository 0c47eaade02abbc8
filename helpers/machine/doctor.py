"""`python runbook.py doctor`: everything that can stand between a machine and a played world, judged.

Reads facts (`facts`, `doctor_facts`), lets `judge` and `doctor_checks` judge them, and reports, redacted.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from helpers.commands import child_environment
from helpers.errors import ParameterError
from helpers.machine import doctor_checks, judge
from helpers.machine.doctor_facts import find_checkpoints, find_environment, slow_facts
from helpers.machine.facts import locale_encoding, read_machine
from helpers.machine.redact import Private, redact
from helpers.report import Check, Status, Subject, Verdict
from helpers.run_folder import ROOT, writing
from helpers.torch_build.probe import installed
from helpers.worlds import WORLDS, world

SCHEMA = 1
QUICK, PATIENT, DEEP = 2.0, 8.0, 180.0
"""Seconds that what takes time may take: in a terminal, in 00_check, and with ``--deep``."""


def diagnose(root: Path = ROOT, dataset: str = "crafter", seconds: float = QUICK) -> list[Check]:
    """Examine everything; the checks come in the order of the steps they belong to, not yet redacted.

    A fact that takes longer than ``seconds`` is skipped; ``dataset`` names the world whose files count.

    Raises:
        ParameterError: There is no such world.
    """
    chosen, machine, environment = world(dataset), read_machine(root), find_environment(root)
    facts = slow_facts(environment, machine, chosen, root, seconds)
    gpus = facts["gpu"][0] if isinstance(facts["gpu"], tuple) else []

    def about(subject: Subject, judge_it: Callable[..., Check | list[Check]]) -> list[Check]:
        return doctor_checks.judge_fact(facts.get(subject.id), machine, judge_it, subject)

    return [
        *judge.judge_machine(machine),
        *about(judge.GPU, lambda seen: judge.judge_gpus(machine, *seen)),
        *about(judge.NVML, lambda seen: judge.judge_nvml(seen[0], seen[1], gpus)),
        doctor_checks.judge_environment(environment, machine),
        doctor_checks.judge_pip(environment, machine),
        *doctor_checks.judge_torch(facts, environment, machine),
        *about(doctor_checks.PIP_CHECK, lambda done: doctor_checks.judge_pip_check(done, machine)),
        *about(doctor_checks.INDEX, lambda answer: doctor_checks.judge_index(answer, environment, machine)),
        *about(doctor_checks.TORCH_INDEX, lambda answer: doctor_checks.judge_torch_index(answer, machine)),
        *about(doctor_checks.HUB, lambda answer: doctor_checks.judge_hub(answer, chosen, machine)),
        doctor_checks.judge_dataset(chosen, root, machine),
        *doctor_checks.judge_checkpoints(find_checkpoints(chosen, root), chosen, machine),
        *about(doctor_checks.CHECKSUMS, lambda rows: doctor_checks.judge_checksums(rows, chosen, machine)),
        *about(doctor_checks.ENCODER, lambda done: doctor_checks.judge_encoder(done, machine)),
        doctor_checks.judge_outputs(machine),
    ]


def check_everything(root: Path = ROOT, dataset: str = "crafter") -> list[Check]:
    """The checks for 00_check: a fault that a later notebook fixes is a warning there, not a stop."""
    here = {"python", "store_python", "conda", "processor", "files", "vc_runtime", "memory", "disk_project"}
    here |= {"disk_outputs", "disk_temporary", "outputs"}
    private = Private.here()
    checks = [redacted(check, private) for check in diagnose(root, dataset, PATIENT)]
    later = {check for check in checks if check.status == "fail" and check.id not in here}
    return [replace(check, status="warn") if check in later else check for check in checks]


def redacted(check: Check, private: Private) -> Check:
    """A check that does not say who the user is."""
    texts = (redact(text, private) for text in (check.observed, check.fix, check.expected, check.why))
    return Check(check.id, check.status, *texts)


def folded(verdict: Verdict) -> str:
    """The verdict in full, but for what is ok: of that only how many checks there are of each group.

    What was skipped and waits for the same remedy is one check.
    """
    group, good = "computer", Counter[str]()
    rest: list[Check] = []
    skipped: dict[str, list[str]] = {}  # by their remedy, the ids of further checks that wait for it
    for check in verdict.checks:
        group = _GROUPS.get(check.id, group)
        if check.status == "ok":
            good[group] += 1
        elif check.status == "skip" and check.fix in skipped:
            skipped[check.fix].append(check.id)
        else:
            rest.append(check)
            if check.status == "skip":
                skipped[check.fix] = []
    for number, check in enumerate(rest):
        if check.status == "skip" and (others := ", ".join(skipped[check.fix])):
            rest[number] = replace(check, observed=f"{check.observed}; so were skipped: {others}")
    title, *lines = str(Verdict(verdict.step, tuple(rest))).splitlines()
    if good:
        counts = ", ".join(f"{group} {count}" for group, count in good.items())
        lines.insert(0, f"ok    {counts}   (--all shows them)")
    return "\n".join([title, *lines])


_GROUPS = {
    "variables_python": "variables",
    "gpu": "GPU",
    "environment": "packages",
    "index": "network",
    "dataset_h5": "world",
}
"""The first check of each group that follows the computer's, and what the group is called."""


def as_dict(verdict: Verdict, seconds: float) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "schema": SCHEMA,
        "status": verdict.status,
        "seconds": round(seconds, 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "checks": verdict.to_dict()["checks"],
    }


def bundle(report: Mapping[str, Any], text: str, root: Path, private: Private) -> Path:
    """Pack what somebody who helps needs into one zip under ``outputs``, redacted, and return its path.

    ``report`` is what :func:`as_dict` gives, ``text`` the same for people.

    Raises:
        OutputError: The zip cannot be written.
    """
    outputs = root / "outputs"
    packages = installed(find_environment(root).packages)
    parts = {
        "doctor.json": json.dumps(report, indent=2, ensure_ascii=False),
        "doctor.txt": text,
        "versions.txt": f"Python {sys.version}\n{platform.platform()}\n"
        f"executable {sys.executable}\nprefix {sys.prefix}",
        "packages.txt": "\n".join(f"{name}=={version}" for name, version in sorted(packages.items())),
    }
    files = [outputs / "setup.log", root / ".venv" / "torch-constraint.txt"]
    # A run of a few notebooks leaves no run.json: then the newest there is.
    files += sorted(outputs.glob("*/run.json"), key=_age)[-1:]
    for run in sorted({path.parent for path in outputs.glob("*/*.json")}, key=_age)[-1:]:
        files += [run / "run.log", run / "pip.log", *sorted(run.glob("*.json"))]
    for path in files:
        if path.is_file():
            # The end of a log tells what went wrong.
            parts[path.name] = path.read_text(encoding="utf-8", errors="replace")[-2_000_000:]
    target = outputs / f"support_{time.strftime('%Y%m%d_%H%M%S')}.zip"
    with writing(target, "Free some disk, or make the folder writable, and run it again."):
        outputs.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in parts.items():
                packed.writestr(name, redact(content, private))
    return target


def own_commands(checks: Sequence[Check]) -> list[str]:
    """What the checks say to run, each once, in their order: commands of this project that repair something.

    Only a remedy that is one such command and nothing else counts; what a person must do first, another
    program's command and the doctor's own are left to the reader.
    """
    found = (_OWN_COMMAND.fullmatch(check.fix) for check in checks if check.status != "ok")
    return list(dict.fromkeys(command[1] for command in found if command))


# As `Machine.run` writes it: whatever else a remedy says in words does not have the form of options.
_OWN_COMMAND = re.compile(
    r"Run: ((?:python3?|py -3\.\d+) runbook\.py (?:setup|run)(?: --?[a-z][a-z-]* [A-Za-z0-9][\w.@=-]*)*)",
    re.ASCII,
)


def repair(commands: Sequence[str], root: Path, ask_first: bool = True) -> int:
    """Run commands of `own_commands` one after the other, with this Python; how many were run.

    With ``ask_first`` each waits for a yes. After one that fails no other is run: it may need the first.
    """
    done = 0
    for command in commands:
        print(f"\nFix: {command}", flush=True)
        if ask_first and not _agreed():
            continue
        arguments = command.partition(" runbook.py ")[2].split()
        program = [sys.executable, str(root / "runbook.py"), *arguments]
        status = subprocess.run(program, cwd=root, env=child_environment(), check=False).returncode
        done += 1
        if status:
            print(f"It ended with status {status}, so nothing more is run.", flush=True)
            break
    return done


def _agreed() -> bool:
    try:
        return input("Run it now? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to answer
        print("no answer; --yes does not ask")
        return False


def _age(path: Path) -> float:
    return path.stat().st_mtime


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Examine, report, and repair or pack if asked; the exit status is 1 if a check failed at the end.

    Raises:
        ParameterError: There is no such world, or the options do not go together.
        OutputError: The zip cannot be written.
    """
    parser = argparse.ArgumentParser(prog="runbook.py doctor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--all", action="store_true", help="show every check that is ok, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--deep", action="store_true", help="wait for what takes longer than two seconds")
    parser.add_argument("--bundle", action="store_true", help="pack a zip to send to somebody who helps")
    parser.add_argument("--dataset", default="crafter", help=f"whose files to look at: {', '.join(WORLDS)}")
    parser.add_argument("--fix", action="store_true", help="run the runbook.py commands it shows; asks first")
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    arguments = parser.parse_args(argv)
    if arguments.fix and arguments.json:
        raise ParameterError("--fix asks and shows what it runs, which is no JSON.", fix="Leave out --json.")
    if arguments.yes and not arguments.fix:
        raise ParameterError("--yes answers what --fix asks.", fix="Add --fix.")
    verdict = _examine(arguments, root)
    if arguments.fix and repair(own_commands(verdict.checks), root, ask_first=not arguments.yes):
        print("\nAgain:")
        verdict = _examine(arguments, root)
    return 1 if verdict.status == "fail" else 0


def _examine(arguments: argparse.Namespace, root: Path) -> Verdict:
    started, private = time.monotonic(), Private.here()
    checks = diagnose(root, arguments.dataset, DEEP if arguments.deep else QUICK)
    verdict = Verdict("doctor", tuple(redacted(check, private) for check in checks))
    report = as_dict(verdict, time.monotonic() - started)
    counts = Counter(check.status for check in checks)
    summary = ", ".join(f"{counts[status]} {status}" for status in get_args(Status) if counts[status])
    end = f"{summary} ({report['seconds']:.1f} s)"
    text = f"{verdict if arguments.all else folded(verdict)}\n{end}"
    # JSON has escapes for letters that another code page, with which it may be read, would garble.
    every_letter = locale_encoding().lower().replace("-", "") == "utf8"
    print(json.dumps(report, indent=2, ensure_ascii=not every_letter) if arguments.json else text)
    if arguments.bundle:
        path = bundle(report, f"{verdict}\n{end}", root, private)
        print(f"Packed for support: {path}", file=sys.stderr if arguments.json else sys.stdout)
    return verdict
