"""Plots as SVG: a curve over time, and a histogram of times."""

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
    "curve",
    "element",
    "histogram",
    "join",
    "log_ticks",
    "ticks",
    "time_ticks",
]


STEPS = (1, 2, 5, 10)
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)
DAY_S = 86_400
LOG_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Scale:
    """Takes values to places.

    Attributes:
        low: The value at the begin.
        high: The value at the end.
        pixel_start: Its place.
        pixel_end: Its place.
        logarithmic: Whether equal factors are equally far apart.
    """

    low: float
    high: float
    pixel_start: float
    pixel_end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self._measure(self.low), self._measure(self.high)
        share = (self._measure(value) - low) / (high - low) if high > low else 0.0
        return self.pixel_start + share * (self.pixel_end - self.pixel_start)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def ticks(highest: float, count: int = 4) -> list[float]:
    """Round values from 0, the last one at or above the highest."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(
        step_factor * power for step_factor in STEPS if step_factor * power >= rough * (1 - 1e-9)
    )
    return [round(place * step, 12) for place in range(math.ceil(highest / step - 1e-9) + 1)]


def time_ticks(longest_s: float, count: int = 8) -> list[float]:
    """Times from 0 that people count in, none beyond the longest."""
    days = (days * DAY_S for days in range(1, 1 + math.ceil(longest_s / DAY_S)))
    fitting = (step for step in (*TIME_STEPS_S, *days) if longest_s <= step * count)
    step = next(fitting, DAY_S)
    return [float(place * step) for place in range(int(longest_s / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between two values, both included."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (step * 10.0**power for power in powers for step in LOG_STEPS)
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


class SafeHtml(str):
    """Text that is markup already. All other text is escaped when it goes into an element."""

    __slots__ = ()


def join(*parts: str) -> SafeHtml:
    """Several pieces as one."""
    return SafeHtml(
        "".join(part if isinstance(part, SafeHtml) else escape(sanitize(part)) for part in parts)
    )


def element(name: str, *children: str, **attributes: str | float) -> SafeHtml:
    """An element.

    Args:
        name: Its name.
        children: What is in it; text that is not `SafeHtml` is escaped.
        attributes: By their names, an underscore for each hyphen, and one behind `class_`.
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_format_attribute(value)}"'
        for key, value in attributes.items()
    )
    return SafeHtml(f"<{name}{attribute_text}>{join(*children)}</{name}>")


def _format_attribute(value: str | float) -> str:
    return escape(sanitize(value)) if isinstance(value, str) else f"{value:.6g}"


WIDTH, HEIGHT = 560, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 26
MERGED = 2
"""Buckets of the distribution in one bar: a dozen bars a decade."""

LABEL_ROOM = 52
QUANTILES = (0.5, 0.9, 0.99)

Step = tuple[float, float, float]
"""Where a stretch begins, how long it is, and the value in it."""


def curve(steps: Sequence[Step], unit: str, marks: Sequence[float] = ()) -> SafeHtml:
    """A value over time, as a staircase: each value holds for its stretch.

    Args:
        steps: One behind the other, from 0.
        unit: What the values are, such as `lines/s`.
        marks: Moments at which something began anew.
    """
    end_s = steps[-1][0] + steps[-1][1]
    levels = ticks(max(value for _, _, value in steps))
    across = Scale(0.0, end_s, LEFT, WIDTH - RIGHT)
    up = Scale(0.0, levels[-1], HEIGHT - BOTTOM, TOP)
    line = " ".join(
        f"{across(at):.1f},{up(value):.1f} {across(at + span):.1f},{up(value):.1f}"
        for at, span, value in steps
    )
    floor = f"{WIDTH - RIGHT},{HEIGHT - BOTTOM} {LEFT},{HEIGHT - BOTTOM}"
    return _svg(
        f"{unit} over time",
        _levels(levels, up),
        _axis([(across(at), format_duration(at)) for at in time_ticks(end_s)]),
        element("polygon", class_="area", points=f"{line} {floor}"),
        element("polyline", class_="line", points=line),
        *(_annotation(across(at), "begun again") for at in marks),
        *(
            _tooltip(across, step, f"{format_duration(step[0])}: {format_rate(step[2])} {unit}")
            for step in steps
        ),
    )


