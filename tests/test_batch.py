"""Headless runs: arguments become parameters, real notebooks run, failures are sentences."""

import json
import re
import subprocess
import sys
import time

import nbformat
import papermill
import pytest

from helpers.batch import baseline, headless, regress, sweep
from helpers.batch.headless import main, parser, plan, run_notebook, run_notebooks
from helpers.errors import AssetError, DeviceError, ParameterError
from helpers.parameters import FOLDER, check_value, find_notebook, parameters_of, parse_value
from helpers.play import ahead
from helpers.play.settings import Settings
from helpers.run_folder import ROOT


def write_notebook(folder, name, *cells, parameters='run_dir: str = ""  # folder for the verdict'):
    """A notebook whose parameters cell is followed by the given code cells."""
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [tagged, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    folder.mkdir(exist_ok=True, parents=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


CONCLUDE = (
    "from pathlib import Path\nfrom helpers.report import Check, conclude\n"
    'conclude({0!r}, [Check("x", {1!r}, "seen", "mend it")], Path(run_dir))'
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Notebooks in a folder whose path papermill would take for a template."""
    # The kernels must find helpers whether or not this checkout is installed.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "note books {世界}"


def test_each_notebook_gets_the_parameters_it_knows(folder):
    write_notebook(folder, "00_a", parameters='steps: int = 1\nrun_dir: str = ""')
    write_notebook(folder, "01_b", parameters='dataset: str = "demo"\nsteps: int = 1')

    arguments = parser().parse_args(["--only", "01_b", "00", "-p", "steps=3", "--dataset", "sonic"])

    assert plan(arguments, folder) == (
        ["00_a", "01_b"],
        {"00_a": {"steps": 3}, "01_b": {"steps": 3, "dataset": "sonic"}},
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "generation_step=3"], "generation_steps"),
        (["-p", "steps"], "-p name=value"),
        (["-p", "generation_steps=many"], "generation_steps is 'many'. Use the type int"),
        (["--only", "07_x"], "There are 00_a"),
        (["--dataset", "../tetris"], "There is no dataset"),
    ],
)
def test_wrong_arguments_are_named_with_what_would_be_right(folder, arguments, says):
    write_notebook(folder, "00_a", parameters="generation_steps: int = 1")
    only = [] if "--only" in arguments else ["--only", "00_a"]

    with pytest.raises(ParameterError, match=says):
        plan(parser().parse_args([*only, *arguments]), folder)


@pytest.mark.parametrize("command", [headless, baseline, regress, sweep], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("steps=10001", "steps is 10001. Use a whole number from 1 to 10000, or 0 for the world's own."),
        ("steps=many", "steps is 'many'. Use a whole number from 1 to 10000, or 0 for the world's own."),
        ("compile=3", "compile is 3. Use true or false."),
        ("actions=3", "actions is 3. Use a list of action ids, such as [2, 2, 6]."),
        ("temperature=-2.0", "temperature is -2.0. Use a number from 0 to 1e+06, or -1.0 for"),
        ("feedback=dreams", 'feedback is \'dreams\'. Use "tokens" or "pixels", or "" for'),
        ("preset=fast", "preset is 'fast'."),
        ("actions=[2, 0.5]", "actions holds 0.5. Use a list of whole numbers, such as [2, 2, 6]."),
        ("dataset=tetris", "There is no dataset 'tetris'."),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused_alike_before_a_run_folder_is_made(
    command, parameter, says, tmp_path, capsys, monkeypatch
):
    def made(*_arguments):
        raise AssertionError("a folder was made")

    monkeypatch.setattr(command, "open_storage" if command is sweep else "open_run", made)
    arguments = ["-p", parameter]
    if command is sweep:
        name, _, value = parameter.partition("=")
        (tmp_path / "sweep.yaml").write_text(f"grid: {{{name}: [{value}]}}", encoding="utf-8")
        arguments = [str(tmp_path / "sweep.yaml")]

    assert command.main(arguments) == 2
    assert says in capsys.readouterr().err.replace("\nWhat to do: ", " ")


REFUSED = {
    "actions=[0,99]": "99 is not an action id of this suite.",
    "start=99999999": "the nearest that fits is 2031.",
    "generation_steps=5000": "is too short: no clip of 5001 frames",
    "dynamics_path=nope.pth": "There is no checkpoint at",
    "use_latest_checkpoints=true": "leave use_latest_checkpoints out",
    "replay=nope/session.json": "There is no session file",
    "dataset=sonic": "04_assets --dataset sonic",
    "device=mps": "no Metal GPU",
    "device=gpu": '"cuda:1"',
    "preset=fast": '"30fps"',
}


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """A project without datasets and checkpoints but the embedded ones, on a computer that is no Mac."""
    monkeypatch.setattr(ahead.check, "__defaults__", (tmp_path, False))
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(("parameter", "says"), REFUSED.items(), ids=REFUSED)
def test_what_play_would_refuse_is_refused_before_there_is_a_run_folder(
    parameter, says, nothing_here, monkeypatch, capsys
):
    monkeypatch.setattr(headless, "open_run", None)

    assert main(["--only", "05_infer", "-p", parameter]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("cuda", "hip"), [("None", "None"), ("'12.6'", "None"), ("None", "'6.4'")])
def test_a_gpu_is_refused_where_the_installed_torch_is_a_cpu_build(cuda, hip, monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("", encoding="utf-8")
    versions = f"__version__ = '2.13.0'\ncuda = {cuda}\nhip = {hip}\n"
    (tmp_path / "torch" / "version.py").write_text(versions, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    ahead.check_device("cpu")
    if (cuda, hip) == ("None", "None"):
        with pytest.raises(DeviceError, match=r"torch 2.13.0, a CPU build"):
            ahead.check_device("cuda:1")
    else:
        ahead.check_device("cuda:1")


def test_files_that_04_assets_may_still_fetch_are_not_missed(nothing_here):
    ahead.check(Settings(dataset="sonic", actions=(99,)), fetches=True)
    with pytest.raises(AssetError, match="no checkpoint at"):
        ahead.check(Settings(dataset="sonic", dynamics_path="nope.pth"), fetches=True)


def test_what_is_refused_beforehand_needs_no_torch():
    code = (
        "import sys; from helpers.batch.headless import main\n"
        "for text in ('actions=[99]', 'start=99999999', 'dynamics_path=nope.pth', 'replay=nope'):\n"
        "    assert main(['--only', '05', '-p', text]) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_a_path_counts_from_the_readers_folder(tmp_path):
    checkpoint = tmp_path / "mine.pth"
    checkpoint.write_bytes(b"PK")
    texts = ["--only", "05", "-p", "dynamics_path=mine.pth", "-p", "latent_actions_path=elsewhere.pth"]

    _, parameters = plan(parser().parse_args([*texts, "--called-from", str(tmp_path)]))

    assert parameters["05_infer"]["dynamics_path"] == str(checkpoint)
    assert parameters["05_infer"]["latent_actions_path"] == "elsewhere.pth", "it may be one of the project's"


@pytest.mark.parametrize("text", ["5_infer", "infer", "05_infre", "INFER"])
def test_a_notebook_that_is_misspelt_is_guessed(text):
    with pytest.raises(ParameterError, match=r"Did you mean 05_infer\?"):
        find_notebook(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "tempreature=1"], "temperature"),
        (["-p", "step=1"], "generation_steps or steps"),
        (["--dataset", "sonik"], "sonic"),
        (["--dataset", "pole position"], "pole_position"),
    ],
)
def test_a_name_that_is_misspelt_is_guessed(arguments, says):
    with pytest.raises(ParameterError, match=rf"Did you mean {says}\?"):
        plan(parser().parse_args(["--only", "05", *arguments]))


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", "int", 3),
        ("0.5", "float", 0.5),
        ("1", "float", 1),
        ("true", "bool", True),
        ("False", "bool", False),
        ("[0, 1, 2]", "list[int]", [0, 1, 2]),
        ("None", "int | None", None),
        ("null", "str | None", None),
        ("2.8", "str", "2.8"),
        ("C:\\模型 1\\x.pth", "str", "C:\\模型 1\\x.pth"),
        ("abc", "Any", "abc"),
    ],
)
def test_a_value_is_read_by_its_declared_type(text, annotation, value):
    assert check_value("x", parse_value(text, annotation), annotation) == value


@pytest.mark.parametrize(
    ("text", "annotation"), [("x", "int"), ("1.5", "int"), ("true", "int"), ("1", "bool"), ("3", "list[int]")]
)
def test_a_value_of_another_type_is_refused(text, annotation):
    with pytest.raises(ParameterError, match=re.escape(f"Use the type {annotation}, ")):
        check_value("x", parse_value(text, annotation), annotation)


NINE = "[x, x, x, x, x, x, x, x, x]"
NESTED = "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = NESTED.replace("[", "{<<: [").replace("]", "]}")
RANGES = ", ".join(f"{name}: {[*range(200)]}" for name in ("seed", "start", "steps", "fps"))
HOSTILE_YAML = {
    "aliases of aliases": f"a: &a {NINE}\n{NESTED}",
    "merges of merges": f"a: &a {{x: 1}}\n{MERGED}",
    "a grid of 8 billion": f"grid: {{{RANGES}, temperature: [0, 1, 2, 3, 4]}}",
    "a list in itself": "grid: &a {seed: [*a]}",
    "a date": "grid: {seed: [2020-01-01]}",
    "no date": "name: 2020-99-99",
    "a set": "grid: {seed: !!set {1, 2}}",
    "bytes": "name: !!binary aGk=",
    "a tag without its value": "name: !!float ''",
    "depth": "[" * 100_000,
    "depth by dashes": "- " * 5000,
    "dashes": "-" * 5000,
    "5,000 digits": f"grid: {{seed: [{'9' * 5000}]}}",
    "many hexadecimal digits": f"grid: {{seed: [0x{'f' * 4900}]}}",
    "half a letter": 'grid: {dynamics_path: ["\\ud800"]}',
    "a key that is a list": "? [a, b]\n: 1",
    "a key that is a date": "2020-01-01: 1",
    "200,000 values": f"list: [{'1,' * 200_000}]",
    "a long text": f"name: {'x' * 400_000}",
    "a large file": f"name: x # {'x' * 10**7}",
    "code": "name: !!python/object/apply:os.system ['exit']",
}


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_whatever_a_yaml_file_holds_it_is_refused_within_a_second_in_a_sentence(text, tmp_path):
    path = tmp_path / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    cases = tmp_path / "cases.yaml"
    cases.write_text(text.replace("grid: ", "cases: ", 1), encoding="utf-8")
    for read in (lambda: sweep.read_sweep(path), lambda: baseline.read_plans(cases, "demo", {})):
        began = time.process_time()
        with pytest.raises(ParameterError) as refused:
            read()

        assert time.process_time() - began < 1
        assert len(str(refused.value)) < 900 and refused.value.fix


def test_aliases_and_merges_of_a_usual_size_are_read(tmp_path):
    text = "parameters: &p {steps: 2}\nlist: [{<<: *p, seed: 1}, {<<: *p, seed: 2}]\nname: 2"
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")

    read = sweep.read_sweep(tmp_path / "sweep.yaml")

    assert read.name == "2" and [job.parameters for job in read.jobs] == [
        {"steps": 2, "seed": n} for n in (1, 2)
    ]


@pytest.mark.parametrize(
    "value",
    [
        "-" * 5000,
        "-" * 100_000 + "1",
        "[" * 100_000,
        "9" * 5000,
        f"[{'9' * 5000}]",
        "{1:" * 5000,
        "1" + "+1" * 50_000,
    ],
    ids=lambda value: f"{value[:3]} of {len(value)}",
)
@pytest.mark.parametrize("name", ["seed", "actions", "temperature", "amp"])
def test_whatever_follows_p_is_refused_within_a_second_in_a_sentence(name, value, capsys):
    began = time.process_time()

    assert main(["--only", "05_infer", "-p", f"{name}={value}"]) == 2

    assert time.process_time() - began < 1
    assert len(capsys.readouterr().err) < 400


@pytest.mark.parametrize(
    "parameter", ["dynamics_path=\udcff", "x" * 10**5, "x" * 10**5 + "=1"], ids=lambda text: text[:9]
)
def test_a_text_that_is_no_parameter_is_told_in_a_short_sentence(parameter, capsys):
    assert main(["--only", "05_infer", "-p", parameter]) == 2
    assert len(capsys.readouterr().err) < 900


def test_a_session_whose_name_no_file_can_have_is_left_to_the_notebook():
    _, parameters = plan(parser().parse_args(["--only", "05_infer", "-p", f"replay={'x' * 5000}"]))

    assert parameters["05_infer"]["replay"] == "x" * 5000


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "00_a.ipynb").write_text("<html>", encoding="utf-8")

    with pytest.raises(ParameterError, match=r"00_a\.ipynb"):
        parameters_of(tmp_path / "00_a.ipynb")


def test_papermill_reads_the_same_parameters_from_the_real_notebooks():
    for notebook in FOLDER.glob("*.ipynb"):
        inspected = papermill.inspect_notebook(str(notebook))

        assert {name: found["inferred_type_name"] for name, found in inspected.items()} == parameters_of(
            notebook
        )
        assert all(found["help"] for found in inspected.values()), (
            f"{notebook.name}: a parameter says no meaning"
        )


def test_notebooks_run_in_order_into_one_folder_and_stop_at_the_first_failure(folder, tmp_path, capsys):
    write_notebook(folder, "00_a", CONCLUDE.format("00_a", "ok"))
    write_notebook(
        folder, "01_b", "assert steps == 7", CONCLUDE.format("01_b", "fail"), parameters=WITH_STEPS
    )
    write_notebook(folder, "02_c", CONCLUDE.format("02_c", "ok"))
    run = tmp_path / "a run {x}"

    outcomes = run_notebooks(["00_a", "01_b", "02_c"], run, {"01_b": {"steps": 7}}, folder)

    assert [(outcome.name, outcome.status) for outcome in outcomes] == [("00_a", "ok"), ("01_b", "fail")]
    assert outcomes[1].message == "01_b failed: x: seen mend it"
    assert sorted(path.name for path in (run / "notebooks").iterdir()) == ["00_a.ipynb", "01_b.ipynb"]
    assert json.loads((run / "01_b.json").read_text(encoding="utf-8"))["status"] == "fail"
    assert "00_a.ipynb" in (run / "run.log").read_text(encoding="utf-8")
    assert "01_b" in capsys.readouterr().out


WITH_STEPS = 'steps: int = 1  # steps\nrun_dir: str = ""  # folder for the verdict'


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero\nThe traceback is in "),
        ("2 + 2", "ended without writing "),
        ("import os; os._exit(3)", "DeadKernelError"),
    ],
)
def test_a_notebook_that_breaks_is_reported_in_words(folder, tmp_path, cell, says):
    write_notebook(folder, "00_a", cell)

    (outcome,) = run_notebooks(["00_a"], tmp_path / "run", {}, folder)

    assert outcome.status == "fail" and says in outcome.message


INJECTED = "steps = 0\nopen(r'{}', 'w')\nsteps"


def test_no_name_that_the_notebook_does_not_declare_reaches_it(folder, tmp_path):
    write_notebook(folder, "00_a", CONCLUDE.format("00_a", "ok"), parameters=WITH_STEPS)
    for name in (INJECTED.format(tmp_path / "seen"), "Path", "run_dir"):
        outcome = run_notebook("00_a", tmp_path / "run", {"steps": 3, name: 4}, folder)

        assert outcome.status == "fail" and "is no parameter of 00_a that can be set here" in outcome.message
    assert not (tmp_path / "seen").exists() and not (tmp_path / "run").exists()


def test_only_one_place_hands_parameters_to_papermill():
    calling = [
        path.name
        for path in (ROOT / "helpers").rglob("*.py")
        if "execute_notebook(" in path.read_text("utf-8")
    ]

    assert calling == ["headless.py"]


def test_a_run_folder_can_be_chosen(tmp_path, capsys):
    assert main(["--only", "00_check", "-p", f"run_dir={tmp_path / 'my run'}"]) == 0
    assert (tmp_path / "my run" / "00_check.json").is_file()
    assert str(tmp_path / "my run") in capsys.readouterr().out
