"""Print an answer while it is generated.

python examples/streaming.py
python examples/streaming.py --model phi-4-mini "Write a poem about the sea"
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError, StreamInterrupted


async def main(prompt: str, model: str) -> None:
    """Print each chunk as it arrives; the last one has the timings."""
    async with FoundryAPIClient() as client:
        async for chunk in client.stream_complete(prompt=prompt, model=model):
            print(chunk.content, end="", flush=True)
            timings = chunk.timings
    first_s, rate = timings.time_to_first_token_s or 0, timings.tokens_per_second or 0
    print(f"\n\nfirst token after {first_s:.3f} s, then {rate:.0f} tokens/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="Write a story about AI")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.prompt, arguments.model))
    except StreamInterrupted as error:
        sys.exit(f"\nThe answer is incomplete: {error}")
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
