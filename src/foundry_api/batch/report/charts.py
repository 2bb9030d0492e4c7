"""Draw SVG plots: a curve over time, and a histogram of durations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from foundry_api.observe.format import format_duration, format_int, format_percent, format_rate
from foundry_api.types.plain_text import sanitize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.observe.histogram import Distribution

__all__ = [
    "QUANTILES",
    "SafeHtml",
    "Scale",
    "Step",
    "compute_log_ticks",
    "compute_ticks",
    "compute_time_ticks",
    "draw_curve",
    "draw_histogram",
    "element",
    "join_html",
]

Step = tuple[float, float, float]
"""The start of a span of time, its length, and the value during it."""

QUANTILES = (0.5, 0.9, 0.99)

WIDTH, HEIGHT = 560, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 26
LABEL_ROOM = 52
# The buckets of a distribution are too narrow to draw: two per bar make a dozen bars per decade.
BUCKETS_PER_BAR = 2

STEPS = (1, 2, 5, 10)
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)
DAY_S = 86_400
LOG_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low` to `high` to pixels."""

    low: float
    high: float
    pixel_start: float
    pixel_end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._measure(self.low), self._measure(self.high)
        share = (self._measure(value) - low) / (high - low) if high > low else 0.0
        return self.pixel_start + share * (self.pixel_end - self.pixel_start)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def compute_ticks(highest: float, count: int = 4) -> list[float]:
    """Return round values from 0, the last one at or above `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / count
    power = 10.0 ** math.floor(math.log10(rough))
    # The tolerance keeps rounding errors from adding a tick: 0.1 * 3 > 0.3.
    step = next(
        step_factor * power for step_factor in STEPS if step_factor * power >= rough * (1 - 1e-9)
    )
    return [round(place * step, 12) for place in range(math.ceil(highest / step - 1e-9) + 1)]


def compute_time_ticks(longest_s: float, count: int = 8) -> list[float]:
    """Return times from 0 at usual intervals, such as 15 s or 1 h, up to `longest_s`."""
    days = (days * DAY_S for days in range(1, 1 + math.ceil(longest_s / DAY_S)))
    fitting = (step for step in (*TIME_STEPS_S, *days) if longest_s <= step * count)
    step = next(fitting, DAY_S)
    return [float(place * step) for place in range(int(longest_s / step) + 1)]


def compute_log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each decade from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (step * 10.0**power for power in powers for step in LOG_STEPS)
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


class SafeHtml(str):
    """Text that is already markup. Any other text is escaped when it is put into an element."""

    __slots__ = ()


def join_html(*parts: str) -> SafeHtml:
    return SafeHtml(
        "".join(part if isinstance(part, SafeHtml) else escape(sanitize(part)) for part in parts)
    )


def element(name: str, *children: str, **attributes: str | float) -> SafeHtml:
    """Make an element. Attributes are named `class_` for `class`, `aria_label` for `aria-label`."""
    attribute_text = ""
    for key, value in attributes.items():
        text = escape(sanitize(value)) if isinstance(value, str) else f"{value:.6g}"
        attribute_text += f' {key.rstrip("_").replace("_", "-")}="{text}"'
    return SafeHtml(f"<{name}{attribute_text}>{join_html(*children)}</{name}>")


def draw_curve(steps: Sequence[Step], unit: str, marks: Sequence[float] = ()) -> SafeHtml:
    """Draw a value over time as a step curve, with a line at each mark, where a run started."""
    end_s = steps[-1][0] + steps[-1][1]
    levels = compute_ticks(max(value for _, _, value in steps))
    x_scale = Scale(0.0, end_s, LEFT, WIDTH - RIGHT)
    y_scale = Scale(0.0, levels[-1], HEIGHT - BOTTOM, TOP)
    line = " ".join(
        f"{x_scale(at):.1f},{y_scale(value):.1f} {x_scale(at + span):.1f},{y_scale(value):.1f}"
        for at, span, value in steps
    )
    baseline = f"{WIDTH - RIGHT},{HEIGHT - BOTTOM} {LEFT},{HEIGHT - BOTTOM}"
    return _make_svg(
        f"{unit} over time",
        _draw_levels(levels, y_scale),
        _draw_axis([(x_scale(at), format_duration(at)) for at in compute_time_ticks(end_s)]),
        element("polygon", class_="area", points=f"{line} {baseline}"),
        element("polyline", class_="line", points=line),
        *(_draw_mark(x_scale(at), "resumed") for at in marks),
        *(
            _draw_tooltip(
                x_scale, step, f"{format_duration(step[0])}: {format_rate(step[2])} {unit}"
            )
            for step in steps
        ),
    )


def draw_histogram(distribution: Distribution, what: str) -> SafeHtml:
    """Draw a distribution of durations, which is not empty, on a logarithmic axis."""
    bars = _compute_bars(distribution)
    x_scale = Scale(bars[0][0], bars[-1][1], LEFT, WIDTH - RIGHT, logarithmic=True)
    levels = compute_ticks(max(count for _, _, count in bars))
    y_scale = Scale(0.0, levels[-1], HEIGHT - BOTTOM, TOP)
    return _make_svg(
        f"Histogram of the {what}",
        _draw_levels(levels, y_scale),
        _draw_axis(
            [
                (x_scale(at), format_duration(at))
                for at in compute_log_ticks(bars[0][0], bars[-1][1])
            ]
        ),
        *(_draw_bar(bar, x_scale, y_scale, distribution.count) for bar in bars),
        *(
            _draw_mark(
                x_scale(min(max(distribution.quantile(share), x_scale.low), x_scale.high)),
                f"p{share * 100:g}",
            )
            for share in QUANTILES
        ),
    )


def _compute_bars(distribution: Distribution) -> list[tuple[float, float, int]]:
    """Return the low edge, high edge and count of each bar, one empty bar at either end."""
    # A logarithmic axis has no 0, so the first bucket, which starts there, gets half its bound.
    edges = [distribution.bounds[0] / 2, *distribution.bounds[::BUCKETS_PER_BAR]]
    sums = [distribution.counts[0]] + [
        sum(distribution.counts[place + 1 : place + 1 + BUCKETS_PER_BAR])
        for place in range(0, len(distribution.bounds), BUCKETS_PER_BAR)
    ]
    edges.append(max(edges[-1] * 2, distribution.highest))
    bars = [(low, high, count) for (low, high), count in zip(pairwise(edges), sums, strict=True)]
    used = [place for place, (_, _, count) in enumerate(bars) if count]
    return bars[max(0, used[0] - 1) : used[-1] + 2]


def _draw_bar(
    bar: tuple[float, float, int], x_scale: Scale, y_scale: Scale, total: int
) -> SafeHtml:
    low, high, count = bar
    share = format_percent(count, total)
    text = f"{format_duration(low)} to {format_duration(high)}: {format_int(count)} ({share})"
    return element(
        "rect",
        element("title", text),
        class_="bar",
        x=x_scale(low) + 0.5,
        # A gap of one pixel separates bars, and a narrow one stays visible.
        width=max(1.0, x_scale(high) - x_scale(low) - 1.0),
        y=y_scale(count),
        height=HEIGHT - BOTTOM - y_scale(count),
    )


def _make_svg(title: str, *parts: SafeHtml) -> SafeHtml:
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="plot", aria_label=title
    )


def _draw_levels(levels: Sequence[float], y_scale: Scale) -> SafeHtml:
    """Draw grid lines, each with its value at the left."""
    return join_html(
        *(
            element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
            for y in map(y_scale, levels)
        ),
        *(
            element("text", f"{level:,.12g}", class_="level", x=LEFT - 6, y=y_scale(level) + 4)
            for level in levels
        ),
    )


def _draw_axis(labels: Sequence[tuple[float, str]]) -> SafeHtml:
    """Draw labels below the plot, without those that would overlap an earlier one."""
    shown: list[SafeHtml] = []
    free_from = 0.0
    for place, label in labels:
        if place >= free_from:
            free_from = place + LABEL_ROOM
            x = min(place, WIDTH - RIGHT - LABEL_ROOM / 3)
            shown.append(element("text", label, class_="axis", x=x, y=HEIGHT - BOTTOM + 18))
    return join_html(*shown)


def _draw_mark(place: float, text: str) -> SafeHtml:
    anchor = "end" if place > WIDTH - RIGHT - LABEL_ROOM else "middle"
    return join_html(
        element("line", class_="mark", x1=place, x2=place, y1=TOP - 4, y2=HEIGHT - BOTTOM),
        element("text", text, class_="mark-label", x=place, y=TOP - 8, text_anchor=anchor),
    )


def _draw_tooltip(x_scale: Scale, step: Step, text: str) -> SafeHtml:
    at, span, _ = step
    return element(
        "rect",
        element("title", text),
        class_="hover",
        x=x_scale(at),
        width=x_scale(at + span) - x_scale(at),
        y=TOP,
        height=HEIGHT - TOP - BOTTOM,
    )
