"""The faults that a service can have, and what the caller gets for each: the table of this suite.

`docs/faults.md` is written from it:

    python -m tests.faults.table
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types import errors

from .hostile import (
    DONE,
    KEEP_ALIVE,
    LAST_CHUNK,
    ROLE,
    STOP,
    USAGE,
    answer,
    break_off,
    choice,
    dies_when_used_again,
    error_json,
    event,
    events,
    hang_up,
    head,
    piece,
    say,
    say_for_ever,
    say_slowly,
    say_stream,
    silent,
    stream_head,
    token,
    whole,
)

if TYPE_CHECKING:
    from .hostile import Script

TIMEOUT_S = 0.3
"""The `timeout` of a call that nothing else ends."""

PATIENCE_S = 15.0
"""The `timeout` of a call that the fault itself ends, however busy the machine is."""

RETRIES = 2


@dataclass(frozen=True)
class Fault:
    """What a service does, and what comes of it.

    Attributes:
        script: What it does with every request.
        error: What the caller gets; None for the whole answer.
        attempts: How often the call was tried, of three times at most.
        text: The text that the caller has in the end.
        capacity: What ended it: the fault itself, the `timeout`, or the cap on signs of life.
        pooled: Whether the call uses the connection of one before it.
    """

    script: Script
    error: type[errors.FoundryError] | None
    attempts: int = 1
    text: str = ""
    capacity: str = "at once"
    pooled: bool = False

    @property
    def timeout_s(self) -> float:
        """The `timeout` of the call."""
        return PATIENCE_S if self.capacity == "at once" else TIMEOUT_S


def answered(script: Script) -> Fault:
    """Odd, but a whole answer."""
    return Fault(script, None, text="Hello")


def retried(script: Script, error: type[errors.FoundryError]) -> Fault:
    """Another attempt may succeed, as long as no text came."""
    return Fault(script, error, attempts=1 + RETRIES)


def final(script: Script, error: type[errors.FoundryError], text: str = "") -> Fault:
    """Sending it again would change nothing, or contradict the text that is there."""
    return Fault(script, error, text=text)


def timed_out(script: Script, text: str = "", bound: str = "timeout") -> Fault:
    """Nobody can say how long it would have taken."""
    return Fault(script, errors.SilenceTimeout, text=text, capacity=bound)


NO_SUCH_ROUTE = (
    b"server=oatpp/1.3.0\ncode=404\ndescription=Not Found\n"
    b"message=No mapping for HTTP-method: 'POST', URL: '/catalogs/local/v1/chat/completions'"
)
BUFFER_LIMIT = b'{"error":{"message":"SSE stream buffer limit exceeded","type":"server_error"}}'
WHOLE = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}'
HTML = b"<html>\n<head><title>502 Bad Gateway</title></head>\n</html>"
DEEP = b"[" * 100_000
BOOM = event(error={"message": "boom", "type": "server_error"})
GB = 2**30


BOMB = gzip.compress(b": keep-alive\n\n" * 2**21)
HELLO = b"".join(events("Hel", "lo"))
PIECES = (piece(HELLO), LAST_CHUNK)


def _bytes_of(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def compressed(*blocks: bytes, coding: str = "gzip") -> Script:
    """A stream that is compressed though nobody asked for it."""
    more = f"Content-Encoding: {coding}\r\n"
    return say(head(content_type="text/event-stream", more=more), *map(piece, blocks), LAST_CHUNK)


def odd(*parts: bytes, reason: str | None = "stop") -> Script:
    """The text, something odd, and the finish reason."""
    last = () if reason is None else (choice({}, reason),)
    return say(stream_head(), *map(piece, (ROLE, token("Hello"), *parts, *last)), LAST_CHUNK)


NOBODY = retried(silent, errors.ServiceNotRunning)
"""No server, so no script: `test_faults.py` looks at a port that is closed."""

ODD_ANSWERS: dict[str, Fault] = {
    "headers doubled, as SDK 2.2.1 sends them": answered(
        say(stream_head(), *map(piece, events("Hel", "lo")), LAST_CHUNK)
    ),
    "all in one packet": answered(
        say(stream_head(), piece(b"".join(events("Hel", "lo"))), LAST_CHUNK)
    ),
    "one byte at a time": answered(
        say_slowly(
            [bytes([byte]) for byte in stream_head() + b"".join(map(piece, events("Hel", "lo")))]
        )
    ),
    "keep-alive comments between the events": answered(
        say(stream_head(), *(piece(KEEP_ALIVE + each) for each in events("Hel", "lo")))
    ),
    "the connection is kept open behind the answer": answered(
        say_stream(*events("Hel", "lo"), stay=True)
    ),
    "no [DONE]": answered(
        say(stream_head(), *map(piece, (ROLE, token("Hello"), STOP, USAGE)), LAST_CHUNK)
    ),
    "more text after [DONE]": answered(say_stream(*events("Hello"), token(" again"), stay=True)),
    "no length and no chunks, until the connection closes": answered(
        say(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", *events("Hello"))
    ),
    "plain text that claims to be gzip": answered(
        say(
            head(
                content_type="text/event-stream; charset=utf-8", more="Content-Encoding: gzip\r\n"
            ),
            *map(piece, events("Hello")),
            LAST_CHUNK,
        )
    ),
    "no content type": answered(say(head(), *map(piece, events("Hello")), LAST_CHUNK)),
    "gzip, unasked": answered(compressed(gzip.compress(HELLO))),
    "gzip in two parts, a byte at a time": answered(
        compressed(*_bytes_of(gzip.compress(HELLO[:99]) + gzip.compress(HELLO[99:])))
    ),
    "deflate, unasked": answered(compressed(zlib.compress(HELLO), coding="Deflate")),
    "deflate without zlib's head": answered(
        compressed(zlib.compress(HELLO)[2:-4], coding="deflate")
    ),
    "201": answered(say(head(201, content_type="text/event-stream"), *PIECES)),
    "a media type in capitals, with a parameter": answered(
        say(head(content_type='Text/Event-Stream ; Charset="UTF-8"'), *PIECES)
    ),
    "102 and 103 ahead of the answer": answered(
        say(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            *(stream_head(), *PIECES),
        )
    ),
    "300 headers": answered(
        say(head(content_type="text/event-stream", more="X-More: and more\r\n" * 300), *PIECES)
    ),
    "a header of 16 KB": answered(
        say(head(content_type="text/event-stream", more=f"X-Long: {'a' * 2**14}\r\n"), *PIECES)
    ),
    "an end mark among blanks": answered(odd(b"data:  [DONE] \n\n", reason=None)),
    "an end mark without a blank": answered(odd(b"data:[DONE]\n\n", reason=None)),
    "text and [DONE] without a finish reason": answered(odd(DONE, reason=None)),
    "a finish reason that is empty": answered(odd(choice({}, ""), DONE, reason=None)),
    "an unknown finish reason": answered(odd(reason="eos_token")),
    "a last event whose delta is null": answered(
        odd(event(choices=[{"delta": None, "finish_reason": "stop"}]), reason=None)
    ),
    "a last event without a delta": answered(
        odd(event(choices=[{"finish_reason": "stop"}]), reason=None)
    ),
    "choices that are null": answered(odd(event(choices=None))),
    "counts of tokens that are null or fractions": answered(
        odd(event(choices=[], usage={"prompt_tokens": None, "completion_tokens": 2.0}))
    ),
    "an event without data": answered(odd(b"data:\n\n")),
    "two answers mixed": answered(
        odd(
            event(choices=[{"index": 1, "delta": {"content": "No"}}]),
            event(choices=[{"index": 1, "delta": {}, "finish_reason": "length"}]),
        )
    ),
    "a pooled connection that dies when it is used again": Fault(
        dies_when_used_again(answer("Hello")), None, attempts=2, text="Hello", pooled=True
    ),
}

BEFORE_THE_ANSWER: dict[str, Fault] = {
    "closed instead of answered": retried(hang_up, errors.ServiceCrashed),
    "reset instead of answered": retried(break_off, errors.ServiceCrashed),
    "closed within the head": retried(say(b"HTTP/1.1 200 OK\r\nContent-"), errors.ServiceCrashed),
    "accepted, and nothing said": timed_out(silent),
    "half a head, and nothing more": timed_out(say(b"HTTP/1.1 200 OK\r\nContent-", stay=True)),
    "garbage": final(say(b"\x16\x03\x01\x02\x00\x01\x00" * 99, stay=True), errors.ProtocolError),
    "another protocol": final(say(b"SSH-2.0-OpenSSH_9.9\r\n", stay=True), errors.ProtocolError),
    "no status": final(say(b"HTTP/1.1 fine OK\r\n\r\n", stay=True), errors.ProtocolError),
    "endless headers": final(
        say_for_ever(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"), errors.ProtocolError
    ),
    "an oversized header": final(
        say(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 50_000 + b"\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "a header that never ends": final(
        say_for_ever(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a" * 1000), errors.ProtocolError
    ),
    "a NUL in a header": final(
        say(b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "a negative length": final(
        say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "two different lengths": final(
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", stay=True),
        errors.ProtocolError,
    ),
    "a length and chunks": final(
        say(head(more="Content-Length: 5\r\n"), LAST_CHUNK, stay=True), errors.ProtocolError
    ),
}

OTHER_ANSWERS: dict[str, Fault] = {
    "400 of the caller": final(
        say(whole(400, error_json("Invalid request: x"))), errors.InvalidRequest
    ),
    "400 without a body": final(say(whole(400, b"")), errors.InvalidRequest),
    "401 of a proxy": final(
        say(whole(401, b"Unauthorized", content_type=None)), errors.InvalidRequest
    ),
    "404 of the router": final(
        say(whole(404, NO_SUCH_ROUTE, content_type=None)), errors.RouteMissing
    ),
    "404 of the catalog": final(
        say(whole(404, error_json("Model not found: No model matching 'tiny:1'"))),
        errors.ModelNotFound,
    ),
    "405 without a body": final(say(whole(405, b"")), errors.RouteMissing),
    "408": retried(say(whole(408, b"")), errors.ServerError),
    "409": final(say(whole(409, b"")), errors.InvalidRequest),
    "413": final(say(whole(413, b"")), errors.InvalidRequest),
    "429": retried(say(whole(429, b"")), errors.ServiceOverloaded),
    "503 with Retry-After": retried(
        say(head(503, length=0, more="Retry-After: 1\r\n")), errors.ServiceOverloaded
    ),
    "500 of the engine": retried(
        say(whole(500, error_json("Inference failed: x"))), errors.ServerError
    ),
    "500 in plain text": retried(
        say(whole(500, b"server=oatpp/1.3.0\ncode=500\nmessage=bad cast", content_type=None)),
        errors.ServerError,
    ),
    "500 for bad JSON, as 1.x sends it": final(
        say(whole(500, error_json("Invalid OpenAI JSON request: x"))), errors.InvalidRequest
    ),
    "500 for a context overflow, as 2.0.1 sends it": final(
        say(whole(500, error_json("input_ids size (6007) exceeds max length (4096)"))),
        errors.ContextOverflow,
    ),
    "500 for a grammar": final(
        say(whole(500, error_json("Error creating grammar: x"))), errors.GrammarError
    ),
    "500 with an endless body": retried(
        say_for_ever(head(500), piece(b"a" * 9999)), errors.ServerError
    ),
    "500 with a body of 1 GB": retried(
        say_for_ever(head(500, length=GB), b"a" * 2**16), errors.ServerError
    ),
    "500 with half a JSON body": retried(
        say(head(500, length=999), b'{"error":'), errors.ServerError
    ),
    "500 with half a body, and nothing more": timed_out(
        say(head(500, length=999), b'{"error":', stay=True)
    ),
    "500 with nested JSON": retried(say(whole(500, b'{"x":' + DEEP)), errors.ServerError),
    "500 that is not UTF-8": retried(
        say(whole(500, b'{"error":{"message":"\xff"}}')), errors.ServerError
    ),
    "502 with the page of a proxy": retried(
        say(whole(502, HTML, content_type="text/html")), errors.ServerError
    ),
    "302 to elsewhere": final(
        say(head(302, length=0, more="Location: /elsewhere\r\n"), stay=True), errors.ProtocolError
    ),
    "307 to another server": final(
        say(head(307, length=0, more="Location: http://127.0.0.1:1/\r\n"), stay=True),
        errors.ProtocolError,
    ),
    "101 to another protocol": final(
        say(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", stay=True), errors.ProtocolError
    ),
    "200 with an error in JSON": retried(
        say(whole(200, error_json("Model 'tiny:1' is not loaded."))), errors.ModelNotLoaded
    ),
    "200 with a page": final(say(whole(200, HTML, content_type="text/html")), errors.ProtocolError),
    "200 with a whole answer instead of a stream": answered(say(whole(200, WHOLE))),
    "200 with a whole answer of several lines": answered(
        say(whole(200, WHOLE.replace(b",", b",\r\n")))
    ),
    "200 with half a whole answer": retried(
        say(head(200, length=999) + WHOLE[:30]), errors.StreamInterrupted
    ),
    "200 with a completion without choices": final(
        say(whole(200, b'{"choices":[],"usage":{}}')), errors.ProtocolError
    ),
    "200 with a stream that is declared JSON": answered(
        say(whole(200, b"".join(events("Hello")), content_type="application/json"))
    ),
    "200 with a stream that is declared text": answered(
        say(whole(200, b"".join(events("Hello")), content_type="text/plain"))
    ),
    "200 with the JSON of an error, declared a stream": final(
        say(whole(200, b'{"error":"boom"}', content_type="text/event-stream")), errors.ServerError
    ),
    "204 without a body": final(say(b"HTTP/1.1 204 No Content\r\n\r\n"), errors.ProtocolError),
}

BROKEN_STREAMS: dict[str, Fault] = {
    "cut before any event": retried(say_stream(), errors.StreamInterrupted),
    "cut in the first text": retried(say_stream(ROLE, token("Hi")[:-9]), errors.StreamInterrupted),
    "cut between two texts": final(
        say_stream(ROLE, token("Hi"), token(" th")[:-9]), errors.StreamInterrupted, "Hi"
    ),
    "cut between finish reason and end": final(
        say(stream_head(), piece(ROLE + token("Hi"))), errors.StreamInterrupted, "Hi"
    ),
    "ended cleanly without finish reason and [DONE]": final(
        say(stream_head(), piece(ROLE + token("Hi")), LAST_CHUNK), errors.StreamInterrupted, "Hi"
    ),
    "[DONE] without a finish reason": retried(
        say_stream(ROLE, DONE, stay=True), errors.StreamInterrupted
    ),
    "stalled before the first text": timed_out(say_stream(ROLE, stay=True)),
    "stalled between two texts": timed_out(
        say_stream(ROLE, token("Hel"), token("lo"), stay=True), "Hello"
    ),
    "comments only": timed_out(
        say_for_ever(stream_head(), piece(KEEP_ALIVE), pause_s=0.005), bound="cap"
    ),
    "one byte now and then": timed_out(
        say_for_ever(stream_head() + piece(b"data: "), piece(b"a"), pause_s=0.005), bound="cap"
    ),
    "longer than its length": final(
        say(head(content_type="text/event-stream", length=len(ROLE)), ROLE, token("Hi")),
        errors.ProtocolError,
    ),
    "shorter than its length": final(
        say(head(content_type="text/event-stream", length=9999), ROLE, token("Hi")),
        errors.StreamInterrupted,
        "Hi",
    ),
    "brotli": final(compressed(b"\x8b\x02\x80\x03", coding="br"), errors.ProtocolError),
    "gzip that breaks off": retried(
        compressed(gzip.compress(HELLO)[:30]), errors.StreamInterrupted
    ),
    "gzip that is damaged": final(
        compressed(gzip.compress(HELLO)[:10] + b"\xff" * 50), errors.ProtocolError
    ),
    "a bomb of gzip": final(compressed(BOMB), errors.ProtocolError),
    "chunk sizes that are no numbers": final(
        say(stream_head(), b"zz\r\n", ROLE, b"\r\n", stay=True), errors.ProtocolError
    ),
    "chunks longer than told": final(
        say(stream_head(), b"5\r\n", ROLE, b"\r\n", stay=True), errors.ProtocolError
    ),
    "an error of the engine": retried(say_stream(ROLE, BOOM), errors.ServerError),
    "an error of the caller": final(
        say_stream(ROLE, event(error={"message": "no", "type": "invalid_request_error"})),
        errors.InvalidRequest,
    ),
    "an error without a type": final(
        say_stream(ROLE, event(error={"message": "boom", "type": None})), errors.ServerError
    ),
    "an error that is a text": final(say_stream(ROLE, event(error="boom")), errors.ServerError),
    "an event named error, of text": final(
        say_stream(b"event: error\ndata: boom\n\n"), errors.ServerError
    ),
    "an error as vLLM sends it": final(
        say_stream(event(object="error", message="boom", type="BadRequestError", code=400)),
        errors.InvalidRequest,
    ),
    "an error after text": final(say_stream(ROLE, token("Hi"), BOOM), errors.ServerError, "Hi"),
    "an error in the packet of the text": final(
        say(stream_head(), piece(ROLE + token("Hi") + BOOM)), errors.ServerError, "Hi"
    ),
    "an event named error": retried(
        say_stream(b"event: error\ndata: " + BUFFER_LIMIT + b"\n\n"), errors.ServerError
    ),
    "an event that is no JSON": final(say_stream(b"data: Hi\n\n", stay=True), errors.ProtocolError),
    "an event of another shape": final(
        say_stream(b'data: {"choices":"x"}\n\n', stay=True), errors.ProtocolError
    ),
    "a last event without its line end": answered(
        say(stream_head(), piece(token("Hello") + STOP.rstrip()), LAST_CHUNK)
    ),
    "a last event of which a part is missing": retried(
        say(stream_head(), piece(ROLE + STOP[:-9]), LAST_CHUNK), errors.StreamInterrupted
    ),
    "an event behind the end that is no JSON": answered(
        say_stream(token("Hello"), STOP, b"data: {\n\n", DONE)
    ),
    "an event of nested JSON": final(
        say_stream(b'data: {"x":' + DEEP + b"\n\n", stay=True), errors.ProtocolError
    ),
    "a finish reason that says that it broke off": final(
        say_stream(ROLE, token("Hi"), choice({}, "error"), stay=True),
        errors.StreamInterrupted,
        "Hi",
    ),
    "an event that never ends": final(
        say_for_ever(stream_head() + piece(b"data: "), piece(b"a" * 2**18)), errors.ProtocolError
    ),
    "an event of endless lines": final(
        say_for_ever(stream_head(), piece(b"data: a\n" * 2**16)), errors.ProtocolError
    ),
    "events without text for ever": final(
        say_for_ever(stream_head(), piece(event(choices=[], padding="a" * 2**16))),
        errors.ProtocolError,
    ),
    "a body of 1 GB without an event": final(
        say_for_ever(head(content_type="text/event-stream", length=GB), b"a" * 2**16),
        errors.ProtocolError,
    ),
}

FAULTS = ODD_ANSWERS | BEFORE_THE_ANSWER | OTHER_ANSWERS | BROKEN_STREAMS

_HEADINGS = {
    "Odd, but whole": ODD_ANSWERS,
    "No answer": {"nobody listens at its address": NOBODY, **BEFORE_THE_ANSWER},
    "Another answer than a stream": OTHER_ANSWERS,
    "A stream that breaks": BROKEN_STREAMS,
}

_INTRODUCTION = """\
# What happens when the service fails

Written by `python -m tests.faults.table` from the table that `tests/faults/` runs against a hostile
server on a real socket, with `retries={retries}`. What ends a call is the fault itself (at once),
its `timeout`, or ten times that where the service does send signs of life (cap). The text that had
come is in `error.partial`, and the error of every attempt in `error.causes`.
"""


def markdown() -> str:
    """The table for readers."""
    lines = _INTRODUCTION.format(retries=RETRIES).splitlines()
    for heading, faults in _HEADINGS.items():
        lines += ["", f"## {heading}", ""]
        lines += ["| the service | the caller gets | attempts | text kept | ended by |"]
        lines += ["|---|---|---|---|---|"]
        lines += [_row(name, fault) for name, fault in faults.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, fault: Fault) -> str:
    outcome = f"`{fault.error.__name__}`" if fault.error else "the answer"
    text = f"`{fault.text}`" if fault.text else "none"
    return f"| {name} | {outcome} | {fault.attempts} | {text} | {fault.capacity} |"


if __name__ == "__main__":
    from pathlib import Path

    Path("docs/faults.md").write_text(markdown(), encoding="utf-8")
