"""Tokens have a fixed form, and their digests say nothing about them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.gateway.keys.token import (
    SECRET_ALPHABET,
    TOKEN_CHARS,
    TokenHasher,
    make_id,
    make_token,
    may_be_token,
)
from gateway.keys.helpers import add_checksum, has_checksum

HASHER = TokenHasher(b"p" * 64)


def test_a_token_has_prefix_id_secret_and_checksum() -> None:
    token = make_token("k7m2q9xa")
    assert len(token) == TOKEN_CHARS == 63
    assert token.startswith("fk_k7m2q9xa_")
    assert token == add_checksum(token[:-8])
    assert token.isascii()
    assert has_checksum(token)
    assert may_be_token(token)
    assert len(SECRET_ALPHABET) ** 43 >= 2**256


def test_tokens_and_ids_do_not_repeat() -> None:
    assert len({make_token("k7m2q9xa") for _ in range(1000)}) == 1000
    assert len({make_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("position", [0, 3, 11, 12, 54, 55, 62])
def test_a_scanner_notices_a_mistyped_character(position: int) -> None:
    token = make_token("k7m2q9xa")
    other = "a" if token[position] != "a" else "b"
    assert not has_checksum(token[:position] + other + token[position + 1 :])


@given(st.text().filter(lambda text: len(text) != TOKEN_CHARS))
def test_texts_of_another_length_are_no_tokens(text: str) -> None:
    assert not may_be_token(text)


@given(st.text(min_size=TOKEN_CHARS, max_size=TOKEN_CHARS))
def test_a_text_that_may_be_a_token_has_a_digest(text: str) -> None:
    assert may_be_token(text) == text.isascii()
    if may_be_token(text):
        assert len(HASHER.digest(text)) == 32


def test_the_digest_depends_on_the_pepper() -> None:
    token = make_token("k7m2q9xa")
    other = TokenHasher(b"q" * 64)
    assert HASHER.digest(token) == HASHER.digest(token)
    assert HASHER.digest(token) != other.digest(token)
    assert HASHER.compute_check_value() != other.compute_check_value()


def test_p19_a_right_start_brings_a_digest_no_closer() -> None:
    """What the look-up compares are digests, so nobody gets warm by guessing a token's start."""
    draw = random.Random(19)  # noqa: S311 - repeatable on purpose
    secret = "".join(draw.choices(SECRET_ALPHABET, k=43))
    digest = HASHER.digest(add_checksum(f"fk_k7m2q9xa_{secret}"))

    def count_equal_bits(right_chars: int) -> int:
        guess = secret[:right_chars] + "".join(draw.choices(SECRET_ALPHABET, k=43 - right_chars))
        other = HASHER.digest(add_checksum(f"fk_k7m2q9xa_{guess}"))
        return 256 - (int.from_bytes(digest, "big") ^ int.from_bytes(other, "big")).bit_count()

    for right_chars in (0, 1, 10, 20, 30, 38):
        mean = sum(count_equal_bits(right_chars) for _ in range(400)) / 400
        # 128 with a standard deviation of 8 for one guess, and of 0.4 for the mean.
        assert 126 < mean < 130
