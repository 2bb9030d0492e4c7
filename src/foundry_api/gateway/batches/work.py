"""The work on a batch: its input is checked, its lines are answered, and its files are written."""

# The manager imports it with the first batch: this brings the batch runner into the process.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from foundry_api.batch.async_tools import SerialExecutor
from foundry_api.batch.journal import Journal, read_status
from foundry_api.batch.progress import ProgressMeter
from foundry_api.batch.runner import BatchRunner, InputPass, RunPlan
from foundry_api.batch.types import BatchOptions, InputOptions, WorkItem
from foundry_api.gateway.batches.engine import GatewayEngine, make_unfinished_result
from foundry_api.gateway.batches.line_forms import FORMS
from foundry_api.gateway.batches.message_requests import write_requests
from foundry_api.gateway.batches.validation import CheckedInput, RequestLines, check_input
from foundry_api.gateway.files.batch_types import MESSAGES_URL
from foundry_api.gateway.files.types import StoredFile
from foundry_api.storage.private_file import PRIVATE
from foundry_api.storage.threads import finish_opening

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.files.batch_types import CheckedRequests, Ending, StoredBatch
    from foundry_api.gateway.files.types import StoredPurpose
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["BatchWork"]


class BatchWork:
    """Works on the batches of a gateway, each with its journal."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._files = context.files

    def check(self, batch: StoredBatch, allows_model: Callable[[str], bool]) -> CheckedInput:
        """Check the lines of a batch. Blocks."""
        config = self._context.config
        default = config.model
        return check_input(
            self._files.get_path(batch.input_file_id),
            batch.endpoint,
            allows_model=allows_model,
            default_model=default if default is not None and allows_model(default) else None,
            max_bytes=config.max_body_bytes,
        )

    def write_requests(
        self, body: Path, lines: BinaryIO, allows_model: Callable[[str], bool]
    ) -> CheckedRequests:
        """Check the requests of a message batch, and write each as a line. Blocks."""
        config = self._context.config
        return write_requests(
            body,
            lines,
            allows_model=allows_model,
            default_model=config.model,
            max_bytes=config.max_body_bytes,
        )

    async def answer(
        self,
        batch: StoredBatch,
        find_key: Callable[[], ApiKey | None],
        on_start: Callable[[ProgressMeter], None],
    ) -> None:
        """Answer the lines that have no answer yet; `on_start` gets the meter of the progress."""
        with SerialExecutor() as thread:
            journal = await finish_opening(
                thread(self._open_journal, batch), lambda journal: thread(journal.close)
            )
            try:
                counts = await thread(journal.get_counts)
                meter = ProgressMeter()
                meter.resume(done=counts.done, failed=counts.failed, shared=counts.shared)
                on_start(meter)
                if await thread(journal.is_complete, batch.total):
                    return
                await BatchRunner(
                    RunPlan(source=self._open_source(batch), total=batch.total),
                    journal,
                    GatewayEngine(self._context, FORMS[batch.endpoint], batch.owner, find_key),
                    thread=thread,
                    meter=meter,
                    on_progress=lambda _: None,
                ).run()
            finally:
                await asyncio.shield(thread(journal.close))

    def publish(
        self, batch: StoredBatch, ending: Ending
    ) -> tuple[dict[str, int], list[StoredFile]]:
        """Write the files of a batch; return its counts, and the files. Blocks."""
        options, form = self._make_options(batch), FORMS[batch.endpoint]
        with self._open_journal(batch) as journal:
            if ending != "completed":
                at = self._context.wall_clock()
                for block in InputPass(self._open_source(batch), journal).iter_blocks():
                    journal.record(
                        [
                            make_unfinished_result(item, form, ending, at)
                            for item in block
                            if isinstance(item, WorkItem)
                        ]
                    )
            published = journal.publish(batch.total)
        status = read_status(options.directory)
        failed = status.counts.failed - status.failures.get(f"batch_{ending}", 0)
        now = int(self._context.wall_clock())
        purpose: StoredPurpose = (
            "message_batch_results" if batch.endpoint == MESSAGES_URL else "batch_output"
        )
        files: list[StoredFile] = []
        for identifier, path, suffix, count in (
            (batch.output_file_id, options.output_path, "output", published.lines),
            (batch.error_file_id, options.errors_path, "error", published.failed),
        ):
            if not count:
                path.unlink(missing_ok=True)
                continue
            path.chmod(PRIVATE)
            files.append(
                StoredFile(
                    id=identifier,
                    owner=batch.owner,
                    purpose=purpose,
                    filename=f"{batch.id}_{suffix}.jsonl",
                    size=path.stat().st_size,
                    created_at=now,
                    expires_at=now + batch.output_lifetime_s,
                )
            )
        counts = {
            "completed": published.lines,
            "failed": failed,
            "prompt_tokens": status.counts.prompt_tokens,
            "completion_tokens": status.counts.completion_tokens,
        }
        return counts, files

    def _open_journal(self, batch: StoredBatch) -> Journal:
        return Journal.open(
            self._make_options(batch),
            fingerprint=batch.input_file_id,
            request_digest=batch.endpoint,
        )

    def _open_source(self, batch: StoredBatch) -> RequestLines:
        return RequestLines(self._files.get_path(batch.input_file_id), batch.endpoint)

    def _make_options(self, batch: StoredBatch) -> BatchOptions:
        return BatchOptions(
            input=InputOptions(path=str(self._files.get_path(batch.input_file_id))),
            output=str(self._files.get_path(batch.output_file_id)),
            errors=str(self._files.get_path(batch.error_file_id)),
            output_format="jsonl",
        )
