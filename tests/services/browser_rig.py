"""A real headless Chrome, and a web server with the pages that it opens; for the tests of what browsers do.

Chrome is spoken to in its DevTools protocol over a pair of pipes: nothing to install but Chrome itself.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--no-default-browser-check", "--host-resolver-rules=MAP *.test 127.0.0.1",
)  # fmt: skip
"""No web security is switched off: what browsers forbid is what is tested."""

ON_3_AND_4 = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chrome expects its orders on file 3 and answers on file 4."""

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Browser:
    """One Chrome. Ask it by `call`; what it tells by itself is dropped."""

    def __init__(self, program: str, profile: Path) -> None:
        """program: of Chrome or Chromium. profile: an empty folder."""
        theirs_in, self._orders = os.pipe()
        self._answers, theirs_out = os.pipe()
        chrome = [program, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", ON_3_AND_4, str(theirs_in), str(theirs_out), *chrome],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self._last = 0
        threading.Thread(target=self._listen, name="browser", daemon=True).start()

    def _listen(self) -> None:
        rest = b""
        while part := os.read(self._answers, 65_536):
            *messages, rest = (rest + part).split(b"\0")
            for message in messages:
                self._heard.put(json.loads(message))
        os.close(self._answers)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send one order and return its answer; fails with Chrome's own words."""
        self._last += 1
        order: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session:
            order["sessionId"] = session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._heard.get(timeout=PATIENCE_S)
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer}"
                return dict(answer["result"])

    def close(self) -> None:
        """End it, and all its processes."""
        try:
            self.call("Browser.close")
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._orders)


class Page:
    """One tab, with cookies and storage of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def open(self, url: str) -> None:
        """Go there, leaving what is open, and wait until it is loaded."""
        went = self._browser.call("Page.navigate", self._session, url=url)
        assert not went.get("errorText"), went
        deadline = time.monotonic() + PATIENCE_S
        while self.run("[document.readyState, location.href]") != ["complete", url]:
            assert time.monotonic() < deadline, url
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page, wait for its promise, and return the value."""
        found = self._browser.call(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True, timeout=60_000
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def cookies(self, url: str) -> list[str]:
        """Return the names of the cookies that a request to this address would bear."""
        found = self._browser.call("Network.getCookies", self._session, urls=[url])
        return [str(one["name"]) for one in found["cookies"]]


@contextmanager
def pages(files: Mapping[str, bytes]) -> Iterator[int]:
    """Serve these files (by path) on every name of this machine; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = files.get(path)
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", TYPES.get(Path(path).suffix, "text/plain"))
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
