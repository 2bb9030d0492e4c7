"""The client methods other than chat completions."""

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
    transcription_options,
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
    """What a client can do beside chat completions; `FoundryAPIClient` inherits it.

    Attributes:
        settings: The client's.
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
        """Texts as vectors, in their order.

        Whether the model embeds at all is found out before it is asked: by its task, else by its
        files. A chat model would answer with an error, and kill a service before SDK 2.1.

        Args:
            texts: One or several.
            model: Alias, id, or id without version, of a model that embeds.
            batch_size: Texts of one request; default 32. Several requests are made at once, as
                many as gain throughput.
            options: See `ModelOptions`; the timeout is each request's, the deadline that of all.

        Raises:
            InvalidRequest: A text is empty or cannot be sent: `.field` names it, as `texts[3]`.
            ModelTaskMismatch: The model makes no embeddings.
            UnsupportedFeature: The generation of the service has none.
            ModelError: The model is not known, not here, or can't be loaded.
            CallTimeout: A time bound fell.
            ServiceError: The service is at fault.
        """
        size = check_batch_size(batch_size)
        validated = validate_texts(texts)
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        return await embed(
            self._backend.tools,
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
        """What is said in a recording.

        SDK 2.x reads the recording itself, from a path on its own machine; bytes are written to a
        private file for that, which is removed again.

        Args:
            audio: A file, or the bytes of one. The engine reads WAV, MP3 and FLAC. It hears half a
                minute at a time: a longer WAV file is divided at silence and the texts are joined.
            model: Alias, id, or id without version, of a model that transcribes.
            language: Code of ISO 639, such as de. Only Nemotron can detect it, which is its
                default; for a Whisper of several languages it has to be given.
            temperature: 0 to 1; default the model's own.
            prompt: Words to expect, where the generation heeds that; SDK 2.x does not.
            options: See `ModelOptions`; the timeout bounds the silence before and between words.

        Raises:
            InvalidRequest: There is no such file, it cannot be read as audio, it is longer than
                half a minute and can't be divided, or an option is at fault; `.field` names it.
            ModelTaskMismatch: The model does not transcribe.
            UnsupportedFeature: The generation of the service does not, or ignores an option, or
                the service is on another machine and wants a path.
            ModelError: The model is not known, not here, or can't be loaded.
            CallTimeout: A time bound fell. The engine's work was stopped.
            ServiceError: The service is at fault.
        """
        audio_input, speech_options = (
            AudioInput(audio),
            transcription_options(language, temperature, prompt),
        )
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
        """As `transcribe`, piece by piece. Leaving the loop early frees the engine.

        A service that takes uploads sends all of it at once.

        Raises:
            FoundryError: As `transcribe`; bad arguments at once, the rest while iterating.
        """
        audio_input, speech_options = (
            AudioInput(audio),
            transcription_options(language, temperature, prompt),
        )
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
        """Any request to the service, for what there is no method for.

        The breaker, time bounds, retries and credentials are those of every call. It is tried
        again only where that cannot do the same thing twice: GET, HEAD, OPTIONS, PUT and DELETE.
        Methods other than GET, HEAD and OPTIONS wait for their turn. What the request does to the
        service is not looked at: it may be told to shut down, and 1.x dies of some requests.

        Args:
            method: Such as GET.
            path: On the service, such as /v1/models. From 2.1 on the models of this machine are
                behind /catalogs/local.
            json: The body, encoded as JSON.
            params: The query.
            headers: Beside the client's own, which win.
            options: See `TimeOptions`.

        Returns:
            An answer whose status is a success.

        Raises:
            InvalidRequest: An argument is at fault, or the service says so.
            RouteNotFound: The service has no such route.
            CallTimeout: A time bound fell.
            ServiceError: The service is at fault.
        """
        raw = make_raw_request(method, path, json=json, params=params, headers=headers)
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        return await make_raw_call(self._backend.tools, raw, timeout_s, deadline).result()

    async def _stream_parts(
        self,
        audio_input: AudioInput,
        speech_options: dict[str, Any],
        request: CallRequest[TranscriptionOperation],
        transcript: TranscriptJoiner,
    ) -> AsyncGenerator[TranscriptionChunk]:
        """What is said in each part of the recording, and where the time went as the last."""
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
        yield transcript.final_chunk()

    async def _stream_part(
        self, request: CallRequest[TranscriptionOperation], transcript: TranscriptJoiner
    ) -> AsyncGenerator[TranscriptionChunk]:
        is_streamed = False
        call = Call(self._backend.tools, request, request.request)
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
