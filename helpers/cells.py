"""A notebook's cell that runs before the cells it builds on says so. Standard library only."""

from collections.abc import Mapping
from typing import Any

from helpers.errors import CellOrderError


def needs(names: Mapping[str, Any], *wanted: str) -> None:
    """Stop with a `CellOrderError`, not a NameError, where the cells above have not run yet.

    needs(globals(), "run", "checks")       # what cells above create and this cell uses
    """
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CellOrderError(
            f"A cell above this one has not run yet: there is no {' and no '.join(missing)}.",
            fix="Choose Run > Run All Above Selected Cell in the menu, then run this cell again.",
        )
