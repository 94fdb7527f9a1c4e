"""The web page at `/` and the files it is made of, held in memory, under a strict content security policy.

The page asks the other routes for everything it shows: nothing of the daemon's state passes here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from dynhat_runtime import __version__

FOLDER = "page"
INDEX = "index.html"

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

FILES = (
    "style.css",
    "charts.css",
    "icon.svg",
    "theme.js",
    "app.js",
    "charts.js",
    "daemon.js",
    "elements.js",
    "figures.js",
    "history.js",
    "live.js",
    "playground.js",
)
"""What the page loads, each at `/page/NAME`."""

PATHS = ("/", *(f"/page/{name}" for name in FILES))

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # in the browser, too, nothing turns text into HTML
        "trusted-types 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304: an update is never half seen
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    @functools.cache
    def read(cls, name: str) -> PageFile:
        """A file of this package, held once for however many applications."""
        content = files(__package__).joinpath(FOLDER, name).read_bytes()
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request, headers: dict[str, str]) -> Response:
        """The file, or 304 to who has it already."""
        headers = {**HEADERS, **headers, "ETag": self.etag}
        if self.etag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def router(api_paths: Iterable[str]) -> APIRouter:
    """The page's routes.

    Args:
        api_paths: What `/` names to a program that asks it for JSON.
    """
    routes = APIRouter(tags=["page"], include_in_schema=False)
    index, listed = PageFile.read(INDEX), list(api_paths)

    @routes.get("/")
    async def get_root(request: Request) -> Response:
        """The page; name, version and paths to who asks for JSON and not for HTML."""
        if wants_json(request.headers.get("Accept", "")):
            content: dict[str, Any] = {"name": "dynhat-runtime", "version": __version__, "paths": listed}
            return JSONResponse(content, headers={"Vary": "Accept"})
        return index.answer(request, {"Vary": "Accept"})

    for name in FILES:
        _add_file(routes, name)
    return routes


def wants_json(accept: str) -> bool:
    """Whether a client asks for JSON by name, and not for HTML."""
    accepted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "application/json" in accepted and "text/html" not in accepted


def _add_file(routes: APIRouter, name: str) -> None:
    """The route of one file."""
    file = PageFile.read(name)

    @routes.get(f"/page/{name}")
    async def get_file(request: Request) -> Response:
        """One of the page's files."""
        return file.answer(request, {})
