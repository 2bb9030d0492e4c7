"""A recording to transcribe: a file of the caller's, or bytes, which become one where need be.

One that is longer than what a model hears at a time is divided at silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from foundry_api.endpoints.durations import duration_s
from foundry_api.endpoints.wave_parts import WINDOW_S, WaveFile, next_cut, part_of, read_wave
from foundry_api.errors import InvalidRequest
from foundry_api.local_path import absolute_path
from foundry_api.values import as_path, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from types import TracebackType

__all__ = ["MAX_UPLOAD_BYTES", "Part", "Recording", "read_recording"]

log = logging.getLogger("foundry_api")

MAX_UPLOAD_BYTES = 256 * 2**20
"""An upload lies in memory; half an hour of 16-bit speech at 48 kHz takes 173 MB."""

ENCODER_PADDING_S = 0.1
"""An encoder of MP3 adds so much silence, at most."""


class Part:
    """Something that a model hears at once. As a context manager it removes the file it made.

    Attributes:
        name: What the file is called.
    """

    name = "recording"

    def __init__(self) -> None:
        self._made: Path | None = None

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

    async def path(self) -> str:
        """An absolute path of it. Bytes are written to a file that only this user can read."""
        if self._made is None:
            self._made = await asyncio.to_thread(self._write)
        return str(self._made)

    async def content(self) -> bytes:
        """Its bytes.

        Raises:
            InvalidRequest: It is too large to be uploaded, or cannot be read.
        """
        return await asyncio.to_thread(lambda: b"".join(self._blocks()))

    def _write(self) -> Path:
        return _write(self._blocks())

    def _blocks(self) -> Iterable[bytes]:
        raise NotImplementedError


class Recording(Part):
    """A whole recording.

    Args:
        audio: A path, or the bytes of a file. At the path may be a pipe, which is read once, before
            the service hears of it.

    Raises:
        InvalidRequest: It is neither, there is no such file, or nothing is in it.
    """

    def __init__(self, audio: str | os.PathLike[str] | bytes) -> None:
        super().__init__()
        self._content: bytes | None = None
        self._path: Path | None = None
        if isinstance(audio, bytes | bytearray | memoryview):
            self._content = bytes(audio)
            if not self._content:
                raise InvalidRequest("audio is empty", field="audio")
        else:
            self._path = _checked(audio)
            if self._path.is_file():
                self.name = self._path.name

    async def path(self) -> str:
        """An absolute path of it. Bytes are written to a file that only this user can read."""
        await self._read_pipe()
        return await super().path() if self._path is None else str(self._path)

    async def content(self) -> bytes:
        """See `Part.content`."""
        await self._read_pipe()
        return await super().content()

    async def _read_pipe(self) -> None:
        """Have the bytes of a pipe, which can be read only once."""
        if self._path is not None and not self._path.is_file():
            self._content = await asyncio.to_thread(_read, self._path)
            self._path = None

    async def parts(self) -> AsyncGenerator[Part]:
        """What a model hears at once, one after the other: the whole, or parts divided at silence.

        Raises:
            InvalidRequest: It is longer than that, and of a format that can't be divided here.
        """
        await self._read_pipe()
        wave = await asyncio.to_thread(self._measured)
        if wave is None or wave.duration_s <= WINDOW_S:
            yield self
            return
        start = 0
        while start < wave.frames:
            end = await asyncio.to_thread(self._next_cut, wave, start)
            yield _WavePart(self, wave, start, end)
            start = end

    def open(self) -> BinaryIO:
        """A file of its bytes.

        Raises:
            InvalidRequest: It cannot be opened.
        """
        if self._path is None:
            return io.BytesIO(self._content or b"")
        try:
            return self._path.open("rb")
        except OSError as error:
            raise _unreadable(error) from error

    def _measured(self) -> WaveFile | None:
        """Where its sound is; None where it isn't WAV and not too long."""
        try:
            with self.open() as file:
                wave = read_wave(file)
                if wave is not None and (wave.is_divisible or wave.duration_s <= WINDOW_S):
                    return wave
                length_s = wave.duration_s if wave else duration_s(file)
        except OSError as error:
            raise _unreadable(error) from error
        if length_s is not None and length_s > WINDOW_S + ENCODER_PADDING_S:
            lasts = f"lasts {length_s:.1f} s" if math.isfinite(length_s) else "may last long"
            raise InvalidRequest(
                f"the recording {lasts}, and a model hears the first {WINDOW_S:.0f} s only",
                field="audio",
                hint="Convert it to a WAV file of 16-bit samples, which is divided at silence: "
                "ffmpeg -i FILE -ac 1 -ar 16000 talk.wav",
            )
        return None

    def _next_cut(self, wave: WaveFile, start: int) -> int:
        try:
            with self.open() as file:
                return next_cut(file, wave, start)
        except OSError as error:
            raise _unreadable(error) from error

    def _blocks(self) -> Iterable[bytes]:
        if self._path is None:
            return [self._content or b""]
        return [_read(self._path)]


class _WavePart(Part):
    """Some frames of a WAV file."""

    name = "recording.wav"

    def __init__(self, whole: Recording, wave: WaveFile, start: int, end: int) -> None:
        super().__init__()
        self._whole = whole
        self._wave = wave
        self._range = (start, end)

    def _blocks(self) -> Iterable[bytes]:
        with self._whole.open() as file:
            yield from part_of(file, self._wave, *self._range)


def _checked(audio: object) -> Path:
    place = as_path(audio)
    if place is None:
        raise InvalidRequest(f"audio is {shown(audio)}, not a path or bytes", field="audio")
    try:
        path = absolute_path(place)
        fault = _fault(path)
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    if fault:
        raise InvalidRequest(f"the recording {path} is {fault}", field="audio")
    return path


def _fault(path: Path) -> str:
    """Why a path is no recording; empty where it may be one."""
    if path.is_dir():
        return "a directory"
    if not path.exists():
        return "not there"
    return "empty" if path.is_file() and path.stat().st_size == 0 else ""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return read_recording(file, str(path))
    except OSError as error:
        raise _unreadable(error) from error


def read_recording(file: BinaryIO, name: str) -> bytes:
    """The bytes of a file or a pipe. Blocks.

    Args:
        file: What it is read from.
        name: What messages call it.

    Raises:
        InvalidRequest: It is too large to be uploaded, or empty.
        OSError: It cannot be read.
    """
    content = file.read(MAX_UPLOAD_BYTES + 1)
    if len(content) > MAX_UPLOAD_BYTES:
        raise InvalidRequest(
            f"the recording {name} has more than {MAX_UPLOAD_BYTES} bytes, which can be uploaded",
            field="audio",
        )
    if not content:
        raise InvalidRequest(f"the recording {name} is empty", field="audio")
    return content


def _write(blocks: Iterable[bytes]) -> Path:
    handle, name = tempfile.mkstemp(prefix="foundry-api-", suffix=".audio")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(blocks)
    except OSError as error:
        _remove(path)
        raise InvalidRequest(
            f"the recording could not be written to a file for the service: {error}", field="audio"
        ) from error
    except BaseException:
        _remove(path)
        raise
    return path


def _unreadable(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the recording cannot be read: {error}", field="audio")


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            path.unlink()
        except PermissionError:  # Windows, while the engine still reads it
            log.warning("%s could not be removed: the service still has it open", path)
