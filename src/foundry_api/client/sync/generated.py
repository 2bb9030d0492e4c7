"""The blocking client, written by `python3 dev.py generate` from the async classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

from foundry_api.client.client import FoundryAPIClient
from foundry_api.client.sync.background import BackgroundLoop
from foundry_api.core.catalog import MAX_AGE_S
from foundry_api.core.downloads import STALL_S
from foundry_api.core.embeddings import BATCH_SIZE
from foundry_api.core.residency.manager import DRAIN_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from foundry_api.batch.types import BatchAnswer, BatchKeywords, BatchResult, Failures
    from foundry_api.client.batch import BatchItems, Prompts
    from foundry_api.client.chat import Messages
    from foundry_api.client.models import Models, Progress
    from foundry_api.client.responses import Conversation, Responses
    from foundry_api.core.cache.base import CacheStats, ResponseCache
    from foundry_api.core.catalog import CatalogListing
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.core.options import (
        ChatOptions,
        CompletionOptions,
        ModelOptions,
        ResponseOptions,
        StructuredOptions,
        TimeOptions,
    )
    from foundry_api.core.residency.policy import ModelResidency
    from foundry_api.core.responses import Input
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.model_import.types import ImportProgress, Precision
    from foundry_api.monitor.health import HealthStatus
    from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
    from foundry_api.resilience.limiter import Limiter, LimiterSettings
    from foundry_api.tools.definition import ToolLike
    from foundry_api.tools.executor import OnError
    from foundry_api.tools.results import ToolResult, ToolRun
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import Listener
    from foundry_api.types.messages import Chunk, Completion, Message
    from foundry_api.types.models import Model, ModelUser
    from foundry_api.types.results import (
        Embeddings,
        RawResponse,
        Response,
        ResponseEvent,
        ResponseItem,
        ResponsePage,
        Transcription,
        TranscriptionChunk,
    )
    from foundry_api.types.services import ServiceOptions
    from foundry_api.types.settings import Settings
    from foundry_api.wire.hooks import Auth, RequestHook, ResponseHook
    from foundry_api.wire.transport import Transport

__all__ = ["FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"]

_T = TypeVar("_T")


class SyncChatMethods:
    """Chat and completion methods."""

    _loop: BackgroundLoop
    _async: FoundryAPIClient

    @overload
    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: type[_T],
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: Any,
        **options: Unpack[StructuredOptions[Any]],
    ) -> Completion[Any]: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        choice: Sequence[str],
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        grammar: str,
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    def complete(
        self, prompt: str, *, system: str | None = None, **options: Unpack[StructuredOptions[str]]
    ) -> Completion[None]: ...

    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        max_repairs: int = 2,
        **options: Unpack[ChatOptions],
    ) -> Completion[Any]:
        """Complete a prompt and return the answer.

        With `response_model`, `choice`, `grammar` or `parser`, `.parsed` of the result is the
        parsed answer. If an answer is invalid, the model gets the problems and another try.

        Args:
            prompt: The user's message.
            system: The system message, which is sent before it.
            response_model: Type of the answer: a pydantic model, a msgspec Struct, a dataclass, a
                TypedDict, a type built of these such as `list[Person]`, or a JSON schema. SDK 2.1
                and later enforce it while they generate; for others the prompt describes it.
            choice: The answer is one of these strings; enforced like `response_model`.
            grammar: The answer follows this Lark grammar; SDK 2.1 and later.
            parser: Converts the text of the answer, or raises ValueError to reject it. Any other
                exception ends the call.
            validators: Called with the parsed answer, or with its text. Each may reject it by
                raising ValueError or returning False. Any other exception ends the call.
            max_repairs: How often an invalid answer is sent back to the model. A model that
                repeats its answer is sampled with a new seed at a temperature of at least 1.
            options: See `ChatOptions`.

        Raises:
            InvalidRequest: An argument is invalid; nothing was sent.
            UnsupportedFeature: The service generation does not support this; nothing was sent.
            ModelError: The model is unknown, not downloaded, or cannot be loaded.
            CallTimeout: The time-out or the deadline passed. The engine's work was stopped.
            StreamInterrupted: The answer broke off; `.partial` has the text so far.
            ServiceError: The service failed.
            StructuredOutputError: No valid answer, a truncated one, or an exception in `parser` or
                a validator; `.partial` has the text.
        """
        calls: Any = self._async
        return self._loop.run(
            lambda: calls.complete(
                prompt,
                system=system,
                response_model=response_model,
                choice=choice,
                grammar=grammar,
                parser=parser,
                validators=validators,
                max_repairs=max_repairs,
                **options,
            )
        )

    def stream_complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        chunk_parser: Callable[[Chunk], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        **options: Unpack[ChatOptions],
    ) -> Generator[Chunk]:
        """Stream the answer to a prompt. Leaving the loop early stops the engine's work.

        With a type for the answer, each chunk's `.partial` is the value so far, in plain lists and
        dicts, and the last chunk's `.parsed` is the complete value. There are no repairs, because
        text that was streamed cannot be taken back.

        Args:
            prompt: The user's message.
            system: The system message, which is sent before it.
            response_model: As in `complete`.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `complete`; called once, with the complete text.
            chunk_parser: Called with every chunk that has text; returns the chunk's `.partial`.
            validators: As in `complete`.
            options: See `ChatOptions`.

        Raises:
            FoundryError: As in `complete`; for invalid arguments at once, else while iterating.
        """
        return self._loop.iterate(
            lambda: self._async.stream_complete(
                prompt,
                system=system,
                response_model=response_model,
                choice=choice,
                grammar=grammar,
                parser=parser,
                chunk_parser=chunk_parser,
                validators=validators,
                **options,
            )
        )

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        response_model: type[_T],
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    def chat(
        self, messages: Messages, *, response_model: Any, **options: Unpack[StructuredOptions[Any]]
    ) -> Completion[Any]: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        choice: Sequence[str],
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    def chat(
        self, messages: Messages, *, grammar: str, **options: Unpack[StructuredOptions[str]]
    ) -> Completion[str]: ...

    @overload
    def chat(
        self, messages: Messages, **options: Unpack[StructuredOptions[str]]
    ) -> Completion[None]: ...

    def chat(
        self,
        messages: Messages,
        *,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        max_repairs: int = 2,
        **options: Unpack[ChatOptions],
    ) -> Completion[Any]:
        """Complete a conversation and return the answer. Raises the errors of `complete`.

        Args:
            messages: The messages, oldest first: `Message`s or mappings with role and content.
            response_model: As in `complete`.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `complete`.
            validators: As in `complete`.
            max_repairs: As in `complete`.
            options: See `ChatOptions`.
        """
        calls: Any = self._async
        return self._loop.run(
            lambda: calls.chat(
                messages,
                response_model=response_model,
                choice=choice,
                grammar=grammar,
                parser=parser,
                validators=validators,
                max_repairs=max_repairs,
                **options,
            )
        )

    def stream_chat(
        self,
        messages: Messages,
        *,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        chunk_parser: Callable[[Chunk], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        **options: Unpack[ChatOptions],
    ) -> Generator[Chunk]:
        """Stream the answer to a conversation. Raises the errors of `stream_complete`.

        Args:
            messages: The messages, oldest first: `Message`s or mappings with role and content.
            response_model: As in `complete`.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `stream_complete`.
            chunk_parser: As in `stream_complete`.
            validators: As in `complete`.
            options: See `ChatOptions`.
        """
        return self._loop.iterate(
            lambda: self._async.stream_chat(
                messages,
                response_model=response_model,
                choice=choice,
                grammar=grammar,
                parser=parser,
                chunk_parser=chunk_parser,
                validators=validators,
                **options,
            )
        )


class SyncToolMethods:
    """Chat methods that run tools."""

    _loop: BackgroundLoop
    _async: FoundryAPIClient

    def run_tools(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        *,
        max_turns: int = 8,
        parallel: int = 4,
        tool_timeout: float = 30.0,
        on_error: OnError = "return",
        **options: Unpack[CompletionOptions],
    ) -> ToolRun:
        """Chat with a model that may call tools, run the tools, and return the final answer.

            def clock(city: str) -> str:
                ...

            run = client.run_tools("What time is it in Bern?", [clock])
            run.content, run.calls

        Failed tool calls are reported to the model, which may try again: unknown tools, invalid
        arguments, exceptions and time-outs. Plain functions run in a thread, coroutine functions
        on the event loop. `tool_choice` applies to the first turn, `deadline` to the whole run.

        Args:
            messages: A prompt, or the messages so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: Maximum number of requests to the model.
            parallel: How many tool calls of one turn run at once.
            tool_timeout: Maximum seconds for one tool call.
            on_error: `return` errors to the model (default), or `raise` them.
            options: See `CompletionOptions`.

        Raises:
            ToolDefinitionError: A function cannot be described to the model; nothing was sent.
            MaxTurnsExceeded: The model still called tools after `max_turns`; `.run` has the run.
            ToolFailed: A tool call failed, and `on_error` is `raise`.
            ToolCallError: A tool call of the model cannot be parsed.
            FoundryError: As in `complete`.
        """
        return self._loop.run(
            lambda: self._async.run_tools(
                messages,
                tools,
                max_turns=max_turns,
                parallel=parallel,
                tool_timeout=tool_timeout,
                on_error=on_error,
                **options,
            )
        )

    def stream_run_tools(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        *,
        max_turns: int = 8,
        parallel: int = 4,
        tool_timeout: float = 30.0,
        on_error: OnError = "return",
        **options: Unpack[CompletionOptions],
    ) -> Generator[Chunk | ToolResult | ToolRun]:
        """Stream a run with tools: the chunks of every answer, every tool's result, then the run.

        Args:
            messages: As in `run_tools`.
            tools: As in `run_tools`.
            max_turns: As in `run_tools`.
            parallel: As in `run_tools`.
            tool_timeout: As in `run_tools`.
            on_error: As in `run_tools`.
            options: See `CompletionOptions`.

        Raises:
            FoundryError: As in `run_tools`; for invalid arguments at once, else while iterating.
        """
        return self._loop.iterate(
            lambda: self._async.stream_run_tools(
                messages,
                tools,
                max_turns=max_turns,
                parallel=parallel,
                tool_timeout=tool_timeout,
                on_error=on_error,
                **options,
            )
        )


class SyncEndpointMethods:
    """Methods for embeddings, transcription and raw requests.

    Attributes:
        settings: The client's settings.
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
        """Stream a transcription. Leaving the loop early stops the engine's work.

        Takes the arguments of `transcribe`. A service that takes uploads sends one chunk.

        Raises:
            FoundryError: As in `transcribe`; for invalid arguments at once, else while iterating.
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
        return self._loop.run(
            lambda: self._async.request(
                method, path, json=json, params=params, headers=headers, **options
            )
        )


class SyncBatchMethods:
    """Methods for many requests."""

    _loop: BackgroundLoop
    _async: FoundryAPIClient

    @overload
    def batch(
        self, requests: Prompts, *, response_model: type[_T], **options: Unpack[BatchKeywords[_T]]
    ) -> Generator[BatchResult[Completion[_T]]]: ...

    @overload
    def batch(
        self, requests: Prompts, *, response_model: Any, **options: Unpack[BatchKeywords[Any]]
    ) -> Generator[BatchResult[Completion[Any]]]: ...

    @overload
    def batch(
        self, requests: Prompts, *, choice: Sequence[str], **options: Unpack[BatchKeywords[str]]
    ) -> Generator[BatchResult[Completion[str]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[BatchKeywords[_T]],
    ) -> Generator[BatchResult[Completion[_T]]]: ...

    @overload
    def batch(
        self, requests: Prompts, *, grammar: str, **options: Unpack[BatchKeywords[str]]
    ) -> Generator[BatchResult[Completion[str]]]: ...

    @overload
    def batch(
        self, requests: Prompts, **options: Unpack[BatchKeywords[str]]
    ) -> Generator[BatchResult[Completion[None]]]: ...

    @overload
    def batch(
        self, requests: BatchItems, **options: Unpack[BatchKeywords[str]]
    ) -> Generator[BatchResult[BatchAnswer]]: ...

    def batch(
        self,
        requests: BatchItems,
        *,
        system: str | None = None,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        max_repairs: int = 2,
        ordered: bool = False,
        errors: Failures = "results",
        dedupe: bool = False,
        max_attempts: int = 3,
        patience: float = 600.0,
        **options: Unpack[ChatOptions],
    ) -> Generator[BatchResult[Any]]:
        """Run many requests as fast as the services can. Each gets one result.

            for result in client.batch(prompts, max_tokens=100):
                print(result.index, result.unwrap().content)

        Requests are read only as fast as they can be sent, and sent only as fast as results are
        taken. If a service goes away, its requests wait until it is back. Leaving the loop early
        cancels what runs; with `contextlib.aclosing` it does so at once.

        Args:
            requests: Prompts, conversations, or `BatchRequest`s, from an iterable or an
                asynchronous iterable. They are read on the client's event loop, which for a
                `FoundryClient` is in another thread; they must not call the client.
            system: System message for each prompt.
            response_model: As in `complete`, for each prompt.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `complete`.
            validators: As in `complete`.
            max_repairs: As in `complete`.
            ordered: Yield results in the order of the requests, instead of as they finish.
            errors: `results` (default) yields a failed request as a result with an error; `raise`
                raises the first error.
            dedupe: Send identical requests once and share the answer.
            max_attempts: How often a request with a temporary error is tried. Each attempt is a
                call with its own retries.
            patience: Maximum seconds to wait while all services are unreachable.
            options: See `ChatOptions`. For a `BatchRequest`, only `timeout`, `deadline`, `download`
                and `cache` apply, and `model` if its body has none.

        Raises:
            InvalidRequest: An argument is invalid; nothing was sent.
            ModelError: All of the first requests failed with this error, as the rest would.
            ServiceError: All services were unreachable for longer than `patience`.
            ClientClosed: The client was closed.
            BatchError: The iterable of requests raised `CancelledError` by itself. Its other
                exceptions are raised unchanged, after the requests in flight.
            FoundryError: With `errors="raise"`, the first error of a request.
        """
        calls: Any = self._async
        return self._loop.iterate(
            lambda: calls.batch(
                requests,
                system=system,
                response_model=response_model,
                choice=choice,
                grammar=grammar,
                parser=parser,
                validators=validators,
                max_repairs=max_repairs,
                ordered=ordered,
                errors=errors,
                dedupe=dedupe,
                max_attempts=max_attempts,
                patience=patience,
                **options,
            )
        )


class FoundryClient(SyncChatMethods, SyncToolMethods, SyncEndpointMethods, SyncBatchMethods):
    """A blocking client for Microsoft Foundry Local.

    Has every method of `FoundryAPIClient`, for code without asyncio. Creating a client does no I/O.
    The first call finds a running service or starts an engine, which stops when the client is
    closed, at the latest when the program exits. Many threads can use one client, including
    threads that run an event loop, such as a notebook's. Streams are plain iterators: leaving one
    early stops the engine's work, and so does Ctrl-C during a call.

    Calls run on the client's own thread. So do listeners, hooks and other callbacks, which
    therefore cannot call the client.

    Args:
        base_url: Address of a service, such as http://127.0.0.1:5273; default
            `FOUNDRY_BASE_URL`. Without either, a running service is found or one is started.
        api_key: Bearer token for `base_url`, for a gateway in front of a service; default
            `FOUNDRY_API_KEY`. It is sent to no other address, and no cloud key is ever read. A
            callable is called for each request, so the key may change.
        base_urls: Addresses of several services, instead of one. A call goes to the service with
            the fewest calls. It moves to another service on failure, or while it is queued and
            another is free. Default `FOUNDRY_BASE_URLS`.
        service: `auto` (default), or `embedded` to start an engine without looking for one.
        model: Default model; default `FOUNDRY_MODEL`, else phi-4-mini.
        timeout: Maximum seconds without a token, or `auto` to adapt to each model's latency;
            default `FOUNDRY_TIMEOUT`, else 30.
        deadline: Maximum seconds for a whole call, including queueing, loading and retries;
            default `FOUNDRY_DEADLINE`, else none.
        connect_timeout: Maximum seconds to connect; default `FOUNDRY_CONNECT_TIMEOUT`, else 5.
        max_retries: Further attempts after a failed one; default `FOUNDRY_RETRIES`, else 3.
        limiter: Concurrency limits of each service; the default adapts to its throughput.
        breaker: When the circuit breaker of a service opens, and for how long.
        residency: Which models stay in memory, and for how long; default `FOUNDRY_MODEL_IDLE` and
            `FOUNDRY_MEMORY_BUDGET`, else all stay.
        listeners: Called with every event of every call; see `foundry_api.types.events`.
        headers: Extra headers of every request to the service.
        auth: Adds the credential to every request for `base_url`, instead of `api_key`. Takes a
            `Request` and returns the one to send. Called once more when a credential is refused.
        request_hooks: Called with every request; each returns the request to send.
        response_hooks: Called with every request and the status and headers of its response.
        cache: Cache for repeated requests: a `MemoryCache` or a `SqliteCache`. It is closed with
            the client and reopens on its next use. Default `FOUNDRY_CACHE`, else none.
        home: Directory for the engine's data, logs and state; default `FOUNDRY_HOME`, else the
            platform's directories.
        transport: Sends the requests; default pooled connections. Foreign exceptions of a
            custom transport are raised as `HookFailed`.
        settings: All settings at once. The arguments above override them, and the environment is
            not read.

    Attributes:
        settings: The resolved settings.
        models: Manage models.
        responses: The Responses API: `client.responses.create("…")`.
        events: Subscribe listeners here.
        metrics: Counters and histograms: `client.metrics.snapshot()`.
        cache: The cache: `client.cache.stats()`, `client.cache.clear()`. Without one,
            a cache that stores nothing.

    Raises:
        ConfigurationError: A setting is invalid.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | Callable[[], str | Awaitable[str]] | None = None,
        service: Literal["auto", "embedded"] | None = None,
        base_urls: Sequence[str] | None = None,
        model: str | None = None,
        timeout: float | Literal["auto"] | None = None,
        deadline: float | None = None,
        connect_timeout: float | None = None,
        max_retries: int | None = None,
        limiter: LimiterSettings | None = None,
        breaker: BreakerSettings | None = None,
        residency: ModelResidency | None = None,
        listeners: Iterable[Listener] = (),
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        request_hooks: Iterable[RequestHook] = (),
        response_hooks: Iterable[ResponseHook] = (),
        cache: ResponseCache | None = None,
        home: Path | str | None = None,
        transport: Transport | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._async = FoundryAPIClient(
            base_url,
            api_key=api_key,
            service=service,
            base_urls=base_urls,
            model=model,
            timeout=timeout,
            deadline=deadline,
            connect_timeout=connect_timeout,
            max_retries=max_retries,
            limiter=limiter,
            breaker=breaker,
            residency=residency,
            listeners=listeners,
            headers=headers,
            auth=auth,
            request_hooks=request_hooks,
            response_hooks=response_hooks,
            cache=cache,
            home=home,
            transport=transport,
            settings=settings,
        )
        self._loop = BackgroundLoop(self._async.close)
        self.settings = self._async.settings
        self.events = self._async.events
        self.metrics = self._async.metrics
        self.cache = SyncCache(self._loop, self._async.cache)
        self.models = SyncModels(self._loop, self._async.models)
        self.responses = SyncResponses(self._loop, self._async.responses)

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """The client's services, each with its breaker and its limiter."""
        return self._async.services

    def add_service(self, options: ServiceOptions) -> ServiceHandle:
        """Add a service to a client whose settings have `services`, which may be empty.

        Args:
            options: Its address, and the calls that it is for.

        Raises:
            ClientClosed: The client was closed.
            ConfigurationError: The settings have no `services`.
        """
        return self._loop.run(lambda: self._async.add_service(options))

    def remove_service(self, service: ServiceHandle) -> None:
        """Remove a service that was added. Calls that wait for it go to others.

        Answers that have begun go on for as long as the service sends them.

        Args:
            service: What `add_service` returned.

        Raises:
            ConfigurationError: It was not added, or has been removed.
        """
        return self._loop.run(lambda: self._async.remove_service(service))

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of the service, or of the first of several."""
        return self._async.breaker

    @property
    def limiter(self) -> Limiter:
        """The limiter of the service, or of the first of several."""
        return self._async.limiter

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the service; of several services, those of the first.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        return self._loop.run(self._async.capabilities)

    def health_check(self) -> HealthStatus:
        """Check the health of the service, or of the first of several. Nothing is generated.

        A service that does not respond has the status `down`; that is not an exception.

        Raises:
            ClientClosed: The client was closed.
            DeadlineExceeded: The caller's deadline has passed.
        """
        return self._loop.run(self._async.health_check)

    def close(self) -> None:
        """Cancel running calls, close connections, and stop the engine that this client started."""
        self._loop.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.described})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class SyncModels:
    """Manage the models of the client's service.

    Names are aliases, ids, or ids without a version; case does not matter.
    """

    def __init__(self, loop: BackgroundLoop, calls: Models) -> None:
        self._loop = loop
        self._async = calls

    def list(self, *, catalog: bool = False) -> Sequence[Model]:
        """List the models on this machine.

        Args:
            catalog: Also list Microsoft's catalog; see `catalog`.

        Raises:
            CatalogUnavailable: With `catalog`: it cannot be reached and never was.
            ServiceError: The service does not respond.
        """
        return self._loop.run(lambda: self._async.list(catalog=catalog))

    def catalog(self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S) -> CatalogListing:
        """Return the models that can be downloaded, and when the catalog was fetched.

        If the catalog cannot be reached, the last one is returned, and `unreachable` says why;
        finding that out takes about 4 s.

        Args:
            refresh: Ask the service even if its last answer is recent. An engine of SDK 2.x
                fetches the catalog when it starts and then every few hours, so a service that
                started offline has no new models until it restarts.
            max_age_s: Maximum age of an answer of the service that is reused, in seconds.

        Raises:
            CatalogUnavailable: The catalog cannot be reached and never was.
            ServiceError: The service does not respond.
        """
        return self._loop.run(lambda: self._async.catalog(refresh=refresh, max_age_s=max_age_s))

    def show(self, name: str) -> Sequence[Model]:
        """Return the variants of a model, those on this machine first.

        Args:
            name: An alias for all its variants, or an id for one. A registered directory is found
                without the catalog.

        Raises:
            ModelNotFound: No model has that name.
            CatalogUnavailable: The model is not on this machine and the catalog cannot be reached.
            ServiceError: The service does not respond.
        """
        return self._loop.run(lambda: self._async.show(name))

    def cached(self) -> Sequence[Model]:
        """List the models whose files are on this machine."""
        return self._loop.run(self._async.cached)

    def loaded(self) -> Sequence[Model]:
        """List the models in memory."""
        return self._loop.run(self._async.loaded)

    def load(self, name: str, *, download: bool = False) -> Model:
        """Load a model into memory; it may take minutes. Do nothing if the model is loaded.

        Args:
            name: The model.
            download: Download the model first if its files are not on this machine.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not on this machine, and `download` is False.
            ModelLoadFailed: The engine could not load the model.
            MemoryBudgetExceeded: The memory budget has no room for it, and none can be made.
        """
        return self._loop.run(lambda: self._async.load(name, download=download))

    def unload(self, name: str, *, drain: float = DRAIN_S, force: bool = False) -> Model:
        """Unload a model from memory. Do nothing if the model is not loaded.

        Calls in flight finish first. Calls that start meanwhile wait and load the model again.
        The engine may keep some of the memory for the next model.

        Args:
            name: The model.
            drain: Maximum seconds to wait for this client's calls in flight; default 30.
            force: Don't wait, and ignore other clients that use the model; the service may still
                refuse. Ignored for SDK 1.x, whose service would crash.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not on this machine.
            ModelInUse: This client or another one still uses the model; see `.users`.
            InvalidRequest: `drain` is negative.
        """
        return self._loop.run(lambda: self._async.unload(name, drain=drain, force=force))

    def swap(self, old: str, new: str, *, drain: float = DRAIN_S) -> Model:
        """Unload one model and load another in its place.

        If the new model cannot be loaded, the old one is loaded again, and the error says so.

        Args:
            old: The model to unload.
            new: The model to load.
            drain: Maximum seconds to wait for calls of the old model; default 30.

        Returns:
            The new model.

        Raises:
            InvalidRequest: Both are the same model, or `drain` is negative.
            ModelInUse: The old model is still in use; nothing was changed.
            ModelLoadFailed: The new model could not be loaded.
            ModelError: As in `load`; nothing was changed.
        """
        return self._loop.run(lambda: self._async.swap(old, new, drain=drain))

    def ensure_loaded(self, names: Iterable[str], *, download: bool = False) -> Sequence[Model]:
        """Load several models, in parallel where the service can.

        Args:
            names: The models.
            download: Download models whose files are not on this machine.

        Returns:
            The models, in the order of `names`.

        Raises:
            ModelError: As in `load`. The first failure is raised after all models were tried.
        """
        return self._loop.run(lambda: self._async.ensure_loaded(names, download=download))

    def users(self, name: str) -> Sequence[ModelUser]:
        """List the clients of the same home that use a model, this one included.

        A client uses a model from its first call until a minute after its last call, or until it
        is closed. Programs without this package are not listed.

        Raises:
            ModelNotFound: No model has that name.
        """
        return self._loop.run(lambda: self._async.users(name))

    def download(
        self, name: str, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. An interrupted download resumes where it stopped.

        Clients that download the same model share one download. Cancelling the call stops it at
        its next step, unless another client waits for it. The service of the Foundry command line
        may continue.

        Args:
            name: The model.
            progress: Called with a `DownloadProgress` at each step that the service reports.
                An engine of this package reports steps of 0.1 % or more, and repeats the last
                one every 2 s while data arrives without a new one.
            stall_s: Maximum seconds without any data; default 120.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog cannot be reached.
            DownloadFailed: The download broke off or stalled.
            HookFailed: `progress` raised an exception, which stops the download.
            UnsupportedFeature: The service cannot download models.
        """
        return self._loop.run(lambda: self._async.download(name, progress, stall_s=stall_s))

    def stream_download(
        self, name: str, *, stall_s: float = STALL_S
    ) -> Generator[DownloadProgress]:
        """Download a model's files and stream the progress. Leaving the loop early stops it.

        For a model that is already on this machine there is nothing to iterate.

        Args:
            name: The model.
            stall_s: Maximum seconds without any data; default 120.

        Raises:
            FoundryError: As in `download`, while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream_download(name, stall_s=stall_s))

    def register(self, path: Path | str, alias: str) -> Model:
        """Register a directory with your own ONNX model, to be served under an alias.

        The directory is neither copied nor changed. It stays registered until `unregister`.

        Args:
            path: The directory with genai_config.json, the ONNX graph and the tokenizer. `~` is
                expanded.
            alias: The name of the model: letters, digits, `.`, `_` and `-`. It then stands for this
                model, also if the catalog has one with that alias, which keeps its id.

        Raises:
            ModelRegistrationFailed: The directory holds no valid model.
            InvalidRequest: `path` is not a path, `alias` is invalid, or it is `demo`, which is part
                of this package.
            UnsupportedFeature: The service was not started by this package.
        """
        return self._loop.run(lambda: self._async.register(path, alias))

    def import_model(
        self,
        source: Path | str,
        alias: str,
        *,
        precision: Precision = "int4",
        output: Path | str | None = None,
        check: bool = True,
        setup: bool = False,
        progress: Callable[[ImportProgress], object] | None = None,
    ) -> Model:
        """Convert a model of Hugging Face or a GGUF file for the engine, and register it.

        It takes minutes to hours and needs memory for all weights as 32-bit floats, but no network
        once the packages that convert models are installed. A stopped import continues at the step
        at which it stopped when it is called again with the same arguments. The source is not
        changed. `remove` deletes an imported model.

        Args:
            source: A directory with a Hugging Face model (safetensors), or a GGUF file.
            alias: The name of the model; see `register`.
            precision: `int4`, `int8` or `fp16`. With fp16 the files have 16 bits per weight, and
                the memory 32.
            output: The directory to make, which must not exist or be empty; default is one in the
                data directory of this package.
            check: Compare the first tokens of five answers with those of the source.
            setup: Install the packages that convert models if they are missing: gigabytes, into an
                environment of their own.
            progress: Called with an `ImportProgress` for each step and within it.

        Raises:
            ModelSourceUnsupported: The model cannot be converted; nothing was made.
            ModelBuilderMissing: The packages are missing, and `setup` is False.
            ModelImportFailed: A step failed, or the answers differ too much from the source's.
            InvalidRequest: An argument is invalid, `alias` is taken, or `output` has other files.
            HookFailed: `progress` raised an exception, which stops the import.
            UnsupportedFeature: The service was not started by this package.
        """
        return self._loop.run(
            lambda: self._async.import_model(
                source,
                alias,
                precision=precision,
                output=output,
                check=check,
                setup=setup,
                progress=progress,
            )
        )

    def unregister(self, alias: str) -> None:
        """Unregister a directory, for all programs of this user. Its files are not deleted.

        Args:
            alias: An alias for all its versions, or an id for one.

        Raises:
            ModelNotFound: Nothing is registered under that alias.
            ModelInUse: The model is loaded.
            InvalidRequest: The model is `demo`, which is part of this package.
            UnsupportedFeature: The service was not started by this package.
        """
        return self._loop.run(lambda: self._async.unregister(alias))

    def remove(self, name: str) -> int:
        """Delete the files of a downloaded or imported model. Return the number of bytes freed.

        Directories that were registered, imported to an `output` of yours, or that are registered
        under another alias too, are not deleted; use `unregister` for them.

        Raises:
            ModelNotFound: No downloaded or imported model has that name.
            ModelInUse: The model is loaded.
            UnsupportedFeature: The service was not started by this package, and is no gateway.
        """
        return self._loop.run(lambda: self._async.remove(name))


class SyncResponses:
    """Create and manage responses."""

    def __init__(self, loop: BackgroundLoop, calls: Responses) -> None:
        self._loop = loop
        self._async = calls

    def create(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Create a response and return it.

        Args:
            input: A string, or items: mappings as in OpenAI's Responses API, `Message`s, or items
                of earlier responses. Images are paths or data URLs in `input_image` parts.
            options: See `ResponseOptions`.

        Returns:
            A response whose status is `completed`, or `incomplete` if it was truncated.

        Raises:
            InvalidRequest: An argument is invalid; nothing was sent.
            ResponseNotFound: The service does not store the previous response.
            ModelTaskMismatch: The model cannot read images.
            UnsupportedFeature: The service generation does not support this.
            ModelError: The model is unknown, not downloaded, or cannot be loaded.
            CallTimeout: The time-out or the deadline passed. The engine's work was stopped.
            StreamInterrupted: The response broke off; `.partial` has the text so far.
            ServiceError: The service failed.
        """
        return self._loop.run(lambda: self._async.create(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """Create a response and stream its events. Leaving the loop early stops the engine's work.

        Args:
            input: As in `create`.
            options: See `ResponseOptions`.

        Raises:
            FoundryError: As in `create`; for invalid arguments at once, else while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream(input, **options))

    def conversation(self, **options: Unpack[ResponseOptions]) -> SyncConversation:
        """Start a conversation that the service stores until the end of the block.

            with client.responses.conversation(model="phi-4-mini") as conversation:
                print((conversation.send("My name is Ada.")).output_text)
                print((conversation.send("What is my name?")).output_text)

        Args:
            options: Options of every message; see `ResponseOptions`.
        """
        return SyncConversation(self._loop, self._async.conversation(**options))

    def get(self, response_id: str, **options: Unpack[TimeOptions]) -> Response:
        """Return a stored response.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        return self._loop.run(lambda: self._async.get(response_id, **options))

    def input_items(
        self, response_id: str, **options: Unpack[TimeOptions]
    ) -> tuple[ResponseItem, ...]:
        """Return the input of a stored response, without that of earlier responses.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        return self._loop.run(lambda: self._async.input_items(response_id, **options))

    def delete(self, response_id: str, **options: Unpack[TimeOptions]) -> None:
        """Delete a stored response. From SDK 2.1 on, responses that follow it are deleted too.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        return self._loop.run(lambda: self._async.delete(response_id, **options))

    def list(
        self,
        *,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        **options: Unpack[TimeOptions],
    ) -> ResponsePage:
        """List stored responses, including those of other clients.

        Args:
            limit: Maximum number of responses, 1 to 100.
            order: `desc` for the newest first. SDK 1.x does not order those of the same second.
            after: List the responses after this one.
            options: See `TimeOptions`.

        Raises:
            InvalidRequest: An argument is invalid; `.field` names it.
            ResponseNotFound: No service stores the response `after`.
            ServiceError: The service failed.
        """
        return self._loop.run(
            lambda: self._async.list(limit=limit, order=order, after=after, **options)
        )


class SyncConversation:
    """A conversation that the service stores. Leaving its context manager deletes it.

    Attributes:
        last: The last response; None before the first.
    """

    def __init__(self, loop: BackgroundLoop, calls: Conversation) -> None:
        self._loop = loop
        self._async = calls

    @property
    def last(self) -> Response | None:
        """The last response; None before the first."""
        return self._async.last

    def send(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Send the next message and return the response. Raises the errors of `Responses.create`.

        Args:
            input: As in `Responses.create`.
            options: Override the conversation's options; see `ResponseOptions`.
        """
        return self._loop.run(lambda: self._async.send(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """Send the next message and stream the events of the response.

        The response becomes part of the conversation with its last event.

        Args:
            input: As in `Responses.create`.
            options: Override the conversation's options; see `ResponseOptions`.
        """
        return self._loop.iterate(lambda: self._async.stream(input, **options))

    def __enter__(self) -> Self:
        self._loop.run(self._async.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave = self._async.__aexit__
        self._loop.run(lambda: leave(kind, error, traceback))


class SyncCache:
    """The cache of a client."""

    def __init__(self, loop: BackgroundLoop, calls: ResponseCache) -> None:
        self._loop = loop
        self._async = calls

    def clear(self) -> int:
        """Delete all answers.

        Returns:
            The number of deleted answers.

        Raises:
            ConfigurationError: The cache cannot be used.
        """
        return self._loop.run(self._async.clear)

    def stats(self) -> CacheStats:
        """Return the size of the cache and its hits and misses.

        Raises:
            ConfigurationError: The cache cannot be used.
        """
        return self._loop.run(self._async.stats)
