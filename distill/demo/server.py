"""Where the page is served: one address, one process, and answers that let a browser load nothing from elsewhere."""

import errno
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Thread
from typing import IO, Any

from distill.base.console import say
from distill.base.errors import UserError
from distill.demo.app import build, look, require_gradio
from distill.demo.loaded import load
from distill.demo.sources import Shown
from distill.demo.swapping import MOST_BYTES

HOST, PORT = "127.0.0.1", 7860
_LONGEST_ADDRESS = 8_000  # bytes of a link to the page
_REPORTS = "report"
# gradio's own scripts stand in the page, and its pieces are made by code that is put together in the browser.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "frame-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-dns-prefetch-control", b"off"),
]

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def serve(shown: Shown, host: str = HOST, port: int = PORT, browser: bool = True, out: IO[str] | None = None) -> None:
    """Load the models and serve the page until somebody stops it. The address is the first line that is printed.

    Args:
        shown: What to show.
        host: Address to listen on; only the machine itself reaches 127.0.0.1.
        port: Port to listen on; 0: any free one.
        browser: Whether to open a browser.
        out: Where the address goes; None: standard output.

    Raises:
        UserError: gradio is not installed, the port is in use, the host is none of this machine's, a model cannot be
            had.
    """
    require_gradio()
    with listening(host, port) as door, tempfile.TemporaryDirectory(prefix="distill-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # word lists that are looked at, until the page ends
        application = make(shown)
        address = address_of(host, door.getsockname()[1])
        _run(application, door, address, browser, out or sys.stdout)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: it cannot.
    """
    if not 0 <= port <= 65_535:
        raise UserError(f"option --port is {port}, but must be from 0 to 65535; 0 takes any free one")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise UserError(f"option --host: {host} is no address; give 127.0.0.1, or 0.0.0.0 for all networks") from None
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(place)
        door.listen(128)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use by another program; give another one, or 0 for any: --port 0"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(f"port {port} may not be used without rights; give one above 1023: --port {PORT}") from None
        raise UserError(f"option --host: {host} is no address of this machine; give 127.0.0.1 or 0.0.0.0") from None
    return door


def address_of(host: str, port: int) -> str:
    """What to type into a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def make(shown: Shown) -> Any:
    """The application: the page, and below `report/` the reports of the runs.

    Raises:
        UserError: see `serve`.
    """
    loaded = load(shown)
    gradio = require_gradio()
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse

    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = list(shown.reports.values())

    def report(number: int) -> Any:
        if not 0 <= number < len(pages):
            return HTMLResponse("There is no such report.", status_code=404)
        try:
            return HTMLResponse(Path(pages[number]).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return HTMLResponse(f"{pages[number]} cannot be read; the run may have been moved.", status_code=404)

    application.add_api_route(f"/{_REPORTS}/{{number}}", report, methods=["GET"])
    page = build(loaded, {name: f"{_REPORTS}/{number}" for number, name in enumerate(shown.reports)})
    gradio.mount_gradio_app(
        application,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=4 * MOST_BYTES,  # of what is only somewhat too large, we say so ourselves
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        **look(),
    )
    return Guard(application)


class Guard:
    """Puts headers on every answer by which a browser loads nothing from elsewhere, and refuses endless addresses."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > _LONGEST_ADDRESS:
            told = f"This link is longer than {_LONGEST_ADDRESS:,} characters; type the prompt on the page instead."
            headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
            await send({"type": "http.response.start", "status": 414, "headers": headers})
            await send({"type": "http.response.body", "body": told.encode()})
            return

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self.application(scope, receive, with_headers)


def _run(application: Any, door: socket.socket, address: str, browser: bool, out: Any) -> None:
    """Serve until a signal; its exit code is that of every verb."""
    import uvicorn

    # Where all networks may ask, somebody else's server (that of a Space) stands in front, and tells who asks it.
    public = {"proxy_headers": True, "forwarded_allow_ips": "*"} if not address.startswith(f"http://{HOST}") else {}
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=1, **public
    )  # fmt: skip

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            print(address, file=out, flush=True)
            say("the page is there; Ctrl-C ends it")
            if browser:
                Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    try:
        Server(config).run(sockets=[door])
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + getattr(stop, "signum", signal.SIGINT)) from None
