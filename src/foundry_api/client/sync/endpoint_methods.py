"""`SyncEndpointMethods`, written by `python3 dev.py generate` from client/endpoints.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.core.embeddings import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from os import PathLike
    from typing import Any, Unpack

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.options import ModelOptions, TimeOptions
    from foundry_api.types.results import Embeddings, RawResponse, Transcription, TranscriptionChunk

__all__ = ["SyncEndpointMethods"]


class SyncEndpointMethods:
    """What a client can do beside chat completions; `FoundryAPIClient` inherits it.

    Attributes:
        settings: The client's.
    """

    _loop: BackgroundLoop
    _async: FoundryAPIClient

    def embed(
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
        return self._loop.run(
            lambda: self._async.embed(texts, model=model, batch_size=batch_size, **options)
        )

    def transcribe(
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
        return self._loop.run(
            lambda: self._async.transcribe(
                audio,
                model=model,
                language=language,
                temperature=temperature,
                prompt=prompt,
                **options,
            )
        )

    def stream_transcribe(
        self,
        audio: str | PathLike[str] | bytes,
        *,
        model: str,
        language: str | None = None,
        temperature: float | None = None,
        prompt: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> Generator[TranscriptionChunk]:
        """As `transcribe`, piece by piece. Leaving the loop early frees the engine.

        A service that takes uploads sends all of it at once.

        Raises:
            FoundryError: As `transcribe`; bad arguments at once, the rest while iterating.
        """
        return self._loop.iterate(
            lambda: self._async.stream_transcribe(
                audio,
                model=model,
                language=language,
                temperature=temperature,
                prompt=prompt,
                **options,
            )
        )

    def request(
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
        return self._loop.run(
            lambda: self._async.request(
                method, path, json=json, params=params, headers=headers, **options
            )
        )
