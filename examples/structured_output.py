"""Structured output: typed objects, choices, and partial objects while they stream.

python examples/structured_output.py
python examples/structured_output.py --model phi-4-mini
"""

import argparse
import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import FoundryAPIClient, FoundryError, StructuredOutputError

MAX_STARS = 5


@dataclass
class Review:
    """The type of the answer. A pydantic model, a TypedDict or a JSON schema works too.

    The limits matter: a small model may continue a string without one up to max_tokens.
    """

    verdict: Literal["good", "mixed", "bad"]
    stars: Annotated[int, msgspec.Meta(ge=1, le=MAX_STARS)]
    words: Annotated[list[Annotated[str, msgspec.Meta(max_length=12)]], msgspec.Meta(max_length=3)]


LETTER = "The apples came in time and taste of summer, but three of them were bruised."


async def main(model: str) -> None:
    """Show an object, a choice, partial objects of a stream, and an invalid answer."""
    async with FoundryAPIClient(model=model) as client:
        answer = await client.complete(
            f"Review this letter: {LETTER}", response_model=Review, max_tokens=200
        )
        print(f"object:  {answer.parsed} (repairs: {answer.repairs})")

        choice = await client.complete(f"Is the writer glad? {LETTER}", choice=["yes", "no"])
        print(f"choice:  {choice.parsed}")

        print("stream:")
        previous = None
        async for chunk in client.stream_complete(LETTER, response_model=Review, max_tokens=200):
            if chunk.partial != previous:
                previous = chunk.partial
                print(f"  {previous}")

        print(f"invalid: {await get_validation_error(client)}")


async def get_validation_error(client: FoundryAPIClient) -> str:
    """Return the problems of an answer that no repair can make valid."""

    def exceed_the_maximum(review: Review) -> None:
        if review.stars <= MAX_STARS:
            raise ValueError(f"$.stars must be more than {MAX_STARS}")

    try:
        await client.complete(
            LETTER,
            response_model=Review,
            validators=[exceed_the_maximum],
            max_repairs=1,
            max_tokens=200,
        )
    except StructuredOutputError as error:
        return f"{'; '.join(error.errors)} (repairs: {error.repairs})"
    return "none"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
