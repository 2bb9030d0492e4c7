"""The engine's public catalog, and whether what it tells is of today.

The engine asks the catalog once and keeps the answer for hours. It saves it in a file, which its
next start serves when the catalog cannot be reached, without saying so (probed on 2.2.1). What
does tell: for each failure a line in the engine's log, and for the last success the file's time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.classify import clean
from foundry_api.errors import CatalogUnavailable
from foundry_api.messages import Model
from foundry_api.service.variants import described, typed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PublicCatalog", "PublicListing"]

SAVED = "foundry.modelinfo.json"
FAILED = b"failed to fetch catalog from "
MAX_LOG_BYTES = 2**20
LOG_DELAY_S = 1.0
POLL_S = 0.01


class PublicListing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host knows of the public catalog.

    Attributes:
        models: Every variant, with what is cached and loaded now.
        fetched_at: When the catalog was last reached, in seconds since the epoch; None if unknown.
        unreachable: Why the catalog could not be reached the last time; None if it was.
    """

    models: tuple[Model, ...]
    fetched_at: float | None = None
    unreachable: str | None = None


class PublicCatalog:
    """The engine's public catalog.

    Args:
        catalog: The SDK's catalog.
        failure: What the SDK raises.
        models: Where the engine keeps models, and the file with the last catalog.
        log: Where the engine's errors are written.
    """

    def __init__(self, catalog: Any, failure: type[Exception], models: Path, log: Path) -> None:
        self._catalog = catalog
        self._failure = failure
        self._saved = models / SAVED
        self._log = log
        self._read_to = 0
        self._known = self._fetched_at()
        self._reached = False
        self._unreachable: str | None = None

    def variants(self) -> list[Any]:
        """Every variant of the catalog.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
        """
        try:
            models = self._catalog.list_models()
            variants = [variant for model in models for variant in model.variants]
        except self._failure as error:
            raise typed(error) from error
        self._notice(served=bool(variants))
        if self._unreachable and not variants:
            raise CatalogUnavailable(f"the model catalog could not be reached: {self._unreachable}")
        return variants

    def listing(self) -> PublicListing:
        """As `variants`, described, with the catalog's age.

        Raises:
            CatalogUnavailable: As `variants`.
        """
        models = tuple(described(variant, public=True) for variant in self.variants())
        return PublicListing(
            models=models, fetched_at=self._fetched_at(), unreachable=self._unreachable
        )

    def cached(self) -> list[Any]:
        """The variants whose files are here."""
        try:
            cached: list[Any] = self._catalog.get_cached_models()
        except self._failure as error:
            raise typed(error) from error
        return cached

    def _notice(self, *, served: bool) -> None:
        """See whether what was told came from the catalog.

        A success is saved at once, unless there was nothing to save. The line of a failure is
        written a little later than the answer is given, so that one is waited for.
        """
        fetched_at = self._fetched_at()
        if fetched_at != self._known:
            self._known, self._reached, self._unreachable = fetched_at, True, None
        if failure := self._failure_since_the_last_look(wait=not self._reached):
            self._unreachable = failure
        elif not self._reached and self._unreachable is None:
            self._reached = not served
            self._unreachable = "the engine gave no reason" if served else None

    def _fetched_at(self) -> float | None:
        try:
            return self._saved.stat().st_mtime
        except OSError:
            return None

    def _failure_since_the_last_look(self, *, wait: bool) -> str | None:
        give_up_at = time.monotonic() + (LOG_DELAY_S if wait and self._unreachable is None else 0)
        while (failure := self._new_failure()) is None and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        return failure

    def _new_failure(self) -> str | None:
        try:
            with self._log.open("rb") as file:
                self._read_to = max(self._read_to, self._log.stat().st_size - MAX_LOG_BYTES)
                file.seek(self._read_to)
                new = file.read(MAX_LOG_BYTES)
        except OSError:
            return None
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        lines = [line for line in whole.splitlines() if FAILED in line]
        return _reason(lines[-1]) if lines else None


def _reason(line: bytes) -> str:
    told = line.partition(FAILED)[2].decode("utf-8", "replace")
    url, _, why = told.partition(": ")
    return f"{url}: {clean(why)}"
