"""What a batch reads: every form of an input gives the requests that are in it."""

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
    """Compressed without the time of day, which would be in the name of a test."""
    return gzip.compress(data, mtime=0)


HI = [{"role": "user", "content": "Hi"}]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gz,
    ".zst": zstd.compress,
}


def asks(custom_id: Any = "a", **members: Any) -> bytes:
    """A line of OpenAI's batch files."""
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


def why(source: Source) -> list[str]:
    """What is wrong with each line; empty for one that is right."""

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


def test_a_line_of_openai_is_the_request_that_it_says(tmp_path: Path) -> None:
    body = {"model": "demo", "input": ["a", "b"]}
    lines = (
        asks("a", body={"messages": HI, "max_tokens": 5}),
        asks("b", url=EMBEDDINGS_URL, body=body),
    )
    assert requests(source(tmp_path, "in.jsonl", b"\n".join(lines))) == [
        BatchRequest(custom_id="a", body={"messages": HI, "max_tokens": 5}),
        BatchRequest(custom_id="b", body=body, url=EMBEDDINGS_URL),
    ]


def test_lines_are_counted_as_an_editor_counts_them_and_requests_without_blank_ones(
    tmp_path: Path,
) -> None:
    """A byte order mark and the ends of lines of Windows are no part of a line."""
    content = b"\xef\xbb\xbf" + b"\r\n".join([asks("a"), b"", b"  \t", asks("b"), b""])
    lines = list(source(tmp_path, "in.jsonl", content).iter_lines())
    assert [(line.index, line.number, line.raw) for line in lines] == [
        (0, 1, asks("a")),
        (1, 4, asks("b")),
    ]


def test_members_of_the_options_are_for_bodies_that_lack_them(tmp_path: Path) -> None:
    lines = asks("a"), asks("b", body={"messages": HI, "max_tokens": 5, "model": "tiny"})
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
        (asks(7), "custom_id", "custom_id is 7, not a text"),
        (asks(""), "custom_id", "custom_id is empty"),
        (asks("x" * 513), "custom_id", "custom_id has 513 characters, but may have 512"),
        (b'{"body": {}}', "custom_id", "custom_id is missing"),
        (b'{"custom_id": "a"}', "body", "body is missing"),
        (asks(body=[1]), "body", "body is not a JSON object"),
        (asks(method="GET"), "method", "method is 'GET', but must be POST"),
        (
            asks(url="/v1/completions"),
            "url",
            "url is '/v1/completions', but must be one of /v1/chat",
        ),
        (asks(custom="a"), "custom", "custom is no member of a request (did you mean custom_id?)"),
        (asks(body={}), "body.messages", "messages is missing"),
        (asks(body={"messages": HI, "max_token": 1}), "body.max_token", "did you mean max_tokens?"),
        (asks(body={"messages": HI, "stream": True}), "body.stream", "stream is true, but"),
    ],
)
def test_a_bad_line_is_told_with_its_place_and_the_member(
    tmp_path: Path, line: bytes, field: str | None, message: str
) -> None:
    opened = source(tmp_path, "in.jsonl", b"\n" + line + b"\n" + asks("good"))
    bad, good = opened.iter_lines()
    with pytest.raises(InvalidRequest) as caught:
        opened.parse_request(bad)
    assert caught.value.message.startswith("in.jsonl line 2: ")
    assert message in caught.value.message
    assert caught.value.field == field
    assert opened.parse_request(good).custom_id == "good"


def test_a_member_of_the_options_that_a_line_cannot_have_is_told_as_such(tmp_path: Path) -> None:
    line = asks(url=EMBEDDINGS_URL, body={"input": "Hi"})
    opened = source(tmp_path, "in.jsonl", line, members={"max_tokens": 5})
    refused = (
        "max_tokens is not a member of a request to /v1/embeddings (it comes from the options)"
    )
    assert why(opened) == [f"in.jsonl line 1: {refused}"]


def test_a_message_about_a_line_does_not_repeat_all_of_it(tmp_path: Path) -> None:
    (told,) = why(source(tmp_path, "in.jsonl", asks(["x" * 10_000])))
    assert len(told) <= 501


@pytest.mark.parametrize(
    ("line", "name"),
    [(asks("a", body={}), "a"), (asks("a", more=1), "a"), (asks(5), None), (b"{", None)],
)
def test_a_bad_line_keeps_its_name_for_the_error_file(
    tmp_path: Path, line: bytes, name: str | None
) -> None:
    opened = source(tmp_path, "in.jsonl", line)
    assert [opened.get_custom_id(each) for each in opened.iter_lines()] == [name]


