"""Budgets, the fair queue and admission, with injected clocks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.keys.types import ApiKey, Limit
from foundry_api.gateway.limits.admission import Admission, Ticket, Work
from foundry_api.gateway.limits.budgets import BudgetState, CalendarBudget, RollingBudget
from foundry_api.gateway.limits.fair_queue import FairQueue
from foundry_api.types.errors import ContextOverflow, ReadTimeout
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_S = 86_400.0


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_key(name: str = "k", **limits: object) -> ApiKey:
    return ApiKey(id=name, name=name, scopes=frozenset({"inference"}), created_at=0.0, **limits)  # type: ignore[arg-type]


def make_work(prompt_tokens: int = 10, max_tokens: int | None = 10, **options: object) -> Work:
    return Work("demo", prompt_tokens, max_tokens, 100, **options)  # type: ignore[arg-type]


def make_admission(clock: Clock, slots: int = 100) -> Admission:
    return Admission(GatewayConfig(), lambda: slots, monotonic=clock, wall_clock=clock)


@given(
    amount=st.integers(1, 500),
    period_s=st.sampled_from([1.0, 60.0, 3600.0]),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=40),
)
def test_p12_a_refused_request_is_allowed_exactly_when_it_was_promised(
    amount: int, period_s: float, steps: list[tuple[float, int]]
) -> None:
    clock = Clock(0.0)
    budget = RollingBudget(amount, period_s, clock())
    for pause_s, units in steps:
        clock.now += pause_s
        if wait_s := budget.get_wait_s(units, clock()):
            clock.now += wait_s * 0.99
            assert budget.get_wait_s(units, clock()) > 0
            clock.now += wait_s * 0.01 + 1e-6
            assert budget.get_wait_s(units, clock()) == pytest.approx(0, abs=1e-6)
        budget.use(units, clock())
        assert 0 <= budget.get_level(clock())[0] <= amount


def test_a_rolling_budget_allows_no_more_than_a_period_has() -> None:
    clock = Clock(0.0)
    budget = RollingBudget(60, 60.0, clock())
    used = 0
    while not budget.get_wait_s(1, clock()):
        budget.use(1, clock())
        used += 1
    assert used == 60
    assert budget.get_wait_s(1, clock()) == pytest.approx(1.0)


@pytest.mark.parametrize("unit", ["d", "mo"])
def test_a_clock_that_is_set_back_grants_nothing_anew(unit: str) -> None:
    clock = Clock()
    budget = CalendarBudget(100, unit, clock())  # type: ignore[arg-type]
    budget.use(100, clock())
    clock.now -= 40 * DAY_S
    assert budget.get_wait_s(1, clock()) > 0
    clock.now += 80 * DAY_S
    assert budget.get_wait_s(1, clock()) == 0


def test_a_stored_period_counts_until_its_end() -> None:
    clock = Clock()
    before = CalendarBudget(100, "d", clock())
    before.use(70, clock())
    after = CalendarBudget(100, "d", clock())
    after.restore(before.get_state(clock()), clock())
    assert after.get_level(clock())[0] == 30
    after.restore(BudgetState(100, clock.now - 1), clock())
    assert after.get_level(clock())[0] == 30


def serve_fairly(
    weights: dict[str, float], calls: dict[str, int], get_tokens: Callable[[str], int]
) -> Counter[str]:
    """Serve calls one at a time while all keys wait. Return the tokens that each key received."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for name, count in calls.items():
        for number in range(count):
            queue.push(name, weights[name], (name, number))
    received: Counter[str] = Counter()
    while all(queue.get_depth(name) for name in calls):
        name, _ = queue.pop()
        tokens = get_tokens(name)
        received[name] += tokens
        queue.charge(name, 0, tokens)
    return received


def get_jain_index(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


@given(
    seed=st.integers(0, 2**32), weights=st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=6)
)
def test_p28_keys_share_tokens_by_weight(seed: int, weights: list[int]) -> None:
    randomness = random.Random(seed)  # noqa: S311 - repeatable
    names = {f"key{index}": float(weight) for index, weight in enumerate(weights)}
    received = serve_fairly(names, dict.fromkeys(names, 400), lambda _: randomness.randint(1, 200))
    assert get_jain_index([received[name] / weight for name, weight in names.items()]) >= 0.95


