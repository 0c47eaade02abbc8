"""``runbook.py share``: a world as one HTML file that plays in any browser, from a disk, without a network.

The file holds the world's graph (`step`), places to start from (`starts`), what the player calls its actions,
the runtime that computes the graph (`runtime`), the page, and a proof: some frames as the engine plays them
here, which the page plays again wherever it is opened, to say whether it plays the same world there.

A world's file is data: names and labels reach the page as JSON and are shown as text. Of scripts the page's
policy (Content-Security-Policy) allows this project's own and the runtime alone, and no request at all.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from helpers.commands import exit_status
from helpers.errors import ParameterError
from helpers.files import expanded, written_whole
from helpers.parameters import world_parser, world_values
from helpers.play.compute import stepping
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import OpenWorld, choose_clip, open_world
from helpers.player.keymap import default_keys
from helpers.player.labels import ActionLabel, label_actions
from helpers.run_folder import writing
from helpers.share.runtime import LICENCE, NAME, Runtime, open_runtime, packed
from helpers.share.starts import Start, find_starts
from helpers.share.step import export
from helpers.worldmodel.decode import unmask_counts

PROOF = 16
"""Frames that the page plays again at once, greedily and sampled: less than a second for Crafter."""


@dataclass(frozen=True)
class Page:
    """A shared world, and how large its parts are in the file, in bytes."""

    html: bytes
    model: int
    runtime: int


def build(
    opened: OpenWorld,
    settings: Settings,
    labels: Sequence[ActionLabel],
    runtime: Runtime,
    proof: int = PROOF,
) -> Page:
    """The file of a world, played as the settings say and proved with so many frames each way.

    Raises:
        ParameterError: The settings ask for what a browser does not compute.
        SuiteError: The world takes no actions.
        DatasetError: It has no clip to start from.
    """
    if settings.amp:
        raise ParameterError("amp is true, and a page computes in float32.", fix="Leave amp out.")
    starts = find_starts(opened, settings)
    settings = replace(settings, start=starts[0].row)
    model = packed(export(opened.suite, settings))
    world = _describe(opened, settings, labels, starts) | {"proof": _prove(opened, settings, proof)}
    content = json.dumps(world, separators=(",", ":")).replace("<", "\\u003c")
    script = _joined("../player/page/elements.js", "../player/page/keys.js", "page/page.js")
    style, worker = _joined("page/page.css"), _joined("page/numbers.js", "page/worker.js")
    sizes = {"model": len(model), "runtime": len(runtime.script) + len(runtime.wasm)}
    whole = sum((*sizes.values(), len(content), len(script), len(worker)))
    html = (
        Environment(autoescape=True)
        .from_string(_joined("page/page.html"))
        .render(
            title=opened.world.title,
            policy=_policy(script, style),
            style=style,
            script=script,
            worker=worker,
            world=content,
            data={"model": model, "runtime": runtime.script, "wasm": runtime.wasm},
            licence=LICENCE,
            runtime=NAME,
            sizes={name: _megabytes(size) for name, size in {**sizes, "file": whole}.items()},
        )
    )
    return Page(html.encode(), **sizes)


def _joined(*names: str) -> str:
    """The text of some files beside this one."""
    folder = Path(str(resources.files(__package__)))
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _megabytes(size: int) -> str:
    """A number of bytes in MB."""
    return f"{size / 1e6:.1f}"


def _policy(script: str, style: str) -> str:
    """What the page may do: run this one script, and a worker and WASM made of what the page holds."""
    script, style = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (script, style)
    )
    return (
        f"default-src 'none'; script-src {script} 'wasm-unsafe-eval' blob:; worker-src blob:; "
        f"style-src {style}; base-uri 'none'; form-action 'none'"
    )


def _describe(
    opened: OpenWorld, settings: Settings, labels: Sequence[ActionLabel], starts: Sequence[Start]
) -> dict[str, Any]:
    """What page and worker know of the world, as plain JSON values."""
    suite, keys = opened.suite, default_keys(labels)
    patches = suite.dynamics.config.grid**2
    head = Game(opened, choose_clip(opened, settings), settings).recording()
    del head["made_on"], head["events"]
    return {
        "title": opened.world.title,
        "runtime": NAME,
        "size": suite.frame_size,
        "patches": patches,
        "codebook": suite.video_tokenizer.quantizer.codebook_size,
        "window": settings.context_window,
        "horizon": settings.prediction_horizon,
        "draws": len(unmask_counts(settings.prediction_horizon * patches, settings.steps)),
        "pixels": settings.feedback == "pixels",
        "temperature": settings.temperature,
        "seed": str(settings.seed),
        "fps": min(settings.fps, 60),
        "idle": keys.idle,
        "keys": keys.to_json()["keys"],
        "labels": [{"id": label.id, "name": label.name, "dead": label.dead} for label in labels],
        "starts": [
            asdict(start)
            | {
                "frames": base64.b64encode(start.frames.tobytes()).decode(),
                "tokens": [tokens.tolist() for tokens in start.tokens],
            }
            for start in starts
        ],
        "session": json.dumps(head, indent=2).removesuffix("}").rstrip(),
    }


def _prove(opened: OpenWorld, settings: Settings, frames: int) -> list[dict[str, Any]]:
    """So many frames of random actions as the engine plays them: greedily, and sampled."""
    clip, random, proof = choose_clip(opened, settings), np.random.default_rng(0), []
    for temperature in (0.0, settings.temperature or 1.0):
        game = Game(opened, clip, replace(settings, temperature=temperature))
        steps = -(-frames // settings.prediction_horizon)
        actions = random.integers(opened.suite.n_actions, size=steps).tolist()
        with stepping(opened.world):
            for action in actions:
                game.step(action)
        proof.append({"temperature": temperature, "actions": actions, "hashes": game.token_hashes})
    return proof


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Write a world's file; the exit status is 0 if it was written."""
    about = "Write a world as one HTML file that plays in any browser, without Python and without a network."
    parser = world_parser("share", about, "-p steps=3 or -p start=600")
    add = parser.add_argument
    add("--to", type=Path, default=Path("world.html"), metavar="FILE", help="(default: world.html)")
    add(
        "--proof",
        type=int,
        default=PROOF,
        metavar="N",
        help=f"frames that the page compares (default: {PROOF})",
    )
    add("--registry", default="", metavar="ADDRESS", help="a mirror of npm, which has the page's runtime")
    arguments = parser.parse_args(argv)
    if arguments.proof < 1:
        raise ParameterError(f"--proof is {arguments.proof}.", fix="Use at least 1.")
    path = arguments.called_from / expanded(arguments.to)
    values = world_values(arguments)
    settings = Settings.read(values | {"device": "cpu", "use_interactive_mode": True, "actions": []})
    opened, runtime = open_world(settings), open_runtime(arguments.registry)
    page = build(opened, settings, label_actions(opened), runtime, arguments.proof)
    with writing(path, fix="Free some disk, or choose another place with --to."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_bytes(page.html)
    parts = f"model {_megabytes(page.model)}, runtime {_megabytes(page.runtime)}"
    print(f"{path}  {_megabytes(len(page.html))} MB ({parts}). Open it in a browser, or send it to somebody.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
