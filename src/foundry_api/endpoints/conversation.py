"""Responses that go on from each other, and are released together."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from foundry_api.endpoints.responding import responding
from foundry_api.errors import FoundryError, ResponseNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self, Unpack

    from foundry_api.endpoints.options import ResponseOptions
    from foundry_api.endpoints.responding import Input, Responding
    from foundry_api.endpoints.responses import Responses
    from foundry_api.replies.responses import Response, ResponseEvent
    from foundry_api.residency.stored import Hold

__all__ = ["Conversation"]

log = logging.getLogger("foundry_api")


class Conversation:
    """Turns that go on from each other. As a context manager it deletes them at its end.

    Args:
        responses: Makes them.
        options: Of every turn.

    Attributes:
        last: The last turn's response; None before the first.
    """

    def __init__(self, responses: Responses, options: ResponseOptions) -> None:
        self.last: Response | None = None
        self._responses = responses
        self._options = options
        self._ids: list[str] = []

    async def say(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:  # noqa: A002 - OpenAI's own name
        """One more turn, whole. Raises as `Responses.create`.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
        """
        told = self._told(options)
        return self._said(await self._responses.respond(self._turn(input, told), told))

    def stream(
        self,
        input: Input,  # noqa: A002 - OpenAI's own name
        **options: Unpack[ResponseOptions],
    ) -> AsyncGenerator[ResponseEvent]:
        """One more turn, event by event. It counts once its last event was taken.

        Args:
            input: What is said.
            options: Of this turn, before those of the conversation; see `ResponseOptions`.
        """
        told = self._told(options)
        return self._heard(self._responses.events(self._turn(input, told), told))

    async def _heard(self, events: AsyncGenerator[ResponseEvent]) -> AsyncGenerator[ResponseEvent]:
        async with aclosing(events):
            async for event in events:
                if event.response is not None and event.response.timings is not None:
                    self._said(event.response)
                yield event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ids, self._ids = self._ids, []
        for name in () if self._options.get("keep") else reversed(ids):
            try:
                await self._responses.delete(name)
            except ResponseNotFound:
                continue  # it went with another one, or newer ones pushed it out
            except FoundryError as failure:
                log.debug("the stored response %s was not deleted: %s", name, failure)

    def _told(self, options: ResponseOptions) -> ResponseOptions:
        return cast("ResponseOptions", {**self._options, **options, "store": True})

    def _turn(self, said: Input, options: ResponseOptions) -> Responding:
        before = self.last
        options["previous_response_id"] = before.id if before else None
        hold: Hold = "kept" if options.get("keep") else "talking"
        return responding(said, options, hold=hold, goes_on=before is not None)

    def _said(self, response: Response) -> Response:
        self.last = response
        self._ids.append(response.id)
        return response
