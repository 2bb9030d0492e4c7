"""Runs batches: in turn, across restarts, until they are complete, cancelled or expired.

What a batch has answered is in its journal (`foundry_api.batch.journal`), where it is in the
database. A gateway that is killed goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from foundry_api.gateway.errors import RequestError, format_defect
from foundry_api.gateway.files.batch_types import (
    ENDED,
    MESSAGES_URL,
    UNFINISHED,
    StoredBatch,
)
from foundry_api.gateway.files.database import Visibility
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from foundry_api.batch.progress import ProgressMeter
    from foundry_api.gateway.batches.work import BatchWork
    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.files.batch_types import CheckedRequests, Ending
    from foundry_api.gateway.files.database import FileDatabase
    from foundry_api.gateway.files.store import Draft
    from foundry_api.gateway.files.types import StoredFile
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["BatchManager"]

# The batches of one key run one after the other, and not more than this at the same time.
MAX_RUNNING = 16
# Inputs that are checked at the same time. Each takes a thread of those that all files share.
MAX_CHECKED = 2
# Of one key.
MAX_UNFINISHED = 100
# The oldest records of a key are deleted beyond this, else it could fill the disk with them.
MAX_ENDED = 2000
RETRY_S = 10.0
WATCH_INTERVAL_S = 1.0
# The records of batches that have ended are kept as long as their files may be.
KEPT_S = 30 * 86_400
NEVER = 2**53
MAX_DELETED = 100
_T = TypeVar("_T")
_FAILURES = (FoundryError, RequestError, OSError, sqlite3.Error)

log = logging.getLogger("foundry_api.gateway")


class _Run:
    """A batch that has not ended."""

    def __init__(self, batch: StoredBatch) -> None:
        self.batch = batch
        self.meter: ProgressMeter | None = None  # before its lines are answered
        self.work: asyncio.Task[Literal["completed", "failed"]] | None = None

    def follow(self, meter: ProgressMeter) -> None:
        """Report the progress that a meter measures."""
        self.meter = meter

    def stop(self, ending: Ending) -> None:
        """End the work on its lines."""
        self.batch = msgspec.structs.replace(self.batch, ending=ending)
        if self.work is not None:
            self.work.cancel()


class BatchManager:
    """The batches of a gateway; see `BatchControl`."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._files = context.files
        self._batch_work: BatchWork | None = None
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self._checks = asyncio.Semaphore(MAX_CHECKED)

    async def start(self) -> None:
        """Go on with the batches that have not ended."""
        unfinished = await self._files.query(
            lambda database: database.batches.list_of_kinds(*UNFINISHED)
        )
        known = [
            name
            for batch in unfinished
            for name in (
                batch.output_file_id,
                batch.error_file_id,
                _name_journal(batch),
            )
        ]
        await self._files.delete_unknown(known)
        await self._files.measure_journals({_name_journal(one): one.owner for one in unfinished})
        for batch in unfinished:
            self._start(batch)
        self._add_task(self._watch())

    async def stop(self) -> None:
        """Stop working. What was answered is stored, and the next start goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def write_requests(
        self, body: Path, lines: BinaryIO, key: ApiKey | None
    ) -> CheckedRequests:
        """Check the requests of a message batch, and write each as a line.

        Raises:
            RequestError: One of them is invalid.
        """
        work = await self._get_work()
        return await self._check(key, lambda allows: work.write_requests(body, lines, allows))

    async def create(
        self, batch: StoredBatch, draft: Draft | None = None, stored: StoredFile | None = None
    ) -> None:
        """Store a batch and start it; `draft` and `stored` are its input if it has none yet.

        Raises:
            RequestError: 429 if too many of its key have not ended.
        """
        # A client that leaves meanwhile must not leave a batch that is stored and never runs.
        await asyncio.shield(self._create(batch, draft, stored))

    async def _create(
        self, batch: StoredBatch, draft: Draft | None, stored: StoredFile | None
    ) -> None:
        now = self._context.wall_clock()
        results: list[str] = []

        def store(database: FileDatabase) -> None:
            count = database.batches.count(Visibility(batch.owner), *UNFINISHED)
            if count >= MAX_UNFINISHED:
                raise RequestError(
                    429,
                    "too_many_batches",
                    f"{count} batches of this key have not ended. Wait for them, or cancel some.",
                    should_retry=False,
                )
            for old in database.batches.list_ended(now, MAX_DELETED):
                database.batches.delete(old.id)
            owner = Visibility(batch.owner)
            surplus = database.batches.count(owner, *ENDED) - MAX_ENDED
            if surplus > 0:
                for old in database.batches.list_oldest(owner, ENDED, surplus):
                    database.batches.delete(old.id)
                    if old.endpoint == MESSAGES_URL:  # nobody else could delete its results
                        results.extend((old.output_file_id, old.error_file_id))
            _put_batch(database, batch)

        if draft is None or stored is None:
            await self._files.change(store)
        else:
            await self._files.keep(draft, stored, store)
        self._start(batch)
        if results:
            await self._files.delete(results)

    async def cancel(self, batch: StoredBatch) -> StoredBatch:
        """Cancel a batch, and return its new state.

        Raises:
            RequestError: 409 if it has ended.
        """
        run = self._runs.get(batch.id)
        if run is not None and run.batch.ending is None:
            run.stop("cancelled")
            await self._update(run, status="cancelling", cancelling_at=self._now())
        if run is not None and run.batch.ending == "cancelled":
            return run.batch
        if batch.status != "cancelled":
            raise RequestError(
                409,
                "batch_ended",
                f"The batch is {batch.status}, so it cannot be cancelled.",
                param="id",
                should_retry=False,
            )
        return batch

    def get_counts(self, identifier: str) -> tuple[int, int] | None:
        """Return the answered and failed lines of a batch that runs."""
        run = self._runs.get(identifier)
        if run is None:
            return None
        return (run.meter.done, run.meter.failed) if run.meter is not None else (0, 0)

    def _start(self, batch: StoredBatch) -> None:
        self._files.in_use.add(batch.input_file_id)
        run = self._runs[batch.id] = _Run(batch)
        self._add_task(self._run(run))

    def _add_task(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """End the batches whose time is over, and those of keys that have ended.

        The journals of those that run are measured: they grow with each answer.
        """
        while True:
            for run in list(self._runs.values()):
                if run.batch.ending is not None:
                    continue
                if self._context.wall_clock() >= run.batch.expires_at:
                    run.stop("expired")
                else:
                    try:
                        self._find_key(run.batch.owner)
                    except LookupError:
                        run.stop("cancelled")
            running = [run.batch for run in self._runs.values() if run.meter is not None]
            await self._files.measure_journals({_name_journal(one): one.owner for one in running})
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def _run(self, run: _Run) -> None:
        while True:
            try:
                await self._advance(run)
            except _FAILURES as error:
                log.warning("batch %s waits: %s", run.batch.id, error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - the others go on
                log.error(  # noqa: TRY400 - the message of the error may quote a prompt
                    "batch %s failed; it goes on after a restart: %s",
                    run.batch.id,
                    format_defect(error),
                )
                return
            else:
                break
        del self._runs[run.batch.id]
        self._files.in_use -= {run.batch.input_file_id} - {
            other.batch.input_file_id for other in self._runs.values()
        }

    async def _advance(self, run: _Run) -> None:
        if run.batch.ending is None:
            run.work = asyncio.ensure_future(self._work(run))
            try:
                await asyncio.wait([run.work])
            except asyncio.CancelledError:  # the gateway stops
                # A second cancel would interrupt the work while it closes its journal.
                if run.batch.ending is None:
                    run.work.cancel()
                await asyncio.wait([run.work])
                raise
            if not run.work.cancelled() and run.work.result() == "failed":
                return
        ending = run.batch.ending or "completed"
        if ending == "cancelled":
            cancelling_at = run.batch.cancelling_at or self._now()
            await self._update(run, status="cancelling", ending=ending, cancelling_at=cancelling_at)
        else:
            await self._update(run, status="finalizing", ending=ending, finalizing_at=self._now())
        await self._finish(run, ending)

    async def _work(self, run: _Run) -> Literal["completed", "failed"]:
        """Check the input, and answer its lines."""
        work = await self._get_work()
        if run.batch.status == "validating":
            try:
                key = self._find_key(run.batch.owner)
            except LookupError:  # it has ended before `_watch` saw that
                run.batch = msgspec.structs.replace(run.batch, ending="cancelled")
                return "completed"
            checked = await self._check(key, partial(work.check, run.batch))
            now = self._now()
            if checked.problems:
                await self._update(run, status="failed", failed_at=now, problems=checked.problems)
                return "failed"
            await self._update(
                run,
                status="in_progress",
                in_progress_at=now,
                total=checked.total,
                model=checked.model,
            )
        async with self._turns[run.batch.owner], self._slots:
            while True:
                try:
                    find_key = partial(self._find_key, run.batch.owner)
                    await work.answer(run.batch, find_key, run.follow)
                except _FAILURES as error:
                    log.warning("batch %s waits: %s", run.batch.id, error)
                    await asyncio.sleep(RETRY_S)
                else:
                    return "completed"

    async def _check(self, key: ApiKey | None, check: Callable[[Callable[[str], bool]], _T]) -> _T:
        """Run a check of lines, which asks whether the key may use their models."""
        names = self._context.model_names
        async with self._checks:
            if key is not None and key.models is not None:
                await names.load()
            checking = asyncio.ensure_future(
                asyncio.to_thread(check, lambda model: key is None or names.is_allowed(key, model))
            )
            try:
                return await asyncio.shield(checking)
            except asyncio.CancelledError:  # its files must not be closed while it uses them
                await asyncio.wait([checking])
                raise

    async def _get_work(self) -> BatchWork:
        if self._batch_work is None:
            # It takes a sixth of the start of a gateway, and most gateways never run a batch.
            self._batch_work = await asyncio.to_thread(_make_work, self._context)
        return self._batch_work

    async def _finish(self, run: _Run, ending: Ending) -> None:
        """Write the files of a batch, and make them and its end known at once."""
        now, work = self._now(), await self._get_work()
        changes: dict[str, Any] = {"status": ending, f"{ending}_at": now}
        files: list[StoredFile] = []
        if run.batch.total:
            publishing = asyncio.ensure_future(asyncio.to_thread(work.publish, run.batch, ending))
            try:
                counts, files = await asyncio.shield(publishing)
            except asyncio.CancelledError:  # two must not work with one journal
                await asyncio.wait([publishing])
                raise
            changes |= {
                **counts,
                "has_output": any(one.id == run.batch.output_file_id for one in files),
                "has_errors": any(one.id == run.batch.error_file_id for one in files),
            }
        batch = msgspec.structs.replace(run.batch, **changes)

        def store(database: FileDatabase) -> None:
            for stored in files:
                self._files.put_row(database, stored)
            _put_batch(database, batch)

        if batch.endpoint == MESSAGES_URL:  # its requests are its own, and nobody reads them again
            await self._files.delete([batch.input_file_id], store)
        else:
            await self._files.change(store)
        run.batch = batch
        journal = _name_journal(batch)
        path = self._files.get_path(journal)
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        await self._files.measure_journals({journal: batch.owner})

    async def _update(self, run: _Run, **changes: Any) -> None:
        run.batch = batch = msgspec.structs.replace(run.batch, **changes)
        await self._files.query(lambda database: _put_batch(database, batch))

    def _find_key(self, owner: str | None) -> ApiKey | None:
        """Return the key of a batch; None without keys. Raises LookupError if it has ended."""
        if owner is None:
            return None
        now = self._context.keyring.now()  # a clock that is set back revives no key
        for key in self._context.keyring.keys:
            if key.id == owner and key.get_state(now) == "active":
                return key
        raise LookupError(owner)

    def _now(self) -> int:
        return int(self._context.wall_clock())


def _name_journal(batch: StoredBatch) -> str:
    return f"{batch.output_file_id}.batch"


def _put_batch(database: FileDatabase, batch: StoredBatch) -> None:
    ends_at = NEVER if batch.status in UNFINISHED else batch.expires_at + KEPT_S
    database.batches.put(batch, kind=batch.status, ends_at=ends_at)


def _make_work(context: GatewayContext) -> BatchWork:
    from foundry_api.gateway.batches.work import BatchWork  # noqa: PLC0415 - see its caller

    return BatchWork(context)
