"""Puts the figures that were measured last into the README.

python3 dev.py bench table
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from parts.results import kept

README = Path(__file__).resolve().parent.parent / "README.md"
CLIENTS = ("foundry-api", "openai", "ollama", "litellm")
BETWEEN = re.compile(r"(?<=<!-- bench -->\n).*(?=<!-- /bench -->)", re.DOTALL)


def row(what: str, cells: list[str]) -> str:
    """A line of the table."""
    return f"| {what} | {' | '.join(cells)} |"


def ratios(figures: dict[str, float], what: str) -> list[str]:
    """A row of ratios to the floor."""
    return [f"{figures[f'{what}, {client} / raw aiohttp']:.2f}" for client in CLIENTS]


def seconds(value: float) -> str:
    """A time, or that it never comes: litellm cannot answer 200 callers a second."""
    return f"{value:.1f}" if math.isfinite(value) else "never"


def table() -> list[str]:
    """Every figure that users may want to know."""
    overhead, outage, footprint = kept("overhead"), kept("outage"), kept("footprint")
    lines = [
        row("", list(CLIENTS)),
        "|---|" + "---|" * len(CLIENTS),
        *(
            row(f"client CPU per short {name}", ratios(overhead, what))
            for name, what in (
                ("call, one at a time (floor = 1)", "call at 1"),
                ("call, 64 at once (floor = 1)", "call at 64"),
            )
        ),
        *(
            row(f"client CPU per {name}", ratios(overhead, what))
            for name, what in (
                ("streamed chunk, one at a time (floor = 1)", "chunk at 1"),
                ("streamed chunk, 64 at once (floor = 1)", "chunk at 64"),
            )
        ),
        row(
            f"requests in an outage of 30 s, {outage['callers in the outage']:.0f} callers",
            [f"{outage[f'requests sent in the outage, {client}']:.0f}" for client in CLIENTS],
        ),
        row(
            "seconds from its end to full speed",
            [seconds(outage[f"s to full speed, {client}"]) for client in CLIENTS],
        ),
        *(
            row(name, [f"{footprint[f'{what}, {client}']:.{digits}f}" for client in CLIENTS])
            for name, what, digits in (
                ("import, seconds", "import, s", 2),
                ("process start to a completion, seconds", "start to completion, s", 2),
                ("KiB for an open stream, of 1,000", "KiB per open stream", 0),
            )
        ),
    ]
    return [*lines, "", *sentences()]


def sentences() -> list[str]:
    """What has no peer to stand beside, an item each."""
    rush, leftover = kept("rush"), kept("leftover")
    adaptive, naive = rush["adaptive / best fixed"], rush["gather / best fixed"]
    rest = leftover["engine at rest, processor s/s"]
    timed_out, cancelled = (leftover[f"0.5 s after 50 {name}"] for name in LEAVING)
    return [
        "- 512 calls at once on the real engine, beside the throughput of the best fixed",
        f"  concurrency: the limiter {adaptive:.2f}, `asyncio.gather` without one {naive:.2f}.",
        "- Processor seconds a second that the engine uses half a second after 50 time-outs:",
        f"  {timed_out:.2f}; after 50 cancellations: {cancelled:.2f}; at rest: {rest:.2f}.",
        *structured(),
    ]


def structured() -> list[str]:
    """How answers to random schemas fare."""
    asked = {
        what.removesuffix(", foundry-api"): value for what, value in kept("structured").items()
    }
    cut, given_up = asked["cut"], asked["given up"]
    return [
        f"- {asked['schemas']:.0f} random JSON schemas, demo model: of the answers that were",
        f"  returned, {asked['valid']:.0f} of {asked['returned']:.0f} are valid, with `openai`'s",
        f"  parse {asked['valid, openai']:.0f} of {asked['returned, openai']:.0f}. Instead of an",
        f"  answer, {cut:.0f} calls raised that it was cut at max_tokens, for want of bounds in",
        f"  the schema, and {given_up:.0f} that it did not pass after two repairs; repairs helped",
        f"  {asked['returned after repairs']:.0f} answers.",
    ]


LEAVING = ("time-outs", "cancellations")


def main() -> None:
    """Write it between the README's marks."""
    text = README.read_text(encoding="utf-8")
    written = BETWEEN.sub(lambda _: "\n".join(table()) + "\n", text)
    README.write_text(written, encoding="utf-8")
    print(f"wrote the table into {README.name}")


if __name__ == "__main__":
    main()
