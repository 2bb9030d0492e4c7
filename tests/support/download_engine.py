"""A real engine that downloads a working model from the fake catalog and sites on loopback."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from support.loopback_blobs import RANGE_BYTES
from support.loopback_catalog import ALIAS, VARIANT, make_entity, run_catalog
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from support.loopback_blobs import FakeDownloadSite

__all__ = ["LARGE", "MODEL", "RANGES", "find_cached", "make_files", "run_engine"]

MODEL = f"{VARIANT}:1"
# Of the large file, which is there in addition to the model's own files.
RANGES = 5
LARGE = "v1/more.bin"


def make_files(directory: Path) -> dict[str, bytes]:
    """Return the files of a working model, large enough to stop in the middle."""
    build(directory)
    small = {f"v1/{path.name}": path.read_bytes() for path in directory.iterdir()}
    return {**small, LARGE: os.urandom(RANGES * RANGE_BYTES - 1)}


@contextlib.contextmanager
def run_engine(home: Path, site: FakeDownloadSite) -> Iterator[Endpoint]:
    """Run a shared engine that downloads from a site until the end of the block."""
    with run_catalog([make_entity(ALIAS, VARIANT, size_mb=10)]) as url:
        paths = Paths.from_home(home)
        environ = {**os.environ, **site.environ}
        options = HostOptions(paths=paths, models=(), catalog_url=url, environ=environ)
        endpoint, _ = shared.start(paths, idle_timeout_s=60, options=options)
        try:
            yield endpoint
        finally:
            shared.stop(paths)


def find_cached(home: Path) -> set[str]:
    """Return the files in the model's directory."""
    root = Paths.from_home(home).data / "cache" / "models" / "tests" / f"{VARIANT}-1"
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
