"""The command line: `foundry-api VERB`, or `python -m foundry_api VERB`.

Help must not wait for what calls need: `verbs.py` has a table of the verbs, and a verb's module is
imported when the verb runs. This module itself imports next to nothing: all that takes time is
imported by `main`, where a Ctrl-C is heard. tests/unit/test_cli_start.py counts the imports.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

FAILED = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None takes the process's own.

    Returns:
        The exit code. Nothing is raised, and no traceback is printed.
    """
    argument_list = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(argument_list)
    except KeyboardInterrupt:
        return _handle_interrupt(is_program=arguments is None)
    except BrokenPipeError:
        return _handle_closed_pipe()
    except Exception as error:  # noqa: BLE001 - the user is told, whatever it is
        return _report_failure(error, argument_list)


def _run(arguments: list[str]) -> int:
    from foundry_api.cli import root, streams  # noqa: PLC0415 - see the module

    streams.force_utf8()
    code = root.run(arguments)
    sys.stdout.flush()
    return code


def _handle_interrupt(*, is_program: bool) -> int:
    """End after Ctrl-C. While threads and engine leave, another one would draw a traceback."""
    if is_program:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return INTERRUPTED


def _report_failure(error: Exception, arguments: list[str]) -> int:
    from foundry_api.cli import errors, streams  # noqa: PLC0415 - most commands do not fail

    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return errors.report_error(error, as_json="--json" in options)
    except BrokenPipeError:
        return FAILED
    finally:
        streams.abandon_unwritten()


def _handle_closed_pipe() -> int:
    """End quietly when the reader of a pipe left."""
    from foundry_api.cli import streams  # noqa: PLC0415 - as above

    streams.abandon_unwritten()
    return FAILED
