"""`foundry-api up`: start the shared engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_json, print_notice, sanitize_line
from foundry_api.cli.session import make_settings
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.observe.format import format_duration
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.settings import Settings

__all__ = ["command"]

SECONDS_PER_MINUTE = 60


@click.command(
    "up", epilog=format_examples("up", "up --port 5273", "up --idle-timeout 0  # run until `down`")
)
@click.option(
    "--idle-timeout",
    "idle_minutes",
    type=click.FloatRange(min=0),
    default=shared.IDLE_TIMEOUT_S / SECONDS_PER_MINUTE,
    show_default=True,
    metavar="MINUTES",
    help="Stop after this many minutes without use; 0 disables it.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Port of the engine, such as 5273. [any that is free]",
)
@output_options
@pass_common
def command(common: GlobalOptions, *, idle_minutes: float, port: int | None) -> None:
    """Start a shared engine in the background.

    The engine keeps models in memory between commands. All programs of this user that use
    foundry-api discover it. Does nothing if it is already running.
    """
    settings = make_settings(common)
    paths = Paths.from_home(settings.home)
    options = HostOptions(paths=paths, threads=settings.engine_threads, port=port or 0)
    try:
        endpoint, already_running = shared.start(
            paths, idle_minutes * SECONDS_PER_MINUTE, options=options
        )
    except ServiceStartFailed as error:
        if port is not None and "bind" in error.message:
            error.hint = f"Another program uses port {port}: give another one with --port."
        raise
    if already_running and port not in {None, urlsplit(endpoint.base_url).port}:
        raise ConfigurationError(
            f"the shared engine was already running at {endpoint.base_url}",
            hint="Stop it first: `foundry-api down`.",
        )
    _warn_about_other_services(settings)
    if common.as_json:
        print_json(to_json(endpoint, already_running=already_running))
        return
    verb = "was already running" if already_running else "is running"
    click.echo(sanitize_line(f"The shared engine {verb} at {endpoint.base_url}"))
    if idle_minutes and not already_running:
        click.echo(f"It stops after {format_duration(idle_minutes * 60)} without use.")
    click.echo("Stop it with: foundry-api down")


def _warn_about_other_services(settings: Settings) -> None:
    for name, urls in (("BASE_URL", [settings.base_url]), ("BASE_URLS", settings.base_urls)):
        if any(urls):
            source = f"FOUNDRY_{name}"
            if not os.environ.get(source):
                source = f"the setting {name.lower()}"
            addresses = ", ".join(map(sanitize_line, filter(None, urls)))
            print_notice(f"Commands do not use this engine: {source} names {addresses}.")


def to_json(endpoint: Endpoint, *, already_running: bool) -> dict[str, object]:
    return {  # without the token of the engine
        "url": endpoint.base_url,
        "already_running": already_running,
        "service_generation": endpoint.service_generation,
        "version": endpoint.sdk_version,
        "pid": endpoint.pid,
        "log_path": endpoint.log_path,
    }
