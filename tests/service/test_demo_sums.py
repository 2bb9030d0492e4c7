"""The demo model's arithmetic with small numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from foundry_api import FoundryAPIClient

SUMS = [
    *((f"What is {a} plus {b}?", f"{a} + {b} is {a + b}.") for a in range(10) for b in range(10)),
    *((f"{a} - {b}", f"{a} - {b} is {a - b}.") for a in range(12) for b in range(a + 1)),
    *(
        (f"What is {a} * {b}?", f"{a} * {b} is {a * b}.")
        for a in range(1, 10)
        for b in range(1, 10)
    ),
]


async def test_small_calculations_are_correct(client: FoundryAPIClient) -> None:
    results = client.batch(
        (question for question, _ in SUMS), model="demo", temperature=0, ordered=True
    )
    answers = [result.unwrap().content async for result in results]
    wrong = [pair for pair in zip(answers, SUMS, strict=True) if pair[0] != pair[1][1]]
    assert wrong == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 2 plus 3?", "2 + 3 is 5."),
        ("2+2", "2 + 2 is 4."),
        ("how much is 7 + 8?", "7 + 8 is 15."),
        ("What is twelve minus five?", "12 - 5 is 7."),
    ],
)
async def test_other_phrasings_are_answered(
    client: FoundryAPIClient, question: str, answer: str
) -> None:
    response = await client.complete(question, model="demo", temperature=0)
    assert response.content == answer
