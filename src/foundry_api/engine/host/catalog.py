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

from foundry_api.engine.host.variants import to_model, translate_error
from foundry_api.types.errors import CatalogUnavailable
from foundry_api.types.models import Model
from foundry_api.wire.errors import clean_message

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PublicCatalog", "PublicListing"]

SAVED_FILE = "foundry.modelinfo.json"
FAILED_LOG = b"failed to fetch catalog from "
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
        self._saved = models / SAVED_FILE
        self._log = log
        self._read_to = 0
        self._last_saved_time = self._get_saved_time()
        self._reached_at: float | None = None
        self._unreachable: str | None = None

    def list_variants(self) -> list[Any]:
        """Every variant of the catalog.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
        """
        started_at = time.monotonic()
        try:
            models = self._catalog.list_models()
            variants = [variant for model in models for variant in model.variants]
        except self._failure as error:
            raise translate_error(error) from error
        self._record_result(duration_s=time.monotonic() - started_at)
        if self._unreachable and not variants:
            raise CatalogUnavailable(f"the model catalog could not be reached: {self._unreachable}")
        return variants

    def get_listing(self) -> PublicListing:
        """As `list_variants`, described, with the catalog's age.

        Raises:
            CatalogUnavailable: As `list_variants`.
        """
        models = tuple(to_model(variant, public=True) for variant in self.list_variants())
        return PublicListing(
            models=models, fetched_at=self._get_fetched_time(), unreachable=self._unreachable
        )

    def list_cached(self) -> list[Any]:
        """The variants whose files are here."""
        try:
            cached: list[Any] = self._catalog.get_cached_models()
        except self._failure as error:
            raise translate_error(error) from error
        return cached

    def _record_result(self, *, duration_s: float) -> None:
        """See whether what was told came from the catalog."""
        failure = self._find_logged_failure(wait_s=LOG_DELAY_S if duration_s > QUICK_S else 0.0)
        saved_at = self._get_saved_time()
        if failure is not None:
            self._unreachable = failure
        elif saved_at != self._last_saved_time or self._unreachable is None:
            self._unreachable = None
            self._reached_at = self._reached_at or time.time()
        self._last_saved_time = saved_at

    def _get_fetched_time(self) -> float | None:
        """The last success: saved where it brought something new, else seen by us."""
        times = [at for at in (self._get_saved_time(), self._reached_at) if at is not None]
        return max(times, default=None)

    def _get_saved_time(self) -> float | None:
        try:
            return self._saved.stat().st_mtime
        except OSError:
            return None

    def _find_logged_failure(self, *, wait_s: float) -> str | None:
        """The line of a failure since the last look. It comes a little later than the answer."""
        give_up_at = time.monotonic() + wait_s
        while (failure := self._read_new_failure()) is None and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        return failure

    def _read_new_failure(self) -> str | None:
        try:
            with self._log.open("rb") as file:
                self._read_to = max(self._read_to, self._log.stat().st_size - MAX_LOG_BYTES)
                file.seek(self._read_to)
                new = file.read(MAX_LOG_BYTES)
        except OSError:
            return None
        complete_lines = new[: new.rfind(b"\n") + 1]
        self._read_to += len(complete_lines)
        lines = [line for line in complete_lines.splitlines() if FAILED_LOG in line]
        return _parse_reason(lines[-1]) if lines else None


def _parse_reason(line: bytes) -> str:
    text = line.partition(FAILED_LOG)[2].decode("utf-8", "replace")
    url, _, why = text.partition(": ")
    return f"{url}: {clean_message(why)}"
