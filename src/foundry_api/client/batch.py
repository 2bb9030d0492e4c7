"""`client.batch`: run many requests with bounded concurrency."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.types import (
        BatchAnswer,
        BatchItem,
        BatchKeywords,
        BatchResult,
        Failures,
        Prompt,
    )
    from foundry_api.core.options import ChatOptions
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import Completion, Message

    Prompts = Iterable[Prompt] | AsyncIterable[Prompt]
    BatchItems = Iterable[BatchItem] | AsyncIterable[BatchItem]

__all__ = ["BatchMethods"]

_T = TypeVar("_T")


class BatchMethods(ABC):
    """What a client does with many requests; `FoundryAPIClient` inherits it."""

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        response_model: type[_T],
        **options: Unpack[BatchKeywords[_T]],
    ) -> AsyncGenerator[BatchResult[Completion[_T]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        response_model: Any,
        **options: Unpack[BatchKeywords[Any]],
    ) -> AsyncGenerator[BatchResult[Completion[Any]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        choice: Sequence[str],
        **options: Unpack[BatchKeywords[str]],
    ) -> AsyncGenerator[BatchResult[Completion[str]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        parser: Callable[[str], _T],
        grammar: str | None = None,
        **options: Unpack[BatchKeywords[_T]],
    ) -> AsyncGenerator[BatchResult[Completion[_T]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        *,
        grammar: str,
        **options: Unpack[BatchKeywords[str]],
    ) -> AsyncGenerator[BatchResult[Completion[str]]]: ...

    @overload
    def batch(
        self,
        requests: Prompts,
        **options: Unpack[BatchKeywords[str]],
    ) -> AsyncGenerator[BatchResult[Completion[None]]]: ...

    @overload
    def batch(
        self,
        requests: BatchItems,
        **options: Unpack[BatchKeywords[str]],
    ) -> AsyncGenerator[BatchResult[BatchAnswer]]: ...

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
    ) -> AsyncGenerator[BatchResult[Any]]:
        """Many requests, each answered once, with the throughput that the engine has.

            async for result in client.batch(prompts, max_tokens=100):
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
        from foundry_api.batch.in_memory import BatchCallOptions, run_requests  # noqa: PLC0415 - few need it

        call_options = BatchCallOptions(
            system=system,
            output_arguments={
                "response_model": response_model,
                "choice": choice,
                "grammar": grammar,
                "parser": parser,
                "validators": validators,
            },
            max_repairs=max_repairs,
            options=options,
            ordered=ordered,
            errors=errors,
            dedupe=dedupe,
            max_attempts=max_attempts,
            patience_s=patience,
        )
        return run_requests(
            cast("BatchClient", self), requests, call_options, self._complete_structured
        )

    @abstractmethod
    async def _complete_structured(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: ChatOptions,
        max_repairs: int,
        expectation: OutputSpec | None,
    ) -> Completion[Any]:
        """The answer to a conversation, where it is known what it has to be."""
