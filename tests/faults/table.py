"""The faults of a service, and what a call returns or raises for each of them.

`docs/faults.md` is generated from this table:

    python -m tests.faults.table
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types import errors
from foundry_api.types.access_errors import AuthenticationFailed

from .hostile import (
    DONE,
    KEEP_ALIVE,
    LAST_CHUNK,
    ROLE,
    STOP,
    USAGE,
    answer_all,
    break_off,
    close_on_reuse,
    encode_choice,
    encode_chunk,
    encode_event,
    encode_events,
    encode_token,
    hang_up,
    make_error_json,
    make_head,
    make_response,
    make_stream_head,
    send_forever,
    send_once,
    send_slowly,
    send_stream,
    stay_silent,
)

if TYPE_CHECKING:
    from .hostile import Script

TIMEOUT_S = 0.3
"""The `timeout` of a call that ends in no other way."""

PATIENCE_S = 15.0
"""The `timeout` of a call that the fault itself ends, however busy the machine is."""

RETRIES = 2


@dataclass(frozen=True)
class Fault:
    """What a service does, and the outcome of a call.

    Attributes:
        script: What the service does with every request.
        error: What the caller gets; None for the complete answer.
        attempts: The number of attempts, at most three.
        text: The text that the caller has at the end.
        ended_by: What ends the call: the fault itself, the `timeout`, or the limit on keep-alives.
        pooled: Whether the call reuses a connection.
    """

    script: Script
    error: type[errors.FoundryError] | None
    attempts: int = 1
    text: str = ""
    ended_by: str = "fault"
    pooled: bool = False

    @property
    def timeout_s(self) -> float:
        """The `timeout` of the call."""
        return PATIENCE_S if self.ended_by == "fault" else TIMEOUT_S


def expect_answer(script: Script) -> Fault:
    """Expect the complete answer."""
    return Fault(script, None, text="Hello")


def expect_retry(script: Script, error: type[errors.FoundryError]) -> Fault:
    """Expect retries, because no text has arrived."""
    return Fault(script, error, attempts=1 + RETRIES)


def expect_error(script: Script, error: type[errors.FoundryError], text: str = "") -> Fault:
    """Expect no retry, because it would fail again or contradict the text so far."""
    return Fault(script, error, text=text)


def expect_timeout(script: Script, text: str = "", ended_by: str = "timeout") -> Fault:
    """Expect a timeout, which is not retried."""
    return Fault(script, errors.ReadTimeout, text=text, ended_by=ended_by)


NO_SUCH_ROUTE = (
    b"server=oatpp/1.3.0\ncode=404\ndescription=Not Found\n"
    b"message=No mapping for HTTP-method: 'POST', URL: '/catalogs/local/v1/chat/completions'"
)
BUFFER_LIMIT = b'{"error":{"message":"SSE stream buffer limit exceeded","type":"server_error"}}'
COMPLETE_BODY = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}'
HTML = b"<html>\n<head><title>502 Bad Gateway</title></head>\n</html>"
DEEP = b"[" * 100_000
BOOM = encode_event(error={"message": "boom", "type": "server_error"})
GB = 2**30


BOMB = gzip.compress(b": keep-alive\n\n" * 2**21)
HELLO = b"".join(encode_events("Hel", "lo"))
PIECES = (encode_chunk(HELLO), LAST_CHUNK)


def _split_bytes(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def send_compressed(*blocks: bytes, coding: str = "gzip") -> Script:
    """Send a compressed stream that was not requested."""
    more = f"Content-Encoding: {coding}\r\n"
    return send_once(
        make_head(content_type="text/event-stream", more=more),
        *map(encode_chunk, blocks),
        LAST_CHUNK,
    )


def send_odd(*parts: bytes, reason: str | None = "stop") -> Script:
    """Send text, something odd, and the finish reason."""
    last = () if reason is None else (encode_choice({}, reason),)
    return send_once(
        make_stream_head(),
        *map(encode_chunk, (ROLE, encode_token("Hello"), *parts, *last)),
        LAST_CHUNK,
    )


NOBODY = expect_retry(stay_silent, errors.ServiceNotRunning)
"""No server and no script: `test_faults.py` uses a closed port."""

ODD_ANSWERS: dict[str, Fault] = {
    "repeated headers, as SDK 2.2.1 sends them": expect_answer(
        send_once(make_stream_head(), *map(encode_chunk, encode_events("Hel", "lo")), LAST_CHUNK)
    ),
    "the whole answer in one packet": expect_answer(
        send_once(
            make_stream_head(), encode_chunk(b"".join(encode_events("Hel", "lo"))), LAST_CHUNK
        )
    ),
    "an answer sent one byte at a time": expect_answer(
        send_slowly(
            [
                bytes([byte])
                for byte in make_stream_head()
                + b"".join(map(encode_chunk, encode_events("Hel", "lo")))
            ]
        )
    ),
    "keep-alive comments between events": expect_answer(
        send_once(
            make_stream_head(),
            *(encode_chunk(KEEP_ALIVE + each) for each in encode_events("Hel", "lo")),
        )
    ),
    "the connection stays open after the answer": expect_answer(
        send_stream(*encode_events("Hel", "lo"), stay=True)
    ),
    "no `[DONE]` at the end": expect_answer(
        send_once(
            make_stream_head(),
            *map(encode_chunk, (ROLE, encode_token("Hello"), STOP, USAGE)),
            LAST_CHUNK,
        )
    ),
    "more text after `[DONE]`": expect_answer(
        send_stream(*encode_events("Hello"), encode_token(" again"), stay=True)
    ),
    "neither a length nor chunks; the answer ends when the connection closes": expect_answer(
        send_once(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", *encode_events("Hello")
        )
    ),
    "an uncompressed answer declared as gzip": expect_answer(
        send_once(
            make_head(
                content_type="text/event-stream; charset=utf-8", more="Content-Encoding: gzip\r\n"
            ),
            *map(encode_chunk, encode_events("Hello")),
            LAST_CHUNK,
        )
    ),
    "no content type": expect_answer(
        send_once(make_head(), *map(encode_chunk, encode_events("Hello")), LAST_CHUNK)
    ),
    "gzip that was not requested": expect_answer(send_compressed(gzip.compress(HELLO))),
    "gzip in two members, one byte at a time": expect_answer(
        send_compressed(*_split_bytes(gzip.compress(HELLO[:99]) + gzip.compress(HELLO[99:])))
    ),
    "deflate that was not requested": expect_answer(
        send_compressed(zlib.compress(HELLO), coding="Deflate")
    ),
    "deflate without the zlib header": expect_answer(
        send_compressed(zlib.compress(HELLO)[2:-4], coding="deflate")
    ),
    "201 instead of 200": expect_answer(
        send_once(make_head(201, content_type="text/event-stream"), *PIECES)
    ),
    "a media type in capitals, with a parameter": expect_answer(
        send_once(make_head(content_type='Text/Event-Stream ; Charset="UTF-8"'), *PIECES)
    ),
    "102 and 103 before the response": expect_answer(
        send_once(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            *(make_stream_head(), *PIECES),
        )
    ),
    "300 headers": expect_answer(
        send_once(
            make_head(content_type="text/event-stream", more="X-More: and more\r\n" * 300), *PIECES
        )
    ),
    "a header of 16 KB": expect_answer(
        send_once(
            make_head(content_type="text/event-stream", more=f"X-Long: {'a' * 2**14}\r\n"), *PIECES
        )
    ),
    "`[DONE]` with white space around it": expect_answer(
        send_odd(b"data:  [DONE] \n\n", reason=None)
    ),
    "`[DONE]` without a space before it": expect_answer(send_odd(b"data:[DONE]\n\n", reason=None)),
    "text and `[DONE]` without a finish reason": expect_answer(send_odd(DONE, reason=None)),
    "an empty finish reason": expect_answer(send_odd(encode_choice({}, ""), DONE, reason=None)),
    "an unknown finish reason": expect_answer(send_odd(reason="eos_token")),
    "a last event whose delta is null": expect_answer(
        send_odd(encode_event(choices=[{"delta": None, "finish_reason": "stop"}]), reason=None)
    ),
    "a last event without a delta": expect_answer(
        send_odd(encode_event(choices=[{"finish_reason": "stop"}]), reason=None)
    ),
    "an event with `choices: null`": expect_answer(send_odd(encode_event(choices=None))),
    "token counts that are null or fractions": expect_answer(
        send_odd(encode_event(choices=[], usage={"prompt_tokens": None, "completion_tokens": 2.0}))
    ),
    "an event without data": expect_answer(send_odd(b"data:\n\n")),
    "two interleaved answers": expect_answer(
        send_odd(
            encode_event(choices=[{"index": 1, "delta": {"content": "No"}}]),
            encode_event(choices=[{"index": 1, "delta": {}, "finish_reason": "length"}]),
        )
    ),
    "a pooled connection that closes when it is reused": Fault(
        close_on_reuse(answer_all("Hello")), None, attempts=2, text="Hello", pooled=True
    ),
}

BEFORE_THE_ANSWER: dict[str, Fault] = {
    "the connection closes without a response": expect_retry(hang_up, errors.ServiceCrashed),
    "the connection is reset without a response": expect_retry(break_off, errors.ServiceCrashed),
    "the connection closes within the headers": expect_retry(
        send_once(b"HTTP/1.1 200 OK\r\nContent-"), errors.ServiceCrashed
    ),
    "the connection is accepted, but nothing is sent": expect_timeout(stay_silent),
    "half of the headers, then silence": expect_timeout(
        send_once(b"HTTP/1.1 200 OK\r\nContent-", stay=True)
    ),
    "binary garbage": expect_error(
        send_once(b"\x16\x03\x01\x02\x00\x01\x00" * 99, stay=True), errors.ProtocolError
    ),
    "a response of another protocol": expect_error(
        send_once(b"SSH-2.0-OpenSSH_9.9\r\n", stay=True), errors.ProtocolError
    ),
    "an invalid status line": expect_error(
        send_once(b"HTTP/1.1 fine OK\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "endless headers": expect_error(
        send_forever(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"), errors.ProtocolError
    ),
    "a header of 50 KB": expect_error(
        send_once(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 50_000 + b"\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "an endless header": expect_error(
        send_forever(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a" * 1000), errors.ProtocolError
    ),
    "a NUL byte in a header": expect_error(
        send_once(b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "a negative Content-Length": expect_error(
        send_once(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "two different Content-Lengths": expect_error(
        send_once(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", stay=True
        ),
        errors.ProtocolError,
    ),
    "both Content-Length and chunks": expect_error(
        send_once(make_head(more="Content-Length: 5\r\n"), LAST_CHUNK, stay=True),
        errors.ProtocolError,
    ),
}

OTHER_ANSWERS: dict[str, Fault] = {
    "400 for an invalid request": expect_error(
        send_once(make_response(400, make_error_json("Invalid request: x"))), errors.InvalidRequest
    ),
    "400 without a body": expect_error(send_once(make_response(400, b"")), errors.InvalidRequest),
    "401 from a proxy": expect_error(
        send_once(make_response(401, b"Unauthorized", content_type=None)), AuthenticationFailed
    ),
    "404 for an unknown route": expect_error(
        send_once(make_response(404, NO_SUCH_ROUTE, content_type=None)), errors.RouteNotFound
    ),
    "404 for an unknown model": expect_error(
        send_once(
            make_response(404, make_error_json("Model not found: No model matching 'tiny:1'"))
        ),
        errors.ModelNotFound,
    ),
    "405 without a body": expect_error(send_once(make_response(405, b"")), errors.RouteNotFound),
    "408 without a body": expect_retry(send_once(make_response(408, b"")), errors.ServerError),
    "409 without a body": expect_error(send_once(make_response(409, b"")), errors.InvalidRequest),
    "413 without a body": expect_error(send_once(make_response(413, b"")), errors.InvalidRequest),
    "429 without a body": expect_retry(
        send_once(make_response(429, b"")), errors.ServiceOverloaded
    ),
    "503 with Retry-After": expect_retry(
        send_once(make_head(503, length=0, more="Retry-After: 1\r\n")), errors.ServiceOverloaded
    ),
    "500 from the engine": expect_retry(
        send_once(make_response(500, make_error_json("Inference failed: x"))), errors.ServerError
    ),
    "500 in plain text": expect_retry(
        send_once(
            make_response(500, b"server=oatpp/1.3.0\ncode=500\nmessage=bad cast", content_type=None)
        ),
        errors.ServerError,
    ),
    "500 for bad JSON, as 1.x sends it": expect_error(
        send_once(make_response(500, make_error_json("Invalid OpenAI JSON request: x"))),
        errors.InvalidRequest,
    ),
    "500 for a context overflow, as 2.0.1 sends it": expect_error(
        send_once(
            make_response(500, make_error_json("input_ids size (6007) exceeds max length (4096)"))
        ),
        errors.ContextOverflow,
    ),
    "500 for an invalid grammar": expect_error(
        send_once(make_response(500, make_error_json("Error creating grammar: x"))),
        errors.GrammarError,
    ),
    "500 with an endless body": expect_retry(
        send_forever(make_head(500), encode_chunk(b"a" * 9999)), errors.ServerError
    ),
    "500 with a body of 1 GB": expect_retry(
        send_forever(make_head(500, length=GB), b"a" * 2**16), errors.ServerError
    ),
    "500 with half a JSON body": expect_retry(
        send_once(make_head(500, length=999), b'{"error":'), errors.ServerError
    ),
    "500 with half a body, then silence": expect_timeout(
        send_once(make_head(500, length=999), b'{"error":', stay=True)
    ),
    "500 with deeply nested JSON": expect_retry(
        send_once(make_response(500, b'{"x":' + DEEP)), errors.ServerError
    ),
    "500 with a body that is not UTF-8": expect_retry(
        send_once(make_response(500, b'{"error":{"message":"\xff"}}')), errors.ServerError
    ),
    "502 with a proxy's HTML page": expect_retry(
        send_once(make_response(502, HTML, content_type="text/html")), errors.ServerError
    ),
    "302 to another path": expect_error(
        send_once(make_head(302, length=0, more="Location: /elsewhere\r\n"), stay=True),
        errors.ProtocolError,
    ),
    "307 to another server": expect_error(
        send_once(make_head(307, length=0, more="Location: http://127.0.0.1:1/\r\n"), stay=True),
        errors.ProtocolError,
    ),
    "101 to another protocol": expect_error(
        send_once(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "200 with an error in JSON": expect_retry(
        send_once(make_response(200, make_error_json("Model 'tiny:1' is not loaded."))),
        errors.ModelNotLoaded,
    ),
    "200 with an HTML page": expect_error(
        send_once(make_response(200, HTML, content_type="text/html")), errors.ProtocolError
    ),
    "200 with a complete answer instead of a stream": expect_answer(
        send_once(make_response(200, COMPLETE_BODY))
    ),
    "200 with a complete answer in several lines": expect_answer(
        send_once(make_response(200, COMPLETE_BODY.replace(b",", b",\r\n")))
    ),
    "200 with half of a complete answer": expect_retry(
        send_once(make_head(200, length=999) + COMPLETE_BODY[:30]), errors.StreamInterrupted
    ),
    "200 with a completion without choices": expect_error(
        send_once(make_response(200, b'{"choices":[],"usage":{}}')), errors.ProtocolError
    ),
    "200 with a stream declared as JSON": expect_answer(
        send_once(
            make_response(200, b"".join(encode_events("Hello")), content_type="application/json")
        )
    ),
    "200 with a stream declared as text": expect_answer(
        send_once(make_response(200, b"".join(encode_events("Hello")), content_type="text/plain"))
    ),
    "200 with an error in JSON declared as a stream": expect_error(
        send_once(make_response(200, b'{"error":"boom"}', content_type="text/event-stream")),
        errors.ServerError,
    ),
    "204 without a body": expect_error(
        send_once(b"HTTP/1.1 204 No Content\r\n\r\n"), errors.ProtocolError
    ),
}

BROKEN_STREAMS: dict[str, Fault] = {
    "a stream cut before any event": expect_retry(send_stream(), errors.StreamInterrupted),
    "a stream cut within its first text": expect_retry(
        send_stream(ROLE, encode_token("Hi")[:-9]), errors.StreamInterrupted
    ),
    "a stream cut within its second text": expect_error(
        send_stream(ROLE, encode_token("Hi"), encode_token(" th")[:-9]),
        errors.StreamInterrupted,
        "Hi",
    ),
    "a stream cut before its finish reason": expect_error(
        send_once(make_stream_head(), encode_chunk(ROLE + encode_token("Hi"))),
        errors.StreamInterrupted,
        "Hi",
    ),
    "a clean end without a finish reason and `[DONE]`": expect_error(
        send_once(make_stream_head(), encode_chunk(ROLE + encode_token("Hi")), LAST_CHUNK),
        errors.StreamInterrupted,
        "Hi",
    ),
    "`[DONE]` without text and finish reason": expect_retry(
        send_stream(ROLE, DONE, stay=True), errors.StreamInterrupted
    ),
    "silence before the first text": expect_timeout(send_stream(ROLE, stay=True)),
    "silence after some text": expect_timeout(
        send_stream(ROLE, encode_token("Hel"), encode_token("lo"), stay=True), "Hello"
    ),
    "keep-alive comments only": expect_timeout(
        send_forever(make_stream_head(), encode_chunk(KEEP_ALIVE), pause_s=0.005),
        ended_by="keep-alive limit",
    ),
    "an endless event, one byte at a time": expect_timeout(
        send_forever(
            make_stream_head() + encode_chunk(b"data: "), encode_chunk(b"a"), pause_s=0.005
        ),
        ended_by="keep-alive limit",
    ),
    "a stream longer than its Content-Length": expect_error(
        send_once(
            make_head(content_type="text/event-stream", length=len(ROLE)), ROLE, encode_token("Hi")
        ),
        errors.ProtocolError,
    ),
    "a stream shorter than its Content-Length": expect_error(
        send_once(
            make_head(content_type="text/event-stream", length=9999), ROLE, encode_token("Hi")
        ),
        errors.StreamInterrupted,
        "Hi",
    ),
    "brotli that was not requested": expect_error(
        send_compressed(b"\x8b\x02\x80\x03", coding="br"), errors.ProtocolError
    ),
    "truncated gzip": expect_retry(
        send_compressed(gzip.compress(HELLO)[:30]), errors.StreamInterrupted
    ),
    "damaged gzip": expect_error(
        send_compressed(gzip.compress(HELLO)[:10] + b"\xff" * 50), errors.ProtocolError
    ),
    "a gzip bomb": expect_error(send_compressed(BOMB), errors.ProtocolError),
    "chunk sizes that are not numbers": expect_error(
        send_once(make_stream_head(), b"zz\r\n", ROLE, b"\r\n", stay=True), errors.ProtocolError
    ),
    "chunks longer than their size": expect_error(
        send_once(make_stream_head(), b"5\r\n", ROLE, b"\r\n", stay=True), errors.ProtocolError
    ),
    "an error event of the engine": expect_retry(send_stream(ROLE, BOOM), errors.ServerError),
    "an error event for an invalid request": expect_error(
        send_stream(ROLE, encode_event(error={"message": "no", "type": "invalid_request_error"})),
        errors.InvalidRequest,
    ),
    "an error event without a type": expect_error(
        send_stream(ROLE, encode_event(error={"message": "boom", "type": None})), errors.ServerError
    ),
    "an error event whose error is a string": expect_error(
        send_stream(ROLE, encode_event(error="boom")), errors.ServerError
    ),
    "an event named `error` with plain text": expect_error(
        send_stream(b"event: error\ndata: boom\n\n"), errors.ServerError
    ),
    "an error event as vLLM sends it": expect_error(
        send_stream(encode_event(object="error", message="boom", type="BadRequestError", code=400)),
        errors.InvalidRequest,
    ),
    "an error event after text": expect_error(
        send_stream(ROLE, encode_token("Hi"), BOOM), errors.ServerError, "Hi"
    ),
    "an error event in the same packet as text": expect_error(
        send_once(make_stream_head(), encode_chunk(ROLE + encode_token("Hi") + BOOM)),
        errors.ServerError,
        "Hi",
    ),
    "an event named `error` with JSON": expect_retry(
        send_stream(b"event: error\ndata: " + BUFFER_LIMIT + b"\n\n"), errors.ServerError
    ),
    "an event that is not JSON": expect_error(
        send_stream(b"data: Hi\n\n", stay=True), errors.ProtocolError
    ),
    "an event with members of the wrong type": expect_error(
        send_stream(b'data: {"choices":"x"}\n\n', stay=True), errors.ProtocolError
    ),
    "a last event without its line ending": expect_answer(
        send_once(
            make_stream_head(), encode_chunk(encode_token("Hello") + STOP.rstrip()), LAST_CHUNK
        )
    ),
    "a truncated last event": expect_retry(
        send_once(make_stream_head(), encode_chunk(ROLE + STOP[:-9]), LAST_CHUNK),
        errors.StreamInterrupted,
    ),
    "an event after the end that is not JSON": expect_answer(
        send_stream(encode_token("Hello"), STOP, b"data: {\n\n", DONE)
    ),
    "an event of deeply nested JSON": expect_error(
        send_stream(b'data: {"x":' + DEEP + b"\n\n", stay=True), errors.ProtocolError
    ),
    "the finish reason `error`": expect_error(
        send_stream(ROLE, encode_token("Hi"), encode_choice({}, "error"), stay=True),
        errors.StreamInterrupted,
        "Hi",
    ),
    "an endless event": expect_error(
        send_forever(make_stream_head() + encode_chunk(b"data: "), encode_chunk(b"a" * 2**18)),
        errors.ProtocolError,
    ),
    "an event of endless lines": expect_error(
        send_forever(make_stream_head(), encode_chunk(b"data: a\n" * 2**16)), errors.ProtocolError
    ),
    "endless events without text": expect_error(
        send_forever(
            make_stream_head(), encode_chunk(encode_event(choices=[], padding="a" * 2**16))
        ),
        errors.ProtocolError,
    ),
    "a body of 1 GB without an event": expect_error(
        send_forever(make_head(content_type="text/event-stream", length=GB), b"a" * 2**16),
        errors.ProtocolError,
    ),
}

FAULTS = ODD_ANSWERS | BEFORE_THE_ANSWER | OTHER_ANSWERS | BROKEN_STREAMS

_HEADINGS = {
    "Unusual but complete answers": ODD_ANSWERS,
    "No valid response": {"no server listens at the address": NOBODY, **BEFORE_THE_ANSWER},
    "A response that is not a stream": OTHER_ANSWERS,
    "A broken stream": BROKEN_STREAMS,
}

_INTRODUCTION = """\
# Faults of a service

