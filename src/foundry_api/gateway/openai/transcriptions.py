"""`POST /v1/audio/transcriptions`: an uploaded recording as text."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.core.audio import read_duration_s, read_wave
from foundry_api.gateway.checks import make_invalid, make_missing, make_unsupported
from foundry_api.gateway.errors import RequestError, make_error_event, translate_error
from foundry_api.gateway.files.store import Draft
from foundry_api.gateway.forms import FormReader, convert_form, require_form
from foundry_api.gateway.idempotency import make_fingerprint, respond_once
from foundry_api.gateway.limits.admission import UNKNOWN_WAIT_S, Work
from foundry_api.gateway.openai.choices import END_OF_STREAM
from foundry_api.gateway.streaming import LastEvent, send_events
from foundry_api.gateway.tokens import estimate_text_tokens
from foundry_api.storage.threads import finish_opening
from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.limits.admission import Ticket

__all__ = ["create_transcription"]

# Of the recordings that are being received or transcribed, each with its largest size: they are on
# the disk before any limit of their key is looked at.
MAX_RECORDINGS_BYTES = 2**30
# Fields of OpenAI's that ask for what the engine cannot do.
UNSUPPORTED = {
    "timestamp_granularities": "The engine returns no times of words.",
    "include": "The engine returns no log probabilities.",
    "known_speaker_names": "The engine does not identify speakers.",
    "known_speaker_references": "The engine does not identify speakers.",
}
FORMATS = ("json", "text", "verbose_json")

# Whisper reads 30 s at once, as 1,500 positions, and writes at most 448 tokens for them.
WINDOW_S = 30.0
TOKENS_PER_WINDOW = 1500
OUTPUT_TOKENS_PER_WINDOW = 448
# Of a recording whose duration is unknown, such as Ogg.
UNKNOWN_DURATION_S = 30.0


class TranscriptionForm(msgspec.Struct, kw_only=True):
    """The fields of the form."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: str = "json"
    temperature: float | None = None
    stream: bool = False


class Upload:
    """A form with a recording.

    Attributes:
        form: The fields.
        path: The recording, in a file that only this user can read.
        duration_s: Its duration; None if it is unknown.
        fingerprint: The same for the same form.
    """

    def __init__(
        self, form: TranscriptionForm, path: Path, duration_s: float | None, fingerprint: bytes
    ) -> None:
        self.form = form
        self.path = path
        self.duration_s = duration_s
        self.fingerprint = fingerprint


async def create_transcription(exchange: Exchange) -> web.StreamResponse:
    """Transcribe a recording, at once or as a stream."""
    with _reserve_room(exchange):
        return await _transcribe_upload(exchange)


async def _transcribe_upload(exchange: Exchange) -> web.StreamResponse:
    async with _receive(exchange) as upload:
        if upload.form.stream:
            return await _respond(exchange, upload)
        return await respond_once(exchange, upload.fingerprint, lambda: _respond(exchange, upload))


async def _respond(exchange: Exchange, upload: Upload) -> web.StreamResponse:
    form = upload.form
    model = exchange.require_model(form.model)
    windows = math.ceil((upload.duration_s or UNKNOWN_DURATION_S) / WINDOW_S)
    prompt_tokens = windows * TOKENS_PER_WINDOW
    ticket = exchange.admit(
        Work(
            model=model,
            prompt_tokens=prompt_tokens,
            max_tokens=windows * OUTPUT_TOKENS_PER_WINDOW,
            body_bytes=exchange.request.content_length or 0,
        )
    )
    chunks = _transcribe(exchange, upload, model)
    if form.stream:
        return await send_events(exchange, _stream(chunks, ticket, prompt_tokens), make_error_event)
    async with ticket, aclosing(chunks):
        text = "".join([text async for text in chunks])
        tokens = estimate_text_tokens(text)
        ticket.settle(Usage(prompt_tokens, tokens, prompt_tokens + tokens))
    if form.response_format == "text":
        return exchange.respond(f"{text}\n".encode(), content_type="text/plain")
    answer: dict[str, Any] = {"text": text}
    if upload.duration_s is not None:
        answer["usage"] = {"type": "duration", "seconds": math.ceil(upload.duration_s)}
    if form.response_format == "verbose_json":
        duration_s = upload.duration_s or 0.0
        segment = {"id": 0, "start": 0.0, "end": duration_s, "text": text}
        answer |= {
            "task": "transcribe",
            "language": form.language or "",
            "duration": duration_s,
            "segments": [segment],
        }
    return exchange.respond_json(answer)


