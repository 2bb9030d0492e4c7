"""Imports a model: from the source to a directory that the engine serves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.core.service_pool import DEMO
from foundry_api.engine.models.validate import check_alias, find_problems
from foundry_api.model_import.builder import Builder, hold_lock
from foundry_api.model_import.check import PROMPTS, TOKENS, check_model
from foundry_api.model_import.child import read_tail, run_child
from foundry_api.model_import.directory import get_default_output
from foundry_api.model_import.errors import ModelImportFailed
from foundry_api.model_import.source import inspect_source
from foundry_api.model_import.types import PRECISIONS, ImportProgress
from foundry_api.model_import.workspace import Workspace, check_output
from foundry_api.storage.private_file import replace_file
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable

    from foundry_api.model_import.types import ModelSource, Precision
    from foundry_api.types.models import Model

    Progress = Callable[[ImportProgress], object]

__all__ = ["ImportRequest", "convert_model", "prepare_import", "set_up_builder"]

COMPLETE = 100.0


def _ignore(_: ImportProgress) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """A validated import.

    Attributes:
        source: The model to convert.
        output: The directory to make.
        precision: The type of the weights.
        builder: The environment of the builder.
        check: Whether to compare the model's answers with those of the source.
        alias: The name of the model; empty if it is not registered.
    """

    source: ModelSource
    output: Path
    builder: Builder
    precision: Precision = "int4"
    check: bool = True
    alias: str = ""

    def require_free_alias(self, models: Iterable[Model]) -> None:
        """Raise InvalidRequest if another registered directory has the alias."""
        for model in models:
            if model.catalog != "local" or model.alias.casefold() != self.alias.casefold():
                continue
            if model.path is None or Path(model.path) != self.output:
                place = f" for {model.path}" if model.path else ""
                remedy = (
                    f", or remove that model first with `foundry-api models remove {model.alias}`"
                    if model.alias != DEMO
                    else ""
                )
                raise InvalidRequest(
                    f"alias is {self.alias!r}, which is registered{place}",
                    field="alias",
                    hint=f"Choose another alias{remedy}.",
                )


def prepare_import(
    source: str | os.PathLike[str],
    alias: str,
    *,
    precision: object = "int4",
    output: str | os.PathLike[str] | None = None,
    home: Path | None = None,
    check: bool = True,
) -> ImportRequest:
    """Validate an import, and read its source. Nothing is made."""
    check_alias(alias)
    if precision not in PRECISIONS:
        raise InvalidRequest(
            f"precision is {format_value(precision)}, not one of {', '.join(PRECISIONS)}",
            field="precision",
        )
    try:
        directory = get_default_output(alias, home) if output is None else absolute_path(output)
    except ValueError as error:
        raise InvalidRequest(f"output is {output!r}: {error}", field="output") from error
    model = inspect_source(source)
    check_output(directory, model.path)
    return ImportRequest(
        source=model,
        output=directory,
        builder=Builder.from_home(home),
        precision=precision,
        check=check,
        alias=alias,
    )


async def set_up_builder(builder: Builder, progress: Progress = _ignore) -> None:
    """Install the packages that convert models, unless they are installed.

    Raises:
        ModelImportFailed: The installation failed.
    """
    await builder.set_up(
        lambda percent, detail: progress(
            ImportProgress(step="setup", number=1, total=1, percent=percent, detail=detail)
        )
    )


async def convert_model(request: ImportRequest, progress: Progress = _ignore) -> None:
    """Convert a model into a directory for the engine.

    A stopped conversion continues with the step at which it stopped. If the directory was made from
    the same source before, nothing is done.

    Raises:
        InvalidRequest: The output has other files.
        ModelBuilderMissing: The builder is not installed.
        ModelImportFailed: A step failed; steps that are done are kept.
    """
    builder, output = request.builder, request.output
    builder.require_ready()
    workspace = Workspace(output, request.source, request.precision, builder.version)
    name = hashlib.sha256(str(output).encode()).hexdigest()[:32]
    steps = _list_steps(request)

    def wait() -> None:
        detail = "waiting for another program that imports to the same directory"
        progress(ImportProgress(step=steps[0], number=1, total=len(steps), detail=detail))

    with _naming_the_disk(output):
        async with hold_lock(builder.directory / f"{name}.lock", wait):
            if workspace.check_output():
                workspace.clean()
                return
            await asyncio.to_thread(workspace.open)
            await _Conversion(request, workspace, steps, progress).run()


def _list_steps(request: ImportRequest) -> tuple[str, ...]:
    weights = ("weights",) if request.source.kind == "gguf" else ()
    return (*weights, "graph", *(("reference", "check") if request.check else ()))


class _Conversion:
    """The steps of a conversion."""

    def __init__(
        self,
        request: ImportRequest,
        workspace: Workspace,
        steps: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self._source = request.source
        self._builder = request.builder
        self._workspace = workspace
        self._steps = steps
        self._progress = progress

    async def run(self) -> None:
        workspace = self._workspace
        agreement: tuple[tuple[int, int], ...] = ()
        results = {
            "weights": workspace.weights,
            "graph": workspace.model,
            "reference": workspace.reference,
        }
        self._write_job()
        for step in self._steps:
            self._report(step, 0.0)
            if step == "check":
                agreement = await self._check()
            elif not workspace.is_done(step):
                await asyncio.to_thread(workspace.discard, results[step])
                await self._run_program(step)
                workspace.mark_done(step)
            self._report(step, COMPLETE)
        problems = find_problems(workspace.model)
        if problems:
            raise ModelImportFailed(
                f"the builder made a model that cannot be served: {'; '.join(problems)}",
                step="graph",
                log_path=str(workspace.log_path),
            )
        await asyncio.to_thread(workspace.publish, agreement)

    def _write_job(self) -> None:
        source, workspace = self._source, self._workspace
        is_gguf = source.kind == "gguf"
        job = {
            "source": str(source.path),
            "directory": str(workspace.weights if is_gguf else source.path),
            "model": str(workspace.model),
            "reference": str(workspace.reference),
            "architecture": source.architecture,
            "context_length": source.context_length,
            "head_size": source.head_size,
            "splitting": source.splitting,
            "has_rope_factors": source.has_rope_factors,
            "precision": workspace.record.precision,
            "prompts": PROMPTS,
            "tokens": TOKENS,
        }
        replace_file(workspace.job, msgspec.json.encode(job))

    async def _run_program(self, step: str) -> None:
        error = ""

        def read_line(line: str) -> None:
            nonlocal error
            event = _decode_event(line)
            error = event.get("error", error)
            if "percent" in event:
                self._report(step, event["percent"], event.get("detail", ""))

        workspace = self._workspace
        command = self._builder.command(step, workspace.job)
        status = await run_child(command, workspace.log_path, read_line)
        if status == 0:
            return
        if not error:
            error = (
                "it was killed, perhaps because the memory was full"
                if status < 0
                else read_tail(workspace.log_path)
            )
        raise ModelImportFailed(
            f"step {step} of the import failed: {error.rstrip('.')}",
            step=step,
            log_path=str(workspace.log_path),
        )

    async def _check(self) -> tuple[tuple[int, int], ...]:
        workspace = self._workspace
        return await check_model(
            workspace.model,
            workspace.reference,
            workspace.record.precision,
            lambda count: self._report("check", COMPLETE * count / len(PROMPTS)),
        )

    def _report(self, step: str, percent: float, detail: str = "") -> None:
        number = self._steps.index(step) + 1
        self._progress(
            ImportProgress(
                step=step, number=number, total=len(self._steps), percent=percent, detail=detail
            )
        )


def _decode_event(line: str) -> dict[str, Any]:
    try:
        event: Any = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return cast("dict[str, Any]", event) if isinstance(event, dict) else {}


@contextlib.contextmanager
def _naming_the_disk(output: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ModelImportFailed(
            f"{output} cannot be made: {error.strerror or error}",
            hint="Give a directory that you can write to with --output.",
        ) from error
