"""The pepper: the secret of a gateway under which it stores the digests of tokens."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from typing import TYPE_CHECKING

from foundry_api.storage.private_file import read_file, replace_file
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "create_pepper",
    "make_pepper_private",
    "read_pepper",
]

PEPPER_BYTES = 32
MIN_BYTES, MAX_BYTES = 32, 4096
OTHERS = stat.S_IRWXG | stat.S_IRWXO

log = logging.getLogger("foundry_api")


def read_pepper(path: Path) -> bytes | None:
    """Return the pepper in a file; None if the file is missing or empty.

    Raises ConfigurationError if it is too short or too long, and OSError if it cannot be read.
    """
    try:
        content = read_file(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    # Tools and editors end a file with a newline.
    pepper = content.strip()
    if not pepper:
        return None
    if len(pepper) < MIN_BYTES or len(content) > MAX_BYTES:
        raise ConfigurationError(
            f"{path} is not a pepper: it has {len(pepper)} bytes",
            hint=f"It needs {MIN_BYTES} to {MAX_BYTES} bytes, such as of `openssl rand -hex 32`.",
        )
    return pepper


def create_pepper(path: Path) -> bytes:
    """Write a new pepper; the caller makes sure that no other process does the same."""
    pepper = secrets.token_hex(PEPPER_BYTES).encode()
    replace_file(path, pepper + b"\n", durable=True)
    return pepper


def make_pepper_private(path: Path) -> None:
    """Remove other users' permissions from a pepper that this program created."""
    if os.name != "posix":
        return  # on Windows, the directories of a profile are private by inheritance
    mode = path.stat().st_mode
    if mode & OTHERS:
        log.warning("other users could read %s; it is private now", path)
        path.chmod(stat.S_IMODE(mode) & ~OTHERS)
