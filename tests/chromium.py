"""Chromium without a window, driven over its DevTools pipe: it opens a page, asks it things and takes its picture."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

FLAGS = [
    "--headless",
    "--no-sandbox",  # as root it starts only so; it opens nothing but our own files
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--font-render-hinting=none",  # else the width of letters follows the settings of the machine
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--remote-debugging-pipe",
]
# The browser reads orders from descriptor 3 and answers on 4.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One tab of a browser of its own; a context manager.

    Args:
        profile: an empty folder for what it keeps.
    """

    def __init__(self, profile: Path) -> None:
        orders, answers = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (orders[0], answers[1])]
        command = [sys.executable, "-c", START, *map(str, theirs), PROGRAM, *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(command, pass_fds=theirs, stderr=subprocess.DEVNULL)
        for fd in (orders[0], answers[1], *theirs):
            os.close(fd)
        self.orders, self.answers = os.fdopen(orders[1], "wb"), os.fdopen(answers[0], "rb")
        self.unread = b""
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.session: dict[str, str] = {}
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        session = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        self.order("Page.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.session = {}
        self.order("Browser.close")
        self.process.wait(20)
        self.orders.close()
        self.answers.close()

    def order(self, method: str, **params: Any) -> dict[str, Any]:
        """Give one order of the DevTools protocol and wait for its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        self.orders.write(json.dumps(message).encode() + b"\0")
        self.orders.flush()
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            part = self.answers.read1(1 << 20)
            assert part, f"{PROGRAM} has ended, status {self.process.wait(20)}"
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path | str, width: int, dark: bool = False) -> None:
        """Show a file or an address in a window of so many pixels' width, and wait until it is laid out."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.order("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.order("Emulation.setEmulatedMedia", features=[scheme])
        self.order("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        self.ask("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def ask(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.order("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """The value of an expression in the page as soon as it is true of it."""
        end = time.monotonic() + seconds
        while not (value := self.ask(script)):
            assert time.monotonic() < end, (
                f"{script} is {value!r} after {seconds} s: {self.ask('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def upload(self, selector: str, path: Path) -> None:
        """Give a file to an input of the page."""
        found = self.order("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.order("DOM.setFileInputFiles", files=[str(path.absolute())], objectId=found["objectId"])

    def picture(self, scale: float) -> bytes:
        """The whole page as a PNG, ``scale`` pixels for one of the page."""
        width, height = self.ask("[innerWidth, Math.ceil(document.documentElement.getBoundingClientRect().height)]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
        shot = self.order("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])
