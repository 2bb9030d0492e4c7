"""Imports a model: from the source to a directory that the engine serves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.engine.models.validate import find_problems
from foundry_api.model_import.builder import hold_lock
from foundry_api.model_import.check import PROMPTS, TOKENS, check_model
from foundry_api.model_import.child import read_tail, run_child
from foundry_api.model_import.types import ImportProgress
from foundry_api.model_import.workspace import Workspace
from foundry_api.storage.private_file import replace_file
from foundry_api.types.errors import ModelImportFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from foundry_api.model_import.builder import Builder
    from foundry_api.model_import.types import ModelSource, Precision

    Progress = Callable[[ImportProgress], object]

__all__ = ["convert_model", "set_up_builder"]

COMPLETE = 100.0


def _ignore(_: ImportProgress) -> None:
    pass


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


async def convert_model(
    source: ModelSource,
    output: Path,
    *,
    builder: Builder,
    precision: Precision = "int4",
    check: bool = True,
    progress: Progress = _ignore,
) -> Path:
    """Convert a source into a directory for the engine, and return the directory.

    A stopped conversion continues with the step at which it stopped. If the directory was made from
    the same source before, nothing is done.

    Args:
        source: See `inspect_source`.
        output: The directory to make; it must not exist or be empty.
        builder: The environment of the builder, which must be ready.
        precision: The type of the weights.
        check: Whether to compare the model's answers with those of the source.
        progress: Called with the progress of each step.

    Raises:
        InvalidRequest: `output` has other files.
        ModelBuilderMissing: The builder is not installed.
        ModelImportFailed: A step failed; steps that are done are kept.
    """
    builder.require_ready()
    workspace = Workspace(output, source, precision, builder.recipe)
    name = hashlib.sha256(str(output).encode()).hexdigest()[:32]
    steps = _list_steps(source, check=check)

    def wait() -> None:
        detail = "waiting for another program that imports to the same directory"
        progress(ImportProgress(step=steps[0], number=1, total=len(steps), detail=detail))

    with _naming_the_disk(output):
        async with hold_lock(builder.directory / f"{name}.lock", wait):
            if workspace.check_output():
                workspace.clean()
                return output
            workspace.open()
            await _Conversion(source, workspace, builder, steps, progress).run()
    return output


def _list_steps(source: ModelSource, *, check: bool) -> tuple[str, ...]:
    weights = ("weights",) if source.kind == "gguf" else ()
    return (*weights, "graph", *(("reference", "check") if check else ()))


class _Conversion:
    """The steps of a conversion."""

    def __init__(
        self,
        source: ModelSource,
        workspace: Workspace,
        builder: Builder,
        steps: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self._source = source
        self._workspace = workspace
        self._builder = builder
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
