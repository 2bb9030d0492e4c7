"""Tokens have a fixed form, and their digests say nothing about them."""

from __future__ import annotations

import random
import string
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.gateway.keys import token as token_module
from foundry_api.gateway.keys.token import (
    SECRET_ALPHABET,
    TOKEN_CHARS,
    TokenHasher,
    is_well_formed,
    make_id,
    make_token,
)
from gateway.keys.helpers import add_checksum

HASHER = TokenHasher(b"p" * 64)


def test_a_token_has_prefix_id_secret_and_checksum() -> None:
    token = make_token("k7m2q9xa")
    assert len(token) == TOKEN_CHARS == 63
    assert token.startswith("fk_k7m2q9xa_")
    assert token == add_checksum(token[:-8])
    assert token.isascii()
    assert is_well_formed(token)
    assert len(SECRET_ALPHABET) ** 43 >= 2**256


def test_tokens_and_ids_do_not_repeat() -> None:
    assert len({make_token("k7m2q9xa") for _ in range(1000)}) == 1000
    assert len({make_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("position", [0, 3, 11, 12, 54, 55, 62])
def test_a_mistyped_character_is_noticed(position: int) -> None:
    token = make_token("k7m2q9xa")
    other = "a" if token[position] != "a" else "b"
    assert not is_well_formed(token[:position] + other + token[position + 1 :])


@given(st.text(max_size=80) | st.text(string.ascii_letters + "_", min_size=63, max_size=63))
def test_other_texts_are_not_well_formed(text: str) -> None:
    assert not is_well_formed(text)


def test_a_long_text_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_module, "_match_token", match := Mock())
    assert not is_well_formed("fk_" + "x" * 1_000_000)
    match.assert_not_called()


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
