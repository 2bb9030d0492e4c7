"""`FoundryClient` has every call of `FoundryAPIClient`, with the same parameters.

The classes are compared by introspection, independent of the generator.
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

SYNC_CLASSES: dict[type[Any], type[Any]] = {
    FoundryAPIClient: FoundryClient,
    Models: SyncModels,
    ResponseCache: SyncCache,
    Responses: SyncResponses,
    Conversation: SyncConversation,
}
INTERNAL_METHODS = {
    ResponseCache: {"active", "bind", "close", "unbind", "get", "put", "lock"},
    Responses: {"stream_operation", "run_operation"},
}
"""Public methods that the client calls and users do not."""

SYNC_NAMES = {
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    **{
        async_class.__name__: sync_class.__name__
        for async_class, sync_class in SYNC_CLASSES.items()
    },
}
READ_ONLY = {"breaker", "limiter", "services"}
"""Attributes for inspection, which have no calls for users."""

ROOT = Path(foundry_api.__file__).parents[2]


def public_members(kind: type[Any]) -> dict[str, Any]:
    names = {name for name in dir(kind) if not name.startswith("_")} - INTERNAL_METHODS.get(
        kind, set()
    )
    return {name: inspect.getattr_static(kind, name) for name in names}


def to_sync(annotation: str) -> str:
    for async_name, sync_name in SYNC_NAMES.items():
        annotation = annotation.replace(async_name, sync_name)
    return annotation


def describe(
    function: Callable[..., Any], translate: Callable[[str], str] = str
) -> tuple[Any, ...]:
    """Return the parameters, the return type and the docstring of a function."""
    signature = inspect.signature(function)
    parameters = [
        (parameter.name, parameter.kind, parameter.default, parameter.annotation)
        for parameter in list(signature.parameters.values())[1:]
    ]
    return parameters, translate(str(signature.return_annotation)), without_await(function)


def without_await(documented: object) -> str:
    text = re.sub(r"await (?=\w+\.)", "", str(documented.__doc__))
    return text.replace("async for ", "for ").replace("async with ", "with ")


MEMBERS = [
    pytest.param(async_class, sync_class, name, id=f"{sync_class.__name__}.{name}")
    for async_class, sync_class in SYNC_CLASSES.items()
    for name in sorted(public_members(async_class).keys() | public_members(sync_class).keys())
]


@pytest.mark.parametrize(("async_class", "sync_class", "name"), MEMBERS)
def test_every_member_has_a_sync_version(
    async_class: type[Any], sync_class: type[Any], name: str
) -> None:
    assert name in public_members(sync_class), "run `python3 dev.py generate`"
    # A plain attribute. Python 3.13 strips the indentation of docstrings.
    if re.search(rf"^ +{name}: ", str(async_class.__doc__), re.MULTILINE):
        assert isinstance(public_members(sync_class)[name], property)
        return
    assert name in public_members(async_class), "only FoundryClient has it"
    async_member, sync_member = public_members(async_class)[name], public_members(sync_class)[name]
    assert type(async_member) is type(sync_member)
    if isinstance(async_member, property):
        assert async_member.fset is None
        assert describe(async_member.fget, to_sync) == describe(sync_member.fget)  # type: ignore[arg-type]
        return
    assert describe(async_member, to_sync) == describe(sync_member)
    overloads = zip(
        typing.get_overloads(async_member), typing.get_overloads(sync_member), strict=True
    )
    for async_overload, sync_overload in overloads:
        assert describe(async_overload, to_sync) == describe(sync_overload)


@pytest.mark.parametrize("sync_class", SYNC_CLASSES.values())
def test_no_sync_call_is_asynchronous(sync_class: type[Any]) -> None:
    for name, value in public_members(sync_class).items():
        function = value.fget if isinstance(value, property) else value
        assert not inspect.iscoroutinefunction(function), name
        assert not inspect.isasyncgenfunction(function), name
        assert "Async" not in str(inspect.signature(function).return_annotation), name
        assert function.__doc__, name


def test_both_clients_have_the_same_constructor() -> None:
    assert describe(FoundryAPIClient.__init__) == describe(FoundryClient.__init__)
    async_doc, sync_doc = str(FoundryAPIClient.__doc__), str(FoundryClient.__doc__)
    assert sync_doc.partition("    Args:")[2] == async_doc.partition("    Args:")[2].replace(
        "`await ", "`"
    )


def test_both_clients_have_the_same_attributes(
    own_home: Path,
) -> None:
    async_client, sync_client = FoundryAPIClient(home=own_home), FoundryClient(home=own_home)
    names = {name for name in dir(async_client) if not name.startswith("_")}
    assert names == {name for name in dir(sync_client) if not name.startswith("_")}
    for name in names - READ_ONLY:
        value = getattr(async_client, name)
        if type(value).__module__.startswith("foundry_api") and has_calls(type(value)):
            expected = [
                sync_class
                for async_class, sync_class in SYNC_CLASSES.items()
                if isinstance(value, async_class)
            ]
            assert [type(getattr(sync_client, name))] == expected, f"tools/generate_sync.py: {name}"


def has_calls(kind: type[Any]) -> bool:
    functions = [value for value in public_members(kind).values() if callable(value)]
    return any(
        inspect.iscoroutinefunction(function)
        or "Async" in str(getattr(function, "__annotations__", {}).get("return"))
        for function in functions
    )


def test_every_sync_class_is_public() -> None:
    assert sorted(sync.__all__) == sorted(
        sync_class.__name__ for sync_class in SYNC_CLASSES.values()
    )
    assert set(sync.__all__) <= set(foundry_api.__all__)


def test_the_generated_files_are_up_to_date() -> None:
    script = ROOT / "tools" / "generate_sync.py"
    if not script.is_file():
        pytest.skip("not a checkout")
    pytest.importorskip("ruff", reason="it formats what it generates with ruff")
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0), "python3 dev.py generate"
