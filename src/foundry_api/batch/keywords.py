"""What `client.batch` takes besides its requests and what their answers have to be."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from foundry_api.options import CheckedOptions

__all__ = ["BatchKeywords", "Failures"]

_T = TypeVar("_T")

Failures = Literal["results", "raise"]


class BatchKeywords(CheckedOptions[_T], Generic[_T], total=False):
    """What a batch takes besides its requests and what their answers have to be.

    Attributes:
        system: Instructions ahead of each prompt.
        ordered: Whether the results keep the order of the requests, instead of coming as they
            finish; default False.
        errors: `results` (default) gives a request that failed as a result with an error, `raise`
            raises the first such error.
        dedupe: Whether identical requests are made once, and share their answer; default False.
        attempts: How often a request that failed for a passing reason is begun before it counts as
            failed; default 3. Each of them is a call with retries of its own.
        patience: Seconds that all services may be away before the batch is given up; default 600.
    """

    system: str | None
    ordered: bool
    errors: Failures
    dedupe: bool
    attempts: int
    patience: float
