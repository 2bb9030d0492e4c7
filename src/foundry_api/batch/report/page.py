"""Render the report of a batch as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foundry_api.batch.report.charts import (
    QUANTILES,
    SafeHtml,
    draw_curve,
    draw_histogram,
    element,
    join_html,
)
from foundry_api.batch.statistics import Timeline
from foundry_api.observe.format import (
    format_count,
    format_duration,
    format_int,
    format_percent,
    format_rate,
    format_time,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from foundry_api.batch.statistics import BatchStatistics, TimelineBucket
    from foundry_api.observe.histogram import Distribution

__all__ = ["HEAD", "STYLE", "ReportData", "ReportState", "render_page"]

ReportState = Literal["finished", "finished with failures", "not finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The content of a report.

    Attributes:
        title: The name of the input.
        state: Whether the batch is finished.
        total: Lines of the input; None until they are counted.
        statistics: The statistics so far.
        settings: Names and values of options and files.
        made_at: When the page is made, in seconds since the epoch.
        version: The version of this package.
    """

    title: str
    state: ReportState
    total: int | None
    statistics: BatchStatistics
    settings: tuple[tuple[str, str], ...]
    made_at: float
    version: str


STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ground: #f5f6f8; --ink: #1a1d23; --quiet: #636b78; --edge: #e0e3e8;
  --accent: #2f6fdb; --second: #0d8a72; --bad: #c4362b; --good: #1f7a3d; --warn: #96640a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #1a1d23; --ground: #111318; --ink: #e6e8ec; --quiet: #969fae; --edge: #2e333d;
    --accent: #74a5f7; --second: #45c9ab; --bad: #f2857c; --good: #6fce8c; --warn: #e0ae55;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 12px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; margin-bottom: 20px; }
