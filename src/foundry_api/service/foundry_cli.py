"""What Foundry's own command line says about its service.

It is asked, never believed: it is known to say that nothing runs while its service answers, and
the other way round.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from foundry_api.errors import ConfigurationError
from foundry_api.service.program import running
from foundry_api.settings import normalised_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "SERVER_STATUS",
    "SERVICE_STATUS",
    "Answer",
    "announced_urls",
    "ask",
    "find_member",
    "is_own_address",
    "json_objects",
    "urls_of",
]

TIMEOUT_S = 3.0
"""It takes a second on real machines, and is known to hang."""

OTHER_DIALECT_S = 0.5
"""How long the other dialect is waited for when one has named a service."""

SERVER_STATUS = ("server", "status", "-o", "json")
SERVICE_STATUS = ("service", "status")
"""The same question to 0.10, and to 0.3 to 0.9."""

MAX_CANDIDATES = 1000
"""Braces that are looked at in an output; log lines have some, a long listing has very many."""

MAX_DEPTH = 4
_URL = re.compile(r"https?://[^\s/\"'<>;,|]+:\d+")
_COLOUR = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_WEB_URLS = re.compile(
    r"^.*\bWeb ?URLs?\b.*(?:\n(?=[^\n:]*https?://).*)*", re.MULTILINE | re.IGNORECASE
)
"""The row of a table, with the rows below it that only go on with URLs."""


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
    asked = [
        asyncio.ensure_future(ask([program, *question], timeout_s))
        for question in (SERVER_STATUS, SERVICE_STATUS)
    ]
    try:
        done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        if pending:  # the dialect that it does not know may hang
            known = any(urls_of(answer.result().text, answer.result().text) for answer in done)
            await asyncio.wait(pending, timeout=OTHER_DIALECT_S if known else None)
        return urls_of(*(answer.result().text if answer.done() else "" for answer in asked))
    finally:
        for answer in asked:
            answer.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def urls_of(server: str, service: str) -> tuple[str, ...]:
    """The addresses of this machine in what the two dialects print, best first."""
    return tuple(_normalised([*_server_urls(server), *_URL.findall(_COLOUR.sub("", service))]))


def _server_urls(output: str) -> list[str]:
    """`webUrls` of the JSON, which log lines may surround; of the table of 0.10.2 otherwise."""
    for document in json_objects(output):
        urls = find_member(document, "webUrls")
        if urls is not None:
            texts: list[Any] = urls if isinstance(urls, list) else [urls]  # pyright: ignore[reportUnknownVariableType] # JSON
            return [url for text in texts if isinstance(text, str) for url in _URL.findall(text)]
    rows = _WEB_URLS.findall(_COLOUR.sub("", output))
    return [url for row in rows for url in _URL.findall(row)]


def _normalised(urls: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for url in urls:
        try:
            address = normalised_url(url)
        except ConfigurationError:
            continue  # not an address after all
        if address not in seen and is_own_address(address):
            seen.add(address)
            yield address


def is_own_address(url: str) -> bool:
    """Whether a URL names this machine by an address of its own: prompts stay here.

    Other names are not looked up, since the answer may come from the network.
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if address.is_loopback:
        return True
    import psutil  # noqa: PLC0415 - few services listen on anything but the loopback

    own = {each.address.partition("%")[0] for at in psutil.net_if_addrs().values() for each in at}
    return str(address) in own


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


def json_objects(output: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in an output, which log lines may surround, with braces of their own."""
    output = _COLOUR.sub("", output)
    decoder = json.JSONDecoder()
    start = output.find("{")
    for _ in range(MAX_CANDIDATES):
        if start < 0:
            return
        try:
            told, end = decoder.raw_decode(output, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield told
        start = output.find("{", end)


def find_member(document: object, name: str, depth: int = MAX_DEPTH) -> Any:
    """The value of a member, however it is capitalised, at the top of an object or within it."""
    if depth == 0 or not isinstance(document, dict):
        return None
    members = cast("dict[str, Any]", document)
    for key, value in members.items():
        if key.lower() == name.lower():
            return value
    inner = (find_member(value, name, depth - 1) for value in members.values())
    return next((value for value in inner if value is not None), None)
