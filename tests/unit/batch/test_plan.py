"""A plan is an estimate from lines that were answered, never from failures alone."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.batch.engine import EngineState
from foundry_api.batch.plan import make_plan
from foundry_api.batch.response_line import make_error_result
from foundry_api.batch.sources import open_seekable
from foundry_api.batch.types import BatchLineResult, InputOptions, WorkItem
from foundry_api.types.errors import BatchError, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from pathlib import Path


class FailingEngine:
    """Fails the lines whose index is at least `first_failed`; answers the others."""

    def __init__(self, first_failed: int) -> None:
        self._first_failed = first_failed

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        async for item in items:
            index = item.line.index
            if index >= self._first_failed:
                error = ModelNotFound("there is no model nope", hint="Pull it.")
                yield make_error_result(index, 0, "a", error, at=1.0, duration_s=0.5)
            else:
                yield BatchLineResult(
                    index=index, digest=0, output=b"{}", failed=False, at=1.0, duration_s=0.5
                )

    def drain(self) -> None: ...

    def get_state(self) -> EngineState:
        return EngineState()


def ignore(_: Any) -> None: ...


async def test_a_sample_of_failures_gives_their_error_instead_of_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    random = Random(1)  # noqa: S311 - the same sample each time
    with open_seekable(InputOptions(path=str(path), model="nope")) as source:
        with pytest.raises(BatchError, match="one with ModelNotFound: there is no model") as raised:
            await make_plan(source, FailingEngine(0), sample=4, random=random, on_progress=ignore)
        assert raised.value.hint == "Pull it."
        plan = await make_plan(
            source, FailingEngine(3), sample=4, random=random, on_progress=ignore
        )
    assert plan.total == 4
    assert plan.failed < plan.sampled
