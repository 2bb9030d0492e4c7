"""The answer to a request that has no method of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from foundry_api.errors import ProtocolError
from foundry_api.messages import Attempt
from foundry_api.results import Headers, ShortResult

__all__ = ["RawReply"]


class RawReply(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came.

    Attributes:
        status: The HTTP status, below 400: others are raised.
        headers: Its headers; names compare without case, of doubled ones the first counts.
        body: Its bytes.
        service: The base URL of the service that answered.
        attempts: The HTTP requests made, the successful one last.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    service: str
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        """Have headers that compare without case, wherever they come from."""
        if not isinstance(self.headers, Headers):
            msgspec.structs.force_setattr(self, "headers", Headers(self.headers))

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            ProtocolError: It is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"the answer is not JSON: {error}", service=self.service) from error

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none is replaced."""
        return self.body.decode("utf-8", "replace")
