"""What must not be in a report that goes into a public issue.

Everything that is taken from the environment is left out unless it is known to be harmless: what
looks like a setting may be a key that somebody pasted into the wrong line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Person", "Redaction", "without_credential"]

SHORTEST_VALUE = 8
"""Shorter values of variables are words like `user`, which are no secrets and are everywhere."""
SHORTEST_SECRET = 4
"""Of a variable whose name says that it holds one."""
SHORTEST_NAME = 3

_SECRET_NAME = re.compile(
    r"key|token|secret|passw|credential|auth|cookie|sas|signature", re.IGNORECASE
)
_HARMLESS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"`<>|,;)]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+\S+", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:key|token|secret|password|passwd|credential|authorization|signature)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?<![\w/\\.-])(?=[\w-]*[0-9])(?=[\w-]*[A-Za-z])[\w-]{24,}(?![\w/\\.-])")


@dataclass(frozen=True, slots=True)
class Person:
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
class Redaction:
    """Takes out of texts what is nobody else's business.

    Attributes:
        environ: The environment.
        person: Whose machine it is.
        spoken: What this program says on every machine; a value that is part of it is no secret.
    """

    environ: Mapping[str, str]
    person: Person = Person()
    spoken: str = ""

    def __call__(self, text: str) -> str:
        """A text without secrets, and without the names of its user and machine."""
        if self._masks is not None:
            text = self._masks.sub(self._mask, text)
        text = _URL.sub(_redacted_url, text)
        text = _BEARER.sub(r"\1 <redacted>", text)
        text = _ASSIGNED.sub(r"\1<redacted>", text)
        return _TOKEN.sub("<redacted>", text)

    @cached_property
    def _replacements(self) -> dict[str, str]:
        """What replaces what, in lower case; of what is replaced twice, the first counts."""
        found: dict[str, str] = {}
        for value, replacement in self._secrets():
            for form in _forms(value):
                found.setdefault(form.lower(), replacement)
        return found

    @cached_property
    def _masks(self) -> re.Pattern[str] | None:
        """All of it as one pattern, the longest first, so that none hides in another."""
        ordered = sorted(self._replacements, key=len, reverse=True)
        return re.compile("|".join(map(self._pattern, ordered)), re.IGNORECASE) if ordered else None

    def _pattern(self, form: str) -> str:
        """Names stand as words: a user `al` is not in `calls`."""
        names = {self.person.user.lower(), *(host.lower() for host in self.person.hosts)}
        escaped = re.escape(form)
        return rf"(?<!\w){escaped}(?!\w)" if form in names else escaped

    def _mask(self, match: re.Match[str]) -> str:
        return self._replacements.get(match[0].lower(), "<redacted>")

    def _secrets(self) -> Iterator[tuple[str, str]]:
        if len(self.person.home) >= SHORTEST_NAME:
            yield self.person.home, "~"
        for name, value in self.environ.items():
            for part in _parts(value):
                if self._is_secret(name, part):
                    yield part, f"<value of {name}>"
        for named, replacement in (
            (self.person.user, "<user>"),
            *((host, "<host>") for host in self.person.hosts),
        ):
            if len(named) >= SHORTEST_NAME and named.lower() not in self.spoken.lower():
                yield named, replacement

    def _is_secret(self, name: str, value: str) -> bool:
        if _SECRET_NAME.search(name):
            return len(value) >= SHORTEST_SECRET
        if len(value) < SHORTEST_VALUE or _HARMLESS.fullmatch(value):
            return False
        return value.lower() not in self.spoken.lower() and not _plain_loopback(value)


def without_credential(url: str) -> str:
    """An address without what may be a name and a password in it."""
    scheme, separator, rest = url.rpartition("://")
    credential, at, place = rest.rpartition("@")
    return f"{scheme}{separator}<redacted>@{place}" if at and credential else url


def _parts(value: str) -> Iterable[str]:
    """A value, and each of several in it."""
    return dict.fromkeys(
        part for part in (value.strip(), *re.split(r"[\s,;]+", value.strip())) if part
    )


def _forms(value: str) -> Iterable[str]:
    """A value as it is, and as it may be written in a text."""
    escaped = (
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    )
    return dict.fromkeys((value, *escaped, quote(value), quote(value, safe="")))


def _plain_loopback(value: str) -> bool:
    """Whether a value is the address of a local service, and nothing more."""
    return bool(re.fullmatch(r"https?://[\w.\[\]:]+/?", value)) and is_loopback(value)


def _redacted_url(match: re.Match[str]) -> str:
    """Of a loopback address, what is behind its path goes; of others, all but the scheme."""
    url = match[0]
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{scheme}://<redacted>"
    if not is_loopback(url):
        return f"{scheme}://<redacted>"
    return f"{scheme}://{parts.hostname}{port}{parts.path}"
