"""Structured output for 500 random schemas on the real engine, compared with `openai`'s parse.

A call ends with a returned answer or with an error: the answer was cut at max_tokens, was not valid
after the repairs, or the engine refused the schema. The same validator checks the returned answers
of both clients.

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
from parts.results import save_figures
from parts.schemas import random_schemas

from foundry_api import FoundryAPIClient, GrammarError, StructuredOutputError
from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.validation import SchemaValidator

SCHEMAS = 500
PROMPT = "Give an example."
MAX_TOKENS = 512

Schema = dict[str, Any]
Outcome = dict[str, Any]


async def complete(client: FoundryAPIClient, schema: Schema) -> Outcome:
    """Return how the call ended, the text of the answer, and the number of repairs."""
    try:
        answer = await client.complete(
            PROMPT, response_model=schema, max_tokens=MAX_TOKENS, temperature=0
        )
    except StructuredOutputError as error:
        outcome = "cut" if error.finish_reason == "length" else "given up"
        return {"end": outcome, "text": error.partial, "repairs": error.repairs}
    except GrammarError as error:
        return {"end": "refused", "text": error.message, "repairs": 0}
    return {"end": "returned", "text": answer.content, "repairs": answer.repairs}


def count_outcomes(schemas: list[Schema], outcomes: list[Outcome]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for schema, outcome in zip(schemas, outcomes, strict=True):
        repairs = outcome.get("repairs", 0)
        counts[outcome["end"]] += 1
        counts["repairs"] += repairs
        if outcome["end"] == "returned":
            counts["returned after repairs"] += bool(repairs)
            counts["parse"] += is_json(outcome["text"])
            counts["valid"] += is_json(outcome["text"]) and is_valid(
                schema, json.loads(outcome["text"])
            )
    return counts


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def is_valid(schema: dict[str, Any], value: object) -> bool:
    try:
        SchemaValidator(schema).validate(value)
    except ValidationFailed:
        return False
    return True


async def main(count: int) -> None:
    schemas = random_schemas(count)
    print(f"{len(schemas)} schemas", flush=True)
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as directory:
        async with FoundryAPIClient(service="embedded", home=Path(directory), model="demo") as own:
            service = (await own.complete("Hello", max_tokens=2)).service
            ours = count_outcomes(schemas, [await complete(own, schema) for schema in schemas])
            path = Path(directory) / "schemas.json"
            request = {"prompt": PROMPT, "max_tokens": MAX_TOKENS, "schemas": schemas}
            path.write_text(json.dumps(request), encoding="utf-8")
            outcomes = await asyncio.to_thread(peers.run_job, "parse", "openai", service, str(path))
            theirs = count_outcomes(schemas, outcomes)
    figures = {"schemas": float(len(schemas))}
    for name, counts in (("foundry-api", ours), ("openai", theirs)):
        for outcome in ("returned", "parse", "valid", "cut", "given up", "refused"):
            figures[f"{outcome}, {name}"] = counts[outcome]
        figures[f"valid / returned, {name}"] = counts["valid"] / counts["returned"]
    figures["returned after repairs, foundry-api"] = ours["returned after repairs"]
    figures["repairs, foundry-api"] = ours["repairs"]
    save_figures("structured", figures)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else SCHEMAS))
