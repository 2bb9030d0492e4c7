"""The directories of a home are private, unless they are foreign."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from foundry_api import ConfigurationError
from foundry_api.storage.lock import FileLock
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [(), ("host.json",), ("host-20260101T000000Z-1.log",)])
def test_new_empty_and_own_directories_become_private(
    before: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("state", "logs"):
        (tmp_path / name).mkdir(mode=0o755)
        for file in before:
            (tmp_path / name / file).touch()
    Paths.from_home(tmp_path).create()
    assert {mode(tmp_path / name) for name in ("state", "logs", "engine")} == {0o700}


def test_a_foreign_directory_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "nginx.log").touch()
    (tmp_path / "logs").chmod(0o755)
    Paths.from_home(tmp_path).create()
    assert mode(tmp_path / "logs") == 0o755


def test_the_target_of_a_link_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.mkdir()
    target.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("engine", "logs", "state"):
        (home / name).symlink_to(target)
    Paths.from_home(home).create()
    assert mode(target) == 0o755


def test_a_file_in_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="state cannot be used"):
        Paths.from_home(tmp_path).create()
    assert (tmp_path / "state").read_text(encoding="utf-8") == "mine"


def test_a_link_in_place_of_a_lock_creates_no_file(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"), FileLock(tmp_path / "lock", timeout_s=0):
        pass
    assert not (tmp_path / "elsewhere").exists()
