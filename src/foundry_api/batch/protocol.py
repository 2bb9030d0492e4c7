"""The part of a client that a batch uses.

Batches stand below the client, whose `batch` method they implement. `FoundryAPIClient` fits this
protocol; so does any object with these members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.results import Embeddings, Response
    from foundry_api.types.settings import Settings

__all__ = ["BatchClient"]


class ResponsesEndpoint(Protocol):
    """The `responses` of a client."""

    @property
    def create(self) -> Callable[..., Awaitable[Response]]:
        """See `Responses.create`."""
        ...


class BatchClient(Protocol):
    """Sends the requests of a batch."""

    # The methods are properties, as the options of a batch line are only known when it is read.

    @property
    def chat(self) -> Callable[..., Awaitable[Any]]:
        """See `FoundryAPIClient.chat`."""
        ...

    @property
    def embed(self) -> Callable[..., Awaitable[Embeddings]]:
        """See `FoundryAPIClient.embed`."""
        ...

    @property
    def responses(self) -> ResponsesEndpoint:
        """See `FoundryAPIClient.responses`."""
        ...

    @property
    def settings(self) -> Settings:
        """See `FoundryAPIClient.settings`."""
        ...

    @property
    def services(self) -> Sequence[ServiceHandle]:
        """See `FoundryAPIClient.services`."""
        ...
