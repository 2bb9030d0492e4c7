"""Tool calls that come in pieces, put together.

A piece belongs to the call that its id names, because 2.0 restarts the index at 0 in every chunk
(foundry-local-service.md, 4.4); without an id, to the call that its index named last, as in
OpenAI's streams; without either, to the last one. A piece that names another function begins a call
of its own, whatever its id and index: some servers send neither, or the same for every call.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.messages import FunctionCall, ToolCall
from foundry_api.wire.failures import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["FunctionDelta", "ToolCallDelta", "ToolCallsInPieces", "new_call_id"]


MAX_CHECKS: Final = 32
"""How often the arguments of one call are read from their beginning, to see whether they are whole.
Every piece may look like the beginning of another call."""


class FunctionDelta(msgspec.Struct):
    """What a piece adds to the function of a call: arguments are text, or a JSON object."""

    name: str | None = None
    arguments: Any = None


class ToolCallDelta(msgspec.Struct):
    """A piece of a call."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class _Call(msgspec.Struct):
    id: str
    name: str = ""
    arguments: list[str] = []
    checks: int = 0


def new_call_id() -> str:
    """A name for a call that has none; unique, since engines refuse one that is used twice."""
    return f"call_{secrets.token_hex(8)}"


class ToolCallsInPieces:
    """Collects the pieces of the calls of one answer.

    Args:
        names: The tools that were offered, where they are known: a name may come in pieces too.
        new_id: Names a call.
    """

    def __init__(
        self, names: Collection[str] = (), *, new_id: Callable[[], str] = new_call_id
    ) -> None:
        self._names = frozenset(names)
        self._new_id = new_id
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def __len__(self) -> int:
        """How many calls have begun, and were not taken."""
        return len(self._calls)

    def add(self, delta: ToolCallDelta) -> None:
        """One more piece."""
        function = delta.function or FunctionDelta()
        name = function.name or ""
        arguments = _as_text(function.arguments)
        call = self._call_of(delta)
        if call is not None:
            joined = self._joined(call, name, arguments)
            call = None if joined is None else call
            name = joined or name
        if call is None:
            call = self._begin(delta)
        call.name = name
        if arguments:
            call.arguments.append(arguments)
        if delta.index is not None:
            self._by_index[delta.index] = call

    def take(self) -> tuple[ToolCall, ...]:
        """The calls, in the order in which they began; they are complete at the answer's end."""
        calls, self._calls = self._calls, []
        self._by_id.clear()
        self._by_index.clear()
        return tuple(
            ToolCall(call.id, FunctionCall(call.name, "".join(call.arguments))) for call in calls
        )

    def _call_of(self, delta: ToolCallDelta) -> _Call | None:
        """The call that a piece says it belongs to."""
        if delta.id:
            return self._by_id.get(delta.id)
        if delta.index is not None:
            return self._by_index.get(delta.index)
        return self._calls[-1] if self._calls else None

    def _joined(self, call: _Call, name: str, arguments: str) -> str | None:
        """The name of a call with one more piece; None if the piece belongs to another call."""
        if not name or not call.name:
            return call.name or name
        if name == call.name:
            begins_anew = arguments.lstrip().startswith("{") and _is_complete(call)
            return None if begins_anew else name
        if call.arguments or call.name in self._names:
            return None
        for longer in (call.name + name, name):
            if any(known.startswith(longer) for known in self._names):
                return longer if longer != name or name.startswith(call.name) else None
        return None

    def _begin(self, delta: ToolCallDelta) -> _Call:
        taken = delta.id in self._by_id
        call = _Call(delta.id if delta.id and not taken else self._new_id())
        self._calls.append(call)
        self._by_id[delta.id or call.id] = call
        return call


def _as_text(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _is_complete(call: _Call) -> bool:
    """Whether the arguments are a whole JSON value."""
    call.checks += 1
    if call.checks > MAX_CHECKS:
        return False
    try:
        msgspec.json.decode("".join(call.arguments))
    except NOT_JSON:
        return False
    return True
