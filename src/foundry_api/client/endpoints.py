"""Embeddings, transcription, and raw requests."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.embeddings import BATCH_SIZE, check_batch_size, embed, validate_texts
from foundry_api.core.options import ModelOptions, TimeOptions, resolve_timeouts
from foundry_api.core.raw_request import make_raw_call, make_raw_request
from foundry_api.core.transcriptions import (
    AudioInput,
    TranscriptionOperation,
    TranscriptJoiner,
    make_transcription_options,
)
from foundry_api.types.checks import check_flag, check_name
from foundry_api.types.errors import FoundryError
from foundry_api.types.results import TranscriptionChunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping
    from os import PathLike
    from typing import Unpack

    from foundry_api.core.runtime import ClientRuntime
    from foundry_api.types.results import Embeddings, RawResponse, Transcription
    from foundry_api.types.settings import Settings

__all__ = ["EndpointMethods"]


class EndpointMethods:
    """Methods for embeddings, transcription and raw requests.

    Attributes:
        settings: The client's settings.
    """

    settings: Settings
    _backend: ClientRuntime

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        model: str,
        batch_size: int = BATCH_SIZE,
        **options: Unpack[ModelOptions],
    ) -> Embeddings:
        """Return the embeddings of texts, in their order.

        The model's task is checked first, because a request for a chat model's embeddings crashes
        services before SDK 2.1.

        Args:
            texts: One text or several.
            model: Alias, id, or id without version, of an embedding model.
            batch_size: Texts per request; default 32. Several requests run at once.
            options: See `ModelOptions`. The time-out is that of each request, the deadline that of
                the whole call.

        Raises:
            InvalidRequest: A text is empty or invalid; `.field` names it, such as `texts[3]`.
            ModelTaskMismatch: The model is not an embedding model.
            UnsupportedFeature: The service generation has no embeddings.
            ModelError: The model is unknown, not downloaded, or cannot be loaded.
            CallTimeout: The time-out or the deadline passed.
            ServiceError: The service failed.
        """
        size = check_batch_size(batch_size)
        validated = validate_texts(texts)
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        return await embed(
            self._backend.call_context,
            validated,
            model=check_name("model", model),
            timeout_s=timeout_s,
            deadline=deadline,
            batch_size=size,
            download=check_flag("download", options.get("download")),
        )

    async def transcribe(
        self,
        audio: str | PathLike[str] | bytes,
        *,
        model: str,
        language: str | None = None,
        temperature: float | None = None,
        prompt: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> Transcription:
        """Transcribe an audio file.

        SDK 2.x reads the file by its path. For bytes, a private file is written and removed after
        the call.

        Args:
            audio: The path of a WAV, MP3 or FLAC file, or its content. The engine transcribes 30 s
                at a time: a longer WAV file is split at silence, and the texts are joined.
            model: Alias, id, or id without version, of a transcription model.
            language: ISO 639 code, such as de. Nemotron detects the language by default; a
                multilingual Whisper requires it.
            temperature: 0 to 1; default the model's own.
            prompt: Words to expect, if the service generation supports it; SDK 2.x does not.
            options: See `ModelOptions`. The time-out is the maximum silence before and between
                words.

        Raises:
            InvalidRequest: The file does not exist, is not audio, or is longer than 30 s and cannot
                be split, or an option is invalid; `.field` names it.
            ModelTaskMismatch: The model is not a transcription model.
            UnsupportedParameter: The service generation ignores the prompt.
            UnsupportedFeature: The service generation has no transcription, or the service is on
                another machine and needs a path.
            ModelError: The model is unknown, not downloaded, or cannot be loaded.
            CallTimeout: The time-out or the deadline passed. The engine's work was stopped.
            ServiceError: The service failed.
        """
        audio_input = AudioInput(audio)
        speech_options = make_transcription_options(language, temperature, prompt)
        transcript = TranscriptJoiner(speech_options.get("language"))
        request = self._build_operation_request(
            TranscriptionOperation(audio_input, speech_options), model, options
        )
        async with aclosing(
            self._stream_parts(audio_input, speech_options, request, transcript)
        ) as chunks:
            async for _ in chunks:
                pass
        return transcript.make_transcription()

    def stream_transcribe(
        self,
        audio: str | PathLike[str] | bytes,
        *,
        model: str,
        language: str | None = None,
        temperature: float | None = None,
        prompt: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> AsyncGenerator[TranscriptionChunk]:
        """Stream a transcription. Leaving the loop early stops the engine's work.

        Takes the arguments of `transcribe`. A service that takes uploads sends one chunk.

        Raises:
            FoundryError: As in `transcribe`; for invalid arguments at once, else while iterating.
        """
        audio_input = AudioInput(audio)
        speech_options = make_transcription_options(language, temperature, prompt)
        request = self._build_operation_request(
            TranscriptionOperation(audio_input, speech_options), model, options
        )
        return self._stream_parts(
            audio_input, speech_options, request, TranscriptJoiner(speech_options.get("language"))
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, str | int | float | bool] | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[TimeOptions],
    ) -> RawResponse:
        """Send any request to the service and return the response.

        The breaker, time-outs, retries and credentials are those of every call. Only idempotent
        methods are retried: GET, HEAD, OPTIONS, PUT and DELETE. Methods that may do work (all but
        GET, HEAD and OPTIONS) count against the concurrency limit. The effect of the request is
        your responsibility: it may shut the service down, and some requests crash SDK 1.x.

        Args:
            method: HTTP method, such as GET.
            path: Path on the service, such as /v1/models. From 2.1 on, registered models are
                below /catalogs/local.
            json: The body, encoded as JSON.
            params: Query parameters.
            headers: Extra headers; the client's own override them.
            options: See `TimeOptions`.

        Returns:
            The response, whose status is a success.

        Raises:
            InvalidRequest: An argument is invalid, or the service rejected the request.
            RouteNotFound: The service has no such route.
            CallTimeout: The time-out or the deadline passed.
            ServiceError: The service failed.
        """
        raw = make_raw_request(method, path, json=json, params=params, headers=headers)
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        return await make_raw_call(self._backend.call_context, raw, timeout_s, deadline).result()

    async def _stream_parts(
        self,
        audio_input: AudioInput,
        speech_options: dict[str, Any],
        request: CallRequest[TranscriptionOperation],
        transcript: TranscriptJoiner,
    ) -> AsyncGenerator[TranscriptionChunk]:
        """Stream the text of each part, then a last chunk with the timings."""
        try:
            async with aclosing(audio_input.iter_parts()) as parts:
                async for part in parts:
                    part_request = replace(
                        request, request=TranscriptionOperation(part, speech_options)
                    )
                    async with (
                        part,
                        aclosing(self._stream_part(part_request, transcript)) as chunks,
                    ):
                        async for chunk in chunks:
                            yield chunk
        except FoundryError as error:
            error.partial = transcript.text
            raise
        yield transcript.make_final_chunk()

    async def _stream_part(
        self, request: CallRequest[TranscriptionOperation], transcript: TranscriptJoiner
    ) -> AsyncGenerator[TranscriptionChunk]:
        is_streamed = False
        call = Call(self._backend.call_context, request, request.request)
        async with aclosing(call.chunks()) as chunks:
            async for chunk in chunks:
                is_streamed = True
                yield replace(chunk, text=transcript.add(chunk.text))
        text = call.outcome.result[0]
        if not is_streamed and text:
            yield TranscriptionChunk(transcript.add(text), call.outcome.model.id)
        transcript.end_part(call.outcome)

    def _build_operation_request(
        self, operation: TranscriptionOperation, model: str, options: ModelOptions
    ) -> CallRequest[TranscriptionOperation]:
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        download = check_flag("download", options.get("download"))
        name = check_name("model", model)
        return CallRequest((name,), operation, timeout_s, deadline, download)
