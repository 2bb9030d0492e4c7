"""Checks the gateway: its settings, its keys, and whether a running one can serve calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from foundry_api.batch.cluster.cluster import check_reachable
from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.gateway.config import load_config
from foundry_api.gateway.keys.database import KeyDatabase, KeyReader
from foundry_api.gateway.running import find_running_gateway
from foundry_api.observe.format import format_count
from foundry_api.storage.access import describe_open_access, make_private_command
from foundry_api.types.errors import BatchError, ConfigurationError, FoundryError
from foundry_api.wire.transport import Request

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.running import RunningGateway

__all__ = ["GROUP"]

UNUSED = FindingKind("gateway-unused", "ok", "There are no keys of a gateway")
KEYS = FindingKind("gateway-keys", "ok", "The keys of the gateway can be read")
READY = FindingKind("gateway-ready", "ok", "The gateway can serve calls")
INVALID = FindingKind(
    "gateway-settings-invalid",
    "problem",
    "The settings of the gateway are invalid",
    "{hint}",
)
UNREADABLE = FindingKind(
    "gateway-keys-unreadable",
    "problem",
    "The keys of the gateway cannot be used",
    "{hint}",
)
CLUSTER = FindingKind("gateway-cluster", "ok", "The Ray cluster of the gateway")
CLUSTER_AWAY = FindingKind(
    "gateway-cluster-away",
    "problem",
    "The Ray cluster of the gateway does not respond",
    "Start its head (`ray start --head`), or correct `address` of the upstream; the firewall of "
    "the head has to let this machine in.",
)
OPEN_TO_OTHERS = FindingKind(
    "gateway-readable-by-others",
    "problem",
    "Other users of this machine can read the keys of the gateway",
    "Run `{command}`.",
)
NONE_ACTIVE = FindingKind(
    "gateway-keys-ended",
    "warning",
    "No key of the gateway is valid, so every request is refused",
    "Create one: `foundry-api keys create --name NAME`.",
)
NOT_READY = FindingKind(
    "gateway-not-ready",
    "problem",
    "The gateway runs, but cannot serve calls",
    "GET {url}/api/status with a key of the scope `manage` has the reasons, and so has its log.",
)
SILENT = FindingKind(
    "gateway-silent",
    "note",
    "A gateway runs, but its readiness is unknown",
    "Nothing to do while it starts, or if its certificate names another host; else see its log.",
)

INVALID_VARIABLE = "Correct the variable FOUNDRY_GATEWAY_…; `foundry-api serve --check` checks it."
CORRECT_FILE = "Correct the file; `foundry-api serve --config FILE --check` checks it."
OK = 200


async def check_gateway(context: DiagnosticContext) -> Iterable[Finding]:
    try:
        config = load_config(context.gateway_config, {}, context.environ, check_key_files=True)
    except ConfigurationError as error:
        hint = error.hint if context.gateway_config else INVALID_VARIABLE
        return [INVALID.make_finding(error.message, hint=hint or CORRECT_FILE)]
    directory = config.directory or context.paths.gateway
    findings = await run_abandonable(lambda: [*_check_keys(config, directory)])
    running = await run_abandonable(lambda: find_running_gateway(directory))
    if running is not None:
        findings.append(await _check_running(context, running))
    addresses = {upstream.address for upstream in config.upstream if upstream.kind == "ray"}
    findings += await asyncio.gather(*map(_check_cluster, sorted(addresses)))
    return findings


async def _check_cluster(address: str) -> Finding:
    try:
        await check_reachable(address)
    except BatchError as error:
        return CLUSTER_AWAY.make_finding(error.message)
    return CLUSTER.make_finding(
        "the one of this machine is only known to the gateway"
        if address == "auto"
        else f"{address} accepts connections"
    )


def _check_keys(config: GatewayConfig, directory: Path) -> Iterable[Finding]:
    # The path of the pepper is given, also that of the default: then its mode is not changed.
    database = KeyDatabase(directory, pepper_file=config.pepper_file or directory / "keys.pepper")
    if not database.path.exists():
        yield UNUSED.make_finding(f"{database.path} does not exist")
        return
    try:
        with closing(KeyReader(database)) as reader:
            read = reader.read(None)
        now = database.now()
    except FoundryError as error:
        yield UNREADABLE.make_finding(error.message, hint=error.hint)
        return
    yield from _check_access(database)
    keys = () if read is None else read[1].keys.values()
    if not keys:
        yield UNUSED.make_finding(f"{database.path} has none")
        return
    states = Counter(key.get_state(now) for key in keys)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    evidence = f"{format_count(len(keys), 'key')} in {database.path}: {counts}"
    yield (KEYS if states["active"] else NONE_ACTIVE).make_finding(evidence)


def _check_access(database: KeyDatabase) -> Iterable[Finding]:
    for path in (database.path, database.pepper_file):
        try:
            evidence = describe_open_access(path)
        except OSError:
            continue
        if evidence is not None:
            yield OPEN_TO_OTHERS.make_finding(evidence, command=make_private_command(path))


async def _check_running(context: DiagnosticContext, gateway: RunningGateway) -> Finding:
    url = gateway.url
    if url is None:
        return SILENT.make_finding("it has not said yet where it listens")
    try:
        response = await context.get_transport().send(Request("GET", f"{url}/readyz"))
        response.close()
    except FoundryError as error:
        return SILENT.make_finding(error.message)
    if response.status != OK:
        return NOT_READY.make_finding(f"{url}/readyz answers {response.status}", url=url)
    return READY.make_finding(f"{url}/readyz answers {response.status}")


GROUP = CheckGroup(
    "Gateway",
    (check_gateway,),
    (
        UNUSED,
        KEYS,
        READY,
        INVALID,
        CLUSTER,
        CLUSTER_AWAY,
        UNREADABLE,
        OPEN_TO_OTHERS,
        NOT_READY,
        NONE_ACTIVE,
        SILENT,
    ),
)
