"""The bytes of an input: where they come from, and what they are once they are decompressed."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from foundry_api.types.errors import BatchInputInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

__all__ = [
    "BLOCK_BYTES",
    "MAX_LINE_BYTES",
    "PARQUET_MAGIC",
    "BadLine",
    "FileOrigin",
    "InputOrigin",
    "InputReader",
    "StdinOrigin",
    "iter_line_pieces",
    "read_beginning",
    "skip_rest_of_line",
    "translate_read_errors",
]

MAX_LINE_BYTES = 16 * 2**20
"""Of one line, or one row of a CSV. A longer one is a bad line, and never held in memory."""

BLOCK_BYTES = 2**18
PARQUET_MAGIC = b"PAR1"

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES = 4
_BEGINNING_BYTES = 2**16
_UNDECIDED = re.compile(rb"\s*+\[?+\s*+")
_CORRUPT: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error)


class BadLine(msgspec.Struct, frozen=True):
    """In a line's place, where it could not even be read.

    Attributes:
        message: What is wrong with it, such as `is longer than 16 MiB`.
    """

    message: str


class InputOrigin(Protocol):
    """Where an input's bytes come from."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def is_seekable(self) -> bool:
        """Whether it can be opened more than once."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """How many there are; None where nobody knows."""
        ...

    def peek(self) -> io.BufferedReader:
        """The bytes from the beginning, for whoever reads only that.

        Raises:
            BatchInputInvalid: They cannot be read.
        """
        ...

    def open(self) -> io.BufferedReader:
        """The bytes from the beginning.

        Raises:
            BatchInputInvalid: They cannot be read, or not once more.
        """
        ...

    def close(self) -> None:
        """Let go of what was opened only to look."""
        ...


class FileOrigin:
    """A file.

    Args:
        path: Where it lies.
        name: What messages call it; default the path's last part.
        is_copy: Whether it is the copy of a pipe.
    """

    is_seekable = True

    def __init__(self, path: Path, name: str | None = None, *, is_copy: bool = False) -> None:
        self.path = path
        self.name = name or path.name
        self.is_copy = is_copy

    @property
    def size_bytes(self) -> int:
        """Its size as it lies there."""
        with translate_read_errors(self.name):
            return self.path.stat().st_size

    def peek(self) -> io.BufferedReader:
        """The file from its beginning."""
        return self.open()

    def open(self) -> io.BufferedReader:
        """The file from its beginning."""
        with translate_read_errors(self.name):
            return cast("io.BufferedReader", self.path.open("rb", buffering=BLOCK_BYTES))

    def close(self) -> None:
        """Nothing is open."""


class StdinOrigin:
    """A pipe, which can be read once. What is only looked at is read again.

    Args:
        file: The stream, which is closed once it was read.
        name: What messages call it.
    """

    is_seekable = False
    size_bytes = None

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._seen = bytearray()
        self._taken = False

    def peek(self) -> io.BufferedReader:
        """Its beginning, which will be read again."""
        return self._replay(lambda: None)

    def _replay(self, on_close: Callable[[], object]) -> io.BufferedReader:
        while len(self._seen) < _HEAD_BYTES and self._more(_HEAD_BYTES):
            pass
        return io.BufferedReader(_ReplayStream(self.read, on_close), BLOCK_BYTES)

    def open(self) -> io.BufferedReader:
        """All of the stream, once."""
        if self._taken:
            raise BatchInputInvalid(
                f"{self.name} can be read only once", hint="Write it to a file, and give that."
            )
        replayed = self._replay(self.close)
        self._taken = True
        return replayed

    def close(self) -> None:
        """Close the stream."""
        self._file.close()

    def read(self, start: int, size: int) -> bytes:
        """Some bytes from a place on, which nobody has read beyond."""
        if start < len(self._seen):
            return bytes(self._seen[start : start + size])
        return self._more(size)

    def _more(self, size: int) -> bytes:
        # What a pipe has at once, so that its first lines are answered before its last ones come.
        file = self._file
        block = file.read1(size) if isinstance(file, io.BufferedReader) else file.read(size)
        if not self._taken:
            self._seen += block
        return block


class _ReplayStream(io.RawIOBase):
    """A stream from its beginning.

    Args:
        read: Gives some bytes from a place on.
        closed: Called when it is closed.
    """

    def __init__(self, read: Callable[[int, int], bytes], on_close: Callable[[], object]) -> None:
        super().__init__()
        self._read = read
        self._on_close = on_close
        self._at = 0

    def close(self) -> None:
        if not self.closed:
            self._on_close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        block = self._read(self._at, len(buffer))
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)


class InputReader:
    """An input that is read once from its beginning, decompressed. A context manager.

    Args:
        raw: The bytes, which are closed with it.
        name: What messages call it.

    Attributes:
        file: The decompressed bytes, behind a byte order mark.
    """

    def __init__(self, raw: io.BufferedReader, name: str) -> None:
        self._name = name
        self._raw = raw
        self._read_bytes = 0
        self._corrupt = _CORRUPT
        try:
            with self.translate_errors():
                self.file = self._open_decompressed()
                self._skip_bom()
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._read_bytes = self.position_bytes
        self.file.close()
        self._raw.close()

    @property
    def position_bytes(self) -> int:
        """How much of the file, as it lies there, was read."""
        if self._raw.closed or not self._raw.seekable():
            return self._read_bytes
        return self._raw.tell()

    @contextmanager
    def translate_errors(self) -> Generator[None]:
        """What goes wrong while it is read becomes an error of ours.

        Raises:
            BatchInputInvalid: It cannot be read, is cut off, or is not what its beginning says.
        """
        with translate_read_errors(self._name, self._corrupt):
            yield

    def _open_decompressed(self) -> io.BufferedReader:
        head = self._raw.peek(_HEAD_BYTES)
        if head.startswith(_GZIP):
            unpacked = cast("io.RawIOBase", gzip.GzipFile(fileobj=self._raw, mode="rb"))
        elif head.startswith(_ZSTD):
            zstd = _import_zstd(self._name)
            self._corrupt = (zstd.ZstdError,)
            unpacked = zstd.ZstdFile(self._raw)
        else:
            return self._raw
        return io.BufferedReader(unpacked, BLOCK_BYTES)

    def _skip_bom(self) -> None:
        head = self.file.peek(_HEAD_BYTES)
        if head.startswith(_UTF16):
            raise BatchInputInvalid(
                f"{self._name} is UTF-16, not UTF-8",
                hint="Save it as UTF-8; in PowerShell: Set-Content -Encoding utf8.",
            )
        if head.startswith(_BOM):
            self.file.read(len(_BOM))


def read_beginning(origin: InputOrigin) -> bytes:
    """The first bytes, decompressed: so many that a bracket is there with what follows it.

    Raises:
        BatchInputInvalid: They cannot be read.
    """
    with InputReader(origin.peek(), origin.name) as reader, reader.translate_errors():
        head = reader.file.read1(_BEGINNING_BYTES)
        while (
            len(head) < _BEGINNING_BYTES
            and _UNDECIDED.fullmatch(head)
            and (more := reader.file.read1(_BEGINNING_BYTES))
        ):
            head += more
    return head


def iter_line_pieces(file: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file with their ends. What is longer than the bound comes in pieces."""
    return iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")


