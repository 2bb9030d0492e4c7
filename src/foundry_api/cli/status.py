"""`foundry-api status`: which services are running."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import print_fields, print_json, print_notice, wrap_words
from foundry_api.cli.services import check_endpoint, find_all_services
from foundry_api.cli.session import Session
from foundry_api.engine import discovery
from foundry_api.engine.listener import find_other_user
from foundry_api.gateway.running import find_running_gateway
from foundry_api.observe.format import format_bytes, format_duration
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.gateway.running import RunningGateway
    from foundry_api.monitor.health import HealthStatus
    from foundry_api.types.settings import Settings

__all__ = ["command", "make_health_fields"]

ORIGINS = {
    "shared": "Shared engine",
    "cli": "Foundry Local's own service",
    "port": "Service at a known port",
    "explicit": "Service",
}

NOT_RUNNING = (
    "No service is running. Each command starts a temporary engine; `foundry-api up` keeps one "
    "running."
)
ONLY_A_GATEWAY = "Each command starts a temporary engine, unless --base-url names the gateway."
# All settings of the gateway would take long to import.
DIRECTORY_VARIABLE = "FOUNDRY_GATEWAY_DIRECTORY"

ServiceHealth = list[tuple["Endpoint", "HealthStatus"]]


@click.command("status", epilog=format_examples("status", "status --json"))
@common_options
@pass_common
def command(common: GlobalOptions) -> None:
    """Show running services.

    Calls use the first one, and a gateway only if --base-url names it. Nothing is started.
    Temporary engines of other programs are not shown.
    """
    with Session(common) as session:
        settings = session.settings

        async def check() -> ServiceHealth:
            endpoints = await find_all_services(settings)
            checks = (check_endpoint(endpoint, settings) for endpoint in endpoints)
            return list(zip(endpoints, await asyncio.gather(*checks), strict=True))

        services = session.run(check())
    gateway = find_running_gateway(get_gateway_directory(settings))
    if common.as_json:
        print_json(to_json(services, gateway, settings))
        return
    for endpoint, health in services:
        print_fields(
            f"{ORIGINS[endpoint.origin]} at {endpoint.base_url}",
            health.status,
            [
                *make_health_fields(health),
                ("pid", str(endpoint.pid or "")),
                ("log", endpoint.log_path or ""),
                ("stop with", "foundry-api down" if endpoint.origin == "shared" else ""),
            ],
        )
    if gateway is not None:
        print_fields(
            f"Gateway at {gateway.url}" if gateway.url else "Gateway",
            "running",
            [("pid", str(gateway.pid or "")), ("page", gateway.url or "")],
        )
    # Calls do not use a service of another user, which would receive the prompts.
    for port in discovery.KNOWN_PORTS if settings.base_url is None else ():
        url = f"http://127.0.0.1:{port}"
        if (user := find_other_user(url)) is not None:
            print_notice(
                f"{url} is skipped: another user of this machine ({user}) listens there. "
                f"Use it with --base-url {url}."
            )
    if not services:
        text = NOT_RUNNING if gateway is None else ONLY_A_GATEWAY
        click.echo(wrap_words(text, sys.stdout))


def get_gateway_directory(settings: Settings) -> Path:
    text = os.environ.get(DIRECTORY_VARIABLE, "").strip()
    try:
        return absolute_path(text) if text else Paths.from_home(settings.home).gateway
    except ValueError as error:
        raise ConfigurationError(f"{DIRECTORY_VARIABLE} is {text!r}: {error}") from error


def to_json(
    services: ServiceHealth, gateway: RunningGateway | None, settings: Settings
) -> dict[str, Any]:
    paths = Paths.from_home(settings.home)
    return {
        "services": [
            {
                "origin": endpoint.origin,
                "pid": endpoint.pid,
                "log_path": endpoint.log_path,
                **msgspec.structs.asdict(health),
                "service": endpoint.base_url,
                "service_generation": endpoint.service_generation,
            }
            for endpoint, health in services
        ],
        "gateway": gateway,
        "model": settings.model,
        "data_dir": str(paths.data),
        "logs_dir": str(paths.logs),
    }


def make_health_fields(health: HealthStatus) -> list[tuple[str, str]]:
    """Return the names and values of a service's health; an empty value is not shown."""
    answers = health.service_generation is not None
    return [
        (
            "version",
            f"{health.version or 'unknown'} ({health.service_generation})" if answers else "",
        ),
        ("loaded", ", ".join(health.loaded_models) or ("none" if answers else "")),
        ("memory", format_bytes(health.memory_usage)),
        ("uptime", format_duration(health.uptime)),
        ("latency", format_duration(health.latency_s)),
        ("detail", health.detail),
    ]
