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
    from foundry_api.types.settings import Settings
    from foundry_api.wire.hooks import Auth, RequestHook, ResponseHook
    from foundry_api.wire.transport import Transport

__all__ = ["FoundryClient", "SyncCache", "SyncConversation", "SyncModels", "SyncResponses"]

_T = TypeVar("_T")


class SyncChatMethods:
    """What a client says to models."""

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

        With one of `response_model`, `choice`, `grammar` and `parser`, the result's `.parsed` is
        what was made of the answer. An answer that does not pass is asked for again, together
        with what is wrong with it.

        Args:
            prompt: What the user says.
            system: Instructions ahead of it.
            response_model: Type of the answer: a pydantic model, a msgspec Struct, a dataclass, a
                TypedDict, anything made of them such as `list[UserIdentity]`, or a JSON schema. The
                engine is kept to it by SDK 2.1 and later; elsewhere the prompt asks for it.
            choice: The answer is one of these texts; kept to as above.
            grammar: The answer follows this grammar in Lark's notation; SDK 2.1 and later.
            parser: Makes the answer's text into a value, or raises ValueError to refuse it. If it
                raises anything else, the model is not asked again.
            validators: Called with what was made of the answer, or with its text where nothing
                was; each refuses it by raising ValueError or answering False. Otherwise as
                `parser`.
            max_repairs: How often the model may be asked again. One that only repeats its answer is
                asked afresh, at a temperature of 1 at least and with a seed.
            options: See `ChatOptions`.

        Raises:
            InvalidRequest: An argument is at fault; nothing was sent.
            UnsupportedFeature: The service's generation cannot do it; nothing was sent.
            ModelError: The model is not known, not here, or can't be loaded.
            CallTimeout: A time bound fell. The engine's work was stopped.
            StreamInterrupted: The answer broke off; `.partial` has its beginning.
            ServiceError: The service is at fault.
            StructuredOutputError: No answer passed, it was cut, or `parser` or a validator failed;
                `.partial` has its text.
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
        """The answer to a prompt, piece by piece. Leaving the loop early frees the engine.

        Every chunk's `.partial` is the value so far: of `response_model` as plain lists and dicts.
        The last chunk's `.parsed` is the whole value. What was streamed cannot be taken back, so
        an answer that does not pass is not asked for again.

        Args:
            prompt: What the user says.
            system: Instructions ahead of it.
            response_model: As in `complete`.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `complete`: called once, with the whole text.
            chunk_parser: Called with every chunk that has text; what it makes of it is that
                chunk's `.partial`.
            validators: As in `complete`.
            options: See `ChatOptions`.

        Raises:
            FoundryError: As `complete`; bad arguments at once, the rest while iterating.
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
        """Complete a conversation and return the answer. Raises the same errors as `complete`.

        Args:
            messages: The turns so far, oldest first: `Message`s or mappings with role and content.
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
        """The answer to a conversation, piece by piece. Raises as `stream_complete`.

        Args:
            messages: The turns so far, oldest first: `Message`s or mappings with role and content.
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
    """What a client says to models that call tools."""

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
        """The answer of a model that may call tools: they are called, and it is asked again.

            def clock(city: str) -> str:
                ...

            run = client.run("How late is it in Bern?", [clock])
            run.content, run.calls

        A call that cannot be made or fails is told to the model, which may do better: wrong
        arguments, a tool that there is not, an exception, a call that took too long. A plain
        function runs in a thread, a coroutine function on the event loop. `tool_choice` holds for
        the first round, and `deadline` for all of it.

        Args:
            messages: A prompt, or the turns so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: How often the model is asked at most.
            parallel: How many calls of a round run at once.
            tool_timeout: Seconds that one call may take.
            on_error: `return` (default), or `raise` for a call that fails.
            options: See `CompletionOptions`.

        Raises:
            ToolDefinitionError: A function cannot be described; nothing was sent.
            MaxTurnsExceeded: The model did not come to an end; `.run` has what it did.
            ToolFailed: A call failed, and `on_error` is `raise`.
            ToolCallError: The model called a tool in a way that cannot be read.
            FoundryError: As `complete`.
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
        """As `run_tools`, piece by piece: the chunks of every answer, each tool's result, the run.

        Args:
            messages: A prompt, or the turns so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: How often the model is asked at most.
            parallel: How many calls of a round run at once.
            tool_timeout: Seconds that one call may take.
            on_error: `return` (default), or `raise` for a call that fails.
            options: See `CompletionOptions`.

        Raises:
            FoundryError: As `run_tools`; bad arguments at once, the rest while iterating.
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


class SyncBatchMethods:
    """What a client does with many requests; `FoundryAPIClient` inherits it."""

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
        """Many requests, each answered once, with the throughput that the engine has.

            for result in client.batch(prompts, max_tokens=100):
                print(result.index, result.unwrap().content)

        No more requests are taken than are needed to keep the services busy, and no more results
        are made than are taken. A service that goes away fails no request: all wait until it is
        back. Leaving the loop early stops what runs; use `contextlib.aclosing` to be sure when.

        Args:
            requests: Prompts, conversations, or `BatchRequest`s, which say all by themselves; from
                any iterable, or from an asynchronous one if getting them takes time. They are read
                on the client's event loop: that of a `FoundryClient` is in a thread of its own,
                where the client itself can't be called.
            system: Instructions ahead of each prompt.
            response_model: As in `complete`, for every prompt.
            choice: As in `complete`.
            grammar: As in `complete`.
            parser: As in `complete`.
            validators: As in `complete`.
            max_repairs: As in `complete`.
            ordered: Whether the results keep the order of the requests, instead of coming as they
                finish.
            errors: `results` (default) gives a request that failed as a result with an error,
                `raise` raises the first such error.
            dedupe: Whether identical requests are made once, and share their answer.
            max_attempts: How often a request that fails for a passing reason is tried. Each try
                is a call with retries of its own.
            patience: Seconds that all services may be away before the batch is given up.
            options: See `ChatOptions`; of a `BatchRequest` those count that its body has no word
                for, and the model if it names none.

        Raises:
            InvalidRequest: An argument is at fault; nothing was sent.
            ModelError: The first requests failed all of it, as every other one would.
            ServiceError: The services were away for longer than the patience.
            ClientClosed: The client was closed.
            BatchError: The requests broke off with a `CancelledError` that nobody asked for. Any
                other exception of theirs is raised as it is, once what is in flight has ended.
            FoundryError: With `errors="raise"`, why the first request failed.
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
    """Microsoft Foundry Local as an API, for code without asyncio.

    Every call of `FoundryAPIClient`, blocking. Creating a client does no I/O: its first call
    finds a running service or starts an engine of its own, which leaves with the client, at the
    latest when the program ends. Many threads may use one client at once, also those that run an
    event loop, such as a notebook's. Streams are plain iterators: leaving one early frees the
    engine, and so does Ctrl-C during any call.

    The calls run on a thread of the client's own. Notifier, hooks and other callbacks are called
    there, and can't call the client themselves.

    Args:
        base_url: Address of a service, such as http://127.0.0.1:5273; default
            `FOUNDRY_BASE_URL`, else a service is searched for or started.
        api_key: Bearer token for `base_url`, for a gateway in front of a service; default
            `FOUNDRY_API_KEY`. It is sent nowhere else, and no key of a cloud is ever read. A
            callable gives it anew for each request, so that it may change.
        base_urls: Addresses of several services instead of one. Each call goes to the one with the
            fewest calls, and to another when that fails, or while it waits and the other is free;
            default `FOUNDRY_BASE_URLS`.
        service: `auto` (default), or `embedded` for an engine of its own without a search.
        model: Model of calls that name none; default `FOUNDRY_MODEL`, else phi-4-mini.
        timeout: Seconds without a token before a call gives up, or `auto` for what each model was
            seen to need; default `FOUNDRY_TIMEOUT`, else 30.
        deadline: Seconds for a whole call, with its queueing, loading and retries; default
            `FOUNDRY_DEADLINE`, else none.
        connect_timeout: Seconds that making a connection may take; default
            `FOUNDRY_CONNECT_TIMEOUT`, else 5.
        max_retries: Further attempts after a failed one; default `FOUNDRY_RETRIES`, else 3.
        limiter: How many calls may be in flight at each service; default as many as gain
            throughput, found while calls run.
        breaker: When calls to a service that fails are refused, and for how long.
        residency: Which models stay in the services' memory, and for how long; default
            `FOUNDRY_MODEL_IDLE` and `FOUNDRY_MEMORY_BUDGET`, else all.
        listeners: Called with every event of every call; see `foundry_api.types.events`.
        headers: Sent with every request to the service.
        auth: Puts the credential on every request for `base_url`, instead of `api_key`: gets a
            `Request`, gives the one to send. Called once more when a credential was refused.
        request_hooks: Called with every request to a service; each gives the one to send instead,
            and may change headers and body.
        response_hooks: Called with every request to a service and the head of its answer.
        cache: Where answers are kept, so that who asks the same again gets the same without the
            engine: a `MemoryCache` or a `SqliteCache`. It is closed with the client, and opens
            again where it is used on. Default `FOUNDRY_CACHE`, else none.
        home: Directory for the engine's data, logs and state; default `FOUNDRY_HOME`, else the
            platform's own directories.
        transport: Sends the requests; default one pooled aiohttp session. What one of your own
            raises is `HookFailed`, unless it is an error of this package.
        settings: All settings at once; the arguments above win over it, and the environment is
            then not read.

    Attributes:
        settings: As they were resolved.
        models: The models of the service.
        responses: The Responses API: `client.responses.create("…")`.
        events: The event hook; subscribe listeners to it.
        metrics: What happened, counted: `client.metrics.snapshot()`.
        cache: Where answers are kept: `client.cache.stats()`, `client.cache.clear()`.
            One that keeps nothing where there is none.

    Raises:
        ConfigurationError: A setting cannot be used.
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
        """The services that it calls, each with its breaker and its limiter."""
        return self._async.services

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of the service, or of the first of several."""
        return self._async.breaker

    @property
    def limiter(self) -> Limiter:
        """The limiter of the service, or of the first of several."""
        return self._async.limiter

    def capabilities(self) -> Capabilities:
        """What the generation of the service can do; of several services, the first one's.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        return self._loop.run(self._async.capabilities)

    def health_check(self) -> HealthStatus:
        """Look at the service once. It is not asked to generate anything.

        A service that does not answer is `down` in the result, not an exception. Of several
        services it is the first that is looked at.

        Raises:
            ClientClosed: The client was closed.
            DeadlineExceeded: The deadline around the caller passed.
        """
        return self._loop.run(self._async.health_check)

    def close(self) -> None:
        """End the calls, close the connections, and stop the engine, if this client started it."""
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
    """The models of the service that the client talks to.

    Every name may be an alias, an id, or an id without its version, in any case.
    """

    def __init__(self, loop: BackgroundLoop, calls: Models) -> None:
        self._loop = loop
        self._async = calls

    def list(self, *, catalog: bool = False) -> Sequence[Model]:
        """Models on this machine, and on request those that could be downloaded.

        Args:
            catalog: Those of Microsoft's catalog too; see `catalog`.

        Raises:
            CatalogUnavailable: The catalog was asked for, cannot be reached, and never was.
            ServiceError: The service does not answer.
        """
        return self._loop.run(lambda: self._async.list(catalog=catalog))

    def catalog(self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S) -> CatalogListing:
        """What could be downloaded, and how old that knowledge is.

        A catalog that cannot be reached, which takes 4 s to find out, is answered with the last
        one that could, `unreachable` saying why. One that is reached and empty has no models.

        Args:
            refresh: Ask the service even if it was asked lately. An engine of SDK 2.x itself asks
                the catalog when it starts and then every few hours, so that a service that
                started offline knows nothing new until it is restarted.
            max_age_s: Seconds for which the answer of the service holds.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
            ServiceError: The service does not answer.
        """
        return self._loop.run(lambda: self._async.catalog(refresh=refresh, max_age_s=max_age_s))

    def show(self, name: str) -> Sequence[Model]:
        """Every variant that a name means, those on this machine first.

        Args:
            name: An alias means all its variants, an id that one. The catalog is not asked for a
                registered directory.

        Raises:
            ModelNotFound: No model has that name.
            CatalogUnavailable: It is not on this machine, and the catalog cannot be reached.
            ServiceError: The service does not answer.
        """
        return self._loop.run(lambda: self._async.show(name))

    def cached(self) -> Sequence[Model]:
        """Models whose files are on this machine."""
        return self._loop.run(self._async.cached)

    def loaded(self) -> Sequence[Model]:
        """Models in memory."""
        return self._loop.run(self._async.loaded)

    def load(self, name: str, *, download: bool = False) -> Model:
        """Load a model into memory, which may take minutes. Does nothing if it is there.

        Args:
            name: The model.
            download: Download it first if its files are not here.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not here, and `download` was not said.
            ModelLoadFailed: The engine could not load it.
            MemoryBudgetExceeded: There is no room for it, and none can be made.
        """
        return self._loop.run(lambda: self._async.load(name, download=download))

    def unload(self, name: str, *, drain: float = DRAIN_S, force: bool = False) -> Model:
        """Take a model out of memory. Does nothing if it is not there.

        Calls in flight are answered first. Calls that begin meanwhile wait, and load it again.
        The system may not get the memory back: engines keep some of it for the next model.

        Args:
            name: The model.
            drain: Seconds that this client's calls in flight may take to end; default 30.
            force: Neither wait for them nor heed other clients that use it; the service may still
                refuse. A service of SDK 1.x would not survive it, so it is asked as without.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not even on this machine.
            ModelInUse: Calls of this client, or other clients, still use it; `.users` tells who.
            InvalidRequest: `drain` is below 0.
        """
        return self._loop.run(lambda: self._async.unload(name, drain=drain, force=force))

    def swap(self, old: str, new: str, *, drain: float = DRAIN_S) -> Model:
        """Take one model out of memory, and load another in its place.

        If the new one can't be loaded, the old one is loaded again, and the error says so.

        Args:
            old: The model to unload, as by `unload`.
            new: The model to load.
            drain: Seconds that calls of the old one may take to end; default 30.

        Returns:
            The new model.

        Raises:
            InvalidRequest: Both are the same model, or `drain` is below 0.
            ModelInUse: The old one is still used; nothing was changed.
            ModelLoadFailed: The new one could not be loaded.
            ModelError: As `load`, before anything was changed.
        """
        return self._loop.run(lambda: self._async.swap(old, new, drain=drain))

    def ensure_loaded(self, names: Iterable[str], *, download: bool = False) -> Sequence[Model]:
        """Load several models, at once where the service allows it.

        Args:
            names: The models.
            download: Download those whose files are not here.

        Returns:
            The models, in the order of their names.

        Raises:
            ModelError: As `load`. All were tried before the first failure is raised.
        """
        return self._loop.run(lambda: self._async.ensure_loaded(names, download=download))

    def users(self, name: str) -> Sequence[ModelUser]:
        """Who uses a model: this client, and others of the same home.

        A client uses a model from its first call until a minute after its last, or until it is
        closed. Programs that do not use this package are not seen.

        Raises:
            ModelNotFound: No model has that name.
        """
        return self._loop.run(lambda: self._async.users(name))

    def download(
        self, name: str, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. An interrupted download resumes where it stopped.

        Cancelling the call stops the download at its next step, unless another client waits for
        the same model: they share one download; a command line's service may go on with it. It is
        over when the service has the model.

        Args:
            name: The model.
            progress: Called with a `DownloadProgress` for each step, and every 2 s while only
                parts of the next step come.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog could not be reached.
            DownloadFailed: The download broke off or stood still.
            HookFailed: `progress` failed, which ends the download.
            UnsupportedFeature: The service cannot download models.
        """
        return self._loop.run(lambda: self._async.download(name, progress, stall_s=stall_s))

    def stream_download(
        self, name: str, *, stall_s: float = STALL_S
    ) -> Generator[DownloadProgress]:
        """Download a model's files, and tell each step. Leaving the loop early stops it.

        Nothing is told of a model that is here. Otherwise as `download`.

        Args:
            name: The model.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            FoundryError: As `download`, while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream_download(name, stall_s=stall_s))

    def register(self, path: Path | str, alias: str) -> Model:
        """Serve a directory with an ONNX model of the user's own under an alias.

        The directory stays where it is, and it stays registered until `unregister`.

        Args:
            path: Holds genai_config.json, the ONNX graph and the tokenizer. A relative path is
                relative to this process's working directory; `~` is this user's home.
            alias: The name to call it by.

        Raises:
            ModelRegistrationFailed: The directory is not such a model.
            InvalidRequest: `path` is no path.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.register(path, alias))

    def unregister(self, alias: str) -> None:
        """Serve a registered directory no longer, for no program of this user. Its files stay.

        The model `demo` of this package always stays: every engine of it serves that model.

        Args:
            alias: An alias means all its versions, an id that one.

        Raises:
            ModelNotFound: Nothing is registered under that alias.
            ModelInUse: It is loaded.
            InvalidRequest: It is `demo`, which comes with this package.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.unregister(alias))

    def remove(self, name: str) -> int:
        """Delete a downloaded model's files, and return how many bytes that freed.

        Raises:
            ModelNotFound: No downloaded model has that name.
            ModelInUse: It is loaded.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.remove(name))


