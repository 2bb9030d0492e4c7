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

_T = TypeVar("_T")  # the type of `.parsed`


class BatchMethods(ABC):
    """Methods for many requests."""

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
        """Run many requests as fast as the services can. Each gets one result.

            async for result in client.batch(prompts, max_tokens=100):
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
        return run_requests(cast("BatchClient", self), requests, call_options, self._complete)

    @abstractmethod
    async def _complete(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: ChatOptions,
        max_repairs: int,
        expectation: OutputSpec | None,
    ) -> Completion[Any]:
        """Complete a conversation; with a spec, the answer is parsed and repaired."""
