"""What must not be in a report that goes into a public issue.

Everything that is taken from the environment is left out unless it is known to be harmless: what
looks like a setting may be a key that somebody pasted into the wrong line.
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
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Redactor", "UserIdentity", "strip_credential"]

MIN_VALUE = 8
"""Shorter values of variables are words like `user`, which are no secrets and are everywhere."""
MIN_SECRET = 4
"""Of a variable whose name says that it holds one."""
MIN_NAME = 3

REDACTED = "<redacted>"

_OPEN, _CLOSE = "\ue000", "\ue001"
_NO_BRACKETS = str.maketrans("", "", _OPEN + _CLOSE)
_HIDDEN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
"""Characters for private use, which no text has."""

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
    """Whose machine it is.

    Attributes:
        home: The home directory.
        user: The user's name.
        hosts: The machine's names.
    """

    home: str = ""
    user: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Redactor:
    """Takes out of texts what is nobody else's business.

    Attributes:
        environ: The environment.
        user: Whose machine it is.
        public_words: What this program says on every machine; a value in it is no secret.
    """

    environ: Mapping[str, str]
    user: UserIdentity = UserIdentity()
    public_words: str = ""

    def __call__(self, text: str) -> str:
        """A text without secrets, and without the names of its user and machine.

        What replaces a value stands in brackets until the end, because the patterns that follow
        have to see an address or a token as one still, whatever was replaced in it.
        """
        text, replacements = text.translate(_NO_BRACKETS), list[str]()

        def hide(match: re.Match[str]) -> str:
            known = self._replacements
            replacements.append(known.get(match[0]) or known.get(match[0].lower(), REDACTED))
            return f"{_OPEN}{len(replacements) - 1}{_CLOSE}"

        if self._mask_pattern is not None:
            text = self._mask_pattern.sub(hide, text)
        text = _URL.sub(_redact_url, text)
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        text = _TOKEN.sub(REDACTED, text)
        return _HIDDEN.sub(lambda hidden: replacements[int(hidden[1])], text)

    @cached_property
    def _replacements(self) -> dict[str, str]:
        """What replaces what; of what is replaced twice, the first counts."""
        by_value: dict[str, str] = {}
        for value, replacement in self._iter_secrets():
            for form in _variants(value):
                by_value.setdefault(form, replacement)
                by_value.setdefault(form.lower(), replacement)
        return by_value

    @cached_property
    def _mask_pattern(self) -> re.Pattern[str] | None:
        """All of it as one pattern, the longest first, so that none hides in another."""
        ordered = sorted(self._replacements, key=len, reverse=True)
        return (
            re.compile("|".join(map(self._make_pattern, ordered)), re.IGNORECASE)
            if ordered
            else None
        )

    def _make_pattern(self, form: str) -> str:
        """Names stand as words: a user `al` is not in `calls`."""
        names = {self.user.user.lower(), *(host.lower() for host in self.user.hosts)}
        escaped = re.escape(form)
        return rf"(?<!\w){escaped}(?!\w)" if form.lower() in names else escaped

    def _iter_secrets(self) -> Iterator[tuple[str, str]]:
        if len(self.user.home) >= MIN_NAME:
            yield self.user.home, "~"
        for name, value in self.environ.items():
            for part in _split_value(value):
                if self._is_secret(name, part):
                    yield part, f"<value of {name}>"
        for named, replacement in (
            (self.user.user, "<user>"),
            *((host, "<host>") for host in self.user.hosts),
        ):
            if len(named) >= MIN_NAME and named.lower() not in self.public_words.lower():
                yield named, replacement

    def _is_secret(self, name: str, value: str) -> bool:
        if _SECRET_NAME.search(name):
            return len(value) >= MIN_SECRET
        if len(value) < MIN_VALUE:
            return False
        return value.lower() not in self.public_words.lower() and not _is_plain_loopback(value)


def strip_credential(url: str) -> str:
    """An address without what may be a name and a password in it."""
    scheme, separator, rest = url.rpartition("://")
    credential, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{REDACTED}@{place}" if at and credential else url


def _split_value(value: str) -> Iterable[str]:
    """A value, and each of several in it."""
    value = value.translate(_NO_BRACKETS).strip()
    return dict.fromkeys(part for part in (value, *re.split(r"[\s,;]+", value)) if part)


def _variants(value: str) -> Iterable[str]:
    """A value as it is, and as it may be written in a text."""
    quoted = (repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False))
    escaped = (text[1:-1] for text in quoted)
    slashes = value.replace("\\", "/")  # a path of Windows, as URLs and some libraries write it
    return dict.fromkeys((value, *escaped, slashes, quote(value), quote(value, safe="")))


def _is_plain_loopback(value: str) -> bool:
    """Whether a value is the address of a local service, and nothing more."""
    return bool(re.fullmatch(r"https?://[\w.\[\]:]+/?", value)) and is_loopback(value)


def _redact_url(match: re.Match[str]) -> str:
    """Of an address, only that of a local service stays, and not what it was asked for."""
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
