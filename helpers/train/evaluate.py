"""What an embedded world reaches: ``python runbook.py evaluate [--dataset coinrun]``."""

import argparse
from collections.abc import Sequence

from helpers.train import coinrun_evaluate, crafter_evaluate

MEASURED = {"crafter": crafter_evaluate.main, "coinrun": coinrun_evaluate.main}
"""What measures each world; the other arguments are its own."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the numbers of a world's model card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], add_help=False)
    parser.add_argument("--dataset", default="crafter", choices=MEASURED)
    options, others = parser.parse_known_args(argv)
    MEASURED[options.dataset](others)


if __name__ == "__main__":
    main()
