"""Texts as vectors: which of some notes answers a question?

python examples/embeddings.py
python examples/embeddings.py "How do I bake bread?"
python examples/embeddings.py --model qwen3-embedding-0.6b
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError

NOTES = [
    "Paris is the capital of France.",
    "Berlin is the capital of Germany.",
    "A computer learns from many examples.",
    "The sea is deep, blue and full of salt.",
    "Bread is made of flour, water, salt and time.",
]


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """How alike two texts are, up to 1: the services scale every vector to length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


async def main(model: str, question: str) -> None:
    """Embed the notes and the question, and show the notes by their likeness."""
    async with FoundryAPIClient() as client:
        notes = await client.embed(NOTES, model=model)
        asked = await client.embed(question, model=model)
    print(f"{len(notes)} notes, {notes.dimensions} numbers each, by {notes.model}")
    print(f"question: {question}")
    ranked = sorted(zip(notes, NOTES, strict=True), key=lambda pair: -likeness(pair[0], asked[0]))
    for vector, note in ranked:
        print(f"  {likeness(vector, asked[0]):.2f}  {note}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find the notes that answer a question.")
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}")
    try:
        asyncio.run(main(arguments.model, arguments.question))
    except FoundryError as error:
        sys.exit(f"error: {error}")
