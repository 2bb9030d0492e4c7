"""Embed texts, and find the notes that are most similar to a question.

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


def similarity(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the cosine similarity: services return vectors of length 1."""
    return sum(a * b for a, b in zip(first, second, strict=True))


async def main(model: str, question: str) -> None:
    """Print the notes, the most similar first."""
    async with FoundryAPIClient() as client:
        notes = await client.embed(NOTES, model=model)
        question_vector = (await client.embed(question, model=model))[0]
    print(f"{len(notes)} notes, {notes.dimensions} dimensions, model {notes.model}")
    print(f"question: {question}")
    scores = [similarity(vector, question_vector) for vector in notes]
    for score, note in sorted(zip(scores, NOTES, strict=True), reverse=True):
        print(f"  {score:.2f}  {note}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}")
    try:
        asyncio.run(main(arguments.model, arguments.question))
    except FoundryError as error:
        sys.exit(f"error: {error}")
