"""The page: its parts, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from foundry_api.batch.report.charts import QUANTILES, Markup, curve, histogram, join, tag
from foundry_api.batch.statistics import Timeline
from foundry_api.observe.format import format_duration, format_int, format_percent, format_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from foundry_api.batch.statistics import Figures, Moment
    from foundry_api.observe.histogram import Distribution

__all__ = ["HEAD", "STYLE", "ReportFacts", "ReportState", "page"]


ReportState = Literal["finished", "finished with failures", "not finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """A batch, for a page about it.

    Attributes:
        title: What was asked: the input's name.
        state: How far it came.
        total: Lines of the input; None if nobody counted them yet.
        figures: What it came to.
        settings: How it was asked and where things are, by their names.
        made_at: When the page is made, in seconds since the epoch.
        version: Of this package.
    """

    title: str
    state: ReportState
    total: int | None
    figures: Figures
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


# The browser is told not to ask anybody for anything, whatever gets into the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_META = join(
    Markup('<meta charset="utf-8">'),
    Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
    Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
)
HEAD = f'<!doctype html>\n<html lang="en"><head>{_META}'
"""What every page begins with, by which one that is there is known."""

COLOURS = {"finished": "good", "finished with failures": "bad", "not finished": "warn"}


def page(facts: ReportFacts) -> str:
    """A whole HTML document, self-contained. Texts of users and models cannot be markup in it."""
    figures = facts.figures
    body = tag(
        "main",
        _header(facts),
        tag("div", *_tiles(facts), class_="tiles"),
        tag(
            "div",
            *_speed(figures),
            _times("Latency of a line", "latency", figures.latency),
            _times("Time to the first token", "time to first token", figures.time_to_first_token),
            _card("Failures", _errors(figures), wide=True),
            _card("Models", _models(figures), wide=True),
            _card("Settings", _settings(facts.settings), wide=True),
            class_="cards",
        ),
        tag("footer", f"Made by foundry-api {facts.version}. This page loads nothing."),
    )
    return f"<!doctype html>\n{_document(f'{facts.title}: batch', body)}\n"


def _document(title: str, body: Markup) -> Markup:
    head = join(_META, tag("title", title), Markup(f"<style>{STYLE}</style>"))
    return tag("html", tag("head", head), tag("body", body), lang="en")


def _header(facts: ReportFacts) -> Markup:
    runs = facts.figures.runs
    begun = f"begun {_moment(runs[0].begun_at)}, " if runs else ""
    times = f"{len(runs)} runs, " if len(runs) > 1 else ""
    return tag(
        "header",
        tag("h1", facts.title),
        tag("span", facts.state, class_=f"state {COLOURS[facts.state]}"),
        tag("div", f"{begun}{times}seen {_moment(facts.made_at)}", class_="when"),
    )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _tiles(facts: ReportFacts) -> Iterable[Markup]:
    figures = facts.figures
    finished = figures.done + figures.failed
    whole = facts.total or finished
    yield _tile(
        "Answered", format_int(figures.done), f"{format_percent(figures.done, whole)} of all lines"
    )
    yield _tile("Failed", format_int(figures.failed), format_percent(figures.failed, whole))
    if facts.total is not None and facts.total > finished:
        yield _tile("Left", format_int(facts.total - finished), "the same command goes on")
    if figures.shared:
        yield _tile("Shared", format_int(figures.shared), "took a known answer")
    yield _tile("Time", format_duration(figures.elapsed_s), "in which it ran")
    yield _tile(
        "Lines a second", format_rate(figures.lines_per_s), f"{format_int(finished)} in all"
    )
    yield _tile("Tokens a second", format_rate(figures.tokens_per_s), _tokens(figures))


def _tokens(figures: Figures) -> str:
    return (
        f"{format_int(figures.completion_tokens)} written, {format_int(figures.prompt_tokens)} read"
    )


def _tile(name: str, value: str, note: str) -> Markup:
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag("div", value, class_="value"),
        tag("div", note, class_="note"),
        class_="tile",
    )


def _card(title: str, *content: Markup, wide: bool = False, second: bool = False) -> Markup:
    kinds = ["card", *(["wide"] if wide else []), *(["second"] if second else [])]
    return tag("section", tag("h2", title), *content, class_=" ".join(kinds))


def _speed(figures: Figures) -> Iterable[Markup]:
    """Two plots over time. Where one run ended and the next began is marked."""
    if not figures.throughput or not figures.done + figures.failed:
        yield _card("Speed", _nothing("No line is finished yet."), wide=True)
        return
    timeline = Timeline(figures.runs)
    marks = [timeline.worked_at(run.begun_at) for run in figures.runs]
    marks = [at for at in marks if at > 0]

    def plot(unit: str, of: Callable[[Moment], int]) -> Markup:
        steps = [(each.at_s, each.span_s, of(each) / each.span_s) for each in figures.throughput]
        return curve(steps, unit, marks)

    yield _card("Lines a second", plot("lines/s", lambda each: each.lines))
    written = plot("tokens/s", lambda each: each.completion_tokens)
    yield _card("Tokens a second", written, second=True)


def _times(title: str, what: str, told: Distribution) -> Markup:
    second = what != "latency"
    if not told.count:
        return _card(title, _nothing("Not measured: no line had any text."), second=second)
    quantiles = ", ".join(f"p{q * 100:g} {format_duration(told.quantile(q))}" for q in QUANTILES)
    words = (
        f"{quantiles}, mean {format_duration(told.mean)}, longest {format_duration(told.highest)}"
    )
    return _card(title, histogram(told, what), tag("p", words, class_="empty"), second=second)


def _errors(figures: Figures) -> Markup:
    if not figures.errors:
        return _nothing("None.")
    rows = [
        (each.code, format_int(each.count), format_percent(each.count, figures.failed),
         each.custom_id, each.message)
        for each in figures.errors
    ]  # fmt: skip
    return _table(("Error", "Lines", "Of all failures", "First one", "What it was told"), rows)


def _models(figures: Figures) -> Markup:
    if not figures.models:
        return _nothing("No line is finished yet.")
    rows = [
        (each.model or "not named", format_int(each.lines), format_int(each.failed),
         format_int(each.prompt_tokens), format_int(each.completion_tokens))
        for each in figures.models
    ]  # fmt: skip
    return _table(("Model", "Lines", "Failed", "Prompt tokens", "Completion tokens"), rows)


def _settings(settings: Sequence[tuple[str, str]]) -> Markup:
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", told)) for name, told in settings]
    return tag("table", tag("tbody", *rows), class_="facts")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Columns of numbers are set to the right."""
    counts = [all(row[place][:1].isdigit() for row in rows) for place in range(len(heads))]
    kinds = [{"class_": "count"} if count else {} for count in counts]
    head = [tag("th", told, scope="col", **kind) for told, kind in zip(heads, kinds, strict=True)]
    body = [
        tag("tr", *(tag("td", told, **kind) for told, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", table, class_="scroll")


def _nothing(told: str) -> Markup:
    return tag("p", told, class_="empty")
