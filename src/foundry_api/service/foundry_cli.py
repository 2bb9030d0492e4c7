"""What Foundry's own command line says about its service.

It is asked, never believed: it is known to say that nothing runs while its service answers, and
the other way round.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.errors import ConfigurationError
from foundry_api.settings import normalised_url

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["announced_urls"]

TIMEOUT_S = 0.8
MAX_OUTPUT_BYTES = 64 * 1024

_URL = re.compile(r"https?://[^\s/\"']+:\d+")


async def announced_urls(timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """The addresses that the installed `foundry` names, best first; none without it.

    Both of its dialects are asked at once: 0.10 knows `server`, earlier ones know `service`.
    """
    program = shutil.which("foundry")
    if program is None:
        return ()
    server, service = await asyncio.gather(
        _output([program, "server", "status", "-o", "json"], timeout_s),
        _output([program, "service", "status"], timeout_s),
    )
    return tuple(_normalised([*_server_urls(server), *_URL.findall(service)]))


def _server_urls(output: str) -> list[str]:
    """`webUrls` of the JSON, before which log lines may stand; of the table of 0.10.2 otherwise."""
    _, brace, rest = output.partition("{")
    try:
        told: Any = msgspec.json.decode(brace + rest)
    except msgspec.DecodeError:
        return re.findall(r"Web URLs\s+(https?://\S+)", output)
    urls: Any = cast("dict[str, Any]", told).get("webUrls")
    return [url for url in cast("list[Any]", urls or []) if isinstance(url, str)]


def _normalised(urls: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for url in urls:
        try:
            address = normalised_url(url)
        except ConfigurationError:
            continue  # not an address after all
        if address not in seen:
            seen.add(address)
            yield address


def _no_window() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0


async def _output(command: list[str], timeout_s: float) -> str:
    """What a command prints; nothing of one that hangs, which is killed.

    Its output goes to a file, because a pipe would stay open as long as any process that the
    command left behind.
    """
    with tempfile.TemporaryFile() as file:
        try:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - the user's own program; it returns at once
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                creationflags=_no_window(),
            )
        except OSError:
            return ""
        try:
            await asyncio.to_thread(process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        file.seek(0)
        return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")
