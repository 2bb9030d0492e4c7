"""Who may read a file."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.storage.access import describe_open_access, find_readers, make_private_command
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from pathlib import Path

OWNER = "(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;OW)"


@pytest.mark.parametrize(
    ("descriptor", "readers"),
    [
        # What Python makes of the mode 0o700.
        (f"D:P{OWNER}", []),
        # A new directory on a drive of its own, in a profile, and on a shared drive.
        (f"D:AI{OWNER}(A;OICIID;0x1200a9;;;BU)(A;CIID;LC;;;BU)", ["Users"]),
        (f"D:AI{OWNER}(A;OICIID;FA;;;S-1-5-21-1-2-3-1001)", []),
        ("D:(A;OICI;FA;;;WD)", ["Everyone"]),
        ("D:NO_ACCESS_CONTROL", ["Everyone"]),
        # Only for what is made in it later; refused; without the right to read.
        ("D:(A;OICIIO;GA;;;AU)(D;;FA;;;WD)(A;;0x100116;;;BU)", []),
        ("D:(A;;FRFX;;;AU)(A;;GR;;;AU)(A;;GXGR;;;IU)", ["Authenticated Users", "Interactive"]),
        ('D:(XA;;FR;;;BU;(@User.Title=="PM"))', ["Users"]),
    ],
)
def test_a_security_descriptor_tells_who_reads(descriptor: str, readers: list[str]) -> None:
    assert find_readers(descriptor) == readers


def test_the_directories_of_a_new_home_are_private(tmp_path: Path) -> None:
    """On Windows by Python's `mkdir`, also where the parent is open to others."""
    paths = Paths.from_home(tmp_path / "home").create()
    paths.state_file.touch(mode=0o600)
    for path in (paths.data, paths.state, paths.logs):
        assert describe_open_access(path) is None


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_command_makes_an_open_file_private(tmp_path: Path) -> None:
    path = tmp_path / "it's open"
    path.mkdir(mode=0o755)
    assert describe_open_access(path) == f"{path} has mode 755"
    subprocess.run(["/bin/sh", "-c", make_private_command(path)], check=True)
    assert describe_open_access(path) is None


@pytest.mark.skipif(sys.platform != "win32", reason="Windows only")
def test_a_command_for_windows_names_the_user(tmp_path: Path) -> None:
    command = make_private_command(tmp_path)
    assert f'"{os.environ["USERNAME"]}:(OI)(CI)F"' in command
    (tmp_path / "file").touch()
    assert "(OI)" not in make_private_command(tmp_path / "file")
