"""Foundry's own command line: whether it is there, what it is, and whether it tells the truth."""

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

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.cli.doctor.machine import CommandResults, DiagnosticContext
    from foundry_api.cli.doctor.services import ProbeResult

__all__ = ["GROUP", "detect_generation", "find_programs", "reports_running"]

MISSING = FindingKind(
    "cli-missing",
    "note",
    "Foundry Local's own command is not on PATH",
    "Nothing has to be done: foundry-api brings an engine of its own.",
)
FOUND = FindingKind("cli-found", "ok", "Foundry Local's own command is there")
SEVERAL = FindingKind(
    "several-cli",
    "warning",
    "Several `foundry` commands are on PATH",
    "The first one is used. Remove the others, or put the right one first.",
)
HANGS = FindingKind(
    "cli-hangs",
    "problem",
    "Foundry Local's own command hangs",
    "End its processes and start its service again: `{restart}`. foundry-api goes on without it.",
)
SLOW = FindingKind(
    "cli-slow",
    "warning",
    "Foundry Local's own command answers too late to be heard",
    "Set FOUNDRY_BASE_URL to its service's address, so that it need not be asked.",
)
FAILS = FindingKind(
    "cli-fails",
    "warning",
    "Foundry Local's own command says nothing of a service",
    "Run `foundry server status` (0.10) or `foundry service status` (0.3 to 0.9) to see why, and"
    " install it again if it does not run.",
)
ANNOUNCES_DEAD = FindingKind(
    "cli-announces-dead",
    "problem",
    "Foundry Local's own command names a service that does not answer",
    "Start it again: `{restart}`.",
)
DENIES_RUNNING = FindingKind(
    "cli-denies-running",
    "warning",
    "Foundry Local's own command says that nothing runs, but its service answers",
    "Set FOUNDRY_BASE_URL={url}, or start it again: `{restart}`.",
)

OWN_GENERATIONS = ("legacy", "cli-0.10")
MAX_SHOWN = 80


async def check_command(machine: DiagnosticContext) -> Iterable[Finding]:
    """Ask it, and look at what it names."""
    programs_on_path = find_programs(machine.environ.get("PATH", ""))
    answers = await machine.command.get()
    if answers is None:
        return [MISSING.make_finding("no `foundry` on PATH")]
    findings = (
        [SEVERAL.make_finding(", ".join(map(str, programs_on_path)))]
        if len(programs_on_path) > 1
        else []
    )
    if hung := _find_timed_out(answers):
        seen = f"`foundry {hung}` was killed after {machine.probes.command_timeout_s:g} s"
        return [*findings, HANGS.make_finding(seen, restart=_suggest_restart(answers))]
    return [
        *findings,
        *_check_answers(answers, programs_on_path),
        *await _compare_with_reality(machine, answers),
    ]


def find_programs(path: str) -> list[Path]:
    """The distinct `foundry` commands on a PATH, in its order. Links to one are one."""
    distinct: dict[Path, Path] = {}
    for directory in path.split(os.pathsep):
        if directory and (program := shutil.which("foundry", path=directory)):
            distinct.setdefault(Path(program).resolve(), Path(program))
    return list(distinct.values())


def detect_generation(answers: CommandResults) -> str | None:
    """Which of its dialects it speaks, by what it understood."""
    if "{" in answers.server.text or "Web URLs" in answers.server.text:
        return "0.10, `foundry server`"
    if re.search(r"service is (?:not )?running", answers.service.text, re.IGNORECASE):
        return "0.3 to 0.9, `foundry service`"
    return None


def reports_running(answers: CommandResults) -> bool | None:
    """Whether it says that its service runs; None if it says neither."""
    for document in iter_json_objects(answers.server.text):
        value = find_member(document, "running")
        if isinstance(value, bool):
            return value
    if state := re.search(r"^\s*State\s+(\w+)", answers.server.text, re.MULTILINE):
        return state[1].lower() == "ready"
    if re.search(r"is not running", answers.service.text, re.IGNORECASE):
        return False
    return True if "http" in answers.service.text else None


def _find_timed_out(answers: CommandResults) -> str:
    """The question that it did not answer, if any."""
    commands = {
        "--version": answers.version,
        "server status": answers.server,
        "service status": answers.service,
    }
    return next((question for question, answer in commands.items() if answer.timed_out), "")


def _check_answers(answers: CommandResults, programs_on_path: Sequence[Path]) -> Iterable[Finding]:
    kind = detect_generation(answers)
    lines = answers.version.text.strip().splitlines() if answers.version.code == 0 else []
    version = lines[-1].strip()[:MAX_SHOWN] if lines else "unknown"
    where = programs_on_path[0] if programs_on_path else "foundry"
    if kind is None:
        codes = f"{answers.server.code} and {answers.service.code}"
        yield FAILS.make_finding(
            f"{where}, version {version}: `status` ended with {codes}, and no status"
        )
        return
    yield FOUND.make_finding(f"{where}, version {version} ({kind})")
    took_s = max(answers.server.duration_s, answers.service.duration_s)
    if took_s > TIMEOUT_S:
        yield SLOW.make_finding(f"`foundry` took {took_s:.1f} s; calls wait {TIMEOUT_S:g} s for it")


async def _compare_with_reality(
    machine: DiagnosticContext, answers: CommandResults
) -> list[Finding]:
    """Compare what it says with what answers."""
    running = reports_running(answers)
    urls = parse_urls(answers.server.text, answers.service.text)
    seen = await asyncio.gather(*(probe_address(machine, url) for url in urls))
    restart = _suggest_restart(answers)
    if running is False:
        alive = [
            sight.url for sight in [*seen, *await _probe_known_ports(machine)] if sight.endpoint
        ]
        return [
            DENIES_RUNNING.make_finding(
                f"it says `not running`, and {url} answers", url=url, restart=restart
            )
            for url in dict.fromkeys(alive)
        ]
    return [
        ANNOUNCES_DEAD.make_finding(f"it names {sight.url}: {sight.problem}", restart=restart)
        for sight in seen
        if sight.endpoint is None
    ]


async def _probe_known_ports(machine: DiagnosticContext) -> list[ProbeResult]:
    """The services at known ports that can only be this command's."""
    urls = [f"http://127.0.0.1:{port}" for port in machine.probes.ports]
    seen = await asyncio.gather(*(probe_address(machine, url) for url in urls))
    return [
        sight
        for sight in seen
        if sight.endpoint and sight.endpoint.service_generation in OWN_GENERATIONS
    ]


def _suggest_restart(answers: CommandResults) -> str:
    old = detect_generation(answers) or ""
    return "foundry service restart" if old.startswith("0.3") else "foundry server restart"


GROUP = CheckGroup(
    "Foundry Local's own command",
    (check_command,),
    (FOUND, MISSING, SEVERAL, SLOW, FAILS, HANGS, ANNOUNCES_DEAD, DENIES_RUNNING),
)
