"""Many prompts at the engine's own pace: sentences become data, and each comes back once.

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

SHOWN = 3
PLACES = ("France", "Italy", "Spain", "Japan", "Norway", "Egypt", "Peru", "Kenya")


def prompts(path: str | None) -> Iterator[str]:
    """Lines of a file, one after the other: no more are read than are needed."""
    if path is None:
        yield from (f"What is the capital of {PLACES[n % len(PLACES)]}?" for n in range(200))
        return
    with Path(path).open(encoding="utf-8") as lines:
        yield from (line.strip() for line in lines if line.strip())


async def main(path: str | None, model: str) -> None:
    """Ask all of them; then a few of which some are the same, and one cannot be asked."""
    async with FoundryAPIClient(model=model) as client:
        tokens, shown, started = 0, 0, time.perf_counter()
        async for result in client.batch(prompts(path), max_tokens=30, errors="raise"):
            answer = result.unwrap()
            tokens += answer.usage.completion_tokens
            shown += 1
            if shown <= SHOWN:  # they come as they finish
                print(f"{result.index:4}  {answer.content}")
        took_s = time.perf_counter() - started
        limit = client.limiter.statistics().limit
        print(f"{shown} answers, {tokens / took_s:.0f} tokens/s, {limit} at once in the end")

        # In order, identical ones asked once, and a failure is a result like the others.
        few = [*(f"What is the capital of {place}?" for place in PLACES[:2] * 2), ""]
        async for result in client.batch(few, max_tokens=30, ordered=True, dedupe=True):
            told = result.error.message if result.error else result.unwrap().content
            print(f"{result.index}: {told}{' (shared)' if result.shared else ''}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="a prompt in each line")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.file, arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
