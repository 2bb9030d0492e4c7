"""Standard input in addition to arguments: pipes, files, devices, and input without end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

import pytest

from foundry_api.cli import stdin
from foundry_api.cli.stdin import read_piped_text, read_text
from foundry_api.types.errors import InvalidRequest
from support.cli_program import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

posix = pytest.mark.skipif(os.name != "posix", reason="a matter of POSIX shells")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who writes to a pipe")

ASK = "from foundry_api.cli.chat import read_prompt; print(read_prompt(('Sum up:',)))"

COPY = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def prompt(shell: str) -> str:
    """Run a shell command, in which `ASK` prints its prompt."""
    done = subprocess.run(
        ["/bin/sh", "-c", shell.replace("ASK", '"$PYTHON" -c "$PROGRAM"')],
        env={**os.environ, "PYTHON": sys.executable, "PROGRAM": ASK, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return done.stdout.decode()


@posix
@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("printf 'a\\nb\\n' | ASK", "Sum up:\n\na\nb\n"),
        ("printf 'a\\nb' > notes; ASK < notes", "Sum up:\n\na\nb\n"),
        ("ASK <<END\nnotes\nEND", "Sum up:\n\nnotes\n"),
        ("printf 'notes' | { ASK; }", "Sum up:\n\nnotes\n"),
        ("printf 'notes' | sh -c 'ASK; true'", "Sum up:\n\nnotes\n"),
        (": | ASK", "Sum up:\n"),
        ("ASK < /dev/null", "Sum up:\n"),
        ("ASK 0> /dev/null", "Sum up:\n"),  # what `nohup` does
        ("ASK <&-", "Sum up:\n"),
    ],
)
def test_a_pipe_is_appended_to_the_prompt(
    shell: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prompt(shell) == expected


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """The other end of this process's standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stream, os.fdopen(writing, "wb", 0) as other:
        monkeypatch.setattr("sys.stdin", stream)
        yield other


def test_an_open_but_silent_input_is_ignored_with_a_message(
    pipe: BinaryIO, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_piped_text("prompt", silence_s=0.01) == ""
    message = capsys.readouterr().err
    assert message.startswith("Standard input is open, but nothing arrived within 10 ms")
    assert "Pass - to wait for it" in message


def test_input_that_has_started_is_read_to_its_end(pipe: BinaryIO) -> None:
    pipe.write(b"one ")

    def end() -> None:
        pipe.write(b"two")
        pipe.close()

    threading.Timer(0.3, end).start()
    assert read_piped_text("prompt", silence_s=30) == "one two"


@linux
def test_a_slow_command_is_awaited(pipe: BinaryIO, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as `foundry-api chat … | foundry-api chat "Translate:"`, which first loads a model."""
    with subprocess.Popen([sys.executable, "-c", COPY], stdin=subprocess.PIPE, stdout=pipe) as slow:
        pipe.close()
        threading.Timer(0.5, slow.communicate, (b"notes",)).start()
        assert read_piped_text("prompt", silence_s=0.01) == "notes"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("read", [read_text, read_piped_text])
def test_a_pipe_of_windows_powershell_is_read(pipe: BinaryIO, read: Callable[[str], str]) -> None:
    pipe.write("日本 😀\r\n".encode("utf-16"))
    pipe.close()
    assert read("prompt") == "日本 😀\n"


def test_a_console_is_read_in_utf8_whatever_its_code_page(
    pipe: BinaryIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, the descriptor of a console delivers its code page, and Python's reader UTF-8."""
    console = io.BufferedReader(_Console("é日本\r\n".encode()))
    stream = io.TextIOWrapper(console)
    monkeypatch.setattr(stream, "fileno", sys.stdin.fileno)
    monkeypatch.setattr("sys.stdin", stream)
    pipe.write("é".encode("cp437"))
    pipe.close()
    assert read_text("prompt") == "é日本\n"


class _Console(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not text in UTF-8"),
        (b"SQLite format 3\0", "contains NUL characters"),
    ],
)
@pytest.mark.parametrize("read", [read_text, read_piped_text])
def test_input_that_is_not_text_is_rejected(
    pipe: BinaryIO, sent: bytes, message: str, read: Callable[[str], str]
) -> None:
    pipe.write(sent)
    pipe.close()
    with pytest.raises(InvalidRequest, match=message) as caught:
        read("data")
    assert caught.value.field == "data"


@posix
@pytest.mark.parametrize("read", [read_text, read_piped_text])
@pytest.mark.parametrize(
    ("place", "message"),
    [("/dev/zero", "longer than 1000 B"), ("/", "cannot be read: Is a directory")],
)
def test_input_that_cannot_be_a_prompt_is_rejected(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[str], str], place: str, message: str
) -> None:
    class Stream:
        closed = False

        def isatty(self) -> bool:
            return False

        def fileno(self) -> int:
            return descriptor

    descriptor = os.open(place, os.O_RDONLY)
    monkeypatch.setattr("sys.stdin", Stream())
    monkeypatch.setattr(stdin, "MAX_BYTES", 1000)
    try:
        with pytest.raises(InvalidRequest, match=message):
            read("prompt")
    finally:
        os.close(descriptor)
