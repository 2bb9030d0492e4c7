"""Build chat completion requests from rows of values, with an optional template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from foundry_api.batch.request_body import suggest_nearest, validate_body
from foundry_api.batch.sources.base import validate_custom_id
from foundry_api.batch.types import CHAT_URL, BatchRequest
from foundry_api.types.checks import check_instructions, check_text
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from foundry_api.batch.types import InputOptions

__all__ = ["DEFAULT_COLUMN", "PromptBuilder", "Template"]

DEFAULT_COLUMN = "prompt"
_ID_COLUMNS = ("custom_id", "id")
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ESCAPED = {"{{": "{", "}}": "}"}
_BRACES = "To put a brace into the prompt, write it twice: {{ and }}."


class Template:
    """A prompt template: texts, and the places of the values between them."""

    def __init__(self, pieces: Sequence[str | int]) -> None:
        self.places = tuple(piece for piece in pieces if isinstance(piece, int))
        self._pieces = tuple(pieces)

    @classmethod
    def parse(cls, text: str, names: Mapping[str, int], source: str) -> Self:
        """Parse a template; `names` has the place of each value, `source` names their input."""
        pieces: list[str | int] = []
        end = 0
        for match in _PIECE.finditer(text):
            pieces += [text[end : match.start()], _parse_piece(match, names, source)]
            end = match.end()
        pieces.append(text[end:])
        if not any(isinstance(piece, int) for piece in pieces):
            raise _template_error(
                "it has no {name}, so all prompts would be the same", names, source
            )
        return cls([piece for piece in pieces if piece != ""])

    def render(self, values: Sequence[str]) -> str:
        return "".join(piece if isinstance(piece, str) else values[piece] for piece in self._pieces)


def _parse_piece(match: re.Match[str], names: Mapping[str, int], source: str) -> str | int:
    text, name = match[0], match[1]
    if text in _ESCAPED:
        return _ESCAPED[text]
    if name is None:
        raise BatchInputInvalid(
            f"the template has a lone {text} at position {match.start() + 1}",
            field="template",
            hint=_BRACES,
        )
    if name not in names:
        raise _template_error(f"there is no {text}{suggest_nearest(name, names)}", names, source)
    return names[name]


def _template_error(why: str, names: Mapping[str, int], source: str) -> BatchInputInvalid:
    known = ", ".join(f"{{{name}}}" for name in names)
    return BatchInputInvalid(
        f"the template does not fit: {why}",
        field="template",
        hint=f"{source} has {known}. {_BRACES}",
    )


class PromptBuilder:
    """Builds requests from rows. `names` are the columns, `source` names the input in messages.

    Attributes:
        places: The places of the values that requests use, in ascending order.
        id_column: The column with the custom_id, if there is one.
    """

    def __init__(
        self,
        options: InputOptions,
        names: Sequence[str],
        source: str,
        aliases: Mapping[str, int] | None = None,
    ) -> None:
        places = {name: place for place, name in enumerate(names)}
        only_template = options.template is not None and options.column is None
        self._column = column = None if only_template else _find_column(options, places, source)
        self.id_column = next((name for name in _ID_COLUMNS if name in places), None)
        self._id = None if self.id_column is None else places[self.id_column]
        self._template: Template | None = None
        if options.template is not None:
            known = {**places, **(aliases or {})}
            if column is not None:
                known.setdefault(DEFAULT_COLUMN, column)
            self._template = Template.parse(options.template, known, source)
        system = _check_option(lambda: check_instructions("system", options.system))
        self._system_messages = [] if system is None else [{"role": "system", "content": system}]
        self._members = _make_members(options)
        used = self._template.places if self._template else (column,)
        self.places = sorted({place for place in (*used, self._id) if place is not None})

    def make_request(self, values: Sequence[str], default_id: str) -> BatchRequest:
        """Build the request of a row; `default_id` is its custom_id if rows have none."""
        custom_id = default_id if self._id is None else validate_custom_id(values[self._id])
        if self._template is None:
            assert self._column is not None  # noqa: S101 - without a template there is a column
            prompt = values[self._column]
        elif any(values[place].strip() for place in self._template.places):
            prompt = self._template.render(values)
        else:
            raise InvalidRequest("every value of the template is empty", field="template")
        message = {"role": "user", "content": check_text("prompt", prompt)}
        body = {**self._members, "messages": [*self._system_messages, message]}
        return BatchRequest(custom_id=custom_id, body=body)


def _find_column(options: InputOptions, places: Mapping[str, int], source: str) -> int:
    name = options.column or DEFAULT_COLUMN
    if name not in places:
        raise BatchInputInvalid(
            f"{source} has no column {name!r}{suggest_nearest(name, places)}",
            field="column",
            hint=f"It has {', '.join(places)}. Choose the one with the prompts: --column NAME, "
            "or build prompts from several: --template 'Translate: {NAME}'.",
        )
    return places[name]


def _make_members(options: InputOptions) -> dict[str, Any]:
    members = dict(options.members)
    if "messages" in members:
        raise BatchInputInvalid("messages are made from the prompts", field="members")
    if options.model is not None:
        members["model"] = options.model
    # Checked once here, with any prompt, instead of with each row.
    message = {"role": "user", "content": "Hi"}
    body = _check_option(lambda: validate_body(CHAT_URL, {**members, "messages": [message]}))
    return {name: value for name, value in body.items() if name != "messages"}


def _check_option(check: Callable[[], Any]) -> Any:
    """Raise an error of the options as one of the whole input, rather than of a line."""
    try:
        return check()
    except FoundryError as error:
        field = error.field if isinstance(error, InvalidRequest) else None
        raise BatchInputInvalid(error.message, field=field, hint=error.hint) from error
