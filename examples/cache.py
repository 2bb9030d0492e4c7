"""Answers that are kept: asked once, given again, also by the next run of this program.

python examples/cache.py
python examples/cache.py --model phi-4-mini "Explain quantum computing"
foundry-api cache stats
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError, SqliteCache


async def main(prompt: str, model: str) -> None:
    """Ask twice one after the other, then ten times at once."""
    # Programs of this user share the file. A MemoryCache() lives as long as the program.
    async with FoundryAPIClient(model=model, cache=SqliteCache()) as client:
        for _ in range(2):
            started = time.perf_counter()
            # Temperature 0 has one answer; others are kept only with cache="always".
            answer = await client.complete(prompt, temperature=0)
            told = "from the cache" if answer.cached else "by the engine"
            print(f"answered {told} in {1000 * (time.perf_counter() - started):.1f} ms")
        print(answer.content)

        # A stream comes again in the pieces that it once came in.
        pieces = [chunk async for chunk in client.stream_complete(prompt, temperature=0)]
        print(f"and as a stream, in {len(pieces)} pieces")

        # Identical calls at the same time share one, whatever becomes of it.
        calls = (client.complete(prompt, temperature=1, cache="always") for _ in range(10))
        answers = await asyncio.gather(*calls)
        print(f"of 10 calls at once, {sum(not each.cached for each in answers)} went to the engine")

        stats = await client.cache.stats()
        print(f"{stats.entries} answers kept, {stats.hits} lookups found one")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="Explain quantum computing")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.prompt, arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
