"""The page about a batch: it asks nobody for anything, and nothing in it can become markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from foundry_api.batch.report.charts import Scale, curve, histogram, log_ticks, ticks, time_ticks
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


def told(*values: float) -> Distribution:
    histogram = Histogram(LATENCY_BUCKETS)
    for value in values:
        histogram.add(value)
    return histogram.snapshot()


def figures(**changes: Any) -> BatchStatistics:
    runs = (
        RunStatistics(begun_at=1_000.0, ended_at=1_010.0, lines=100),
        RunStatistics(begun_at=90_000.0, ended_at=90_010.0, lines=100),
    )
    moments = tuple(
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
            "throughput": moments,
            "latency": told(0.2, 0.4, 0.4, 3.0),
            "time_to_first_token": told(0.01, 0.02),
            "errors": (ErrorStatistics(code="Bad", count=2, custom_id=EVIL, message=EVIL),),
            "models": (
                ModelStatistics(
                    model=EVIL, lines=200, failed=2, prompt_tokens=1_000, completion_tokens=1_800
                ),
            ),
            **changes,
        }
    )


def facts(**changes: Any) -> ReportData:
    return ReportData(
        **{
            "title": EVIL,
            "state": "finished with failures",
            "total": 200,
            "statistics": figures(),
            "settings": (("Input", EVIL),),
            "made_at": 90_020.0,
            "version": "1",
            **changes,
        }
    )


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_texts_of_users_and_models_stay_texts() -> None:
    seen = Reader(render_page(facts()))
    assert [tag for tag, _ in seen.elements if tag == "script"] == []
    assert seen.texts.count(EVIL) == 5, "title, first line that failed, its error, model, setting"


def test_the_page_asks_nobody_for_anything() -> None:
    text = render_page(facts())
    seen = Reader(text)
    linking = {"href", "src", "srcset", "action", "xlink:href", "style"}
    assert [name for _, attributes in seen.elements for name in attributes if name in linking] == []
    assert "url(" not in text
    assert "@import" not in text
    policies = [known["content"] for _, known in seen.elements if "http-equiv" in known]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_page_is_known_by_its_beginning() -> None:
    assert render_page(facts()).startswith(HEAD)


def test_every_opened_element_is_closed() -> None:
    """Meta elements, which have no end, are all that is not XML too."""
    text = re.sub(r"<!doctype html>|<meta[^>]*>", "", render_page(facts()))
    assert ET.fromstring(text).tag == "html"  # noqa: S314 - it was made here


def test_the_page_has_plots_of_speed_and_times_and_marks_where_it_was_begun_again() -> None:
    text = render_page(facts())
    assert text.count('<svg viewBox="') == 4
    assert text.count("resumed") == 2
    assert ">10.0<" in text, "lines a second"
    assert "p50 402 ms" in text
    assert "198" in text


def test_a_batch_of_which_nothing_is_finished_has_a_page() -> None:
    text = render_page(facts(statistics=BatchStatistics(), state="not finished"))
    assert "<svg" not in text
    assert "No line is finished yet." in text
    assert "run the same command to resume" in text


def test_the_size_of_the_page_does_not_grow_with_the_lines() -> None:
    many = figures(done=999_998, latency=told(*(0.001 * n for n in range(1, 9_000))))
    assert len(render_page(facts(statistics=many))) < 60_000


@pytest.mark.parametrize("value", [0.0, 0.0001, 0.5, 20_000.0])
def test_a_single_time_has_a_histogram_whatever_it_is(value: float) -> None:
    drawn = ET.fromstring(histogram(told(value), "latency"))  # noqa: S314 - it was made here
    bars = [each for each in drawn if each.get("class") == "bar"]
    assert max(float(each.get("height", "0")) for each in bars) > 100
    places = [float(each.get("x", "0")) for each in bars]
    assert places == sorted(places)
    assert all(0 <= place <= 560 for place in places)


def test_a_curve_of_nothing_is_flat() -> None:
    drawn = curve([(0.0, 1.0, 0.0)], "lines/s")
    assert 'points="52.0,164.0 548.0,164.0"' in drawn


def test_values_beside_a_plot_are_round_and_reach_above_the_highest() -> None:
    assert ticks(43) == [0, 20, 40, 60]
    assert ticks(0.9) == [0, 0.5, 1.0]
    assert ticks(4) == [0, 1, 2, 3, 4]
    assert ticks(0) == [0, 1]


def test_times_below_a_plot_are_those_that_people_count_in() -> None:
    assert time_ticks(20) == [0, 5, 10, 15, 20]
    assert time_ticks(7_200) == [0, 900, 1800, 2700, 3600, 4500, 5400, 6300, 7200]
    assert time_ticks(20 * 86_400)[1] == 3 * 86_400
    assert log_ticks(0.08, 0.6) == pytest.approx([0.1, 0.2, 0.5])


def test_a_scale_takes_values_to_places() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(10, 1_000, 0, 100, logarithmic=True)(100) == pytest.approx(50)
