"""Bodies of `POST /v1/audio/transcriptions`.

SDK 2.x takes JSON with a file path on its own machine. The CLI's service takes a multipart upload.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.results import TranscriptionChunk
from foundry_api.wire.errors import NOT_JSON, parse_stream_error
from foundry_api.wire.sse import EventDecoder, is_end_mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from foundry_api.wire.sse import Event

__all__ = [
    "TRANSCRIPTIONS_ROUTE",
    "TranscriptionBody",
    "TranscriptionStream",
    "encode_multipart",
    "make_transcription_body",
    "parse_transcription",
]

TRANSCRIPTIONS_ROUTE = "/v1/audio/transcriptions"
TranscriptionBody = tuple[str, tuple[bytes, ...]]  # the text, and the raw data it came in

_DONE = b"[DONE]"
_DELTA, _REPETITION = "transcript.text.delta", "transcript.text.done"


class _Event(msgspec.Struct):
    text: str | None = None
    type: str | None = None
    delta: str | None = None
    error: Any = None  # in any shape: `parse_stream_error` reads it


class _TranscriptionResponse(msgspec.Struct):
    text: str


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE_DECODER = msgspec.json.Decoder(_TranscriptionResponse)


def make_transcription_body(model_id: str, filename: str, options: Mapping[str, object]) -> bytes:
    """Make the JSON body of a streamed transcription of a file on the service's machine."""
    body = {"model": model_id, "filename": filename, **options, "stream": True}
    return msgspec.json.encode(body)


def encode_multipart(
    model_id: str, filename: str, content: bytes, options: Mapping[str, object]
) -> tuple[str, bytes]:
    """Return the content type and the body of an upload."""
    boundary = secrets.token_hex(16)
    fields = {"model": model_id, **options, "response_format": "json"}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    # The escapes of WHATWG's multipart/form-data encoding.
    quoted = filename.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = "".join((*parts, head)).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def parse_transcription(body: bytes) -> TranscriptionBody:
    """Decode a response that is not streamed."""
    try:
        return _RESPONSE_DECODER.decode(body).text, (body,)
    except NOT_JSON as error:
        raise ProtocolError(f"the answer contains no transcription: {error}") from error


class TranscriptionStream:
    """Decodes the events of one streamed transcription, then `[DONE]`.

    SDK 2.x sends `{"id", "text"}`. A gateway sends OpenAI's events, of which the last repeats the
    text.
    """

    def __init__(self, model_id: str) -> None:
        self.done = False
        self._model_id = model_id
        self._events = EventDecoder()
        self._chunks: list[TranscriptionChunk] = []

    @property
    def chunk_count(self) -> int:
        return len(self._chunks)

    def feed(self, block: bytes) -> Iterator[TranscriptionChunk]:
        """Yield the pieces of text that this block completes."""
        for event in self._events.feed(block):
            if event.data == _DONE or is_end_mark(event.data):
                self.done = True
                break
            if not event.data.strip():
                continue  # sent as keep-alive
            text = _decode_text(event)
            if text is None:
                continue
            chunk = TranscriptionChunk(text, self._model_id, raw=event.data)
            self._chunks.append(chunk)
            yield chunk

    def finish(self) -> TranscriptionBody:
        """Return the complete text; raise StreamInterrupted if the end mark is missing."""
        if not self.done:
            raise StreamInterrupted(
                "the stream ended before the transcription did", model=self._model_id
            )
        text = "".join(chunk.text for chunk in self._chunks)
        return text, tuple(chunk.raw for chunk in self._chunks)


def _decode_text(event: Event) -> str | None:
    """Return the text of an event; None for one that only repeats what was sent."""
    try:
        members = _EVENT.decode(event.data)
    except NOT_JSON as error:
        failure = parse_stream_error(event.data, is_error=event.name == b"error")
        raise failure or ProtocolError(f"an event is not a transcription: {error}") from error
    if members.type == _DELTA:
        return members.delta or ""
    if members.type == _REPETITION:
        return None
    if members.error is not None or members.text is None:
        failure = parse_stream_error(event.data, is_error=event.name == b"error")
        if failure is not None:
            raise failure
    return members.text or ""
