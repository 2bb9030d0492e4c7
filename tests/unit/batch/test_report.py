"""The HTML report: it loads nothing, and escapes all text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from foundry_api.batch.report.charts import (
    Scale,
    compute_log_ticks,
    compute_ticks,
    compute_time_ticks,
    draw_curve,
    draw_histogram,
)
from foundry_api.batch.report.page import HEAD, ReportData, render_page
from foundry_api.batch.statistics import (
    LATENCY_BUCKETS,
    BatchStatistics,
    ErrorStatistics,
    ModelStatistics,
    RunStatistics,
    TimelineBucket,
)
from foundry_api.observe.histogram import Distribution, Histogram

EVIL = "<script>alert('x')</script>\"&"


def distribution(*values: float) -> Distribution:
    histogram = Histogram(LATENCY_BUCKETS)
    for value in values:
        histogram.add(value)
    return histogram.snapshot()


def statistics(**changes: Any) -> BatchStatistics:
    runs = (
        RunStatistics(started_at=1_000.0, ended_at=1_010.0, lines=100),
        RunStatistics(started_at=90_000.0, ended_at=90_010.0, lines=100),
    )
    buckets = tuple(
        TimelineBucket(
            at_s=float(at), span_s=1.0, lines=10, failed=0, prompt_tokens=50, completion_tokens=90
        )
        for at in range(20)
    )
    return BatchStatistics(
        **{
            "done": 198,
            "failed": 2,
            "elapsed_s": 20.0,
            "completion_tokens": 1_800,
            "prompt_tokens": 1_000,
            "runs": runs,
            "throughput": buckets,
            "latency": distribution(0.2, 0.4, 0.4, 3.0),
            "time_to_first_token": distribution(0.01, 0.02),
            "errors": (ErrorStatistics(code="Bad", count=2, custom_id=EVIL, message=EVIL),),
            "models": (
                ModelStatistics(
                    model=EVIL, lines=200, failed=2, prompt_tokens=1_000, completion_tokens=1_800
                ),
            ),
            **changes,
        }
    )


def report_data(**changes: Any) -> ReportData:
    return ReportData(
        **{
            "title": EVIL,
            "state": "finished with failures",
            "total": 200,
            "statistics": statistics(),
            "settings": (("Input", EVIL),),
            "made_at": 90_020.0,
            "version": "1",
            **changes,
        }
    )


class Reader(HTMLParser):
    """Collects elements with their attributes, and texts, as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_of_users_and_models_is_escaped() -> None:
    seen = Reader(render_page(report_data()))
    assert [tag for tag, _ in seen.elements if tag == "script"] == []
    assert seen.texts.count(EVIL) == 5, "title, first line that failed, its error, model, setting"


def test_the_page_loads_nothing() -> None:
    text = render_page(report_data())
    seen = Reader(text)
    linking = {"href", "src", "srcset", "action", "xlink:href", "style"}
    assert [name for _, attributes in seen.elements for name in attributes if name in linking] == []
    assert "url(" not in text
    assert "@import" not in text
    policies = [known["content"] for _, known in seen.elements if "http-equiv" in known]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_page_starts_with_the_marker() -> None:
    assert render_page(report_data()).startswith(HEAD)


def test_every_opened_element_is_closed() -> None:
    """Only meta elements, which have no end tag, are not XML."""
    text = re.sub(r"<!doctype html>|<meta[^>]*>", "", render_page(report_data()))
    assert ET.fromstring(text).tag == "html"  # noqa: S314 - the test created it


def test_the_page_has_plots_with_marks_where_it_resumed() -> None:
    text = render_page(report_data())
    assert text.count('<svg viewBox="') == 4
    assert text.count("resumed") == 2
    assert ">10.0<" in text, "lines a second"
    assert "p50 402 ms" in text
    assert "198" in text


def test_a_batch_without_finished_lines_has_a_page() -> None:
    text = render_page(report_data(statistics=BatchStatistics(), state="not finished"))
    assert "<svg" not in text
    assert "No line is finished yet." in text
    assert "run the same command to resume" in text


def test_the_page_size_does_not_grow_with_the_lines() -> None:
    many = statistics(done=999_998, latency=distribution(*(0.001 * n for n in range(1, 9_000))))
    assert len(render_page(report_data(statistics=many))) < 60_000


@pytest.mark.parametrize("value", [0.0, 0.0001, 0.5, 20_000.0])
def test_a_single_duration_has_a_histogram(value: float) -> None:
    drawn = ET.fromstring(draw_histogram(distribution(value), "latency"))  # noqa: S314 - the test created it
    bars = [shape for shape in drawn if shape.get("class") == "bar"]
    assert max(float(bar.get("height", "0")) for bar in bars) > 100
    places = [float(bar.get("x", "0")) for bar in bars]
    assert places == sorted(places)
    assert all(0 <= place <= 560 for place in places)


def test_a_curve_of_zeros_is_flat() -> None:
    drawn = draw_curve([(0.0, 1.0, 0.0)], "lines/s")
    assert 'points="52.0,164.0 548.0,164.0"' in drawn


def test_ticks_are_round_and_reach_the_highest_value() -> None:
    assert compute_ticks(43) == [0, 20, 40, 60]
    assert compute_ticks(0.9) == [0, 0.5, 1.0]
    assert compute_ticks(4) == [0, 1, 2, 3, 4]
    assert compute_ticks(0) == [0, 1]


def test_time_ticks_use_usual_intervals() -> None:
    assert compute_time_ticks(20) == [0, 5, 10, 15, 20]
    assert compute_time_ticks(7_200) == [0, 900, 1800, 2700, 3600, 4500, 5400, 6300, 7200]
    assert compute_time_ticks(20 * 86_400)[1] == 3 * 86_400
    assert compute_log_ticks(0.08, 0.6) == pytest.approx([0.1, 0.2, 0.5])


def test_a_scale_maps_values_to_pixels() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(10, 1_000, 0, 100, logarithmic=True)(100) == pytest.approx(50)
