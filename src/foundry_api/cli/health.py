"""`foundry-api health`: a service's health, once or again and again."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, cast

import click

from foundry_api.cli.options import Common, common_options, examples, pass_common
from foundry_api.cli.output import duration, is_terminal, print_fields, print_json
from foundry_api.cli.services import RunningService
from foundry_api.cli.session import Session
from foundry_api.cli.status import health_fields, memory
from foundry_api.health_monitor import HealthMonitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from foundry_api.client import FoundryAPIClient
    from foundry_api.health import HealthStatus

__all__ = ["EXIT_CODES", "command"]

EXIT_CODES = {"healthy": 0, "degraded": 1, "down": 2}

EPILOG = (
    examples(
        "health",
        "health --json",
        "health --watch --interval 1",
        "health --count 3              three lines, then the end",
    )
    + "\n\n\b\nExit codes, of the last look:\n  0 healthy, 1 degraded, 2 down"
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
@common_options
@pass_common
def command(common: Common, *, watch: bool, interval: float, count: int | None) -> int:
    """Look at a service's health, once or again and again.

    The model is asked nothing and nothing is started: without a running service the answer is
    down. Watching prints a line for each look, in JSON with --json, and a table on a terminal.
    """
    with Session(common) as session:
        monitor = HealthMonitor(_observed(session), interval=interval)
        if not (watch or count):
            return _tell(session.run(monitor.check()), as_json=common.as_json)
        if is_terminal(sys.stdout) and not common.as_json:
            from foundry_api.cli.live import LiveTable  # noqa: PLC0415 - it imports rich

            with LiveTable() as table:
                return session.run(_watch(monitor.samples(), table.show, count))
        show = _print_json_line if common.as_json else _print_line
        return session.run(_watch(monitor.samples(), show, count))


def line(health: HealthStatus) -> str:
    """One look in a line."""
    parts = (
        datetime.fromtimestamp(health.checked_at).astimezone().isoformat(timespec="seconds"),
        health.status,
        health.service or "-",
        duration(health.latency_s),
        memory(health),
        ",".join(health.loaded_models),
        health.detail,
    )
    return "  ".join(part for part in parts if part)


async def _watch(
    samples: AsyncIterator[HealthStatus],
    show: Callable[[HealthStatus], object],
    count: int | None,
) -> int:
    """Show samples until there were so many; the last one's exit code."""
    seen = 0
    code = 0
    async for health in samples:
        show(health)
        seen += 1
        code = EXIT_CODES[health.status]
        if seen == count:
            break
    return code


def _observed(session: Session) -> FoundryAPIClient:
    """What to look at: the client's own engine if that is what the user asked for."""
    if session.settings.service == "embedded":
        return session.client
    # The monitor needs nothing of a client but health_check.
    return cast("FoundryAPIClient", RunningService(session.settings))


def _tell(health: HealthStatus, *, as_json: bool) -> int:
    if as_json:
        print_json(health)
    else:
        print_fields(health.service or "No service", health.status, health_fields(health))
    return EXIT_CODES[health.status]


def _print_line(health: HealthStatus) -> None:
    click.echo(line(health))
    sys.stdout.flush()


def _print_json_line(health: HealthStatus) -> None:
    print_json(health, indent=0)
    sys.stdout.flush()
