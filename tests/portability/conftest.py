"""A real browser and onnxruntime's web build, for the tests that show a model file runs outside of Python.

They are skipped unless REION_WEB_RUNTIME names the folder `dist` of the npm package onnxruntime-web, as the
nox session `portability` does.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def web_runtime() -> Path:
    folder = os.environ.get("REION_WEB_RUNTIME")
    if not folder:
        pytest.skip("REION_WEB_RUNTIME is not set")
    return Path(folder)


class Page:
    """A page in headless Chromium, driven by the DevTools protocol through a pair of pipes."""

    def __init__(self, executable: str, profile: Path) -> None:
        to_browser, self._out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())
        self._in, from_browser = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())

        def connect() -> None:
            os.dup2(to_browser, 3)
            os.dup2(from_browser, 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [executable, *options, f"--user-data-dir={profile}", "--window-size=1280,900"],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._ids = itertools.count(1)
        self._session: str | None = None
        self._buffer = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: object) -> dict:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                received = os.read(self._in, 1 << 20)
                assert received, "the browser ended"
                self._buffer += received
            text, self._buffer = self._buffer.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def evaluate(self, expression: str) -> object:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120) -> object:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.evaluate(expression)
            if value:
                return value
            time.sleep(0.2)
        raise AssertionError(f"{expression} did not become true")

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def page(tmp_path):
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the nox session portability needs Chromium"
    page = Page(executable, tmp_path / "profile")
    yield page
    page.close()


@pytest.fixture
def serve():
    """Serve a folder on loopback, as `python -m http.server` does; returns its address."""
    servers = []

    def start(folder: Path) -> str:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
