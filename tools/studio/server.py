"""Serves the page: the address is checked before anything is loaded, and nothing is left when it ends."""

import errno
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from boson_multimodal.errors import InputError, NamedError

REQUIREMENTS = "requirements-studio.txt"
LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SECONDS_FOR_OPEN_PAGES = 1
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self'"
)
"""The browser loads nothing from another server. Gradio's page has scripts and styles in itself."""


def require_gradio() -> None:
    """Raise :class:`InputError` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError(f"gradio is not installed; pip install -r {REQUIREMENTS}")


def check_address(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        InputError: if the port is no port or is taken, or if the host is not this machine's.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: must be from 1 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--host {host}: no such address ({reason}); {LOOPBACK} is this machine alone") from error
    family, kind, protocol, _, address = found[0]
    try:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        problem = {
            errno.EADDRINUSE: f"--port {port}: another program has this port on {host}; end it, or give another --port",
            errno.EADDRNOTAVAIL: f"--host {host}: is not an address of this machine; {LOOPBACK} is this machine alone",
            errno.EACCES: f"--port {port}: this user may not use it; give a --port from 1024",
        }.get(error.errno, f"--host {host} --port {port}: cannot be used ({error.strerror})")
        raise InputError(problem) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end, also after Ctrl-C, SIGTERM and SIGHUP; the last two end the program.

    Its name tells whom it belongs to if the process is killed.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    folder = Path(tempfile.mkdtemp(prefix="studio_"))
    try:
        yield folder
    finally:
        # A second Ctrl-C must not leave the folder behind.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            print(f"warning: {folder} could not be removed; it holds clips and speech", file=sys.stderr)
        signal.signal(signal.SIGINT, interrupt)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def gradio_in(folder: Path, host: str, is_shared: bool) -> Iterator[Any]:
    """Import Gradio, which reads its settings from the environment then. Return the module.

    It keeps its files in ``folder``, and asks nobody for newer versions. Settings for Gradio in the user's environment
    do not apply: they could make the page public. To reach the server of its own, it must not take a proxy.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("GRADIO_") or (name.lower() in PROXIES and not is_shared):
            del os.environ[name]
    local = ",".join(dict.fromkeys([*LOOPBACK_NAMES, host]))
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": ",".join(filter(None, (before.get("NO_PROXY") or before.get("no_proxy"), local))),
    }
    os.environ.pop("no_proxy", None)
    try:
        import gradio

        yield gradio
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def served(gradio: Any, blocks: Any, host: str, port: int, is_shared: bool, style: str, folder: Path) -> Iterator[str]:
    """Serve a page. Yield its address; with ``is_shared`` the public one.

    Args:
        folder: the page may show what lies in it.

    Raises:
        InputError: if the port was taken since it was checked.
        NamedError: if there is no public address.
    """
    from starlette.middleware import Middleware

    font = ["system-ui", "sans-serif"]
    try:
        _, address, public = blocks.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=is_shared,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            footer_links=[],
            allowed_paths=[str(folder)],
            theme=gradio.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
            css=style,
            app_kwargs={"middleware": [Middleware(ContentPolicy)]},
        )
    except OSError as error:
        check_address(host, port)
        raise NamedError(f"the server did not start on {host}, port {port} ({error}); try again") from error
    try:
        if is_shared and not public:
            raise NamedError("--share: Gradio's server gave no public address; without --share the page is local")
        yield public or address
    finally:
        _close(blocks)


def _close(blocks: Any) -> None:
    """End the server. An open page holds a connection, which is cut after ``SECONDS_FOR_OPEN_PAGES``."""
    blocks.server.config.timeout_graceful_shutdown = SECONDS_FOR_OPEN_PAGES
    log = logging.getLogger("uvicorn.error")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it would report each connection that is cut as an error, with a traceback
    try:
        blocks.close(verbose=False)
    finally:
        log.setLevel(level)


class ContentPolicy:
    """Adds ``POLICY`` to every page (an ASGI middleware)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def open_in_browser(address: str) -> None:
    """Open the page in the user's browser, or say why it is not opened."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        print(f"--open: there is no display here; open {address} in a browser yourself", file=sys.stderr, flush=True)
    elif not webbrowser.open(address):
        print(f"--open: no browser was found; open {address} yourself", file=sys.stderr, flush=True)


def wait_for_the_end() -> None:
    """Wait until a signal ends the program."""
    threading.Event().wait()
