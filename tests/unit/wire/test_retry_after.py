"""All forms of the Retry-After headers."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.wire.errors import parse_retry_after

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After-Ms": "250"}, 0.25),
        ({"Retry-After-Ms": "250", "Retry-After": "120"}, 0.25),
        ({"Retry-After-Ms": "soon", "Retry-After": "120"}, 120),
        ({"Retry-After": "Tue, 24 Nov 2026 12:00:30 GMT"}, 30),
        ({"Retry-After": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "Tue, 24 Nov 2026 14:00:30 +0200"}, 30),
    ],
)
def test_seconds_milliseconds_and_dates(headers: dict[str, str], seconds: float) -> None:
    assert parse_retry_after(headers, NOW) == seconds


@pytest.mark.parametrize("value", ["", "-1", "nan", "inf", "-inf", "soon", "Tue, 99 Nov", "1e999"])
def test_invalid_values_are_ignored(value: str) -> None:
    assert parse_retry_after({"Retry-After": value}, NOW) is None
    assert parse_retry_after({"Retry-After-Ms": value}, NOW) is None
    assert parse_retry_after({}, NOW) is None


@given(st.datetimes(datetime(1990, 1, 1), datetime(2900, 1, 1)))  # noqa: DTZ001 - hypothesis' bounds
def test_date_becomes_the_time_until_it(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    headers = {"Retry-After": format_datetime(moment, usegmt=True)}
    assert parse_retry_after(headers, NOW) == max(0.0, moment.timestamp() - NOW)


@given(st.text())
def test_no_value_raises(value: str) -> None:
    for header in ("Retry-After", "Retry-After-Ms"):
        seconds = parse_retry_after({header: value}, NOW)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
