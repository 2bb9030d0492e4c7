"""Names that the code in the documentation uses, but neither makes nor imports.

tests/unit/test_docs_code.py gives them to every block.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic

from foundry_api import (
    BreakerChanged,
    CallLog,
    Completion,
    FoundryAPIClient,
    FoundryClient,
    Model,
    Request,
    RetryScheduled,
    deadline,
)
from foundry_api.observe.otel import OpenTelemetry
from foundry_api.testing import Disconnect, ErrorReply, FakeService, skip_sleeps


@dataclass
class Person:
    name: str


@dataclass
class Review:
    stars: int


client: FoundryAPIClient
completion: Completion
fresh_key: Callable[[], str]
letter: str
letters: list[str]
members: dict[str, Any]
prompts: list[str]
save: Callable[[Person], None]
url: str

# Blocks of openai-sdk.md continue those before them.
base_url: str
foundry: FoundryClient
model: Model
openai: Any
