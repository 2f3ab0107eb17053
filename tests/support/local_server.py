"""A web server on this machine that serves files, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    path: str
    range: str | None
    user_agent: str | None
    connection: int
    time: float


@dataclass
class Site:
    """What is served: files by name, and for each the mishaps that its next requests meet, one after the other.

    A mishap is ("drop", n): close after n bytes; ("wrong",): other bytes of the same length; ("short", n): n bytes as
    if they were all; ("status", code, headers); ("stall", seconds): say nothing; ("ignore range",); ("elsewhere",):
    send bytes from another place than asked for; ("redirect", address).
    """

    files: dict[str, bytes]
    mishaps: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    always: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    n_open: int = 0
    most_open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def add_sums(self) -> Site:
        lines = [f"{hashlib.sha256(content).hexdigest()} {name}\n" for name, content in self.files.items()]
        self.files["SHA256SUMS.txt"] = "".join(lines).encode()
        return self

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def asked_for(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.path == name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        with self.site.lock:
            self.site.n_open += 1
            self.site.most_open = max(self.site.most_open, self.site.n_open)
        try:
            with contextlib.suppress(ConnectionError):
                self.answer(self.path.lstrip("/"))
        finally:
            with self.site.lock:
                self.site.n_open -= 1

    def answer(self, name: str) -> None:
        site, asked = self.site, self.headers.get("Range")
        agent = self.headers.get("User-Agent")
        site.requests.append(Request(name, asked, agent, self.client_address[1], time.monotonic()))
        queue = site.mishaps.get(name)
        kind, *details = queue.pop(0) if queue else site.always.get(name, ("",))
        if kind == "status":
            return self.head(details[0], 0, details[1] if len(details) > 1 else {})
        if kind == "redirect":
            return self.head(302, 0, {"Location": details[0]})
        if name not in site.files:
            return self.head(404, 0, {})
        content = site.files[name]
        if kind == "wrong":
            content = bytes(len(content))
        elif kind == "short":
            content = content[: details[0]]
        start = 0
        if asked and kind != "ignore range":
            start = int(asked.removeprefix("bytes=").rstrip("-")) - (kind == "elsewhere")
            if start >= len(content):
                return self.head(416, 0, {"Content-Range": f"bytes */{len(content)}"})
            self.head(206, len(content) - start, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        else:
            self.head(200, len(content), {})
        if kind == "drop":
            self.wfile.write(content[start : start + details[0]])
            self.close_connection = True
            return None
        if kind == "stall":
            self.wfile.write(content[start : start + 10])
            self.wfile.flush()
            time.sleep(details[0])
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve on a port of this machine until the block ends."""
    server = QuietServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
