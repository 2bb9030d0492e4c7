"""The circuit breaker, also against a model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import coroutine
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from foundry_api.resilience.breaker import (
    MAX_TIMED_RESULTS,
    BreakerSettings,
    BreakerStatistics,
    CallPermit,
    CircuitBreaker,
)
from foundry_api.types.errors import CircuitOpen, ConfigurationError, ServerError
from foundry_api.types.events import BreakerChanged

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from foundry_api.types.events import BreakerState, Event

    Change = tuple[BreakerState, BreakerState, float]

SMALL = BreakerSettings(minimum_calls=2, open_s=2.0, open_cap_s=16.0, slow_s=3.0)
"""Opens at the second failed call, for 2, 4, 8 and at most 16 seconds without jitter."""


def read_change(event: Event) -> Change:
    assert isinstance(event, BreakerChanged)
    return event.old, event.new, event.retry_after_s


@dataclass
class Bench:
    """A breaker with a controlled clock and controlled random numbers."""

    settings: BreakerSettings = SMALL
    now: float = 1000.0
    fraction: float = 1.0
    drawn: list[tuple[float, float]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breaker = CircuitBreaker(
            self.settings, monotonic=lambda: self.now, uniform=self._draw, listener=self._on_change
        )
        self.breaker.service = "http://127.0.0.1:5273"

    def _draw(self, low: float, high: float) -> float:
        self.drawn.append((low, high))
        return low + self.fraction * (high - low)

    def _on_change(self, event: Event) -> None:
        self.changes.append(read_change(event))

    def permit(self) -> CallPermit:
        permit = self.breaker.try_enter()
        assert permit is not None
        return permit

    def report(self, results: str, duration_s: float = 0.1) -> None:
        """Report results: `.` success, `F` failure, `s` slow success, `S` slow failure."""
        for letter in results:
            took_s = self.settings.slow_s if letter in "sS" else duration_s
            permit = self.permit()
            (permit.record_failure if letter in "FS" else permit.record_success)(took_s)

    def statistics(self) -> BreakerStatistics:
        return self.breaker.statistics()

    def refusal(self) -> CircuitOpen:
        with pytest.raises(CircuitOpen) as caught:
            self.breaker.check()
        return caught.value

    async def trial(self) -> CallPermit:
        """Return the permit of the trial, at the time when the breaker is due."""
        self.now += self.statistics().retry_after_s
        return await self.breaker.enter(probe_succeeds)


def tripped(settings: BreakerSettings = SMALL) -> Bench:
    bench = Bench(settings)
    bench.report("F" * settings.minimum_calls)
    assert bench.breaker.state == "open"
    return bench


async def probe_succeeds() -> None:
    """A successful probe."""


async def probe_fails() -> None:
    raise ServerError("the service is gone")


async def probe_is_not_called() -> None:
    raise AssertionError("the service was asked")


# --- closed -----------------------------------------------------------------------------------


def test_a_new_breaker_is_closed() -> None:
    bench = Bench()
    assert bench.statistics() == BreakerStatistics("closed", 0, 0, 0, 0.0, 0.0, 0, 0, 0.0)
    assert all(bench.breaker.try_enter() for _ in range(100))
    bench.breaker.check()


async def test_a_closed_breaker_needs_no_probe() -> None:
    bench = Bench()
    permit = await bench.breaker.enter(probe_is_not_called)
    permit.record_failure(0.1)
    assert bench.statistics().failures == 1


def test_statistics_describe_the_window() -> None:
    bench = Bench(BreakerSettings())
    bench.report("F.sS.")
    statistics = bench.statistics()
    assert (statistics.calls, statistics.failures, statistics.slow) == (5, 2, 2)
    assert (statistics.failure_rate, statistics.slow_rate) == (0.4, 0.4)


def test_it_opens_at_the_failure_rate() -> None:
    bench = Bench(BreakerSettings(failure_rate=0.5, minimum_calls=4))
    bench.report("...FF")
    assert bench.statistics().state == "closed"
    bench.report("F")
    assert bench.statistics().state == "open"


def test_the_rate_is_exact_despite_floating_point() -> None:
    assert 0.07 * 100 > 7
    bench = Bench(BreakerSettings(failure_rate=0.07, window_calls=100, minimum_calls=100))
    bench.report("." * 93 + "F" * 7)
    assert bench.breaker.state == "open"


def test_it_opens_at_the_slow_rate() -> None:
    bench = Bench(BreakerSettings(failure_rate=1.0, slow_rate=0.5, minimum_calls=4))
    bench.report("..sS")
    assert bench.breaker.state == "open"
    assert (bench.statistics().slow, bench.statistics().failures) == (2, 1)


def test_a_call_of_slow_s_is_slow() -> None:
    bench = Bench()
    bench.report(".", duration_s=2.999)
    assert bench.statistics().slow == 0
    bench.report(".", duration_s=3.0)
    assert bench.statistics().slow == 1


def test_fewer_than_minimum_calls_never_open_it() -> None:
    bench = Bench(BreakerSettings(minimum_calls=10))
    bench.report("F" * 9)
    assert bench.statistics().state == "closed"
    bench.report(".")
    assert bench.statistics().state == "open"


def test_a_count_window_keeps_the_last_results() -> None:
    bench = Bench(BreakerSettings(window_calls=4, minimum_calls=4, failure_rate=0.75))
    bench.report("FsF..")
    statistics = bench.statistics()
    assert (statistics.calls, statistics.failures, statistics.slow) == (4, 1, 1)
    bench.now += 1e6
    assert bench.statistics().calls == 4
    bench.report(".")
    assert bench.statistics().slow == 0


def test_a_time_window_drops_old_results() -> None:
    bench = Bench(BreakerSettings(window_s=10.0, minimum_calls=3))
    bench.report("FS")
    bench.now += 9.9
    assert bench.statistics().calls == 2
    bench.now += 0.1
    assert bench.statistics() == Bench().statistics()
    bench.report("FF")
    assert bench.breaker.state == "closed"


def test_a_time_window_ignores_window_calls() -> None:
    bench = Bench(BreakerSettings(window_s=10.0, window_calls=3, minimum_calls=10))
    bench.report("." * 10)
    assert bench.statistics().calls == 10


def test_a_time_window_is_limited_in_size() -> None:
    bench = Bench(BreakerSettings(window_s=10.0))
    bench.report("F" + "." * MAX_TIMED_RESULTS)
    assert bench.statistics().calls == MAX_TIMED_RESULTS
    assert bench.statistics().failures == 0


# --- permits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["record_success", "record_failure", "release"])
def test_only_the_first_report_of_a_permit_counts(first: str) -> None:
    bench = Bench(BreakerSettings())
    permit = bench.permit()
    getattr(permit, first)(*() if first == "release" else (0.1,))
    before = bench.statistics()
    assert before.calls == (first != "release")
    permit.record_success(99.0)
    permit.record_failure(99.0)
    permit.release()
    assert bench.statistics() == before


def test_a_permit_is_small() -> None:
    assert not hasattr(Bench().permit(), "__dict__")


def test_results_from_before_the_trip_are_ignored() -> None:
    bench = Bench()
    early = [bench.permit() for _ in range(3)]
    bench.report("FF")
    before = bench.statistics()
    for permit, tell in zip(early, ("record_success", "record_failure"), strict=False):
        getattr(permit, tell)(9.0)
    early[2].release()
    assert bench.statistics() == before


async def test_results_from_before_the_trip_do_not_end_the_trial() -> None:
    bench = Bench()
    early = [bench.permit() for _ in range(3)]
    bench.report("FF")
    await bench.trial()
    early[0].record_success(0.1)
    early[1].record_failure(0.1)
    early[2].release()
    assert bench.breaker.state == "half-open"


async def test_results_from_before_it_closed_are_ignored() -> None:
    bench = Bench()
    early = bench.permit()
    bench.report("FF")
    (await bench.trial()).record_success(0.1)
    early.record_failure(9.0)
    assert bench.statistics().calls == 0


# --- open -------------------------------------------------------------------------------------


async def test_an_open_breaker_rejects_until_its_time_is_over() -> None:
    bench = tripped()
    bench.now += 1.5
    assert bench.breaker.try_enter() is None
    for refused in (bench.refusal(), await enter_rejected(bench)):
        assert refused.retry_after_s == 0.5
        assert refused.service == "http://127.0.0.1:5273"
    assert bench.statistics().retry_after_s == 0.5
    bench.now += 0.5
    bench.breaker.check()
    assert bench.breaker.try_enter() is None
    assert bench.breaker.state == "open"
    assert bench.statistics().retry_after_s == 0.0


async def enter_rejected(bench: Bench) -> CircuitOpen:
    with pytest.raises(CircuitOpen) as caught:
        await bench.breaker.enter(probe_is_not_called)
    return caught.value


async def test_a_rejection_only_changes_its_count() -> None:
    bench = tripped()
    before = bench.statistics()
    bench.refusal()
    await enter_rejected(bench)
    bench.breaker.try_enter()
    assert bench.statistics() == BreakerStatistics(*(*astuple(before)[:7], 2, 2.0))
    bench.now += 2.0
    bench.breaker.check()
    assert bench.statistics().rejected == 2
    assert len(bench.changes) == 1


def astuple(statistics: BreakerStatistics) -> tuple[Any, ...]:
    return tuple(getattr(statistics, name) for name in BreakerStatistics.__slots__)


@pytest.mark.parametrize(
    ("settings", "results", "reason"),
    [
        (BreakerSettings(failure_rate=0.7), "...FFFFFFF", "7 of the last 10 calls failed"),
        (
            BreakerSettings(failure_rate=0.7, window_s=90),
            "...FFFFFFF",
            "7 of the 10 calls in the last 90 s failed",
        ),
        (
            BreakerSettings(slow_rate=0.3, slow_s=2.5),
            ".......sss",
            "3 of the last 10 calls took 2.5 s or longer to their first token",
        ),
    ],
)
def test_the_error_has_the_reason_and_the_time(
    settings: BreakerSettings, results: str, reason: str
) -> None:
    bench = Bench(settings)
    bench.report(results)
    bench.now += 0.2
    assert bench.refusal().message == (
        f"the circuit breaker is open: {reason}; it lets one through again in 0.8 s"
    )


async def test_the_error_has_the_numbers_of_the_trip() -> None:
    bench = tripped(BreakerSettings(minimum_calls=4, window_s=5.0, open_s=8.0))
    bench.now += 7.0
    assert bench.statistics().calls == 0
    bench.now += 1.0
    with pytest.raises(ServerError):
        await bench.breaker.enter(probe_fails)
    assert "4 of the 4 calls in the last 5 s failed" in bench.refusal().message


def test_the_time_in_the_error_is_never_zero() -> None:
    bench = tripped()
    bench.now += 1.999
    assert bench.refusal().message.endswith("in 0.1 s")
    assert bench.refusal().retry_after_s == pytest.approx(0.001)


# --- half-open --------------------------------------------------------------------------------


async def test_of_fifty_concurrent_callers_one_probes() -> None:
    bench = tripped()
    bench.now += 2.0
    probes, answer = [], asyncio.Event()

    async def probe() -> None:
        probes.append(bench.breaker.state)
        await answer.wait()

    async def caller() -> CallPermit:
        return await bench.breaker.enter(probe)

    callers = [asyncio.create_task(caller()) for _ in range(50)]
    refused, waiting = await asyncio.wait(callers, timeout=1, return_when="FIRST_COMPLETED")
    assert (len(refused), len(waiting)) == (49, 1)
    assert all(isinstance(one.exception(), CircuitOpen) for one in refused)
    answer.set()
    trial = await waiting.pop()
    with pytest.raises(CircuitOpen):
        await bench.breaker.enter(probe)
    assert probes == ["half-open"]
    assert bench.statistics().rejected == 50
    trial.record_success(0.1)
    assert bench.breaker.state == "closed"


async def test_during_the_trial_the_error_says_so() -> None:
    bench = tripped()
    await bench.trial()
    refused = bench.refusal()
    assert refused.message == (
        "the circuit breaker is half-open: 2 of the last 2 calls failed; "
        "one call is finding out whether the service is back"
    )
    assert refused.retry_after_s == 2.0
    assert bench.statistics().retry_after_s == 0.0
    assert bench.breaker.try_enter() is None


async def test_a_successful_trial_closes_and_resets_it() -> None:
    bench = tripped()
    bench.now += 2.0
    with pytest.raises(ServerError):
        await bench.breaker.enter(probe_fails)
    (await bench.trial()).record_success(99.0)
    assert bench.statistics() == BreakerStatistics("closed", 0, 0, 0, 0.0, 0.0, 1, 0, 0.0)
    bench.report("FF")
    assert bench.statistics().retry_after_s == 2.0
    assert bench.statistics().opened == 2


async def test_a_failed_trial_opens_it_for_longer() -> None:
    bench = tripped()
    (await bench.trial()).record_failure(0.1)
    statistics = bench.statistics()
    assert (statistics.state, statistics.retry_after_s, statistics.opened) == ("open", 4.0, 1)
    assert statistics.calls == 2


async def test_after_a_released_trial_the_next_caller_probes() -> None:
    bench = tripped()
    (await bench.trial()).release()
    assert (bench.breaker.state, bench.statistics().retry_after_s) == ("open", 0.0)
    (await bench.breaker.enter(probe_succeeds)).record_failure(0.1)
    assert bench.statistics().retry_after_s == 4.0


async def test_a_failed_probe_opens_it_for_longer() -> None:
    bench = tripped()
    bench.now += 2.0
    with pytest.raises(ServerError, match="the service is gone"):
        await bench.breaker.enter(probe_fails)
    assert (bench.breaker.state, bench.statistics().retry_after_s) == ("open", 4.0)


async def test_after_a_cancelled_probe_it_is_open_and_due() -> None:
    bench = tripped()
    bench.now += 2.0
    caller = asyncio.create_task(bench.breaker.enter(forever))
    await asyncio.sleep(0)
    assert bench.breaker.state == "half-open"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (bench.breaker.state, bench.statistics().retry_after_s) == ("open", 0.0)
    (await bench.breaker.enter(probe_succeeds)).record_failure(0.1)
    assert bench.statistics().retry_after_s == 4.0


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_bug_in_the_probe_is_not_a_failure() -> None:
    bench = tripped()
    bench.now += 2.0
    with pytest.raises(AssertionError):
        await bench.breaker.enter(probe_is_not_called)
    assert (bench.breaker.state, bench.statistics().retry_after_s) == ("open", 0.0)


async def test_the_open_time_doubles_up_to_its_cap() -> None:
    bench = tripped()
    bench.fraction = 0.0
    for _ in range(4):
        (await bench.trial()).record_failure(0.1)
    assert bench.drawn == [(1, 2), (2, 4), (4, 8), (8, 16), (8, 16)]
    assert [after_s for _, new, after_s in bench.changes if new == "open"] == [2, 2, 4, 8, 8]


async def test_the_open_time_does_not_overflow() -> None:
    bench = tripped()
    for _ in range(1100):
        (await bench.trial()).record_failure(0.1)
    assert bench.statistics().retry_after_s == 16.0


def test_two_clients_have_different_open_times() -> None:
    breakers = [CircuitBreaker(SMALL, monotonic=lambda: 0.0) for _ in range(2)]
    for breaker in breakers * 2:
        permit = breaker.try_enter()
        assert permit is not None
        permit.record_failure(0.1)
    first, second = (breaker.statistics().retry_after_s for breaker in breakers)
    assert 1.0 <= min(first, second) < max(first, second) <= 2.0


# --- reset ------------------------------------------------------------------------------------


async def test_a_reset_keeps_only_the_lifetime_counts() -> None:
    bench = tripped()
    (await bench.trial()).record_failure(0.1)
    bench.refusal()
    bench.breaker.reset()
    assert bench.statistics() == BreakerStatistics("closed", 0, 0, 0, 0.0, 0.0, 1, 1, 0.0)
    bench.report("FF")
    assert bench.statistics().retry_after_s == 2.0


def test_a_reset_clears_the_window_and_voids_permits() -> None:
    bench = Bench()
    bench.report("F")
    early = bench.permit()
    bench.breaker.reset()
    early.record_failure(0.1)
    assert bench.statistics().calls == 0
    assert bench.changes == []


@pytest.mark.parametrize("tell", ["record_success", "record_failure"])
async def test_a_reset_ends_a_trial(tell: str) -> None:
    bench = tripped()
    trial = await bench.trial()
    bench.breaker.reset()
    getattr(trial, tell)(9.0)
    trial.release()
    assert (bench.breaker.state, bench.statistics().calls) == ("closed", 0)


@pytest.mark.parametrize("failure", [ServerError("gone"), asyncio.CancelledError()])
async def test_a_probe_from_before_a_reset_changes_nothing(
    failure: BaseException,
) -> None:
    bench = tripped()
    bench.now += 2.0

    async def probe() -> None:
        bench.breaker.reset()
        raise failure

    with pytest.raises(type(failure)):
        await bench.breaker.enter(probe)
    assert (bench.breaker.state, bench.statistics().calls) == ("closed", 0)


# --- listeners --------------------------------------------------------------------------------


async def test_a_listener_gets_every_state_change() -> None:
    bench = tripped()
    (await bench.trial()).record_failure(0.1)
    (await bench.trial()).release()
    (await bench.trial()).record_success(0.1)
    assert bench.changes == [
        ("closed", "open", 2.0),
        ("open", "half-open", 0.0),
        ("half-open", "open", 4.0),
        ("open", "half-open", 0.0),
        ("half-open", "open", 0.0),
        ("open", "half-open", 0.0),
        ("half-open", "closed", 0.0),
    ]


def test_listeners_can_subscribe_and_unsubscribe() -> None:
    bench = Bench()
    received: list[Change] = []
    unsubscribe = bench.breaker.subscribe(lambda event: received.append(read_change(event)))
    bench.report("FF")
    unsubscribe()
    bench.breaker.reset()
    assert received == bench.changes[:1] == [("closed", "open", 2.0)]
    assert len(bench.changes) == 2


def test_a_listener_sees_the_new_state() -> None:
    bench = Bench()
    seen: list[BreakerStatistics] = []
    bench.breaker.subscribe(lambda _: seen.append(bench.statistics()))
    bench.report("FF")
    bench.breaker.reset()
    assert [
        (statistics.state, statistics.calls, statistics.opened, statistics.retry_after_s)
        for statistics in seen
    ] == [
        ("open", 2, 1, 2.0),
        ("closed", 0, 1, 0.0),
    ]


def broken(_: Event) -> None:
    raise ZeroDivisionError


def test_a_failing_listener_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.breaker.subscribe(broken)
    bench.report("FF")
    assert bench.breaker.state == "open"
    assert "a listener failed on BreakerChanged" in caplog.text


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("failure_rate", "slow_rate") for value in (0, -0.5, 1.001)),
        *(("slow_s", value) for value in (0, -1, float("inf"))),
        ("window_calls", 0),
        *(("window_s", value) for value in (0, -1, float("inf"))),
        *(("minimum_calls", value) for value in (0, 51)),
        *((name, value) for name in ("open_s", "open_cap_s") for value in (0, -1, float("inf"))),
        *((name, float("nan")) for name in BreakerSettings.__slots__),
    ],
)
def test_an_invalid_setting_is_named(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError) as caught:
        BreakerSettings(**settings)
    assert caught.value.message == f"the circuit breaker's {name} is {value}"
    assert "above 0, at most" in str(caught.value)


def test_settings_at_their_limits_are_valid() -> None:
    BreakerSettings(failure_rate=1, slow_rate=1, window_calls=1, minimum_calls=1)
    BreakerSettings(window_s=0.001, window_calls=1, minimum_calls=MAX_TIMED_RESULTS)


def test_minimum_calls_above_the_window_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"minimum_calls is 10\b.*at most 5\."):
        BreakerSettings(window_calls=5)
    with pytest.raises(ConfigurationError, match=r"minimum_calls is 10001\b.*at most 10,000\."):
        BreakerSettings(window_s=60.0, minimum_calls=MAX_TIMED_RESULTS + 1)


# --- random sequences of events, compared with a simple model ---------------------------------


@dataclass(eq=False)
class Ticket:
    """A permit in the model."""


@dataclass
class Model:
    """A simple implementation of the specification."""

    settings: BreakerSettings
    fraction: float = 1.0
    now: float = 0.0
    state: BreakerState = "closed"
    results: list[tuple[float, bool, bool]] = field(default_factory=list)
    honoured: list[Ticket] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    opens: int = 0
    due: float = 0.0
    opened: int = 0
    rejected: int = 0

    def window(self) -> list[tuple[float, bool, bool]]:
        if self.settings.window_s is None:
            return self.results[-self.settings.window_calls :]
        return [one for one in self.results if self.now - one[0] < self.settings.window_s]

    def statistics(self) -> BreakerStatistics:
        window = self.window()
        failures = sum(failed for _, failed, _ in window)
        slow = sum(slow for _, _, slow in window)
        calls = len(window)
        return BreakerStatistics(
            state=self.state,
            calls=calls,
            failures=failures,
            slow=slow,
            failure_rate=failures / max(calls, 1),
            slow_rate=slow / max(calls, 1),
            opened=self.opened,
            rejected=self.rejected,
            retry_after_s=max(0.0, self.due - self.now) if self.state == "open" else 0.0,
        )

    def refuses(self) -> bool:
        return self.state == "half-open" or (self.state == "open" and self.now < self.due)

    def ticket(self) -> Ticket:
        ticket = Ticket()
        self.honoured.append(ticket)
        return ticket

    def become(self, state: BreakerState, retry_after_s: float = 0.0) -> None:
        if state != self.state:
            self.changes.append((self.state, state, retry_after_s))
        self.state = state
        self.honoured = []

    def open(self) -> None:
        whole = min(self.settings.open_cap_s, self.settings.open_s * 2**self.opens)
        self.opens += 1
        open_s = whole / 2 + self.fraction * whole / 2
        self.due = self.now + open_s
        self.become("open", open_s)

    def reset(self) -> None:
        self.results, self.opens = [], 0
        self.become("closed")

    def record(self, ticket: Ticket, outcome: str, duration_s: float) -> None:
        if ticket not in self.honoured:
            return
        self.honoured.remove(ticket)
        if self.state == "half-open":
            {"succeeded": self.reset, "failed": self.open, "released": self.leave}[outcome]()
        elif outcome != "released":
            slow = duration_s >= self.settings.slow_s
            self.results.append((self.now, outcome == "failed", slow))
            self.judge()

    def leave(self) -> None:
        self.become("open")

    def judge(self) -> None:
        statistics = self.statistics()
        bad = (
            statistics.failure_rate >= self.settings.failure_rate
            or statistics.slow_rate >= self.settings.slow_rate
        )
        if bad and statistics.calls >= self.settings.minimum_calls:
            self.opened += 1
            self.open()


@dataclass
class Probing:
    """A caller that waits for its probe."""

    caller: Coroutine[None, None, CallPermit]
    ticket: Ticket


@coroutine
def until_told() -> Generator[None]:
    yield


async def held() -> None:
    """A probe that the state machine completes, fails or cancels."""
    await until_told()


Outcome = Literal["succeeded", "failed", "released"]
REPORTS = {"succeeded": "record_success", "failed": "record_failure", "released": "release"}
outcomes = st.sampled_from(["succeeded", "succeeded", "failed", "failed", "failed", "released"])
shares = st.sampled_from([0.25, 0.5, 0.75, 1.0])


@st.composite
def breaker_settings(draw: st.DrawFn) -> BreakerSettings:
    window_calls = draw(st.integers(1, 6))
    return BreakerSettings(
        failure_rate=draw(shares),
        slow_rate=draw(shares),
        slow_s=draw(st.sampled_from([1.0, 2.0])),
        window_calls=window_calls,
        window_s=draw(st.sampled_from([None, 1.0, 4.0])),
        minimum_calls=draw(st.integers(1, window_calls)),
        open_s=draw(st.sampled_from([0.5, 1.0, 4.0])),
        open_cap_s=draw(st.sampled_from([1.0, 3.0, 16.0])),
    )


class BreakerAgainstModel(RuleBasedStateMachine):
    """Breaker and model agree after any sequence of events."""

    permits = Bundle("permits")
    probings = Bundle("probings")

    @initialize(settings=breaker_settings())
    def begin(self, settings: BreakerSettings) -> None:
        self.bench = Bench(settings, now=0.0)
        self.model = Model(settings)
        self.probing: list[Probing] = []

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.now += seconds
        self.model.now += seconds

    @rule(fraction=st.sampled_from([0.0, 0.25, 1.0]))
    def the_dice_fall(self, fraction: float) -> None:
        self.bench.fraction = self.model.fraction = fraction

    @rule(target=permits)
    def try_to_enter(self) -> Any:
        permit = self.bench.breaker.try_enter()
        assert (permit is not None) == (self.model.state == "closed")
        return multiple() if permit is None else (permit, self.model.ticket())

    @rule(outcome=outcomes, duration_s=st.sampled_from([0.0, 1.0, 2.0]), calls=st.integers(1, 6))
    def calls_come_and_go(self, outcome: Outcome, duration_s: float, calls: int) -> None:
        for _ in range(calls):
            permit = self.bench.breaker.try_enter()
            if permit is not None:
                self.tell((permit, self.model.ticket()), outcome, duration_s)

    @rule()
    @precondition(lambda self: self.model.state != "half-open")
    def the_breaker_opens_and_comes_due(self) -> None:
        """Random steps rarely trip the breaker."""
        self.calls_come_and_go("failed", 0.0, 6)
        self.time_passes(16.0)

    @rule(permit=permits, outcome=outcomes, duration_s=st.sampled_from([0.0, 1.0, 2.0]))
    def a_call_ends(
        self, permit: tuple[CallPermit, Ticket], outcome: Outcome, duration_s: float
    ) -> None:
        """The probe may have ended, and the breaker opened and closed since."""
        self.tell(permit, outcome, duration_s)

    def tell(self, permit: tuple[CallPermit, Ticket], outcome: Outcome, duration_s: float) -> None:
        getattr(permit[0], REPORTS[outcome])(*() if outcome == "released" else (duration_s,))
        self.model.record(permit[1], outcome, duration_s)

    @rule()
    def check(self) -> None:
        if not self.model.refuses():
            self.bench.breaker.check()
            return
        self.model.rejected += 1
        refused = self.bench.refusal()
        if self.model.state == "open":
            assert refused.retry_after_s == self.model.due - self.model.now

    @rule(target=permits, callers=st.integers(1, 5))
    def many_enter(self, callers: int) -> Any:
        """The first caller of a due breaker probes; the others are rejected."""
        return multiple(*(permit for _ in range(callers) for permit in self.enter()))

    def enter(self) -> Generator[tuple[CallPermit, Ticket]]:
        caller = self.bench.breaker.enter(held)
        if self.model.refuses():
            self.model.rejected += 1
            with pytest.raises(CircuitOpen):
                caller.send(None)
        elif self.model.state == "closed":
            with pytest.raises(StopIteration) as stopped:
                caller.send(None)
            yield stopped.value.value, self.model.ticket()
        else:
            caller.send(None)
            self.model.become("half-open")
            self.probing.append(Probing(caller, self.model.ticket()))

    @rule(target=permits)
    @precondition(lambda self: self.probing)
    def a_probe_succeeds(self) -> Any:
        probing = self.probing.pop(0)
        with pytest.raises(StopIteration) as stopped:
            probing.caller.send(None)
        return stopped.value.value, probing.ticket

    @rule(error=st.sampled_from([ServerError("gone"), asyncio.CancelledError()]))
    @precondition(lambda self: self.probing)
    def a_probe_breaks_off(self, error: BaseException) -> None:
        probing = self.probing.pop(0)
        with pytest.raises(type(error)):
            probing.caller.throw(error)
        failed = isinstance(error, ServerError)
        self.model.record(probing.ticket, "failed" if failed else "released", 0.0)

    @rule()
    def reset(self) -> None:
        self.bench.breaker.reset()
        self.model.reset()

    @invariant()
    def they_agree(self) -> None:
        assert self.bench.breaker.state == self.model.state
        assert self.bench.statistics() == self.model.statistics()
        assert self.bench.changes == self.model.changes

    def teardown(self) -> None:
        for probing in getattr(self, "probing", ()):
            probing.caller.close()


BreakerAgainstModel.TestCase.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=40
)
TestBreakerAgainstModel = BreakerAgainstModel.TestCase
