"""A log that others can cause lines in is bounded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from foundry_api.observe.log_limit import MAX_RECORDS, PERIOD_S, LogLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = [0.0]


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, list[str]]]:
    """A logger of its own, and what its handler got."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Handler(), logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - it ends with the test
    handler.addFilter(LogLimit(monotonic=lambda: NOW[0]))
    logger.addHandler(handler)
    yield logger, lines
    NOW[0] = 0.0


def test_each_place_has_ten_warnings_a_minute(log: tuple[logging.Logger, list[str]]) -> None:
    logger, lines = log

    def warn(count: int) -> list[str]:
        lines.clear()
        for number in range(count):
            logger.warning("call %d failed", number)
        return lines[:]

    assert warn(25) == [f"call {number} failed" for number in range(MAX_RECORDS)]
    logger.error("something else")
    assert lines[-1] == "something else"
    NOW[0] += PERIOD_S
    assert warn(2) == ["call 0 failed (15 others like it were left out)", "call 1 failed"]
    NOW[0] += PERIOD_S
    assert warn(1) == ["call 0 failed"]


def test_what_was_asked_for_is_not_bounded(log: tuple[logging.Logger, list[str]]) -> None:
    logger, lines = log
    for _ in range(50):
        logger.info("a call")
    assert len(lines) == 50
