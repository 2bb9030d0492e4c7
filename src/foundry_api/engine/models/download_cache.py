"""The directory in which an engine keeps the models that it downloaded.

A model lies in `PUBLISHER/NAME-VERSION/…`, and beside its files an `inference_model.json` that
names it once it is complete (probed on 2.2.1, as all here).
"""

from __future__ import annotations

import errno
import glob
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "RELATIVE_PATH",
    "get_last_change",
    "get_size_bytes",
    "list_downloaded",
    "may_hold_downloads",
]

RELATIVE_PATH = Path("cache") / "models"
"""Where the directory lies in the engine's own."""

COMPLETE = "inference_model.json"
DEPTHS = range(2, 5)
"""How deep in the cache that file may lie: the depth within a model is the publisher's choice."""

MAX_MODELS = 10_000
MAX_BYTES = 64 * 1024


class _Complete(msgspec.Struct):
    id: str = msgspec.field(name="Name")


_COMPLETE = msgspec.json.Decoder(_Complete)


def list_downloaded(cache: Path) -> Mapping[str, Path]:
    """The models that are complete: their directories by their ids.

    Raises:
        FileNotFoundError: There is no such directory.
        OSError: It is not ours to look into.
    """
    _check_readable(cache)  # globbing says nothing of a directory that it may not read
    markers = chain.from_iterable(cache.glob("*/" * depth + COMPLETE) for depth in DEPTHS)
    return dict(chain.from_iterable(map(_read_model_name, islice(markers, MAX_MODELS))))


def _check_readable(cache: Path) -> None:
    try:
        next(cache.iterdir(), None)
    except ValueError as error:  # a service told it, and no file can have that name
        raise OSError(errno.EINVAL, str(error)) from error


def may_hold_downloads(base_url: str, cache_dir: str | None) -> bool:
    """Whether a service of any generation may have models that it downloaded.

    Args:
        base_url: Its address.
        cache_dir: Where it keeps them; None where it does not tell.
    """
    if cache_dir is None or not is_loopback(base_url):
        return True
    try:
        return any(entry.is_dir() for entry in Path(cache_dir).iterdir())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):  # not ours to look into: the service may still hold some
        return True


def get_last_change(cache: Path, model_id: str) -> int:
    """When a file of a model was last written, in nanoseconds since the epoch; 0 without any."""
    name, _, version = model_id.rpartition(":")
    files = _iter_files(cache.glob(f"*/{glob.escape(f'{name}-{version}')}"))
    return max((_get_file_status(file)[0] for file in files), default=0)


def get_size_bytes(directory: Path) -> int:
    """The size of a model's files."""
    return sum(_get_file_status(file)[1] for file in _iter_files((directory,)))


def _iter_files(directories: Iterator[Path] | tuple[Path, ...]) -> Iterator[Path]:
    for directory in directories:
        yield from directory.rglob("*")


def _get_file_status(file: Path) -> tuple[int, int]:
    """When a file was written, and its size; zeros if it is none or went away meanwhile."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return (status.st_mtime_ns, status.st_size) if file.is_file() else (0, 0)


def _read_model_name(file: Path) -> Iterator[tuple[str, Path]]:
    """The model that a file names; one that cannot be read names none, to the engine neither."""
    try:
        with file.open("rb") as text:
            name = _COMPLETE.decode(text.read(MAX_BYTES)).id
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return
    yield name, file.parent