.when { color: var(--quiet); flex-basis: 100%; }
.state {
  font-size: 13px; font-weight: 600; padding: 2px 10px; border-radius: 99px;
  border: 1px solid currentColor;
}
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; }
.tile, .card {
  background: var(--paper); border: 1px solid var(--edge); border-radius: 10px; padding: 14px 16px;
}
.tile .name { color: var(--quiet); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile .note { color: var(--quiet); font-size: 13px; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 12px; margin-top: 12px;
}
.card { min-width: 0; }
.wide { grid-column: 1 / -1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--quiet); font-weight: 500; }
th, td { padding: 6px 16px 6px 0; border-bottom: 1px solid var(--edge); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
.count { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tbody th { white-space: nowrap; }
.facts th { width: 1%; } .facts td { overflow-wrap: anywhere; }
.empty { color: var(--quiet); margin: 0; } .plot + p { font-size: 14px; margin-top: 8px; }
.plot { display: block; width: 100%; height: auto; }
.plot text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.level { text-anchor: end; } .axis { text-anchor: middle; }
.grid { stroke: var(--edge); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.area { fill: var(--accent); opacity: .13; }
.bar { fill: var(--accent); opacity: .85; } .bar:hover { opacity: 1; }
.second .line { stroke: var(--second); } .second .area, .second .bar { fill: var(--second); }
.mark { stroke: var(--quiet); stroke-dasharray: 3 3; }
.plot .mark-label { fill: var(--ink); }
.hover { fill: transparent; } .hover:hover { fill: var(--ink); opacity: .08; }
footer { color: var(--quiet); font-size: 13px; margin-top: 24px; }
@media print { body { background: none; } .tile, .card { break-inside: avoid; } }
"""

# The browser then makes no request, whatever text gets into the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_META = join_html(
    SafeHtml('<meta charset="utf-8">'),
    SafeHtml('<meta name="viewport" content="width=device-width, initial-scale=1">'),
    SafeHtml(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
)
# Every report starts with it, and only a file that starts with it is replaced by a new report. A
# change here makes earlier reports look like the user's own files.
HEAD = f'<!doctype html>\n<html lang="en"><head>{_META}'
COLOURS = {"finished": "good", "finished with failures": "bad", "not finished": "warn"}


def render_page(report_data: ReportData) -> str:
    """Render a self-contained HTML document. Text of users and models is always escaped."""
    statistics = report_data.statistics
    body = element(
        "main",
        _render_header(report_data),
        element("div", *_render_tiles(report_data), class_="tiles"),
        element(
            "div",
            *_render_speed(statistics),
            _render_latency("Latency of a line", "latency", statistics.latency),
            _render_latency(
                "Time to the first token", "time to first token", statistics.time_to_first_token
            ),
            _render_section("Failures", _render_errors(statistics), wide=True),
            _render_section("Models", _render_models(statistics), wide=True),
            _render_section("Settings", _render_settings(report_data.settings), wide=True),
            class_="cards",
        ),
        element("footer", f"Made by foundry-api {report_data.version}. This page loads nothing."),
    )
    title = element("title", f"{report_data.title}: batch")
    head = element("head", join_html(_META, title, SafeHtml(f"<style>{STYLE}</style>")))
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def _render_header(report_data: ReportData) -> SafeHtml:
    runs = report_data.statistics.runs
    facts = [f"started {format_time(runs[0].started_at)}"] if runs else []
    if len(runs) > 1:
        facts.append(format_count(len(runs), "run"))
    facts.append(f"as of {format_time(report_data.made_at)}")
    return element(
        "header",
        element("h1", report_data.title),
        element("span", report_data.state, class_=f"state {COLOURS[report_data.state]}"),
        element("div", ", ".join(facts), class_="when"),
    )


def _render_tiles(report_data: ReportData) -> Iterable[SafeHtml]:
    statistics = report_data.statistics
    finished = statistics.done + statistics.failed
    total = report_data.total or finished
    yield _render_tile(
        "Answered",
        format_int(statistics.done),
        f"{format_percent(statistics.done, total)} of all lines",
    )
    yield _render_tile(
        "Failed", format_int(statistics.failed), format_percent(statistics.failed, total)
    )
    if report_data.total is not None and report_data.total > finished:
        yield _render_tile(
            "Left", format_int(report_data.total - finished), "run the same command to resume"
        )
    if statistics.shared:
        yield _render_tile(
            "Shared", format_int(statistics.shared), "from an identical line or the cache"
        )
    yield _render_tile("Time", format_duration(statistics.elapsed_s), "while it ran")
    yield _render_tile(
        "Lines per second", format_rate(statistics.lines_per_s), f"{format_int(finished)} in all"
    )
    written, read = format_int(statistics.completion_tokens), format_int(statistics.prompt_tokens)
    yield _render_tile(
        "Tokens per second",
        format_rate(statistics.tokens_per_s),
        f"{written} generated, {read} in prompts",
    )


def _render_tile(name: str, value: str, note: str) -> SafeHtml:
    return element(
        "div",
        element("div", name, class_="name"),
        element("div", value, class_="value"),
        element("div", note, class_="note"),
        class_="tile",
    )


def _render_section(
    title: str, *content: SafeHtml, wide: bool = False, second: bool = False
) -> SafeHtml:
    classes = ["card", *(["wide"] if wide else []), *(["second"] if second else [])]
    return element("section", element("h2", title), *content, class_=" ".join(classes))


def _render_speed(statistics: BatchStatistics) -> Iterable[SafeHtml]:
    """Render the plots over time, with a mark where each later run started."""
    if not statistics.throughput or not statistics.done + statistics.failed:
        yield _render_section("Speed", _render_note("No line is finished yet."), wide=True)
        return
    timeline = Timeline(statistics.runs)
    # The time between two runs is left out, so a later run starts where the earlier one ended.
    starts = [timeline.get_active_s(run.started_at) for run in statistics.runs]
    marks = [at for at in starts if at > 0]

    def plot(unit: str, get_amount: Callable[[TimelineBucket], int]) -> SafeHtml:
        steps = [
            (bucket.at_s, bucket.span_s, get_amount(bucket) / bucket.span_s)
            for bucket in statistics.throughput
        ]
        return draw_curve(steps, unit, marks)

    yield _render_section("Lines per second", plot("lines/s", lambda bucket: bucket.lines))
    written = plot("tokens/s", lambda bucket: bucket.completion_tokens)
    yield _render_section("Tokens per second", written, second=True)


def _render_latency(title: str, what: str, distribution: Distribution) -> SafeHtml:
    second = what != "latency"  # plots of the two distributions have different colours
    if not distribution.count:
        return _render_section(
            title, _render_note("Not measured: no line has any text."), second=second
        )
    quantiles = ", ".join(
        f"p{q * 100:g} {format_duration(distribution.quantile(q))}" for q in QUANTILES
    )
    mean, longest = format_duration(distribution.mean), format_duration(distribution.highest)
    words = f"{quantiles}, mean {mean}, longest {longest}"
    return _render_section(
        title,
        draw_histogram(distribution, what),
        element("p", words, class_="empty"),
        second=second,
    )


def _render_errors(statistics: BatchStatistics) -> SafeHtml:
    if not statistics.errors:
        return _render_note("None.")
    rows = [
        (error.code, format_int(error.count), format_percent(error.count, statistics.failed),
         error.custom_id, error.message)
        for error in statistics.errors
    ]  # fmt: skip
    return _render_table(("Error", "Lines", "Of all failures", "First line", "Its message"), rows)


def _render_models(statistics: BatchStatistics) -> SafeHtml:
    if not statistics.models:
        return _render_note("No line is finished yet.")
    rows = [
        (model.model or "not named", format_int(model.lines), format_int(model.failed),
         format_int(model.prompt_tokens), format_int(model.completion_tokens))
        for model in statistics.models
    ]  # fmt: skip
    return _render_table(("Model", "Lines", "Failed", "Prompt tokens", "Completion tokens"), rows)


def _render_settings(settings: Sequence[tuple[str, str]]) -> SafeHtml:
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in settings
    ]
    return element("table", element("tbody", *rows), class_="facts")


def _render_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> SafeHtml:
    # Columns of numbers are aligned to the right.
    attributes = [
        {"class_": "count"} if all(row[column][:1].isdigit() for row in rows) else {}
        for column in range(len(heads))
    ]
    head = [
        element("th", cell, scope="col", **attribute)
        for cell, attribute in zip(heads, attributes, strict=True)
    ]
    body: list[SafeHtml] = []
    for row in rows:
        pairs = zip(row, attributes, strict=True)
        body.append(element("tr", *(element("td", cell, **attribute) for cell, attribute in pairs)))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", table, class_="scroll")


def _render_note(text: str) -> SafeHtml:
    return element("p", text, class_="empty")
