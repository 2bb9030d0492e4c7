"""The monitor of a scripted service, on a clock that advances only when every task waits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    HealthChanged,
    HealthMonitor,
    HealthSample,
    Hysteresis,
    InvalidRequest,
    LimiterSettings,
    deadline,
)
from foundry_api.types.events import CallEnded, CallStarted, FirstToken
from foundry_api.types.messages import ChatRequest, Timings
from support.monitor_factories import CHAT, URL, WatchedService

if TYPE_CHECKING:
    from pathlib import Path

    from support.virtual_time import Run

LOADED = "/catalogs/local/models/loaded"


async def take_samples(monitor: HealthMonitor, count: int) -> list[HealthSample]:
    found: list[HealthSample] = []
    async with aclosing(monitor.samples()) as samples:
        async for sample in samples:
            found.append(sample)
            if len(found) == count:
                break
    return found


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def test_checks_run_at_the_interval(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        times: list[float] = []
        async with aclosing(HealthMonitor(watched, interval=0.5).samples()) as samples:
            async for sample in samples:
                times.append(loop_time())
                assert (sample.status, sample.state, sample.ready) == ("healthy", "healthy", True)
                if len(times) == 5:
                    break
        assert times == pytest.approx([0, 0.5, 1, 1.5, 2])

    run(main())


@pytest.mark.parametrize("kind", ["refused", "stalled"])
@pytest.mark.parametrize("phase", [0.01, 0.1, 0.25, 0.4, 0.49])
def test_an_outage_of_two_seconds_is_always_detected(run: Run, kind: str, phase: float) -> None:
    changes: list[HealthChanged] = []

    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=0.5, alerts=[changes.append]):
            await asyncio.sleep(3 + phase)
            if kind == "refused":
                watched.transport.up = False
            else:
                watched.transport.slow["/status"] = 2.0
            began = loop_time()
            await asyncio.sleep(2)
            assert [change.new for change in changes] == ["healthy", "down"]
            watched.transport.up = True
            watched.transport.slow.clear()
            await asyncio.sleep(1.01)
            assert [change.new for change in changes] == ["healthy", "down", "healthy"]
            assert began < loop_time()

    run(main())
    assert changes[1].reason
    assert changes[1].sample.service == URL
    assert changes[1].at >= changes[1].since


def test_one_failed_check_does_not_change_the_state(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        monitor = HealthMonitor(watched, interval=1)
        changes: list[HealthChanged] = []
        monitor.on_change(changes.append)
        async with monitor:
            await asyncio.sleep(2.5)
            watched.transport.up = False
            await asyncio.sleep(1)
            watched.transport.up = True
            await asyncio.sleep(3)
        assert [change.new for change in changes] == ["healthy"]
        assert [sample.status for sample in monitor.history].count("down") == 1
        assert monitor.summary().outages == 0

    run(main())


def test_checks_that_time_out_keep_the_interval(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.slow["/status"] = 60
        times: list[float] = []
        async with aclosing(HealthMonitor(watched, interval=3).samples()) as samples:
            async for sample in samples:
                times.append(loop_time())
                assert "did not answer within 2 s" in sample.detail
                if len(times) == 3:
                    break
        assert times == pytest.approx([2, 5, 8])

    run(main())


def test_a_suspended_program_is_not_an_outage(run: Run) -> None:
    """As after a laptop's sleep, or a task that blocked the loop."""

    async def main() -> None:
        watched = WatchedService()
        watched.transport.slow["/status"] = 0.1
        loop: Any = asyncio.get_running_loop()

        def suspend() -> None:
            loop._time_s += 3600

        async with HealthMonitor(watched, interval=0.5) as monitor:
            for moment in (1.05, 2.05, 3.05):
                loop.call_later(moment, suspend)
            await asyncio.sleep(3600 * 3 + 10)
        assert {sample.status for sample in monitor.history} == {"healthy"}

    run(main())


