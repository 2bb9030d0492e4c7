"""Checks leftovers of earlier runs: state files, file modes, locks and engine hosts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.engine import state
from foundry_api.engine.handshake import HostConfig
from foundry_api.engine.state import is_alive
from foundry_api.observe.format import format_bytes
from foundry_api.storage.access import describe_open_access, make_private_command
from foundry_api.storage.lock import FileLock, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "get_root"]

HOST_MODULE = "foundry_api.engine.host.main"

CLEAN = FindingKind("state-clean", "ok", "There are no leftovers")
STALE = FindingKind(
    "stale-state",
    "warning",
    "There is a state file of a shared engine that is gone",
    "Run `foundry-api down`, which removes it. Calls ignore it.",
)
CORRUPT = FindingKind(
    "corrupt-state",
    "problem",
    "The state file of the shared engine is damaged",
    "Run `foundry-api down`, which removes it, then `foundry-api up`. If the engine that it"
    " described still runs, it ends after its idle timeout.",
)
READABLE = FindingKind(
    "readable-by-others",
    "problem",
    "Other users of this machine can read the port and the token of the engine",
    "Run `{command}`, and restart the shared engine: `foundry-api down`, then `foundry-api up`.",
)
LOCK_HELD = FindingKind(
    "lock-held",
    "warning",
    "Another process holds the lock of the shared engine",
    "Wait for a `foundry-api up` or `down` that is running. If there is none, kill the process:"
    " `{command}`.",
)
LEFT_HOST = FindingKind(
    "leftover-host", "warning", "An unused engine is running", "Kill it: `{command}`."
)

GRACE_S = 2.0


async def check_leftovers(context: DiagnosticContext) -> Iterable[Finding]:
    paths = context.paths

    def check_files() -> list[Finding]:
        return [
            *_check_state(paths.state_file),
            *_check_permissions(paths),
            *_check_lock(paths.lock_file),
        ]

    findings, hosts = await asyncio.gather(run_abandonable(check_files), _check_hosts())
    return [*findings, *hosts] or [CLEAN.make_finding(f"checked {paths.state} and the processes")]


async def _check_hosts() -> list[Finding]:
    unused = await run_abandonable(_find_unused_hosts)
    if unused:
        # A host that is starting has no state file yet, and one that is stopping no owner: only
        # what is still unused after a moment is left over.
        await asyncio.sleep(GRACE_S)
        current = await run_abandonable(_find_unused_hosts)
        unused = {pid: evidence for pid, evidence in current.items() if pid in unused}
    return [
        LEFT_HOST.make_finding(evidence, command=_make_kill_command(pid))
        for pid, evidence in unused.items()
    ]


def _find_unused_hosts() -> dict[int, str]:
    """Return the engine hosts that no client can use, with the evidence, by process id."""
    unused: dict[int, str] = {}
    hosts: list[tuple[psutil.Process, HostConfig, str]] = []
    started: set[tuple[int, HostConfig]] = set()  # parent process and configuration of each host
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if not any(HOST_MODULE in argument for argument in arguments) or not is_alive(process):
                continue
            config = msgspec.json.decode(arguments[-1], type=HostConfig)
            hosts.append((process, config, process.status()))
            started.add((process.ppid(), config))
        except (psutil.Error, msgspec.MsgspecError):
            continue  # gone, of another user, or a program that only mentions the module
    for process, config, status in hosts:
        # On Windows, the python.exe of a virtual environment is a launcher: a process with the same
        # arguments, whose child is the host. Killing it would end a host that is in use.
        if (process.pid, config) in started:
            continue
        if reason := _get_leftover_reason(process.pid, config):
            unused[process.pid] = (
                f"process {process.pid} ({status}), data in {config.data_dir}: {reason}"
            )
    return unused


def _get_leftover_reason(pid: int, config: HostConfig) -> str:
    owner = config.owner_pid
    if owner is not None:
        return "" if _is_alive(owner) else f"its owner, process {owner}, is gone"
    known = state.parse_state(Path(config.state_path or ""))
    return "" if known and known.pid == pid else "no state file names it"


def _check_state(path: Path) -> Iterable[Finding]:
    try:
        size = path.stat().st_size
    except OSError:
        return
    known = state.parse_state(path)
    if known is None:
        yield CORRUPT.make_finding(f"{path} has {format_bytes(size)} that are not a valid state")
    elif state.find_process(known) is None:
        yield STALE.make_finding(f"{path} names process {known.pid} at {known.url}, which is gone")


def _check_permissions(paths: Paths) -> Iterable[Finding]:
    for path in (paths.state, paths.logs, paths.state_file):
        try:
            evidence = describe_open_access(path)
        except OSError:
            continue  # it does not exist
        if evidence is not None:
            yield READABLE.make_finding(evidence, command=make_private_command(path))


def _check_lock(path: Path) -> Iterable[Finding]:
    if not path.exists():
        return
    try:
        with FileLock(path, timeout_s=0):
            return
    except LockTimeout:
        holder = _find_holder(path)
        process = f"process {holder}" if holder else "an unknown process"
        evidence = f"{path} is held by {process}"
        yield LOCK_HELD.make_finding(evidence, command=_make_kill_command(holder))
    except OSError as error:
        yield LOCK_HELD.make_finding(f"{path}: {error.strerror}", command=_make_kill_command(None))


def get_root(pid: int) -> Path | None:
    """Return where the foundry_api of an engine host is installed; None if that is unknown."""
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    return Path(arguments[-2]) if any(HOST_MODULE in argument for argument in arguments) else None


def _find_holder(path: Path) -> int | None:
    """Return another process that has a file open; None if the system does not show it."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(Path(file.path) == path for file in process.open_files()):
                return process.pid
        except (psutil.Error, OSError):
            continue  # of another user, or gone
    return None


def _make_kill_command(pid: int | None) -> str:
    shown = "PID" if pid is None else pid
    return f"taskkill /F /PID {shown}" if os.name == "nt" else f"kill -9 {shown}"


def _is_alive(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.Error:
        return False


GROUP = CheckGroup(
    "Leftovers", (check_leftovers,), (CLEAN, STALE, CORRUPT, READABLE, LOCK_HELD, LEFT_HOST)
)
