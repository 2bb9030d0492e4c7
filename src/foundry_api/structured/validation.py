"""Whether a value is what a plain JSON schema describes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
import math
import re
import threading
import uuid
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import jsonschema
from jsonschema import validators
from referencing.jsonschema import EMPTY_REGISTRY

from foundry_api.structured.engine_schema import ANNOTATIONS
from foundry_api.structured.refusal import ValidationFailed, ValidationTimeout
from foundry_api.types.errors import GrammarError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from jsonschema.protocols import Validator

__all__ = ["SchemaValidator"]

MAX_DEPTH = 50
"""Levels of an answer that can be validated with any schema that ends."""

MAX_ERRORS = 8
"""More would not help a model to correct its answer."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(
    r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII
)
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII)


class SchemaValidator:
    """Compares values with one JSON schema, of any draft from 3 to 2020-12.

    `format` is asserted for dates, times, durations, addresses, host names and UUIDs.

    Args:
        schema: The schema.

    Raises:
        InvalidRequest: It is no JSON schema, has no keyword of one, or a pattern cannot be read.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        draft = validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            draft.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise InvalidRequest(
                f"response_model is no JSON schema: at {error.json_path}: {error.message}",
                field="response_model",
            ) from error
        _check_keywords(schema, draft.VALIDATORS)
        keywords = {
            **draft.VALIDATORS,
            "multipleOf": _check_multiple_of,
            "uniqueItems": _check_unique_items,
        }
        counted = {name: self._count_steps(check) for name, check in keywords.items()}
        checking = cast("Any", validators).extend(draft, counted)
        self._steps = threading.local()
        self._validator: Validator = checking(
            schema, format_checker=_FORMAT_CHECKER, registry=EMPTY_REGISTRY
        )

    def validate(self, value: Any) -> None:
        """Refuse a value that the schema does not allow, however long that takes.

        Raises:
            ValidationFailed: It is not as the schema has it.
            GrammarError: The schema refers to itself without end.
        """
        if errors := self.find_errors(value):
            raise ValidationFailed(*errors)

    def find_errors(self, value: Any, *, max_steps: float = math.inf) -> list[str]:
        """What of a value the schema does not allow.

        Args:
            value: The value.
            max_steps: Keywords that are looked at before it is given up.

        Raises:
            ValidationTimeout: It was given up.
            ValidationFailed: The value is nested too deeply.
            GrammarError: The schema refers to itself without end.
        """
        self._steps.left = max_steps
        try:
            errors = list(itertools.islice(self._validator.iter_errors(value), MAX_ERRORS))
        except RecursionError as error:
            if _is_nested_deeper(value, MAX_DEPTH):
                raise ValidationFailed("the answer is nested too deeply to validate") from error
            raise GrammarError(
                "response_model refers to itself without end", field="response_model"
            ) from error
        return [f"{failure.json_path}: {_shorten(failure.message)}" for failure in errors]

    def _count_steps(self, check: Callable[..., Any]) -> Callable[..., Any]:
        def counting_check(*arguments: Any) -> Iterator[jsonschema.ValidationError]:
            self._steps.left -= 1
            if self._steps.left < 0:
                raise ValidationTimeout("the answer takes too long to validate")
            yield from check(*arguments) or ()

        return counting_check


def _check_keywords(schema: dict[str, Any], known: Mapping[str, object]) -> None:
    """See that a schema says something of values: an example of one would allow anything.

    Raises:
        InvalidRequest: It has members, and none of them is a keyword.
    """
    keywords = schema.keys() - ANNOTATIONS
    unknown = sorted(name for name in keywords if not name.startswith(("$", "content", "x-")))
    if unknown and not keywords & known.keys():
        raise InvalidRequest(
            f"response_model is no JSON schema: it has {', '.join(unknown[:3])}, but no keyword "
            "such as type or properties, and would allow anything",
            field="response_model",
        )


def _is_nested_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested in more levels than that."""
    level: list[Any] = [value]
    for _ in range(depth + 1):
        level = [part for item in level for part in _get_children(item)]
        if not level:
            return False
    return True


def _get_children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        return items
    return ()


def _shorten(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else f"{message[:limit]}…"


def _check_multiple_of(
    validator: object, factor: float, instance: object, schema: object
) -> Iterator[jsonschema.ValidationError]:
    """As people count: 0.3 is a multiple of 0.1, which the quotient of two floats denies."""
    del validator, schema
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    if Fraction(str(instance)) % Fraction(str(factor)):
        yield jsonschema.ValidationError(f"{instance} is not a multiple of {factor}")


def _check_unique_items(
    validator: Any, is_unique: object, instance: Any, schema: object
) -> Iterator[jsonschema.ValidationError]:
    """In linear time; jsonschema compares each item with each other one."""
    del schema
    if not is_unique or not validator.is_type(instance, "array"):
        return
    if len({_make_comparable(item) for item in instance}) < len(instance):
        yield jsonschema.ValidationError("has non-unique elements")


def _make_comparable(value: Any) -> Any:
    """What is equal for equal JSON: 1 and 1.0 are, 1 and true are not.

    Numbers become texts, whose hashes nobody who writes an answer can make collide.
    """
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return frozenset((name, _make_comparable(item)) for name, item in members.items())
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        return tuple(map(_make_comparable, items))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", repr(value))
    return value


def _is_time(text: str) -> bool:
    return bool(_TIME.fullmatch(text)) and bool(dt.time.fromisoformat(text.upper()))


def _is_date_time(text: str) -> bool:
    date, time = text[:10], text[11:]
    return text[10:11] in {"T", "t", " "} and _is_date(date) and _is_time(time)


def _is_date(text: str) -> bool:
    return len(text) == len("2000-01-31") and bool(dt.date.fromisoformat(text))


def _is_hostname(text: str) -> bool:
    return all(_HOST_LABEL.fullmatch(label) for label in text.split("."))


_FORMAT_CHECKS: Mapping[str, Callable[[str], object]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "duration": _DURATION.fullmatch,
    "email": _EMAIL.fullmatch,
    "hostname": _is_hostname,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "time": _is_time,
    "uuid": uuid.UUID,
}


def _make_format_checker() -> jsonschema.FormatChecker:
    checker = jsonschema.FormatChecker(formats=())
    for name, check in _FORMAT_CHECKS.items():
        checker.checks(name, raises=ValueError)(_for_strings(check))
    return checker


def _for_strings(check: Callable[[str], object]) -> Callable[[object], bool]:
    """A format says nothing of values that are no text."""
    return lambda value: not isinstance(value, str) or bool(check(value))


_FORMAT_CHECKER = _make_format_checker()
