"""`foundry-api health`: a service's health, once, again and again, or until it is ready."""

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
from foundry_api.monitor.monitor import AlertCommand, AlertWebhook, HealthMonitor
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
CHECK_TIMEOUT_S = 15.0
"""Finding a service may take a while, which a person waits for when he looks once."""

CANARY_EVERY = 10

EPILOG = (
    format_examples(
        "health",
        "health --json",
        "health --model phi-4-mini --canary         is it in memory, and does it answer",
        "health --until-ready 60 && start-my-program",
        "health --watch --interval 1",
        "health --watch --json --count 3            three lines, then the end",
        "health --watch --store health.db           keeps what it sees",
        "health --summary --store health.db         what it came to",
        'health --watch --alert-command "notify-send Foundry"',
    )
    + "\n\n\b\nExit codes, of the last look:\n  0 healthy, 1 degraded or not ready, 2 down"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOptions:
    """What the options said of the monitor."""

    interval: float
    models: tuple[str, ...]
    canary: int | None
    store: Path | None
    alerts: tuple[Callable[[HealthChanged], object], ...]

    def make_monitor(self, target: MonitorTarget, *, timeout: float | None = None) -> HealthMonitor:
        """A monitor as it was wished for."""
        return HealthMonitor(
            target,
            interval=max(self.interval, timeout or 0.0),
            timeout=timeout,
            models=self.models,
            canary_every=self.canary or 0,
            history=self.store or 720,
            alerts=self.alerts,
        )


@click.command("health", epilog=EPILOG)
@click.option("-w", "--watch", is_flag=True, help="Look again and again; Ctrl-C ends it.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="Watch, and stop after so many.")
@click.option(
    "--until-ready",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Wait until it is ready, at most so long.",
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="A model that has to be in memory; may be given again.",
)
@click.option(
    "--canary",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=CANARY_EVERY,
    metavar="[N]",
    help=f"Ask for a few tokens, at every {CANARY_EVERY}th or Nth look.",
)
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what is seen in a SQLite file, for a week.",
)
@click.option("--summary", is_flag=True, help="Tell what the looks in --store came to; look not.")
@click.option(
    "--alert-command",
    metavar="COMMAND",
    help="Run it when the state changes; the facts are in FOUNDRY_HEALTH_TEXT and its like.",
)
@click.option(
    "--webhook",
    metavar="URL",
    envvar="FOUNDRY_HEALTH_WEBHOOK",
    help="Post changes of the state there, as JSON. [FOUNDRY_HEALTH_WEBHOOK]",
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
    """Look at a service's health, once or again and again.

    Nothing is started: without a running service the answer is down. A model is asked only with
    --canary. Watching prints a line for each look, in JSON with --json, and graphs on a terminal.
    """
    if summary:
        return _print_store_summary(store, as_json=common.as_json)
    if until_ready is not None and (watch or count):
        raise click.UsageError("--until-ready looks by itself: leave out --watch and --count.")
    alerts = _make_alerts(alert_command, webhook)
    wishes = MonitorOptions(
        interval=interval, models=models, canary=canary, store=store, alerts=alerts
    )
    with Session(common) as session:
        if until_ready is not None:
            return _wait_until_ready(session, wishes, until_ready, common)
        if watch or count:
            return _watch(session, wishes, count, common)
        return _print_sample(session.run(_check_once(session, wishes)), common)


async def _check_once(session: Session, options: MonitorOptions) -> HealthSample:
    async with _resolve_target(session) as watched:
        monitor = options.make_monitor(watched, timeout=CHECK_TIMEOUT_S)
        if options.store is None:
            return await monitor.check()
        async with monitor:
            return await monitor.check()


def _wait_until_ready(
    session: Session, options: MonitorOptions, seconds: float, common: GlobalOptions
) -> int:
    async def wait() -> tuple[HealthSample | None, CallTimeout | None]:
        async with _resolve_target(session) as watched:
            monitor = options.make_monitor(watched)
            try:
                return await monitor.wait_until_ready(seconds), None
            except CallTimeout as error:
                return monitor.status, error

    waiting = "" if common.as_json else "Waiting for the service to be ready ..."
    sample, late = session.run(wait(), description=waiting)
    code = EXIT_CODES["down"] if sample is None else _print_sample(sample, common)
    if late is None:
        return code
    print_error(late)
    return max(code, EXIT_NOT_READY)


def _watch(
    session: Session, options: MonitorOptions, count: int | None, common: GlobalOptions
) -> int:
    monitors: list[HealthMonitor] = []
    with ExitStack() as stack:
        if common.as_json:
            show, changed = _print_json_line, None
        elif is_terminal(sys.stdout):
            from foundry_api.cli.health_view import LiveView  # noqa: PLC0415 - it imports rich

            stack.callback(lambda: _print_end(monitors))
            screen = stack.enter_context(LiveView())
            show, changed = screen.add_sample, screen.add_change
        else:
            show, changed = _print_line, None

        async def follow() -> int:
            async with _resolve_target(session) as watched:
                monitor = options.make_monitor(watched)
                monitors.append(monitor)
                if changed is not None:
                    monitor.on_change(changed)
                return await _show_samples(monitor, show, count)

        return session.run(follow())


async def _show_samples(
    monitor: HealthMonitor, show: Callable[[HealthSample], object], count: int | None
) -> int:
    """Show samples until there were so many; the last one's exit code."""
    seen = 0
    async with aclosing(monitor.samples()) as samples:
        async for sample in samples:
            show(sample)
            seen += 1
            if seen == count:
                break
    return EXIT_CODES[monitor.history[-1].status]


def _resolve_target(session: Session) -> AbstractAsyncContextManager[MonitorTarget]:
    """What to look at: the client's own engine if that is what the user asked for."""
    if session.settings.service == "embedded":
        return nullcontext(session.client)
    return RunningServiceTarget(session.settings)


def _make_alerts(command: str | None, webhook: str | None) -> tuple[Callable[..., object], ...]:
    alerts: list[Callable[..., object]] = []
    if command is not None:
        try:
            # Windows' own paths have the backslashes that POSIX takes for an escape.
            alerts.append(AlertCommand(shlex.split(command, posix=os.name != "nt")))
        except ValueError as error:
            raise click.UsageError(f"--alert-command cannot be understood: {error}") from error
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
        raise click.UsageError("--summary tells of a file: give --store FILE.")
    # SQLite is for those who keep a history.
    from foundry_api.monitor.store import read_samples  # noqa: PLC0415

    samples = read_samples(store)
    summary = summarise(samples)
    if as_json:
        print_json(summary)
    elif samples:
        _print_summary(str(store), samples[-1].status, summary)
    else:
        click.echo(sanitize_line(f"There are no looks in {store}."))
    return 0


def _print_end(monitors: list[HealthMonitor]) -> None:
    """What was seen in all, below the screen."""
    for monitor in monitors:
        if monitor.status is not None:
            click.echo()
            _print_summary("In all", monitor.status.status, monitor.summary())


def _print_summary(title: str, status: str, summary: HealthSummary) -> None:
    print_fields(title, status, make_summary_fields(summary))


def _print_line(sample: HealthSample) -> None:
    click.echo(sanitize_line(format_line(sample)))
    sys.stdout.flush()


def _print_json_line(sample: HealthSample) -> None:
    print_json(sample, indent=0)
    sys.stdout.flush()
