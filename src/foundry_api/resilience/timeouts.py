"""The timeouts of a call: limits from measured latencies for `timeout="auto"`, and their guard."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING

from foundry_api.types.errors import CallTimeout, ReadTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from foundry_api.resilience.deadline import Deadline

__all__ = [
    "DEFAULT_S",
    "KEEP_ALIVE_CAP",
    "Latencies",
    "ModelLatency",
    "TimeoutGuard",
    "Timer",
    "Timers",
]

# A service that sends only keep-alives, but no token, has this many times the limit. SDK 2.1 and
# later send one every 250 ms while the engine reads a long prompt, which may take longer than any
# limit that detects a dead engine in time; but they also send them when the engine hangs.
KEEP_ALIVE_CAP = 10

# The limit is three times the 99th percentile of the recent waits, within these bounds. A longer
# wait is taken for a hang.
QUANTILE = 0.99
FACTOR = 3.0
# A busy machine stalls for this long without a fault.
FLOOR_S = 2.0
CEILING_S = 300.0
# Used until there are MIN_SAMPLES. The same as the default of FOUNDRY_TIMEOUT.
DEFAULT_S = 30.0
MIN_SAMPLES = 10
WINDOW = 128


class ModelLatency:
    """The recent waits for the tokens of one model."""

    def __init__(self) -> None:
        self._first_waits: deque[float] = deque(maxlen=WINDOW)
        self._gap_waits: deque[float] = deque(maxlen=WINDOW)

    @property
    def bounds_s(self) -> tuple[float, float]:
        """The timeouts for the first token and for the gap between two tokens."""
        return _compute_limit_s(self._first_waits), _compute_limit_s(self._gap_waits)

    def record_success(self, first_s: float, gap_s: float) -> None:
        """Record a call's time to first token and its longest gap between two tokens."""
        self._first_waits.append(first_s)
        self._gap_waits.append(gap_s)

    def record_timeout(self, limit_s: float, *, streaming: bool) -> None:
        # It counts as a wait of that length, so that the next timeout is longer.
        (self._gap_waits if streaming else self._first_waits).append(limit_s)


class Latencies:
    """The latencies of all models that a client calls, by model id."""

    def __init__(self) -> None:
        self._models: dict[str, ModelLatency] = {}

    def for_model(self, model_id: str) -> ModelLatency:
        latency = self._models.get(model_id)
        return self._models.setdefault(model_id, ModelLatency()) if latency is None else latency


def _compute_limit_s(waits: deque[float]) -> float:
    if len(waits) < MIN_SAMPLES:
        return DEFAULT_S
    rank = math.ceil(QUANTILE * len(waits)) - 1
    return min(max(FLOOR_S, FACTOR * sorted(waits)[rank]), CEILING_S)


