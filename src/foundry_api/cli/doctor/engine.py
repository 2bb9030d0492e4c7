"""The engine: installed, started for a proof, and asked for one token."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.machine import in_thread
from foundry_api.client.client import FoundryAPIClient
from foundry_api.engine.models.registry_file import damage_of
from foundry_api.types.errors import ConfigurationError, FoundryError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.finding import Level
    from foundry_api.cli.doctor.machine import Machine
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "SDK", "installed_version"]

INSTALLED = Kind("engine-installed", "ok", "The engine is installed")
STARTS = Kind("engine-starts", "ok", "The engine starts")
ANSWERS = Kind("demo-answers", "ok", "The model `demo` answers")
MISSING = Kind(
    "engine-missing",
    "problem",
    "The engine is not installed",
    'Install it: `pip install "foundry-api[embedded]"`. Without it, a service has to run.',
)
DOES_NOT_START = Kind("engine-does-not-start", "problem", "The engine does not start", "{hint}")
DEMO_MISSING = Kind(
    "demo-missing",
    "problem",
    "The model `demo` is not where it was installed",
    "Install foundry-api again: `pip install --force-reinstall --no-deps foundry-api`.",
)
DEMO_FAILS = Kind(
    "demo-fails",
    "problem",
    "The engine starts, but the model `demo` does not answer",
    "Install foundry-api again: `pip install --force-reinstall --no-deps foundry-api`. The engine's"
    " log tells more: {log}",
)

SDK = "foundry-local-sdk"
DEMO = "demo"
ANSWER_TIMEOUT_S = 10.0
_START_AGAIN = "Install the engine again: `pip install --force-reinstall foundry-local-sdk`."


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


async def examine(machine: Machine) -> Iterable[Finding]:
    """Start an engine of this program's own, where nothing speaks against it."""
    version = installed_version(SDK)
    if version is None:
        elsewhere = machine.settings.base_url or machine.settings.base_urls
        level: Level = "note" if elsewhere else MISSING.level
        return [MISSING.seen(f"this Python has no distribution {SDK}", level=level)]
    if not machine.starts_engine:
        return [INSTALLED.seen(f"{SDK} {version}; not started, as that was not asked for")]
    if await in_thread(lambda: damage_of(machine.paths)) is not None:
        return [INSTALLED.seen(f"{SDK} {version}; not started, as it could not read its models")]
    try:
        endpoint = await machine.own.get()
    except ConfigurationError:
        return []  # there is no place for its files: see the space
    except ServiceStartFailed as error:
        hint = f"{error.hint.removesuffix('.')}. {_START_AGAIN}"
        return [DOES_NOT_START.seen(error.message, hint=hint)]
    took = f"{SDK} {endpoint.sdk_version} served after {machine.start_took_s:.2f} s"
    return [STARTS.seen(took), *await _demo(machine, endpoint)]


async def _demo(machine: Machine, endpoint: Endpoint) -> list[Finding]:
    if not machine.senses.host_options(machine.paths).models:
        return [DEMO_MISSING.seen("its genai_config.json is gone")]
    there = replace(
        machine.settings,
        base_url=endpoint.base_url,
        base_urls=(),
        api_key=None,
        retries=0,
        timeout_s=ANSWER_TIMEOUT_S,
    )
    async with FoundryAPIClient(settings=there) as client:
        try:
            response = await client.complete(prompt="Hello", model=DEMO, max_tokens=8)
        except FoundryError as error:
            return [DEMO_FAILS.seen(error.message, log=endpoint.log_path)]
    return [ANSWERS.seen(f"it said {response.content.strip()!r}")]


GROUP = Group(
    "Engine",
    (examine,),
    (INSTALLED, STARTS, ANSWERS, MISSING, DOES_NOT_START, DEMO_MISSING, DEMO_FAILS),
)