class SyncResponses:
    """The responses of a client's services."""

    def __init__(self, loop: BackgroundLoop, calls: Responses) -> None:
        self._loop = loop
        self._async = calls

    def create(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Create a response and return it.

        Args:
            input: A text, or items: mappings as in OpenAI's Responses API, `Message`s, or items of
                earlier responses. Images are paths or data URLs in `input_image` parts.
            options: See `ResponseOptions`.

        Returns:
            A response that is `completed`, or `incomplete` if it was cut. A failed one is raised.

        Raises:
            InvalidRequest: An argument is at fault; nothing was sent.
            ResponseNotFound: The service does not keep the one to go on from.
            ModelTaskMismatch: The model cannot see the image.
            UnsupportedFeature: The generation of the service cannot do it.
            ModelError: The model is not known, not here, or can't be loaded.
            CallTimeout: A time bound fell. The engine's work was stopped.
            StreamInterrupted: The answer broke off; `.partial` has its beginning.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.create(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """One response, event by event. Leaving the loop early frees the engine.

        Args:
            input: As for `create`.
            options: See `ResponseOptions`.

        Raises:
            FoundryError: As `create`; bad arguments at once, the rest while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream(input, **options))

    def conversation(self, **options: Unpack[ResponseOptions]) -> SyncConversation:
        """Turns that go on from each other, as long as the block lasts.

            with client.responses.conversation(model="phi-4-mini") as talk:
                print((talk.say("My name is Ada.")).output_text)
                print((talk.say("What is my name?")).output_text)

        The service keeps the turns meanwhile, and they are deleted at the end of the block.

        Args:
            options: Of every turn; see `ResponseOptions`.
        """
        return SyncConversation(self._loop, self._async.conversation(**options))

    def get(self, response_id: str, **options: Unpack[TimeOptions]) -> Response:
        """A stored response.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.get(response_id, **options))

    def input_items(
        self, response_id: str, **options: Unpack[TimeOptions]
    ) -> tuple[ResponseItem, ...]:
        """What a stored response was asked, without what it went on from.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.input_items(response_id, **options))

    def delete(self, response_id: str, **options: Unpack[TimeOptions]) -> None:
        """Delete a stored response. From SDK 2.1 on, those that went on from it go with it.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
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
        """Stored responses, of this client and of others.

        Args:
            limit: How many, 1 to 100.
            order: `desc` for the newest first; of one second, 1.x has them in no order.
            after: Only those that come after this one in the order.
            options: See `TimeOptions`.

        Raises:
            InvalidRequest: An argument is at fault; `.field` names it.
            ResponseNotFound: No service keeps the one in `after`.
            ServiceError: The service is at fault.
        """
        return self._loop.run(
            lambda: self._async.list(limit=limit, order=order, after=after, **options)
        )


class SyncConversation:
    """Turns that go on from each other. As a context manager it deletes them at its end.

    Attributes:
        last: The last turn's response; None before the first.
    """

    def __init__(self, loop: BackgroundLoop, calls: Conversation) -> None:
        self._loop = loop
        self._async = calls

    @property
    def last(self) -> Response | None:
        """The last turn's response; None before the first."""
        return self._async.last

    def say(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Send the next turn and return the response. Raises the same errors as `Responses.create`.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
        """
        return self._loop.run(lambda: self._async.say(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """One more turn, event by event. It counts once its last event was taken.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
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
    """Where a client's answers are kept."""

    def __init__(self, loop: BackgroundLoop, calls: ResponseCache) -> None:
        self._loop = loop
        self._async = calls

    def clear(self) -> int:
        """Forget every answer; how many there were.

        Raises:
            ConfigurationError: It cannot be used.
        """
        return self._loop.run(self._async.clear)

    def stats(self) -> CacheStats:
        """What it holds, and how it was used.

        Raises:
            ConfigurationError: It cannot be used.
        """
        return self._loop.run(self._async.stats)