# --- Lines of text, CSV and Parquet ----------------------------------------------------------


def test_each_line_of_text_is_a_prompt(tmp_path: Path) -> None:
    options = {"system": "Be brief", "model": "demo", "members": {"max_tokens": 5}}
    first, second = requests(source(tmp_path, "in.txt", "One\n\n Zwölf \n", **options))
    told = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "One"}]
    assert first.body == {"model": "demo", "max_tokens": 5, "messages": told}
    assert (first.custom_id, second.custom_id) == ("line-1", "line-3")
    assert second.body["messages"][-1]["content"] == " Zwölf "


def test_a_template_makes_the_prompt_of_a_line(tmp_path: Path) -> None:
    opened = source(tmp_path, "in.txt", "cat", template="{{{prompt}}} is {line}")
    assert prompts(opened) == ["{cat} is cat"]


def test_a_column_of_csv_has_the_prompts(tmp_path: Path) -> None:
    rows = [["custom_id", "prompt"], ["a", 'He said "Hi",\nand left'], ["b", "Ho"]]
    opened = source(tmp_path, "in.csv", table(rows))
    assert prompts(opened) == ['He said "Hi",\nand left', "Ho"]
    assert [request.custom_id for request in requests(opened)] == ["a", "b"]
    assert [opened.format_place(line) for line in opened.iter_lines()] == [
        "in.csv row 1",
        "in.csv row 2",
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_values_may_be_separated_as_spreadsheets_do_it(tmp_path: Path, separator: str) -> None:
    rows = [["frage", "sprache"], ["eins, zwei; drei", "de"]]
    opened = source(
        tmp_path, "in.csv", table(rows, delimiter=separator), template="{sprache}: {frage}"
    )
    assert prompts(opened) == ["de: eins, zwei; drei"]
    assert [request.custom_id for request in requests(opened)] == ["row-1"]


def test_a_template_may_call_the_prompts_column_prompt(tmp_path: Path) -> None:
    rows = [["q", "lang"], ["Hi", "de"]]
    opened = source(tmp_path, "in.csv", table(rows), column="q", template="{lang}: {prompt}")
    assert prompts(opened) == ["de: Hi"]


def test_a_column_of_parquet_has_the_prompts(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "n": [1.5, None], "tags": [["x"], []], "unused": [b"\xff", None]}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    opened = open_source(InputOptions(path=str(tmp_path / "in.parquet"), template="{n} of {tags}"))
    assert prompts(opened) == ['1.5 of ["x"]', " of []"]
    assert [request.custom_id for request in requests(opened)] == ["a", "b"]


def test_an_empty_prompt_is_a_bad_line(tmp_path: Path) -> None:
    rows = [["prompt", "lang"], ["", "de"], [" ", "en"], ["Hi", ""]]
    opened = source(tmp_path, "in.csv", table(rows))
    assert why(opened) == ["in.csv row 1: prompt is empty", "in.csv row 2: prompt is empty", ""]
    opened = source(tmp_path, "in.csv", table([*rows, ["", ""]]), template="{prompt}{lang}!")
    assert why(opened) == ["", "", "", "in.csv row 4: every value of the template is empty"]


def test_rows_that_are_no_csv_are_bad_and_the_others_are_not(tmp_path: Path) -> None:
    lines = [b"id,prompt", b"a,One", b'b,"x"y', b"c", b"d,\xff", b"e,Two", b'f,"never closed', b""]
    opened = source(tmp_path, "in.csv", b"\r\n".join(lines))
    assert why(opened) == [
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
def test_a_row_without_a_name_in_the_column_for_it_is_bad(
    tmp_path: Path, empty: str | None
) -> None:
    parquet.write_table(pa.table({"id": [empty], "prompt": ["Hi"]}), tmp_path / "in.parquet")
    opened = open_source(InputOptions(path=str(tmp_path / "in.parquet")))
    assert why(opened) == ["in.parquet row 1: custom_id is empty"]


# --- What is refused as a whole --------------------------------------------------------------


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
def test_options_that_do_not_fit_the_input_are_refused_at_once(  # noqa: PLR0917 - a table's columns
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


def test_a_missing_column_is_told_with_the_columns_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid) as caught:
        source(tmp_path, "in.csv", "q,lang\n")
    assert "It has q, lang." in caught.value.hint


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match=r"none\.jsonl cannot be read: No such file"):
        open_source(InputOptions(path=str(tmp_path / "none.jsonl")))


def test_a_directory_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match="is a directory") as caught:
        open_source(InputOptions(path=str(tmp_path)))
    assert caught.value.field == "path"


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BatchInputInvalid, match="a package is missing") as caught:
        source(tmp_path, "in.parquet", b"PAR1")
    assert caught.value.hint == "pip install 'foundry-api[batch]'"


