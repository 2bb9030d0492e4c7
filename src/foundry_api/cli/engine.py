"""`foundry-api engine`: the log of the engine."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import is_terminal, print_json, print_notice, sanitize_line
from foundry_api.cli.session import make_settings
from foundry_api.engine import state
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import FoundryError, ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["command", "find_log", "follow_log", "read_last_lines"]

HOST_LOGS = "host-*.log"
NATIVE_LOGS = "foundry_local_*.log"
BLOCK_BYTES = 64 * 1024
# A log is read from its end; what is before is not shown, however long the lines are.
MAX_BYTES = 16 * 2**20
POLL_S = 0.2


@click.group("engine", epilog=format_examples("engine logs", "engine logs -f"))
@output_options
def command() -> None:
    """Show what the engine logs."""


@command.command(
    "logs", epilog=format_examples("engine logs", "engine logs -f", "engine logs --native -n 200")
)
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Number of lines from the end.",
)
@click.option("--native", is_flag=True, help="The log that the native engine writes itself.")
@output_options
@pass_common
def logs_command(common: GlobalOptions, *, follow: bool, lines: int, native: bool) -> None:
    """Show the end of the engine's log.

    It is the log of the shared engine, or else of the last engine that ran.
    """
    if follow and common.as_json:
        raise click.UsageError("--json prints one document, and --follow has no end.")
    paths = Paths.from_home(make_settings(common).home)
    path = find_log(paths, native=native)
    if path is None:
        raise ServiceNotRunning(
            f"there is no log in {paths.logs}", hint="Start an engine: `foundry-api up`."
        )
    found = read_last_lines(path, lines)
    if common.as_json:
        print_json({"path": str(path), "lines": found})
        return
    if is_terminal(sys.stderr):
        click.echo(sanitize_line(f"==> {path} <=="), err=True)
    for line in found:
        _print_line(line)
    if lines and not found:
        print_notice(f"The log {path} is empty.")
    if follow:
        follow_log(path, _print_line, lambda: find_log(paths, native=native))


def find_log(paths: Paths, *, native: bool = False) -> Path | None:
    """Return the log of the shared engine, or else the newest one; None if there is none."""
    if not native and (host := state.read_state(paths.state_file)) is not None and host.log_path:
        shared = paths.logs / host.log_path  # which is absolute
        if shared.is_file():
            return shared
    logs = paths.logs.glob(NATIVE_LOGS if native else HOST_LOGS)
    return max(logs, key=lambda path: path.name, default=None)  # the names have the time


def read_last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a file."""
    try:
        with path.open("rb") as file:
            position = start = file.seek(0, 2)
            blocks: list[bytes] = []
            breaks = 0
            while position and breaks <= count and start - position < MAX_BYTES:
                size = min(BLOCK_BYTES, position)
                position = file.seek(position - size)
                blocks.append(file.read(size))
                breaks += blocks[-1].count(b"\n")
    except OSError as error:
        raise _make_error(path, error) from error
    text = b"".join(reversed(blocks)).decode("utf-8", "replace")
    return text.splitlines()[-count:] if count else []


def follow_log(
    path: Path,
    show: Callable[[str], object],
    find: Callable[[], Path | None],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Show the lines that are added, until Ctrl-C; go on with the log of the next engine."""
    file, rest = path.open("rb"), b""
    try:
        file.seek(0, 2)
        while True:
            if block := file.read(BLOCK_BYTES):
                *complete, rest = (rest + block).split(b"\n")
                for line in complete:
                    show(line.decode("utf-8", "replace").rstrip("\r"))
                continue
            newest = find()
            if newest is not None and newest != path:
                file.close()
                path, rest = newest, b""
                file = path.open("rb")
                show(f"==> {path} <==")
                continue
            sleep(POLL_S)
    except OSError as error:
        raise _make_error(path, error) from error
    finally:
        file.close()


def _print_line(line: str) -> None:
    click.echo(sanitize_line(line) if is_terminal(sys.stdout) else line)
    sys.stdout.flush()


def _make_error(path: Path, error: OSError) -> FoundryError:
    return FoundryError(f"{path} cannot be read: {error.strerror}")
