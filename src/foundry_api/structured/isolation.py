"""Validation in a process of its own, which can be ended when it takes too long.

Nothing ends a regular expression within a process: it holds the interpreter until it is done, and
`^(a+)+$` is not done in a lifetime on 40 characters.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.structured.refusal import ValidationTimeout
from foundry_api.types.user_code import try_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["MAX_PATTERN_S", "PatternCosts", "run_validation", "validate_in_process"]

PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from foundry_api.structured.isolation import main
main()
"""

MAX_STEPS = 1_000_000
"""Steps of a regular expression on one text, in the worst case, without a process of its own."""

MAX_TOTAL_STEPS = 20_000_000
"""Steps of all expressions on all texts of a value, in the worst case, without such a process."""

MAX_PATTERN_S = 2.0
"""Seconds for a process that only finds out whether the same work can be done in this one."""

_PARSER: Any = getattr(re, "_parser")  # noqa: B009 - nothing else tells what a pattern means
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


def validate_in_process(schema: dict[str, Any], text: str, limit_s: float) -> list[str]:
    """What is wrong with a JSON text.

    Args:
        schema: What it has to be.
        text: JSON.
        limit_s: Seconds after which the process is ended.

    Raises:
        ValidationTimeout: It was ended.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ValidationTimeout(
            "the answer may take too long to validate, and there is no Python for it"
        )
    command = [sys.executable, "-I", "-c", PROGRAM, json.dumps(sys.path)]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise ValidationTimeout(
            f"no process could be started to validate the answer: {error}"
        ) from error
    with process:
        _PROCESSES.get().add(process)
        try:
            errors, stderr = process.communicate(
                msgspec.json.encode([schema, text]), timeout=limit_s
            )
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ValidationTimeout(
                f"the answer could not be validated within {limit_s:g} s: a pattern, or "
                "alternatives within one another, take too many steps on it"
            ) from error
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last_line = stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise ValidationTimeout(f"the process that validates the answer ended: {last_line}")
    return cast("list[str]", msgspec.json.decode(errors))


async def run_validation(
    function: Callable[..., Any], *args: Any
) -> tuple[Any, BaseException | None]:
    """Call a function that may use `validate_in_process` in a thread.

    When the caller is cancelled, its process ends at once.
    """
    processes = _ValidationProcesses()
    token = _PROCESSES.set(processes)
    try:
        return await try_in_thread(function, *args)
    except BaseException:
        processes.kill()
        raise
    finally:
        _PROCESSES.reset(token)


class _ValidationProcesses:
    """The processes that validate one answer, one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_killed = False
        self._current: subprocess.Popen[bytes] | None = None

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._current = process
            if self._is_killed:
                process.kill()

    def kill(self) -> None:
        with self._lock:
            self._is_killed = True
            if self._current is not None:
                self._current.kill()


_PROCESSES: ContextVar[_ValidationProcesses] = ContextVar(
    "foundry_api_validation",
    default=_ValidationProcesses(),  # noqa: B039 - killing ends all, whichever context asks
)


def main() -> None:
    """Validate what comes through standard input, without a bound."""
    from foundry_api.structured.find_json import decode_json  # noqa: PLC0415 - only in this process
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415 - as above

    schema, text = msgspec.json.decode(sys.stdin.buffer.read())
    errors = SchemaValidator(schema).find_errors(decode_json(text))
    sys.stdout.buffer.write(msgspec.json.encode(errors))


class PatternCosts:
    """The patterns of a schema, and whether they may take long on a value.

    Args:
        schema: The schema.
    """

    def __init__(self, schema: Any) -> None:
        self._costs = [_PatternCost(pattern) for pattern in dict.fromkeys(_iter_patterns(schema))]

    def __bool__(self) -> bool:
        return bool(self._costs)

    def may_take_long(self, value: Any) -> bool:
        """Whether one may take more than `MAX_STEPS` on a text, or all of them on all texts."""
        lengths = Counter(map(len, _iter_texts(value)))
        total = 0.0
        for cost in self._costs:
            for length, count in lengths.items():
                steps = cost.estimate_steps(length)
                if steps > MAX_STEPS:
                    return True
                total += steps * count
        return total > MAX_TOTAL_STEPS


class _PatternCost:
    """How many steps a backtracking matcher may take for a pattern, roughly and at most.

    Args:
        pattern: A regular expression.
    """

    def __init__(self, pattern: str) -> None:
        self._exponent = 0
        self._branches = 0
        self._is_nested = False
        try:
            parsed = _PARSER.parse(pattern)
        except (re.error, RecursionError, OverflowError):
            self._is_nested = True
            return
        self._anchored = pattern.startswith(("^", r"\A"))
        self._analyze(parsed, in_repeat=False)

    def estimate_steps(self, length: int) -> float:
        """On a text of so many characters."""
        if self._is_nested:
            return 2.0 ** min(length, 1000)
        power = self._exponent + (0 if self._anchored else 1)
        return float(max(length, 2)) ** min(power, 30) * 2.0 ** min(self._branches, 100)

    def _analyze(self, parsed: Iterable[Any], *, in_repeat: bool) -> None:
        for code, argument in parsed:
            name = str(code)
            if name in _REPEATS:
                low, high, inner = argument
                self._add_repeat(int(low), int(high), in_repeat=in_repeat)
                self._analyze(inner, in_repeat=True)
            elif name == "BRANCH":
                self._branches += 1
                self._is_nested = self._is_nested or in_repeat
                branches: Any = argument[1]
                for branch in branches:
                    self._analyze(branch, in_repeat=in_repeat)
            elif name == "GROUPREF":
                self._exponent += 1
            else:
                for part in _get_subpatterns(argument):
                    self._analyze(part, in_repeat=in_repeat)

    def _add_repeat(self, low: int, high: int, *, in_repeat: bool) -> None:
        if low == high:
            return
        self._is_nested = self._is_nested or in_repeat
        if high - low == 1:
            self._branches += 1
        else:
            self._exponent += 1


def _get_subpatterns(argument: Any) -> list[Any]:
    """The expressions within a part of one."""
    kind: type = _PARSER.SubPattern
    if isinstance(argument, kind):
        return [argument]
    if not isinstance(argument, tuple):
        return []
    return [part for part in argument if isinstance(part, kind)]  # pyright: ignore[reportUnknownVariableType] # of the standard library


def _iter_patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        if isinstance(pattern := members.get("pattern"), str):
            yield pattern
        named = members.get("patternProperties")
        yield from cast("dict[str, Any]", named) if isinstance(named, dict) else ()
        for item in members.values():
            yield from _iter_patterns(item)
    elif isinstance(schema, list):
        items: list[Any] = schema  # pyright: ignore[reportUnknownVariableType] # of JSON
        for item in items:
            yield from _iter_patterns(item)


def _iter_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        yield from members
        for item in members.values():
            yield from _iter_texts(item)
    elif isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        for item in items:
            yield from _iter_texts(item)
