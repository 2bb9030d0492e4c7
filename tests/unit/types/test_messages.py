"""Messages and results are immutable and can be pickled."""

from __future__ import annotations

import inspect
import pickle

import msgspec
import pytest

from foundry_api.types import messages
from foundry_api.types.errors import ServerError
from foundry_api.types.messages import AttemptRecord, Chunk, Completion, Message, Timings, Usage
from foundry_api.types.models import Model

STRUCTS = [
    value
    for value in vars(messages).values()
    if inspect.isclass(value) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
]
USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
TIMINGS = Timings(time_to_first_token_s=0.1, total_s=0.3, tokens_per_second=5.0)
COMPLETION = Completion(
    content="Hi",
    parsed=None,
    model="tiny:1",
    service="http://127.0.0.1:1",
    service_generation="sdk-2.1",
    finish_reason="stop",
    usage=USAGE,
    timings=TIMINGS,
    attempts=(AttemptRecord(0.2),),
    raw=(b"{}",),
)


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_type_is_frozen_and_documented(struct: type[msgspec.Struct]) -> None:
    assert struct.__struct_config__.frozen
    documentation = inspect.getdoc(struct) or ""
    assert all(f"    {name}: " in documentation for name in struct.__struct_fields__)


def test_values_are_immutable() -> None:
    with pytest.raises(AttributeError):
        COMPLETION.content = "Bye"  # type: ignore[misc]


@pytest.mark.parametrize(
    "value",
    [
        COMPLETION,
        Message("user", "Hi"),
        Chunk("Hi", "tiny:1"),
        Model(id="tiny:1", alias="tiny", catalog="local"),
    ],
)
def test_values_compare_hash_and_pickle(value: msgspec.Struct) -> None:
    twin = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own
    assert twin == value
    assert hash(twin) == hash(value)


def test_a_failed_attempt_is_pickled_with_its_error() -> None:
    twin = pickle.loads(pickle.dumps(AttemptRecord(0.1, ServerError("it broke", status=500))))  # noqa: S301
    assert str(twin.error) == "it broke (HTTP 500). " + ServerError.default_hint


def test_a_models_json_omits_unknown_members() -> None:
    model = Model(id="tiny:1", alias="tiny", catalog="local", cached=True)
    assert msgspec.json.encode(model) == (
        b'{"id":"tiny:1","alias":"tiny","catalog":"local","cached":true}'
    )
    assert msgspec.json.decode(msgspec.json.encode(model), type=Model) == model


def test_a_chunk_before_the_last_has_only_text() -> None:
    chunk = Chunk("Hi", "tiny:1")
    assert (chunk.finish_reason, chunk.usage, chunk.timings) == (None, None, None)
    assert (chunk.attempts, chunk.raw) == ((), b"")
