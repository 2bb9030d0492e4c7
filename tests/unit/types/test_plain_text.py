"""Text from outside is escaped in terminals, logs and reports."""

from __future__ import annotations

import io
import json
import logging
from typing import TypeAlias

import click
import pytest

from foundry_api.batch.report.charts import element
from foundry_api.cli import errors, output, request
from foundry_api.cli.options import GlobalOptions
from foundry_api.cli.request import print_body
from foundry_api.cli.session import make_log_handler
from foundry_api.observe.call_log import CallLog
from foundry_api.types.errors import BatchInputInvalid, ServerError
from foundry_api.types.events import CallStarted
from foundry_api.types.plain_text import escape_json, sanitize, sanitize_line
from foundry_api.types.results import RawResponse

CaptureBytes: TypeAlias = "pytest.CaptureFixture[bytes]"

HOSTILE = {
    "C0": "\x07\x08\x0e",
    "delete": "\x7f",
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;aGk=\x07",
    "link": "\x1b]8;;http://x\x1b\\\\",
    "C1": "\x9b31m\x9d0;owned\x9c\x85",
    "bidi": "\u202agood\u202b\u202c\u202d\u202egnp.exe",
    "isolates": "\u2066\u2067\u2068\u2069",
    "line ends": "\u2028\u2029",
}
FORBIDDEN = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u2028\u2029"} | {
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}
FORGED = "failed\n2026-01-01 00:00:00,000 INFO foundry_api: all is well\r\nmore"
HONEST = (
    "Grüße 日本語 👩\u200d💻 \u05e9\u05dc\u05d5\u05dd\u200f, \u0645\u0631\u062d\u0628\u0627 e\u0301"
)
everything = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def dangerous(text: str) -> set[str]:
    return FORBIDDEN & set(text)


@everything
def test_control_characters_are_escaped(text: str) -> None:
    assert not dangerous(sanitize(text))
    assert not dangerous(sanitize_line(text))


def test_sanitize_keeps_lines_and_sanitize_line_does_not() -> None:
    assert sanitize("a\tb\r\nc\n") == "a\tb\nc\n"
    assert sanitize_line("a\tb\r\nc\n") == "a\tb\\r\\nc\\n"


def test_harmless_text_is_unchanged() -> None:
    assert sanitize(HONEST) == sanitize_line(HONEST) == escape_json(HONEST) == HONEST


@everything
def test_escaped_json_decodes_to_the_same_document(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_json({text: [text]})
    piped = capsys.readouterr().out
    monkeypatch.setattr(output, "is_terminal", lambda _stream: True)
    output.print_json({text: [text]})
    shown = capsys.readouterr().out
    assert json.loads(shown) == json.loads(piped) == {text: [text]}
    assert dangerous(shown) <= {"\n"}


def logged(monkeypatch: pytest.MonkeyPatch, *arguments: object, **further: object) -> str:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    handler = make_log_handler(GlobalOptions(verbose=2), {})
    logger = logging.getLogger("foundry_api")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    try:
        logger.warning(*arguments, **further)  # type: ignore[arg-type] # as they come
    finally:
        logger.removeHandler(handler)
    return stream.getvalue()


@everything
@pytest.mark.parametrize("kind", [str, ServerError])
def test_log_arguments_are_escaped(monkeypatch: pytest.MonkeyPatch, text: str, kind: type) -> None:
    assert dangerous(logged(monkeypatch, "it said %s", kind(text))) <= {"\n"}
    assert dangerous(logged(monkeypatch, f"it said {text}")) <= {"\n"}


def test_a_line_break_in_a_message_starts_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged(monkeypatch, "it %s", ServerError(FORGED)).count("\n") == 1
    lines = logged(monkeypatch, "unexpected", exc_info=ServerError(FORGED)).splitlines()
    assert [line for line in lines[1:] if not line.startswith("    ")] == []


def test_foreign_handlers_get_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "foundry_api"):
        log = logging.getLogger("foundry_api")
        log.warning("%s said %s", "a\nb", ServerError(FORGED))
        log.warning("%(who)s", {"who": "a\x1bb"})
        CallLog(log)(CallStarted(call=1, model="m\nforged", request=None))
    assert all(not dangerous(record.getMessage()) for record in caplog.records)


@everything
def test_errors_tables_and_fields_are_escaped(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors.print_error(ServerError(text, hint=text, model=text))
    errors.print_error(BatchInputInvalid(text).with_problems((text,)))
    errors.report_error(click.UsageError(text), as_json=False)
    output.print_table([text], [[text]])
    output.print_fields(text, "healthy", [(text, text)])
    captured = capsys.readouterr()
    assert dangerous(captured.out + captured.err) <= {"\n"}


def test_a_cell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["NAME"], [["a\nforged row"]])
    assert capsys.readouterr().out.count("\n") == 2


@everything
def test_reports_escape_bidi_characters(text: str) -> None:
    assert not dangerous(element("p", text, title=text))


BODIES = {
    "text": (b"caf\xc3\xa9 \x1b[31m\xc2\x9b", b"caf\xc3\xa9 \x1b[31m\xc2\x9b\n"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\xff", b"\x89PNG\r\n\x1a\n\0\xff"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("body", "piped"), BODIES.values(), ids=BODIES)
def test_a_body_is_escaped_only_on_a_terminal(
    body: bytes, piped: bytes, monkeypatch: pytest.MonkeyPatch, capfdbinary: CaptureBytes
) -> None:
    reply = RawResponse(status=200, headers={}, body=body, service="http://127.0.0.1:1")
    print_body(reply)
    assert capfdbinary.readouterr().out == piped
    monkeypatch.setattr(request, "is_terminal", lambda _stream: True)
    print_body(reply)
    assert dangerous(capfdbinary.readouterr().out.decode()) <= {"\n"}
