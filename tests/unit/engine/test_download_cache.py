"""The cache directory that a service reports, which may be invalid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundry_api.engine.models.download_cache import list_downloaded, may_hold_downloads

# Windows allows lone surrogates in names, so there the second one is only missing.
INVALID = ["/x\0y", __file__] if sys.platform == "win32" else ["/x\0y", "/x\ud800", __file__]


@pytest.mark.parametrize("cache_dir", INVALID)
def test_an_invalid_cache_directory_counts_as_having_downloads(cache_dir: str) -> None:
    assert may_hold_downloads("http://127.0.0.1:1", cache_dir)
    with pytest.raises(OSError, match=r"."):
        list_downloaded(Path(cache_dir))
