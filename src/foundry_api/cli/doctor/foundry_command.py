"""Checks Foundry Local's own command: whether it runs, and whether its output is right."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.services import probe_address
from foundry_api.engine.foundry_command import TIMEOUT_S, find_member, iter_json_objects, parse_urls
from foundry_api.observe.format import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.cli.doctor.context import CommandResults, DiagnosticContext

__all__ = ["GROUP", "detect_generation", "find_programs", "reports_running"]

MISSING = FindingKind(
    "cli-missing",
    "note",
    "Foundry Local's own command is not on PATH",
    "Nothing to do: foundry-api has its own engine.",
)
FOUND = FindingKind("cli-found", "ok", "Foundry Local's own command is installed")
SEVERAL = FindingKind(
    "several-cli",
    "warning",
    "Several `foundry` commands are on PATH",
    "The first one is used. Remove the others, or change their order on PATH.",
)
HANGS = FindingKind(
    "cli-hangs",
    "problem",
    "Foundry Local's own command hangs",
    "Kill its processes and restart its service: `{restart}`. foundry-api works without it.",
)
SLOW = FindingKind(
    "cli-slow",
    "warning",
    "Foundry Local's own command is too slow for service discovery",
    "Set FOUNDRY_BASE_URL to the URL of its service, so that the command is not needed.",
)
FAILS = FindingKind(
    "cli-fails",
    "warning",
    "Foundry Local's own command reports no service status",
    "Run `foundry server status` (0.10) or `foundry service status` (0.3 to 0.9) to see why, and"
    " reinstall it if it does not run.",
)
ANNOUNCES_DEAD = FindingKind(
    "cli-announces-dead",
    "problem",
    "Foundry Local's own command reports a service that does not respond",
    "Restart it: `{restart}`.",
)
DENIES_RUNNING = FindingKind(
    "cli-denies-running",
    "warning",
    "Foundry Local's own command reports that no service is running, but its service responds",
    "Set FOUNDRY_BASE_URL={url}, or restart it: `{restart}`.",
)

OWN_GENERATIONS = ("legacy", "cli-0.10")
MAX_VERSION_LENGTH = 80


async def check_command(context: DiagnosticContext) -> Iterable[Finding]:
    programs = find_programs(context.environ.get("PATH", ""))
    results = await context.command.get()
    if results is None:
        return [MISSING.make_finding("no `foundry` on PATH")]
    findings: list[Finding] = []
    if len(programs) > 1:
        findings.append(SEVERAL.make_finding(", ".join(map(str, programs))))
    commands = {
        "--version": results.version,
        "server status": results.server,
        "service status": results.service,
    }
    for arguments, result in commands.items():
        if result.timed_out:
            timeout = format_duration(context.probes.command_timeout_s)
            evidence = f"`foundry {arguments}` was killed after {timeout}"
            return [*findings, HANGS.make_finding(evidence, restart=_suggest_restart(results))]
    return [
        *findings,
        *_check_output(results, programs),
        *await _compare_with_services(context, results),
    ]


def find_programs(path: str) -> list[Path]:
    """Return the distinct `foundry` commands on PATH, in order; links to one command are one."""
    distinct: dict[Path, Path] = {}
    for directory in path.split(os.pathsep):
        if directory and (program := shutil.which("foundry", path=directory)):
            distinct.setdefault(Path(program).resolve(), Path(program))
    return list(distinct.values())


def detect_generation(results: CommandResults) -> str | None:
    """Return the generation of the command, by which status command it understood."""
    if "{" in results.server.text or "Web URLs" in results.server.text:
        return "0.10, `foundry server`"
    if re.search(r"service is (?:not )?running", results.service.text, re.IGNORECASE):
        return "0.3 to 0.9, `foundry service`"
    return None


def reports_running(results: CommandResults) -> bool | None:
    """Whether the command reports a running service; None if it reports neither."""
    for document in iter_json_objects(results.server.text):
        value = find_member(document, "running")
        if isinstance(value, bool):
            return value
    if state := re.search(r"^\s*State\s+(\w+)", results.server.text, re.MULTILINE):
        return state[1].lower() == "ready"
    if re.search(r"is not running", results.service.text, re.IGNORECASE):
        return False
    return True if "http" in results.service.text else None


def _check_output(results: CommandResults, programs: Sequence[Path]) -> Iterable[Finding]:
    generation = detect_generation(results)
    lines = results.version.text.strip().splitlines() if results.version.code == 0 else []
    version = lines[-1].strip()[:MAX_VERSION_LENGTH] if lines else "unknown"
    program = programs[0] if programs else "foundry"
    if generation is None:
        codes = f"{results.server.code} and {results.service.code}"
        yield FAILS.make_finding(
            f"{program}, version {version}: `status` exited with {codes}, without a status"
        )
        return
    yield FOUND.make_finding(f"{program}, version {version} ({generation})")
    duration_s = max(results.server.duration_s, results.service.duration_s)
    if duration_s > TIMEOUT_S:
        yield SLOW.make_finding(
            f"`foundry` took {format_duration(duration_s)}; "
            f"calls wait {format_duration(TIMEOUT_S)} for it"
        )


async def _compare_with_services(
    context: DiagnosticContext, results: CommandResults
) -> list[Finding]:
    urls = parse_urls(results.server.text, results.service.text)
    probes = await asyncio.gather(*(probe_address(context, url) for url in urls))
    restart = _suggest_restart(results)
    if reports_running(results) is False:
        known_urls = [f"http://127.0.0.1:{port}" for port in context.probes.ports]
        known = await asyncio.gather(*(probe_address(context, url) for url in known_urls))
        running = [probe.url for probe in probes if probe.endpoint]
        running += [
            # Only services that the command itself starts can contradict it.
            probe.url
            for probe in known
            if probe.endpoint and probe.endpoint.service_generation in OWN_GENERATIONS
        ]
        return [
            DENIES_RUNNING.make_finding(
                f"it reports `not running`, but {url} responds", url=url, restart=restart
            )
            for url in dict.fromkeys(running)
        ]
    return [
        ANNOUNCES_DEAD.make_finding(f"it reports {probe.url}: {probe.problem}", restart=restart)
        for probe in probes
        if probe.endpoint is None
    ]


def _suggest_restart(results: CommandResults) -> str:
    generation = detect_generation(results) or ""
    return "foundry service restart" if generation.startswith("0.3") else "foundry server restart"


GROUP = CheckGroup(
    "Foundry Local's own command",
    (check_command,),
    (FOUND, MISSING, SEVERAL, SLOW, FAILS, HANGS, ANNOUNCES_DEAD, DENIES_RUNNING),
)
