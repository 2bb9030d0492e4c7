"""Tells other processes where the gateway of a directory listens."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from foundry_api.storage.lock import is_held
from foundry_api.storage.private_file import read_file, remove_file, replace_file
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import normalize_url
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCK_NAME", "RunningGateway", "RunningGatewayFile", "find_running_gateway"]

LOCK_NAME = "gateway.lock"
FILE_NAME = "gateway.json"
MAX_BYTES = 4096

log = logging.getLogger("foundry_api.gateway")


class RunningGateway(msgspec.Struct, frozen=True):
    """A gateway that runs.

    Attributes:
        url: Its address for programs on this machine; None while it starts, or if it could not
            write its file.
        pid: Its process; None as above.
    """

    url: str | None = None
    pid: int | None = None


class RunningGatewayFile:
    """The file with the address of the gateway. The lock beside it says whether it still runs."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    async def write(self, url: str) -> None:
        """Write where this process listens. If that fails, calls are served all the same."""
        # Programs of this machine can't all connect to a wildcard address.
        content = msgspec.json.encode(RunningGateway(normalize_url(url), os.getpid()))
        try:
            await asyncio.to_thread(replace_file, self._path, content)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    async def remove(self) -> None:
        with suppress(OSError):  # without the lock it means nothing
            await asyncio.to_thread(remove_file, self._path)


def find_running_gateway(directory: Path) -> RunningGateway | None:
    """Return the gateway that uses a directory; None if none does, or this user cannot know."""
    try:
        if not is_held(directory / LOCK_NAME):
            return None
    except OSError:  # the directory of another user
        return None
    try:
        content = read_file(directory / FILE_NAME, MAX_BYTES)
        gateway = msgspec.json.decode(content, type=RunningGateway)
        # The doctor calls it, and a user opens it.
        url = None if gateway.url is None else normalize_url(gateway.url)
    except (OSError, *NOT_JSON, ConfigurationError):
        return RunningGateway()
    return RunningGateway(url, gateway.pid)
