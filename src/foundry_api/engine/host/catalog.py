"""The engine's public catalog, and how recent its content is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from foundry_api.engine.control_messages import PublicListing
from foundry_api.engine.host.variants import to_model, translate_error
from foundry_api.types.errors import CatalogUnavailable
from foundry_api.wire.errors import clean_message

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PublicCatalog"]

SAVED_FILE = "foundry.modelinfo.json"
FAILED_LOG = b"failed to fetch catalog from "
MAX_LOG_BYTES = 2**20

# The engine tries an unreachable catalog four times, which takes three seconds or more. So only a
# slow request waits for the line of a failure, which is logged a little after the result.
QUICK_S = 1.0
LOG_DELAY_S = 1.0
POLL_S = 0.01


class PublicCatalog:
    """The engine's public catalog.

    `failure` is the exception type of the SDK, `models` the directory of downloaded models, in
    which the engine also saves the catalog, and `log` the file of the engine's errors.
    """

    # The engine fetches the catalog once and keeps it for hours. It saves it to a file, which its
    # next start serves if the catalog cannot be reached, without reporting that (probed on 2.2.1).
    # Only two things show it: a line in the engine's log for each failure, and the time of the
    # file, which is written when the catalog has changed.

    def __init__(self, catalog: Any, failure: type[Exception], models: Path, log: Path) -> None:
        self._catalog = catalog
        self._failure = failure
        self._saved = models / SAVED_FILE
        self._log = log
        self._log_position = 0
        self._last_saved_time = self._get_saved_time()
        self._reached_at: float | None = None
        self._unreachable: str | None = None

    def list_variants(self) -> list[Any]:
        """List every variant; raises CatalogUnavailable if the catalog was never reached."""
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
        models = tuple(to_model(variant, public=True) for variant in self.list_variants())
        # The engine saves the catalog only when it has changed, so both times count.
        times = [at for at in (self._get_saved_time(), self._reached_at) if at is not None]
        return PublicListing(
            models=models, fetched_at=max(times, default=None), unreachable=self._unreachable
        )

    def list_cached(self) -> list[Any]:
        try:
            cached: list[Any] = self._catalog.get_cached_models()
        except self._failure as error:
            raise translate_error(error) from error
        return cached

    def _record_result(self, *, duration_s: float) -> None:
        """Find out whether the last list came from the catalog or from the saved file."""
        deadline = time.monotonic() + (LOG_DELAY_S if duration_s > QUICK_S else 0.0)
        while (failure := self._read_new_failure()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        saved_at = self._get_saved_time()
        if failure is not None:
            self._unreachable = failure
        elif saved_at != self._last_saved_time or self._unreachable is None:
            self._unreachable = None
            self._reached_at = self._reached_at or time.time()
        self._last_saved_time = saved_at

    def _get_saved_time(self) -> float | None:
        try:
            return self._saved.stat().st_mtime
        except OSError:
            return None

    def _read_new_failure(self) -> str | None:
        """Return the reason of the newest failure that was logged since the last call."""
        try:
            with self._log.open("rb") as file:
                self._log_position = max(
                    self._log_position, self._log.stat().st_size - MAX_LOG_BYTES
                )
                file.seek(self._log_position)
                content = file.read(MAX_LOG_BYTES)
        except OSError:
            return None
        complete_lines = content[: content.rfind(b"\n") + 1]
        self._log_position += len(complete_lines)
        lines = [line for line in complete_lines.splitlines() if FAILED_LOG in line]
        if not lines:
            return None
        text = lines[-1].partition(FAILED_LOG)[2].decode("utf-8", "replace")
        url, _, reason = text.partition(": ")
        return f"{url}: {clean_message(reason)}"
