"""What an answer has to be: what the engine keeps it to, and what is checked when it is here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.structured.find_json import iter_json_candidates
from foundry_api.structured.isolation import run_validation
from foundry_api.structured.partial_json import PartialJsonParser
from foundry_api.structured.refusal import UserCodeFailed, ValidationFailed, ValidationTimeout
from foundry_api.structured.response_model import make_response_type
from foundry_api.types.checks import check_text
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ChoiceConstraint, GrammarConstraint, JsonSchemaConstraint
from foundry_api.types.user_code import get_error_text
from foundry_api.types.values import format_value, is_list_like

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import Chunk, Constraint

__all__ = ["OutputSpec", "is_choice_prefix", "match_choice"]


_WRAPPING_PUNCTUATION = " \t\r\n\"'`*_.!"
"""What models like to put around a word."""


def match_choice(text: str, choices: Sequence[str]) -> str:
    """The choice that an answer names, whatever its case, quotes, emphasis and full stop.

    Raises:
        ValidationFailed: It names none, or more than one.
    """
    if (stripped := text.strip()) in choices:
        return stripped
    plain = _normalize(stripped)
    matches = [choice for choice in choices if _normalize(choice) == plain]
    if len(matches) != 1:
        problem = f"it is {stripped[:100]!r}" if stripped else "it is empty"
        raise ValidationFailed(
            f"the answer has to be one of {', '.join(map(repr, choices))}, but {problem}"
        )
    return matches[0]


def is_choice_prefix(text: str, choice: str) -> bool:
    """Whether a text can be the beginning of a choice: also one with quotes and in another case."""
    return choice.casefold().startswith(text.lstrip(_WRAPPING_PUNCTUATION).casefold())


def _normalize(text: str) -> str:
    return text.strip(_WRAPPING_PUNCTUATION).casefold()


MAX_SEARCH_S = 10.0
"""Seconds in which JSON that passes is looked for in one answer, beside those for the last one."""

_COMPATIBLE_ARGUMENTS = {"grammar", "parser"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
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
    def from_arguments(
        cls,
        *,
        response_model: Any = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        parser: Callable[[str], Any] | None = None,
        validators: Iterable[Callable[[Any], object]] = (),
        chunk_parser: Callable[[Chunk], Any] | None = None,
    ) -> OutputSpec:
        """What a caller's arguments say.

        Raises:
            InvalidRequest: One is at fault, or two say different things.
        """
        _check_exclusive(
            response_model=response_model, choice=choice, grammar=grammar, parser=parser
        )
        _check_exclusive(response_model=response_model, chunk_parser=chunk_parser)
        if not is_list_like(validators):
            raise InvalidRequest(
                f"validators is {format_value(validators)}, not a list",
                field="validators",
                hint="Give a list: validators=[…].",
            )
        checks = tuple(validators)
        numbered = {f"validators[{index}]": validator for index, validator in enumerate(checks)}
        _check_callables({"parser": parser, "chunk_parser": chunk_parser, **numbered})
        constraint, parse, slow_from = _select_constraint(response_model, choice, grammar)
        return cls(
            constraint=constraint,
            parse=parse if parser is None else parser,
            validators=checks,
            is_json=isinstance(constraint, JsonSchemaConstraint),
            chunk_parser=chunk_parser,
            slow_from=slow_from,
        )

    def validate(self, text: str) -> Any:
        """What an answer is, once it has passed; None where nothing was to be made of it.

        Raises:
            ValidationFailed: It does not pass.
        """
        if self.parse is None:
            self._run_validators(text)
            return None
        parsed = self._parse(self.parse, text)
        self._run_validators(parsed)
        return parsed

    async def validate_async(self, text: str) -> Any:
        """As `validate`, with what may take long in a thread; the caller's own code stays here.

        Raises:
            ValidationFailed: It does not pass.
        """
        if self.parse is None or self.slow_from is None or len(text) < self.slow_from:
            return self.validate(text)
        parsed, error = await run_validation(self._parse, self.parse, text)
        if error is not None:
            raise error
        self._run_validators(parsed)
        return parsed

    def may_be_truncated(self, text: str) -> bool:
        """Whether an answer that was cut at max_tokens can be whole all the same.

        A choice can that no other one begins with: a bound of one token is usual for those.
        """
        match self.constraint:
            case ChoiceConstraint(choices):
                stripped = text.strip()
                return [choice for choice in choices if choice.startswith(stripped)] == [stripped]
            case None:
                return True
            case _:
                return False

    def rules_out(self, text: str) -> bool:
        """Whether nothing that begins like a cut answer could pass: it begins like no choice."""
        match self.constraint:
            case ChoiceConstraint(choices):
                return not any(is_choice_prefix(text, choice) for choice in choices)
            case _:
                return False

    def partial_parser(self) -> PartialJsonParser | None:
        """Reads the value of a stream so far."""
        return PartialJsonParser() if self.is_json else None

    def parse_chunk(self, chunk: Chunk) -> Any:
        """What the caller's `chunk_parser` makes of a chunk.

        Raises:
            ValidationFailed: It refuses the chunk, or fails.
        """
        assert self.chunk_parser is not None  # noqa: S101 - a mistake of ours
        return _call_user_code(
            self.chunk_parser, chunk, "the chunk_parser", "a chunk cannot be parsed: "
        )

    def _parse(self, parse: Callable[[str], Any], text: str) -> Any:
        code_name = "response_model" if self.is_json else "the parser"
        return _call_user_code(parse, text, code_name, "the answer cannot be parsed: ")

    def _run_validators(self, value: Any) -> None:
        for validator in self.validators:
            name = _get_validator_name(validator)
            verdict = _call_user_code(validator, value, f"the validator {name}")
            if verdict is False:
                raise ValidationFailed(f"{name} refuses the answer")


def _call_user_code(
    code: Callable[[Any], Any], value: Any, code_name: str, error_prefix: str = ""
) -> Any:
    """What the caller's code makes of a value.

    Args:
        code: A parser or a validator.
        value: What it is called with.
        code_name: Names the code in the error when it fails.
        error_prefix: Begins the error when it refuses the value.

    Raises:
        ValidationFailed: It raised ValueError, which is how it refuses a value.
        UserCodeFailed: It raised anything else.
    """
    try:
        return code(value)
    except (ValidationFailed, KeyboardInterrupt, SystemExit):
        raise
    except (ValueError, msgspec.MsgspecError) as error:
        reason = get_error_text(error) or f"{code_name} refuses it"
        raise ValidationFailed(f"{error_prefix}{reason}") from error
    except BaseException as error:
        raise UserCodeFailed(code_name, error) from error


def _select_constraint(
    model: Any, choice: Sequence[str] | None, grammar: str | None
) -> tuple[Constraint | None, Callable[[str], Any] | None, int | None]:
    """What the engine keeps the answer to, and what is made of its text."""
    if model is not None:
        response_type = make_response_type(model)
        return (
            JsonSchemaConstraint(response_type.schema),
            lambda text: _first_valid(response_type.decode, text),
            response_type.slow_from,
        )
    if choice is not None:
        choices = _validate_choices(choice)
        return ChoiceConstraint(choices), lambda text: match_choice(text, choices), None
    if grammar is not None:
        return GrammarConstraint(check_text("grammar", grammar)), str, None
    return None, None, None


def _first_valid(
    decode: Callable[[str], Any], text: str, *, monotonic: Callable[[], float] = time.monotonic
) -> Any:
    """The first JSON of an answer that is of the type; if none is, what is wrong with the answer.

    That is told of the JSON within a text, rather than of the text, which is none.

    Raises:
        ValidationFailed: None is of the type, or none of those that were tried in `MAX_SEARCH_S`.
    """
    first_error: ValidationFailed | None = None
    end = monotonic() + MAX_SEARCH_S
    for index, candidate in enumerate(iter_json_candidates(text)):
        if monotonic() >= end:
            break
        try:
            return decode(candidate)
        except ValidationTimeout:
            raise
        except ValidationFailed as error:
            first_error = error if first_error is None or index == 1 else first_error
    raise first_error or ValidationFailed("the answer holds no JSON")


def _validate_choices(choice: Any) -> tuple[str, ...]:
    if isinstance(choice, str | Mapping) or not isinstance(choice, Iterable):
        raise InvalidRequest(f"choice is {choice!r}, not a list of texts", field="choice")
    items = cast("Sequence[Any]", choice)
    choices = tuple(check_text(f"choice[{index}]", item) for index, item in enumerate(items))
    if not choices:
        raise InvalidRequest("choice is empty", field="choice")
    for index, item in enumerate(choices):
        if item != item.strip():
            raise InvalidRequest(f"choice[{index}] has white space around it", field="choice")
    if len(set(choices)) < len(choices):
        raise InvalidRequest("choice names the same text twice", field="choice")
    return choices


def _check_exclusive(**arguments: object) -> None:
    names = [name for name, value in arguments.items() if value is not None]
    if len(names) > 1 and set(names) != _COMPATIBLE_ARGUMENTS:
        raise InvalidRequest(f"{' and '.join(names)} exclude each other", field=names[-1])


def _check_callables(arguments: Mapping[str, object]) -> None:
    for field, value in arguments.items():
        if value is not None and not callable(value):
            raise InvalidRequest(
                f"{field} is {format_value(value)}, which cannot be called", field=field
            )


def _get_validator_name(validator: Callable[[Any], object]) -> str:
    return getattr(validator, "__name__", type(validator).__name__)
