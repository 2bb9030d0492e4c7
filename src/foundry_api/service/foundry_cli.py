"""What Foundry's own command line says about its service.

It is asked, never believed: it is known to say that nothing runs while its service answers, and
the other way round.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.errors import ConfigurationError
from foundry_api.service.program import running
from foundry_api.settings import normalised_url

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "SERVER_STATUS",
    "SERVICE_STATUS",
    "Answer",
    "announced_urls",
    "ask",
    "json_in",
    "urls_of",
]

TIMEOUT_S = 0.8
SERVER_STATUS = ("server", "status", "-o", "json")
SERVICE_STATUS = ("service", "status")
"""The same question to 0.10, and to 0.3 to 0.9."""

_URL = re.compile(r"https?://[^\s/\"']+:\d+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said.

    Attributes:
        text: Its output; empty if it hung.
        code: Its exit code; None if it hung or could not be started.
        took_s: Seconds until it was over.
        hung: Whether it had to be killed.
    """

    text: str
    code: int | None
    took_s: float
    hung: bool = False


async def announced_urls(timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """The addresses that the installed `foundry` names, best first; none without it.

    Both of its dialects are asked at once: 0.10 knows `server`, earlier ones know `service`.
    """
    program = shutil.which("foundry")
    if program is None:
        return ()
    server, service = await asyncio.gather(
        ask([program, *SERVER_STATUS], timeout_s), ask([program, *SERVICE_STATUS], timeout_s)
    )
    return urls_of(server.text, service.text)


def urls_of(server: str, service: str) -> tuple[str, ...]:
    """The addresses in what the two dialects print, best first."""
    return tuple(_normalised([*_server_urls(server), *_URL.findall(service)]))


class _Server(msgspec.Struct, frozen=True, rename="camel"):
    web_urls: list[Any]


def _server_urls(output: str) -> list[str]:
    """`webUrls` of the JSON, which log lines may surround; of the table of 0.10.2 otherwise."""
    try:
        urls = msgspec.convert(json_in(output), _Server).web_urls
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return re.findall(r"Web URLs\s+(https?://\S+)", output)
    return [url for url in urls if isinstance(url, str) and url.startswith("http")]


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


async def ask(command: list[str], timeout_s: float) -> Answer:
    """What a command prints; nothing of one that hangs, which is killed."""
    began_at = time.monotonic()
    try:
        with running(command) as program:
            if not await program.ended(timeout_s):
                return Answer("", None, time.monotonic() - began_at, hung=True)
            return Answer(program.output(), program.code, time.monotonic() - began_at)
    except OSError:
        return Answer("", None, time.monotonic() - began_at)


def json_in(output: str) -> Any:
    """The JSON object in an output, which log lines may surround.

    Raises:
        ValueError: There is none.
        RecursionError: It is nested too deeply.
    """
    told, _ = json.JSONDecoder().raw_decode(output, max(output.find("{"), 0))
    return told
