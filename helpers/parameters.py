"""Parameters of notebooks: declared in the notebook, read from the command line or YAML, checked.

The first cell tagged ``parameters`` declares them, one a line: ``name: type = value  # meaning``. A line that
is a comment alone is the heading of those below it.
Standard library only, but for `read_yaml`.
"""

import argparse
import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from helpers.errors import TO_DO, ParameterError, choices, shown
from helpers.files import is_share
from helpers.run_folder import ROOT
from helpers.worlds import world

FOLDER = ROOT / "notebooks"
"""Where the notebooks lie."""

# The types that are checked, each with a value as it is written after -p name=.
_EXAMPLES = {"int": "10", "float": "0.5", "bool": "true", "list": "[0,1,2]", "str": "text", "None": "none"}

# What a YAML file may hold: far more than a sweep of a week, far less than what takes a second to read.
_MOST_BYTES, _MOST_VALUES, _LONGEST_TEXT, _DEEPEST = 500_000, 20_000, 5_000, 20


def find_notebook(text: str, folder: Path = FOLDER) -> str:
    """The one notebook with this name, or whose name begins so: ``05`` is ``05_infer``."""
    wanted = Path(text).name.removesuffix(".ipynb")
    names = sorted(path.stem for path in folder.glob("*.ipynb"))
    matches = [wanted] if wanted in names else [name for name in names if name.startswith(wanted)]
    if len(matches) != 1:
        raise ParameterError(f"There is no notebook {shown(text)} in {folder}.", fix=choices(wanted, names))
    return matches[0]


class Parameter(NamedTuple):
    """One line of a parameters cell, in the words that are written there."""

    name: str
    type: str
    default: str
    meaning: str


def groups(notebook: Path) -> dict[str, list[Parameter]]:
    """The parameters that a notebook declares, in its order, by the heading above them; ``""`` without one.

    A `ParameterError` where it is no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(
            f"{notebook} cannot be read as a notebook ({error}).", fix="Restore the file."
        ) from error
    tagged = (cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    source = "".join(next(tagged, ""))
    lines, declared = source.split("\n"), dict[str, list[Parameter]]()
    for line in ast.parse(source).body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            default = ast.get_source_segment(source, line.value) if line.value else ""
            # Columns count bytes of UTF-8.
            last, column = lines[(line.end_lineno or 0) - 1].encode(), line.end_col_offset
            meaning = last[column:].decode().lstrip(" #")
            heading = next((text for text in reversed(lines[: line.lineno - 1]) if text.startswith("#")), "")
            parameter = Parameter(line.target.id, ast.unparse(line.annotation), default or "", meaning)
            declared.setdefault(heading.lstrip("# "), []).append(parameter)
    return declared


def declarations(notebook: Path) -> list[Parameter]:
    """The parameters that a notebook declares, in its order; a `ParameterError` where it is none."""
    return [parameter for group in groups(notebook).values() for parameter in group]


def parameters_of(notebook: Path) -> dict[str, str]:
    """Type by name of the parameters that a notebook declares; a `ParameterError` where it is none."""
    return {parameter.name: parameter.type for parameter in declarations(notebook)}


def list_parameters(notebooks: Iterable[str], folder: Path = FOLDER) -> str:
    """Every parameter of some notebooks with its meaning, type and default, as help for a terminal."""
    # argparse lays the list out; nothing is parsed with it.
    listing = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    for notebook in notebooks:
        title, more = f"parameters of {notebook}, set with -p NAME=VALUE", f"more parameters of {notebook}"
        for heading, parameters in groups(folder / f"{notebook}.ipynb").items():
            group = listing.add_argument_group(f"{title} ({heading.lower()})" if heading else title)
            title = more
            for name, kind, default, meaning in parameters:
                words = f"{meaning} ({kind}, default: {default})".replace("%", "%%")
                group.add_argument(name, help=words)
    return listing.format_help()


def parse_value(text: str, annotation: str) -> Any:
    """The value that ``-p name=text`` means: JSON or a Python literal, and the text itself for a ``str``.

    ``annotation`` is the declared type, such as ``"int | None"``; `check_value` tells whether it fits.
    """
    value, types = _literal(text), _types(annotation)
    return text if "str" in types and not (value is None and "None" in types) else value


def check_value(name: str, value: Any, annotation: str) -> Any:
    """The value itself; raises a `ParameterError` where it is of another type or no UTF-8."""
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ParameterError(f"{name} is {shown(value)}.", fix="Use a text without halves of letters.")
    types, kind = _types(annotation), type(value).__name__
    fitting = {"int": {"int", "float"}, "NoneType": {"None"}}.get(kind, {kind})
    if types <= set(_EXAMPLES) and not types & fitting:
        raise ParameterError(
            f"{name} is {shown(value)}.",
            fix=f'Use the type {annotation}, like -p "{name}={_EXAMPLES[min(types - {"None"})]}".',
        )
    return value


def _types(annotation: str) -> set[str]:
    return {part.strip().split("[")[0] for part in annotation.split("|")}


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: it is nested too deep
            continue
    return text


def check_parameters(notebook: str, values: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Refuse parameters that a notebook does not declare so, before it runs; ``run_dir`` is the caller's.

    Raises:
        ParameterError: A name is unknown, a value of another type, or there is no such world.
    """
    declared = parameters_of(folder / f"{notebook}.ipynb")
    declared.pop("run_dir", None)
    for name, value in values.items():
        check_value(name, value, _declaration(name, declared, [notebook]))
    if "dataset" in values:
        world(values["dataset"])


