"""`SyncConversation`, written by `python3 dev.py generate` from client/responses.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType
    from typing import Self, Unpack

    from foundry_api.client.responses import Conversation
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.options import ResponseOptions
    from foundry_api.core.responses import Input
    from foundry_api.types.results import Response, ResponseEvent

__all__ = ["SyncConversation"]


class SyncConversation:
    """Turns that go on from each other. As a context manager it deletes them at its end.

    Attributes:
        last: The last turn's response; None before the first.
    """

    def __init__(self, loop: BackgroundLoop, calls: Conversation) -> None:
        self._loop = loop
        self._async = calls

    @property
    def last(self) -> Response | None:
        """The last turn's response; None before the first."""
        return self._async.last

    def say(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Send the next turn and return the response. Raises the same errors as `Responses.create`.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
        """
        return self._loop.run(lambda: self._async.say(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """One more turn, event by event. It counts once its last event was taken.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
        """
        return self._loop.iterate(lambda: self._async.stream(input, **options))

    def __enter__(self) -> Self:
        self._loop.run(self._async.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave = self._async.__aexit__
        self._loop.run(lambda: leave(kind, error, traceback))
