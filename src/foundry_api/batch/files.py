"""Refuse batches whose files overlap, before any of them is opened."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from foundry_api.batch.journal.database import FILE as JOURNAL
from foundry_api.batch.journal.output import foreign_file_error
from foundry_api.batch.report.page import HEAD
from foundry_api.batch.types import STANDARD_STREAM
from foundry_api.storage.private_file import is_replaceable, resolve_link
from foundry_api.types.errors import BatchInputInvalid
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from foundry_api.batch.types import BatchOptions

    Identity = tuple[int | str, ...]

__all__ = ["check_files"]

Role = Literal["path", "output", "errors", "report"]

_NAMES: dict[Role, str] = {
    "path": "the input",
    "output": "the output",
    "errors": "the error file",
    "report": "the report",
}
_OPTIONS: dict[Role, str] = {"output": "-o", "errors": "--errors", "report": "--report"}


@dataclass(frozen=True, slots=True)
class _NamedFile:
    """A file as an option names it."""

    role: Role  # what the file is for, and the name of the option
    path: Path  # a symbolic link is followed
    given_name: str  # as the user wrote it
    identity: Identity  # equal for all names of one file

    def __str__(self) -> str:
        return f"{_NAMES[self.role]} {self.given_name}"


def check_files(options: BatchOptions, *, restart: bool = False) -> None:
    """Refuse files that are the same, or that the batch must not replace. Writes nothing."""
    outputs = _list_outputs(options)
    files = [*_list_input_and_stdout(options), *outputs]
    # Two names may be one file: by another spelling, a link, or a directory that is mounted twice.
    for one, other in combinations(files, 2):
        if one.identity == other.identity:
            raise _file_error(other, f"{other} is the same file as {one}", "Name another file{}")
    if not options.to_stream:
        _check_outside_journal(files, options.directory)
    for file in outputs:
        _check_writable(file)
        # Another batch's journal may be the only place that holds its answers.
        for directory in Path(os.path.realpath(file.path)).parents:
            if directory.suffix == ".batch" and (directory / JOURNAL).is_file():
                raise _file_error(
                    file,
                    f"{file} is inside {directory}, the journal of another batch",
                    "Name another file{}",
                )
    if options.to_stream:
        return
    if not restart and not (options.directory / JOURNAL).exists():
        for file in outputs:
            if file.role != "report" and file.path.exists():
                raise foreign_file_error(file.path)


def _list_input_and_stdout(options: BatchOptions) -> list[_NamedFile]:
    files: list[_NamedFile] = []
    path = options.input.path
    if path != STANDARD_STREAM:
        files.append(_make_named_file("path", Path(path), path))
    elif (status := _get_status(sys.stdin)) is not None:
        files.append(_make_stream("path", "on standard input", status))
    stdout_status = _get_status(sys.stdout) if options.to_stream else None
    # Only a regular file counts: a terminal, or the null device, may also be the input.
    if stdout_status is not None and stat.S_ISREG(stdout_status.st_mode):
        files.append(_make_stream("output", "on standard output", stdout_status))
    return files


def _get_status(stream: TextIO | None) -> os.stat_result | None:
    try:
        return None if stream is None else os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # it is closed, or not a file of the system
        return None


def _make_stream(role: Role, given_name: str, status: os.stat_result) -> _NamedFile:
    return _NamedFile(role, Path(), given_name, (status.st_dev, status.st_ino))


def _list_outputs(options: BatchOptions) -> list[_NamedFile]:
    files: list[_NamedFile] = []
    if not options.to_stream:  # a stream has no error file: failed lines go to it too
        files.append(_make_named_file("output", options.output_path, options.output))
        errors = options.errors_path
        files.append(_make_named_file("errors", errors, options.errors or str(errors)))
    if options.report is not None:
        files.append(_make_named_file("report", resolve_link(options.report), options.report))
    return files


def _make_named_file(role: Role, path: Path, given_name: str) -> _NamedFile:
    try:
        path = absolute_path(path)
        return _NamedFile(role, path, given_name, _get_identity(path))
    except ValueError as error:
        raise BatchInputInvalid(
            f"{_NAMES[role]} {given_name!r} cannot be used: {error}",
            field=role,
            hint="Name a file.",
        ) from error


def _check_writable(file: _NamedFile) -> None:
    """Refuse what the batch cannot replace with a file of its own."""
    try:
        # The given name is tried first: a pipe in /dev/fd is a link that leads nowhere.
        named = Path(file.given_name)
        mode = (named if named.exists() else file.path).stat().st_mode
    except FileNotFoundError:
        if os.path.basename(file.given_name) in {"", "."}:  # noqa: PTH119 - a Path drops the slash
            raise _file_error(file, f"{file} names a directory", "Name a file{}") from None
        directory = file.path.parent
        if not directory.is_dir():  # not created: its name may be misspelled
            wrong = "is not a directory" if directory.exists() else "does not exist"
            raise _file_error(
                file,
                f"{file} cannot be written: {directory} {wrong}",
                "Create the directory, or name another file{}",
            ) from None
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _file_error(
            file, f"{file} cannot be written: {why}", "Name another file{}"
        ) from error
    if stat.S_ISDIR(mode):
        raise _file_error(file, f"{file} is a directory", "Name a file{}")
    if not stat.S_ISREG(mode):
        also = "; -o - is standard output" if file.role == "output" else ""
        raise _file_error(file, f"{file} is not a regular file", f"Name a file{{}}{also}")
    if file.role == "report" and not is_replaceable(file.path, HEAD):
        raise _file_error(
            file,
            f"{file} exists, and is not the report of a batch",
            "Move it, or name another file{}",
        )


def _check_outside_journal(files: list[_NamedFile], directory: Path) -> None:
    if os.path.lexists(directory) and not directory.is_dir():
        raise BatchInputInvalid(
            f"the journal would be in {directory}, which exists and is not a directory",
            field="output",
            hint="Move it, or name another output with -o.",
        )
    journal = _get_identity(directory)
    for file in files:
        real = Path(os.path.realpath(file.path))
        if journal in {file.identity, *map(_get_identity, real.parents)}:
            raise _file_error(
                file,
                f"{file} is inside {directory}, the journal of this batch",
                "Name another file{}",
            )


def _file_error(file: _NamedFile, message: str, hint: str) -> BatchInputInvalid:
    # The hint has `{}` where the option's name belongs.
    option = f" with {_OPTIONS[file.role]}" if file.role in _OPTIONS else ""
    hint = f"{hint.format(option)}. Nothing was written."
    return BatchInputInvalid(message, field=file.role, hint=hint)


def _get_identity(path: Path) -> Identity:
    """Return a value that is equal for all names of one file, even before it exists."""
    real = Path(os.path.realpath(path))
    try:
        status = real.stat()
    except (OSError, ValueError):
        if real.parent == real:
            return (str(real),)
        # Some file systems ignore case, or do not distinguish composed letters. There is no way to
        # find out for a name that does not exist, so both count as the same everywhere.
        name = unicodedata.normalize("NFC", real.name).casefold()
        return (*_get_identity(real.parent), name)
    return (status.st_dev, status.st_ino)
