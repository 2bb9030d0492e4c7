"""The output that a caller requests: what the engine enforces and how an answer is validated."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.structured.errors import (
    TRUNCATED,
    IncompleteOutput,
    UserCodeFailed,
    ValidationFailed,
    ValidationTimeout,
)
from foundry_api.structured.find_json import iter_json_candidates
from foundry_api.structured.isolation import run_validation
from foundry_api.structured.partial_json import PartialJsonParser
from foundry_api.structured.response_model import make_response_type
from foundry_api.types.checks import check_text
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ChoiceConstraint, GrammarConstraint, JsonSchemaConstraint
from foundry_api.types.user_code import get_error_text
from foundry_api.types.values import format_value, is_list_like

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import Chunk, Constraint, FinishReason

__all__ = ["OutputSpec"]

# An answer may hold up to 100 JSON texts, each of which may take seconds to validate. The last one
# that is started may exceed this limit.
MAX_SEARCH_S = 10.0

# A parser may post-process the text that a grammar allows.
_COMPATIBLE_ARGUMENTS = {"grammar", "parser"}

# What models put around a word.
_WRAPPING_PUNCTUATION = " \t\r\n\"'`*_.!"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """The required form of one answer.

    Attributes:
        constraint: Enforced by the engine if the service supports it.
        parse: Converts the text; None to keep it a text.
        validators: Called with the parsed value, or with the text. Each rejects it by raising
            ValueError or returning False.
        is_json: Whether the text is JSON, so that a stream has partial values.
        chunk_parser: Converts each chunk of a stream to its partial value instead.
        slow_from: Length in characters from which on `parse` may take long, so that it runs in a
            thread; None if it never does. The caller's own parser always runs on the event loop.
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
        """Create a spec from the caller's arguments; raise InvalidRequest if they are invalid."""
        _check_exclusive(
            response_model=response_model, choice=choice, grammar=grammar, parser=parser
        )
        _check_exclusive(response_model=response_model, chunk_parser=chunk_parser)
        if not is_list_like(validators):
            raise InvalidRequest(
                f"validators is {format_value(validators)}, not a list",
                field="validators",
                hint="Pass a list: validators=[…].",
            )
        validators = tuple(validators)
        callables: dict[str, object] = {"parser": parser, "chunk_parser": chunk_parser}
        callables |= {f"validators[{index}]": item for index, item in enumerate(validators)}
        for field, value in callables.items():
            if value is not None and not callable(value):
                raise InvalidRequest(
                    f"{field} is {format_value(value)}, which cannot be called", field=field
                )

        constraint: Constraint | None = None
        parse = parser
        slow_from = None
        if response_model is not None:
            response_type = make_response_type(response_model)
            constraint = JsonSchemaConstraint(response_type.schema)
            parse = functools.partial(_first_valid, response_type.decode)
            slow_from = response_type.slow_from
        elif choice is not None:
            constraint = ChoiceConstraint(_validate_choices(choice))
            parse = functools.partial(_match_choice, constraint.choices)
        elif grammar is not None:
            constraint = GrammarConstraint(check_text("grammar", grammar))
            parse = str if parser is None else parser
        return cls(
            constraint=constraint,
            parse=parse,
            validators=validators,
            is_json=isinstance(constraint, JsonSchemaConstraint),
            chunk_parser=chunk_parser,
            slow_from=slow_from,
        )

    def validate(self, text: str) -> Any:
        """Parse and validate an answer; None without a parser. Raises ValidationFailed."""
        if self.parse is None:
            self._run_validators(text)
            return None
        parsed = self._parse(self.parse, text)
        self._run_validators(parsed)
        return parsed

    async def validate_async(self, text: str) -> Any:
        """Like `validate`, but parse in a thread if that may block the event loop for long."""
        if self.parse is None or self.slow_from is None or len(text) < self.slow_from:
            return self.validate(text)
        parsed, error = await run_validation(self._parse, self.parse, text)
        if error is not None:
            raise error
        # The caller's own code may use the event loop, so it is not called in the thread.
        self._run_validators(parsed)
        return parsed

    async def validate_answer(self, text: str, finish_reason: FinishReason | None) -> Any:
        """Parse and validate an answer, which may have been cut.

        Raises IncompleteOutput if it was cut or withheld, otherwise ValidationFailed.
        """
        can_continue = True
        if isinstance(self.constraint, ChoiceConstraint):
            # More tokens would not have made a text valid that no choice begins with.
            start = text.lstrip(_WRAPPING_PUNCTUATION).casefold()
            choices = self.constraint.choices
            can_continue = any(choice.casefold().startswith(start) for choice in choices)
        if finish_reason == "stop" or (finish_reason == "length" and not can_continue):
            return await self.validate_async(text)
        is_filtered = finish_reason == "content_filter"
        reason = "the answer was withheld by a content filter" if is_filtered else TRUNCATED
        if not self.may_be_truncated(text):
            raise IncompleteOutput(reason)
        try:
            return await self.validate_async(text)
        except UserCodeFailed:
            raise
        except ValidationFailed as error:
            raise IncompleteOutput(reason, *error.errors) from error

    def may_be_truncated(self, text: str) -> bool:
        """Check whether an answer that ended at max_tokens may be complete all the same."""
        match self.constraint:
            case ChoiceConstraint(choices):
                # max_tokens=1 is usual with choices. A complete choice is valid, unless another
                # one begins with it.
                stripped = text.strip()
                return [choice for choice in choices if choice.startswith(stripped)] == [stripped]
            case None:
                return True
            case _:
                return False

    def partial_parser(self) -> PartialJsonParser | None:
        return PartialJsonParser() if self.is_json else None

    def parse_chunk(self, chunk: Chunk) -> Any:
        """Call the caller's `chunk_parser`. Raises ValidationFailed if it fails."""
        assert self.chunk_parser is not None  # noqa: S101 - a mistake of ours
        return _call_user_code(
            self.chunk_parser, chunk, "the chunk_parser", "a chunk cannot be parsed: "
        )

    def _parse(self, parse: Callable[[str], Any], text: str) -> Any:
        code_name = "response_model" if self.is_json else "the parser"
        return _call_user_code(parse, text, code_name, "the answer cannot be parsed: ")

    def _run_validators(self, value: Any) -> None:
        for validator in self.validators:
            name = getattr(validator, "__name__", type(validator).__name__)
            # A validator that returns None accepts the value.
            if _call_user_code(validator, value, f"the validator {name}") is False:
                raise ValidationFailed(f"{name} rejects the answer")


