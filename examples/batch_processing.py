"""Run many prompts with the full throughput of the engine.

python examples/batch_processing.py
python examples/batch_processing.py --model phi-4-mini letters.txt
foundry-api batch run letters.txt -o answers.jsonl --model phi-4-mini
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError

MAX_PRINTED = 3
PLACES = ("France", "Italy", "Spain", "Japan", "Norway", "Egypt", "Peru", "Kenya")


def read_prompts(path: str | None) -> Iterator[str]:
    """Yield the lines of a file; the batch reads only as many as it needs."""
    if path is None:
        yield from (f"What is the capital of {PLACES[n % len(PLACES)]}?" for n in range(200))
        return
    with Path(path).open(encoding="utf-8") as lines:
        yield from (line.strip() for line in lines if line.strip())


async def main(path: str | None, model: str) -> None:
    """Run all prompts; then a few that include duplicates and an invalid one."""
    async with FoundryAPIClient(model=model) as client:
        tokens, count, started = 0, 0, time.perf_counter()
        async for result in client.batch(read_prompts(path), max_tokens=30, errors="raise"):
            answer = result.unwrap()
            tokens += answer.usage.completion_tokens
            count += 1
            if count <= MAX_PRINTED:  # results arrive as they finish
                print(f"{result.index:4}  {answer.content}")
        elapsed_s = time.perf_counter() - started
        limit = client.limiter.statistics().limit
        print(f"{count} answers, {tokens / elapsed_s:.0f} tokens/s, {limit} concurrent at the end")

        # In order, with duplicates sent once. A failed request is a result with an error.
        few = [*(f"What is the capital of {place}?" for place in PLACES[:2] * 2), ""]
        async for result in client.batch(few, max_tokens=30, ordered=True, dedupe=True):
            text = result.error.message if result.error else result.unwrap().content
            print(f"{result.index}: {text}{' (shared)' if result.shared else ''}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="a file with one prompt per line")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.file, arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
