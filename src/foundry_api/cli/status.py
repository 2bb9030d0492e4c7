"""`foundry-api status`: which services are running."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.options import Common, common_options, examples, pass_common
from foundry_api.cli.output import print_fields, print_json
from foundry_api.cli.services import all_services, health_of
from foundry_api.cli.session import Session
from foundry_api.engine import discovery
from foundry_api.engine.listener import other_user
from foundry_api.observe.format import format_bytes, format_duration
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.monitor.health import HealthStatus
    from foundry_api.types.settings import Settings

__all__ = ["command", "health_fields", "memory"]

BYTES_PER_MB = 2**20

_ORIGINS = {
    "shared": "Shared engine",
    "cli": "Foundry Local's own service",
    "port": "Service at a known port",
    "explicit": "Service",
}

Seen = list[tuple["Endpoint", "HealthStatus"]]


@click.command("status", epilog=examples("status", "status --json"))
@common_options
@pass_common
def command(common: Common) -> None:
    """Tell which services are running.

    The first one is what calls use. Nothing is started for the look. Engines that other programs
    run for themselves alone are not shown.
    """
    with Session(common) as session:
        settings = session.settings
        seen = session.run(_look(settings))
    if common.as_json:
        print_json(described(seen, settings))
        return
    for endpoint, health in seen:
        print_fields(
            f"{_ORIGINS[endpoint.origin]} at {endpoint.base_url}",
            health.status,
            [*health_fields(health), ("pid", str(endpoint.pid or "")), *_host_fields(endpoint)],
        )
    if settings.base_url is None:
        _tell_passed_over()
    if not seen:
        click.echo("No service is running. Each command starts an engine of its own;")
        click.echo("`foundry-api up` starts one that stays.")


def described(seen: Seen, settings: Settings) -> dict[str, Any]:
    """What was found as JSON, and where this program keeps its things."""
    paths = Paths.of(settings.home)
    return {
        "services": [_described(endpoint, health) for endpoint, health in seen],
        "model": settings.model,
        "data_dir": str(paths.data),
        "logs_dir": str(paths.logs),
    }


def health_fields(health: HealthStatus) -> list[tuple[str, str]]:
    """A service's health in words."""
    answers = health.generation is not None
    return [
        ("version", f"{health.version or 'unknown'} ({health.generation})" if answers else ""),
        ("loaded", ", ".join(health.loaded_models) or ("none" if answers else "")),
        ("memory", memory(health)),
        ("uptime", format_duration(health.uptime)),
        ("latency", format_duration(health.latency_s)),
        ("detail", health.detail),
    ]


def memory(health: HealthStatus) -> str:
    """The memory of a service's process in words."""
    return format_bytes(health.memory_usage)


def _tell_passed_over() -> None:
    """Say which known ports have a service that calls do not use."""
    for port in discovery.KNOWN_PORTS:
        url = f"http://127.0.0.1:{port}"
        if (user := other_user(url)) is not None:
            click.echo(
                f"{url} is passed over: another user of this machine ({user}) listens there; "
                f"--base-url {url} uses it all the same.",
                err=True,
            )


async def _look(settings: Settings) -> Seen:
    found = await all_services(settings)
    states = await asyncio.gather(*(health_of(endpoint, settings) for endpoint in found))
    return list(zip(found, states, strict=True))


def _host_fields(endpoint: Endpoint) -> list[tuple[str, str]]:
    stop = "foundry-api down" if endpoint.origin == "shared" else ""
    return [("log", endpoint.log_path or ""), ("stop with", stop)]


def _described(endpoint: Endpoint, health: HealthStatus) -> dict[str, Any]:
    return {
        "origin": endpoint.origin,
        "pid": endpoint.pid,
        "log_path": endpoint.log_path,
        **msgspec.structs.asdict(health),
        "service": endpoint.base_url,
        "generation": endpoint.generation,
    }
