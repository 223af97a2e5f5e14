"""The page itself: files of this package, read once. No name that a client gives is part of a
path."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["asset_routes"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
}
_FILES = {
    "": ("glinthawk.serve", "page/index.html"),
    "page/look.css": ("glinthawk.telemetry", "look.css"),
    **{
        f"page/{name}": ("glinthawk.serve", f"page/{name}")
        for name in (
            *("icon.svg", "live.css", "live.js", "stream.js", "plots.js", "words.js"),
            *("uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"),
        )
    },
}
#: Whatever a client has written into a name or a note: nothing but these files is run or loaded.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def asset_routes() -> list[Route]:
    """A route for each file; the page is at /."""
    return [Route(f"/{path}", _answer_with(*place)) for path, place in _FILES.items()]


def _answer_with(package: str, name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files(package) / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer
