"""Complete a prompt or a conversation, in one answer or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, overload

from msgspec import structs

from foundry_api.core.chat import make_output_spec
from foundry_api.types.checks import check_repairs, prompt_to_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.call import CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.core.options import ChatOptions, StructuredOptions
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import ChatRequest, Chunk, Completion, Constraint, Message

    Messages = Iterable[Message | Mapping[str, Any]]

__all__ = ["ChatMethods"]

_T = TypeVar("_T")

RETRY_TEMPERATURE = 1.0
"""Of a model that was asked to correct its answer and repeated it."""


class ChatMethods(ABC):
    """What a client says to models."""

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
        return await self._complete_structured(
            messages, options, max_repairs, expectation, is_validated=True
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
    ) -> AsyncGenerator[Chunk]:
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
        check_repairs(max_repairs)
        expectation = make_output_spec(
            response_model=response_model,
            choice=choice,
            grammar=grammar,
            parser=parser,
            validators=validators,
        )
        return await self._complete_structured(messages, options, max_repairs, expectation)

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

    async def _complete_structured(
        self,
        messages: Messages,
        options: ChatOptions,
        max_repairs: int,
        expectation: OutputSpec | None,
        *,
        is_validated: bool = False,
    ) -> Completion[Any]:
        """The answer to a conversation, where it is known what it has to be."""
        if expectation is None:
            order = self._build_request(messages, options, is_validated=is_validated)
            return await self._new_call(order).result()
        from foundry_api.structured.repair import complete_with_repairs  # noqa: PLC0415 - few calls need it

        order = self._build_request(
            messages, options, expectation.constraint, is_validated=is_validated
        )

        async def ask(
            turns: tuple[Message, ...], constraint: Constraint | None, repetitions: int
        ) -> Completion[None]:
            request = structs.replace(
                _resampled_request(order.request, repetitions),
                messages=turns,
                constraint=constraint,
            )
            return await self._new_call(structs.replace(order, request=request)).result()

        return await complete_with_repairs(
            ask,
            order.request.messages,
            expectation,
            max_repairs=max_repairs,
            deadline=order.deadline,
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
            order = self._build_request(messages, options, is_validated=is_validated)
            return self._new_call(order).chunks()
        from foundry_api.structured.streaming import parse_chunks  # noqa: PLC0415 - as above

        order = self._build_request(
            messages, options, expectation.constraint, is_validated=is_validated
        )
        return parse_chunks(self._new_call(order).chunks(), expectation)

    @abstractmethod
    def _build_request(
        self,
        messages: Messages,
        options: ChatOptions,
        constraint: Constraint | None = None,
        *,
        is_validated: bool = False,
    ) -> CallRequest[ChatRequest]:
        """What the caller ordered, checked; the messages too, unless they were before."""

    @abstractmethod
    def _new_call(self, order: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        """A call for it."""


def _resampled_request(request: ChatRequest, repetitions: int) -> ChatRequest:
    """The request in such a way that a model that repeats itself may say something else."""
    if not repetitions:
        return request
    return structs.replace(
        request,
        temperature=max(request.temperature or 0.0, RETRY_TEMPERATURE),
        seed=((request.seed or 0) + repetitions) % 2**31,
    )
