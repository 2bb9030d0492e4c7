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
        *batches(),
    ]


SCHEMA_ROWS = {
    "answers given to the caller": "returned",
    "of these, JSON": "parse",
    "of these, valid by their schema": "valid",
    "error instead: cut at max_tokens": "cut",
    "error instead: not valid after two repairs": "given up",
    "error instead: schema refused": "refused",
}


def structured() -> list[str]:
    """How answers to random schemas fare."""
    figures = kept("structured")
    rows = [
        f"| {row} | {figures[f'{what}, foundry-api']:.0f} | {figures[f'{what}, openai']:.0f} |"
        for row, what in SCHEMA_ROWS.items()
    ]
    repaired = figures["returned after repairs, foundry-api"]
    return [
        "",
        f"Structured output: {figures['schemas']:.0f} random JSON schemas (hypothesis), the demo",
        "model, both clients on the same service of SDK 2.2.1, at most 512 tokens an answer.",
        f"{repaired:.0f} of our answers passed after a repair.",
        "",
        "| random schemas | foundry-api | openai `parse` |",
        "|---|---|---|",
        *rows,
    ]


BATCH_ROWS = {
    "a semaphore around `client.complete`, the best of five sizes": "best semaphore",
    "a loop, one call at a time": "loop",
    "`asyncio.gather` with openai": "gather with openai",
}
FILES = ("short", "long", "mixed")


def batches() -> list[str]:
    """How fast a batch is, and what it costs beside its engine."""
    figures = kept("batch")
    return [
        "",
        "Batches (`client.batch`) on the real engine, 600 lines: tokens a second, as a multiple of",
        "those of what one writes by hand.",
        "",
        row("a batch beside", [f"{kind} answers" for kind in FILES]),
        "|---|" + "---|" * len(FILES),
        *(
            row(what, [f"{figures[f'{kind}: batch / {way}']:.2f}" for kind in FILES])
            for what, way in BATCH_ROWS.items()
        ),
        "",
        *batch_sentences(),
    ]


def batch_sentences() -> list[str]:
    """Of batches over files, an item each."""
    cost, resume = kept("batch_overhead"), kept("batch_resume")
    memory, kills = kept("batch_memory"), kept("batch_kills")
    whole, floor = cost["CPU µs/line, whole batch"], cost["CPU µs/line, floor"]
    http = cost["CPU µs/line, run over HTTP, without a journal"]
    calls = cost["CPU µs/line, client.complete"]
    first_s = resume["s to the first line that is left"]
    peak_mb = resume["peak MB, lines that were left, and publishing"]
    few, many = (memory[f"peak MB, {lines} lines"] for lines in (10_000, 100_000))
    engines, wrong = kills["of these, the engine first"], kills["lines missing or twice"]
    return [
        "- Processor time of `foundry-api batch` for a line, beside its engine and its client,",
        f"  check, journal and output included: {whole:.0f} µs; reading and writing JSONL alone:",
        f"  {floor:.1f} µs.",
        f"- Over HTTP a line takes {http:.0f} µs, a call of the client {calls:.0f} µs.",
        f"- A batch with {resume['finished lines']:,.0f} finished lines asks the next one",
        f"  {first_s:.1f} s after its start, and has {peak_mb:.0f} MB at most until its end.",
        f"- Memory for 10,000 lines: {few:.0f} MB at most; for 100,000: {many:.0f} MB.",
        f"- Killed {kills['kills']:.0f} times in batches of {kills['lines']:,.0f} lines,",
        f"  {engines:.0f} times the engine first: {wrong:.0f} lines are missing, or in the output",
        "  twice.",
        *ray_sentence(),
    ]


def ray_sentence() -> list[str]:
    """What a cluster costs, where it shares one machine with what it is compared to."""
    figures = kept("batch_ray")
    rate, spent = (
        figures[f"{what}, Ray / one engine"] for what in ("lines/s", "processor ms/line")
    )
    alone, start = (
        figures[f"s to the first answer, {who}"] for who in ("one engine", "Ray with 2 nodes")
    )
    return [
        f"- A Ray cluster of two nodes on this one machine, beside one engine: {rate:.2f} of its",
        f"  lines a second, {spent:.2f} of its processor time for a line, and the first answer",
        f"  after {start:.1f} s, not {alone:.1f} s.",
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
