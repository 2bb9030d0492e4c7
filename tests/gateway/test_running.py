"""What `status` and `doctor` learn from the directory of a gateway, whatever is in it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import main
from foundry_api.gateway.running import RunningGateway, find_running_gateway
from foundry_api.storage.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL = b'{"url": "%s", "pid": 1}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"url": 5}',
        b'{"x": ' + b"[" * 4000,
        URL % b"http://\xff",
        URL % b"http://\\ud800",
        URL % b"http://a\\u001b[31m",
        URL % b"http://a\\nb",
        URL % b"file:///etc/passwd",
        URL % b"http://user:word@a",
        URL % (b"http://" + b"a" * 5000),
    ],
    ids=lambda content: content[:30].decode(errors="replace"),
)
def test_damaged_contents_are_no_address(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gateway.json").write_bytes(content)
    with FileLock(tmp_path / "gateway.lock", timeout_s=1):
        assert find_running_gateway(tmp_path) == RunningGateway()
    assert find_running_gateway(tmp_path) is None


def make_pipe(path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(path)


PLACES: list[Callable[[Path], object]] = [
    lambda path: path.mkdir(),
    lambda path: path.symlink_to(path),
    make_pipe,
]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("make", PLACES, ids=["directory", "loop", "pipe"])
def test_something_else_in_the_place_of_a_file(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "gateway.json")
    with FileLock(tmp_path / "gateway.lock", timeout_s=1):
        assert find_running_gateway(tmp_path) == RunningGateway()
    (tmp_path / "gateway.lock").unlink()
    make(tmp_path / "gateway.lock")
    assert find_running_gateway(tmp_path) is None


def test_status_finds_the_directory_of_the_environment(
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del own_home
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / "gateway.json").write_bytes(URL % b"http://127.0.0.1:9")
    monkeypatch.setenv("FOUNDRY_GATEWAY_DIRECTORY", str(directory))
    monkeypatch.setenv("FOUNDRY_GATEWAY_PORT", "many")  # no reason to show nothing
    with FileLock(directory / "gateway.lock", timeout_s=1):
        assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Gateway at http://127.0.0.1:9  running\n")
    assert "No service is running" not in shown
    assert "unless --base-url names the gateway" in shown
