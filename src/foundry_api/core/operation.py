"""Operations: the parts of a call that differ between endpoints.

An operation builds the request, decodes the response and makes the result. `Call` and `Attempt`
are the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

import msgspec

from foundry_api.resilience.prompt_reading import UNKNOWN_SIZE
from foundry_api.types.errors import RouteNotFound, UnsupportedFeature
from foundry_api.types.messages import (
    AttemptRecord,
    FinishReason,
    Timings,
    Usage,
)
from foundry_api.types.models import Model
from foundry_api.wire.transport import MAX_SUCCESS_STATUS, OK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    # Nothing decodes `AnswerFacts`, so that its types are not needed when it runs.
    from foundry_api.core.connection import Connection  # noqa: TC004
    from foundry_api.resilience.prompt_reading import PromptSize
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.messages import (
        ChatRequest,
        ServiceGeneration,
    )
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

# A decoder turns a body into chunks, which a stream yields, and one value. The operation makes the
# result for the caller from that value. An endpoint without streaming has `Never` as its chunk.
_ChunkT = TypeVar("_ChunkT")
_ValueT = TypeVar("_ValueT")
_ResultT = TypeVar("_ResultT")
_ChunkT_co = TypeVar("_ChunkT_co", covariant=True)
_ValueT_co = TypeVar("_ValueT_co", covariant=True)


class Decoder(Protocol[_ChunkT_co, _ValueT_co]):
    """Decodes one response body into chunks and a final value."""

    @property
    def chunk_count(self) -> int:
        """Chunks received so far, including those that are buffered."""
        ...

    @property
    def done(self) -> bool:
        """Whether the body has its end marker."""
        ...

    def feed(self, block: bytes) -> Iterable[_ChunkT_co]:
        """Yield the chunks that this block completes. Errors are raised after the chunks before."""
        ...

    def finish(self) -> _ValueT_co:
        """Return the value of the complete body."""
        ...


class WholeBody(Generic[_ValueT]):
    """Decodes a body that can't be decoded in parts, such as a JSON object."""

    chunk_count = 0
    done = False  # the body has no end marker: it ends where HTTP says so

    def __init__(self, decode: Callable[[bytes], _ValueT]) -> None:
        self._decode = decode
        self._body = bytearray()

    def feed(self, block: bytes) -> tuple[()]:
        self._body += block
        return ()

    def finish(self) -> _ValueT:
        return self._decode(bytes(self._body))


class AnswerFacts(msgspec.Struct, frozen=True, kw_only=True):
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


class Finished(msgspec.Struct, Generic[_ResultT], frozen=True):
    """The result of a call, and the other values of its `CallEnded` event."""

    result: _ResultT
    timings: Timings
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    content: str | None = None  # None if it is the text that was streamed


class Operation(ABC, Generic[_ChunkT, _ValueT, _ResultT]):
    """Base of all operations. The defaults suit an endpoint that returns its answer at once."""

    __slots__ = ()

    name: ClassVar[OperationName]
    needs_model: ClassVar[bool] = True
    has_preflight: ClassVar[bool] = False
    # The read timeout for `timeout_s="auto"`; None derives it from the latency of the model.
    default_timeout_s: ClassVar[float | None] = None
    # Whether the time to the first token is recorded as the latency of the model.
    measures_latency: ClassVar[bool] = False
    # Whether the engine reads a prompt, which may be long, before the first token.
    reads_prompt: ClassVar[bool] = False
    # Fed to the decoder after a body that ends early, to complete an event without its blank line.
    end_of_body: ClassVar[bytes] = b""

    @property
    def needs_slot(self) -> bool:
        """Whether the call waits for a slot of the limiter, because the engine does work for it."""
        return True

    def measure_prompt(self) -> PromptSize:
        """Return the size of the prompt, from which its tokens are estimated."""
        return UNKNOWN_SIZE

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
    def make_decoder(self, connection: Connection, model: Model) -> Decoder[_ChunkT, _ValueT]:
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

    def amend(self, error: FoundryError) -> Operation[_ChunkT, _ValueT, _ResultT] | None:
        """Return a corrected operation to send at once, if the error can be corrected."""
        del error
        return None

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether the call must not be retried, because the service may have executed it."""
        del error, was_sent
        return False

    def collect(self, chunks: list[_ChunkT], texts: list[str], *, keep_result: bool) -> None:
        """Store the parts of the result; append the text of the answer to `texts`.

        `keep_result` is False for a stream, whose caller gets only chunks.
        """

    def may_drain(self, value: _ValueT) -> bool:
        """Whether the body ends soon, so that reading it lets the connection be reused."""
        del value
        return False

    @abstractmethod
    def complete(self, value: _ValueT, texts: list[str], facts: AnswerFacts) -> Finished[_ResultT]:
        """Make the result from the decoded value."""

    def make_final_chunk(self, result: _ResultT) -> _ChunkT | None:
        """Return the chunk that ends a stream with the facts only the result has, if any."""
        del result
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[_ResultT]):
    """The decoded response of an endpoint, with the facts about its call."""

    result: _ResultT
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


class EndpointOperation(Operation[_ChunkT, _ValueT, Outcome[_ValueT]]):
    """Base of the model operations other than chat completions."""

    __slots__ = ()

    has_preflight: ClassVar[bool] = True

    def translate_error(self, error: FoundryError) -> FoundryError:
        # `check` knows only the generation, and not every version has all the routes of its own.
        if not isinstance(error, RouteNotFound):
            return error
        unsupported = UnsupportedFeature(f"the service has no such route: {error.message}")
        unsupported.status = error.status
        return unsupported

    def complete(
        self, value: _ValueT, texts: list[str], facts: AnswerFacts
    ) -> Finished[Outcome[_ValueT]]:
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
