"""What the handlers of a gateway share."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from foundry_api.gateway.idempotency_cache import IdempotencyCache
from foundry_api.gateway.metrics import GatewayMetrics
from foundry_api.gateway.model_events import ModelEvents
from foundry_api.gateway.model_names import ModelNames
from foundry_api.gateway.response_store import ResponseStore
from foundry_api.gateway.upstreams.upstreams import Upstreams
from foundry_api.resilience.timeouts import Timers
from foundry_api.types.checks import ReadTimeouts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path
    from typing import BinaryIO

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.gateway.audit import AuditLog
    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.files.batch_types import CheckedRequests, StoredBatch
    from foundry_api.gateway.files.store import Draft, FileStore
    from foundry_api.gateway.files.types import StoredFile
    from foundry_api.gateway.keys.keyring import Keyring
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.admission import Admission, Ticket
    from foundry_api.gateway.limits.persistence import BudgetSaver
    from foundry_api.gateway.sessions import Sessions
    from foundry_api.gateway.warm_up import WarmUp

__all__ = ["BatchControl", "GatewayContext", "LiveSnapshot", "LiveSource", "RunningExchange"]


class RunningExchange(Protocol):
    """What others may know of an exchange that is being served; see `Exchange`."""

    @property
    def id(self) -> str:
        """The id of the request."""
        ...

    @property
    def key(self) -> ApiKey | None:
        """The key of the caller."""
        ...

    @property
    def model(self) -> str | None:
        """The model that is called."""
        ...

    @property
    def route(self) -> str:
        """The path of the route."""
        ...

    @property
    def started_at(self) -> float:
        """When it started, on the context's monotonic clock."""
        ...

    @property
    def ticket(self) -> Ticket | None:
        """The admission of its call."""
        ...

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when it has ended."""
        ...

    def abort(self, error: RequestError) -> None:
        """End it with an error."""
        ...


class BatchControl(Protocol):
    """Runs batches; see `BatchManager`."""

    async def write_requests(
        self, body: Path, lines: BinaryIO, key: ApiKey | None
    ) -> CheckedRequests:
        """Check the requests of a message batch, and write each as a line."""
        ...

    async def create(
        self, batch: StoredBatch, draft: Draft | None = None, stored: StoredFile | None = None
    ) -> None:
        """Store a batch and start it; raise RequestError if its key has too many."""
        ...

    async def cancel(self, batch: StoredBatch) -> StoredBatch:
        """Cancel a batch, and return its new state."""
        ...

    def get_counts(self, identifier: str) -> tuple[int, int] | None:
        """Return the answered and failed lines of a batch that runs."""
        ...


class LiveSnapshot(Protocol):
    """The state of the gateway at one moment."""

    def encode(self, key: ApiKey | None, /) -> bytes:
        """Encode what a key may see as an event."""
        ...


class LiveSource(Protocol):
    """Describes the gateway each second; see `LiveFeed`."""

    def subscribe(self) -> AsyncGenerator[LiveSnapshot]:
        """Yield the state now, and then each second."""
        ...


@dataclass(slots=True)
class GatewayContext:
    """The parts of a running gateway.

    Attributes:
        config: The settings.
        client: Calls the service behind the gateway.
        keyring: Knows the keys.
        sessions: The browsers that signed in.
        admission: Decides which call may start, and when.
        saver: Stores what the keys have used.
        audit: Records who did what.
        files: The files of all keys.
        batches: The batches of all keys.
        warm_up: The start of the engine; None if the first call starts it.
        live: What open pages show.
        reload: Reads keys and TLS files again.
        monotonic: A clock for durations.
        wall_clock: Seconds since the epoch.
        running: The exchanges that are being served.
        draining: Whether the gateway is shutting down.
        responses: The stored responses of the Responses API.
        idempotency: The responses to requests with idempotency keys.
        ignored_members: Members of requests that no route knows, by route.
        recording_bytes: Bytes of the recordings that are being received or transcribed.
        metrics: Counts of requests and tokens.
        model_names: The aliases of the models.
        model_events: What happens to the models.
        read_timeouts: How long the client waits for tokens of the service.
        call_timers: Timers of the exchanges, for their time limits.
        stream_timers: Timers of the streams, for their comments.
        upstreams: The services behind the gateway.
    """

    config: GatewayConfig
    client: FoundryAPIClient
    keyring: Keyring
    sessions: Sessions
    admission: Admission
    saver: BudgetSaver
    audit: AuditLog
    files: FileStore
    reload: Callable[[], Awaitable[None]]
    warm_up: WarmUp | None = None
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    batches: BatchControl = field(init=False)
    live: LiveSource = field(init=False)
    running: set[RunningExchange] = field(default_factory=set["RunningExchange"])
    draining: bool = False
    responses: ResponseStore = field(default_factory=ResponseStore)
    idempotency: IdempotencyCache = field(default_factory=IdempotencyCache)
    ignored_members: Counter[str] = field(default_factory=Counter[str])
    recording_bytes: int = 0
    metrics: GatewayMetrics = field(init=False)
    read_timeouts: ReadTimeouts = field(init=False)
    call_timers: Timers = field(default_factory=Timers)
    stream_timers: Timers = field(default_factory=Timers)
    model_names: ModelNames = field(init=False)
    model_events: ModelEvents = field(init=False)
    upstreams: Upstreams = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.read_timeouts = ReadTimeouts(config.first_token_timeout_s, config.gap_timeout_s)
        self.upstreams = Upstreams(self.client, config.fallbacks, config.upstream)
        self.model_names = ModelNames(self.upstreams)
        self.metrics = GatewayMetrics(
            # The names that were listed are not known before somebody lists them.
            lambda name: name == config.model or self.model_names.is_listed(name)
        )
        self.model_events = ModelEvents(self.client, self.model_names)

    def get_default_model(self, key: ApiKey | None) -> str | None:
        """Return the model for requests that name none; None for a key that may not use it."""
        model = self.config.model
        if model is None or key is None or self.model_names.is_allowed(key, model):
            return model
        return None
