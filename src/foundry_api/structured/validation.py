"""Validate decoded JSON against a JSON schema."""

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

from foundry_api.structured.errors import ValidationFailed, ValidationTimeout
from foundry_api.structured.json_values import is_nested_deeper
from foundry_api.structured.schema_keywords import ANNOTATIONS
from foundry_api.types.errors import GrammarError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jsonschema.protocols import Validator

__all__ = ["SchemaValidator"]

# Levels of nesting that every schema can validate, unless it refers to itself without end.
# jsonschema needs several Python frames per level.
MAX_DEPTH = 50

# More errors do not help a model to correct its answer, and neither do longer ones.
MAX_ERRORS = 8
MAX_ERROR_LENGTH = 300

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(
    r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII
)
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII)


class SchemaValidator:
    """Validates values against one JSON schema, of any draft from 3 to 2020-12.

    `format` is asserted for dates, times, durations, addresses, host names and UUIDs. Raises
    InvalidRequest if the schema is invalid, has no keyword, or has a pattern that Python rejects.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        draft = validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            draft.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise InvalidRequest(
                f"response_model is not a JSON schema: at {error.json_path}: {error.message}",
                field="response_model",
            ) from error
        # An example, such as {"name": "string"}, is a valid schema that allows anything.
        keywords = schema.keys() - ANNOTATIONS
        unknown = sorted(name for name in keywords if not name.startswith(("$", "content", "x-")))
        if unknown and not keywords & draft.VALIDATORS.keys():
            raise InvalidRequest(
                f"response_model is not a JSON schema: it has {', '.join(unknown[:3])}, but no "
                "keyword such as type or properties, and would allow anything",
                field="response_model",
            )
        checks = {
            **draft.VALIDATORS,
            "multipleOf": _check_multiple_of,
            "uniqueItems": _check_unique_items,
        }
        counted = {name: self._count_steps(check) for name, check in checks.items()}
        counting_validator = cast("Any", validators).extend(draft, counted)
        self._steps = threading.local()  # answers may be validated in several threads
        # The empty registry keeps jsonschema from fetching remote references.
        self._validator: Validator = counting_validator(
            schema, format_checker=_FORMAT_CHECKER, registry=EMPTY_REGISTRY
        )

    def validate(self, value: Any) -> None:
        """Raise ValidationFailed for an invalid value, and GrammarError like `find_errors`."""
        if errors := self.find_errors(value):
            raise ValidationFailed(*errors)

    def find_errors(self, value: Any, *, max_steps: float = math.inf) -> list[str]:
        """Return the errors of a value.

        Raises ValidationTimeout after `max_steps` keywords, ValidationFailed if the value is nested
        too deeply, and GrammarError if the schema refers to itself without end.
        """
        self._steps.left = max_steps
        try:
            failures = list(itertools.islice(self._validator.iter_errors(value), MAX_ERRORS))
        except RecursionError as error:
            if is_nested_deeper(value, MAX_DEPTH):
                raise ValidationFailed("the answer is nested too deeply to validate") from error
            raise GrammarError(
                "response_model refers to itself without end", field="response_model"
            ) from error
        errors: list[str] = []
        for failure in failures:
            message = failure.message
            if len(message) > MAX_ERROR_LENGTH:
                message = f"{message[:MAX_ERROR_LENGTH]}…"
            errors.append(f"{failure.json_path}: {message}")
        return errors

    def _count_steps(self, check: Callable[..., Any]) -> Callable[..., Any]:
        def counting_check(*arguments: Any) -> Iterator[jsonschema.ValidationError]:
            self._steps.left -= 1
            if self._steps.left < 0:
                raise ValidationTimeout("the answer takes too long to validate")
            yield from check(*arguments) or ()

        return counting_check


def _check_multiple_of(
    validator: object, factor: float, instance: object, schema: object
) -> Iterator[jsonschema.ValidationError]:
    del validator, schema
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    # With fractions, because 0.3 is a multiple of 0.1, although 0.3 / 0.1 is 2.9999999999999996.
    if Fraction(str(instance)) % Fraction(str(factor)):
        yield jsonschema.ValidationError(f"{instance} is not a multiple of {factor}")


def _check_unique_items(
    validator: Any, is_unique: object, instance: Any, schema: object
) -> Iterator[jsonschema.ValidationError]:
    del schema
    if not is_unique or not validator.is_type(instance, "array"):
        return
    # In linear time. jsonschema compares each item with every other one.
    if len({_make_comparable(item) for item in instance}) < len(instance):
        yield jsonschema.ValidationError("has non-unique elements")


def _make_comparable(value: Any) -> Any:
    """Return a hashable value that is equal for equal JSON: 1 equals 1.0, but not true."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return frozenset((name, _make_comparable(item)) for name, item in members.items())
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        return tuple(map(_make_comparable, items))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Hashes of numbers are predictable, and an answer could make them collide. Those of texts
        # are randomized.
        return ("number", repr(value))
    return value


def _is_date(text: str) -> bool:
    # fromisoformat also accepts 20000131 and 2000-W05-1.
    return len(text) == len("2000-01-31") and bool(dt.date.fromisoformat(text))


def _is_time(text: str) -> bool:
    return bool(_TIME.fullmatch(text)) and bool(dt.time.fromisoformat(text.upper()))


def _is_date_time(text: str) -> bool:
    date, time = text[:10], text[11:]
    return text[10:11] in {"T", "t", " "} and _is_date(date) and _is_time(time)


# Each returns a false value or raises ValueError for an invalid text.
_FORMAT_CHECKS: Mapping[str, Callable[[str], object]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "duration": _DURATION.fullmatch,
    "email": _EMAIL.fullmatch,
    "hostname": lambda text: all(map(_HOST_LABEL.fullmatch, text.split("."))),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "time": _is_time,
    "uuid": uuid.UUID,
}


def _ignore_non_strings(check: Callable[[str], object]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or bool(check(value))


# jsonschema needs further packages for date-time, duration and hostname.
_FORMAT_CHECKER = jsonschema.FormatChecker(formats=())
for _name, _check in _FORMAT_CHECKS.items():
    _FORMAT_CHECKER.checks(_name, raises=ValueError)(_ignore_non_strings(_check))