class Timers:
    """Timers for work of one kind. Those of ended work stay armed, for work that begins later.

    Later work has a new limit, but hardly ever an earlier one: its timer only fires too early, and
    is then armed again. Arming one for each call and cancelling it would cost as much as sending
    the request.
    """

    def __init__(self) -> None:
        self._unused: set[Timer] = set()

    def take(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> Timer:
        """Return a timer, which may be armed already.

        It calls `on_due` at the time for which it was armed last, or earlier.
        """
        while self._unused:
            timer = self._unused.pop()
            if timer.loop is loop:  # those of another loop never fire
                timer.on_due = on_due
                return timer
        return Timer(self._unused, loop, on_due)

    def put_back(self, timer: Timer) -> None:
        """Give up a timer at the end of the work."""
        timer.on_due = None
        self._unused.add(timer)

    def cancel(self) -> None:
        """Cancel the timers of ended work."""
        while self._unused:
            self._unused.pop().cancel()


class Timer:
    """A timer of an event loop."""

    __slots__ = ("_handle", "_unused", "at", "loop", "on_due")

    def __init__(
        self, unused: set[Timer], loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]
    ) -> None:
        self.at = math.inf  # when it fires
        self.loop = loop
        self.on_due: Callable[[], None] | None = on_due
        self._unused = unused
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: float) -> None:
        """Make it fire at a time of the event loop's clock, if it would not fire earlier."""
        if at < self.at:
            self.cancel()
            self.at = at
            self._handle = self.loop.call_at(at, self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        self.at, self._handle = math.inf, None
        if self.on_due is None:
            self._unused.discard(self)
        else:
            self.on_due()


class TimeoutGuard:
    """Cancels what a call waits for when one of its time limits expires.

        with guard:
            block = await response.read()

    Attributes:
        deadline: The deadline of the call.
        loop: The event loop on which the call waits.
        stage: What the call is doing, for its errors.
        longest_gap_s: Longest wait between two tokens since `start_read_timeout`.
    """

    # Any byte restarts the read timeout, but only a token restarts the cap of KEEP_ALIVE_CAP. Only
    # the time inside `with` counts, so that a caller may process a chunk for as long as it likes.
    #
    # One timer serves all waits of a call. It stays armed between them, and the guard checks when
    # it fires whether a limit has expired: one timer per block would cost more than reading it.

    __slots__ = (
        "_cancelling",
        "_due_at",
        "_expired",
        "_gap_s",
        "_keep_alive_cap",
        "_read_timeout_at",
        "_read_timeout_s",
        "_started_at",
        "_task",
        "_timer",
        "_timers",
        "_waited_s",
        "deadline",
        "longest_gap_s",
        "loop",
        "stage",
    )

    def __init__(self, deadline: Deadline, timers: Timers) -> None:
        self.stage = "connecting"
        self.longest_gap_s = 0.0
        self.deadline = deadline
        self._read_timeout_s = self._gap_s = math.inf
        self._keep_alive_cap = KEEP_ALIVE_CAP
        self._waited_s = 0.0
        self._started_at = 0.0
        self._due_at = self._read_timeout_at = math.inf
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False
        self.loop = asyncio.get_running_loop()
        self._timers = timers
        self._timer: Timer | None = None

    def start_read_timeout(
        self, first_s: float, gap_s: float, *, are_extended: bool = True
    ) -> None:
        """Start the read timeout: `first_s` before the first token, `gap_s` after it.

        A service that sends keep-alives has KEEP_ALIVE_CAP times as long, if they `are_extended`.
        """
        self._keep_alive_cap = KEEP_ALIVE_CAP if are_extended else 1
        self.stage = "waiting for the first token"
        self._read_timeout_s, self._gap_s = first_s, gap_s
        self._waited_s = self.longest_gap_s = 0.0

    def on_token(self) -> None:
        """Restart the read timeout after a token."""
        if self.stage == "streaming":
            if self._waited_s > self.longest_gap_s:
                self.longest_gap_s = self._waited_s
        else:
            self.stage = "streaming"
            self._read_timeout_s = self._gap_s
        self._waited_s = 0.0

    def suspend_read_timeout(self, stage: str) -> None:
        """Apply only the deadline from now on."""
        self.stage = stage
        self._read_timeout_s = math.inf

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline.at - self.loop.time()

    def extend(self, deadline: Deadline) -> None:
        """Set a later deadline, also during a wait. An earlier one is ignored."""
        if deadline.at <= self.deadline.at:
            return
        self.deadline = deadline
        # The timer is not moved: it fires too early, and is then scheduled again.
        self._due_at = min(self._read_timeout_at, deadline.at)

    def check(self) -> None:
        """Raise DeadlineExceeded if the deadline has passed."""
        if self.deadline.at < math.inf and self.loop.time() >= self.deadline.at:
            raise self.deadline.make_error(self.stage)

    def stop(self) -> None:
        """Give up the timer at the end of the call."""
        if self._timer is not None:
            self._timers.put_back(self._timer)
            self._timer = None

    def __enter__(self) -> None:
        """Start a wait, or raise DeadlineExceeded."""
        now = self.loop.time()
        if now >= self.deadline.at:
            raise self.deadline.make_error(self.stage)
        self._task = task = asyncio.current_task(self.loop)
        self._cancelling = task.cancelling() if task else 0
        self._start_wait(now)

    def on_block(self, tokens: int, *, is_last: bool) -> None:
        """Restart the read timeout after a block of `tokens` tokens, during a wait or without one.

        `is_last` says that the wait ends with this block.
        """
        if self._task is None:
            if tokens:
                self.on_token()
            return
        now = self.loop.time()
        self._waited_s += now - self._started_at
        if tokens:
            self.on_token()
        if is_last:
            self._started_at = now
        else:
            self._start_wait(now)

    def _start_wait(self, now: float) -> None:
        self._started_at = now
        limit_s = self._read_timeout_s
        if self._waited_s > limit_s * (self._keep_alive_cap - 1):
            limit_s = limit_s * self._keep_alive_cap - self._waited_s
        due_at = self._read_timeout_at = now + limit_s
        if due_at > self.deadline.at:
            due_at = self.deadline.at
        self._due_at = due_at
        timer = self._timer
        if timer is None or due_at < timer.at:
            self._schedule(due_at)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End the wait; raise ReadTimeout or DeadlineExceeded if the timer cancelled it."""
        task, self._task = self._task, None
        self._waited_s += self.loop.time() - self._started_at
        if self._expired and task is not None:
            self._expired = False
            # If other code cancelled the task too, its cancellation must continue.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise self._make_error() from error

    def on_timer(self) -> None:
        """Cancel the wait if a limit has expired. Called when the timer fires."""
        if self._task is None:  # between two waits
            return
        if self.loop.time() < self._due_at:
            self._schedule(self._due_at)
        else:
            self._expired = True
            self._task.cancel()

    def expire_read_timeout(self) -> None:
        """Let the read timeout of the current wait expire now, if there is a wait."""
        if self._task is None or self._expired:
            return
        now = self.loop.time()
        self._read_timeout_s = now - self._started_at  # for the error
        self._due_at = self._read_timeout_at = now
        self.on_timer()

    def _schedule(self, due_at: float) -> None:
        if due_at < math.inf:
            timer = self._timer = self._timer or self._timers.take(self.loop, self.on_timer)
            timer.arm(due_at)

    def _make_error(self) -> CallTimeout:
        if self._due_at >= self.deadline.at:
            return self.deadline.make_error(self.stage)
        # __enter__ shortens a wait only when the keep-alive cap expires before the limit.
        only_alive = self._due_at < self._started_at + self._read_timeout_s
        what = "only keep-alives, but no token," if only_alive else "nothing"
        limit_s = self._read_timeout_s * (self._keep_alive_cap if only_alive else 1)
        error = ReadTimeout(
            f"the engine sent {what} for {limit_s:g} s", limit_s=limit_s, stage=self.stage
        )
        error.has_keep_alives = only_alive
        return error
