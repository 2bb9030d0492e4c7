"""Hostile requests on real sockets, also through TLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.config import GatewayConfig
from gateway.hostile import HOST, OPEN, ROWS, Row, post
from gateway.hostile_forms import FORM_ROWS
from gateway.raw import check_error, connect
from gateway.tls import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.gateway.gateway import Gateway

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST


@pytest.fixture(params=["plain", "tls"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> GatewayConfig:
    """A gateway with and without TLS."""
    if request.param == "plain":
        return GatewayConfig(port=0)
    certificate, key = make_certificate(tmp_path)
    return GatewayConfig(port=0, tls_cert=certificate, tls_key=key)


# The reported problems that the rows of each kind are about.
PROBLEMS = {
    "host": "p14_p21_",
    "target": "p14_",
    "origin": "p22_",
    "size": "p48_p49_",
    "path": "p46_",
    "method": "p46_",
    "form of transcriptions": "p25_p49_",
    "form of files": "p24_p49_",
}


KINDS: dict[str, list[Row]] = {}
for _row in (*ROWS, *FORM_ROWS):
    KINDS.setdefault(_row.name.partition(":")[0], []).append(_row)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: PROBLEMS.get(kind, "p48_") + kind)
async def test_a_hostile_request_has_its_answer(
    gateway: Gateway, kind: str, subtests: pytest.Subtests
) -> None:
    """One gateway answers all rows of a kind, each on its own connection."""
    for row in KINDS[kind]:
        with subtests.test(row.name):
            async with asyncio.timeout(60):
                await check_row(gateway, row)


async def check_row(gateway: Gateway, row: Row) -> None:
    async with connect(gateway) as connection:
        await connection.send(row.data)
        response = await connection.read_response()
        assert response is not None
        assert response.status in row.statuses, response
        assert response.headers["x-request-id"].startswith("req_")
        if response.status >= 400:
            check_error(response)
        if row.closed is OPEN:
            await connection.send(HEALTH)
            following = await connection.read_response()
            assert following is not None
            assert following.status == 200
        elif row.closed and not response.is_last:
            assert await connection.read_to_end() == []
    assert not gateway.context.running


BROKEN_BODIES = {
    "no size": b"zz\r\n",
    "a chunk too long": b"1\r\nxyz",
    "an endless extension": b"1;" + b"x" * 100_000,
    "many extensions": (b"1;" + b"x" * 1000 + b"\r\nx\r\n") * 100,
    "an endless trailer": b"1\r\nx\r\n0\r\n" + b"x: y\r\n" * 20_000,
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
@pytest.mark.parametrize(
    ("target", "content_type", "status"),
    [
        (b"/v1/embeddings", b"application/json", 400),
        (b"/v1/files", b"multipart/form-data; boundary=x", 400),
        (b"/v1/nothing", b"application/json", 404),  # it is answered before the body
    ],
)
async def test_p48_a_body_that_breaks_after_its_head(
    gateway: Gateway, body: bytes, target: bytes, content_type: bytes, status: int
) -> None:
    head = post(b"", b"Transfer-Encoding: chunked", b"Content-Type: " + content_type, target=target)
    async with connect(gateway) as connection:
        await connection.send(head, cuts=[len(head) - 1])
        early = [await connection.read_response()] if status == 404 else []
        await connection.send(body, cuts=range(1000, len(body), 10_000))
        responses = [*early, *await connection.read_to_end()]
    assert [response and response.status for response in responses] == [status]


async def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway) -> None:
    """More than a connection keeps before it stops reading; some with bodies of several sizes."""
    requests, statuses = b"", list[int]()
    for number in range(100):
        requests += HEALTH if number % 3 else HEALTH.replace(b"healthz", b"nothing")
        statuses.append(200 if number % 3 else 404)
        if not number % 10:
            requests += post(
                b"x" * (number * 100), b"Content-Type: text/plain", target=b"/v1/embeddings"
            )
            statuses.append(415)
    async with connect(gateway) as connection:
        await connection.send(requests, cuts=range(7, len(requests), 5000))
        responses = [await connection.read_response() for _ in statuses]
    assert [response and response.status for response in responses] == statuses


async def test_a_request_in_a_refused_body_is_not_served(gateway: Gateway) -> None:
    data = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
        b"Content-Length: %d\r\n\r\n" % len(HEALTH)
    )
    async with connect(gateway) as connection:
        await connection.send(data + HEALTH + HEALTH.replace(b"healthz", b"nothing"))
        responses = [await connection.read_response() for _ in range(2)]
    assert [response and response.status for response in responses] == [415, 404]
