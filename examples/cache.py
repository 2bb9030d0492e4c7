"""Cache answers, also for the next run of this program.

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
    """Complete a prompt twice in sequence, then ten times concurrently."""
    # All programs of this user share the file. A MemoryCache() ends with the program.
    async with FoundryAPIClient(model=model, cache=SqliteCache()) as client:
        for _ in range(2):
            started = time.perf_counter()
            # At temperature 0 the answer is always the same. Other calls are cached only with
            # cache="always".
            answer = await client.complete(prompt, temperature=0)
            source = "from the cache" if answer.cached else "by the engine"
            print(f"answered {source} in {1000 * (time.perf_counter() - started):.1f} ms")
        print(answer.content)

        # A cached stream has its original chunks.
        chunks = [chunk async for chunk in client.stream_complete(prompt, temperature=0)]
        print(f"as a stream: {len(chunks)} chunks")

        # Concurrent identical calls share one request, even if it fails.
        calls = (client.complete(prompt, temperature=1, cache="always") for _ in range(10))
        answers = await asyncio.gather(*calls)
        sent = sum(not response.cached for response in answers)
        print(f"of 10 calls at once, {sent} went to the engine")

        stats = await client.cache.stats()
        print(f"the cache has {stats.entries} answers, and {stats.hits} hits so far")


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
