"""What an answer has to be: what the engine keeps it to, and what is checked when it is here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.structured.find_json import json_texts
from foundry_api.structured.isolation import validated
from foundry_api.structured.partial_json import PartialJson
from foundry_api.structured.refusal import CodeFailed, Refused, TookTooLong
from foundry_api.structured.response_model import response_model
from foundry_api.types.checks import check_text
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import Choice, Grammar, JsonSchema
from foundry_api.types.user_code import text_of
from foundry_api.types.values import is_several, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import Chunk, Constraint

__all__ = ["Expectation", "begins_like", "chosen"]


_AROUND = " \t\r\n\"'`*_.!"
"""What models like to put around a word."""


def chosen(text: str, choices: Sequence[str]) -> str:
    """The choice that an answer names, whatever its case, quotes, emphasis and full stop.

    Raises:
        Refused: It names none, or more than one.
    """
    if (bare := text.strip()) in choices:
        return bare
    plain = _plain(bare)
    alike = [choice for choice in choices if _plain(choice) == plain]
    if len(alike) != 1:
        said = f"it is {bare[:100]!r}" if bare else "it is empty"
        raise Refused(f"the answer has to be one of {', '.join(map(repr, choices))}, but {said}")
    return alike[0]


def begins_like(text: str, choice: str) -> bool:
    """Whether a text can be the beginning of a choice: also one with quotes and in another case."""
    return choice.casefold().startswith(text.lstrip(_AROUND).casefold())


def _plain(text: str) -> str:
    return text.strip(_AROUND).casefold()


MAX_SEARCH_S = 10.0
"""Seconds in which JSON that passes is looked for in one answer, beside those for the last one."""

_TOGETHER = {"grammar", "parser"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What one answer has to be.

    Attributes:
        constraint: What the engine keeps it to, where its generation does that.
        parse: Makes the text into what the caller wants; None to leave it a text.
        validators: Look at what was parsed, or at the text; each raises ValueError, or answers
            False, to refuse it.
        is_json: Whether the text is JSON, so that a stream has partial values.
        chunk_parser: Makes each chunk of a stream into its partial value instead.
        slow_from: Length of a text from which on `parse` may take long; None if it never does, or
            is the caller's.
    """

    constraint: Constraint | None = None
    parse: Callable[[str], Any] | None = None
    validators: tuple[Callable[[Any], object], ...] = ()
    is_json: bool = False
    chunk_parser: Callable[[Chunk], Any] | None = None
    slow_from: int | None = None

    @classmethod
    def of(
        cls,
        *,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        chunk_parser: Callable[[Chunk], Any] | None = None,
    ) -> Expectation:
        """What a caller's arguments say.

        Raises:
            InvalidRequest: One is at fault, or two say different things.
        """
        _check_exclusive(
            response_model=response_model, choice=choice, grammar=grammar, parser=parser
        )
        _check_exclusive(response_model=response_model, chunk_parser=chunk_parser)
        if not is_several(validators):
            raise InvalidRequest(
                f"validators is {shown(validators)}, not a list",
                field="validators",
                hint="Give a list: validators=[…].",
            )
        checks = tuple(validators)
        numbered = {f"validators[{index}]": each for index, each in enumerate(checks)}
        _check_callables({"parser": parser, "chunk_parser": chunk_parser, **numbered})
        constraint, parse, slow_from = _wanted(response_model, choice, grammar)
        return cls(
            constraint=constraint,
            parse=parse if parser is None else parser,
            validators=checks,
            is_json=isinstance(constraint, JsonSchema),
            chunk_parser=chunk_parser,
            slow_from=slow_from,
        )

    def check(self, text: str) -> Any:
        """What an answer is, once it has passed; None where nothing was to be made of it.

        Raises:
            Refused: It does not pass.
        """
        if self.parse is None:
            self._validate(text)
            return None
        parsed = self._parsed(self.parse, text)
        self._validate(parsed)
        return parsed

    async def check_apart(self, text: str) -> Any:
        """As `check`, with what may take long in a thread; the caller's own code stays here.

        Raises:
            Refused: It does not pass.
        """
        if self.parse is None or self.slow_from is None or len(text) < self.slow_from:
            return self.check(text)
        parsed, error = await validated(self._parsed, self.parse, text)
        if error is not None:
            raise error
        self._validate(parsed)
        return parsed

    def may_be_cut(self, text: str) -> bool:
        """Whether an answer that was cut at max_tokens can be whole all the same.

        A choice can that no other one begins with: a bound of one token is usual for those.
        """
        match self.constraint:
            case Choice(choices):
                said = text.strip()
                return [each for each in choices if each.startswith(said)] == [said]
            case None:
                return True
            case _:
                return False

    def rules_out(self, text: str) -> bool:
        """Whether nothing that begins like a cut answer could pass: it begins like no choice."""
        match self.constraint:
            case Choice(choices):
                return not any(begins_like(text, choice) for choice in choices)
            case _:
                return False

    def reader(self) -> PartialJson | None:
        """Reads the value of a stream so far."""
        return PartialJson() if self.is_json else None

    def partial(self, chunk: Chunk) -> Any:
        """What the caller's `chunk_parser` makes of a chunk.

        Raises:
            Refused: It refuses the chunk, or fails.
        """
        assert self.chunk_parser is not None  # noqa: S101 - a mistake of ours
        return _called(self.chunk_parser, chunk, "the chunk_parser", "a chunk cannot be parsed: ")

    def _parsed(self, parse: Callable[[str], Any], text: str) -> Any:
        what = "response_model" if self.is_json else "the parser"
        return _called(parse, text, what, "the answer cannot be parsed: ")

    def _validate(self, value: Any) -> None:
        for validator in self.validators:
            name = _name(validator)
            verdict = _called(validator, value, f"the validator {name}")
            if verdict is False:
                raise Refused(f"{name} refuses the answer")


