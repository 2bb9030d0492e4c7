"""The two known formats of a legacy service's download progress."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import DownloadFailed, FoundryError, ProtocolError
from foundry_api.wire.dialects.legacy import MAX_LINE_BYTES, DownloadProgressDecoder, parse_percent

DOCUMENTED = (
    b'("genai_config.json", 1)\n("model.onnx.data", 0.125)\n("model.onnx.data", 1.0)\n'
    b'{"Success": true, "ErrorMessage": null}'
)
OF_THE_SDK = (
    b"Total 0.00% Downloading model.onnx.data\nProgress: 10.1%\nTotal 100.00% Done\n"
    b'{\n  "success": true,\n  "errorMessage": null\n}\n'
)


def read(blocks: list[bytes]) -> list[float]:
    decoder = DownloadProgressDecoder()
    percentages = [percent for block in blocks for percent in decoder.feed(block)]
    decoder.finish()
    return percentages


def test_documented_format() -> None:
    assert read([DOCUMENTED]) == [100.0, 12.5, 100.0]


def test_format_of_the_sdk() -> None:
    assert read([OF_THE_SDK]) == [0.0, 10.1, 100.0]


@given(
    stream=st.sampled_from([DOCUMENTED, OF_THE_SDK]),
    cuts=st.lists(st.integers(0, len(OF_THE_SDK)), max_size=20).map(sorted),
)
def test_any_split_gives_the_same_result(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *cuts, len(stream)]
    blocks = [stream[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]
    assert read(blocks) == read([stream])


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        (b"Total 12.5% of 3 files", 12.5),
        (b"100 %", 100.0),
        (b"250%", 100.0),
        (b'("a, b (1).onnx", 0.25)', 25.0),
        (b"('model.onnx', 1e-3)", 0.1),
        (b"(0.5)", None),
        (b"Downloading model.onnx.data", None),
        (b"", None),
    ],
)
def test_parse_percent(line: bytes, percent: float | None) -> None:
    assert parse_percent(line) == percent


def test_redrawn_progress_bar() -> None:
    assert read([b'10%\r20%\r\n30%\r{"success":true}']) == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (b'{"success": false, "errorMessage": "No space left"}', "No space left"),
        (b'{"Success": false, "ErrorMessage": "No space left"}', "No space left"),
        (b'{"success": false, "error": "No space left"}', "No space left"),
        (b'{"success": false}', "does not report why"),
        (b'{"success": "true"}', "does not report why"),
        (b"{", "broke off"),
        (b"", "broke off"),
    ],
)
def test_download_without_success_failed(result: bytes, why: str) -> None:
    with pytest.raises(DownloadFailed, match=why):
        read([b"Total 50%\n", result])


@pytest.mark.parametrize("start", [b"x", b"{"])
def test_endless_line_is_refused(start: bytes) -> None:
    decoder = DownloadProgressDecoder()
    blocks = [start + b"y" * 1000] * (MAX_LINE_BYTES // 1000 + 2)
    with pytest.raises(ProtocolError, match="larger than"):
        list(itertools.chain.from_iterable(map(decoder.feed, blocks)))


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_are_percentages_or_a_typed_error(blocks: list[bytes]) -> None:
    decoder = DownloadProgressDecoder()
    for block in blocks:
        assert all(0 <= percent <= 100 for percent in decoder.feed(block))
    try:
        decoder.finish()
    except FoundryError as error:
        assert isinstance(error, DownloadFailed)  # noqa: PT017 - or no error at all
