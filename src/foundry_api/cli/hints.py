"""Makes the hints of errors speak of options and commands instead of Python arguments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["adapt_hint"]


class _Phrase(NamedTuple):
    """A phrase for programs, and what it is on the command line.

    Attributes:
        pattern: The phrase for programs, a regular expression.
        text: What replaces it.
        option: The option that `text` names; empty if it names none.
        otherwise: What replaces the phrase if the command does not have that option.
    """

    pattern: str
    text: str
    option: str = ""
    otherwise: str = ""


_PHRASES = (
    _Phrase(r" or pass download=True", ", or give --yes", "--yes"),
    _Phrase(r" or download=True", ", or give --yes", "--yes"),
    _Phrase(r", or pass setup=True", ""),
    _Phrase(r"service='embedded'", "--service embedded", "--service", "the embedded engine"),
    _Phrase(r"timeout= or FOUNDRY_TIMEOUT", "--timeout", "--timeout", "FOUNDRY_TIMEOUT"),
    _Phrase(r"\b(?<!set )max_tokens\b", "--max-tokens", "--max-tokens", "max_tokens"),
    _Phrase(r"the deadline\b", "--deadline", "--deadline", "FOUNDRY_DEADLINE"),
    _Phrase(r"base_url, (?=--base-url)", ""),
    _Phrase(r"api_key or (?=FOUNDRY_API_KEY)", ""),
    _Phrase(r" or residency=", ""),
    _Phrase(r"store=True", '"store": true'),  # in the body of `foundry-api request`
    _Phrase(r"client\.models\.load\(NAME\) or ", ""),
    _Phrase(r"client\.responses\.delete\(\)", "`foundry-api request DELETE /v1/responses/ID`"),
    _Phrase(r"force=True \(`(--force)`\)", r"\1"),
    _Phrase(
        r"response_model= or choice=, which are checked",
        "--schema, which is checked",
        "--schema",
        "a schema, which is checked",
    ),
    _Phrase(r", or leave tool_choice out", ""),
    _Phrase(r", or return errors to the model: on_error='return'", ""),
    _Phrase(
        r"Allow more max_turns, or look at run\.calls for",
        "See with --json",
        "--json",
        "See in the log (-v)",
    ),
    # The text is on the terminal, and in the document of --json as `partial`.
    _Phrase(r"The text (so far )?is in \.partial[;.] ", ""),
    _Phrase(r"\b([Cc])all again\b", "try again"),
)


def adapt_hint(hint: str, options: Collection[str]) -> str:
    """Return a hint for a command that has these options, such as `--timeout`."""
    for phrase in _PHRASES:
        is_known = not phrase.option or phrase.option in options
        hint = re.sub(phrase.pattern, phrase.text if is_known else phrase.otherwise, hint)
    return hint[:1].upper() + hint[1:]
