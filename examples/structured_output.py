"""Answers that a program can use: typed objects, choices, and objects that grow while they come.

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

MOST_STARS = 5


@dataclass
class Review:
    """What is wanted of an answer. A pydantic model, a TypedDict or a JSON schema does as well.

    The bounds matter: a small model would fill a text without one up to max_tokens.
    """

    verdict: Literal["good", "mixed", "bad"]
    stars: Annotated[int, msgspec.Meta(ge=1, le=MOST_STARS)]
    words: Annotated[list[Annotated[str, msgspec.Meta(max_length=12)]], msgspec.Meta(max_length=3)]


LETTER = "The apples came in time and taste of summer, but three of them were bruised."


async def main(model: str) -> None:
    """Ask in four ways for what can be used as it is."""
    async with FoundryAPIClient(model=model) as client:
        answer = await client.complete(
            f"Review this letter: {LETTER}", response_model=Review, max_tokens=200
        )
        print(f"object:  {answer.parsed}, after {answer.repairs} repairs")

        choice = await client.complete(f"Is the writer glad? {LETTER}", choice=["yes", "no"])
        print(f"choice:  {choice.parsed}")

        print("stream:")
        seen = None
        async for chunk in client.stream_complete(LETTER, response_model=Review, max_tokens=200):
            if chunk.partial != seen:
                seen = chunk.partial
                print(f"  {seen}")

        print(f"refused: {await refused(client)}")


async def refused(client: FoundryAPIClient) -> str:
    """An answer that never passes is an error with its text, not half an object."""

    def is_better_than_best(review: Review) -> None:
        if review.stars <= MOST_STARS:
            raise ValueError(f"$.stars has to be more than {MOST_STARS}")

    try:
        await client.complete(
            LETTER,
            response_model=Review,
            validators=[is_better_than_best],
            max_repairs=1,
            max_tokens=200,
        )
    except StructuredOutputError as error:
        return f"{'; '.join(error.errors)} (asked again: {error.repairs})"
    return "nothing"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
