"""Removes secrets and names from a report that is meant for a public issue.

All values of environment variables are removed unless they are known to be harmless: a key may have
been pasted into the wrong variable.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Redactor", "UserIdentity", "strip_credential"]

# Shorter values are words such as `user`, which are no secrets and occur everywhere.
MIN_VALUE_LENGTH = 8
MIN_SECRET_LENGTH = 4  # in variables whose names indicate a secret
MIN_NAME_LENGTH = 3

REDACTED = "<redacted>"

# Brackets around the number of a replacement: private-use characters, removed from all input.
_OPEN, _CLOSE = "\ue000", "\ue001"
_NO_BRACKETS = str.maketrans("", "", _OPEN + _CLOSE)
_REPLACED = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

_SECRET_NAME = re.compile(
    r"key|token|secret|passw|credential|auth|cookie|sas|signature", re.IGNORECASE
)
_URL = re.compile(rf"\b[a-z][a-z0-9+.-]*://(?:{REDACTED}|[^\s'\"`<>|,;)])+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+\S+", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:key|token|secret|password|passwd|credential|authorization|signature)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?<![\w/\\.-])(?=[\w-]*[0-9])(?=[\w-]*[A-Za-z])[\w-]{24,}(?![\w/\\.-])")


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The home directory, the user name and the host names of this machine."""

    home: str = ""
    user: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Redactor:
    """Removes secrets, and the names of the user and the machine, from texts."""

    environ: Mapping[str, str]
    user: UserIdentity = UserIdentity()
    public_words: str = ""  # the texts of this program; a value that occurs in them is no secret

    def __call__(self, text: str) -> str:
        # A replaced value is a number in brackets until the end: the patterns below must still
        # match a URL or a token as a whole, whatever was replaced inside of it.
        text, replacements = text.translate(_NO_BRACKETS), list[str]()

        def replace(match: re.Match[str]) -> str:
            known = self._replacements
            replacements.append(known.get(match[0]) or known.get(match[0].lower(), REDACTED))
            return f"{_OPEN}{len(replacements) - 1}{_CLOSE}"

        if self._mask_pattern is not None:
            text = self._mask_pattern.sub(replace, text)
        text = _URL.sub(_redact_url, text)
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        text = _TOKEN.sub(REDACTED, text)
        return _REPLACED.sub(lambda match: replacements[int(match[1])], text)

    @cached_property
    def _replacements(self) -> dict[str, str]:
        """Replacements by the values that they replace, in every form; the first one wins."""
        by_value: dict[str, str] = {}
        for value, replacement in self._iter_secrets():
            quoted = (repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False))
            escaped = (text[1:-1] for text in quoted)
            slashes = value.replace("\\", "/")  # Windows paths in URLs and in some libraries
            for form in (value, *escaped, slashes, quote(value), quote(value, safe="")):
                by_value.setdefault(form, replacement)
                by_value.setdefault(form.lower(), replacement)
        return by_value

    @cached_property
    def _mask_pattern(self) -> re.Pattern[str] | None:
        """A pattern of all values to replace; None without any."""
        names = {self.user.user.lower(), *(host.lower() for host in self.user.hosts)}

        def make_pattern(form: str) -> str:
            escaped = re.escape(form)
            # Names match whole words only: the user `al` is not in `calls`.
            return rf"(?<!\w){escaped}(?!\w)" if form.lower() in names else escaped

        # The longest first: a value may contain a shorter one.
        ordered = sorted(self._replacements, key=len, reverse=True)
        return re.compile("|".join(map(make_pattern, ordered)), re.IGNORECASE) if ordered else None

    def _iter_secrets(self) -> Iterator[tuple[str, str]]:
        if len(self.user.home) >= MIN_NAME_LENGTH:
            yield self.user.home, "~"
        for name, raw_value in self.environ.items():
            value = raw_value.translate(_NO_BRACKETS).strip()
            # A variable may hold several values, of which a text has only one.
            for part in (value, *re.split(r"[\s,;]+", value)):
                if self._is_secret(name, part):
                    yield part, f"<value of {name}>"
        for name, replacement in (
            (self.user.user, "<user>"),
            *((host, "<host>") for host in self.user.hosts),
        ):
            if len(name) >= MIN_NAME_LENGTH and name.lower() not in self.public_words.lower():
                yield name, replacement

    def _is_secret(self, name: str, value: str) -> bool:
        if _SECRET_NAME.search(name):
            return len(value) >= MIN_SECRET_LENGTH
        if len(value) < MIN_VALUE_LENGTH or value.lower() in self.public_words.lower():
            return False
        # The plain URL of a local service is no secret, and is needed to understand a report.
        is_plain_url = re.fullmatch(r"https?://[\w.\[\]:]+/?", value) is not None
        return not (is_plain_url and is_loopback(value))


def strip_credential(url: str) -> str:
    """Remove what may be a user name and a password from a URL."""
    scheme, separator, rest = url.rpartition("://")
    credential, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{REDACTED}@{host}" if at and credential else url


def _redact_url(match: re.Match[str]) -> str:
    # Only the address of a local service is kept, without path and query.
    url = match[0]
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{scheme}://{REDACTED}"
    if not is_loopback(url):
        return f"{scheme}://{REDACTED}"
    return f"{scheme}://{parts.hostname}{port}"