def test_zstd_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(BatchInputInvalid, match="a package is missing") as caught:
        list(source(tmp_path, "in.txt.zst", zstd.compress(b"Hi")).iter_lines())
    assert caught.value.hint == "pip install 'foundry-api[batch]'"


# --- The format ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", asks()),
        ("in.ndjson", asks()),
        ("in.JSONL", asks()),
        ("in.v2.jsonl.gz", gz(asks())),
        ("in.txt", b"Hi"),
        ("in.csv", b"prompt,x\nHi,y"),
        ("in.tsv", b"prompt\tx\nHi\ty"),
        ("input", asks()),
        ("input", b"\xef\xbb\xbf\n " + asks()),
        ("input", gz(asks())),
        ("input", b"Hi"),
        ("in.json", asks()),
        ("in.json", b"\xef\xbb\xbf\n [\n" + asks() + b"\n]\n"),
        ("in.jsonl", b"[" + asks() + b"]"),
        ("in.json.gz", gz(b"[" + asks() + b"]")),
        ("input", b"[ " + asks() + b"]"),
        ("in.csv", b"sep=;\r\nprompt;x\r\nHi;y\r\n"),
        ("in.csv", b'\xef\xbb\xbf"sep=|"\nprompt|x\nHi|y\n'),
        ("in.csv", b"SEP=\t\n\nprompt\tx;;\nHi\ty\n"),
        ("in.csv.gz", gz(b"sep=;;\r\nprompt;x\r\nHi;y\r\n")),
    ],
)
def test_the_format_is_told_by_the_name_else_by_the_content(
    tmp_path: Path, name: str, content: bytes
) -> None:
    assert prompts(source(tmp_path, name, content)) == ["Hi"]


def test_parquet_of_any_name_is_known_by_its_content(tmp_path: Path) -> None:
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
        ("in.jsonl.bak", asks(), r"\.bak is none of"),
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
        ("in.txt", asks(), "seems to contain requests"),
        ("in.txt", b"[\n  " + asks() + b"]", "seems to contain requests"),
        ("in.csv", "sep=;\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_what_may_be_anything_is_not_asked_as_prompts(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    with pytest.raises(BatchInputInvalid, match=why) as caught:
        source(tmp_path, name, content)
    assert caught.value.field == "format" or "UTF-16" in why
    assert "--format" in caught.value.hint or "UTF-16" in why
    if "UTF-16" not in why:
        assert list(source(tmp_path, name, content, format="text").iter_lines())


@pytest.mark.parametrize("text", ["[1] What is that?", "[INST] Hi", "{a} is a set", "- one"])
def test_a_prompt_may_begin_with_any_sign(tmp_path: Path, text: str) -> None:
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
def test_the_elements_of_an_array_are_the_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, block: int
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.json_array.BLOCK_BYTES", block)
    opened = source(tmp_path, "in.json", json.dumps(ARRAY, indent=indent) + "\n \n")
    assert [(each.custom_id, each.body) for each in requests(opened)] == [
        (each["custom_id"], each["body"]) for each in ARRAY
    ]
    assert len({line.digest for line in opened.iter_lines()}) == 3
    assert opened.format_place(list(opened.iter_lines())[2]) == "in.json item 3"


@pytest.mark.parametrize("content", ["[]", " [ \n ]\n"])
def test_an_empty_array_has_no_requests(tmp_path: Path, content: str) -> None:
    assert requests(source(tmp_path, "in.json", content)) == []


def test_a_bad_element_is_told_with_its_place(tmp_path: Path) -> None:
    content = b'["Hi", 5,\n' + asks("c") + b',\n{"custom_id": "d"}, {"x": 1]]'
    assert why(source(tmp_path, "in.json", content)) == [
        "in.json item 1: it is not a JSON object",
        "in.json item 2: it is not a JSON object",
        "",
        "in.json item 4: body is missing",
        "in.json item 5: it is not JSON: JSON is malformed: expected ',' or '}' (byte 7)",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" + asks(), "its array does not end"),
        (b"[" + asks() + b',\n"Hi', "its array does not end"),
        (b"[\n" + asks() + b"]\n,", "continues after the end of its array"),
        (b"[\n" + asks() + b"]\n" + asks(), "continues after the end of its array"),
        (json.dumps(ARRAY[0], indent=2).encode(), "has a JSON object over several lines"),
        (b"{ \r\n}\r\n", "has a JSON object over several lines"),
    ],
)
def test_an_array_that_is_none_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(BatchInputInvalid, match=told):
        requests(source(tmp_path, "in.json", content))


