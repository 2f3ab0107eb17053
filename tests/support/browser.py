"""Chromium without a screen, driven as WebDriver says: a page is loaded, looked at and used as people use it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@dataclass(frozen=True)
class Browser:
    """A session of ChromeDriver at an address."""

    session: str

    def call(self, path: str, **body: Any) -> Any:
        return _asked(f"{self.session}/{path}", body)

    def open(self, page: Path) -> None:
        self.call("url", url=page.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return what it returns, a promise's value too."""
        return self.call("execute/sync", script=script, args=list(arguments))

    def until(self, script: str, seconds: float = 5.0) -> Any:
        """Return what a script returns, as soon as that is something."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.02)
        return found

    def point(self, *actions: dict[str, Any]) -> None:
        """Move and press the mouse."""
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": list(actions)}
        self.call("actions", actions=[mouse])

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        first, *rest = [_move(point) for point in points]
        self.point(first, {"type": "pointerDown", "button": 0}, *rest, {"type": "pointerUp", "button": 0})

    def hover(self, point: tuple[float, float]) -> None:
        self.point(_move(point))

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def scheme(self, name: str) -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params=media)

    def picture(self, file: Path, *, whole: bool = False) -> None:
        shot = self.call("goog/cdp/execute", cmd="Page.captureScreenshot", params={"captureBeyondViewport": whole})
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Return what the console says at the level of warnings and errors, since it was asked last."""
        return [entry["message"] for entry in self.call("se/log", type="browser")]


def _move(point: tuple[float, float]) -> dict[str, Any]:
    return {"type": "pointerMove", "duration": 0, "x": round(point[0]), "y": round(point[1])}


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium; skip the test where it, or its driver, is not installed."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("Chromium and ChromeDriver are not installed: apt-get install chromium chromium-driver")
    port = _free_port()
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/session"
        _await(port)
        options = {"binary": chromium, "args": [*_OPTIONS, f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "WARNING"}}
        found = _asked(address, {"capabilities": {"alwaysMatch": wanted}})
        session = f"{address}/{found['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _asked(session, None)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, "ChromeDriver does not answer"
            time.sleep(0.02)


def _asked(address: str, body: dict[str, Any] | None) -> Any:
    """Send a command, or end the session, and return its value."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, method="DELETE" if body is None else "POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
