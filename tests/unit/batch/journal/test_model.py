"""A stateful test: runners record, die and publish, and the journal matches a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from foundry_api.types.errors import BatchStorageFailed
from support.journal_factories import (
    make_answer,
    make_failure,
    make_options,
    open_journal,
    read_lines,
    simulate_crash,
)

if TYPE_CHECKING:
    from foundry_api.batch.journal import Journal
    from foundry_api.batch.types import BatchLineResult

LINES = 8
INDEXES = st.sets(st.integers(0, LINES - 1), min_size=1)
TEXTS = st.text("ab", max_size=3)


class Runners(RuleBasedStateMachine):
    """Several runners of one batch of eight lines."""

    journals = Bundle("journals")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="foundry-api-journal-"))
        self.alive: list[Journal] = []
        self.known: dict[int, BatchLineResult] = {}

    @rule(target=journals, ordered=st.booleans())
    def join(self, *, ordered: bool) -> Journal:
        journal = open_journal(make_options(self.directory, ordered=ordered), shared=True)
        self.alive.append(journal)
        return journal

    @rule(journal=consumes(journals))
    def close(self, journal: Journal) -> None:
        self.alive.remove(journal)
        journal.close()

    @rule(journal=consumes(journals))
    def die(self, journal: Journal) -> None:
        self.alive.remove(journal)
        simulate_crash(journal)

    @rule(journal=journals, indexes=INDEXES, text=TEXTS, failed=st.booleans())
    def record(self, journal: Journal, indexes: set[int], text: str, *, failed: bool) -> None:
        make = make_failure if failed else make_answer
        results = [make(index, text) for index in indexes]
        new = {result.index: result for result in results if result.index not in self.known}
        assert journal.record(results) == len(new)
        self.known |= new

    @rule(journal=journals)
    def forget_failed(self, journal: Journal) -> None:
        failed = [result.index for result in self.known.values() if result.failed]
        assert journal.forget_failed() == len(failed)
        for index in failed:
            del self.known[index]

    @rule(journal=journals)
    def publish(self, journal: Journal) -> None:
        if len(self.known) < LINES:
            with pytest.raises(BatchStorageFailed, match="not complete"):
                journal.publish(LINES)
            return
        journal.publish(LINES)
        results = [self.known[index] for index in range(LINES)]
        answered = [result.output for result in results if not result.failed]
        failed = [result.output for result in results if result.failed]
        written = read_lines(self.directory / "answers.jsonl")
        assert sorted(written) == sorted(answered)
        assert written == answered or not journal._options.ordered
        errors = journal._options.errors_path
        assert (read_lines(errors) if errors.exists() else []) == failed

    @invariant()
    def every_runner_sees_the_same_finished_lines(self) -> None:
        for journal in getattr(self, "alive", []):
            known = {index: result.digest for index, result in self.known.items()}
            assert journal.get_finished(0, LINES) == known

    def teardown(self) -> None:
        for journal in self.alive:
            journal.close()
        with open_journal(make_options(self.directory)) as journal:
            missing = [index for index in range(LINES) if index not in self.known]
            self.record(journal, set(missing), "", failed=False) if missing else None
            self.publish(journal)
            left = sorted(path.name for path in journal.directory.iterdir())
        assert not [name for name in left if name.startswith("part-")]
        shutil.rmtree(self.directory)


Runners.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
test_each_line_is_there_once_with_the_right_bytes = Runners.TestCase
