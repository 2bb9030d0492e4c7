"""Sends the contents of files, block by block."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from foundry_api.storage.threads import finish_opening

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from aiohttp import web

    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.files.types import StoredFile

__all__ = ["send_files"]

BLOCK_BYTES = 256 * 1024


async def send_files(
    exchange: Exchange, stored: Sequence[StoredFile], content_type: str, not_found: RequestError
) -> web.StreamResponse:
    """Send files, one after the other.

    Raises:
        RequestError: `not_found` if one was deleted meanwhile.
    """
    paths = [exchange.context.files.get_path(one.id) for one in stored]
    try:
        files = await finish_opening(asyncio.to_thread(_open, paths), _close)
    except FileNotFoundError:
        raise not_found from None
    try:
        exchange.headers |= {
            # A browser must not take what somebody uploaded for a page of the gateway.
            "Content-Disposition": "attachment",
            "Content-Length": str(sum(one.size for one in stored)),
        }
        response = exchange.respond(None, content_type=content_type)
        await response.prepare(exchange.request)
        if exchange.request.method != "HEAD":
            for file in files:
                while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                    await response.write(block)
    finally:
        await asyncio.shield(_close(files))
    return response


def _open(paths: Sequence[Path]) -> list[BinaryIO]:
    with ExitStack() as stack:
        files: list[BinaryIO] = [stack.enter_context(path.open("rb")) for path in paths]
        stack.pop_all()
    return files


async def _close(files: Sequence[BinaryIO]) -> None:
    for file in files:
        await asyncio.to_thread(file.close)
