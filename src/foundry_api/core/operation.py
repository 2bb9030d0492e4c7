"""Operations: the parts of a call that differ between endpoints.

An operation builds the request, decodes the response and makes the result. `Call` and `Attempt`
are the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from foundry_api.types.errors import RouteNotFound, UnsupportedFeature
from foundry_api.types.messages import Timings
from foundry_api.wire.transport import MAX_SUCCESS_STATUS, OK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from foundry_api.core.connection import Connection
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.messages import (
        AttemptRecord,
        ChatRequest,
        FinishReason,
        ServiceGeneration,
        Usage,
    )
    from foundry_api.types.models import Model
    from foundry_api.wire.transport import Request, Response

__all__ = [
    "AnswerFacts",
    "Decoder",
    "EndpointOperation",
    "Finished",
    "Operation",
    "Outcome",
    "WholeBody",
]

_P_co = TypeVar("_P_co", covariant=True)
_T_co = TypeVar("_T_co", covariant=True)
_P = TypeVar("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")


class Decoder(Protocol[_P_co, _T_co]):
    """Decodes one response body into chunks and a final value."""

    @property
    def chunk_count(self) -> int:
        """Chunks received so far, including those that are buffered."""
        ...

    @property
    def done(self) -> bool:
        """Whether the body has its end marker."""
        ...

    def feed(self, block: bytes) -> Iterable[_P_co]:
        """Yield the chunks that this block completes, and raise an error after those before it."""
        ...

    def finish(self) -> _T_co:
        """Return the value of the complete body."""
        ...


class WholeBody(Generic[_T]):
    """Decodes a body that can't be decoded in parts, such as a JSON object."""

    chunk_count = 0
    done = False  # the body has no end marker: it ends where HTTP says so

    def __init__(self, decode: Callable[[bytes], _T]) -> None:
        self._decode = decode
        self._body = bytearray()

    def feed(self, block: bytes) -> tuple[()]:
        self._body += block
        return ()

    def finish(self) -> _T:
        return self._decode(bytes(self._body))


class AnswerFacts(NamedTuple):
    """The facts about a successful call from which an operation makes its result."""

    connection: Connection
    model: Model  # meaningless for an operation without a model
    status: int
    headers: Mapping[str, str]
    attempts: tuple[AttemptRecord, ...]
    time_to_first_token_s: float | None
    streamed_s: float | None  # from the first token to the end
    total_s: float
    queued_s: float

    def make_timings(self, tokens_per_second: float | None = None) -> Timings:
        return Timings(self.time_to_first_token_s, self.total_s, tokens_per_second, self.queued_s)


class Finished(NamedTuple, Generic[_R]):
    """The result of a call, and the other values of its `CallEnded` event."""

    result: _R
    timings: Timings
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    content: str | None = None  # None if it is the text that was streamed


class Operation(ABC, Generic[_P, _T, _R]):
    """Base of all operations. The defaults suit an endpoint that returns its answer at once."""

    __slots__ = ()

    name: ClassVar[OperationName]
    needs_model: ClassVar[bool] = True
    # Whether `preflight` is implemented.
    verifies: ClassVar[bool] = False
    # The read timeout for `timeout_s="auto"`; None derives it from the latency of the model.
    default_timeout_s: ClassVar[float | None] = None
    # Whether the time to the first token is recorded as the latency of the model.
    measures_latency: ClassVar[bool] = False
    # Completes a last event that lacks its final blank line.
    end_of_body: ClassVar[bytes] = b""

    @property
    def needs_slot(self) -> bool:
        """Whether the engine does work for it, so that it waits for a slot."""
        return True

    def get_event_request(self) -> ChatRequest | None:
        """Return the request for events, if this is a chat completion."""
        return None

    @abstractmethod
    def check(self, capabilities: Capabilities) -> None:
        """Raise if the service generation does not support the request."""

    async def preflight(self, connection: Connection, model: Model) -> None:
        """Raise if this service or model does not support the request."""

    @abstractmethod
    def make_request(self, connection: Connection, model: Model) -> Request:
        """Build the HTTP request."""

    def make_non_streaming_request(self, connection: Connection, model: Model) -> Request | None:
        """Build the request without streaming, if failed streams of the service give no reason."""
        del connection, model
        return None

    @abstractmethod
    def make_decoder(self, connection: Connection, model: Model) -> Decoder[_P, _T]:
        """Return a new decoder for one response."""

    def accepts(self, response: Response) -> bool:
        """Whether the decoder can read the response, judged by its status and headers."""
        return OK <= response.status <= MAX_SUCCESS_STATUS

    async def inspect(
        self, response: Response, read: Callable[[], Awaitable[bytes]]
    ) -> tuple[bool, bytes]:
        """Read the start of a body that `accepts` rejected.

        Returns whether the decoder can read it after all, and the bytes that were read.
        """
        del response, read
        return False, b""

    def translate_error(self, error: FoundryError) -> FoundryError:
        """Translate an error response of the service."""
        return error

    def amend(self, error: FoundryError) -> Operation[_P, _T, _R] | None:
        """Return a corrected operation to send at once, if the error can be corrected."""
        del error
        return None

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether the call must not be retried, because the service may have executed it."""
        del error, was_sent
        return False

    def collect(self, chunks: list[_P], texts: list[str], *, keep_result: bool) -> None:
        """Store the parts of the result; append the text of the answer to `texts`.

        `keep_result` is False for a stream, whose caller gets only chunks.
        """

    def may_drain(self, value: _T) -> bool:
        """Whether the body ends soon, so that reading it lets the connection be reused."""
        del value
        return False

    @abstractmethod
    def complete(self, value: _T, texts: list[str], facts: AnswerFacts) -> Finished[_R]:
        """Make the result from the decoded value."""

    def make_final_chunk(self, result: _R) -> _P | None:
        """Return the chunk that ends a stream with the facts only the result has, if any."""
        del result
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[_R]):
    """The decoded response of an endpoint, with the facts about its call."""

    result: _R
    model: Model
    connection: Connection
    timings: Timings
    attempts: tuple[AttemptRecord, ...]

    @property
    def service(self) -> str:
        """The base URL of the service."""
        return self.connection.base_url

    @property
    def service_generation(self) -> ServiceGeneration:
        """The generation of Foundry Local that the service runs."""
        return self.connection.endpoint.service_generation


class EndpointOperation(Operation[_P, _T, Outcome[_T]]):
    """Base of the model operations other than chat completions."""

    __slots__ = ()

    verifies: ClassVar[bool] = True

    def translate_error(self, error: FoundryError) -> FoundryError:
        # `check` knows only the generation, and not every version has all the routes of its own.
        if not isinstance(error, RouteNotFound):
            return error
        unsupported = UnsupportedFeature(f"the service has no such route: {error.message}")
        unsupported.status = error.status
        return unsupported

    def complete(self, value: _T, texts: list[str], facts: AnswerFacts) -> Finished[Outcome[_T]]:
        del texts
        timings = facts.make_timings()
        return Finished(
            Outcome(
                result=value,
                model=facts.model,
                connection=facts.connection,
                timings=timings,
                attempts=facts.attempts,
            ),
            timings,
        )