def test_an_element_that_is_too_long_is_bad_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.json_array.MAX_LINE_BYTES", 200)
    content = b"[" + asks("a", metadata="x" * 999) + b"," + asks("b") + b"]"
    first, second = why(source(tmp_path, "in.json", content))
    assert "item 1: it is longer than" in first
    assert not second


def test_lines_of_which_the_first_is_an_array_are_lines(tmp_path: Path) -> None:
    first, second = why(source(tmp_path, "in.jsonl", b"[]\n" + asks()))
    assert first == "in.jsonl line 1: it is not a JSON object"
    assert not second


@pytest.mark.parametrize("url", ["/chat/completions", "/v1/chat/completions"])
def test_the_routes_of_azure_are_those_of_openai(tmp_path: Path, url: str) -> None:
    [request] = requests(source(tmp_path, "in.jsonl", asks(url=url)))
    assert request.url == "/v1/chat/completions"
    assert "url is '/chat'" in why(source(tmp_path, "in.jsonl", asks(url="/chat")))[0]


def test_excels_row_tells_a_table_of_any_name(tmp_path: Path) -> None:
    assert prompts(source(tmp_path, "in", b'\xef\xbb\xbf"sep=;"\r\nprompt;x\r\nHi;y\r\n')) == ["Hi"]


def test_the_format_that_was_told_wins(tmp_path: Path) -> None:
    assert prompts(source(tmp_path, "in.jsonl", "Hi", format="text")) == ["Hi"]


# --- Sizes, damage ---------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_line_that_is_too_long_is_bad_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.base.MAX_LINE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    content = b"One\n" + b"x" * 101 + b"\nTwo\n" + b"y" * 1000
    opened = source(tmp_path, "in.txt", pack(content))
    assert why(opened) == [
        "",
        "in.txt line 2: it is longer than 16 MiB",
        "",
        "in.txt line 4: it is longer than 16 MiB",
    ]
    digests = [line.digest for line in opened.iter_lines()]
    changed = source(tmp_path, "in.txt", pack(content + b"y"))
    assert [line.digest for line in changed.iter_lines()][:3] == digests[:3]
    assert [line.digest for line in changed.iter_lines()][3] != digests[3]


