"""The command line: `foundry-api VERB`, or `python -m foundry_api VERB`.

`--help` must be fast: this module imports next to nothing, and `verbs.py` has a table of the verbs,
whose modules are imported when they run. tests/unit/cli/test_start.py counts the imports.
"""

from __future__ import annotations

import atexit
import contextlib
import os
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
        arguments: Arguments after the program name; None for those of the process.

    Returns:
        The exit code. Nothing is raised, and no traceback is printed. After Ctrl-C, a process of
        its own ends by SIGINT, where that exists, which stops a loop of the shell too.
    """
    argument_list = list(sys.argv[1:] if arguments is None else arguments)
    interruption = _Interruption()
    if arguments is None:
        _treat_break_as_interrupt()
        if next((one for one in argument_list if not one.startswith("-")), "") == "serve":
            _ignore_hangup()
    if arguments is None and sys.platform != "win32":
        # Registered first, so that it runs last: after the threads and temporary files are gone.
        atexit.register(interruption.end_process)
    try:
        return _run(argument_list)
    except KeyboardInterrupt:
        if arguments is None:
            # A second Ctrl-C while threads and the engine are shut down would print a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        interruption.has_come = True
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe is gone, as in `foundry-api ... | head`
        _discard_output()
        return FAILED
    except Exception as error:  # noqa: BLE001 - every failure is reported in the same way
        return _report_failure(error, argument_list)


def _treat_break_as_interrupt() -> None:
    """On Windows, let Ctrl-Break do what Ctrl-C does; by itself it ends the process at once."""
    # It is also the only signal that a program can send to one that it started in a group of its
    # own, as supervisors do.
    number = getattr(signal, "SIGBREAK", None)
    if number is not None:
        with contextlib.suppress(ValueError):  # not in the main thread, which has the handlers
            signal.signal(number, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


class _Interruption:
    """Ends the process by SIGINT if it was interrupted.

    A shell that sees an exit code, even 130, goes on with its loop; one that sees a program end by
    the signal stops, and reports 130. See https://www.cons.org/cracauer/sigint.html
    """

    has_come = False

    def end_process(self) -> None:
        if not self.has_come:
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        os.kill(os.getpid(), signal.SIGINT)


def _ignore_hangup() -> None:
    """Let a gateway that starts survive SIGHUP, which by itself ends a process.

    Whoever sends it wants files read again, and they have not been read yet. `serve` handles it
    once its event loop runs.
    """
    number = getattr(signal, "SIGHUP", None)  # not on Windows
    if number is not None:
        with contextlib.suppress(ValueError):  # not in the main thread, which has the handlers
            # A function, because the engine's process would inherit SIG_IGN.
            signal.signal(number, lambda _number, _frame: None)


def _run(arguments: list[str]) -> int:
    # Imported here, where `main` catches a Ctrl-C.
    from foundry_api.cli import root, streams  # noqa: PLC0415

    streams.force_utf8()
    code = root.run(arguments)
    sys.stdout.flush()
    return code


def _report_failure(error: Exception, arguments: list[str]) -> int:
    from foundry_api.cli import errors  # noqa: PLC0415 - most commands do not fail

    # After a `--`, a `--json` is part of the prompt.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return errors.report_error(error, as_json="--json" in options)
    except BrokenPipeError:
        return FAILED
    finally:
        _discard_output()


def _discard_output() -> None:
    from foundry_api.cli import streams  # noqa: PLC0415 - most commands do not fail

    streams.abandon_unwritten()
