"""The same app in a browser: a small web server on the loopback that only answers who knows a secret address."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from llama_tui.backend.errors import UserError

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

LOOPBACK = "127.0.0.1"
# Seconds that the apps of open windows have to end when the server does.
APPS_END_WITHIN = 3.0
# The address, which is the key, is told to nobody.
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
# Our own page instead of textual-serve's, which asks Google for a font.
_PAGE = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


class ServeError(UserError):
    """The web server cannot begin."""

    title = "The server cannot start"


def new_token() -> str:
    """A secret of 256 bits that fits into an address."""
    return secrets.token_urlsafe(32)


def address(port: int, token: str) -> str:
    """What to open in the browser."""
    return f"http://{LOOPBACK}:{port}/{token}/"


def serve(command: str, port: int, token: str, tell: Callable[[str], None]) -> None:
    """Serves the app that `command` starts, one for each browser window, until Ctrl-C.

    Args:
        token: the first part of the only path that is answered; all others get 403.
        tell: is given the address once it is served.

    Raises:
        ServeError: the port is taken.
    """
    try:
        _run(command, port, token, tell)
    except OSError as error:
        raise ServeError(
            f"Port {port} on {LOOPBACK} cannot be used: {error.strerror}", "Choose another one with --port."
        ) from None


def _run(command: str, port: int, token: str, tell: Callable[[str], None]) -> None:
    from aiohttp import web

    web.run_app(
        _application(command, port, token),
        host=LOOPBACK,
        port=port,
        # What aiohttp says once it listens.
        print=lambda *_: tell(address(port, token)),
        # Open windows are not waited for; a log of requests would hold the token.
        shutdown_timeout=1.0,
        access_log=None,
    )


async def _application(command: str, port: int, token: str) -> web.Application:
    from aiohttp import web
    from textual_serve.server import Server

    class TokenServer(Server):
        """textual-serve behind a secret path, with our page."""

        async def on_startup(self, app: web.Application) -> None:
            """No banner: the address is told once somebody listens there."""

        async def handle_index(self, request: web.Request) -> web.Response:
            """The page that holds the terminal, or a part of it."""
            name = request.match_info.get("name", "page.html")
            text = (resources.files("llama_tui.backend") / "web" / name).read_text(encoding="utf-8")
            return web.Response(text=text, content_type=_PAGE[name])

        async def application(self) -> web.Application:
            """All of it below the token."""
            app = web.Application(middlewares=[_gate(token)])
            below = await self._make_app()
            below.add_routes([web.get(r"/{name:page\.(?:css|js)}", self.handle_index)])
            app.add_subapp(f"/{token}", below)
            app.on_response_prepare.append(_add_headers)
            app.on_cleanup.append(_let_apps_end)
            return app

    return await TokenServer(command, host=LOOPBACK, port=port).application()


async def _let_apps_end(_: web.Application) -> None:
    """asyncio complains, on the terminal, of a process that outlives its loop."""
    deadline = time.monotonic() + APPS_END_WITHIN
    while _children() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    # The thread that saw the last one end still has to tell the loop.
    await asyncio.sleep(0.1)


def _children() -> str:
    """The processes that this one started and that are still there, where the kernel tells."""
    files = Path("/proc/self/task").glob("*/children")
    return "".join(file.read_text() for file in files if file.exists()).strip()


def _gate(token: str) -> Middleware:
    from aiohttp import web

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
            return web.Response(
                status=403,
                text="Forbidden: open the whole address that llama-tui printed.\n"
                "Each start of `llama-tui serve` has another one.\n",
            )
        if request.path == f"/{token}":
            raise web.HTTPFound(f"/{token}/")
        return await handler(request)

    return gate


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """To every answer, a file that is streamed too."""
    response.headers.update({**_HEADERS, "Content-Security-Policy": _policy(request.host)})


def _policy(host: str) -> str:
    """The page may talk to this server and to nobody else."""
    return (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
