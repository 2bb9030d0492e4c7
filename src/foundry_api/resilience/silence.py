"""The watch over a call's waiting: the bounds on silence, and the deadline."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from foundry_api.types.errors import CallTimeout, ReadTimeout

if TYPE_CHECKING:
    from types import TracebackType

    from foundry_api.resilience.deadline import Deadline

__all__ = ["KEEP_ALIVE_CAP", "TimeoutGuard"]

KEEP_ALIVE_CAP = 10
"""A service that only says that it is alive may do so for this many times the bound.

From 2.1 on it says so every 250 ms while it reads a long prompt, which may take longer than any
bound that would notice a dead engine in time; but it says so too when it hangs.
"""


class TimeoutGuard:
    """Ends whatever a call waits for when one of its time bounds falls.

        with watch:
            block = await response.read()

    Any byte is life, but without a token the wait ends at `KEEP_ALIVE_CAP` times the bound. Only
    waiting counts against silence, so that a caller may take his time between two chunks.

    One timer serves all the waits of a call. It stays armed from one wait to the next, and looks
    when it rings whether a bound has really fallen: a timer for each block would cost more than
    reading the block.

    Args:
        deadline: By when the call has to be over.

    Attributes:
        loop: The event loop on which the call waits.
        stage: How far the call is; told by the errors.
        longest_gap_s: Longest wait between two tokens since `start_silence_timer`.
    """

    __slots__ = (
        "_cancelling",
        "_deadline",
        "_due",
        "_expired",
        "_gap_s",
        "_silence_s",
        "_silent_at",
        "_since",
        "_task",
        "_timer",
        "_timer_at",
        "_waited_s",
        "longest_gap_s",
        "loop",
        "stage",
    )

    def __init__(self, deadline: Deadline) -> None:
        self.stage = "connecting"
        self.longest_gap_s = 0.0
        self._deadline = deadline
        self._silence_s = self._gap_s = math.inf
        self._waited_s = 0.0
        self._since = 0.0
        self._due = self._silent_at = math.inf
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def start_silence_timer(self, first_s: float, gap_s: float) -> None:
        """From now on silence counts.

        Args:
            first_s: Bound of the silence before the first token.
            gap_s: Bound of the silence after it.
        """
        self.stage = "waiting for the first token"
        self._silence_s, self._gap_s = first_s, gap_s
        self._waited_s = self.longest_gap_s = 0.0

    def on_token(self) -> None:
        """A token came."""
        if self.stage == "streaming":
            self.longest_gap_s = max(self.longest_gap_s, self._waited_s)
        else:
            self.stage = "streaming"
            self._silence_s = self._gap_s
        self._waited_s = 0.0

    def suspend_silence(self, stage: str) -> None:
        """From now on only the deadline counts."""
        self.stage = stage
        self._silence_s = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._deadline.at - self.loop.time()

    def extend(self, deadline: Deadline) -> None:
        """Allow more time, also in a wait that has begun. An earlier deadline is ignored."""
        if deadline.at <= self._deadline.at:
            return
        self._deadline = deadline
        self._due = min(self._silent_at, deadline.at)  # the timer rings too early, and looks again

    def check(self) -> None:
        """Refuse to go on after the deadline.

        Raises:
            DeadlineExceeded: The deadline has passed.
        """
        if self.loop.time() >= self._deadline.at:
            raise self._deadline.exceeded(self.stage)

    def stop(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        """Begin to wait.

        Raises:
            DeadlineExceeded: The deadline has passed before.
        """
        self._since = now = self.loop.time()
        deadline_at = self._deadline.at
        if now >= deadline_at:
            raise self._deadline.exceeded(self.stage)
        silence_s = self._silence_s
        if self._waited_s > silence_s * (KEEP_ALIVE_CAP - 1):
            silence_s = silence_s * KEEP_ALIVE_CAP - self._waited_s
        self._silent_at = due = now + silence_s
        self._due = due = min(due, deadline_at)
        self._task = task = asyncio.current_task(self.loop)
        self._cancelling = task.cancelling() if task else 0
        if due < self._timer_at:
            self._schedule()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End the wait.

        Raises:
            ReadTimeout: The bound on silence fell.
            DeadlineExceeded: The deadline passed.
        """
        task, self._task = self._task, None
        self._waited_s += self.loop.time() - self._since
        if self._expired and task is not None:
            self._expired = False
            # If somebody else cancelled the task too, the cancellation is not ours to end.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise self._error() from error

    def _schedule(self) -> None:
        self.stop()
        if self._due < math.inf:
            self._timer_at = self._due
            self._timer = self.loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._task is None:
            return
        if self.loop.time() < self._due:
            self._schedule()
        else:
            self._expired = True
            self._task.cancel()

    def _error(self) -> CallTimeout:
        if self._due >= self._deadline.at:
            return self._deadline.exceeded(self.stage)
        # A wait that began with more silence behind it than the bound had signs of life in it.
        only_alive = self._due < self._since + self._silence_s
        what = "only signs of life, but no token," if only_alive else "nothing"
        limit_s = self._silence_s * (KEEP_ALIVE_CAP if only_alive else 1)
        return ReadTimeout(
            f"the engine sent {what} for {limit_s:g} s", limit_s=limit_s, stage=self.stage
        )
