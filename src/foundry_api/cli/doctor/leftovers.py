"""What earlier runs left: state files, locks, engine hosts; and who can read it."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.engine import state
from foundry_api.engine.handshake import HostConfig
from foundry_api.engine.state import is_alive
from foundry_api.storage.lock import FileLock, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import DiagnosticContext
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "RunningHost", "find_holder", "get_root", "list_hosts", "make_end_command"]


_MARK = "foundry_api.engine.host.main"


@dataclass(frozen=True, slots=True)
class RunningHost:
    """An engine host.

    Attributes:
        pid: Its process.
        config: What it was started with.
        status: What the system says of the process: `running`, `stopped`…
    """

    pid: int
    config: HostConfig
    status: str

    @property
    def leftover_reason(self) -> str:
        """Why nobody can use it; empty where somebody can."""
        owner = self.config.owner_pid
        if owner is not None:
            return "" if _is_alive(owner) else f"its owner, process {owner}, is gone"
        known = state.parse_state(Path(self.config.state_path or ""))
        return "" if known and known.pid == self.pid else "no state file names it"


def list_hosts() -> Iterable[RunningHost]:
    """The engine hosts that this user may see."""
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if not any(_MARK in argument for argument in arguments) or not is_alive(process):
                continue
            config = msgspec.json.decode(arguments[-1], type=HostConfig)
            yield RunningHost(process.pid, config, str(process.status()))
        except (psutil.Error, msgspec.MsgspecError):
            continue  # gone meanwhile, another user's, or a program that only mentions it


def get_root(pid: int) -> Path | None:
    """Where the foundry_api that a host runs is installed; None if it cannot be seen."""
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    return Path(arguments[-2]) if any(_MARK in argument for argument in arguments) else None


def find_holder(path: Path) -> int | None:
    """Another process that has a file open, where the system lets us see it."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(Path(file.path) == path for file in process.open_files()):
                return process.pid
        except (psutil.Error, OSError):
            continue  # another user's, or gone meanwhile
    return None


def make_end_command(pid: int | None) -> str:
    """The command that ends a process, on this platform."""
    shown = "PID" if pid is None else pid
    return f"taskkill /F /PID {shown}" if os.name == "nt" else f"kill -9 {shown}"


def _is_alive(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.Error:
        return False


CLEAN = FindingKind("state-clean", "ok", "Nothing was left behind")
STALE = FindingKind(
    "stale-state",
    "warning",
    "The state of a shared engine that is gone",
    "Run `foundry-api down`, which removes it. Calls see through it.",
)
CORRUPT = FindingKind(
    "corrupt-state",
    "problem",
    "The state of the shared engine is damaged",
    "Run `foundry-api down`, which removes it, then `foundry-api up`. An engine that it was about"
    " runs on until it was idle for its time.",
)
READABLE = FindingKind(
    "readable-by-others",
    "problem",
    "Other users of this machine can read what names the engine's port and its token",
    "Run `chmod {mode} {path}`, and start the shared engine again: `foundry-api down`, then"
    " `foundry-api up`.",
)
LOCK_HELD = FindingKind(
    "lock-held",
    "warning",
    "Another process holds the lock of the shared engine",
    "Wait for a `foundry-api up` or `down` that runs. If none does, end the process: `{command}`.",
)
LEFT_HOST = FindingKind(
    "leftover-host", "warning", "An engine runs that nobody can use", "End it: `{command}`."
)

GRACE_S = 2.0
OTHERS = stat.S_IRWXG | stat.S_IRWXO


async def check_leftovers(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look at the state directory and at the processes."""
    paths = machine.paths
    findings, hosts = await asyncio.gather(
        run_abandonable(lambda: _check_files(paths)), _find_leftover_hosts()
    )
    return [*findings, *hosts] or [CLEAN.make_finding(f"{paths.state}, and the processes")]


def _check_files(paths: Paths) -> list[Finding]:
    return [
        *_check_state(paths.state_file),
        *_check_permissions(paths),
        *_check_lock(paths.lock_file),
    ]


async def _find_leftover_hosts() -> list[Finding]:
    """One that is starting has no state yet, and one that is leaving no owner: both are brief."""
    suspects = await run_abandonable(_find_unused_hosts)
    if suspects:
        await asyncio.sleep(GRACE_S)
        current = await run_abandonable(_find_unused_hosts)
        suspects = {pid: host for pid, host in current.items() if pid in suspects}
    return [_make_leftover_finding(host) for host in suspects.values()]


def _find_unused_hosts() -> dict[int, RunningHost]:
    return {host.pid: host for host in list_hosts() if host.leftover_reason}


def _make_leftover_finding(host: RunningHost) -> Finding:
    seen = f"process {host.pid} ({host.status}), data in {host.config.data_dir}: "
    seen += host.leftover_reason
    return LEFT_HOST.make_finding(seen, command=make_end_command(host.pid))


def _check_state(path: Path) -> Iterable[Finding]:
    try:
        size = path.stat().st_size
    except OSError:
        return
    written = state.parse_state(path)
    if written is None:
        yield CORRUPT.make_finding(f"{path} has {size} bytes that are no state")
    elif state.find_process(written) is None:
        yield STALE.make_finding(
            f"{path} names process {written.pid} at {written.url}, which is gone"
        )


def _check_permissions(paths: Paths) -> Iterable[Finding]:
    """On Windows a profile's directories are private by inheritance."""
    if os.name != "posix":
        return
    for path, mode in ((paths.state, "700"), (paths.logs, "700"), (paths.state_file, "600")):
        try:
            actual = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # not there
        if actual & OTHERS:
            yield READABLE.make_finding(f"{path} has mode {actual:o}", mode=mode, path=path)


def _check_lock(path: Path) -> Iterable[Finding]:
    if not path.exists():
        return
    try:
        with FileLock(path, timeout_s=0):
            return
    except LockTimeout:
        holder = find_holder(path)
        by = f"by process {holder}" if holder else "by a process that cannot be seen"
        yield LOCK_HELD.make_finding(f"{path} is held {by}", command=make_end_command(holder))
    except OSError as error:
        yield LOCK_HELD.make_finding(f"{path}: {error.strerror}", command=make_end_command(None))


GROUP = CheckGroup(
    "Leftovers", (check_leftovers,), (CLEAN, STALE, CORRUPT, READABLE, LOCK_HELD, LEFT_HOST)
)
