"""Validate answers in a child process, which is killed when it takes too long.

A regular expression cannot be interrupted within a process, and it holds the GIL: on 40 characters,
`^(a+)+$` takes longer than a lifetime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.storage.process import NO_WINDOW
from foundry_api.structured.errors import ValidationTimeout
from foundry_api.types.user_code import try_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_validation", "validate_in_process"]

# sys.path is passed on because -I ignores PYTHONPATH and the current directory.
PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from foundry_api.structured.isolation import main
main()
"""


def validate_in_process(schema: dict[str, Any], text: str, limit_s: float) -> list[str]:
    """Return the errors of a JSON text. Raises ValidationTimeout after `limit_s` seconds."""
    if getattr(sys, "frozen", False) or not sys.executable:
        # The executable of a frozen program is the program, not Python.
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
            creationflags=NO_WINDOW,
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
                f"the answer could not be validated within {limit_s:g} s: a pattern, or nested "
                "alternatives, take too many steps on it"
            ) from error
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last_line = stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise ValidationTimeout(f"the process that validates the answer ended: {last_line}")
    return cast("list[str]", msgspec.json.decode(errors))


def main() -> None:
    """Run in the child process: read a schema and a text from stdin, write the errors to stdout."""
    from foundry_api.structured.find_json import decode_json  # noqa: PLC0415 - only in the child
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415 - as above

    schema, text = msgspec.json.decode(sys.stdin.buffer.read())
    errors = SchemaValidator(schema).find_errors(decode_json(text))
    sys.stdout.buffer.write(msgspec.json.encode(errors))


async def run_validation(
    function: Callable[..., Any], *args: Any
) -> tuple[Any, BaseException | None]:
    """Call a function in a thread and return its result and its exception.

    If the caller is cancelled, the child process that the function started is killed.
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
    """The processes that validate one answer, one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_killed = False
        self._current: subprocess.Popen[bytes] | None = None

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._current = process
            # The caller may be cancelled while the thread starts the process.
            if self._is_killed:
                process.kill()

    def kill(self) -> None:
        with self._lock:
            self._is_killed = True
            if self._current is not None:
                self._current.kill()


# A context variable reaches the thread that asyncio.to_thread starts.
_PROCESSES: ContextVar[_ValidationProcesses] = ContextVar(
    "foundry_api_validation",
    default=_ValidationProcesses(),  # noqa: B039 - never killed: only run_validation kills
)
