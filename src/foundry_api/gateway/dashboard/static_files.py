"""The files of the page. They have no secrets, so everybody may read them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foundry_api.gateway.errors import RequestError

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange

__all__ = ["DIRECTORY", "HEADERS", "VENDORED", "get_asset", "get_index"]

DIRECTORY = Path(__file__).with_name("static")
# Libraries as their authors publish them; see the README there.
VENDORED = Path(__file__).with_name("vendor")
INDEX = "index.html"
CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Nothing comes from elsewhere, and no text becomes markup or code: `require-trusted-types-for`
# makes the browser refuse `innerHTML` and the like. Without `form-action`, a form whose script has
# not loaded would send a key in the address.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    # Files have no version in their names, so a browser asks whether they have changed.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class _File(NamedTuple):
    content: bytes
    compressed: bytes
    content_type: str
    etag: str


async def get_index(exchange: Exchange) -> web.StreamResponse:
    """Return the page."""
    return _respond(exchange, (await asyncio.to_thread(_load_files))[INDEX])


async def get_asset(exchange: Exchange) -> web.StreamResponse:
    """Return a script, a style sheet or a picture of the page."""
    file = (await asyncio.to_thread(_load_files)).get(exchange.path_id)
    if file is None or exchange.path_id == INDEX:
        raise RequestError(404, "unknown_url", "The page has no such file.")
    return _respond(exchange, file)


def _respond(exchange: Exchange, file: _File) -> web.StreamResponse:
    headers = exchange.request.headers
    exchange.headers |= {**HEADERS, "ETag": f'"{file.etag}"'}
    known = {tag.strip().removeprefix("W/") for tag in headers.get("If-None-Match", "").split(",")}
    if known & {f'"{file.etag}"', "*"}:
        return exchange.respond(b"", status=304, content_type=file.content_type)
    accepted = {
        name.partition(";")[0].strip() for name in headers.get("Accept-Encoding", "").split(",")
    }
    body = file.content
    if "gzip" in accepted:
        exchange.headers["Content-Encoding"], body = "gzip", file.compressed
        # An ETag names bytes, and these are others; a weak one names what they mean.
        exchange.headers["ETag"] = f'W/"{file.etag}"'
    return exchange.respond(body, content_type=f"{file.content_type}; charset=utf-8")


@cache
def _load_files() -> dict[str, _File]:
    """Read the files by name. It takes some milliseconds, once, when the page is first opened."""
    paths = [*DIRECTORY.iterdir(), *VENDORED.iterdir()]
    return {path.name: _read(path) for path in paths if path.suffix in CONTENT_TYPES}


def _read(path: Path) -> _File:
    # A checkout on Windows may have other line ends.
    content = path.read_bytes().replace(b"\r\n", b"\n")
    return _File(
        content,
        gzip.compress(content, mtime=0),
        CONTENT_TYPES[path.suffix],
        hashlib.sha256(content).hexdigest()[:32],
    )
