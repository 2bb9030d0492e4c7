"""Compressed bodies are decoded in any split, within limits."""

from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.wire.encoding import (
    MAX_BLOCK_BYTES,
    MAX_RATIO,
    RATIO_CHECK_FROM_BYTES,
    BodyDecompressor,
)

TEXT = b"".join(b"data: %d\n\n" % number for number in range(500))


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


FORMS = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "x-gzip": ("x-gzip", gzip.compress(TEXT)),
    "gzip in members": (
        "gzip",
        gzip.compress(TEXT[:9]) + gzip.compress(b"") + gzip.compress(TEXT[9:]),
    ),
    "gzip with zeros behind": ("gzip", gzip.compress(TEXT) + bytes(99)),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "raw deflate": ("deflate", raw_deflate(TEXT)),
    "plain, claims gzip": ("gzip", TEXT),
    "plain, claims deflate": ("deflate", TEXT),
}


def decoded(coding: str, *blocks: bytes) -> bytes:
    pieces: list[bytes] = []
    body = BodyDecompressor(coding, "http://x")
    for block in blocks:
        body.feed(block)
        while piece := body.read():
            assert len(piece) <= max(MAX_BLOCK_BYTES, len(block) + 2**16)
            pieces.append(piece)
        assert body.is_drained
    return b"".join(pieces) + body.finish()


@pytest.mark.parametrize("form", FORMS)
@given(cuts=st.lists(st.integers(0, 2000), max_size=9))
def test_body_is_decoded_in_any_split(form: str, cuts: list[int]) -> None:
    coding, data = FORMS[form]
    places = [0, *sorted(cuts), len(data)]
    blocks = [data[a:b] for a, b in itertools.pairwise(places)]
    assert decoded(coding, *blocks) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_empty_body(coding: str) -> None:
    assert decoded(coding) == b""


@pytest.mark.parametrize("form", ["gzip", "deflate", "raw deflate"])
def test_truncated_body_is_an_error(form: str) -> None:
    coding, data = FORMS[form]
    with pytest.raises(StreamInterrupted, match=coding):
        decoded(coding, data[:-9])


def test_damaged_body_is_an_error() -> None:
    data = gzip.compress(TEXT)
    with pytest.raises(ProtocolError, match="damaged"):
        decoded("gzip", data[:200] + bytes(20) + data[220:])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_decompression_bomb_is_refused_before_it_expands(coding: str) -> None:
    size = 64 * RATIO_CHECK_FROM_BYTES
    bomb = gzip.compress(bytes(size)) if coding == "gzip" else zlib.compress(bytes(size))
    body, taken = BodyDecompressor(coding, "http://x"), 0
    body.feed(bomb)
    pieces = iter(body.read, b"")
    with pytest.raises(ProtocolError, match=str(MAX_RATIO)):  # noqa: PT012 - one of many
        for piece in pieces:
            taken += len(piece)
    assert taken <= max(RATIO_CHECK_FROM_BYTES, MAX_RATIO * len(bomb)) + MAX_BLOCK_BYTES
    assert taken < size


def test_long_body_is_not_taken_for_a_bomb() -> None:
    text = b"".join(b"data: %d\n\n" % number for number in range(400_000))
    assert len(text) > RATIO_CHECK_FROM_BYTES
    assert decoded("gzip", gzip.compress(text)) == text
