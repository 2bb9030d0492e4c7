"""`foundry-api health`: check a service once, continuously, or until it is ready."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack, aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.errors import print_error
from foundry_api.cli.health_view import format_line, make_sample_fields, make_summary_fields
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_fields, print_json, sanitize_line
from foundry_api.cli.services import RunningServiceTarget
from foundry_api.cli.session import Session
from foundry_api.monitor.monitor import (
    HISTORY_SIZE,
    AlertCommand,
    AlertWebhook,
    HealthMonitor,
)
from foundry_api.monitor.summary import summarise
from foundry_api.types.errors import CallTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from foundry_api.monitor.monitor import HealthChanged, HealthSample, HealthSummary
    from foundry_api.monitor.sampler import MonitorTarget

__all__ = ["EXIT_CODES", "command"]

EXIT_CODES = {"healthy": 0, "degraded": 1, "down": 2}
EXIT_NOT_READY = 1
# Discovery may take a while; a single check waits for it, where a monitor would check again.
CHECK_TIMEOUT_S = 15.0
CANARY_EVERY = 10

EPILOG = (
    format_examples(
        "health",
        "health --json",
        "health --model phi-4-mini --canary  # loaded, and answering?",
        "health --until-ready 60 && start-my-program",
        "health --watch --interval 1",
        "health --watch --json --count 3  # stop after three lines",
        "health --watch --store health.db  # store the checks",
        "health --summary --store health.db  # summarise them",
        'health --watch --alert-command "notify-send Foundry"',
    )
    + "\n\n\b\nExit codes, of the last check:\n  0 healthy, 1 degraded or not ready, 2 down"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOptions:
    """Options of the health monitor."""

    interval: float
    models: tuple[str, ...]
    canary: int | None
    store: Path | None
    alerts: tuple[Callable[[HealthChanged], object], ...]

    def make_monitor(self, target: MonitorTarget, *, timeout: float | None = None) -> HealthMonitor:
        return HealthMonitor(
            target,
            interval=max(self.interval, timeout or 0.0),
            timeout=timeout,
            models=self.models,
            canary_every=self.canary or 0,
            history=self.store or HISTORY_SIZE,
            alerts=self.alerts,
        )


@click.command("health", epilog=EPILOG)
@click.option("-w", "--watch", is_flag=True, help="Check continuously until Ctrl-C.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between checks.",
)
@click.option(
    "-n", "--count", type=click.IntRange(min=1), metavar="N", help="Watch, and stop after N checks."
)
@click.option(
    "--until-ready",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Wait until the service is ready, at most this long.",
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="A model that must be loaded; repeatable.",
)
@click.option(
    "--canary",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=CANARY_EVERY,
    metavar="[N]",
    help=f"Send a small test prompt on every Nth check; {CANARY_EVERY} if N is omitted.",
)
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Store the checks of the last week in a SQLite file.",
)
@click.option("--summary", is_flag=True, help="Summarise the checks in --store; check nothing.")
@click.option(
    "--alert-command",
    metavar="COMMAND",
    help="Run on a state change, with FOUNDRY_HEALTH_* variables; see docs/health.md.",
)
@click.option(
    "--webhook",
    metavar="URL",
    envvar="FOUNDRY_HEALTH_WEBHOOK",
    help="Post state changes to this URL as JSON. [FOUNDRY_HEALTH_WEBHOOK]",
)
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    watch: bool,
    interval: float,
    count: int | None,
    until_ready: float | None,
    models: tuple[str, ...],
    canary: int | None,
    store: Path | None,
    summary: bool,
    alert_command: str | None,
    webhook: str | None,
) -> int:
    """Check the health of a service, once or continuously.

    Nothing is started; without a running service, the status is down. No prompt is sent without
    --canary. --watch shows graphs on a terminal, and otherwise prints a line per check, with --json
    as JSON.
    """
    if summary:
        return _print_store_summary(store, as_json=common.as_json)
    if until_ready is not None and (watch or count):
        raise click.UsageError("--until-ready cannot be used with --watch or --count.")
    alerts = _make_alerts(alert_command, webhook)
    options = MonitorOptions(
        interval=interval, models=models, canary=canary, store=store, alerts=alerts
    )
    with Session(common) as session:
        if until_ready is not None:
            return _wait_until_ready(session, options, until_ready, common)
        if watch or count:
            return _watch(session, options, count, common)
        return _print_sample(session.run(_check_once(session, options)), common)


async def _check_once(session: Session, options: MonitorOptions) -> HealthSample:
    async with _resolve_target(session) as target:
        monitor = options.make_monitor(target, timeout=CHECK_TIMEOUT_S)
        if options.store is None:
            return await monitor.check()
        async with monitor:  # only a started monitor writes to its store
            return await monitor.check()


def _wait_until_ready(
    session: Session, options: MonitorOptions, seconds: float, common: GlobalOptions
) -> int:
    async def wait() -> tuple[HealthSample | None, CallTimeout | None]:
        async with _resolve_target(session) as target:
            monitor = options.make_monitor(target)
            try:
                return await monitor.wait_until_ready(seconds), None
            except CallTimeout as error:
                return monitor.status, error

    description = "" if common.as_json else "Waiting for the service to be ready ..."
    sample, timeout = session.run(wait(), description=description)
    code = EXIT_CODES["down"] if sample is None else _print_sample(sample, common)
    if timeout is None:
        return code
    print_error(timeout)
    return max(code, EXIT_NOT_READY)  # the last check may be healthy, but without the models


def _watch(
    session: Session, options: MonitorOptions, count: int | None, common: GlobalOptions
) -> int:
    monitors: list[HealthMonitor] = []  # empty until the service is found, then one

    def print_total() -> None:
        for monitor in monitors:
            if monitor.status is not None:
                click.echo()
                _print_summary("Total", monitor.status.status, monitor.summary())

    def print_line(sample: HealthSample) -> None:
        click.echo(sanitize_line(format_line(sample)))
        sys.stdout.flush()  # a pipe would show lines only in blocks

    with ExitStack() as stack:
        if common.as_json:
            show, on_change = _print_json_line, None
        elif is_terminal(sys.stdout):
            from foundry_api.cli.health_view import LiveView  # noqa: PLC0415 - it imports rich

            # The stack prints the summary after the view is closed, also after Ctrl-C.
            stack.callback(print_total)
            view = stack.enter_context(LiveView())
            show, on_change = view.add_sample, view.add_change
        else:
            show, on_change = print_line, None

        async def watch() -> int:
            async with _resolve_target(session) as target:
                monitor = options.make_monitor(target)
                monitors.append(monitor)
                if on_change is not None:
                    monitor.on_change(on_change)
                number = 0
                async with aclosing(monitor.samples()) as samples:
                    async for sample in samples:
                        show(sample)
                        number += 1
                        if number == count:
                            break
                return EXIT_CODES[monitor.history[-1].status]

        return session.run(watch())


def _resolve_target(session: Session) -> AbstractAsyncContextManager[MonitorTarget]:
    if session.settings.service == "embedded":
        return nullcontext(session.client)
    return RunningServiceTarget(session.settings)


def _make_alerts(command: str | None, webhook: str | None) -> tuple[Callable[..., object], ...]:
    alerts: list[Callable[..., object]] = []
    if command is not None:
        try:
            # In POSIX mode the backslashes of Windows paths would be escapes.
            alerts.append(AlertCommand(shlex.split(command, posix=os.name != "nt")))
        except ValueError as error:
            raise click.UsageError(f"--alert-command cannot be parsed: {error}") from error
    if webhook is not None:
        alerts.append(AlertWebhook(webhook))
    return tuple(alerts)


def _print_sample(sample: HealthSample, common: GlobalOptions) -> int:
    if common.as_json:
        print_json(sample)
    else:
        print_fields(sample.service or "No service", sample.status, make_sample_fields(sample))
    return EXIT_CODES[sample.status]


def _print_store_summary(store: Path | None, *, as_json: bool) -> int:
    if store is None:
        raise click.UsageError("--summary needs a file: give --store FILE.")
    from foundry_api.monitor.store import read_samples  # noqa: PLC0415 - it imports sqlite3

    samples = read_samples(store)
    summary = summarise(samples)
    if as_json:
        print_json(summary)
    elif samples:
        _print_summary(str(store), samples[-1].status, summary)
    else:
        click.echo(sanitize_line(f"There are no checks in {store}."))
    return 0


def _print_summary(title: str, status: str, summary: HealthSummary) -> None:
    print_fields(title, status, make_summary_fields(summary))


def _print_json_line(sample: HealthSample) -> None:
    print_json(sample, indent=0)
    sys.stdout.flush()
