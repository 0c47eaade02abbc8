"""A notebook's parameters: where they are declared, how a value is read and checked. Standard library only.

The first cell tagged ``parameters`` of a notebook declares them, one line each: ``name: type = value``.
"""

import argparse
import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import ParameterError
from helpers.run_folder import ROOT

FOLDER = ROOT / "notebooks"
"""Where the notebooks lie."""


def find_notebook(text: str, folder: Path) -> str:
    """The notebook that a name, or the beginning of one such as ``05``, stands for."""
    wanted = Path(text).name.removesuffix(".ipynb")
    there = sorted(path.stem for path in folder.glob("*.ipynb"))
    found = [name for name in there if name == wanted] or [name for name in there if name.startswith(wanted)]
    if len(found) != 1:
        raise ParameterError(
            f"There is no notebook {text!r} in {folder}.", fix=f"There are {', '.join(there) or 'none'}."
        )
    return found[0]


def parameters_of(notebook: Path) -> dict[str, str]:
    """The parameters a notebook declares.

    Args:
        notebook: The file; its first cell tagged ``parameters`` holds lines ``name: type = value``.

    Returns:
        Annotation by name. Unlike papermill's own inspection, no form of a line is skipped.

    Raises:
        ParameterError: The file is no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(
            f"{notebook} cannot be read as a notebook ({error}).", fix="Restore the file."
        ) from error
    tagged = (cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    source = next(tagged, "")
    tree = ast.parse(source if isinstance(source, str) else "".join(source))
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in tree.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def parse_value(name: str, text: str, annotation: str) -> Any:
    """A parameter's value from the command line.

    Args:
        name: The parameter, for the message.
        text: What stands behind ``=``: JSON or a Python literal, so ``true`` and ``True`` are both fine.
        annotation: The declared type. Where it is ``str``, the text is taken as it is.

    Raises:
        ParameterError: The text is of another type than declared.
    """
    types = {part.strip().split("[")[0] for part in annotation.split("|")}
    value = _literal(text)
    if value is None and "None" in types:
        return None
    return text if "str" in types else check_value(name, value, annotation)


def check_value(name: str, value: Any, annotation: str) -> Any:
    """The value itself, if it is of the type that the notebook declares.

    Raises:
        ParameterError: It is of another type.
    """
    types = {part.strip().split("[")[0] for part in annotation.split("|")}
    if value is None and "None" in types:
        return None
    allowed: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "list": (list,),
        "str": (str,),
    }
    if types <= {*allowed, "None"}:
        fits = [kind for kind in types - {"None"} if isinstance(value, allowed[kind])]
        if not fits or (isinstance(value, bool) and "bool" not in types):
            raise ParameterError(
                f"The parameter {name} is {value!r}; it must be of type {annotation}.",
                fix=f'Write it like -p "{name}={_EXAMPLE[sorted(types - {"None"})[0]]}".',
            )
    return value


_EXAMPLE = {"int": "10", "float": "0.5", "bool": "true", "list": "[0,1,2]", "str": "text"}


def _literal(text: str) -> Any:
    """The value of a JSON text or Python literal; the text itself where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def add_parameter_arguments(made: argparse.ArgumentParser, meaning: str) -> None:
    """Give a command that runs notebooks its ``-p NAME=VALUE``, and the folder it was called from."""
    made.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help=meaning)
    # runbook.py says from where it was called, for it starts this program elsewhere.
    made.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)


def read_overrides(texts: Sequence[str], notebook: str = "05_infer", folder: Path = FOLDER) -> dict[str, Any]:
    """A notebook's parameters from ``-p name=value``.

    Raises:
        ParameterError: A text is of no such form, its name is unknown or its value of another type.
    """
    known = parameters_of(folder / f"{notebook}.ipynb")
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ParameterError(
                f"{text!r} is no parameter of {notebook}.", fix=f"Write -p name=value; {', '.join(known)}."
            )
        values[name] = parse_value(name, value, known[name])
    return values
