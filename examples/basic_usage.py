"""Complete a prompt, and check the health of the service.

python examples/basic_usage.py
python examples/basic_usage.py --model phi-4-mini "What is ONNX Runtime?"
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError


async def main(prompt: str, model: str) -> None:
    """Print the answer, its metadata, and the state of the service."""
    async with FoundryAPIClient() as client:
        response = await client.complete(prompt=prompt, model=model, max_tokens=500)
        print(response.content)

        usage, timings = response.usage, response.timings
        print(f"\n{response.model} at {response.service}: {response.finish_reason}, ", end="")
        print(f"{usage.completion_tokens} tokens in {timings.total_s:.2f} s")

        health = await client.health_check()
        memory_mb = (health.memory_usage or 0) / 2**20
        print(f"{health.status}, {memory_mb:.0f} MB, loaded: {', '.join(health.loaded_models)}")


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