def test_p28_a_key_with_many_calls_does_not_delay_one_with_few() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(64):
        queue.push("many", 1.0, number)
    queue.pop()
    queue.charge("many", 100, 100)
    queue.push("one", 1.0, -1)
    assert -1 in {queue.pop(), queue.pop()}


def test_an_idle_key_gets_no_credit() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(100):
        queue.push("busy", 1.0, ("busy", number))
    for _ in range(50):
        queue.charge(queue.pop()[0], 10, 10)
    for number in range(100):
        queue.push("idle", 1.0, ("idle", number))
    served = Counter[str]()
    for _ in range(40):
        name, _ = queue.pop()
        queue.charge(name, 10, 10)
        served[name] += 1
    assert abs(served["busy"] - served["idle"]) <= 2


def test_items_that_leave_are_not_served() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(6):
        queue.push("a" if number % 2 else "b", 1.0, number)
    for number in (0, 2, 4, 3):
        queue.remove("a" if number % 2 else "b", number)
    assert queue.get_names() == {"a"}
    queue.push("b", 1.0, 6)
    assert {queue.pop() for _ in range(3)} == {1, 5, 6}
    assert len(queue) == queue.get_depth("a") == len(queue.get_names()) == 0


def test_reserved_tokens_that_time_has_renewed_are_not_given_back() -> None:
    clock = Clock(0.0)
    budget = RollingBudget(100, 60.0, clock())
    slow = budget.reserve(100, clock())
    clock.now += 60
    budget.reserve(100, clock()).settle(100, clock())
    slow.settle(1, clock())
    assert budget.get_level(clock())[0] == 0


def test_unused_reservations_are_given_back() -> None:
    clock = Clock(0.0)
    budget = RollingBudget(100, 60.0, clock())
    reservations = [budget.reserve(40, clock()), budget.reserve(40, clock())]
    for reservation in reversed(reservations):
        reservation.settle(10, clock())
    assert budget.get_level(clock())[0] == 80
    budget.reserve(10, clock()).settle(60, clock())
    assert budget.get_level(clock())[0] == 20


def test_a_call_over_midnight_does_not_reduce_the_count_of_the_new_day() -> None:
    clock = Clock()
    budget = CalendarBudget(100, "d", clock())
    reservation = budget.reserve(100, clock())
    clock.now += DAY_S
    budget.use(50, clock())
    reservation.settle(10, clock())
    assert budget.get_level(clock())[0] == 50


def test_a_clock_that_was_years_ahead_does_not_lock_a_key_out_for_years() -> None:
    clock = Clock()
    clock.now += 400 * DAY_S
    budget = CalendarBudget(100, "d", clock())
    budget.use(100, clock())
    clock.now -= 400 * DAY_S
    assert 0 < budget.get_wait_s(1, clock()) <= DAY_S
    clock.now += DAY_S
    assert budget.get_wait_s(1, clock()) == 0


@pytest.mark.parametrize("unit", ["m", "d"])
async def test_a_changed_limit_keeps_what_was_used(unit: str) -> None:
    admission = make_admission(Clock())
    key = make_key(rate=Limit(10, unit), tokens=(Limit(100, unit),))  # type: ignore[arg-type]
    admission.admit(key, make_work(50, 0)).close()  # nothing ran on, so its prompt is used
    changed = make_key(rate=Limit(20, unit), tokens=(Limit(60, unit),))  # type: ignore[arg-type]
    account, now = admission.accounts.get(changed), admission.accounts.clock()
    assert account.requests is not None
    assert account.requests.get_level(now)[0] == 19
    assert account.tokens[unit].get_level(now)[0] == 10  # type: ignore[index]


async def test_a_refusal_names_the_longest_wait() -> None:
    clock = Clock()
    admission = make_admission(clock)
    key = make_key(rate=Limit(60, "m"), tokens=(Limit(60, "m"), Limit(200, "h")))
    for _ in range(60):
        admission.accounts.get(key).requests.use(1, clock())  # type: ignore[union-attr]
    admission.accounts.get(key).tokens["m"].use(60, clock())
    with pytest.raises(RequestError) as caught:
        admission.admit(key, make_work(30, 0))
    assert caught.value.retry_after_s is not None
    clock.now += caught.value.retry_after_s + 0.001
    admission.admit(key, make_work(30, 0)).close()


