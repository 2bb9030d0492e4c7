"""Checks the engine: whether it is installed, starts, and generates an answer."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.client.client import FoundryAPIClient
from foundry_api.engine.models.registry_file import find_damage
from foundry_api.observe.format import format_duration
from foundry_api.types.errors import ConfigurationError, FoundryError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.cli.doctor.finding import Level
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "SDK", "get_installed_version"]

INSTALLED = FindingKind("engine-installed", "ok", "The engine is installed")
STARTS = FindingKind("engine-starts", "ok", "The engine starts")
ANSWERS = FindingKind("demo-answers", "ok", "The model `demo` answers")
MISSING = FindingKind(
    "engine-missing",
    "problem",
    "The engine is not installed",
    "Install it: `pip install foundry-local-sdk`. Without it, a service must be running.",
)
DOES_NOT_START = FindingKind(
    "engine-does-not-start", "problem", "The engine does not start", "{hint}"
)
DEMO_MISSING = FindingKind(
    "demo-missing",
    "problem",
    "The files of the model `demo` are missing",
    "Reinstall foundry-api: `pip install --force-reinstall --no-deps foundry-api`.",
)
DEMO_FAILS = FindingKind(
    "demo-fails",
    "problem",
    "The engine starts, but the model `demo` does not answer",
    "Reinstall foundry-api: `pip install --force-reinstall --no-deps foundry-api`. See the log of"
    " the engine: {log}",
)

SDK = "foundry-local-sdk"
DEMO = "demo"
ANSWER_TIMEOUT_S = 10.0
REINSTALL_HINT = "Reinstall the engine: `pip install --force-reinstall foundry-local-sdk`."


def get_installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


async def check_engine(context: DiagnosticContext) -> Iterable[Finding]:
    version = get_installed_version(SDK)
    if version is None:
        has_service = context.settings.base_url or context.settings.base_urls
        level: Level = "note" if has_service else MISSING.level
        return [MISSING.make_finding(f"{SDK} is not installed in this Python", level=level)]
    if not context.starts_engine:
        return [INSTALLED.make_finding(f"{SDK} {version}; not started, as it was not requested")]
    if await run_abandonable(lambda: find_damage(context.paths)) is not None:
        return [
            INSTALLED.make_finding(f"{SDK} {version}; not started, as it could not read its models")
        ]
    try:
        endpoint = await context.own_engine.get()
    except ConfigurationError:
        return []  # the directories cannot be used, which the check of disk space reports
    except ServiceStartFailed as error:
        hint = f"{error.hint.removesuffix('.')}. {REINSTALL_HINT}"
        return [DOES_NOT_START.make_finding(error.message, hint=hint)]
    duration = format_duration(context.start_duration_s)
    evidence = f"{SDK} {endpoint.sdk_version} started in {duration}"
    return [STARTS.make_finding(evidence), *await _check_demo(context, endpoint)]


async def _check_demo(context: DiagnosticContext, endpoint: Endpoint) -> list[Finding]:
    if not context.probes.host_options(context.paths).models:
        return [DEMO_MISSING.make_finding("its genai_config.json is missing")]
    settings = replace(
        context.settings,
        base_url=endpoint.base_url,
        base_urls=(),
        api_key=None,
        max_retries=0,
        timeout_s=ANSWER_TIMEOUT_S,
    )
    async with FoundryAPIClient(settings=settings) as client:
        try:
            response = await client.complete(prompt="Hello", model=DEMO, max_tokens=8)
        except FoundryError as error:
            return [DEMO_FAILS.make_finding(error.message, log=endpoint.log_path)]
    return [ANSWERS.make_finding(f"it answered {response.content.strip()!r}")]


GROUP = CheckGroup(
    "Engine",
    (check_engine,),
    (INSTALLED, STARTS, ANSWERS, MISSING, DOES_NOT_START, DEMO_MISSING, DEMO_FAILS),
)
