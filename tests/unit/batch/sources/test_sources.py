"""Inputs of a batch: every format yields the requests that it contains."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from foundry_api import BatchRequest, InputOptions
from foundry_api.batch.sources import files, open_source
from foundry_api.batch.sources.stdin import spool_stdin
from foundry_api.batch.types import EMBEDDINGS_URL, Line
from foundry_api.types.errors import BatchInputInvalid, BatchStorageFailed, InvalidRequest
from support.cli_program import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.sources import Source


def gz(data: bytes) -> bytes:
    """Compress without a timestamp, which would become part of test ids."""
    return gzip.compress(data, mtime=0)


HI = [{"role": "user", "content": "Hi"}]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gz,
    ".zst": zstd.compress,
}


def request_line(custom_id: Any = "a", **members: Any) -> bytes:
    """A line of an OpenAI batch file."""
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**line, "body": {"messages": HI}, **members}).encode()


def source(tmp_path: Path, name: str, content: bytes | str, **options: Any) -> Source:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_source(InputOptions(path=str(file), **options))


def requests(source: Source) -> list[BatchRequest]:
    return [source.parse_request(line) for line in source.iter_lines()]


def prompts(source: Source) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in requests(source)]


def problems(source: Source) -> list[str]:
    """The error message of each line; empty for a valid one."""

    def problem(line: Line) -> str:
        try:
            source.parse_request(line)
        except InvalidRequest as error:
            return error.message
        return ""

    return [problem(line) for line in source.iter_lines()]


def table(rows: Sequence[Sequence[str]], **form: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **form).writerows(rows)
    return text.getvalue()


# --- OpenAI's batch files -------------------------------------------------------------------


def test_an_openai_line_is_parsed_into_its_request(tmp_path: Path) -> None:
    body = {"model": "demo", "input": ["a", "b"]}
    lines = (
        request_line("a", body={"messages": HI, "max_tokens": 5}),
        request_line("b", url=EMBEDDINGS_URL, body=body),
    )
    assert requests(source(tmp_path, "in.jsonl", b"\n".join(lines))) == [
        BatchRequest(custom_id="a", body={"messages": HI, "max_tokens": 5}),
        BatchRequest(custom_id="b", body=body, url=EMBEDDINGS_URL),
    ]


def test_line_numbers_count_blank_lines_and_indexes_do_not(
    tmp_path: Path,
) -> None:
    """A byte order mark and Windows line endings are not part of a line."""
    content = b"\xef\xbb\xbf" + b"\r\n".join(
        [request_line("a"), b"", b"  \t", request_line("b"), b""]
    )
    lines = list(source(tmp_path, "in.jsonl", content).iter_lines())
    assert [(line.index, line.number, line.raw) for line in lines] == [
        (0, 1, request_line("a")),
        (1, 4, request_line("b")),
    ]


def test_members_of_the_options_are_defaults_of_the_bodies(tmp_path: Path) -> None:
    lines = (
        request_line("a"),
        request_line("b", body={"messages": HI, "max_tokens": 5, "model": "tiny"}),
    )
    options = {"model": "demo", "members": {"max_tokens": 9}}
    opened = source(tmp_path, "in.jsonl", b"\n".join(lines), **options)
    assert [request.body for request in requests(opened)] == [
        {"messages": HI, "max_tokens": 9, "model": "demo"},
        {"messages": HI, "max_tokens": 5, "model": "tiny"},
    ]


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        (b"{bad", None, "it is not JSON: "),
        (b"[1]", None, "it is not a JSON object"),
        (b'"\xff"', None, "it is not UTF-8: byte 2 is 0xff"),
        (b'{"custom_id": "\\ud800", "body": {}}', None, "it is not JSON: "),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, None, "its JSON is nested too deeply"),
        (request_line(7), "custom_id", "custom_id is 7, not a string"),
        (request_line(""), "custom_id", "custom_id is empty"),
        (request_line("x" * 513), "custom_id", "custom_id has 513 characters, but may have 512"),
        (b'{"body": {}}', "custom_id", "custom_id is missing"),
        (b'{"custom_id": "a"}', "body", "body is missing"),
        (request_line(body=[1]), "body", "body is not a JSON object"),
        (request_line(method="GET"), "method", "method is 'GET', but must be POST"),
        (
            request_line(url="/v1/completions"),
            "url",
            "url is '/v1/completions', but must be one of /v1/chat",
        ),
        (
            request_line(custom="a"),
            "custom",
            "custom is not a member of a request (did you mean custom_id?)",
        ),
        (request_line(body={}), "body.messages", "messages is missing"),
        (
            request_line(body={"messages": HI, "max_token": 1}),
            "body.max_token",
            "did you mean max_tokens?",
        ),
        (request_line(body={"messages": HI, "stream": True}), "body.stream", "stream is true, but"),
    ],
)
def test_a_bad_line_is_reported_with_its_place_and_field(
    tmp_path: Path, line: bytes, field: str | None, message: str
) -> None:
    opened = source(tmp_path, "in.jsonl", b"\n" + line + b"\n" + request_line("good"))
    bad, good = opened.iter_lines()
    with pytest.raises(InvalidRequest) as caught:
        opened.parse_request(bad)
    assert caught.value.message.startswith("in.jsonl line 2: ")
    assert message in caught.value.message
    assert caught.value.field == field
    assert opened.parse_request(good).custom_id == "good"


def test_a_bad_member_from_the_options_is_reported_as_such(tmp_path: Path) -> None:
    line = request_line(url=EMBEDDINGS_URL, body={"input": "Hi"})
    opened = source(tmp_path, "in.jsonl", line, members={"max_tokens": 5})
    refused = (
        "max_tokens is not a member of a request to /v1/embeddings (it comes from the options)"
    )
    assert problems(opened) == [f"in.jsonl line 1: {refused}"]


def test_a_message_about_a_long_line_is_short(tmp_path: Path) -> None:
    (message,) = problems(source(tmp_path, "in.jsonl", request_line(["x" * 10_000])))
    assert len(message) <= 501


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (request_line("a", body={}), "a"),
        (request_line("a", more=1), "a"),
        (request_line(5), None),
        (b"{", None),
    ],
)
def test_a_bad_line_keeps_its_custom_id(tmp_path: Path, line: bytes, name: str | None) -> None:
    opened = source(tmp_path, "in.jsonl", line)
    assert [opened.get_custom_id(line) for line in opened.iter_lines()] == [name]


# --- Lines of text, CSV and Parquet ----------------------------------------------------------


def test_each_line_of_text_is_a_prompt(tmp_path: Path) -> None:
    options = {"system": "Be brief", "model": "demo", "members": {"max_tokens": 5}}
    first, second = requests(source(tmp_path, "in.txt", "One\n\n Zwölf \n", **options))
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "One"}]
    assert first.body == {"model": "demo", "max_tokens": 5, "messages": messages}
    assert (first.custom_id, second.custom_id) == ("line-1", "line-3")
    assert second.body["messages"][-1]["content"] == " Zwölf "


def test_a_template_renders_the_prompt_of_a_line(tmp_path: Path) -> None:
    opened = source(tmp_path, "in.txt", "cat", template="{{{prompt}}} is {line}")
    assert prompts(opened) == ["{cat} is cat"]


def test_a_csv_column_has_the_prompts(tmp_path: Path) -> None:
    rows = [["custom_id", "prompt"], ["a", 'He said "Hi",\nand left'], ["b", "Ho"]]
    opened = source(tmp_path, "in.csv", table(rows))
    assert prompts(opened) == ['He said "Hi",\nand left', "Ho"]
    assert [request.custom_id for request in requests(opened)] == ["a", "b"]
    assert [opened.format_place(line) for line in opened.iter_lines()] == [
        "in.csv row 1",
        "in.csv row 2",
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_separators_of_spreadsheets_are_detected(tmp_path: Path, separator: str) -> None:
    rows = [["frage", "sprache"], ["eins, zwei; drei", "de"]]
    opened = source(
        tmp_path, "in.csv", table(rows, delimiter=separator), template="{sprache}: {frage}"
    )
    assert prompts(opened) == ["de: eins, zwei; drei"]
    assert [request.custom_id for request in requests(opened)] == ["row-1"]


def test_a_template_may_name_the_column_prompt(tmp_path: Path) -> None:
    rows = [["q", "lang"], ["Hi", "de"]]
    opened = source(tmp_path, "in.csv", table(rows), column="q", template="{lang}: {prompt}")
    assert prompts(opened) == ["de: Hi"]


def test_parquet_values_are_formatted_in_a_template(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "n": [1.5, None], "tags": [["x"], []], "unused": [b"\xff", None]}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    opened = open_source(InputOptions(path=str(tmp_path / "in.parquet"), template="{n} of {tags}"))
    assert prompts(opened) == ['1.5 of ["x"]', " of []"]
    assert [request.custom_id for request in requests(opened)] == ["a", "b"]


def test_an_empty_prompt_is_a_bad_line(tmp_path: Path) -> None:
    rows = [["prompt", "lang"], ["", "de"], [" ", "en"], ["Hi", ""]]
    opened = source(tmp_path, "in.csv", table(rows))
    assert problems(opened) == [
        "in.csv row 1: prompt is empty",
        "in.csv row 2: prompt is empty",
        "",
    ]
    opened = source(tmp_path, "in.csv", table([*rows, ["", ""]]), template="{prompt}{lang}!")
    assert problems(opened) == ["", "", "", "in.csv row 4: every value of the template is empty"]


def test_an_invalid_csv_row_does_not_affect_other_rows(tmp_path: Path) -> None:
    lines = [b"id,prompt", b"a,One", b'b,"x"y', b"c", b"d,\xff", b"e,Two", b'f,"never closed', b""]
    opened = source(tmp_path, "in.csv", b"\r\n".join(lines))
    assert problems(opened) == [
        "",
        "in.csv row 2: it is not CSV: ',' expected after '\"'",
        "in.csv row 3: it has 1 value for 2 columns",
        "in.csv row 4: prompt is not UTF-8: byte 1 is 0xff",
        "",
        "in.csv row 6: it is not CSV: unexpected end of data",
    ]
    names = [opened.get_custom_id(line) for line in opened.iter_lines()]
    assert names == ["a", None, None, "d", "e", None]


@pytest.mark.parametrize("empty", ["", None])
def test_a_row_with_an_empty_custom_id_is_bad(tmp_path: Path, empty: str | None) -> None:
    parquet.write_table(pa.table({"id": [empty], "prompt": ["Hi"]}), tmp_path / "in.parquet")
    opened = open_source(InputOptions(path=str(tmp_path / "in.parquet")))
    assert problems(opened) == ["in.parquet row 1: custom_id is empty"]


# --- Refused inputs --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "field", "message"),
    [
        ("in.txt", "Hi", {"template": "Say {promt}"}, "template", "no {promt} (did you mean "),
        ("in.txt", "Hi", {"template": "Say it"}, "template", "all prompts would be the same"),
        ("in.txt", "Hi", {"template": "}{prompt}"}, "template", "a lone } at position 1"),
        ("in.txt", "Hi", {"column": "q"}, "column", "plain text, which has no column 'q'"),
        ("in.txt", "Hi", {"system": "a\0b"}, "system", "system holds a NUL character"),
        ("in.txt", "Hi", {"model": ""}, "model", "model is empty"),
        ("in.txt", "Hi", {"members": {"max_tokens": "5"}}, "max_tokens", "'5', not a number"),
        ("in.txt", "Hi", {"members": {"messages": HI}}, "members", "are made from the prompts"),
        ("in.txt", "Hi", {"members": {"max_token": 5}}, "members", "did you mean max_tokens?"),
        ("in.csv", "q,lang\n", {}, "column", "in.csv has no column 'prompt'"),
        ("in.csv", "q,lang\n", {"column": "lag"}, "column", "(did you mean lang?)"),
        ("in.csv", "", {}, None, "in.csv is empty"),
        ("in.csv", "a,a\n", {}, None, "several columns named 'a'"),
        ("in.csv", b"a,\xff\n", {}, None, "the first row of in.csv: it is not UTF-8"),
        ("in.csv", 'a,"b', {}, None, "the first row of in.csv"),
        ("in.jsonl", "", {"system": "x"}, "system", "whole requests, which take no system"),
        ("in.jsonl", "", {"template": "x"}, "template", "whole requests, which take no template"),
        ("in.parquet", "PAR1", {}, None, "in.parquet is damaged, or not Parquet"),
        ("in.txt", "Hi".encode("utf-16"), {}, None, "in.txt is UTF-16, not UTF-8"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_input_are_refused(  # noqa: PLR0917 - columns of a table
    tmp_path: Path,
    name: str,
    content: bytes | str,
    options: dict[str, Any],
    field: str | None,
    message: str,
) -> None:
    with pytest.raises(BatchInputInvalid) as caught:
        list(source(tmp_path, name, content, **options).iter_lines())
    assert message in caught.value.message
    assert caught.value.field == field
    assert caught.value.hint


def test_a_missing_column_error_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid) as caught:
        source(tmp_path, "in.csv", "q,lang\n")
    assert "It has q, lang." in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match=r"none\.jsonl cannot be read: \w+"):
        open_source(InputOptions(path=str(tmp_path / "none.jsonl")))


def test_a_directory_is_refused_as_input(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match="is a directory") as caught:
        open_source(InputOptions(path=str(tmp_path)))
    assert caught.value.field == "path"


def test_parquet_without_pyarrow_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BatchInputInvalid, match="a package is missing") as caught:
        source(tmp_path, "in.parquet", b"PAR1")
    assert caught.value.hint == "pip install pyarrow"


def test_zstd_without_its_package_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(BatchInputInvalid, match="a package is missing") as caught:
        list(source(tmp_path, "in.txt.zst", zstd.compress(b"Hi")).iter_lines())
    assert caught.value.hint == "pip install backports.zstd"


# --- The format ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", request_line()),
        ("in.ndjson", request_line()),
        ("in.JSONL", request_line()),
        ("in.v2.jsonl.gz", gz(request_line())),
        ("in.txt", b"Hi"),
        ("in.csv", b"prompt,x\nHi,y"),
        ("in.tsv", b"prompt\tx\nHi\ty"),
        ("input", request_line()),
        ("input", b"\xef\xbb\xbf\n " + request_line()),
        ("input", gz(request_line())),
        ("input", b"Hi"),
        ("in.json", request_line()),
        ("in.json", b"\xef\xbb\xbf\n [\n" + request_line() + b"\n]\n"),
        ("in.jsonl", b"[" + request_line() + b"]"),
        ("in.json.gz", gz(b"[" + request_line() + b"]")),
        ("input", b"[ " + request_line() + b"]"),
        ("in.csv", b"sep=;\r\nprompt;x\r\nHi;y\r\n"),
        ("in.csv", b'\xef\xbb\xbf"sep=|"\nprompt|x\nHi|y\n'),
        ("in.csv", b"SEP=\t\n\nprompt\tx;;\nHi\ty\n"),
        ("in.csv.gz", gz(b"sep=;;\r\nprompt;x\r\nHi;y\r\n")),
    ],
)
def test_the_format_is_detected_by_name_or_content(
    tmp_path: Path, name: str, content: bytes
) -> None:
    assert prompts(source(tmp_path, name, content)) == ["Hi"]


def test_parquet_is_detected_by_its_content(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["Hi"]}), tmp_path / "input")
    assert prompts(open_source(InputOptions(path=str(tmp_path / "input")))) == ["Hi"]


MANY = b"".join(b"%d: \xc3\xa9\n" % number for number in range(9))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("in.yaml", b"- Hi\n", r"the format of in\.yaml is unknown: \.yaml is none of \.jsonl"),
        ("in.yml.gz", gz(b"- Hi\n"), r"\.yml is none of"),
        ("in.py", b"print('Hi')\n", r"\.py is none of"),
        ("in.data", b"Hi", r"\.data is none of"),
        ("in.v2", b"Hi", r"\.v2 is none of"),
        ("in.jsonl.bak", request_line(), r"\.bak is none of"),
        ("in.xlsx", b"\x7fELF\x02\x01\x01\0", r"\.xlsx is none of"),
        ("in.zip", b"PK\x03\x04", r"\.zip is none of"),
        ("in.txt", b"PK\x03\x04\n", "is a zip archive"),
        ("in.csv", b"PK\x03\x04\n", "is a zip archive"),
        ("in.jsonl", b"PK\x03\x04\n", "is a zip archive"),
        ("in", b"PK\x03\x04\n", "is a zip archive"),
        ("in.txt.gz", gz(b"PK\x03\x04\n"), "is a zip archive"),
        ("in.txt.zst", zstd.compress(gz(b"Hi")), "is compressed once more"),
        ("in.txt", b"%PDF-1.7\n", "is a PDF document"),
        ("in.txt", MANY + b"\0\x7f", "is binary data"),
        ("in", b"\x7fELF\x02\x01\x01\0\n", "is binary data"),
        ("in.txt", "Hi\nyou".encode("utf-16-le"), "is binary data"),
        ("in", b"#!/usr/bin/env python\nprint()\n", "code or markup"),
        ("in", b"---\n- Hi\n", "code or markup"),
        ("in", b"<?xml version='1.0'?>", "code or markup"),
        ("in.txt", request_line(), "seems to contain requests"),
        ("in.txt", b"[\n  " + request_line() + b"]", "seems to contain requests"),
        ("in.csv", "sep=;\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_an_input_of_unknown_format_is_refused(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    with pytest.raises(BatchInputInvalid, match=why) as caught:
        source(tmp_path, name, content)
    assert caught.value.field == "format" or "UTF-16" in why
    assert "--format" in caught.value.hint or "UTF-16" in why
    if "UTF-16" not in why:
        assert list(source(tmp_path, name, content, format="text").iter_lines())


@pytest.mark.parametrize("text", ["[1] What is that?", "[INST] Hi", "{a} is a set", "- one"])
def test_a_prompt_may_start_with_any_character(tmp_path: Path, text: str) -> None:
    assert prompts(source(tmp_path, "in.txt", text)) == [text]
    if not text.startswith("{"):
        assert prompts(source(tmp_path, "in", text)) == [text]


ARRAY = [
    {"custom_id": "a", "body": {"messages": HI}},
    {"custom_id": '[{"', "body": {"messages": [{"role": "user", "content": '\\"}],\n[{" é \\'}]}},
    {"custom_id": "c", "body": {"messages": HI, "stop": ["]", "}", ","]}},
]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 2**18])
def test_the_elements_of_a_json_array_are_the_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, block: int
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.json_array.BLOCK_BYTES", block)
    opened = source(tmp_path, "in.json", json.dumps(ARRAY, indent=indent) + "\n \n")
    assert [(request.custom_id, request.body) for request in requests(opened)] == [
        (element["custom_id"], element["body"]) for element in ARRAY
    ]
    assert len({line.digest for line in opened.iter_lines()}) == 3
    assert opened.format_place(list(opened.iter_lines())[2]) == "in.json item 3"


@pytest.mark.parametrize("content", ["[]", " [ \n ]\n"])
def test_an_empty_array_has_no_requests(tmp_path: Path, content: str) -> None:
    assert requests(source(tmp_path, "in.json", content)) == []


def test_a_bad_element_is_reported_with_its_place(tmp_path: Path) -> None:
    content = b'["Hi", 5,\n' + request_line("c") + b',\n{"custom_id": "d"}, {"x": 1]]'
    assert problems(source(tmp_path, "in.json", content)) == [
        "in.json item 1: it is not a JSON object",
        "in.json item 2: it is not a JSON object",
        "",
        "in.json item 4: body is missing",
        "in.json item 5: it is not JSON: JSON is malformed: expected ',' or '}' (byte 7)",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" + request_line(), "its array does not end"),
        (b"[" + request_line() + b',\n"Hi', "its array does not end"),
        (b"[\n" + request_line() + b"]\n,", "continues after the end of its array"),
        (b"[\n" + request_line() + b"]\n" + request_line(), "continues after the end of its array"),
        (json.dumps(ARRAY[0], indent=2).encode(), "has a JSON object over several lines"),
        (b"{ \r\n}\r\n", "has a JSON object over several lines"),
    ],
)
def test_an_invalid_array_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BatchInputInvalid, match=message):
        requests(source(tmp_path, "in.json", content))


def test_an_element_that_is_too_long_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.json_array.MAX_LINE_BYTES", 200)
    content = b"[" + request_line("a", metadata="x" * 999) + b"," + request_line("b") + b"]"
    first, second = problems(source(tmp_path, "in.json", content))
    assert "item 1: it is longer than" in first
    assert not second


def test_lines_that_start_with_an_array_are_still_lines(tmp_path: Path) -> None:
    first, second = problems(source(tmp_path, "in.jsonl", b"[]\n" + request_line()))
    assert first == "in.jsonl line 1: it is not a JSON object"
    assert not second


@pytest.mark.parametrize("url", ["/chat/completions", "/v1/chat/completions"])
def test_routes_without_v1_are_accepted(tmp_path: Path, url: str) -> None:
    [request] = requests(source(tmp_path, "in.jsonl", request_line(url=url)))
    assert request.url == "/v1/chat/completions"
    assert "url is '/chat'" in problems(source(tmp_path, "in.jsonl", request_line(url="/chat")))[0]


def test_a_sep_row_is_detected_as_csv(tmp_path: Path) -> None:
    assert prompts(source(tmp_path, "in", b'\xef\xbb\xbf"sep=;"\r\nprompt;x\r\nHi;y\r\n')) == ["Hi"]


def test_an_explicit_format_overrides_the_name(tmp_path: Path) -> None:
    assert prompts(source(tmp_path, "in.jsonl", "Hi", format="text")) == ["Hi"]


# --- Sizes, damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_line_that_is_too_long_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.base.MAX_LINE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    content = b"One\n" + b"x" * 101 + b"\nTwo\n" + b"y" * 1000
    opened = source(tmp_path, "in.txt", pack(content))
    assert problems(opened) == [
        "",
        "in.txt line 2: it is longer than 16 MiB",
        "",
        "in.txt line 4: it is longer than 16 MiB",
    ]
    digests = [line.digest for line in opened.iter_lines()]
    changed = source(tmp_path, "in.txt", pack(content + b"y"))
    assert [line.digest for line in changed.iter_lines()][:3] == digests[:3]
    assert [line.digest for line in changed.iter_lines()][3] != digests[3]


def test_a_line_of_the_maximum_length_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.base.MAX_LINE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    assert prompts(source(tmp_path, "in.txt", b"x" * 99 + b"\ny")) == ["x" * 99, "y"]


@pytest.mark.parametrize(
    "row",
    [
        'b,"' + "x\n" * 100 + '"',
        'b,"' + 'x""\n' * 50 + '"',
        "b," + "x" * 200,
        'b,"' + "x" * 200 + '"',
    ],
)
def test_a_row_that_is_too_long_does_not_affect_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.csv.MAX_LINE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    opened = source(tmp_path, "in.csv", f"id,prompt\na,One\n{row}\nc,Two\n")
    message = "in.csv row 2: it is longer than 16 MiB, or a quote in it is never closed"
    assert problems(opened) == ["", message, ""]


def test_a_csv_value_may_exceed_the_default_limit_of_csv(tmp_path: Path) -> None:
    prompt = "x" * 200_000
    assert prompts(source(tmp_path, "in.csv", table([["prompt"], [prompt]]))) == [prompt]


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_truncated_compressed_data_is_reported(tmp_path: Path, name: str) -> None:
    lines = b"\n".join(request_line(f"{index:x}") for index in range(20_000))
    packed = PACK[Path(name).suffix](lines)
    opened = source(tmp_path, name, packed[: len(packed) // 2])
    with pytest.raises(BatchInputInvalid, match=f"{name} is cut off"):
        list(opened.iter_lines())


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_damaged_compressed_data_is_reported(tmp_path: Path, name: str) -> None:
    packed = bytearray(
        PACK[Path(name).suffix](b"\n".join(request_line(f"{n:x}") for n in range(20_000)))
    )
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    opened = source(tmp_path, name, bytes(packed))
    with pytest.raises(BatchInputInvalid, match=f"{name} is damaged"):
        list(opened.iter_lines())


def test_damaged_parquet_is_reported(tmp_path: Path) -> None:
    columns = {"prompt": [f"{n:x}" * 20 for n in range(20_000)]}
    parquet.write_table(pa.table(columns), tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    content[100:5000] = bytes(4900)
    opened = source(tmp_path, "in.parquet", bytes(content))
    with pytest.raises(BatchInputInvalid, match=r"in\.parquet is damaged"):
        list(opened.iter_lines())


def test_abandoning_the_iteration_closes_the_file(tmp_path: Path) -> None:
    """An open file would cause a warning, which is an error in these tests."""
    lines = source(tmp_path, "in.txt.gz", gz(b"a\n" * 1000)).iter_lines()
    assert next(lines).raw == b"a"
    del lines


# --- Digests and fingerprints ----------------------------------------------------------------


def digests(source: Source) -> list[int]:
    return [line.digest for line in source.iter_lines()]


@pytest.mark.parametrize(
    ("name", "content", "other"),
    [
        ("in.jsonl", request_line("a"), request_line("b")),
        ("in.txt", b"a", b"b"),
        ("in.csv", b"prompt,x\na,b", b'prompt,x\n"a",c'),
    ],
)
def test_digests_depend_on_content_and_options(
    tmp_path: Path, name: str, content: bytes, other: bytes
) -> None:
    opened = source(tmp_path, name, content)
    assert digests(opened) == digests(source(tmp_path, f"copy-of-{name}", content))
    changed = [
        source(tmp_path, name, other),
        source(tmp_path, name, content, model="demo"),
        source(tmp_path, name, content, members={"max_tokens": 5}),
    ]
    all_digests = [digests(source)[0] for source in changed] + [digests(opened)[0]]
    assert all(0 <= digest < 2**63 for digest in all_digests)
    seen = {digests(source(tmp_path, name, content, model=f"m{n}"))[0] for n in range(20)}
    assert len(seen) == 20


def test_digests_depend_on_the_csv_header(tmp_path: Path) -> None:
    one = digests(source(tmp_path, "in.csv", "prompt,system\nHi,Ho"))
    other = digests(source(tmp_path, "in.csv", "system,prompt\nHi,Ho"))
    assert one != other


def test_the_fingerprint_depends_on_content_and_options_not_the_path(
    tmp_path: Path,
) -> None:
    here = source(tmp_path, "in.txt", "Hi").compute_fingerprint()
    (tmp_path / "there").mkdir()
    assert source(tmp_path / "there", "other.txt", "Hi").compute_fingerprint() == here
    assert source(tmp_path, "in.txt", "Ho").compute_fingerprint() != here
    assert source(tmp_path, "in.txt", "Hi", system="x").compute_fingerprint() != here
    assert source(tmp_path, "in.txt", "Hi", format="text").compute_fingerprint() == here


def test_the_order_of_members_does_not_change_the_digest(tmp_path: Path) -> None:
    one = source(tmp_path, "in.txt", "Hi", members={"seed": 1, "top_p": 1})
    other = source(tmp_path, "in.txt", "Hi", members={"top_p": 1, "seed": 1})
    assert (one.compute_fingerprint(), digests(one)) == (
        other.compute_fingerprint(),
        digests(other),
    )


def test_a_line_survives_serialization(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", request_line()),
        ("a.csv", b"prompt,x\nHi,y"),
        ("a.txt", b"Hi"),
    ):
        opened = source(tmp_path, name, content)
        (line,) = opened.iter_lines()
        there = msgspec.msgpack.decode(msgspec.msgpack.encode(line), type=Line)
        assert opened.parse_request(line) == opened.parse_request(there)


# --- Standard input --------------------------------------------------------------------------

READ_TWICE = """
import sys
from pathlib import Path
from foundry_api import InputOptions
from foundry_api.batch.sources import open_source
spool = Path(sys.argv[1])
source = open_source(InputOptions(path="-"), spool=spool, copy_mode=sys.argv[2])
for _ in range(2):
    lines = list(source.iter_lines())
    print([source.parse_request(line).custom_id for line in lines], source.format_place(lines[0]))