async def test_answers_that_were_not_streamed_count_for_the_order() -> None:
    admission = Admission(GatewayConfig(queue_per_slot=100), lambda: 1)
    keys = {name: make_key(name) for name in ("writer", "reader")}
    served: list[str] = []

    async def call(name: str) -> None:
        async with admission.admit(keys[name], make_work()) as ticket:
            served.append(name)
            await asyncio.sleep(0)
            output = 300 if name == "writer" else 100
            ticket.settle(Usage(10, output, 10 + output))

    await asyncio.gather(*(call(name) for name in [*keys] * 40))
    counts = Counter(served[:40])
    assert 2 <= counts["reader"] / counts["writer"] <= 4


async def test_calls_that_the_service_refused_cost_no_tokens() -> None:
    admission, key = make_admission(Clock()), make_key(tokens=(Limit(100, "d"),))
    now = admission.accounts.clock()
    with pytest.raises(ContextOverflow):
        async with admission.admit(key, make_work(50, 10)):
            raise ContextOverflow("too long")
    assert admission.accounts.get(key).tokens["d"].get_level(now)[0] == 100
    with pytest.raises(ReadTimeout):
        async with admission.admit(key, make_work(50, 10)):
            raise ReadTimeout("nothing")
    assert admission.accounts.get(key).tokens["d"].get_level(now)[0] == 50


async def test_p7_the_parallel_limit_is_exact() -> None:
    admission, key = make_admission(Clock()), make_key(parallel=4)
    tickets: list[Ticket] = []
    statuses: set[int] = set()
    for _ in range(200):
        try:
            tickets.append(admission.admit(key, make_work()))
        except RequestError as error:
            statuses.add(error.status)
    assert len(tickets) == 4
    assert statuses == {429}
    tickets.pop().close()
    admission.admit(key, make_work()).close()


async def test_p8_a_refused_call_uses_nothing_up() -> None:
    admission = make_admission(Clock())
    key = make_key(parallel=1, rate=Limit(10, "m"), tokens=(Limit(1000, "d"),))
    ticket = admission.admit(key, make_work())
    account = admission.accounts.get(key)
    before = admission.accounts.export()
    for _ in range(20):
        with pytest.raises(RequestError):
            admission.admit(key, make_work())
    assert admission.accounts.export() == before
    ticket.close()
    assert account.running == 0


async def test_p9_parallel_calls_do_not_exceed_a_token_limit() -> None:
    admission, key = make_admission(Clock()), make_key(tokens=(Limit(60, "m"),))
    admitted = 0
    for _ in range(50):
        try:
            admission.admit(key, make_work(10, 10))
        except RequestError:
            continue
        admitted += 1
    assert admitted == 3


async def test_p10_a_small_limit_allows_the_first_call_without_max_tokens() -> None:
    admission, key = make_admission(Clock()), make_key(tokens=(Limit(100, "d"),))
    async with admission.admit(key, make_work(10, None)) as ticket:
        ticket.settle(Usage(8, 20, 28))
    [row] = admission.accounts.export()
    assert row.state.used == 28


async def test_p11_a_broken_stream_costs_its_prompt_and_what_was_sent() -> None:
    admission, key = make_admission(Clock()), make_key(tokens=(Limit(1000, "d"),))
    async with admission.admit(key, make_work(50, 500)) as ticket:
        for _ in range(20):
            ticket.add_output(1)
        # `settle` is not called: the service has counted nothing.
    [row] = admission.accounts.export()
    assert row.state.used == 70


async def test_p11_a_broken_stream_costs_what_the_service_counts_for_such_prompts() -> None:
    admission, key = make_admission(Clock()), make_key(tokens=(Limit(10_000, "d"),))

    async def get_cost(counted: int) -> int:
        before = sum(row.state.used for row in admission.accounts.export())
        async with admission.admit(key, make_work(50, 500)) as ticket:
            ticket.settle(Usage(counted, 0, counted))
        [row] = admission.accounts.export()
        return row.state.used - before

    assert await get_cost(0) == 50  # nothing was counted yet
    assert await get_cost(150) == 150
    assert await get_cost(0) == 150
    assert await get_cost(50) == 50
    assert await get_cost(0) == 140  # one odd prompt weighs little
    assert await get_cost(5_000) == 5_000
    assert await get_cost(0) < 200
    # What another model counts says nothing.
    other = msgspec.structs.replace(make_work(50, 500), model="other")
    async with admission.admit(key, other) as ticket:
        ticket.add_lost(10, 1)
    assert (ticket.prompt_tokens, ticket.lost_prompt_tokens) == (50, 10)


