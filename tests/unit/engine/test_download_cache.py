"""Where a service says that its models lie: what it says may be no directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_api.engine.models.download_cache import list_downloaded, may_hold_downloads


@pytest.mark.parametrize("told", ["/x\0y", "/x\ud800", __file__])
def test_what_is_no_directory_may_hold_downloads_as_far_as_anybody_knows(told: str) -> None:
    assert may_hold_downloads("http://127.0.0.1:1", told)
    with pytest.raises(OSError, match=r"null|surrogates|Not a directory"):
        list_downloaded(Path(told))