async def _stream(
    chunks: AsyncGenerator[str], ticket: Ticket, prompt_tokens: int
) -> AsyncGenerator[bytes]:
    texts: list[str] = []
    async with ticket, aclosing(chunks):
        async for text in chunks:
            ticket.add_output(1)
            texts.append(text)
            yield _encode("transcript.text.delta", delta=text)
        text = "".join(texts)
        tokens = estimate_text_tokens(text)
        ticket.settle(Usage(prompt_tokens, tokens, prompt_tokens + tokens))
    yield LastEvent(_encode("transcript.text.done", text=text) + END_OF_STREAM)


def _encode(event: str, **members: str) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode({"type": event, **members})


async def _transcribe(exchange: Exchange, upload: Upload, model: str) -> AsyncGenerator[str]:
    form = upload.form
    try:
        async with aclosing(
            exchange.context.client.stream_transcribe(
                upload.path,
                model=model,
                language=form.language,
                temperature=form.temperature,
                prompt=form.prompt,
                **exchange.time_options,
            )
        ) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield chunk.text
    except FoundryError as error:
        # The caller knows its file, not ours.
        error.message = error.message.replace(str(upload.path), "file")
        if getattr(error, "field", None) == "prompt":  # that of a chat is its messages
            refusal = translate_error(error)
            refusal.param = "prompt"
            raise refusal from error
        raise


@contextmanager
def _reserve_room(exchange: Exchange) -> Generator[None]:
    """Refuse a recording while too many others are on the disk.

    Raises:
        RequestError: 503.
    """
    context = exchange.context
    most = context.config.max_upload_bytes
    size = min(exchange.request.content_length or most, most)
    if context.recording_bytes and context.recording_bytes + size > MAX_RECORDINGS_BYTES:
        raise RequestError(
            503,
            "queue_full",
            "Too many recordings are being transcribed already. Call again later.",
            retry_after_s=UNKNOWN_WAIT_S,
        )
    context.recording_bytes += size
    try:
        yield
    finally:
        context.recording_bytes -= size


@asynccontextmanager
async def _receive(exchange: Exchange) -> AsyncGenerator[Upload]:
    """Receive a form; the file of its recording is removed at the end."""
    require_form(exchange, "a file and a model")
    files = exchange.context.files
    try:
        draft = await finish_opening(
            asyncio.to_thread(Draft, files.directory),
            lambda draft: asyncio.to_thread(draft.discard),
        )
    except OSError as error:
        raise files.translate_failure(error) from error
    path = draft.path
    try:
        form_reader = FormReader(exchange, draft.file, setting="max_upload_bytes")
        try:
            await form_reader.read()
            await asyncio.to_thread(draft.file.close)
        except ConnectionError:  # the client left
            raise
        except OSError as error:
            raise files.translate_failure(error) from error
        form = _make_form(form_reader.fields)
        if form_reader.digest is None:
            raise make_missing("file")
        duration_s = await asyncio.to_thread(_read_duration_s, path)
        content = msgspec.json.encode([sorted(form_reader.fields.items()), form_reader.digest])
        fingerprint = make_fingerprint(exchange, content)
        yield Upload(form, path, duration_s, fingerprint)
    finally:
        await asyncio.shield(asyncio.to_thread(draft.discard))


def _make_form(fields: dict[str, str]) -> TranscriptionForm:
    for name, value in fields.items():
        member = name.removesuffix("[]")
        # The one segment of `verbose_json` has the times of the recording.
        is_segment = (member, value) == ("timestamp_granularities", "segment")
        if value and member in UNSUPPORTED and not is_segment:
            raise make_unsupported(name, UNSUPPORTED[member])
    form = convert_form({name: text for name, text in fields.items() if text}, TranscriptionForm)
    if form.response_format not in FORMATS:
        raise make_invalid(
            "response_format",
            f"response_format is {form.response_format[:32]!r}; the gateway has "
            f"{', '.join(FORMATS)}.",
        )
    return form


def _read_duration_s(path: Path) -> float | None:
    with path.open("rb") as file:
        wave = read_wave(file)
        duration_s = wave.duration_s if wave is not None else read_duration_s(file)
    return duration_s if duration_s is not None and math.isfinite(duration_s) else None
