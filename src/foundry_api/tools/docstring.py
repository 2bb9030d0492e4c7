"""What a docstring in Google's style says of a function and of its parameters."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Described", "described"]

_SECTION: Final = re.compile(r"[A-Z][\w ]*:")
_PARAMETERS: Final = frozenset({"Args:", "Arguments:", "Parameters:"})
_PARAMETER: Final = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


class Described(NamedTuple):
    """What a docstring says.

    Attributes:
        summary: What the function does, up to the first section.
        parameters: What its parameters mean.
    """

    summary: str
    parameters: dict[str, str]


def described(function: Callable[..., object]) -> Described:
    """Read the docstring of a function; nothing where it has none."""
    lines = (inspect.getdoc(function) or "").splitlines()
    begins = [index for index, line in enumerate(lines) if _SECTION.fullmatch(line.rstrip())]
    summary = lines[: begins[0]] if begins else lines
    parameters = [
        lines[begin + 1 : end]
        for begin, end in itertools.pairwise([*begins, len(lines)])
        if lines[begin].rstrip() in _PARAMETERS
    ]
    told = {name: text for section in parameters for name, text in _parameters(section)}
    return Described("\n".join(summary).strip(), told)


def _parameters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each parameter of a section; lines that are indented deeper go on with it."""
    text = [line for line in lines if line.strip()]
    margin = min((_indent(line) for line in text), default=0)
    name, said = "", list[str]()
    for line in text:
        begun = _PARAMETER.fullmatch(line.strip()) if _indent(line) == margin else None
        if begun:
            if name:
                yield name, " ".join(said)
            name, said = begun["name"], [begun["text"]]
        else:
            said.append(line.strip())
    if name:
        yield name, " ".join(said).strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