def test_a_line_as_long_as_it_may_be_is_good(
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
def test_a_row_that_is_too_long_is_bad_and_the_next_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    monkeypatch.setattr("foundry_api.batch.sources.csv.MAX_LINE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    opened = source(tmp_path, "in.csv", f"id,prompt\na,One\n{row}\nc,Two\n")
    told = "in.csv row 2: it is longer than 16 MiB, or a quote in it is never closed"
    assert why(opened) == ["", told, ""]


def test_a_value_of_csv_may_be_longer_than_the_standard_library_takes(tmp_path: Path) -> None:
    prompt = "x" * 200_000
    assert prompts(source(tmp_path, "in.csv", table([["prompt"], [prompt]]))) == [prompt]


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_compressed_data_that_is_cut_off_is_named(tmp_path: Path, name: str) -> None:
    lines = b"\n".join(asks(f"{index:x}") for index in range(20_000))
    packed = PACK[Path(name).suffix](lines)
    opened = source(tmp_path, name, packed[: len(packed) // 2])
    with pytest.raises(BatchInputInvalid, match=f"{name} is cut off"):
        list(opened.iter_lines())


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_compressed_data_that_is_damaged_is_named(tmp_path: Path, name: str) -> None:
    packed = bytearray(PACK[Path(name).suffix](b"\n".join(asks(f"{n:x}") for n in range(20_000))))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    opened = source(tmp_path, name, bytes(packed))
    with pytest.raises(BatchInputInvalid, match=f"{name} is damaged"):
        list(opened.iter_lines())


def test_parquet_that_is_damaged_is_named(tmp_path: Path) -> None:
    columns = {"prompt": [f"{n:x}" * 20 for n in range(20_000)]}
    parquet.write_table(pa.table(columns), tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    content[100:5000] = bytes(4900)
    opened = source(tmp_path, "in.parquet", bytes(content))
    with pytest.raises(BatchInputInvalid, match=r"in\.parquet is damaged"):
        list(opened.iter_lines())


def test_leaving_the_lines_early_closes_the_file(tmp_path: Path) -> None:
    """An open file would be a warning, which is an error in these tests."""
    lines = source(tmp_path, "in.txt.gz", gz(b"a\n" * 1000)).iter_lines()
    assert next(lines).raw == b"a"
    del lines


# --- Digests and fingerprints ----------------------------------------------------------------


def digests(source: Source) -> list[int]:
    return [line.digest for line in source.iter_lines()]


@pytest.mark.parametrize(
    ("name", "content", "other"),
    [
        ("in.jsonl", asks("a"), asks("b")),
        ("in.txt", b"a", b"b"),
        ("in.csv", b"prompt,x\na,b", b'prompt,x\n"a",c'),
    ],
)
def test_another_line_or_another_option_has_another_digest(
    tmp_path: Path, name: str, content: bytes, other: bytes
) -> None:
    opened = source(tmp_path, name, content)
    assert digests(opened) == digests(source(tmp_path, f"copy-of-{name}", content))
    changed = [
        source(tmp_path, name, other),
        source(tmp_path, name, content, model="demo"),
        source(tmp_path, name, content, members={"max_tokens": 5}),
    ]
    told = [digests(each)[0] for each in changed] + [digests(opened)[0]]
    assert all(0 <= digest < 2**63 for digest in told)
    seen = {digests(source(tmp_path, name, content, model=f"m{n}"))[0] for n in range(20)}
    assert len(seen) == 20


def test_the_same_row_under_other_names_has_another_digest(tmp_path: Path) -> None:
    one = digests(source(tmp_path, "in.csv", "prompt,system\nHi,Ho"))
    other = digests(source(tmp_path, "in.csv", "system,prompt\nHi,Ho"))
    assert one != other


def test_the_fingerprint_is_of_the_content_and_the_options_and_not_of_the_place(
    tmp_path: Path,
) -> None:
    here = source(tmp_path, "in.txt", "Hi").compute_fingerprint()
    (tmp_path / "there").mkdir()
    assert source(tmp_path / "there", "other.txt", "Hi").compute_fingerprint() == here
    assert source(tmp_path, "in.txt", "Ho").compute_fingerprint() != here
    assert source(tmp_path, "in.txt", "Hi", system="x").compute_fingerprint() != here
    assert source(tmp_path, "in.txt", "Hi", format="text").compute_fingerprint() == here


def test_the_order_in_which_members_were_told_does_not_matter(tmp_path: Path) -> None:
    one = source(tmp_path, "in.txt", "Hi", members={"seed": 1, "top_p": 1})
    other = source(tmp_path, "in.txt", "Hi", members={"top_p": 1, "seed": 1})
    assert (one.compute_fingerprint(), digests(one)) == (
        other.compute_fingerprint(),
        digests(other),
    )


def test_a_line_goes_to_another_process_and_means_the_same(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", asks()), ("a.csv", b"prompt,x\nHi,y"), ("a.txt", b"Hi")):
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
source = open_source(InputOptions(path="-"), spool=spool, standard_input=sys.argv[2])
for _ in range(2):
    lines = list(source.iter_lines())
    print([source.parse_request(line).custom_id for line in lines], source.format_place(lines[0]))
"""


def read_twice(spool: Path, given: bytes, use: str = "same") -> str:
    arguments = [sys.executable, "-c", READ_TWICE, str(spool), use]
    done = subprocess.run(arguments, input=given, capture_output=True, check=False)
    return done.stdout.decode() or done.stderr.decode().splitlines()[-1]


def test_standard_input_is_kept_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    spool = tmp_path / "out.batch" / "input"
    told = "['line-1', 'line-2'] standard input line 1\n" * 2
    assert read_twice(spool, b"a\nb\n") == told
    assert spool.read_bytes() == b"a\nb\n"
    assert [path.name for path in spool.parent.iterdir()] == ["input"]
    if sys.platform != "win32":
        assert spool.stat().st_mode & 0o777 == 0o600
    assert read_twice(spool, b"", "kept") == told
    assert read_twice(spool, b"a\nb\n") == told


def test_other_standard_input_does_not_take_the_place_of_what_a_batch_was_begun_with(
    tmp_path: Path,
) -> None:
    spool = tmp_path / "input"
    read_twice(spool, b"a\nb\n")
    assert "BatchMismatch: standard input is not what" in read_twice(spool, b"a\nc\n")
    assert "BatchMismatch" in read_twice(spool, b"a\nb\nc\n")
    assert spool.read_bytes() == b"a\nb\n"
    assert read_twice(spool, b"c\n", "new") == "['line-1'] standard input line 1\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


def test_nothing_was_kept_of_a_batch_that_never_began(tmp_path: Path) -> None:
    with pytest.raises(BatchInputInvalid, match="no copy of standard input was kept"):
        spool_stdin("-", tmp_path / "input", "kept")


def test_standard_input_that_cannot_be_copied_says_where_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi")))
    with pytest.raises(BatchStorageFailed, match="standard input cannot be copied to"):
        spool_stdin("-", tmp_path / "file" / "input", "same")


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
def test_a_stream_is_read_as_it_comes(pieces: list[bytes], column: str | None) -> None:
    """The first line is answered before the pipe's other end has the last one."""
    program = STREAMED.format(column=column)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        told = b""
        for piece in pieces:
            child.stdin.write(piece)
            child.stdin.flush()
            if b"\n" in piece:
                told += child.stdout.readline()
        child.stdin.close()
        told += child.stdout.read()
    assert told.split() == [b"One", b"Two"]


def streamed(monkeypatch: pytest.MonkeyPatch, content: bytes, **options: Any) -> Source:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return open_source(InputOptions(path="-", **options))


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_stream_may_be_compressed(
    monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    opened = streamed(monkeypatch, pack(b"prompt,x\nHi,1\n"), format="csv")
    assert prompts(opened) == ["Hi"]


def test_a_stream_is_read_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = streamed(monkeypatch, asks())
    assert (opened.is_seekable, opened.size_bytes, opened.name) == (False, None, "standard input")
    assert prompts(opened) == ["Hi"]
    with pytest.raises(BatchInputInvalid, match="can be read only once"):
        list(opened.iter_lines())
    with pytest.raises(BatchInputInvalid, match="can be read only once"):
        opened.compute_fingerprint()


def test_parquet_cannot_be_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BatchInputInvalid, match="cannot be read as a stream"):
        streamed(monkeypatch, b"PAR1....PAR1")


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_a_program_without_standard_input_says_so(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BatchInputInvalid, match="has no standard input"):
        open_source(InputOptions(path=path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs devices of POSIX")
def test_a_device_that_never_ends_is_no_input() -> None:
    with pytest.raises(BatchInputInvalid, match="/dev/zero is a device") as caught:
        open_source(InputOptions(path="/dev/zero"))
    assert caught.value.field == "path"
    assert requests(open_source(InputOptions(path=os.devnull))) == []


@pytest.mark.parametrize("path", ["-", "/dev/stdin"])
def test_a_pipe_can_be_checked(path: str) -> None:
    if sys.platform == "win32" and path != "-":
        pytest.skip("needs the devices of POSIX")
    done = run("batch", "check", path, stdin=asks("a") + b"\n" + asks("b") + b"\n[]")
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
def test_any_requests_come_out_of_a_file_as_they_went_in(
    tmp_path: Path,
    texts: list[str],
    form: tuple[str, bytes, str],
    blank: bool,  # noqa: FBT001 - hypothesis calls by name
    last: bool,  # noqa: FBT001 - as above
) -> None:
    pack, mark, end = form
    asked = [
        BatchRequest(
            custom_id=f"id-{index}",
            body={"messages": [{"role": "user", "content": text}], "max_tokens": index + 1},
        )
        for index, text in enumerate(texts)
    ]
    lines = [msgspec.json.encode(request).decode() for request in asked]
    content = (end * (2 if blank else 1)).join(lines) + (end if last else "")
    opened = source(tmp_path, f"in.jsonl{pack}", PACK[pack](mark + content.encode()))
    assert requests(opened) == asked


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
def test_any_bytes_give_requests_or_errors_of_ours(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    try:
        opened = source(tmp_path, f"in.{kind}", content)
        told = [(line.index, line.number) for line in opened.iter_lines()]
        why(opened)
    except BatchInputInvalid:
        return
    assert [index for index, _ in told] == list(range(len(told)))
    assert [number for _, number in told] == sorted({number for _, number in told})
