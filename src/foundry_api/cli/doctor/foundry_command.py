"""Foundry's own command line: whether it is there, what it is, and whether it tells the truth."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.services import look_at
from foundry_api.engine.foundry_command import TIMEOUT_S, find_member, json_objects, urls_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.cli.doctor.machine import CommandAnswers, Machine
    from foundry_api.cli.doctor.services import Sight

__all__ = ["GROUP", "generation", "programs", "says_running"]

MISSING = Kind(
    "cli-missing",
    "note",
    "Foundry Local's own command is not on PATH",
    "Nothing has to be done: foundry-api brings an engine of its own.",
)
FOUND = Kind("cli-found", "ok", "Foundry Local's own command is there")
SEVERAL = Kind(
    "several-cli",
    "warning",
    "Several `foundry` commands are on PATH",
    "The first one is used. Remove the others, or put the right one first.",
)
HANGS = Kind(
    "cli-hangs",
    "problem",
    "Foundry Local's own command hangs",
    "End its processes and start its service again: `{restart}`. foundry-api goes on without it.",
)
SLOW = Kind(
    "cli-slow",
    "warning",
    "Foundry Local's own command answers too late to be heard",
    "Set FOUNDRY_BASE_URL to its service's address, so that it need not be asked.",
)
FAILS = Kind(
    "cli-fails",
    "warning",
    "Foundry Local's own command says nothing of a service",
    "Run `foundry server status` (0.10) or `foundry service status` (0.3 to 0.9) to see why, and"
    " install it again if it does not run.",
)
ANNOUNCES_DEAD = Kind(
    "cli-announces-dead",
    "problem",
    "Foundry Local's own command names a service that does not answer",
    "Start it again: `{restart}`.",
)
DENIES_RUNNING = Kind(
    "cli-denies-running",
    "warning",
    "Foundry Local's own command says that nothing runs, but its service answers",
    "Set FOUNDRY_BASE_URL={url}, or start it again: `{restart}`.",
)

OWN_GENERATIONS = ("legacy", "cli-0.10")
SHOWN = 80


async def examine(machine: Machine) -> Iterable[Finding]:
    """Ask it, and look at what it names."""
    there = programs(machine.environ.get("PATH", ""))
    answers = await machine.command.get()
    if answers is None:
        return [MISSING.seen("no `foundry` on PATH")]
    found = [SEVERAL.seen(", ".join(map(str, there)))] if len(there) > 1 else []
    if hung := _hung(answers):
        seen = f"`foundry {hung}` was killed after {machine.senses.command_timeout_s:g} s"
        return [*found, HANGS.seen(seen, restart=_restart(answers))]
    return [*found, *_about(answers, there), *await _truth(machine, answers)]


def programs(path: str) -> list[Path]:
    """The distinct `foundry` commands on a PATH, in its order. Links to one are one."""
    found: dict[Path, Path] = {}
    for directory in path.split(os.pathsep):
        if directory and (program := shutil.which("foundry", path=directory)):
            found.setdefault(Path(program).resolve(), Path(program))
    return list(found.values())


def generation(answers: CommandAnswers) -> str | None:
    """Which of its dialects it speaks, by what it understood."""
    if "{" in answers.server.text or "Web URLs" in answers.server.text:
        return "0.10, `foundry server`"
    if re.search(r"service is (?:not )?running", answers.service.text, re.IGNORECASE):
        return "0.3 to 0.9, `foundry service`"
    return None


def says_running(answers: CommandAnswers) -> bool | None:
    """Whether it says that its service runs; None if it says neither."""
    for document in json_objects(answers.server.text):
        told = find_member(document, "running")
        if isinstance(told, bool):
            return told
    if state := re.search(r"^\s*State\s+(\w+)", answers.server.text, re.MULTILINE):
        return state[1].lower() == "ready"
    if re.search(r"is not running", answers.service.text, re.IGNORECASE):
        return False
    return True if "http" in answers.service.text else None


def _hung(answers: CommandAnswers) -> str:
    """The question that it did not answer, if any."""
    asked = {
        "--version": answers.version,
        "server status": answers.server,
        "service status": answers.service,
    }
    return next((question for question, answer in asked.items() if answer.hung), "")


def _about(answers: CommandAnswers, there: Sequence[Path]) -> Iterable[Finding]:
    kind = generation(answers)
    lines = answers.version.text.strip().splitlines() if answers.version.code == 0 else []
    version = lines[-1].strip()[:SHOWN] if lines else "unknown"
    where = there[0] if there else "foundry"
    if kind is None:
        codes = f"{answers.server.code} and {answers.service.code}"
        yield FAILS.seen(f"{where}, version {version}: `status` ended with {codes}, and no status")
        return
    yield FOUND.seen(f"{where}, version {version} ({kind})")
    took_s = max(answers.server.took_s, answers.service.took_s)
    if took_s > TIMEOUT_S:
        yield SLOW.seen(f"`foundry` took {took_s:.1f} s; calls wait {TIMEOUT_S:g} s for it")


async def _truth(machine: Machine, answers: CommandAnswers) -> list[Finding]:
    """Compare what it says with what answers."""
    running = says_running(answers)
    urls = urls_of(answers.server.text, answers.service.text)
    seen = await asyncio.gather(*(look_at(machine, url) for url in urls))
    restart = _restart(answers)
    if running is False:
        alive = [sight.url for sight in [*seen, *await _at_known_ports(machine)] if sight.endpoint]
        return [
            DENIES_RUNNING.seen(
                f"it says `not running`, and {url} answers", url=url, restart=restart
            )
            for url in dict.fromkeys(alive)
        ]
    return [
        ANNOUNCES_DEAD.seen(f"it names {sight.url}: {sight.trouble}", restart=restart)
        for sight in seen
        if sight.endpoint is None
    ]


async def _at_known_ports(machine: Machine) -> list[Sight]:
    """The services at known ports that can only be this command's."""
    urls = [f"http://127.0.0.1:{port}" for port in machine.senses.ports]
    seen = await asyncio.gather(*(look_at(machine, url) for url in urls))
    return [
        sight for sight in seen if sight.endpoint and sight.endpoint.generation in OWN_GENERATIONS
    ]


def _restart(answers: CommandAnswers) -> str:
    old = generation(answers) or ""
    return "foundry service restart" if old.startswith("0.3") else "foundry server restart"


GROUP = Group(
    "Foundry Local's own command",
    (examine,),
    (FOUND, MISSING, SEVERAL, SLOW, FAILS, HANGS, ANNOUNCES_DEAD, DENIES_RUNNING),
)
