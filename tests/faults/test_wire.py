"""What the client makes of the bytes of a response, however they are cut, with both parsers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from foundry_api.types import errors
from foundry_api.wire import loopback
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.http_parser import ResponseParser, make_parser
from foundry_api.wire.loopback import LoopbackConnection
from foundry_api.wire.transport import Request

from .hostile import ScriptedServer, make_response
from .wire_cases import CASES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from foundry_api.wire.http_parser import Parser, ParserEvents
    from foundry_api.wire.transport import Response

    from .hostile import Peer
    from .wire_cases import Case

LONGEST_IN_BYTES = 10_000


def at_once(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        yield data[position : position + 1]


def at_random(data: bytes) -> Iterator[bytes]:
    """Cut at the same random places in each run."""
    sizes = random.Random(len(data))  # noqa: S311 - not for secrets
    while data:
        size = sizes.choice((1, 2, 3, 7, 40, 1000))
        yield data[:size]
        data = data[size:]


@pytest.fixture(params=[make_parser, ResponseParser], ids=["httptools", "python"])
def parser(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ParserEvents], Parser]:
    """The parser of new connections."""
    made: Callable[[ParserEvents], Parser] = request.param
    monkeypatch.setattr(loopback, "make_parser", made)
    return made


@pytest.fixture
async def transport(parser: object) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.aclose()


def test_httptools_is_used_where_it_exists() -> None:
    assert make_parser is not ResponseParser


async def read_all(response: Response) -> bytes:
    try:
        return b"".join([block async for block in iterate(response)])
    finally:
        response.close()


async def iterate(response: Response) -> AsyncIterator[bytes]:
    while block := await response.read():
        yield block


@pytest.mark.parametrize("cut", [at_once, byte_by_byte, at_random])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_outcome_of_a_response(
    transport: HttpTransport,
    case: Case,
    cut: Callable[[bytes], Iterator[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if cut is byte_by_byte and len(case.data) > LONGEST_IN_BYTES:
        cut = at_random
    receive = LoopbackConnection.data_received

    def receive_pieces(connection: LoopbackConnection, data: bytes) -> None:
        # Only the parser sees the pieces: an error after what was read would be another one.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "_wake", lambda: None)
            for piece in cut(data):
                receive(connection, piece)
        connection._wake()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(case.data)
        if case.closes:
            return
        await peer.request()
        await peer.send(make_response(200, b"next"))
        await peer.wait_closed()

    async def healthy(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_response(200, b"next"))

    monkeypatch.setattr(LoopbackConnection, "data_received", receive_pieces)
    async with ScriptedServer(script, healthy) as server:
        request = Request(case.method, f"{server.base_url}/")
        if isinstance(case.outcome, bytes):
            response = await transport.send(request)
            assert (response.status, await read_all(response)) == (case.status, case.outcome)
        else:
            with pytest.raises(errors.FoundryError) as caught:
                await read_all(await transport.send(request))
            assert type(caught.value) is case.outcome
            assert caught.value.service == server.base_url
        following = await transport.send(Request("GET", f"{server.base_url}/"))
        assert await read_all(following) == b"next"
        assert len(server.peers) == (1 if case.reused else 2)
