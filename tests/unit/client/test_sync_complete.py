"""`FoundryClient` has every call of `FoundryAPIClient`, with the same parameters.

Compared by what Python itself sees of the classes, not by what the generator thinks of them.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import foundry_api
from foundry_api import (
    Conversation,
    FoundryAPIClient,
    FoundryClient,
    Models,
    Responses,
    SyncCache,
    SyncConversation,
    SyncModels,
    SyncResponses,
)
from foundry_api.client import sync
from foundry_api.core.cache.base import ResponseCache

if TYPE_CHECKING:
    from collections.abc import Callable

TWINS: dict[type[Any], type[Any]] = {
    FoundryAPIClient: FoundryClient,
    Models: SyncModels,
    ResponseCache: SyncCache,
    Responses: SyncResponses,
    Conversation: SyncConversation,
}
OF_CALLS = {
    ResponseCache: {"active", "bind", "close", "unbind", "get", "put", "lock"},
    Responses: {"stream_operation", "run_operation"},
}
"""What calls use, and users do not."""

WORDS = {
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    **{theirs.__name__: ours.__name__ for theirs, ours in TWINS.items()},
}
GUARDS = {"breaker", "limiter", "services"}
"""What one looks at, and has no calls for users."""

ROOT = Path(foundry_api.__file__).parents[2]


def public(kind: type[Any]) -> dict[str, Any]:
    names = {name for name in dir(kind) if not name.startswith("_")} - OF_CALLS.get(kind, set())
    return {name: inspect.getattr_static(kind, name) for name in names}


def blocking(annotation: str) -> str:
    for word, twin in WORDS.items():
        annotation = annotation.replace(word, twin)
    return annotation


def seen(function: Callable[..., Any], translate: Callable[[str], str] = str) -> tuple[Any, ...]:
    """Everything that a caller may rely on."""
    signature = inspect.signature(function)
    parameters = [
        (each.name, each.kind, each.default, each.annotation)
        for each in list(signature.parameters.values())[1:]
    ]
    return parameters, translate(str(signature.return_annotation)), without_await(function)


def without_await(documented: object) -> str:
    text = re.sub(r"await (?=\w+\.)", "", str(documented.__doc__))
    return text.replace("async for ", "for ").replace("async with ", "with ")


PAIRS = [
    pytest.param(theirs, ours, name, id=f"{ours.__name__}.{name}")
    for theirs, ours in TWINS.items()
    for name in sorted(public(theirs).keys() | public(ours).keys())
]


@pytest.mark.parametrize(("theirs", "ours", "name"), PAIRS)
def test_every_call_has_its_twin(theirs: type[Any], ours: type[Any], name: str) -> None:
    assert name in public(ours), "run `python3 dev.py generate`"
    if f"        {name}: " in str(theirs.__doc__):  # an attribute, which may change
        assert isinstance(public(ours)[name], property)
        return
    assert name in public(theirs), "only FoundryClient has it"
    origin, twin = public(theirs)[name], public(ours)[name]
    assert type(origin) is type(twin)
    if isinstance(origin, property):
        assert origin.fset is None
        assert seen(origin.fget, blocking) == seen(twin.fget)  # type: ignore[arg-type]
        return
    assert seen(origin, blocking) == seen(twin)
    variants = zip(typing.get_overloads(origin), typing.get_overloads(twin), strict=True)
    for one, other in variants:
        assert seen(one, blocking) == seen(other)


@pytest.mark.parametrize("ours", TWINS.values())
def test_no_call_is_left_asynchronous(ours: type[Any]) -> None:
    for name, value in public(ours).items():
        function = value.fget if isinstance(value, property) else value
        assert not inspect.iscoroutinefunction(function), name
        assert not inspect.isasyncgenfunction(function), name
        assert "Async" not in str(inspect.signature(function).return_annotation), name
        assert function.__doc__, name


def test_both_clients_are_made_by_the_same_arguments() -> None:
    assert seen(FoundryAPIClient.__init__) == seen(FoundryClient.__init__)
    theirs, ours = str(FoundryAPIClient.__doc__), str(FoundryClient.__doc__)
    assert ours.partition("    Args:")[2] == theirs.partition("    Args:")[2].replace(
        "`await ", "`"
    )


def test_both_clients_have_the_same_attributes_and_none_has_calls_that_would_have_to_be_awaited(
    own_home: Path,
) -> None:
    theirs, ours = FoundryAPIClient(home=own_home), FoundryClient(home=own_home)
    names = {name for name in dir(theirs) if not name.startswith("_")}
    assert names == {name for name in dir(ours) if not name.startswith("_")}
    for name in names - GUARDS:
        value = getattr(theirs, name)
        if type(value).__module__.startswith("foundry_api") and has_calls(type(value)):
            twins = [twin for kind, twin in TWINS.items() if isinstance(value, kind)]
            assert [type(getattr(ours, name))] == twins, f"tools/generate_sync.py: {name}"


def has_calls(kind: type[Any]) -> bool:
    functions = [value for value in public(kind).values() if callable(value)]
    return any(
        inspect.iscoroutinefunction(function)
        or "Async" in str(getattr(function, "__annotations__", {}).get("return"))
        for function in functions
    )


def test_every_twin_is_public() -> None:
    assert sorted(sync.__all__) == sorted(twin.__name__ for twin in TWINS.values())
    assert set(sync.__all__) <= set(foundry_api.__all__)


def test_the_files_are_what_the_generator_writes() -> None:
    script = ROOT / "tools" / "generate_sync.py"
    if not script.is_file():
        pytest.skip("not a checkout")
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0), "python3 dev.py generate"
