"""Engine hosts among the processes of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from foundry_api.service import state
from foundry_api.service.handshake import HostConfig
from foundry_api.service.lifetime import alive

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RunningHost", "end_command", "holder_of", "hosts", "root_of"]

_MARK = "foundry_api.service.host"


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
