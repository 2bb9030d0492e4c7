"""The engine: installed, started for a proof, and asked for one token."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.client.client import FoundryAPIClient
from foundry_api.engine.models.registry_file import find_damage
from foundry_api.types.errors import ConfigurationError, FoundryError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.finding import Level
    from foundry_api.cli.doctor.machine import DiagnosticContext
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "SDK", "get_installed_version"]

INSTALLED = FindingKind("engine-installed", "ok", "The engine is installed")
STARTS = FindingKind("engine-starts", "ok", "The engine starts")
ANSWERS = FindingKind("demo-answers", "ok", "The model `demo` answers")
MISSING = FindingKind(
    "engine-missing",
    "problem",
    "The engine is not installed",
    'Install it: `pip install "foundry-api[embedded]"`. Without it, a service has to run.',
)
DOES_NOT_START = FindingKind(
    "engine-does-not-start", "problem", "The engine does not start", "{hint}"
)
DEMO_MISSING = FindingKind(
    "demo-missing",
    "problem",
    "The model `demo` is not where it was installed",
    "Install foundry-api again: `pip install --force-reinstall --no-deps foundry-api`.",
)
DEMO_FAILS = FindingKind(
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


def get_installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


async def check_engine(machine: DiagnosticContext) -> Iterable[Finding]:
    """Start an engine of this program's own, where nothing speaks against it."""
    version = get_installed_version(SDK)
    if version is None:
        elsewhere = machine.settings.base_url or machine.settings.base_urls
        level: Level = "note" if elsewhere else MISSING.level
        return [MISSING.make_finding(f"this Python has no distribution {SDK}", level=level)]
    if not machine.starts_engine:
        return [INSTALLED.make_finding(f"{SDK} {version}; not started, as that was not asked for")]
    if await run_abandonable(lambda: find_damage(machine.paths)) is not None:
        return [
            INSTALLED.make_finding(f"{SDK} {version}; not started, as it could not read its models")
        ]
    try:
        endpoint = await machine.own.get()
    except ConfigurationError:
        return []  # there is no place for its files: see the space
    except ServiceStartFailed as error:
        hint = f"{error.hint.removesuffix('.')}. {_START_AGAIN}"
        return [DOES_NOT_START.make_finding(error.message, hint=hint)]
    took = f"{SDK} {endpoint.sdk_version} served after {machine.start_duration_s:.2f} s"
    return [STARTS.make_finding(took), *await _check_demo(machine, endpoint)]


async def _check_demo(machine: DiagnosticContext, endpoint: Endpoint) -> list[Finding]:
    if not machine.probes.host_options(machine.paths).models:
        return [DEMO_MISSING.make_finding("its genai_config.json is gone")]
    there = replace(
        machine.settings,
        base_url=endpoint.base_url,
        base_urls=(),
        api_key=None,
        max_retries=0,
        timeout_s=ANSWER_TIMEOUT_S,
    )
    async with FoundryAPIClient(settings=there) as client:
        try:
            response = await client.complete(prompt="Hello", model=DEMO, max_tokens=8)
        except FoundryError as error:
            return [DEMO_FAILS.make_finding(error.message, log=endpoint.log_path)]
    return [ANSWERS.make_finding(f"it said {response.content.strip()!r}")]


GROUP = CheckGroup(
    "Engine",
    (check_engine,),
    (INSTALLED, STARTS, ANSWERS, MISSING, DOES_NOT_START, DEMO_MISSING, DEMO_FAILS),
)
