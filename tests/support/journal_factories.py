"""Options and batch results for tests of the journal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from foundry_api.batch.journal import Journal
from foundry_api.batch.types import BatchLineResult, BatchOptions, InputOptions

if TYPE_CHECKING:
    from pathlib import Path

FINGERPRINT, REQUEST_DIGEST = "content", "requests"


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_options(directory: Path, output: str = "answers.jsonl", **others: Any) -> BatchOptions:
    return BatchOptions(
        input=InputOptions(path="prompts.txt"), output=str(directory / output), **others
    )


def open_journal(options: BatchOptions, **others: Any) -> Journal:
    return Journal.open(
        options, **{"fingerprint": FINGERPRINT, "request_digest": REQUEST_DIGEST, **others}
    )


def make_answer(index: int, text: str = "", **others: Any) -> BatchLineResult:
    """Make an answered line whose text has its index."""
    message = {"content": text or f"the answer to {index}"}
    body = {"choices": [{"message": message}]}
    output = json.dumps({"custom_id": f"n-{index}", "response": {"body": body}, "error": None})
    defaults = {"at": 1000.0, "model": "demo", "completion_tokens": 3, "prompt_tokens": 5}
    return BatchLineResult(
        index=index,
        digest=index + 7,
        output=output.encode(),
        failed=False,
        **{**defaults, "attempts": 1, "duration_s": 0.5, **others},
    )


def make_failure(index: int, text: str = "", code: str = "ServiceOverloaded") -> BatchLineResult:
    """Make a failed line."""
    error = {"code": code, "message": text or "too much to do", "hint": "Wait."}
    output = json.dumps({"custom_id": f"n-{index}", "response": None, "error": error})
    return BatchLineResult(
        index=index, digest=index + 7, output=output.encode(), failed=True, at=1000.0, code=code
    )


def read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def list_segments(options: BatchOptions) -> list[str]:
    return sorted(path.name for path in options.directory.glob("part-*"))


def simulate_crash(journal: Journal) -> None:
    """Release the files of the journal as if its process was killed."""
    if journal._segments._current is not None:
        journal._segments._current[1]._file.close()
    journal._database.close()
    journal._runner._lock.__exit__()