async def test_p5_every_ending_frees_its_slot() -> None:
    admission = make_admission(Clock(), slots=3)
    key = make_key(tokens=(Limit(10**6, "d"),))
    randomness = random.Random(1)  # noqa: S311 - repeatable

    async def call() -> None:
        deadline_s = randomness.choice([None, 0.001])
        async with admission.admit(key, make_work(deadline_s=deadline_s)) as ticket:
            ticket.add_output(1)
            if randomness.random() < 0.3:
                raise ValueError
            await asyncio.sleep(0)

    for _ in range(100):
        tasks = [asyncio.ensure_future(call()) for _ in range(40)]
        await asyncio.sleep(0)
        for task in randomness.sample(tasks, 10):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert admission.scheduler.active == admission.scheduler.waiting == 0
    assert admission.accounts.get(key).running == 0
    [row] = admission.accounts.export()
    assert row.state.used >= 0


async def test_p26_a_full_queue_refuses_at_once() -> None:
    admission = Admission(GatewayConfig(queue_per_slot=4), lambda: 1)
    tickets: list[Ticket] = []
    refused: list[RequestError] = []
    for _ in range(50):
        try:
            tickets.append(admission.admit(None, make_work()))
        except RequestError as error:
            refused.append(error)
    assert len(refused) >= 44
    assert {(error.status, error.code) for error in refused} == {(503, "queue_full")}
    assert all("Retry-After" in error.headers for error in refused)


async def test_the_queue_is_bounded_in_bytes() -> None:
    admission = Admission(GatewayConfig(queue_bytes=250), lambda: 1)
    for _ in range(4):  # two start at once
        admission.admit(None, make_work())
    with pytest.raises(RequestError, match="calls wait"):
        admission.admit(None, make_work())


async def test_a_pause_does_not_lengthen_the_estimate() -> None:
    clock = Clock()
    admission = make_admission(clock, slots=1)
    for _ in range(16):
        ticket = admission.admit(None, make_work())
        clock.now += 2.0
        ticket.close()
    clock.now += 3600.0
    for _ in range(4):  # two of them start
        admission.admit(None, make_work())
    assert admission.scheduler.estimate_wait_s("anonymous") == pytest.approx(3.0)
    clock.now += 10.0  # no call ends
    assert admission.scheduler.estimate_wait_s("anonymous") == pytest.approx(30.0)
    [queue] = admission.describe_queue()
    assert (queue.running, queue.waiting) == (2, 2)


async def test_a_call_that_cannot_start_in_time_is_refused_with_the_estimate() -> None:
    clock = Clock()
    admission = make_admission(clock, slots=1)
    for _ in range(16):
        ticket = admission.admit(None, make_work())
        clock.now += 2.0
        ticket.close()
    for _ in range(10):
        admission.admit(None, make_work())
    with pytest.raises(RequestError, match=r"about \d+\.\d s") as caught:
        admission.admit(None, make_work(deadline_s=5.0))
    assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")


async def test_batches_wait_below_all_calls() -> None:
    admission = make_admission(Clock(), slots=1)
    running = [admission.admit(None, make_work()) for _ in range(2)]
    order: list[str] = []

    async def call(name: str, work: Work) -> None:
        async with admission.admit(None, work):
            order.append(name)

    tasks = [
        asyncio.ensure_future(call("batch", make_work(is_batch=True))),
        asyncio.ensure_future(call("call", make_work())),
    ]
    await asyncio.sleep(0)
    for ticket in running:
        ticket.close()
    await asyncio.gather(*tasks)
    assert order == ["call", "batch"]


async def test_p15_only_allowed_models_are_admitted() -> None:
    admission, key = make_admission(Clock()), make_key(models=frozenset({"demo"}))
    admission.admit(key, make_work()).close()
    with pytest.raises(RequestError) as caught:
        admission.admit(key, Work("secret-model", 1, 1, 1))
    assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")
    assert "demo" not in caught.value.message
