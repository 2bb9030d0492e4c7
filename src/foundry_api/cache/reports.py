"""What is told of a call that was not made, because its answer was there or on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api.errors import FoundryError
from foundry_api.events import CacheHit, CallEnded, CallStarted

if TYPE_CHECKING:
    from foundry_api.call import CallTools, Order
    from foundry_api.events import CacheSource
    from foundry_api.messages import ChatRequest, Completion, Timings

__all__ = ["Report"]


class Report:
    """The events of one call that asks no engine.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
    """

    def __init__(self, tools: CallTools, order: Order[ChatRequest]) -> None:
        self._tools = tools
        self._order = order
        self._number = 0
        self._ended = False

    def began(self) -> None:
        """The call began. Told at once if that is known, else ahead of its end."""
        self._number = next(self._tools.numbers)
        model, request = self._order.models[0], self._order.request
        self._tools.events.emit(CallStarted(call=self._number, model=model, request=request))

    def hit(self, whole: Completion[Any], pieces: int, source: CacheSource, age_s: float) -> None:
        """The call was answered.

        Args:
            whole: The answer.
            pieces: In how many pieces it came.
            source: Where it came from.
            age_s: Seconds since it was made.
        """
        if not self._number:
            self.began()
        self._ended = True
        emit = self._tools.events.emit
        emit(
            CacheHit(
                call=self._number,
                model=whole.model,
                service=whole.service,
                source=source,
                age_s=max(age_s, 0.0),
            )
        )
        emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=whole.model,
                service=whole.service,
                attempts=(),
                timings=whole.timings,
                usage=whole.usage,
                finish_reason=whole.finish_reason,
                chunks=pieces,
                content=whole.content,
                cached=True,
            )
        )

    def failed(self, error: BaseException, timings: Timings) -> None:
        """The call failed, or its caller left; he may leave with the whole answer in hand."""
        if self._ended:
            return
        if not self._number:
            self.began()
        failure = error if isinstance(error, FoundryError) else None
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="failed" if failure else "cancelled",
                model=(failure and failure.model) or self._order.models[0],
                service=failure.service if failure else None,
                attempts=(),
                timings=timings,
                error=failure,
            )
        )
