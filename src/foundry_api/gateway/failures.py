"""The last requests that failed, by which an operator finds out why a client is refused."""

from __future__ import annotations

import re
from collections import deque

import msgspec

__all__ = ["Failure", "RecentFailures", "explain_code"]

MAX_FAILURES = 100
# Everybody who reaches the gateway can cause these, and would push the others out. They are in the
# audit log, where they are bounded apart.
OF_AUTHENTICATION = frozenset({"invalid_api_key", "too_many_failures", "insufficient_scope"})
MEANINGS = {
    "batch_cancelled": "The batch was cancelled.",
    "call_stopped": "An operator stopped it.",
    "call_timeout": "It took longer than call_timeout_s.",
    "context_length_exceeded": "Prompt and answer do not fit into the model.",
    "deadline_exceeded": "Its client does not wait that long.",
    "first_token_timeout": "No token within first_token_timeout_s.",
    "gap_timeout": "No further token within gap_timeout_s.",
    "insufficient_quota": "The call may use more tokens than the quota of its key has left.",
    "internal_error": "A defect; the gateway's log has the details.",
    "invalid_model_output": "The answer did not have the form that was asked for.",
    "invalid_tool_call": "The model called a tool wrongly.",
    "model_load_failed": "The model could not be loaded.",
    "model_not_allowed": "The key may not use this model.",
    "model_not_found": "There is no such model on this machine.",
    "payload_too_large": "The body is larger than the limit of the gateway.",
    "queue_full": "Too many calls wait already.",
    "queue_timeout": "It waited longer than queue_timeout_s.",
    "rate_limit_exceeded": "The key has reached a limit: of requests, tokens or parallel calls.",
    "shutting_down": "The gateway was shutting down.",
    "upstream_overloaded": "The model service took no further call.",
    "upstream_timeout": "The model service did not answer in time.",
    "upstream_unavailable": "The model service could not be reached.",
}
OF_THE_REQUEST = re.compile("(?:invalid|missing|unsupported)_")


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request that failed. What its message says is left out: it may quote the request.

    Attributes:
        at: When it ended, on a monotonic clock.
        id: The id of the request.
        key: The name of the key; `none` without keys.
        model: The model, if it is known: it has answered, was listed, or is the default one; else
            `none` or `other`.
        route: The path of its route.
        code: The code of its error.
    """

    at: float
    id: str
    key: str
    model: str
    route: str
    code: str


class RecentFailures:
    """The last failures.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES)

    def add(self, failure: Failure) -> None:
        """Remember a failure, unless it is one of authentication."""
        if failure.code not in OF_AUTHENTICATION:
            self.count += 1
            self._failures.append(failure)

    def list(self) -> list[Failure]:
        """Return the failures, the last one first."""
        return list(reversed(self._failures))


def explain_code(code: str) -> str:
    """Return in a sentence what the code of an error means; empty if that is not known."""
    if OF_THE_REQUEST.match(code) and code not in MEANINGS:
        return "The request was wrong; its answer says what."
    return MEANINGS.get(code, "")
