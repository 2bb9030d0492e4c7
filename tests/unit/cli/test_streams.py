"""Test how failed writes to standard output are reported."""

from __future__ import annotations

import errno
import io
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import streams
from foundry_api.cli.streams import OutputError

if TYPE_CHECKING:
    from pathlib import Path


class FailingBuffer(io.BytesIO):
    """A pipe or a file that cannot be written."""

    def __init__(self, error: OSError, descriptor: int) -> None:
        super().__init__()
        self._error = error
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def write(self, _data: object, /) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("system", "is_pipe", "code", "kind"),
    [
        ("posix", True, errno.EPIPE, BrokenPipeError),
        ("posix", True, errno.EINVAL, OutputError),
        ("posix", False, errno.ENOSPC, OutputError),
        ("nt", True, errno.EPIPE, BrokenPipeError),
        ("nt", True, errno.EINVAL, BrokenPipeError),
        ("nt", False, errno.EINVAL, OutputError),
        ("nt", False, errno.ENOSPC, OutputError),
    ],
)
def test_a_closed_pipe_is_no_failure_of_the_output(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    system: str,
    is_pipe: bool,
    code: int,
    kind: type[OSError],
) -> None:
    reader, pipe = os.pipe()
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    buffer = FailingBuffer(OSError(code, os.strerror(code)), pipe if is_pipe else file)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    output = io.TextIOWrapper(buffer, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    streams.force_utf8()
    wrapped = sys.stdout
    assert isinstance(wrapped, io.TextIOWrapper)
    monkeypatch.setattr(streams, "os", SimpleNamespace(name=system, fstat=os.fstat))
    wrapped.write("text")
    with pytest.raises(kind) as caught:
        wrapped.flush()
    assert type(caught.value) is kind
    wrapped.detach()  # else it would write the text when it is collected
    output.detach()
    for descriptor in (reader, pipe, file):
        os.close(descriptor)