def _call_user_code(
    code: Callable[[Any], Any], value: Any, code_name: str, error_prefix: str = ""
) -> Any:
    """Call a parser or validator; ValueError rejects the value, other exceptions are failures."""
    try:
        return code(value)
    except (ValidationFailed, KeyboardInterrupt, SystemExit):
        raise
    except (ValueError, msgspec.MsgspecError) as error:
        reason = get_error_text(error) or f"{code_name} rejects it"
        raise ValidationFailed(f"{error_prefix}{reason}") from error
    except BaseException as error:
        raise UserCodeFailed(code_name, error) from error


def _first_valid(
    decode: Callable[[str], Any], text: str, *, monotonic: Callable[[], float] = time.monotonic
) -> Any:
    """Decode the first JSON in an answer that is valid. Raises ValidationFailed if none is."""
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
            # The first candidate is the whole text. If it contains JSON, that error is more useful
            # than the one that a sentence is not JSON.
            first_error = error if first_error is None or index == 1 else first_error
    raise first_error or ValidationFailed("the answer contains no JSON")


def _match_choice(choices: Sequence[str], text: str) -> str:
    """Return the choice that an answer names, ignoring case, quotes, emphasis and a full stop."""
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


def _normalize(text: str) -> str:
    return text.strip(_WRAPPING_PUNCTUATION).casefold()


def _validate_choices(choice: Any) -> tuple[str, ...]:
    if isinstance(choice, str | Mapping) or not isinstance(choice, Iterable):
        raise InvalidRequest(f"choice is {choice!r}, not a list of strings", field="choice")
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
        raise InvalidRequest(f"{' and '.join(names)} cannot be combined", field=names[-1])
