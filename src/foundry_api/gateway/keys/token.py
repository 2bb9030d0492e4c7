"""Tokens: `fk_` + id of the key + `_` + 43 random characters + checksum.

The checksum is for scanners that look for leaked tokens. 43 letters and digits have 256 random
bits. Therefore a fast hash protects the stored digests as well as a slow one would, and checking a
token costs an attacker's target next to nothing.
"""

from __future__ import annotations

import hmac
import secrets
import string
import zlib

__all__ = [
    "KEY_PREFIX",
    "TOKEN_CHARS",
    "TokenHasher",
    "make_id",
    "make_token",
    "may_be_token",
]

KEY_PREFIX = "fk_"

# Without letters that look like digits or like each other (i, l, o, u), as in Crockford's base 32.
ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_CHARS = 8
SECRET_ALPHABET = string.digits + string.ascii_letters
SECRET_CHARS = 43  # of 62 characters: 256.03 bits
CHECKSUM_CHARS = 8
TOKEN_CHARS = len(KEY_PREFIX) + ID_CHARS + len("_") + SECRET_CHARS + CHECKSUM_CHARS

# What the stored check value is made of. No token starts like this.
CHECK_TEXT = b"pepper of the keys of a foundry-api gateway"


def make_id() -> str:
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))


def make_token(key_id: str) -> str:
    secret = "".join(secrets.choice(SECRET_ALPHABET) for _ in range(SECRET_CHARS))
    body = f"{KEY_PREFIX}{key_id}_{secret}"
    return f"{body}{zlib.crc32(body.encode('ascii')):0{CHECKSUM_CHARS}x}"


def may_be_token(text: str) -> bool:
    """Whether a text may be a token, by its length. Its digest says whether it is one."""
    return len(text) == TOKEN_CHARS and text.isascii()


class TokenHasher:
    """Computes the digests under which tokens are stored and looked up."""

    # The pepper makes digests useless without its file. It also makes the look-up safe against
    # timing: nobody without it can choose tokens with similar digests.

    def __init__(self, pepper: bytes) -> None:
        # Copying one that has read the pepper takes a quarter of the time of a new one.
        self._hmac = hmac.new(pepper, digestmod="sha256")

    def digest(self, token: str) -> bytes:
        return self._compute(token.encode("ascii"))

    def compute_check_value(self) -> bytes:
        """Return a value that recognizes the pepper without revealing it."""
        return self._compute(CHECK_TEXT)

    def _compute(self, data: bytes) -> bytes:
        digest = self._hmac.copy()
        digest.update(data)
        return digest.digest()
