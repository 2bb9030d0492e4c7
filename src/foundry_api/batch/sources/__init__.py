"""What a batch reads: OpenAI's batch files, lines of text, CSV and Parquet."""

from __future__ import annotations

from foundry_api.batch.sources.base import Source
from foundry_api.batch.sources.checking import CheckProgress, CheckReport, Problem, check
from foundry_api.batch.sources.opening import open_rereadable, open_source
from foundry_api.batch.sources.standard_input import is_stream, remove_drafts

__all__ = [
    "CheckProgress",
    "CheckReport",
    "Problem",
    "Source",
    "check",
    "is_stream",
    "open_rereadable",
    "open_source",
    "remove_drafts",
]
