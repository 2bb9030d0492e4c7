"""Standard input, copied to a file, so that it can be read again after a crash."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from typing import TYPE_CHECKING, Literal

from foundry_api.batch.sources.reading import BLOCK_BYTES, StoredFile, Stream
from foundry_api.errors import BatchChanged, BatchInputInvalid, BatchStorageFailed

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from foundry_api.batch.sources.reading import Origin

__all__ = ["NAME", "StandardInput", "spooled"]

NAME = "standard input"

StandardInput = Literal["same", "new", "kept"]
"""What becomes of standard input and of the file that it is copied to: it must be the `same` as
what is there, if anything is; it is `new`, and takes its place; it is not read, and what was `kept`
is the input."""


def spooled(spool: Path | None, use: StandardInput) -> Origin:
    """Standard input as the origin of an input.

    Args:
        spool: Where it is copied to; None to read it once as it comes.
        use: What becomes of what is there.

    Raises:
        BatchInputInvalid: There is none, or none was kept.
        BatchChanged: It is not what was copied before.
        BatchStorageFailed: It cannot be copied.
    """
    if use == "kept" and spool is not None:
        if not spool.exists():
            raise BatchInputInvalid(f"no copy of {NAME} was kept at {spool}")
        return StoredFile(spool, NAME)
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] # of programs without a console
        raise BatchInputInvalid(f"this program has no {NAME}", hint="Give a file.")
    if spool is None:
        return Stream(sys.stdin.buffer, NAME)
    _copy(sys.stdin.buffer, spool, use)
    return StoredFile(spool, NAME)


def _copy(file: BinaryIO, spool: Path, use: StandardInput) -> None:
    draft = spool.with_name(f"{spool.name}.{secrets.token_hex(8)}")
    try:
        _write(file, draft)
        if use == "same" and spool.exists() and not _alike(draft, spool):
            raise BatchChanged(f"{NAME} is not what this batch was begun with")
        draft.replace(spool)
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchStorageFailed(f"{NAME} cannot be copied to {spool}: {why}") from error
    finally:
        with contextlib.suppress(OSError):  # what cannot be written may not be there at all
            draft.unlink()


def _write(file: BinaryIO, draft: Path) -> None:
    """Prompts are the user's own: nobody else can read the copy."""
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o600)
    with os.fdopen(descriptor, "wb") as copy:
        while block := file.read(BLOCK_BYTES):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())


def _alike(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(BLOCK_BYTES):
            if block != second.read(BLOCK_BYTES):
                return False
    return True


_BINARY: int = getattr(os, "O_BINARY", 0)
"""Windows would change the ends of lines without it."""
