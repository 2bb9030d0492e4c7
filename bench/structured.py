"""Answers to 500 random schemas on the real engine: ours beside `openai`'s parse.

A call ends in an answer that is returned, or in an error: the answer was cut at max_tokens, it was
given up after the repairs, or the engine refused the schema. Of those that are returned it is
counted how many are JSON and valid, by the same validator for both.

python3 dev.py bench structured
python3 dev.py bench structured 50
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from parts import peers
from parts.results import keep
from parts.schemas import random_schemas

from foundry_api import FoundryAPIClient, GrammarError, StructuredOutputError
from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.validation import SchemaValidator

SCHEMAS = 500
PROMPT = "Give an example."
MAX_TOKENS = 512

Schema = dict[str, Any]
Told = dict[str, Any]


async def ours(client: FoundryAPIClient, schemas: list[Schema]) -> list[Told]:
    """What became of each schema: how the answer ended, its text, and the repairs it took."""
    return [await answer(client, schema) for schema in schemas]


async def answer(client: FoundryAPIClient, schema: Schema) -> Told:
    """One of them."""
    try:
        told = await client.complete(
            PROMPT, response_model=schema, max_tokens=MAX_TOKENS, temperature=0
        )
    except StructuredOutputError as error:
        end = "cut" if error.finish_reason == "length" else "given up"
        return {"end": end, "text": error.partial, "repairs": error.repairs}
    except GrammarError as error:
        return {"end": "refused", "text": error.message, "repairs": 0}
    return {"end": "returned", "text": told.content, "repairs": told.repairs}


def counted(schemas: list[Schema], answers: list[Told]) -> Counter[str]:
    """How the calls ended, and how many of the answers that were returned are as asked for."""
    counts: Counter[str] = Counter()
    for schema, told in zip(schemas, answers, strict=True):
        repairs = told.get("repairs", 0)
        counts[told["end"]] += 1
        counts["repairs"] += repairs
        if told["end"] == "returned":
            counts["returned after repairs"] += bool(repairs)
            counts["parse"] += parses(told["text"])
            counts["valid"] += parses(told["text"]) and is_valid(schema, json.loads(told["text"]))
    return counts


def parses(text: str) -> bool:
    """Whether it is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def is_valid(schema: dict[str, Any], value: object) -> bool:
    """Whether it is what was asked for."""
    try:
        SchemaValidator(schema).validate(value)
    except ValidationFailed:
        return False
    return True


async def main(count: int) -> None:
    """Both on the same engine, one after the other."""
    schemas = random_schemas(count)
    print(f"{len(schemas)} schemas", flush=True)
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as directory:
        async with FoundryAPIClient(service="embedded", home=Path(directory), model="demo") as own:
            service = (await own.complete("Hello", max_tokens=2)).service
            mine = counted(schemas, await ours(own, schemas))
            path = Path(directory) / "schemas.json"
            asked = {"prompt": PROMPT, "max_tokens": MAX_TOKENS, "schemas": schemas}
            path.write_text(json.dumps(asked), encoding="utf-8")
            told = await asyncio.to_thread(peers.work, "parse", "openai", service, str(path))
            theirs = counted(schemas, told)
    figures = {"schemas": float(len(schemas))}
    for name, counts in (("foundry-api", mine), ("openai", theirs)):
        for what in ("returned", "parse", "valid", "cut", "given up", "refused"):
            figures[f"{what}, {name}"] = counts[what]
        figures[f"valid / returned, {name}"] = counts["valid"] / counts["returned"]
    figures["returned after repairs, foundry-api"] = mine["returned after repairs"]
    figures["repairs, foundry-api"] = mine["repairs"]
    keep("structured", figures)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else SCHEMAS))
