"""Write the latest figures into docs/benchmarks.md.

python3 dev.py bench table
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from parts.results import load_figures

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
CLIENTS = ("foundry-api", "openai", "ollama", "litellm")
BETWEEN_MARKS = re.compile(r"(?<=<!-- bench -->\n).*(?=<!-- /bench -->)", re.DOTALL)


def format_row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def format_ratios(figures: dict[str, float], unit: str) -> list[str]:
    return [f"{figures[f'{unit}, {client} / raw aiohttp']:.2f}" for client in CLIENTS]


def format_recovery(value: float) -> str:
    # litellm cannot answer 200 callers a second, so that it never recovers.
    return f"{value:.1f}" if math.isfinite(value) else "never"


def make_table() -> list[str]:
    overhead, outage = load_figures("overhead"), load_figures("outage")
    footprint = load_figures("footprint")
    lines = [
        format_row("", list(CLIENTS)),
        "|---|" + "---|" * len(CLIENTS),
        *(
            format_row(f"client CPU per short {name}", format_ratios(overhead, unit))
            for name, unit in (
                ("call, one at a time (baseline = 1)", "call at 1"),
                ("call, 64 at once (baseline = 1)", "call at 64"),
            )
        ),
        *(
            format_row(f"client CPU per {name}", format_ratios(overhead, unit))
            for name, unit in (
                ("streamed chunk, one at a time (baseline = 1)", "chunk at 1"),
                ("streamed chunk, 64 at once (baseline = 1)", "chunk at 64"),
            )
        ),
        format_row(
            f"requests in an outage of 30 s, {outage['callers in the outage']:.0f} callers",
            [f"{outage[f'requests sent in the outage, {client}']:.0f}" for client in CLIENTS],
        ),
        format_row(
            "seconds from its end to full speed",
            [format_recovery(outage[f"s to full speed, {client}"]) for client in CLIENTS],
        ),
        *(
            format_row(name, [f"{footprint[f'{unit}, {client}']:.{digits}f}" for client in CLIENTS])
            for name, unit, digits in (
                ("import, seconds", "import, s", 2),
                ("process start to a completion, seconds", "start to completion, s", 2),
                ("KiB per open stream, of 1,000", "KiB per open stream", 0),
            )
        ),
    ]
    return [*lines, "", *make_items(), *make_structured_table(), *make_batch_table()]


def make_items() -> list[str]:
    """Make list items of the figures without a comparison to other clients."""
    burst, cancellation = load_figures("burst"), load_figures("cancellation")
    adaptive, unlimited = burst["adaptive / best fixed"], burst["gather / best fixed"]
    rest = cancellation["engine at rest, processor s/s"]
    timed_out, cancelled = (
        cancellation[f"0.5 s after 50 {event}"] for event in ("time-outs", "cancellations")
    )
    return [
        "- Throughput of 512 concurrent calls to the real engine, relative to the best fixed",
        f"  concurrency: with the limiter {adaptive:.2f}, with plain `asyncio.gather`",
        f"  {unlimited:.2f}.",
        "- Processor seconds per second that the engine uses half a second after 50 time-outs:",
        f"  {timed_out:.2f}; after 50 cancellations: {cancelled:.2f}; at rest: {rest:.2f}.",
    ]


SCHEMA_ROWS = {
    "answers returned": "returned",
    "of these, JSON": "parse",
    "of these, valid against the schema": "valid",
    "error instead: cut at max_tokens": "cut",
    "error instead: not valid after two repairs": "given up",
    "error instead: schema refused": "refused",
}


def make_structured_table() -> list[str]:
    figures = load_figures("structured")
    rows = [
        format_row(
            name, [f"{figures[f'{outcome}, {client}']:.0f}" for client in ("foundry-api", "openai")]
        )
        for name, outcome in SCHEMA_ROWS.items()
    ]
    repaired = figures["returned after repairs, foundry-api"]
    return [
        "",
        f"Structured output: {figures['schemas']:.0f} random JSON schemas (hypothesis), the demo",
        "model, both clients with the same service of SDK 2.2.1, at most 512 tokens per answer.",
        f"{repaired:.0f} of the answers of foundry-api passed after a repair.",
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


def make_batch_table() -> list[str]:
    figures = load_figures("batch")
    return [
        "",
        "Batches (`client.batch`) on the real engine, 600 lines: tokens per second, relative to",
        "hand-written code.",
        "",
        format_row("a batch relative to", [f"{kind} answers" for kind in FILES]),
        "|---|" + "---|" * len(FILES),
        *(
            format_row(name, [f"{figures[f'{kind}: batch / {way}']:.2f}" for kind in FILES])
            for name, way in BATCH_ROWS.items()
        ),
        "",
        *make_batch_items(),
    ]


def make_batch_items() -> list[str]:
    cost, resume = load_figures("batch_overhead"), load_figures("batch_resume")
    memory, kills = load_figures("batch_memory"), load_figures("batch_kills")
    whole, baseline = cost["CPU µs/line, whole batch"], cost["CPU µs/line, baseline"]
    http = cost["CPU µs/line, run over HTTP, without a journal"]
    calls = cost["CPU µs/line, client.complete"]
    first_s = resume["s to the first remaining line"]
    peak_mb = resume["peak MB, remaining lines, and publishing"]
    few, many = (memory[f"peak MB, {lines} lines"] for lines in (10_000, 100_000))
    engines, wrong = kills["engine killed first"], kills["lines missing or duplicated"]
    return [
        "- Processor time of `foundry-api batch` per line, without the engine and the client, but",
        f"  with check, journal and output: {whole:.0f} µs; only reading and writing JSONL:",
        f"  {baseline:.1f} µs.",
        f"- Over HTTP a line takes {http:.0f} µs, a call of the client {calls:.0f} µs.",
        f"- A batch with {resume['finished lines']:,.0f} finished lines sends the next one",
        f"  {first_s:.1f} s after its start, and uses at most {peak_mb:.0f} MB.",
        f"- Peak memory for 10,000 lines: {few:.0f} MB; for 100,000: {many:.0f} MB.",
        f"- Killed {kills['kills']:.0f} times in batches of {kills['lines']:,.0f} lines,",
        f"  {engines:.0f} times the engine first: {wrong:.0f} lines are missing or duplicated.",
        *make_ray_item(),
    ]


def make_ray_item() -> list[str]:
    figures = load_figures("batch_ray")
    rate, cpu = (figures[f"{unit}, Ray / one engine"] for unit in ("lines/s", "processor ms/line"))
    alone_s, cluster_s = (
        figures[f"s to the first answer, {setup}"] for setup in ("one engine", "Ray with 2 nodes")
    )
    return [
        f"- A Ray cluster of two nodes on this one machine, relative to one engine: {rate:.2f} of",
        f"  its lines per second, {cpu:.2f} of its processor time per line, and the first answer",
        f"  after {cluster_s:.1f} s instead of {alone_s:.1f} s.",
    ]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = BETWEEN_MARKS.sub(lambda _: "\n".join(make_table()) + "\n", text)
    PAGE.write_text(written, encoding="utf-8")
    print(f"wrote the table into {PAGE.name}")


if __name__ == "__main__":
    main()
