"""The demo model follows schemas that were not in its training data."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_api.types.errors import StructuredOutputError
from tools.train_demo_model.json_cases import MAX_ANSWER, make_unseen_models

if TYPE_CHECKING:
    from foundry_api import FoundryAPIClient

MIN_VALID = 95
"""Out of 100, as the model card says."""

QUESTIONS = (
    "Describe a product.",
    "Alice sells red lamps.",
    "Give me an example.",
    "Create a task for tomorrow",
    "hello",
    "The parcel was late, but the support was friendly.",
    "Invent a character for a story.",
    "What is the capital of France?",
    "List three things.",
    "Return a record with all fields.",
)


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Item:
    title: str
    stock: int
    level: Level
    keywords: list[str]


async def complete_parsed(client: FoundryAPIClient, question: str, model: type[Any]) -> Any:
    """Return the parsed answer, or None if it is truncated or invalid."""
    options: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": MAX_ANSWER}
    try:
        completion = await client.complete(question, response_model=model, max_repairs=0, **options)
    except StructuredOutputError:
        return None
    return completion.parsed


async def test_answers_for_unseen_types_are_valid(client: FoundryAPIClient) -> None:
    cases = make_unseen_models()
    values = await asyncio.gather(
        *(complete_parsed(client, case.question, case.model) for case in cases)
    )
    valid = [isinstance(value, case.model) for value, case in zip(values, cases, strict=True)]
    assert sum(valid) >= MIN_VALID


async def test_answers_for_a_common_dataclass_are_valid(client: FoundryAPIClient) -> None:
    values = [await complete_parsed(client, question, Item) for question in QUESTIONS]
    assert [type(value) for value in values] == [Item] * len(QUESTIONS)
