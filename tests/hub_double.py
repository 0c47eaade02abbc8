"""A Hugging Face hub on this machine's loopback, for tests: the endpoints that `huggingface_hub` asks.

    with HubDouble() as hub:
        hub.add("AlmondGod/tinyworlds-models", "model", {"sonic/…_step_5_….pth": b"…"})
        fetch_suite("sonic", root, endpoint=hub.endpoint)

It lists what was added, and serves it unless `altered` holds other bytes for a path, `refuse` a status or
`faults` what goes wrong with its next requests.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Fault:
    """What goes wrong with one request.

    Args:
        status: Answer with this status instead.
        headers: Headers to add or replace.
        cut_at: Close the connection after so many bytes of the body.
        drip: Send a byte, then wait so many seconds, and so on.
        ignore_range: Send the whole file whatever is asked for.
        body: Send this instead.
        before: Called first.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int = -1
    drip: float = 0.0
    ignore_range: bool = False
    body: bytes | None = None
    before: Callable[[], None] | None = None


NO_FAULT = Fault()


class HubDouble:
    """The double; runs while its ``with`` block does.

    Attributes:
        endpoint: Address to give as ``endpoint``.
        altered: Bytes to send for a path instead of its own; listing and headers stay those of the file.
        refuse: HTTP status to answer to every request whose address contains the key.
        faults: What goes wrong with the GETs of a file, by path: a `Fault` a request, the last one for good.
        lists: Whether it answers listings.
        head_headers: Headers to add to the answers to HEAD.
        redirect: Where content is served from instead: the address of another double.
        requests: Every request so far: ``"GET /api/models/…"``.
        ranges: The Range header of each GET of a file's content, "" where it has none.
        tokens: The Authorization header of each request, None where it has none.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.altered: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.lists = True
        self.head_headers: dict[str, str] = {}
        self.redirect = ""
        self.ranges: list[str] = []
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        hub = self

        class Handler(_Handler):
            double = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def add(self, repo: str, repo_type: str, files: dict[str, bytes]) -> None:
        """Publish ``files`` in a repository: path → content. Each .pth and .h5 is kept in LFS."""
        self.repos.setdefault((repo_type, repo), {}).update(files)

    def downloads(self) -> list[str]:
        """The names of the files whose content was asked for, in order."""
        return [
            request.rpartition("/")[2]
            for request in self.requests
            if request.startswith("GET") and "/resolve/" in request
        ]

    def __enter__(self) -> "HubDouble":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def sha256(content: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    """Git's SHA-1 of a file with this content, in hex."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def in_lfs(path: str) -> bool:
    """Whether the double keeps a file in LFS."""
    return path.endswith((".pth", ".h5"))


class _Handler(BaseHTTPRequestHandler):
    double: HubDouble
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""

    def _answer(self, with_body: bool) -> None:
        address = unquote(urlsplit(self.path).path)
        self.double.requests.append(f"{self.command} {address}")
        self.double.tokens.append(self.headers.get("Authorization"))
        for part, status in self.double.refuse.items():
            if part in address:
                return self._send(status, b"", {}, with_body)
        if address.startswith("/api/") and not self.double.lists:
            return self._send(404, b"", {}, with_body)
        if address.startswith("/api/"):
            return self._api(address.removeprefix("/api/").split("/"), with_body)
        return self._resolve(address.lstrip("/").split("/"), with_body)

    def _api(self, parts: list[str], with_body: bool) -> None:
        """``{models|datasets}/OWNER/NAME/{tree|revision}/REV``."""
        kind, repo, what = parts[0].removesuffix("s"), "/".join(parts[1:3]), parts[3]
        files = self.double.repos.get((kind, repo))
        if files is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        if what == "revision":
            listing: Any = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
        else:
            listing = [_item(path, content) for path, content in files.items()]
        body = json.dumps(listing).encode()
        return self._send(200, body, {"Content-Type": "application/json"}, with_body)

    def _resolve(self, parts: list[str], with_body: bool) -> None:
        """``[datasets/]OWNER/NAME/resolve/REV/PATH``."""
        kind = "dataset" if parts[0] == "datasets" else "model"
        owner, name, _, _, *path = parts[1:] if kind == "dataset" else parts
        key = "/".join(path)
        content = self.double.repos.get((kind, f"{owner}/{name}"), {}).get(key)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, with_body)
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", "ETag": f'"{git_oid(content)}"'}
        if in_lfs(key):
            headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        if not with_body:
            headers |= self.double.head_headers
        body, status = self.double.altered.get(key, content), 200
        fault = NO_FAULT
        if with_body:
            self.double.ranges.append(self.headers.get("Range", ""))
            faults = self.double.faults.get(key, [])
            if faults:
                fault = faults.pop(0) if len(faults) > 1 else faults[0]
        if fault.before:
            fault.before()
        if self.double.redirect and with_body:
            return self._send(302, b"", {"Location": self.double.redirect + self.path}, with_body)
        if fault.status:
            return self._send(fault.status, b"", fault.headers, with_body)
        headers |= fault.headers
        body = body if fault.body is None else fault.body
        unchanged = self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
        wanted = self.headers.get("Range")
        if wanted and unchanged and not fault.ignore_range:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= len(body):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"}, with_body)
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body, status = body[first:], 206
        return self._send(status, body, headers, with_body, fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], with_body: bool, fault: Fault = NO_FAULT
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        # A kept-alive connection would outlive the server.
        self.send_header("Connection", "close")
        self.end_headers()
        if not with_body:
            return
        with suppress(OSError):  # a client that has given up
            if fault.drip:
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(fault.drip)
            else:
                self.wfile.write(body if fault.cut_at < 0 else body[: fault.cut_at])


def _item(path: str, content: bytes) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if in_lfs(path):
        item["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return item