def _called(code: Callable[[Any], Any], value: Any, what: str, refusal: str = "") -> Any:
    """What the caller's code makes of a value.

    Args:
        code: A parser or a validator.
        value: What it is called with.
        what: Names the code in the error when it fails.
        refusal: Begins the error when it refuses the value.

    Raises:
        Refused: It raised ValueError, which is how it refuses a value.
        CodeFailed: It raised anything else.
    """
    try:
        return code(value)
    except (Refused, KeyboardInterrupt, SystemExit):
        raise
    except (ValueError, msgspec.MsgspecError) as error:
        why = text_of(error) or f"{what} refuses it"
        raise Refused(f"{refusal}{why}") from error
    except BaseException as error:
        raise CodeFailed(what, error) from error


def _wanted(
    model: Any, choice: Sequence[str] | None, grammar: str | None
) -> tuple[Constraint | None, Callable[[str], Any] | None, int | None]:
    """What the engine keeps the answer to, and what is made of its text."""
    if model is not None:
        wanted = response_model(model)
        return JsonSchema(wanted.schema), lambda text: _first(wanted.decode, text), wanted.slow_from
    if choice is not None:
        choices = _checked_choices(choice)
        return Choice(choices), lambda text: chosen(text, choices), None
    if grammar is not None:
        return Grammar(check_text("grammar", grammar)), str, None
    return None, None, None


def _first(
    decode: Callable[[str], Any], text: str, *, monotonic: Callable[[], float] = time.monotonic
) -> Any:
    """The first JSON of an answer that is of the type; if none is, what is wrong with the answer.

    That is told of the JSON within a text, rather than of the text, which is none.

    Raises:
        Refused: None is of the type, or none of those that were tried in `MAX_SEARCH_S`.
    """
    wrong: Refused | None = None
    end = monotonic() + MAX_SEARCH_S
    for index, candidate in enumerate(json_texts(text)):
        if monotonic() >= end:
            break
        try:
            return decode(candidate)
        except TookTooLong:
            raise
        except Refused as error:
            wrong = error if wrong is None or index == 1 else wrong
    raise wrong or Refused("the answer holds no JSON")


def _checked_choices(choice: Any) -> tuple[str, ...]:
    if isinstance(choice, str | Mapping) or not isinstance(choice, Iterable):
        raise InvalidRequest(f"choice is {choice!r}, not a list of texts", field="choice")
    told = cast("Sequence[Any]", choice)
    choices = tuple(check_text(f"choice[{index}]", each) for index, each in enumerate(told))
    if not choices:
        raise InvalidRequest("choice is empty", field="choice")
    for index, each in enumerate(choices):
        if each != each.strip():
            raise InvalidRequest(f"choice[{index}] has white space around it", field="choice")
    if len(set(choices)) < len(choices):
        raise InvalidRequest("choice names the same text twice", field="choice")
    return choices


def _check_exclusive(**arguments: object) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) > 1 and set(given) != _TOGETHER:
        raise InvalidRequest(f"{' and '.join(given)} exclude each other", field=given[-1])


def _check_callables(arguments: Mapping[str, object]) -> None:
    for field, value in arguments.items():
        if value is not None and not callable(value):
            raise InvalidRequest(f"{field} is {shown(value)}, which cannot be called", field=field)


def _name(validator: Callable[[Any], object]) -> str:
    return getattr(validator, "__name__", type(validator).__name__)
