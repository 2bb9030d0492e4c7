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
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        return _interrupted(is_program=arguments is None)
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # noqa: BLE001 - the user is told, whatever it is
        return _failed(error, given)


def _run(arguments: list[str]) -> int:
    from foundry_api.cli import output, root  # noqa: PLC0415 - see the module

    output.arrange()
    code = root.run(arguments)
    sys.stdout.flush()
    return code


def _interrupted(*, is_program: bool) -> int:
    """End after Ctrl-C. While threads and engine leave, another one would draw a traceback."""
    if is_program:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return INTERRUPTED


def _failed(error: Exception, arguments: list[str]) -> int:
    from foundry_api.cli import errors, output  # noqa: PLC0415 - most commands do not fail

    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return errors.report(error, as_json="--json" in options)
    except BrokenPipeError:
        return FAILED
    finally:
        output.abandon_unwritten()


def _reader_left() -> int:
    """End quietly when the reader of a pipe left."""
    from foundry_api.cli import output  # noqa: PLC0415 - as above

    output.abandon_unwritten()
    return FAILED
