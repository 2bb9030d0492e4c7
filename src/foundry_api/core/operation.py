"""What is asked of an endpoint, and who makes sense of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.core.connection import Connection
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import Operation
    from foundry_api.types.messages import Model
    from foundry_api.wire.transport import Request

__all__ = ["Asking", "Decoder", "WholeBody"]

_P_co = TypeVar("_P_co", covariant=True)
_R_co = TypeVar("_R_co", covariant=True)
_R = TypeVar("_R")


class Decoder(Protocol[_P_co, _R_co]):
    """Turns the body of one answer into pieces, and into a result at its end."""

    @property
    def done(self) -> bool:
        """Whether the body said that it is complete."""
        ...

    def feed(self, block: bytes) -> Iterable[_P_co]:
        """The pieces that this block completes, those ahead of an error too.

        Raises:
            FoundryError: The body carries an error, or is not what the service sends.
        """
        ...

    def finish(self) -> _R_co:
        """The result, once the body ended.

        Raises:
            FoundryError: The body ended too early, or is not what the service sends.
        """
        ...


class WholeBody(Generic[_R]):
    """Gathers a body that makes sense only as a whole.

    Args:
        decode: Makes the result of it.
    """

    def __init__(self, decode: Callable[[bytes], _R]) -> None:
        self._decode = decode
        self._body = bytearray()

    @property
    def done(self) -> bool:
        """Never: HTTP tells where the body ends."""
        return False

    def feed(self, block: bytes) -> tuple[()]:
        """Keep a block."""
        self._body += block
        return ()

    def finish(self) -> _R:
        """The result."""
        return self._decode(bytes(self._body))


class Asking(Protocol[_P_co, _R_co]):
    """What is asked of an endpoint.

    Attributes:
        operation: What it is called in events.
    """

    operation: ClassVar[Operation]

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again though the service may have carried it out."""
        ...

    def check(self, capabilities: Capabilities) -> None:
        """Refuse what the generation cannot do, before a model is loaded for it.

        Raises:
            UnsupportedFeature: This generation cannot do it.
        """
        ...

    async def verify(self, connection: Connection, model: Model) -> None:
        """Refuse what this service or model cannot do, before anything is sent.

        Raises:
            FoundryError: It cannot.
        """
        ...

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        ...

    def plain(self, connection: Connection, model: Model) -> Request | None:
        """The same without streaming, where a stream that fails does not say why; else None."""
        ...

    def decoder(self, connection: Connection, model: Model) -> Decoder[_P_co, _R_co]:
        """Who decodes the answer."""
        ...

    def amended(self, error: FoundryError) -> Asking[_P_co, _R_co] | None:
        """The same put right after a refusal, to be sent at once; None where nothing helps."""
        ...