"""


def read_twice(spool: Path, given: bytes, copy_mode: str = "verify") -> str:
    arguments = [sys.executable, "-c", READ_TWICE, str(spool), copy_mode]
    done = subprocess.run(arguments, input=given, capture_output=True, check=False)
    output = done.stdout.decode() or done.stderr.decode().splitlines()[-1]
    return output.replace(os.linesep, "\n")


def test_standard_input_is_copied_and_read_again(tmp_path: Path) -> None:
    spool = tmp_path / "out.batch" / "input"
    output = "['line-1', 'line-2'] standard input line 1\n" * 2
    assert read_twice(spool, b"a\nb\n") == output
    assert spool.read_bytes() == b"a\nb\n"
    assert [path.name for path in spool.parent.iterdir()] == ["input"]
    if sys.platform != "win32":
        assert spool.stat().st_mode & 0o777 == 0o600
    assert read_twice(spool, b"", "reuse") == output
    assert read_twice(spool, b"a\nb\n") == output


def test_different_standard_input_does_not_replace_the_copy(
    tmp_path: Path,
) -> None:
    spool = tmp_path / "input"
    read_twice(spool, b"a\nb\n")
    assert "BatchMismatch: standard input is not what" in read_twice(spool, b"a\nc\n")
    assert "BatchMismatch" in read_twice(spool, b"a\nb\nc\n")
    assert spool.read_bytes() == b"a\nb\n"
    assert read_twice(spool, b"c\n", "replace") == "['line-1'] standard input line 1\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


def test_reused_standard_input_fails_without_a_copy(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match="there is no copy of standard input"):
        spool_stdin("-", tmp_path / "input", "reuse")


def test_a_copy_of_standard_input_that_fails_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi")))
    with pytest.raises(BatchStorageFailed, match="standard input cannot be copied to"):
        spool_stdin("-", tmp_path / "file" / "input", "verify")


STREAMED = """
from foundry_api import InputOptions
from foundry_api.batch.sources import open_source
source = open_source(InputOptions(path="-", column={column!r}))
for line in source.iter_lines():
    print(source.parse_request(line).body["messages"][0]["content"], flush=True)
