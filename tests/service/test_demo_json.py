"""The demo model fills in types that training never showed, through the real engine."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_api.types.errors import StructuredOutputError
from tools.train_demo_model.json_cases import MAX_ANSWER, make_unseen_models

if TYPE_CHECKING:
    from foundry_api import FoundryAPIClient

VALID = 95
"""Of a hundred, as the model's card says."""

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


async def answered(client: FoundryAPIClient, question: str, model: type[Any]) -> Any:
    """The value, or None for an answer that was cut or is not valid."""
    options: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": MAX_ANSWER}
    try:
        done = await client.complete(question, response_model=model, max_repairs=0, **options)
    except StructuredOutputError:
        return None
    return done.parsed


async def test_unseen_types_are_filled_in(client: FoundryAPIClient) -> None:
    cases = make_unseen_models()
    values = await asyncio.gather(*(answered(client, case.question, case.model) for case in cases))
    valid = [isinstance(value, case.model) for value, case in zip(values, cases, strict=True)]
    assert sum(valid) >= VALID


async def test_the_usual_dataclass_always_is(client: FoundryAPIClient) -> None:
    values = [await answered(client, question, Item) for question in QUESTIONS]
    assert [type(value) for value in values] == [Item] * len(QUESTIONS)
