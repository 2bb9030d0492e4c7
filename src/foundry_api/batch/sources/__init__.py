"""Inputs of a batch: OpenAI batch files, lines of text, CSV and Parquet."""

from __future__ import annotations

from foundry_api.batch.sources.base import Source
from foundry_api.batch.sources.open import open_seekable, open_source
from foundry_api.batch.sources.stdin import CopyMode, is_stream, remove_drafts
from foundry_api.batch.sources.validate import CheckProgress, CheckReport, Problem, check

__all__ = [
    "CheckProgress",
    "CheckReport",
    "CopyMode",
    "Problem",
    "Source",
    "check",
    "is_stream",
    "open_seekable",
    "open_source",
    "remove_drafts",
]
