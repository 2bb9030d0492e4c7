"""Reads the directory in which an engine stores downloaded models."""

# The layout was probed on 2.2.1 and is not documented. A model is in `PUBLISHER/NAME-VERSION/…`,
# with an `inference_model.json` that has its id once the download is complete.

from __future__ import annotations

import errno
import glob
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "RELATIVE_PATH",
    "get_last_change",
    "get_size_bytes",
    "list_downloaded",
    "may_hold_downloads",
]

# Relative to the engine's own directory.
RELATIVE_PATH = Path("cache") / "models"

# The engine writes this file into a model's directory once the download is complete. How deep in
# the cache it is depends on the publisher.
MARKER_FILE = "inference_model.json"
MARKER_DEPTHS = range(2, 5)

MAX_MODELS = 10_000
MAX_BYTES = 64 * 1024


class _Marker(msgspec.Struct):
    id: str = msgspec.field(name="Name")


_MARKER_DECODER = msgspec.json.Decoder(_Marker)


def list_downloaded(cache: Path) -> Mapping[str, Path]:
    """Return the directories of complete models by their ids; raises OSError as `iterdir` does."""
    try:
        next(cache.iterdir(), None)  # glob() hides that a directory cannot be read
    except ValueError as error:  # the path comes from a service and may contain a null byte
        raise OSError(errno.EINVAL, str(error)) from error
    markers = chain.from_iterable(cache.glob("*/" * depth + MARKER_FILE) for depth in MARKER_DEPTHS)
    models: dict[str, Path] = {}
    for marker in islice(markers, MAX_MODELS):
        try:
            with marker.open("rb") as file:
                models[_MARKER_DECODER.decode(file.read(MAX_BYTES)).id] = marker.parent
        except (OSError, *NOT_JSON):
            continue  # the engine does not find such a model either
    return models


def may_hold_downloads(base_url: str, cache_dir: str | None) -> bool:
    """Return whether a service may have downloaded models; True if that is unknown."""
    if cache_dir is None or not is_loopback(base_url):
        return True
    try:
        return any(entry.is_dir() for entry in Path(cache_dir).iterdir())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):  # this user cannot read it, but the service can
        return True


def get_last_change(cache: Path, model_id: str) -> int:
    """Return when a file of a model was last written, in ns since the epoch; 0 without files."""
    name, _, version = model_id.rpartition(":")
    directories = cache.glob(f"*/{glob.escape(f'{name}-{version}')}")
    files = (file for directory in directories for file in directory.rglob("*"))
    return max((_get_time_and_size(file)[0] for file in files), default=0)


def get_size_bytes(directory: Path) -> int:
    return sum(_get_time_and_size(file)[1] for file in directory.rglob("*"))


def _get_time_and_size(file: Path) -> tuple[int, int]:
    """Return when a file was written and its size; zeros if it is a directory or gone."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return (status.st_mtime_ns, status.st_size) if file.is_file() else (0, 0)
