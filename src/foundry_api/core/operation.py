"""Operations: what differs between the endpoints that a call may be for.

A `Call` makes attempts, and an `Attempt` makes one request. Which request that is, who decodes the
answer and what the result is made of is for the operation to say.
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
        Model,
        ServiceGeneration,
        Usage,
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

_P_co = TypeVar("_P_co", covariant=True)
_T_co = TypeVar("_T_co", covariant=True)
_P = TypeVar("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")


class Decoder(Protocol[_P_co, _T_co]):
    """Turns the body of one answer into chunks, and into a value at its end."""

    @property
    def chunk_count(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        ...

    @property
    def done(self) -> bool:
        """Whether the body said that it is complete."""
        ...

    def feed(self, block: bytes) -> Iterable[_P_co]:
        """Return the chunks that this block completes, those ahead of an error too.

        Raises:
            FoundryError: The body carries an error, or is not what the service sends.
        """
        ...

    def finish(self) -> _T_co:
        """Return the value of the whole body, once it ended.

        Raises:
            FoundryError: The body ended too early, or is not what the service sends.
        """
        ...


class WholeBody(Generic[_T]):
    """Decodes a body that makes sense only as a whole.

    Args:
        decode: Decodes the body.
    """

    chunk_count = 0
    done = False  # HTTP says where the body ends

    def __init__(self, decode: Callable[[bytes], _T]) -> None:
        self._decode = decode
        self._body = bytearray()

    def feed(self, block: bytes) -> tuple[()]:
        """Keep a block."""
        self._body += block
        return ()

    def finish(self) -> _T:
        """Return the decoded body."""
        return self._decode(bytes(self._body))


class AnswerFacts(NamedTuple):
    """What a call knows of the answer that it got.

    Attributes:
        connection: The service that answered.
        model: The model that answered; of no use to an operation that needs none.
        status: The HTTP status.
        headers: The headers.
        attempts: The requests made, the successful one last.
        time_to_first_token_s: Seconds from sending the request to its first token.
        streamed_s: Seconds from the first token to the end.
        total_s: Seconds that the whole call took.
        queued_s: Seconds of them spent waiting for its turn.
    """

    connection: Connection
    model: Model
    status: int
    headers: Mapping[str, str]
    attempts: tuple[AttemptRecord, ...]
    time_to_first_token_s: float | None
    streamed_s: float | None
    total_s: float
    queued_s: float

    def timings(self, tokens_per_second: float | None = None) -> Timings:
        """Return where the time went."""
        return Timings(self.time_to_first_token_s, self.total_s, tokens_per_second, self.queued_s)


class Finished(NamedTuple, Generic[_R]):
    """The result of a call, with what its last event tells.

    Attributes:
        result: The result.
        timings: Where the time went.
        usage: Tokens as the service counted them; None where it does not.
        finish_reason: Why the answer ended; None where it does not say.
        content: The text of the answer; None where it is what was streamed.
    """

    result: _R
    timings: Timings
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    content: str | None = None


class Operation(ABC, Generic[_P, _T, _R]):
    """What a call asks of a service. The defaults suit an endpoint that answers in one piece.

    Attributes:
        name: What events call it.
        needs_model: Whether a model has to be in memory for it.
        verifies: Whether `preflight` has something to do.
        default_timeout_s: Bound of the silence where the caller leaves it to the client; None for
            what the model was seen to need.
        measures_latency: Whether its time to the first token says something of the model.
        end_of_body: What completes a last event whose line end is missing.
    """

    __slots__ = ()

    name: ClassVar[OperationName]
    needs_model: ClassVar[bool] = True
    verifies: ClassVar[bool] = False
    default_timeout_s: ClassVar[float | None] = None
    measures_latency: ClassVar[bool] = False
    end_of_body: ClassVar[bytes] = b""

    @property
    def needs_slot(self) -> bool:
        """Whether it makes work for the engine, so that it waits for its turn."""
        return True

    def event_request(self) -> ChatRequest | None:
        """Return the request for events; None where it is no chat completion."""
        return None

    @abstractmethod
    def check(self, capabilities: Capabilities) -> None:
        """Refuse what the service generation cannot do, before a model is loaded for it.

        Raises:
            InvalidRequest: The caller asks for what this generation does not take.
            UnsupportedFeature: This generation cannot do it.
        """

    async def preflight(self, connection: Connection, model: Model) -> None:
        """Refuse what this service or model cannot do, before anything is sent.

        Raises:
            FoundryError: It cannot.
        """

    @abstractmethod
    def request(self, connection: Connection, model: Model) -> Request:
        """Build the HTTP request."""

    def non_streaming_request(self, connection: Connection, model: Model) -> Request | None:
        """Build the same without streaming, where a stream that fails does not say why."""
        del connection, model
        return None

    @abstractmethod
    def decoder(self, connection: Connection, model: Model) -> Decoder[_P, _T]:
        """Make a decoder for one answer."""

    def accepts(self, response: Response) -> bool:
        """Whether the head of an answer says that the decoder can read it."""
        return OK <= response.status <= MAX_SUCCESS_STATUS

    async def inspect(
        self, response: Response, read: Callable[[], Awaitable[bytes]]
    ) -> tuple[bool, bytes]:
        """Look into the body of an answer whose head is not accepted.

        Args:
            response: The answer.
            read: Reads the next block of its body.

        Returns:
            Whether it can be decoded after all, and what was read of the body.
        """
        del response, read
        return False, b""

    def refusal(self, error: FoundryError) -> FoundryError:
        """Say what the refusal of a request means for this operation."""
        return error

    def amend(self, error: FoundryError) -> Operation[_P, _T, _R] | None:
        """Return the same put right after a refusal, to be sent at once; None where none helps."""
        del error
        return None

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether nothing may be sent again, because the service may have carried it out."""
        del error, was_sent
        return False

    def collect(self, chunks: list[_P], texts: list[str], *, keep_result: bool) -> None:
        """Keep what the result is made of.

        Args:
            chunks: The next ones.
            texts: Gathers the text of the answer, for events and errors.
            keep_result: Whether the caller takes the answer as a whole.
        """

    def may_drain(self, value: _T) -> bool:
        """Whether the rest of a complete body is worth reading, to keep its connection."""
        del value
        return False

    @abstractmethod
    def complete(self, value: _T, texts: list[str], facts: AnswerFacts) -> Finished[_R]:
        """Make the result.

        Args:
            value: What the decoder made of the whole body.
            texts: The text of the answer.
            facts: What the call knows.
        """

    def final_chunk(self, result: _R) -> _P | None:
        """Return the chunk that ends a stream with what only the result tells; None for none."""
        del result
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[_R]):
    """The value that an endpoint answered, with what only the call knows."""

    result: _R
    model: Model
    connection: Connection
    timings: Timings
    attempts: tuple[AttemptRecord, ...]

    @property
    def service(self) -> str:
        """The base URL of the service that answered."""
        return self.connection.base_url

    @property
    def service_generation(self) -> ServiceGeneration:
        """Which generation of Foundry Local that is."""
        return self.connection.endpoint.service_generation


class EndpointOperation(Operation[_P, _T, Outcome[_T]]):
    """An operation of a model beside chat completions."""

    __slots__ = ()

    verifies: ClassVar[bool] = True

    def refusal(self, error: FoundryError) -> FoundryError:
        """A version may lack a route that others of its generation have."""
        if not isinstance(error, RouteNotFound):
            return error
        lacking = UnsupportedFeature(f"the service has no such route: {error.message}")
        lacking.status = error.status
        return lacking

    def complete(self, value: _T, texts: list[str], facts: AnswerFacts) -> Finished[Outcome[_T]]:
        """Add what the call knows to the value."""
        del texts
        timings = facts.timings()
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
