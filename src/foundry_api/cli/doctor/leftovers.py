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

from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.machine import in_thread
from foundry_api.engine import state
from foundry_api.engine.host.lifetime import alive
from foundry_api.engine.state import HostConfig
from foundry_api.storage.lock import FileLock, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import Machine
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "RunningHost", "end_command", "holder_of", "hosts", "root_of"]


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
    def left_over(self) -> str:
        """Why nobody can use it; empty where somebody can."""
        owner = self.config.owner_pid
        if owner is not None:
            return "" if _lives(owner) else f"its owner, process {owner}, is gone"
        known = state.parsed(Path(self.config.state_path or ""))
        return "" if known and known.pid == self.pid else "no state file names it"


def hosts() -> Iterable[RunningHost]:
    """The engine hosts that this user may see."""
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if not any(_MARK in argument for argument in arguments) or not alive(process):
                continue
            config = msgspec.json.decode(arguments[-1], type=HostConfig)
            yield RunningHost(process.pid, config, str(process.status()))
        except (psutil.Error, msgspec.MsgspecError):
            continue  # gone meanwhile, another user's, or a program that only mentions it


def root_of(pid: int) -> Path | None:
    """Where the foundry_api that a host runs is installed; None if it cannot be seen."""
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    return Path(arguments[-2]) if any(_MARK in argument for argument in arguments) else None


def holder_of(path: Path) -> int | None:
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


def end_command(pid: int | None) -> str:
    """The command that ends a process, on this platform."""
    shown = "PID" if pid is None else pid
    return f"taskkill /F /PID {shown}" if os.name == "nt" else f"kill -9 {shown}"


def _lives(pid: int) -> bool:
    try:
        return alive(psutil.Process(pid))
    except psutil.Error:
        return False


CLEAN = Kind("state-clean", "ok", "Nothing was left behind")
STALE = Kind(
    "stale-state",
    "warning",
    "The state of a shared engine that is gone",
    "Run `foundry-api down`, which removes it. Calls see through it.",
)
CORRUPT = Kind(
    "corrupt-state",
    "problem",
    "The state of the shared engine is damaged",
    "Run `foundry-api down`, which removes it, then `foundry-api up`. An engine that it was about"
    " runs on until it was idle for its time.",
)
READABLE = Kind(
    "readable-by-others",
    "problem",
    "Other users of this machine can read what names the engine's port and its token",
    "Run `chmod {mode} {path}`, and start the shared engine again: `foundry-api down`, then"
    " `foundry-api up`.",
)
LOCK_HELD = Kind(
    "lock-held",
    "warning",
    "Another process holds the lock of the shared engine",
    "Wait for a `foundry-api up` or `down` that runs. If none does, end the process: `{command}`.",
)
LEFT_HOST = Kind(
    "leftover-host", "warning", "An engine runs that nobody can use", "End it: `{command}`."
)

GRACE_S = 2.0
OTHERS = stat.S_IRWXG | stat.S_IRWXO


async def examine(machine: Machine) -> Iterable[Finding]:
    """Look at the state directory and at the processes."""
    paths = machine.paths
    found, left = await asyncio.gather(in_thread(lambda: _files(paths)), _left_hosts())
    return [*found, *left] or [CLEAN.seen(f"{paths.state}, and the processes")]


def _files(paths: Paths) -> list[Finding]:
    return [*_state(paths.state_file), *_readable(paths), *_lock(paths.lock_file)]


async def _left_hosts() -> list[Finding]:
    """One that is starting has no state yet, and one that is leaving no owner: both are brief."""
    suspects = await in_thread(_without_user)
    if suspects:
        await asyncio.sleep(GRACE_S)
        now = await in_thread(_without_user)
        suspects = {pid: host for pid, host in now.items() if pid in suspects}
    return [_left(host) for host in suspects.values()]


def _without_user() -> dict[int, RunningHost]:
    return {host.pid: host for host in hosts() if host.left_over}


def _left(host: RunningHost) -> Finding:
    seen = f"process {host.pid} ({host.status}), data in {host.config.data_dir}: {host.left_over}"
    return LEFT_HOST.seen(seen, command=end_command(host.pid))


def _state(path: Path) -> Iterable[Finding]:
    try:
        size = path.stat().st_size
    except OSError:
        return
    written = state.parsed(path)
    if written is None:
        yield CORRUPT.seen(f"{path} has {size} bytes that are no state")
    elif state.process_of(written) is None:
        yield STALE.seen(f"{path} names process {written.pid} at {written.url}, which is gone")


def _readable(paths: Paths) -> Iterable[Finding]:
    """On Windows a profile's directories are private by inheritance."""
    if os.name != "posix":
        return
    for path, mode in ((paths.state, "700"), (paths.logs, "700"), (paths.state_file, "600")):
        try:
            actual = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # not there
        if actual & OTHERS:
            yield READABLE.seen(f"{path} has mode {actual:o}", mode=mode, path=path)


def _lock(path: Path) -> Iterable[Finding]:
    if not path.exists():
        return
    try:
        with FileLock(path, timeout_s=0):
            return
    except LockTimeout:
        holder = holder_of(path)
        by = f"by process {holder}" if holder else "by a process that cannot be seen"
        yield LOCK_HELD.seen(f"{path} is held {by}", command=end_command(holder))
    except OSError as error:
        yield LOCK_HELD.seen(f"{path}: {error.strerror}", command=end_command(None))


GROUP = Group("Leftovers", (examine,), (CLEAN, STALE, CORRUPT, READABLE, LOCK_HELD, LEFT_HOST))
