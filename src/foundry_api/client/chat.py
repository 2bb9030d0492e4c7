"""Complete a prompt or a conversation, in one answer or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar, overload

from msgspec import structs

from foundry_api.core.chat import make_output_spec
from foundry_api.types.checks import check_repairs, prompt_to_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.call import CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.core.options import ChatOptions, StructuredOptions
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import ChatRequest, Chunk, Completion, Constraint, Message

    Messages = Iterable[Message | Mapping[str, Any]]

__all__ = ["ChatMethods", "complete_messages", "stream_blocks"]

_T = TypeVar("_T")  # the type of `.parsed`

# For a model that repeats its answer instead of correcting it: at temperature 0 it would go on.
RETRY_TEMPERATURE = 1.0


class ChatMethods(ABC):
    """Chat and completion methods."""

    @overload
    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: type[_T],
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        response_model: Any,
        **options: Unpack[StructuredOptions[Any]],
    ) -> Completion[Any]: ...

    @overload
    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        choice: Sequence[str],
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        grammar: str,
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    async def complete(
        self, prompt: str, *, system: str | None = None, **options: Unpack[StructuredOptions[str]]
    ) -> Completion[None]: ...

    async def complete(
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
        messages = prompt_to_messages(prompt, system)
        check_repairs(max_repairs)
        expectation = make_output_spec(
            response_model=response_model,
            choice=choice,
            grammar=grammar,
            parser=parser,
            validators=validators,
        )
        if expectation is None:
            return await self._new_call(
                self._build_request(messages, options, is_validated=True)
            ).result()
        return await self._complete(messages, options, max_repairs, expectation, is_validated=True)

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
    ) -> AsyncGenerator[Chunk]:
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
        return self._stream(
            prompt_to_messages(prompt, system),
            options,
            is_validated=True,
            response_model=response_model,
            choice=choice,
            grammar=grammar,
            parser=parser,
            chunk_parser=chunk_parser,
            validators=validators,
        )

    @overload
    async def chat(
        self,
        messages: Messages,
        *,
        response_model: type[_T],
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    async def chat(
        self,
        messages: Messages,
        *,
        response_model: Any,
        **options: Unpack[StructuredOptions[Any]],
    ) -> Completion[Any]: ...

    @overload
    async def chat(
        self,
        messages: Messages,
        *,
        choice: Sequence[str],
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    async def chat(
        self,
        messages: Messages,
        *,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[StructuredOptions[_T]],
    ) -> Completion[_T]: ...

    @overload
    async def chat(
        self,
        messages: Messages,
        *,
        grammar: str,
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[str]: ...

    @overload
    async def chat(
        self,
        messages: Messages,
        **options: Unpack[StructuredOptions[str]],
    ) -> Completion[None]: ...

    async def chat(
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
        check_repairs(max_repairs)
        expectation = make_output_spec(
            response_model=response_model,
            choice=choice,
            grammar=grammar,
            parser=parser,
            validators=validators,
        )
        return await self._complete(messages, options, max_repairs, expectation)

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
    ) -> AsyncGenerator[Chunk]:
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
        return self._stream(
            messages,
            options,
            response_model=response_model,
            choice=choice,
            grammar=grammar,
            parser=parser,
            chunk_parser=chunk_parser,
            validators=validators,
        )

    async def _complete(
        self,
        messages: Messages,
        options: ChatOptions,
        max_repairs: int,
        expectation: OutputSpec | None,
        *,
        is_validated: bool = False,
    ) -> Completion[Any]:
        if expectation is None:
            request = self._build_request(messages, options, is_validated=is_validated)
            return await self._new_call(request).result()
        from foundry_api.structured.repair import complete_with_repairs  # noqa: PLC0415 - few calls need it

        request = self._build_request(
            messages, options, expectation.constraint, is_validated=is_validated
        )

        async def request_completion(
            turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
        ) -> Completion[None]:
            body = structs.replace(
                _resample(request.request, repetitions), messages=turns, constraint=constraint
            )
            return await self._new_call(structs.replace(request, request=body)).result()

        return await complete_with_repairs(
            request_completion,
            request.request.messages,
            expectation,
            max_repairs=max_repairs,
            deadline=request.deadline,
        )

    def _stream(
        self,
        messages: Messages,
        options: ChatOptions,
        *,
        is_validated: bool = False,
        **output_arguments: Any,
    ) -> AsyncGenerator[Chunk]:
        expectation = make_output_spec(**output_arguments)
        if expectation is None:
            request = self._build_request(messages, options, is_validated=is_validated)
            return self._new_call(request).chunks()
        from foundry_api.structured.streaming import parse_chunks  # noqa: PLC0415 - as above

        request = self._build_request(
            messages, options, expectation.constraint, is_validated=is_validated
        )
        return parse_chunks(self._new_call(request).chunks(), expectation)

    @abstractmethod
    def _build_request(
        self,
        messages: Messages,
        options: ChatOptions,
        constraint: Constraint | None = None,
        *,
        is_validated: bool = False,
    ) -> CallRequest[ChatRequest]:
        """Validate the arguments of a call; `is_validated` says that its messages are valid."""

    @abstractmethod
    def _new_call(self, request: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        """Return the call for a request; it has not started."""


def stream_blocks(
    client: ChatMethods,
    messages: Messages,
    *,
    response_model: Any = None,
    choice: Sequence[str] | None = None,
    grammar: str | None = None,
    **options: Unpack[ChatOptions],
) -> AsyncGenerator[list[Chunk]]:
    """As `stream_chat`, but yield the chunks that arrived together at once, for the gateway."""
    if response_model is not None or choice or grammar:
        # Parsing a chunk costs so much that passing on each alone does not matter.
        return _yield_alone(
            client.stream_chat(
                messages, response_model=response_model, choice=choice, grammar=grammar, **options
            )
        )
    # Not a public method: `FoundryClient` would get its twin.
    request = client._build_request(messages, options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return client._new_call(request).blocks()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def complete_messages(
    client: ChatMethods, messages: Messages, options: ChatOptions
) -> Awaitable[Completion[None]]:
    """As `chat` for any answer, for the gateway."""
    # Not a public method, as in `stream_blocks`.
    request = client._build_request(messages, options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return client._new_call(request).result()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


async def _yield_alone(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[list[Chunk]]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield [chunk]


def _resample(request: ChatRequest, repetitions: int) -> ChatRequest:
    """Return the request with other sampling, for a model that repeated its answer."""
    if not repetitions:
        return request
    return structs.replace(
        request,
        temperature=max(request.temperature or 0.0, RETRY_TEMPERATURE),
        seed=((request.seed or 0) + repetitions) % 2**31,
    )