def test_a_service_that_is_being_started_is_not_down(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.connect_s = 20
        changes: list[HealthChanged] = []
        async with HealthMonitor(watched, interval=1, alerts=[changes.append]) as monitor:
            await asyncio.sleep(10)
            assert monitor.status is not None
            assert monitor.status.status == "down"
            assert "still being found or started" in monitor.status.detail
            assert (monitor.state, changes) == ("unknown", [])
            await asyncio.sleep(15)
            assert [change.new for change in changes] == ["healthy"]

    run(main())


def test_another_process_at_the_same_address_is_a_restart(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=1) as monitor:
            await asyncio.sleep(0.5)
            before = watched.service.connection
            watched.transport.pid += 1
            await asyncio.sleep(2)
            assert watched.service.connection is not before
            assert {sample.status for sample in monitor.history} == {"healthy"}
            assert [sample.restarts for sample in monitor.history] == [0, 1, 1]

    run(main())


def test_a_service_that_cannot_be_started_is_down(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.up = False
        async with HealthMonitor(watched, interval=1) as monitor:
            await asyncio.sleep(1.5)
            assert monitor.state == "down"
            assert monitor.status is not None
            assert monitor.status.service is None  # no service was ever found

    run(main())


def test_a_slow_list_of_models_delays_no_check(run: Run) -> None:
    """On 2.2.1 the first list takes 4 s offline."""

    async def main() -> None:
        watched = WatchedService()
        watched.transport.slow[LOADED] = 4.2
        watched.transport.loaded = ["demo:1"]
        samples = await take_samples(HealthMonitor(watched, interval=1, models=["demo"]), 8)
        assert {sample.status for sample in samples} == {"healthy"}
        known = [bool(sample.loaded_models) for sample in samples]
        assert known[0] is False
        assert known[-1] is True
        assert [sample.ready for sample in samples] == known

    run(main())


@pytest.mark.parametrize("name", ["demo", "DEMO", "demo:1", " demo"])
def test_a_required_model_may_have_any_of_its_names(run: Run, name: str) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.loaded = ["demo:1", "other:2"]
        (sample,) = await take_samples(HealthMonitor(watched, models=[name]), 1)
        assert sample.ready

    run(main())


def test_a_missing_required_model_is_degraded(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.loaded = ["other:2"]
        monitor = HealthMonitor(watched, interval=1, models=["demo", "other"])
        samples = await take_samples(monitor, 3)
        assert {(sample.status, sample.ready, sample.detail) for sample in samples} == {
            ("degraded", False, "Not in memory: demo.")
        }
        assert monitor.state == "degraded"

    run(main())


def test_waiting_shortens_the_interval(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=60, models=["demo"]) as monitor:
            await asyncio.sleep(5)
            asyncio.get_running_loop().call_later(3, watched.transport.loaded.append, "demo:1")
            began = loop_time()
            sample = await monitor.wait_until_ready(timeout=10)
            assert sample.loaded_models == ("demo:1",)
            assert loop_time() - began == pytest.approx(3, abs=0.25)
            count = len(monitor.history)
            await asyncio.sleep(50)
            assert len(monitor.history) <= count + 1

    run(main())


def test_a_wait_that_times_out_reports_the_last_status(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.up = False
        with pytest.raises(CallTimeout, match=r"not ready within 2 s: it was down") as caught:
            await HealthMonitor(watched).wait_until_ready(timeout=2)
        assert caught.value.limit_s == 2
        assert "nothing is there" in caught.value.hint
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_an_open_breaker_is_degraded(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        breaker = watched.service.breaker
        await watched.service.connect()
        for _ in range(10):
            permit = breaker.try_enter()
            assert permit is not None
            permit.record_failure(0.1)
        (sample,) = await take_samples(HealthMonitor(watched), 1)
        assert sample.status == "degraded"
        assert "circuit breaker is open" in sample.detail
        assert sample.breaker is not None
        assert sample.breaker.state == "open"

    run(main())


def make_call_ended(
    outcome: str, service: str | None = URL, rate: float | None = None
) -> CallEnded:
    timings = Timings(time_to_first_token_s=None, total_s=1.0, tokens_per_second=rate)
    return CallEnded(
        call=1, outcome=outcome, model="m", service=service, attempts=(), timings=timings
    )  # type: ignore[arg-type]


def make_first_token(seconds: float, service: str = URL) -> FirstToken:
    return FirstToken(call=1, attempt=1, model="m", service=service, time_to_first_token_s=seconds)


def test_traffic_since_the_last_check_is_counted(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=1) as monitor:
            await asyncio.sleep(0.5)
            for event in (
                make_first_token(0.1),
                make_first_token(0.2),
                make_first_token(9.0),
                make_call_ended("answered", rate=50.0),
            ):
                watched.events.emit(event)
            watched.events.emit(make_call_ended("failed", service=None))
            watched.events.emit(make_call_ended("cancelled"))
            await asyncio.sleep(1)
            assert monitor.status is not None
            traffic = monitor.status.traffic
            assert (traffic.answered, traffic.failed, traffic.cancelled) == (1, 1, 1)
            assert (traffic.first_tokens, traffic.time_to_first_token_s) == (3, 0.2)
            assert traffic.tokens_per_second == 50.0
            await asyncio.sleep(1)
            assert monitor.status.traffic.answered == 0
        assert CallEnded not in watched.events.observed_types

    run(main())


async def test_no_canary_runs_while_callers_use_every_slot() -> None:
    watched = WatchedService(LimiterSettings(concurrency=1))
    watched.transport.loaded = ["demo:1"]
    monitor = HealthMonitor(watched, interval=0.05, canary_every=1)
    slot = watched.service.limiter.try_acquire()
    sample = await monitor.check()
    assert sample.canary is not None
    assert (sample.canary.outcome, sample.canary.detail) == ("skipped", "callers use every slot")
    assert (sample.status, sample.ready) == ("healthy", False)
    assert slot is not None
    slot.release()
    assert CHAT not in watched.transport.requested_paths
    sample = await monitor.check()
    assert sample.canary is not None
    assert sample.canary.outcome == "failed"  # the script has no chat route
    assert sample.status == "degraded"
    assert "The canary failed" in sample.detail
    await monitor._sampler.aclose()


def test_an_answered_call_replaces_a_canary(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=1, canary_every=1) as monitor:
            await asyncio.sleep(0.5)
            assert monitor.status is not None
            assert monitor.status.canary is not None
            assert monitor.status.canary.detail == "no model is in memory"
            watched.events.emit(make_call_ended("answered"))
            sample = await monitor.wait_until_ready(timeout=5)
            assert sample.canary is not None
            assert sample.canary.outcome == "traffic"

    run(main())


async def test_a_call_that_starts_cancels_the_canary() -> None:
    watched = WatchedService()
    watched.transport.loaded = ["demo:1"]
    watched.transport.slow[CHAT] = 60
    async with HealthMonitor(watched, interval=0.05, canary_every=1) as monitor:
        await watched.transport.has_chat_request.wait()
        watched.events.emit(CallStarted(call=1, model="m", request=ChatRequest(messages=())))
        samples = await take_samples(monitor, 2)
    canary = samples[-1].canary
    assert canary is not None
    assert (canary.outcome, canary.detail) == ("skipped", "a call started, which has priority")


def test_a_deadline_of_the_caller_does_not_apply_to_the_monitor(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.connect_s = 0.5
        monitor = HealthMonitor(watched, interval=1)
        with deadline(0.2):
            await monitor.__aenter__()
        await asyncio.sleep(5.5)
        assert [sample.status for sample in monitor.history] == ["healthy"] * 6
        await monitor.__aexit__()

    run(main())


def test_an_internal_error_is_logged_and_the_monitor_continues(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        watched = WatchedService()
        async with HealthMonitor(watched, interval=1) as monitor:
            await asyncio.sleep(0.5)
            with monkeypatch.context() as patch:
                patch.setattr(watched.service.breaker, "statistics", lambda: 1 / 0)
                await asyncio.sleep(1)
            await asyncio.sleep(1)
            assert len(monitor.history) == 2

    with caplog.at_level(logging.ERROR, "foundry_api"):
        run(main())
    assert "a health check failed" in caplog.text


def test_a_closed_client_is_reported_to_every_caller(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        watched = WatchedService()

        async def closed() -> None:
            raise ClientClosed("the client is closed")

        monitor = HealthMonitor(watched, interval=1)
        monkeypatch.setattr(watched.service, "connect", closed)
        with pytest.raises(ClientClosed):
            await take_samples(monitor, 2)
        with pytest.raises(ClientClosed):
            await monitor.wait_until_ready(timeout=5)
        with pytest.raises(ClientClosed):
            await monitor.check()
        async with monitor:
            await asyncio.sleep(1)
            with pytest.raises(ClientClosed):
                await take_samples(monitor, 1)

    run(main())


def test_several_callers_share_one_monitor(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        monitor = HealthMonitor(watched, interval=1)
        both = await asyncio.gather(take_samples(monitor, 3), take_samples(monitor, 5))
        assert [len(samples) for samples in both] == [3, 5]
        assert both[0] == both[1][:3]
        assert watched.transport.requested_paths.count("/status") == 5
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_the_history_keeps_the_newest_samples(run: Run) -> None:
    async def main() -> None:
        monitor = HealthMonitor(WatchedService(), interval=1, history=3)
        samples = await take_samples(monitor, 5)
        assert monitor.history == tuple(samples[-3:])
        assert monitor.status == samples[-1]

    run(main())


def test_a_caller_that_joins_during_the_stop_gets_samples(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        monitor = HealthMonitor(watched, interval=1)

        async def hang(_: HealthChanged) -> None:
            await asyncio.sleep(2)

        monitor.on_change(hang)
        leaving = asyncio.create_task(take_samples(monitor, 1))
        await asyncio.sleep(0.5)
        assert len(await take_samples(monitor, 2)) == 2
        await leaving
        assert len(asyncio.all_tasks()) == 1

    run(main())


async def test_an_invalid_history_file_is_an_error_and_nothing_runs(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine", encoding="utf-8")
    watched = WatchedService()
    monitor = HealthMonitor(watched, history=path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is not a history"):
            await monitor.wait_until_ready(timeout=5)
    assert len(asyncio.all_tasks()) == 1
    assert CallEnded not in watched.events.observed_types


async def test_the_history_file_is_written_while_the_monitor_runs(tmp_path: Path) -> None:
    from foundry_api.monitor.store import read_samples  # noqa: PLC0415 - only here

    path = tmp_path / "health.db"
    monitor = HealthMonitor(WatchedService(), interval=0.01, history=path)
    samples = await take_samples(monitor, 3)
    assert read_samples(path)[:3] == samples


def test_one_monitor_works_on_one_event_loop_after_another() -> None:
    watched = WatchedService()
    monitor = HealthMonitor(watched, interval=0.01)

    async def main() -> None:
        watched.transport.slow[LOADED] = 60
        await monitor.check()  # leaves a request that ends with the loop
        watched.transport.slow.clear()
        both = await asyncio.gather(take_samples(monitor, 2), take_samples(monitor, 2))
        assert [len(samples) for samples in both] == [2, 2]

    for _ in range(2):
        asyncio.run(main())
    assert {sample.status for sample in monitor.history} == {"healthy"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"interval": 1, "timeout": 2}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"canary_every": -1}, "canary_every"),
        ({"canary_timeout": 0}, "canary_timeout"),
        ({"keep_days": 0}, "keep_days"),
        ({"history": 0}, "history"),
        ({"models": "demo"}, "models"),
    ],
)
def test_an_invalid_argument_is_rejected_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HealthMonitor(WatchedService(), **arguments)
    assert caught.value.field == field


def test_the_hysteresis_can_be_set(run: Run) -> None:
    async def main() -> None:
        watched = WatchedService()
        watched.transport.up = False
        monitor = HealthMonitor(watched, interval=1, hysteresis=Hysteresis(down_after=4))
        states = [sample.state for sample in await take_samples(monitor, 5)]
        assert states == ["unknown"] * 3 + ["down"] * 2

    run(main())


@pytest.mark.parametrize("failure", [RuntimeError, asyncio.CancelledError])
def test_exceptions_of_user_code_do_not_hide_an_outage(
    run: Run, failure: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise failure("oops")

    async def broken(*_: object) -> None:
        raise failure("oops")

    async def main() -> None:
        watched = WatchedService()
        monitor = HealthMonitor(watched, interval=0.5, alerts=[fail, broken])
        async with monitor:
            await asyncio.sleep(1.75)
            send, watched.transport.send = watched.transport.send, broken  # type: ignore[method-assign]
            await asyncio.sleep(2)
            watched.transport.send = send  # type: ignore[method-assign]
            await asyncio.sleep(2)
        statuses = [sample.status for sample in monitor.history]
        assert statuses[:4] == ["healthy"] * 4
        assert statuses[4:8] == ["down"] * 4
        assert statuses[8:] == ["healthy"] * 4
        assert 0 < (monitor.summary().availability or 0) < 1

    run(main())


def test_a_cancelled_monitor_ends(run: Run) -> None:
    async def main() -> None:
        monitor = HealthMonitor(WatchedService(), interval=0.5)

        async def watch() -> None:
            async with monitor:
                await asyncio.Event().wait()

        task = asyncio.create_task(watch())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    run(main())
