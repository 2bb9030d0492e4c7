"""`foundry-api up`: start the shared engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_json, sanitize_line
from foundry_api.cli.session import make_settings
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.observe.format import format_duration
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["command"]

SECONDS_PER_MINUTE = 60


@click.command("up", epilog=format_examples("up", "up --idle-timeout 0  # run until `down`"))
@click.option(
    "--idle-timeout",
    "idle_minutes",
    type=click.FloatRange(min=0),
    default=shared.IDLE_TIMEOUT_S / SECONDS_PER_MINUTE,
    show_default=True,
    metavar="MINUTES",
    help="Stop after this many minutes without use; 0 disables it.",
)
@output_options
@pass_common
def command(common: GlobalOptions, *, idle_minutes: float) -> None:
    """Start a shared engine in the background.

    The engine keeps models in memory between commands. All programs of this user that use
    foundry-api discover it. Does nothing if it is already running.
    """
    settings = make_settings(common)
    paths = Paths.from_home(settings.home)
    options = HostOptions(paths=paths, threads=settings.engine_threads)
    endpoint, already_running = shared.start(
        paths, idle_minutes * SECONDS_PER_MINUTE, options=options
    )
    if common.as_json:
        print_json(to_json(endpoint, already_running=already_running))
        return
    verb = "was already running" if already_running else "is running"
    click.echo(sanitize_line(f"The shared engine {verb} at {endpoint.base_url}"))
    if idle_minutes and not already_running:
        click.echo(f"It stops after {format_duration(idle_minutes * 60)} without use.")
    click.echo("Stop it with: foundry-api down")


def to_json(endpoint: Endpoint, *, already_running: bool) -> dict[str, object]:
    return {  # without the token of the engine
        "url": endpoint.base_url,
        "already_running": already_running,
        "service_generation": endpoint.service_generation,
        "version": endpoint.sdk_version,
        "pid": endpoint.pid,
        "log_path": endpoint.log_path,
    }