"""


@pytest.mark.parametrize(
    ("pieces", "column"),
    [
        ([b"One\n", b"Two\n"], None),
        ([b"q,x\nOne,1\n", b"Two,2\n"], "q"),
        ([b"O", b"ne\nTwo\n"], None),
    ],
)
def test_a_stream_is_read_as_it_arrives(pieces: list[bytes], column: str | None) -> None:
    """The first line is available before the writer has sent the last one."""
    program = STREAMED.format(column=column)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        output = b""
        for piece in pieces:
            child.stdin.write(piece)
            child.stdin.flush()
            if b"\n" in piece:
                output += child.stdout.readline()
        child.stdin.close()
        output += child.stdout.read()
    assert output.split() == [b"One", b"Two"]


def streamed(monkeypatch: pytest.MonkeyPatch, content: bytes, **options: Any) -> Source:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return open_source(InputOptions(path="-", **options))


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_stream_may_be_compressed(
    monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    opened = streamed(monkeypatch, pack(b"prompt,x\nHi,1\n"), format="csv")
    assert prompts(opened) == ["Hi"]


def test_a_stream_can_be_read_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = streamed(monkeypatch, request_line())
    assert (opened.is_seekable, opened.size_bytes, opened.name) == (False, None, "standard input")
    assert prompts(opened) == ["Hi"]
    with pytest.raises(BatchInputInvalid, match="can be read only once"):
        list(opened.iter_lines())
    with pytest.raises(BatchInputInvalid, match="can be read only once"):
        opened.compute_fingerprint()


def test_streamed_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BatchInputInvalid, match="cannot be read as a stream"):
        streamed(monkeypatch, b"PAR1....PAR1")


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_missing_standard_input_is_reported(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BatchInputInvalid, match="has no standard input"):
        open_source(InputOptions(path=path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX devices")
def test_an_endless_device_is_refused() -> None:
    with pytest.raises(BatchInputInvalid, match="/dev/zero is a device") as caught:
        open_source(InputOptions(path="/dev/zero"))
    assert caught.value.field == "path"
    assert requests(open_source(InputOptions(path=os.devnull))) == []


@pytest.mark.parametrize("path", ["-", "/dev/stdin"])
def test_a_pipe_can_be_checked(path: str) -> None:
    if sys.platform == "win32" and path != "-":
        pytest.skip("needs POSIX devices")
    done = run(
        "batch", "check", path, stdin=request_line("a") + b"\n" + request_line("b") + b"\n[]"
    )
    name = "standard input" if path == "-" else path
    assert f"{name}: 3 lines, 1 bad line\n" in done.stdout
    assert done.returncode == 2


# --- Any content ------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(str.strip)
ONE_LINE = TEXT.map(lambda text: text.replace("\n", " ").replace("\r", " ")).filter(str.strip)
ANY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)
FORM = st.tuples(
    st.sampled_from(sorted(PACK)),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from(["\n", "\r\n"]),
)


@ANY
@given(texts=st.lists(TEXT, max_size=8), form=FORM, blank=st.booleans(), last=st.booleans())
def test_any_requests_round_trip_through_a_file(
    tmp_path: Path,
    texts: list[str],
    form: tuple[str, bytes, str],
    blank: bool,  # noqa: FBT001 - hypothesis calls by name
    last: bool,  # noqa: FBT001 - as above
) -> None:
    pack, mark, end = form
    expected = [
        BatchRequest(
            custom_id=f"id-{index}",
            body={"messages": [{"role": "user", "content": text}], "max_tokens": index + 1},
        )
        for index, text in enumerate(texts)
    ]
    lines = [msgspec.json.encode(request).decode() for request in expected]
    content = (end * (2 if blank else 1)).join(lines) + (end if last else "")
    opened = source(tmp_path, f"in.jsonl{pack}", PACK[pack](mark + content.encode()))
    assert requests(opened) == expected


@ANY
@given(texts=st.lists(ONE_LINE, max_size=8), form=FORM)
def test_any_lines_of_text_are_the_prompts(
    tmp_path: Path, texts: list[str], form: tuple[str, bytes, str]
) -> None:
    pack, mark, end = form
    texts = [text.removeprefix("\ufeff") or "x" for text in texts]
    content = mark + end.join(texts).encode()
    opened = source(tmp_path, f"in.txt{pack}", PACK[pack](content))
    assert prompts(opened) == [text for text in texts if text.encode().strip()]


@ANY
@given(
    rows=st.lists(st.tuples(TEXT, st.text(st.characters(exclude_categories=["Cs"]))), max_size=8),
    form=FORM,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    separator=st.sampled_from(",;\t"),
)
def test_any_rows_of_csv_are_the_prompts(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    form: tuple[str, bytes, str],
    quoting: Any,
    separator: str,
) -> None:
    pack, mark, end = form
    rows = [(prompt, other.replace("\0", "")) for prompt, other in rows]
    if end == "\n":
        quoting = csv.QUOTE_ALL  # before Python 3.13 the writer leaves a lone CR without quotes
    text = table(
        [("prompt", "other"), *rows], lineterminator=end, quoting=quoting, delimiter=separator
    )
    opened = source(tmp_path, f"in.csv{pack}", PACK[pack](mark + text.encode()))
    assert prompts(opened) == [prompt for prompt, _ in rows]


@ANY
@given(rows=st.lists(st.tuples(TEXT, st.integers(-(2**31), 2**31)), min_size=1, max_size=8))
def test_any_rows_of_parquet_are_the_prompts(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    columns = {"prompt": [text for text, _ in rows], "n": [number for _, number in rows]}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=3)
    opened = open_source(
        InputOptions(path=str(tmp_path / "in.parquet"), template="{n} {{}} {prompt}")
    )
    assert prompts(opened) == [f"{number} {{}} {text}" for text, number in rows]


@ANY
@given(content=st.binary(max_size=300), kind=st.sampled_from(["jsonl", "txt", "csv"]))
def test_any_bytes_give_requests_or_foundry_errors(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    try:
        opened = source(tmp_path, f"in.{kind}", content)
        places = [(line.index, line.number) for line in opened.iter_lines()]
        problems(opened)
    except BatchInputInvalid:
        return
    assert [index for index, _ in places] == list(range(len(places)))
    assert [number for _, number in places] == sorted({number for _, number in places})
