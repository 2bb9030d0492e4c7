"""The directories of an import: where it works, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foundry_api.model_import.directory import (
    MAX_RECORD_BYTES,
    RECORD,
    ImportRecord,
    read_record,
)
from foundry_api.model_import.errors import ModelImportFailed
from foundry_api.observe.format import format_bytes
from foundry_api.storage.private_file import read_file, replace_atomically, replace_file
from foundry_api.types.errors import InvalidRequest
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from foundry_api.model_import.types import ModelSource, Precision

__all__ = ["Workspace", "check_output"]

STATE = "state.json"
MIN_FREE_BYTES = 2**28
PUBLISH_PATIENCE_S = 3.0

# Bytes on the disk per weight, from SmolLM2-135M, whose vocabulary is large for its size. fp16 is
# built with 32 bits first.
_BYTES_PER_WEIGHT = {"int4": 1.0, "int8": 2.2, "fp16": 6.5}
_WEIGHTS_AS_FLOATS = 4.2


class _State(msgspec.Struct):
    record: ImportRecord
    done: list[str] = []


def check_output(output: Path, source: Path) -> None:
    """Raise InvalidRequest for an output that an import could not make, or that is its source's."""
    problem = ""
    # The output is replaced by a directory with that name, which is impossible for these.
    if output.is_symlink():
        problem = "a link"
    elif not output.name or output.is_mount():
        problem = "the root of a file system"
    else:
        # Not `resolve`, which raises for a link that leads to itself.
        made, real_source = Path(os.path.realpath(output)), Path(os.path.realpath(source))
        if made.is_relative_to(real_source):
            problem = "within the source, which is never changed"
        elif real_source.is_relative_to(_get_place(made)):
            problem = f"made in {_get_place(made)}, where the source is"
    if problem:
        raise InvalidRequest(
            f"output is {output}, which is {problem}",
            field="output",
            hint="Give another directory, which does not exist or is empty.",
        )


def _get_place(output: Path) -> Path:
    """Return where an import works: next to the output, because renaming must be possible."""
    return output.with_name(f".{output.name}.import")


class Workspace:
    """The directory next to the output in which an import works, with the steps that are done.

    It is renamed to the output at the end, so the output is complete or missing.
    """

    def __init__(
        self, output: Path, source: ModelSource, precision: Precision, builder: str
    ) -> None:
        self.output = output
        self.directory = _get_place(output)
        self._size_bytes = _estimate_bytes(source, precision)
        self.record = ImportRecord(
            source=str(source.path),
            digest=source.digest,
            builder=builder,
            precision=precision,
            architecture=source.architecture,
        )
        self._state = _State(self.record)

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def weights(self) -> Path:
        return self.directory / "weights"

    @property
    def reference(self) -> Path:
        return self.directory / "reference.json"

    @property
    def job(self) -> Path:
        return self.directory / "job.json"

    @property
    def log_path(self) -> Path:
        return self.directory / "convert.log"

    def check_output(self) -> bool:
        """Return whether the output is complete already; raise if it is somebody else's."""
        record = read_record(self.output)
        if record is not None and record.is_same_model(self.record):
            return True
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return False
        hint = "Give a directory that does not exist or is empty."
        if record:
            found = f"has an import of {record.source} as {record.precision}"
            hint = (
                "Give another directory, or remove that model first with `foundry-api models remove"
                " NAME`. If none is registered there, delete the directory."
            )
        else:
            found = "has other files" if self.output.is_dir() else "is a file"
        raise InvalidRequest(f"output is {self.output}, which {found}", field="output", hint=hint)

    def open(self) -> None:
        """Create the directory, or continue with that of a stopped import of the same model."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        state = self._read_state()
        if state is not None and state.record == self.record:
            self._state = state
        elif self.directory.exists():
            if state is None and any(self.directory.iterdir()):
                raise InvalidRequest(
                    f"output needs the directory {self.directory}, which has other files",
                    field="output",
                )
            shutil.rmtree(self.directory)
        self._check_space()
        self.directory.mkdir(exist_ok=True)
        self._write_state()

    def is_done(self, step: str) -> bool:
        return step in self._state.done

    def mark_done(self, step: str) -> None:
        self._state.done.append(step)
        self._write_state()

    def discard(self, path: Path) -> None:
        """Delete what a stopped step left."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def publish(self, agreement: tuple[tuple[int, int], ...]) -> None:
        """Make the output out of the model, and delete the rest."""
        record = msgspec.structs.replace(self.record, agreement=agreement)
        (self.model / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
        # Windows does not rename to an empty directory.
        with contextlib.suppress(FileNotFoundError):
            self.output.rmdir()
        # A virus scanner reads new files, and Windows renames no directory with an open file.
        replace_atomically(self.model, self.output, patience_s=PUBLISH_PATIENCE_S)
        self.clean()

    def clean(self) -> None:
        """Delete the workspace."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.directory.parent).free
        used = sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())
        needed = max(0, self._size_bytes - used) + MIN_FREE_BYTES
        if free < needed:
            raise ModelImportFailed(
                f"{self.directory.parent} has {format_bytes(free)} free, and the import needs "
                f"about {format_bytes(needed)}",
                hint="Free some disk space, or give a directory on another disk with --output.",
            )

    def _read_state(self) -> _State | None:
        try:
            return msgspec.json.decode(
                read_file(self.directory / STATE, MAX_RECORD_BYTES), type=_State
            )
        except (OSError, *NOT_JSON):
            return None

    def _write_state(self) -> None:
        replace_file(self.directory / STATE, msgspec.json.encode(self._state))


def _estimate_bytes(source: ModelSource, precision: Precision) -> int:
    floats = _WEIGHTS_AS_FLOATS if source.kind == "gguf" else 0.0
    return round(source.parameters * (floats + _BYTES_PER_WEIGHT[precision]))
