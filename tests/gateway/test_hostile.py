"""Hostile requests on real sockets, also through TLS."""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.config import GatewayConfig
from gateway.hostile import ROWS, Row
from gateway.shapes import check_shape
from gateway.tls import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.gateway.gateway import Gateway


@pytest.fixture(params=["plain", "tls"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> GatewayConfig:
    """A gateway with and without TLS."""
    if request.param == "plain":
        return GatewayConfig(port=0)
    certificate, key = make_certificate(tmp_path)
    return GatewayConfig(port=0, tls_cert=certificate, tls_key=key)


async def send(gateway: Gateway, data: bytes, responses: int) -> tuple[list[bytes], bool]:
    """Send bytes; return the responses, and whether the gateway closed the connection."""
    address, _, port = gateway.url.partition("://")[2].rpartition(":")
    context = None
    if gateway.url.startswith("https"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(address, int(port), ssl=context)
    try:
        writer.write(data)
        received = b""
        closed = False
        while not closed and count_responses(received) < responses:
            async with asyncio.timeout(20):
                block = await reader.read(65536)
            received += block
            closed = not block
        if not closed:
            try:
                async with asyncio.timeout(0.2):
                    closed = not await reader.read(65536)
            except TimeoutError:
                pass
    except ConnectionError:  # the gateway closed while it had unread bytes of ours
        closed = True
    finally:
        writer.transport.abort()
    return split_responses(received), closed


def count_responses(data: bytes) -> int:
    return len(split_responses(data))


def split_responses(data: bytes) -> list[bytes]:
    """Split complete responses, which all have a Content-Length."""
    found: list[bytes] = []
    while match := re.match(rb"HTTP/1\.[01] \d{3}.*?\r\n\r\n", data, re.DOTALL):
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", match[0])
        end = match.end() + (int(length[1]) if length else 0)
        if len(data) < end:
            break
        found.append(data[:end])
        data = data[end:]
    return found


# The reported problems that the rows of each kind are about.
PROBLEMS = {
    "host": "p14_p21_",
    "target": "p14_",
    "origin": "p22_",
    "size": "p48_p49_",
    "path": "p46_",
    "method": "p46_",
}


def name_row(row: Row) -> str:
    return PROBLEMS.get(row.name.partition(":")[0], "p48_") + row.name


@pytest.mark.parametrize("row", ROWS, ids=name_row)
async def test_a_hostile_request_has_its_answer(gateway: Gateway, row: Row) -> None:
    responses, closed = await send(gateway, row.data, 1)
    statuses = [int(response.split()[1]) for response in responses]
    assert len(statuses) == 1
    assert statuses[0] in row.statuses, responses
    if row.closed:
        assert closed or b"connection: close" in responses[0].lower()
    if statuses[0] >= 400:
        head, _, body = responses[0].partition(b"\r\n\r\n")
        check_shape("error", json.loads(body))
        assert b"content-type: application/json" in head.lower()
    assert b"\r\nx-request-id: req_" in responses[0].lower()


async def test_a_request_in_a_refused_body_is_not_served(gateway: Gateway) -> None:
    inner = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    data = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
        b"Content-Length: %d\r\n\r\n" % len(inner)
    )
    last = inner.replace(b"healthz", b"nothing")
    responses, _ = await send(gateway, data + inner + last, 2)
    assert [int(response.split()[1]) for response in responses] == [415, 404]


async def test_mutated_requests_never_fail_the_gateway(gateway: Gateway) -> None:
    randomness = random.Random(7)  # noqa: S311 - repeatable
    for _ in range(60):
        data = bytearray(randomness.choice([row for row in ROWS if len(row.data) < 5000]).data)
        for _ in range(randomness.randint(1, 8)):
            position = randomness.randrange(len(data))
            data[position : position + randomness.randint(0, 3)] = randomness.randbytes(
                randomness.randint(0, 3)
            )
        # A second request ends the wait for the body of the first.
        responses, _ = await send(gateway, bytes(data) + b"\r\n\r\n" * 2 + b"x" * 9, 1)
        assert all(int(response.split()[1]) < 500 for response in responses), bytes(data)
