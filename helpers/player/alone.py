"""The player alone on a page of its own, without Jupyter: ``python runbook.py play``.

A small server on this computer gives a browser the very page that a notebook shows, and carries its messages
over a WebSocket. It answers nobody who does not know the address that it prints.

Each message is JSON; one to the page begins with the JSON's length as 4 bytes, little-endian, and its
pictures follow, whose lengths are in ``sizes``.
"""

import asyncio
import contextlib
import json
import secrets
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from helpers.commands import exit_status, runbook_line
from helpers.errors import ParameterError
from helpers.parameters import world_parser, world_values
from helpers.play import rollout
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.play.world import choose_clip, open_world
from helpers.player.widget import PAGE, Player, page_script
from helpers.presets import measure
from helpers.run_folder import ROOT, open_run

HERE = "127.0.0.1"


class LonePlayer(Player):
    """A player whose page is told everything by `tell`: a message, and the pictures that belong to it."""

    def __init__(
        self, game: Game, run: Path, tell: Callable[[dict[str, Any], Sequence[bytes]], None]
    ) -> None:
        self._tell = tell
        super().__init__(game, run, ROOT)
        self.observe(lambda change: tell({"state": change["new"]}, ()), "state")

    def send(self, content: Any, buffers: Any = None) -> None:
        """Send the page a message."""
        self._tell({"message": content}, buffers or ())

    def receive(self, content: Any) -> None:
        """Take a message from the page."""
        self._receive(self, content, ())


class Server:
    """Serves a game's player at ``address`` to whoever opens it; made within a running event loop.

    Raises a `ParameterError` where the port is taken.
    """

    def __init__(self, game: Game, run: Path, port: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets: set[_Socket] = set()
        self.player = LonePlayer(game, run, self._tell)
        secret = secrets.token_urlsafe(12)
        try:
            bound = bind_sockets(port, HERE)
        except OSError as error:
            what = f"Port {port} cannot be used ({error.strerror or error})."
            raise ParameterError(what, fix="Choose another --port, or none.") from error
        port = bound[0].getsockname()[1]
        self.address = f"http://{HERE}:{port}/{secret}/"
        title = game.opened.world.title
        page = (PAGE / "alone.html").read_text(encoding="utf-8").replace("{title}", title)
        shared = {"hosts": {f"{HERE}:{port}", f"localhost:{port}"}}
        files = {
            "": ("text/html", page),
            "player.js": ("text/javascript", page_script()),
            "player.css": ("text/css", (PAGE / "player.css").read_text(encoding="utf-8")),
        }
        routes: list[Any] = [
            (f"/{secret}/{name}", _File, {**shared, "kind": kind, "text": text})
            for name, (kind, text) in files.items()
        ]
        routes.append((f"/{secret}/socket", _Socket, {**shared, "server": self}))
        self._http = HTTPServer(Application(routes))
        self._http.add_sockets(bound)

    def _tell(self, content: Mapping[str, Any], pictures: Sequence[bytes]) -> None:
        """Send something to every page, from whatever thread."""
        packed = _packed(content, pictures)

        def tell_all() -> None:
            for socket in self._sockets:
                socket.tell(packed)

        self._loop.call_soon_threadsafe(tell_all)

    def close(self) -> None:
        """End play, and save what was played."""
        self._http.stop()
        self.player.close()
        self.player.keeper.save()


class _OnlyHere(RequestHandler):
    """Answers only who asked for this computer: another site's page could name it otherwise."""

    def initialize(self, hosts: set[str], **options: Any) -> None:
        self._hosts, self._options = hosts, options

    def prepare(self) -> None:
        if self.request.host not in self._hosts:
            self.send_error(403)


class _File(_OnlyHere):
    def get(self) -> None:
        self.set_header("Content-Type", f"{self._options['kind']}; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.write(self._options["text"])


class _Socket(_OnlyHere, WebSocketHandler):
    def open(self, *_path: str) -> None:
        self._server: Server = self._options["server"]
        self._greeted = False
        player = self._server.player
        self.tell(_packed({"world": player.world, "state": player.state}, ()))
        self._server._sockets.add(self)

    def tell(self, packed: bytes) -> None:
        with contextlib.suppress(WebSocketClosedError):
            self.write_message(packed, binary=True)

    def on_message(self, message: str | bytes) -> None:
        content = None
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(message)
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "bye":
            return  # the connection's end says so
        self._greeted |= kind == "hello"
        self._server.player.receive(content)

    def on_close(self) -> None:
        self._server._sockets.discard(self)
        if self._greeted:
            self._server.player.receive({"type": "bye"})


def _packed(content: Mapping[str, Any], pictures: Sequence[bytes]) -> bytes:
    sizes = [len(picture) for picture in pictures]
    head = json.dumps({**content, "sizes": sizes}).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *pictures])


async def serve(game: Game, run: Path, port: int, browser: bool) -> None:
    """Serve a game's player until the process is interrupted."""
    server = Server(game, run, port)
    try:
        print(f"Play at {server.address}\nClick the picture, then Play. Ctrl+C here ends it.", flush=True)
        if browser and not webbrowser.open(server.address):
            print("No browser could be opened: open that address yourself.", flush=True)
        await asyncio.Event().wait()
    finally:
        server.close()
        path = server.player.keeper.path
        print(
            f"\n{server.player.game.generated} frames on this branch are saved in {path}"
            if path
            else "\nBye."
        )
        if path:
            print(f"See them again: {runbook_line('film', '--session', str(path))}", flush=True)


@exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Open a world and play it in a browser until Ctrl+C; the exit status is 0 then."""
    about = "Play a world in the browser: the player alone, without notebooks. Ctrl+C ends it."
    parser = world_parser("play", about, "-p start=600 or -p device=cuda")
    add = parser.add_argument
    add("--no-browser", action="store_true", help="only print the address")
    add("--port", type=int, default=0, help="the server's port (default: any that is free)")
    arguments = parser.parse_args(argv)
    values = world_values(arguments)
    folder = values.pop("run_dir", "")
    settings = Settings.read({**values, "use_interactive_mode": True, "replay": ""})
    print(f"Opening {settings.dataset} …", flush=True)
    opened = open_world(settings)
    settings = measure.apply(opened, settings)
    run = open_run(settings.dataset, arguments.called_from / folder if folder else "")
    game = rollout.play(opened, choose_clip(opened, settings), settings)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(game, run, arguments.port, not arguments.no_browser))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
