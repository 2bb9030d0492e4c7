"""The answers of the routes that the page of the gateway uses, as the description shows them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from foundry_api.gateway.history import Point
from foundry_api.gateway.keys.types import KeyState, Scope
from foundry_api.gateway.openapi.gateway_types import EngineState, KeyQueue
from foundry_api.gateway.upstreams.upstreams import UpstreamStatus

__all__ = [
    "AuditEvents",
    "CallList",
    "CreatedKey",
    "FailureList",
    "HistoryWindow",
    "KeyAnswer",
    "KeyList",
    "LiveEvent",
    "RemovedKey",
    "SessionState",
    "StoppedCall",
]


class SessionKey(msgspec.Struct):
    """The key of a session."""

    id: str
    name: str


class SessionState(msgspec.Struct):
    """Whether a browser has signed in.

    Attributes:
        requires_key: Whether the gateway has keys, so that signing in is needed.
        key: The key that it signed in with; null without a session.
        scopes: What it may do.
    """

    version: str
    requires_key: bool
    key: SessionKey | None
    scopes: list[Scope]


class KeyBudget(msgspec.Struct):
    """What is left of a limit.

    Attributes:
        unit: What it counts and its period, such as `tokens/d`.
        reset_s: Seconds until nothing of it is used.
    """

    unit: str
    limit: int
    remaining: int
    reset_s: float


class Key(msgspec.Struct):
    """A key, without its token. Times are seconds since the epoch.

    Attributes:
        models: The models that it may use; null for all.
        rate: Requests in a period, such as `60/m`; null for any number.
        tokens: Tokens in each of several periods.
        parallel: Calls that may run at the same time; null for any number.
        weight: Its share of a busy service.
        grace_until: When the last of its earlier tokens ends; null without a rotation.
        running: Its calls that wait or run.
        used_tokens: Tokens of its calls since the gateway started.
        budgets: What is left of its limits.
    """

    id: str
    name: str
    state: KeyState
    scopes: list[Scope]
    models: list[str] | None
    rate: str | None
    tokens: list[str]
    parallel: int | None
    weight: float
    created_at: float
    expires_at: float | None
    grace_until: float | None
    revoked_at: float | None
    running: int
    used_tokens: int
    budgets: list[KeyBudget]


class KeyList(msgspec.Struct):
    """The answer of `GET /api/keys`."""

    keys: list[Key]


class KeyAnswer(msgspec.Struct):
    """A key after a change."""

    key: Key


class CreatedKey(msgspec.Struct):
    """A key and its new token, which cannot be read later."""

    key: Key
    token: str


class RemovedKey(msgspec.Struct):
    """The answer of `DELETE /api/keys/{id}`."""

    id: str
    removed: Literal[True]


class Call(msgspec.Struct):
    """A call that runs or waits.

    Attributes:
        id: The id of its request.
        key: The name of the key.
        route: The path of its route.
        state: Whether it has a slot of the service.
        age_s: Seconds since it arrived.
        output_tokens: Tokens of the answer so far, if it is streamed.
    """

    id: str
    key: str
    model: str | None
    route: str
    state: Literal["running", "waiting"]
    age_s: float
    output_tokens: int


class CallList(msgspec.Struct):
    """The answer of `GET /api/calls`.

    Attributes:
        call_count: How many there are.
        calls: The oldest 200.
    """

    call_count: int
    calls: list[Call]


class StoppedCall(msgspec.Struct):
    """The answer of `POST /api/calls/{id}/stop`."""

    id: str
    status: Literal["stopped"]


class FailedRequest(msgspec.Struct):
    """A request that failed.

    Attributes:
        time: When it ended, in seconds since the epoch.
        model: The model, if it has answered before; else `none` or `other`.
        code: The code of its error.
        meaning: What the code means; empty if that is not known.
    """

    time: float
    id: str
    key: str
    model: str
    route: str
    code: str
    meaning: str


class FailureList(msgspec.Struct):
    """The answer of `GET /api/failures`.

    Attributes:
        failures: The last 100, the last one first.
    """

    failures: list[FailedRequest]


class AuditEvent(msgspec.Struct):
    """A line of the audit log.

    Attributes:
        result: `ok`, or the code of the error.
        user: User of the operating system who ran a command; null for a request.
        count: How many events the line stands for.
    """

    time: str
    event: str
    result: str
    key: str | None
    key_id: str | None
    user: str | None
    address: str | None
    request_id: str | None
    target: str | None
    count: int


class AuditEvents(msgspec.Struct):
    """The answer of `GET /api/log`.

    Attributes:
        is_recorded: Whether the gateway has an audit log.
        events: The last 500, the newest first.
    """

    is_recorded: bool
    events: list[AuditEvent]


class HistoryWindow(msgspec.Struct):
    """The answer of `GET /api/history`.

    Attributes:
        step_s: Seconds of a point.
        points: The oldest first; each is a list of the members of `Point`, in their order.
    """

    window: Literal["15m", "6h", "7d"]
    step_s: int
    points: list[Point]


class LiveEvent(msgspec.Struct):
    """The state of the gateway at one moment. Keys without `manage` see their own calls only.

    Attributes:
        tick: The number of the second; a page that misses one reads the history again.
        keys: The keys with calls.
        slots: Calls that the service takes at the same time.
        breaker: The state of the circuit breaker.
        downloads: The downloads that run, with their progress in bytes.
        upstreams: The services behind the gateway, if its configuration names them.
        points: The points of the history that were completed, by window.
        revisions: Numbers that change when a list has changed.
    """

    tick: int
    time: float
    version: str
    ready: bool
    keys: list[KeyQueue]
    call_count: int
    calls: list[Call]
    problems: list[str] | msgspec.UnsetType = msgspec.UNSET
    in_flight: int | msgspec.UnsetType = msgspec.UNSET
    waiting: int | msgspec.UnsetType = msgspec.UNSET
    slots: int | msgspec.UnsetType = msgspec.UNSET
    breaker: Literal["closed", "open", "half-open"] | msgspec.UnsetType = msgspec.UNSET
    engine: EngineState | msgspec.UnsetType | None = msgspec.UNSET
    downloads: dict[str, dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    upstreams: list[UpstreamStatus] | msgspec.UnsetType = msgspec.UNSET
    points: dict[str, Point] | msgspec.UnsetType = msgspec.UNSET
    revisions: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
