"""A recording to transcribe: a file of the caller's, or bytes, which become one where need be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from foundry_api.errors import InvalidRequest
from foundry_api.local_path import absolute_path

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MAX_UPLOAD_BYTES", "Recording"]

log = logging.getLogger("foundry_api")

MAX_UPLOAD_BYTES = 256 * 2**20
"""An upload lies in memory; half an hour of 16-bit speech at 48 kHz takes 173 MB."""


class Recording:
    """Where a recording is. As a context manager it clears away the file that it made, if any.

    Args:
        audio: A path, or the bytes of a file.

    Raises:
        InvalidRequest: It is neither, there is no such file, or nothing is in it.
    """

    def __init__(self, audio: str | os.PathLike[str] | bytes) -> None:
        self._content: bytes | None = None
        self._path: Path | None = None
        self._made: Path | None = None
        if isinstance(audio, bytes | bytearray | memoryview):
            self._content = bytes(audio)
            if not self._content:
                raise InvalidRequest("audio is empty", field="audio")
        else:
            self._path = _checked(audio)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        made, self._made = self._made, None
        if made is not None:
            await asyncio.to_thread(_remove, made)

    @property
    def name(self) -> str:
        """What the file is called; bytes have no name."""
        return self._path.name if self._path else "recording"

    async def path(self) -> str:
        """An absolute path of it. Bytes are written to a file that only this user can read."""
        if self._path is not None:
            return str(self._path)
        if self._made is None:
            self._made = await asyncio.to_thread(_write, self._content or b"")
        return str(self._made)

    async def content(self) -> bytes:
        """Its bytes.

        Raises:
            InvalidRequest: It is too large to be uploaded, or cannot be read.
        """
        if self._content is None and self._path is not None:
            self._content = await asyncio.to_thread(_read, self._path)
        return self._content or b""


def _checked(audio: object) -> Path:
    if not isinstance(audio, str | os.PathLike):
        raise InvalidRequest(f"audio is {type(audio).__name__}, not a path or bytes", field="audio")
    try:
        path = absolute_path(audio)  # pyright: ignore[reportUnknownArgumentType] # a caller's own
        if not path.is_file():
            what = "a directory" if path.is_dir() else "not there"
            raise InvalidRequest(f"the recording {path} is {what}", field="audio")
        if path.stat().st_size == 0:
            raise InvalidRequest(f"the recording {path} is empty", field="audio")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the recording cannot be read: {error}", field="audio") from error
    return path


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_UPLOAD_BYTES:
            raise InvalidRequest(
                f"the recording {path} has {size} bytes; {MAX_UPLOAD_BYTES} can be uploaded",
                field="audio",
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the recording cannot be read: {error}", field="audio") from error


def _write(content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix="foundry-api-", suffix=".audio")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        _remove(path)
        raise InvalidRequest(
            f"the recording could not be written to a file for the service: {error}", field="audio"
        ) from error
    return path


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            path.unlink()
        except PermissionError:  # Windows, while the engine still reads it
            log.warning("%s could not be removed: the service still has it open", path)
