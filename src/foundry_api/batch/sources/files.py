"""The bytes of an input: from a file or a pipe, decompressed."""

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

# For one line, or one row of a CSV. A longer one is a bad line, and is never held in memory.
MAX_LINE_BYTES = 16 * 2**20
BLOCK_BYTES = 2**18
PARQUET_MAGIC = b"PAR1"

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES = 4
_BEGINNING_BYTES = 2**16
# Blanks and a bracket only: what comes next decides whether this is a JSON array.
_UNDECIDED = re.compile(rb"\s*+\[?+\s*+")
_CORRUPT: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error)


class BadLine(msgspec.Struct, frozen=True):
    """Stands in `Line.raw` for a line that could not be read: `is longer than 16 MiB`."""

    message: str


class InputOrigin(Protocol):
    """Opens the bytes of an input."""

    @property
    def name(self) -> str: ...

    @property
    def is_seekable(self) -> bool:
        """Whether it can be opened more than once."""
        ...

    @property
    def size_bytes(self) -> int | None: ...

    def peek(self) -> io.BufferedReader:
        """Open it to read only the first bytes; `open` starts from the same position."""
        ...

    def open(self) -> io.BufferedReader: ...

    def close(self) -> None:
        """Close what `peek` opened, if the input is not used."""
        ...


class FileOrigin:
    """A file, or the copy of a pipe."""

    is_seekable = True

    def __init__(self, path: Path, name: str | None = None, *, is_copy: bool = False) -> None:
        self.path = path
        self.name = name or path.name
        self.is_copy = is_copy

    @property
    def size_bytes(self) -> int:
        with translate_read_errors(self.name):
            return self.path.stat().st_size

    def peek(self) -> io.BufferedReader:
        return self.open()

    def open(self) -> io.BufferedReader:
        with translate_read_errors(self.name):
            return cast("io.BufferedReader", self.path.open("rb", buffering=BLOCK_BYTES))

    def close(self) -> None:
        """Do nothing: each reader closes its own file."""


class StdinOrigin:
    """A pipe, which can be read once. Bytes that were only peeked at are replayed."""

    is_seekable = False
    size_bytes = None

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._seen = bytearray()
        self._is_opened = False

    def peek(self) -> io.BufferedReader:
        return self._replay(lambda: None)

    def _replay(self, on_close: Callable[[], object]) -> io.BufferedReader:
        # The first bytes decide about compression, and a pipe may deliver them one by one.
        while len(self._seen) < _HEAD_BYTES and self._read_more(_HEAD_BYTES):
            pass
        return io.BufferedReader(_ReplayStream(self.read, on_close), BLOCK_BYTES)

    def open(self) -> io.BufferedReader:
        if self._is_opened:
            raise BatchInputInvalid(
                f"{self.name} can be read only once", hint="Write it to a file, and give that."
            )
        replayed = self._replay(self.close)
        self._is_opened = True
        return replayed

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, size: int) -> bytes:
        """Read up to `size` bytes at `start`, which is at most the position of the pipe."""
        if start < len(self._seen):
            return bytes(self._seen[start : start + size])
        return self._read_more(size)

    def _read_more(self, size: int) -> bytes:
        # `read1` returns what is available, so that the first lines run before the last are there.
        file = self._file
        block = file.read1(size) if isinstance(file, io.BufferedReader) else file.read(size)
        if not self._is_opened:  # what is read from here on is not replayed
            self._seen += block
        return block


class _ReplayStream(io.RawIOBase):
    """A raw stream over a function that reads at a position."""

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
    """Reads an input once, decompressed and without a byte order mark. A context manager.

    It owns `raw` and closes it.
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
        """Bytes read so far from the file, which may be compressed."""
        if self._raw.closed or not self._raw.seekable():
            return self._read_bytes
        return self._raw.tell()

    @contextmanager
    def translate_errors(self) -> Generator[None]:
        """Raise errors of reading and decompression as `BatchInputInvalid`."""
        with translate_read_errors(self._name, self._corrupt):
            yield

    def _open_decompressed(self) -> io.BufferedReader:
        head = self._raw.peek(_HEAD_BYTES)
        if head.startswith(_GZIP):
            unpacked = cast("io.RawIOBase", gzip.GzipFile(fileobj=self._raw, mode="rb"))
        elif head.startswith(_ZSTD):
            zstd = _import_zstd(self._name)
            # Known only now: the package is optional.
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
    """Return the first bytes, decompressed: enough to include what follows a first bracket."""
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
    """Yield the lines of a file with their endings; a line that is too long comes in pieces."""
    return iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")


def skip_rest_of_line(file: io.BufferedReader, piece: bytes) -> tuple[bytes, int]:
    """Skip a line whose first piece was read; return a digest of the line and its double quotes."""
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
    """Raise errors of reading, and the `corrupt` ones of decompression, as `BatchInputInvalid`."""
    try:
        yield
    except EOFError as error:
        raise BatchInputInvalid(
            f"{name} is cut off: its compressed data does not end",
            hint="Copy the whole file again.",
        ) from error
    except corrupt as error:
        raise BatchInputInvalid(
            f"{name} is damaged: {error}", hint="Copy or compress it again."
        ) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchInputInvalid(f"{name} cannot be read: {why}", hint="") from error


def _import_zstd(name: str) -> Any:
    import importlib  # noqa: PLC0415 - few inputs are compressed with zstd

    # Python 3.14 has it; `backports.zstd` is the same for older versions.
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise BatchInputInvalid(
        f"{name} is compressed with zstd, for which a package is missing",
        hint="pip install backports.zstd",
    )
