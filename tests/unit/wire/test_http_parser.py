"""The HTTP parser in Python. `tests/faults/test_wire.py` compares its results with httptools."""

from __future__ import annotations

import tracemalloc

import pytest

from foundry_api.wire.http_parser import ResponseParser


class Ignored:
    """Ignores what a parser reports."""

    def on_body(self, data: bytes) -> None: ...

    def on_message_begin(self) -> None: ...

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_message_complete(self) -> None: ...


@pytest.mark.parametrize(
    "element",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_a_response_is_parsed_without_a_copy_of_what_follows(element: bytes) -> None:
    """Otherwise a block of many short responses takes quadratic time."""
    data = element * 10_000
    parser = ResponseParser(Ignored())
    tracemalloc.start()
    parser.feed_data(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.75 * len(data)  # a bytearray that shrinks takes 1.5
