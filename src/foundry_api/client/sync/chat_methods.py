"""`SyncChatMethods`, written by `python3 dev.py generate` from client/chat.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from typing import Any, Unpack

    from foundry_api.client.chat import Messages
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.options import ChatOptions, StructuredOptions
    from foundry_api.types.messages import Chunk, Completion

__all__ = ["SyncChatMethods"]

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