What a call returns or raises when the service misbehaves.

Generated by `python -m tests.faults.table` from the table that the tests in `tests/faults/` run
against a hostile server on a real socket, with `max_retries={retries}`. A call is ended by its
answer, by the fault itself, by its `timeout`, or, if the service sends keep-alives, by their limit
of ten times the `timeout`. The error has the text so far in `.partial`, and the errors of all
attempts in `.causes`.
"""


def make_markdown() -> str:
    """Return the table in Markdown."""
    lines = _INTRODUCTION.format(retries=RETRIES).splitlines()
    for heading, faults in _HEADINGS.items():
        lines += ["", f"## {heading}", ""]
        lines += ["| fault | the call returns or raises | attempts | text so far | ended by |"]
        lines += ["|---|---|---|---|---|"]
        lines += [_make_row(name, fault) for name, fault in faults.items()]
    return "\n".join(lines) + "\n"


def _make_row(name: str, fault: Fault) -> str:
    outcome = f"`{fault.error.__name__}`" if fault.error else "the answer"
    text = f"`{fault.text}`" if fault.text else "none"
    ended_by = fault.ended_by if fault.error else "answer"
    return f"| {name} | {outcome} | {fault.attempts} | {text} | {ended_by} |"


if __name__ == "__main__":
    from pathlib import Path

    Path("docs/faults.md").write_text(make_markdown(), encoding="utf-8")
