"""The engine's public catalog, and whether what it tells is of today.

The engine asks the catalog once and keeps the answer for hours. It saves it in a file, which its
next start serves when the catalog cannot be reached, without saying so (probed on 2.2.1). What
does tell: for each failure a line in the engine's log, and the time of the file, which is written
anew when there is something new.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.engine.host.variants import described, typed
from foundry_api.types.errors import CatalogUnavailable
from foundry_api.types.messages import Model
from foundry_api.wire.errors import clean

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PublicCatalog", "PublicListing"]

SAVED = "foundry.modelinfo.json"
FAILED = b"failed to fetch catalog from "
MAX_LOG_BYTES = 2**20
QUICK_S = 1.0
"""A catalog that cannot be reached is tried four times, which takes three seconds and more."""

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
        self._known = self._saved_at()
        self._reached_at: float | None = None
        self._unreachable: str | None = None

    def variants(self) -> list[Any]:
        """Every variant of the catalog.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
        """
        asked_at = time.monotonic()
        try:
            models = self._catalog.list_models()
            variants = [variant for model in models for variant in model.variants]
        except self._failure as error:
            raise typed(error) from error
        self._notice(took_s=time.monotonic() - asked_at)
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

    def _notice(self, *, took_s: float) -> None:
        """See whether what was told came from the catalog."""
        failure = self._logged_failure(wait_s=LOG_DELAY_S if took_s > QUICK_S else 0.0)
        saved_at = self._saved_at()
        if failure is not None:
            self._unreachable = failure
        elif saved_at != self._known or self._unreachable is None:
            self._unreachable = None
            self._reached_at = self._reached_at or time.time()
        self._known = saved_at

    def _fetched_at(self) -> float | None:
        """The last success: saved where it brought something new, else seen by us."""
        times = [at for at in (self._saved_at(), self._reached_at) if at is not None]
        return max(times, default=None)

    def _saved_at(self) -> float | None:
        try:
            return self._saved.stat().st_mtime
        except OSError:
            return None

    def _logged_failure(self, *, wait_s: float) -> str | None:
        """The line of a failure since the last look. It comes a little later than the answer."""
        give_up_at = time.monotonic() + wait_s
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