def histogram(distribution: Distribution, what: str) -> SafeHtml:
    """How often which time was seen, with the quantiles; the times are on a logarithmic axis.

    Args:
        distribution: With one value at least.
        what: What the values are, such as `latency`.
    """
    bars = _bars(distribution)
    across = Scale(bars[0][0], bars[-1][1], LEFT, WIDTH - RIGHT, logarithmic=True)
    levels = ticks(max(count for _, _, count in bars))
    up = Scale(0.0, levels[-1], HEIGHT - BOTTOM, TOP)
    return _svg(
        f"Histogram of the {what}",
        _levels(levels, up),
        _axis([(across(at), format_duration(at)) for at in log_ticks(bars[0][0], bars[-1][1])]),
        *(_bar(bar, across, up, distribution.count) for bar in bars),
        *(_quantile(distribution, share, across) for share in QUANTILES),
    )


def _quantile(distribution: Distribution, share: float, across: Scale) -> SafeHtml:
    value = min(max(distribution.quantile(share), across.low), across.high)
    return _annotation(across(value), f"p{share * 100:g}")


def _bars(distribution: Distribution) -> list[tuple[float, float, int]]:
    """From where to where, and how many; without the empty ones at both ends."""
    edges = [distribution.bounds[0] / 2, *distribution.bounds[::MERGED]]
    sums = [distribution.counts[0]] + [
        sum(distribution.counts[place + 1 : place + 1 + MERGED])
        for place in range(0, len(distribution.bounds), MERGED)
    ]
    edges.append(max(edges[-1] * 2, distribution.highest))
    bars = [(low, high, count) for (low, high), count in zip(pairwise(edges), sums, strict=True)]
    used = [place for place, (_, _, count) in enumerate(bars) if count]
    return bars[max(0, used[0] - 1) : used[-1] + 2]


def _bar(bar: tuple[float, float, int], across: Scale, up: Scale, total: int) -> SafeHtml:
    low, high, count = bar
    share = format_percent(count, total)
    text = f"{format_duration(low)} to {format_duration(high)}: {format_int(count)} ({share})"
    return element(
        "rect",
        element("title", text),
        class_="bar",
        x=across(low) + 0.5,
        width=max(1.0, across(high) - across(low) - 1.0),
        y=up(count),
        height=HEIGHT - BOTTOM - up(count),
    )


def _svg(title: str, *parts: SafeHtml) -> SafeHtml:
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="plot", aria_label=title
    )


def _levels(levels: Sequence[float], up: Scale) -> SafeHtml:
    """Lines across, each with its value at the left."""
    return join(
        *(
            element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=up(level), y2=up(level))
            for level in levels
        ),
        *(
            element("text", f"{level:,.12g}", class_="level", x=LEFT - 6, y=up(level) + 4)
            for level in levels
        ),
    )


def _axis(labels: Sequence[tuple[float, str]]) -> SafeHtml:
    """Values below; of those that would run into each other the later ones are left out."""
    shown: list[SafeHtml] = []
    free_from = 0.0
    for place, label in labels:
        if place >= free_from:
            free_from = place + LABEL_ROOM
            x = min(place, WIDTH - RIGHT - LABEL_ROOM / 3)
            shown.append(element("text", label, class_="axis", x=x, y=HEIGHT - BOTTOM + 18))
    return join(*shown)


def _annotation(place: float, text: str) -> SafeHtml:
    anchor = "end" if place > WIDTH - RIGHT - LABEL_ROOM else "middle"
    return join(
        element("line", class_="mark", x1=place, x2=place, y1=TOP - 4, y2=HEIGHT - BOTTOM),
        element("text", text, class_="mark-label", x=place, y=TOP - 8, text_anchor=anchor),
    )


def _tooltip(across: Scale, step: Step, text: str) -> SafeHtml:
    at, span, _ = step
    return element(
        "rect",
        element("title", text),
        class_="hover",
        x=across(at),
        width=across(at + span) - across(at),
        y=TOP,
        height=HEIGHT - TOP - BOTTOM,
    )
