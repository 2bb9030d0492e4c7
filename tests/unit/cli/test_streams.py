"""Failed writes to standard output are told apart."""

from __future__ import annotations

import errno
import io
import os
import sys
from types import SimpleNamespace

import pytest

from foundry_api.cli import streams
from foundry_api.cli.streams import OutputError


class FailingBuffer(io.BytesIO):
    """A pipe or a file that cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _data: object, /) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("system", "code", "kind"),
    [
        ("posix", errno.EPIPE, BrokenPipeError),
        ("posix", errno.EINVAL, OutputError),
        ("posix", errno.ENOSPC, OutputError),
        ("nt", errno.EPIPE, BrokenPipeError),
        ("nt", errno.EINVAL, BrokenPipeError),  # of a pipe that its reader has closed
        ("nt", errno.ENOSPC, OutputError),
    ],
)
def test_a_closed_pipe_is_no_failure_of_the_output(
    monkeypatch: pytest.MonkeyPatch, system: str, code: int, kind: type[OSError]
) -> None:
    buffer = FailingBuffer(OSError(code, os.strerror(code)))
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    output = io.TextIOWrapper(buffer, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    streams.force_utf8()
    wrapped = sys.stdout
    assert isinstance(wrapped, io.TextIOWrapper)
    monkeypatch.setattr(streams, "os", SimpleNamespace(name=system))
    wrapped.write("text")
    with pytest.raises(kind) as caught:
        wrapped.flush()
    assert type(caught.value) is kind
    wrapped.detach()  # else it would write the text when it is collected
    output.detach()
