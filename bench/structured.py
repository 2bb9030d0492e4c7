"""Answers to 500 random schemas on the real engine: ours beside `openai`'s parse.

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
from foundry_api.structured.refusal import Refused
from foundry_api.structured.validation import SchemaValidator

SCHEMAS = 500
PROMPT = "Give an example."
MAX_TOKENS = 512
REPAIRS = 2


async def ours(client: FoundryAPIClient, schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of each schema: how the answer ended, its text, and the repairs it took."""
    return [await answer(client, schema) for schema in schemas]


async def answer(client: FoundryAPIClient, schema: dict[str, Any]) -> dict[str, Any]:
    """One of them."""
    try:
        told = await client.complete(
            PROMPT, response_model=schema, repairs=REPAIRS, max_tokens=MAX_TOKENS, temperature=0
        )
    except StructuredOutputError as error:
        return {"end": error.finish_reason, "text": error.partial, "repairs": error.repairs}
    except GrammarError as error:
        return {"end": "refused", "text": error.message, "repairs": 0}
    return {"end": told.finish_reason, "text": told.content, "repairs": told.repairs}


def counted(schemas: list[dict[str, Any]], answers: list[dict[str, Any]]) -> Counter[str]:
    """How many finished, parse, and are valid."""
    counts: Counter[str] = Counter()
    for schema, told in zip(schemas, answers, strict=True):
        counts["refused"] += told["end"] == "refused"
        counts["cut"] += told["end"] == "length"
        counts["repairs"] += told.get("repairs", 0)
        counts["repaired"] += bool(told.get("repairs", 0)) and told["end"] == "stop"
        if told["end"] == "stop":
            counts["finished"] += 1
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
        SchemaValidator(schema).check(value)
    except Refused:
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
        for what in ("refused", "cut", "finished", "parse", "valid"):
            figures[f"{what}, {name}"] = counts[what]
        figures[f"share of finished that is valid, {name}"] = counts["valid"] / counts["finished"]
    figures["answers asked for again, foundry-api"] = mine["repaired"]
    figures["repairs, foundry-api"] = mine["repairs"]
    keep("structured", figures)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else SCHEMAS))