def check_paths(values: Mapping[str, Any], file: Path) -> None:
    """Refuse what a file that anybody may have written names on another computer: `helpers.files.is_share`.

    What the user typed himself, as ``-p`` on the command line, is not for here.

    Raises:
        ParameterError: A parameter of ``file`` is a text that leads to a network share.
    """
    for name, value in values.items():
        if isinstance(value, str) and is_share(value):
            what = f"{name} in {file} is {shown(value)}: a network share, to which Windows would log in."
            fix = "Copy the files here, or give the share a drive letter that you trust, and name that."
            raise ParameterError(what, fix=fix)


def _declaration(name: str, declared: Mapping[str, str], notebooks: Iterable[str]) -> str:
    if name not in declared:
        what = f"{shown(name)} is no parameter of {', '.join(notebooks)} that can be set here."
        raise ParameterError(what, fix=choices(name, sorted(declared)))
    return declared[name]


class _Parser(argparse.ArgumentParser):
    """A parser that guesses what an option that it does not have was meant for."""

    def error(self, message: str) -> NoReturn:
        word = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [name for name in self._option_string_actions if name not in ("-h", "-p", "--called-from")]
        super().error(f"{message}\n{TO_DO}{choices(word[1], known)}" if word else message)


def command_parser(command: str, about: str, parameter: str = "", **options: Any) -> argparse.ArgumentParser:
    """A parser for ``runbook.py command``, with ``-p NAME=VALUE`` where it is said what a parameter is.

    It has the folder that the command was called from, which runbook.py names, for it starts it in another.
    ``options`` are further ones of the parser itself.
    """
    parser = _Parser(prog=f"runbook.py {command}", description=about, **options)
    add = parser.add_argument
    if parameter:
        add("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help=parameter)
    add("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser


def world_parser(command: str, about: str, example: str) -> argparse.ArgumentParser:
    """A `command_parser` for a command that plays, films or shares a world; read by `world_values`."""
    meaning = f"a parameter of 05_infer, such as {example}; may be repeated"
    parser = command_parser(command, about, meaning)
    worlds = f"world to {command}: crafter, coinrun, sonic, … (default: crafter)"
    parser.add_argument("--dataset", default="crafter", help=worlds)
    return parser


def world_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """World and parameters as a `world_parser` was given them; may raise as `read_overrides`."""
    return {"dataset": arguments.dataset, **read_overrides(arguments.parameter)}


def read_overrides(
    texts: Sequence[str], notebooks: Sequence[str] = ("05_infer",), folder: Path = FOLDER
) -> dict[str, Any]:
    """Values by name from ``-p name=value``, read as the notebooks declare them, not checked yet.

    Raises:
        ParameterError: A text has no ``=``, or no notebook declares its name.
    """
    declared: dict[str, str] = {}
    for notebook in notebooks:
        declared |= parameters_of(folder / f"{notebook}.ipynb")
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{shown(text)} is no parameter.", fix="Write -p name=value.")
        values[name] = parse_value(value, _declaration(name, declared, notebooks))
    return values


def read_yaml(path: Path, form: str) -> dict[str, Any]:
    """The mapping that a YAML file holds, of JSON's values; a `ParameterError` for anything else.

    ``form`` shows what the file should be like.
    """
    import yaml  # type: ignore[import-untyped]

    if not path.is_file():
        what = f"{path} is a folder, not a file." if path.is_dir() else f"There is no file {path}."
        raise ParameterError(what, fix=f"Check the path. {form}")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8")
        if len(data) > _MOST_BYTES or not _is_small(yaml.parse(text, yaml.SafeLoader)):
            raise yaml.YAMLError("it is larger or deeper than any, or holds an alias of what it is part of")
        written = json.dumps(yaml.safe_load(text), ensure_ascii=False)  # neither dates nor sets
        written.encode()  # nor halves of letters
        content = json.loads(written)
    except Exception as error:  # PyYAML raises many kinds for a value that is not what its tag says
        known = isinstance(error, (OSError, UnicodeError, yaml.YAMLError))
        why = str(error)[:500] if known else "one of its values is of another kind, or is too long a number"
        fix = (
            "Fix the file: it may hold texts, numbers, true, false, lists and mappings. Put dates in quotes."
        )
        raise ParameterError(f"{path} cannot be read as YAML ({why}).", fix=fix) from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is not a YAML mapping.", fix=form)
    return content


def _is_small(events: Iterable[Any]) -> bool:
    """Whether a YAML document is small with every alias written out; its events are read until it is not."""
    sizes, anchors = [0], [None]  # of the collections that are open
    named: dict[Any, int] = {}  # sizes by anchor
    for event in events:
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            sizes.append(1)
            anchors.append(anchor)
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            named[anchors.pop()] = size = sizes.pop()
            sizes[-1] += size
        elif kind == "ScalarEvent":
            named[anchor] = 1
            sizes[-1] += 1 if len(event.value) <= _LONGEST_TEXT else _MOST_VALUES
        elif kind == "AliasEvent":
            sizes[-1] += named.get(anchor, _MOST_VALUES)  # what is not closed yet holds itself
        if sum(sizes) >= _MOST_VALUES or len(sizes) > _DEEPEST:
            return False
    return True