def skip_rest_of_line(file: io.BufferedReader, piece: bytes) -> tuple[bytes, int]:
    """Skip the rest of a line that is too long.

    Args:
        file: What it is read from.
        piece: The line's first piece.

    Returns:
        A digest of the whole line, and how many double quotes it has.
    """
    digest, quotes = blake2b(digest_size=16), 0
    while piece:
        digest.update(piece)
        quotes += piece.count(b'"')
        if piece.endswith(b"\n"):
            break
        piece = file.readline(MAX_LINE_BYTES)
    return digest.digest(), quotes


@contextmanager
def translate_read_errors(
    name: str, corrupt: tuple[type[Exception], ...] = _CORRUPT
) -> Generator[None]:
    """What goes wrong while a file is read becomes an error of ours.

    Args:
        name: What messages call it.
        corrupt: What is raised of data that is not what it says.

    Raises:
        BatchInputInvalid: It cannot be read, is cut off, or damaged.
    """
    try:
        yield
    except EOFError as error:
        raise BatchInputInvalid(
            f"{name} is cut off: its compressed data does not end", hint="Copy it once more, whole."
        ) from error
    except corrupt as error:
        raise BatchInputInvalid(
            f"{name} is damaged: {error}", hint="Copy or compress it once more."
        ) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchInputInvalid(f"{name} cannot be read: {why}", hint="") from error


def _import_zstd(name: str) -> Any:
    """The standard library's from Python 3.14 on, else its backport."""
    import importlib  # noqa: PLC0415 - few inputs are compressed so

    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise BatchInputInvalid(
        f"{name} is compressed with zstd, for which a package is missing",
        hint="pip install 'foundry-api[batch]'",
    )
