"""How a row of values becomes a chat completion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from foundry_api.batch.request_body import suggest_nearest, validate_body
from foundry_api.batch.sources.base import validate_custom_id
from foundry_api.batch.types import CHAT_URL, BatchRequest
from foundry_api.types.checks import check_text, instructions
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from foundry_api.batch.types import InputOptions

__all__ = ["DEFAULT_COLUMN", "PromptBuilder", "Template"]


_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ESCAPED = {"{{": "{", "}}": "}"}
_BRACES = "A brace that is part of the prompt is written twice: {{ and }}."


class Template:
    """A prompt that is made of a row.

    Args:
        pieces: Texts, and the numbers of the values that stand between them.
    """

    def __init__(self, pieces: Sequence[str | int]) -> None:
        self.places = tuple(piece for piece in pieces if isinstance(piece, int))
        self._pieces = tuple(pieces)

    @classmethod
    def parse(cls, text: str, names: Mapping[str, int], what: str) -> Self:
        """Read a template.

        Args:
            text: With `{name}` where a value comes, and `{{` for a brace.
            names: Number of each value by its name.
            what: Whose values they are, for messages.

        Raises:
            BatchInputInvalid: It names a value that there is not, or none.
        """
        pieces: list[str | int] = []
        end = 0
        for match in _PIECE.finditer(text):
            pieces += [text[end : match.start()], _parse_piece(match, names, what)]
            end = match.end()
        pieces.append(text[end:])
        if not any(isinstance(piece, int) for piece in pieces):
            raise _template_error(
                "it has no {name}, so that all prompts would be the same", names, what
            )
        return cls([piece for piece in pieces if piece != ""])

    def render(self, values: Sequence[str]) -> str:
        """The prompt of a row."""
        return "".join(piece if isinstance(piece, str) else values[piece] for piece in self._pieces)


def _parse_piece(match: re.Match[str], names: Mapping[str, int], what: str) -> str | int:
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
        raise _template_error(f"there is no {text}{suggest_nearest(name, names)}", names, what)
    return names[name]


def _template_error(why: str, names: Mapping[str, int], what: str) -> BatchInputInvalid:
    known = ", ".join(f"{{{name}}}" for name in names)
    return BatchInputInvalid(
        f"the template does not fit: {why}", field="template", hint=f"{what} has {known}. {_BRACES}"
    )


DEFAULT_COLUMN = "prompt"
_ID_COLUMNS = ("custom_id", "id")


class PromptBuilder:
    """Makes requests of rows.

    Args:
        options: The column, or the template; instructions, model and further members.
        names: What a row's values are called.
        what: Whose they are, for messages.
        aliases: Further names of values.

    Attributes:
        places: The numbers of the values that are used, in ascending order.
        id_column: The column with the requests' names, if there is one.

    Raises:
        BatchInputInvalid: There is no such column, the template does not fit, or a member is at
            fault.
    """

    def __init__(
        self,
        options: InputOptions,
        names: Sequence[str],
        what: str,
        aliases: Mapping[str, int] | None = None,
    ) -> None:
        places = {name: place for place, name in enumerate(names)}
        templated = options.template is not None and options.column is None
        self._column = column = None if templated else _find_column(options, places, what)
        self.id_column = next((name for name in _ID_COLUMNS if name in places), None)
        self._id = None if self.id_column is None else places[self.id_column]
        self._template: Template | None = None
        if options.template is not None:
            known = {**places, **(aliases or {})}
            if column is not None:
                known.setdefault(DEFAULT_COLUMN, column)
            self._template = Template.parse(options.template, known, what)
        self._system_messages = _make_system_messages(options)
        self._members = _make_members(options)
        used = self._template.places if self._template else (column,)
        self.places = sorted({place for place in (*used, self._id) if place is not None})

    def make_request(self, values: Sequence[str], default_id: str) -> BatchRequest:
        """The request of a row.

        Args:
            values: The row's. Those that are not used may be anything.
            default_id: Its name, where rows have none.

        Raises:
            InvalidRequest: Its prompt is empty, or cannot be sent.
        """
        custom_id = default_id if self._id is None else validate_custom_id(values[self._id])
        message = {"role": "user", "content": check_text("prompt", self._render_prompt(values))}
        body = {**self._members, "messages": [*self._system_messages, message]}
        return BatchRequest(custom_id=custom_id, body=body)

    def _render_prompt(self, values: Sequence[str]) -> str:
        template = self._template
        if template is None:
            assert self._column is not None  # noqa: S101 - one of the two is there
            return values[self._column]
        if not any(values[place].strip() for place in template.places):
            raise InvalidRequest("every value of the template is empty", field="template")
        return template.render(values)


def _find_column(options: InputOptions, places: Mapping[str, int], what: str) -> int:
    name = options.column or DEFAULT_COLUMN
    if name not in places:
        raise BatchInputInvalid(
            f"{what} has no column {name!r}{suggest_nearest(name, places)}",
            field="column",
            hint=f"It has {', '.join(places)}. Name the one with the prompts: --column NAME, "
            "or make the prompts of several: --template 'Translate: {NAME}'.",
        )
    return places[name]


def _make_system_messages(options: InputOptions) -> list[dict[str, str]]:
    system = _check_option(lambda: instructions("system", options.system))
    return [] if system is None else [{"role": "system", "content": system}]


def _make_members(options: InputOptions) -> dict[str, Any]:
    """The members of every body, checked once instead of with each."""
    members = dict(options.members)
    if "messages" in members:
        raise BatchInputInvalid("messages are what the prompts become", field="members")
    if options.model is not None:
        members["model"] = options.model
    message = {"role": "user", "content": "Hi"}
    body = _check_option(lambda: validate_body(CHAT_URL, {**members, "messages": [message]}))
    return {name: value for name, value in body.items() if name != "messages"}


def _check_option(check: Callable[[], Any]) -> Any:
    """What a check of the options says, as an error of the whole input."""
    try:
        return check()
    except FoundryError as error:
        field = error.field if isinstance(error, InvalidRequest) else None
        raise BatchInputInvalid(error.message, field=field, hint=error.hint) from error
