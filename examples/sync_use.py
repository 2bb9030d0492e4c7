"""Use the client without asyncio, and one client in several threads.

python examples/sync_use.py
python examples/sync_use.py --model phi-4-mini
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import DeadlineExceeded, FoundryClient, FoundryError, deadline

MAX_CHARACTERS = 300
COUNTRIES = ("France", "Italy", "Japan", "Portugal")


def main(model: str) -> None:
    """Each call blocks until it is finished; Ctrl-C stops it, and the engine's work too."""
    with FoundryClient(model=model) as client:
        print(client.complete("Explain quantum computing", max_tokens=200).content)

        print("\nA story, stopped after 300 characters:")
        length = 0
        for chunk in client.stream_complete("Write a story about AI"):
            print(chunk.content, end="", flush=True)
            length += len(chunk.content)
            if length > MAX_CHARACTERS:
                break  # the engine stops too

        def get_capital(country: str) -> str:
            return client.complete(f"What is the capital of {country}?", temperature=0).content

        print("\n\nOne client in several threads:")
        with ThreadPoolExecutor() as threads:
            for country, answer in zip(COUNTRIES, threads.map(get_capital, COUNTRIES), strict=True):
                print(f"  {country}: {answer}")

        try:
            with deadline(0.001):
                client.complete("Write a story about AI")
        except DeadlineExceeded as error:
            print(f"\ndeadline exceeded: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        main(arguments.model)
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
