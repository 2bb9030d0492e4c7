"""What the gateway counts, in the format of OpenMetrics."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from foundry_api.gateway.failures import Failure, RecentFailures
from foundry_api.gateway.history import History
from foundry_api.observe.histogram import RATES, SECONDS, Histogram
from foundry_api.observe.prometheus import format_family, format_histogram, format_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.admission import Ticket
    from foundry_api.gateway.limits.lanes import Lanes
    from foundry_api.gateway.limits.scheduler import Scheduler
    from foundry_api.gateway.upstreams.upstreams import Upstreams

__all__ = ["CONTENT_TYPE", "EndedExchange", "GatewayMetrics"]

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OTHER = "other"
NONE = "none"
# Models with metrics of their own.
MAX_MODELS = 200
# Requests to these routes are in the history. The page itself and checks of health are not.
MODEL_ROUTES = ("/v1/", "/openai/")
BREAKER_STATES = ("closed", "open", "half-open")
_HISTOGRAMS = {
    "foundry_gateway_queue_seconds": "Time that calls waited for a slot.",
    "foundry_gateway_first_token_seconds": "Time from a request to the first event of its stream.",
    "foundry_gateway_tokens_per_second": "Tokens per second of streams, after their first.",
}


class EndedExchange(Protocol):
    """What is counted of a request; see `Exchange`."""

    id: str
    route: str
    key: ApiKey | None
    outcome: str
    model: str | None
    ticket: Ticket | None
    started_at: float
    first_event_at: float | None


class GatewayMetrics:
    """Counts requests. Labels are only keys, models and routes that exist, so they are bounded.

    Args:
        is_model: Returns whether a name is known to be one of a model.

    Attributes:
        history: The recent past.
        failures: The last requests to routes of models that failed.
        generated_tokens: Tokens that ended calls have generated.
        used_tokens: Tokens of the ended calls of each key, by its id.
    """

    def __init__(self, is_model: Callable[[str], bool]) -> None:
        self._is_model = is_model
        self.history = History()
        self.failures = RecentFailures()
        self.generated_tokens = 0
        self.used_tokens = defaultdict[str, int](int)
        # Not `Counter`, whose items take five times as long to change.
        self._requests = defaultdict[tuple[str, str, str], int](int)
        self._tokens = defaultdict[tuple[str, str, str], int](int)
        self._durations: dict[str, Histogram] = {}
        # By the name of the metric and the model.
        self._histograms: dict[tuple[str, str], Histogram] = {}
        self._models: set[str] = set()

    def record(self, exchange: EndedExchange, now: float) -> None:
        """Count a request that has ended now."""
        route = exchange.route or NONE
        key = NONE if exchange.key is None else exchange.key.name
        self._requests[route, key, exchange.outcome] += 1
        duration = self._durations.get(route)
        if duration is None:
            duration = self._durations[route] = Histogram(SECONDS)
        duration.add(now - exchange.started_at)
        if route.startswith(MODEL_ROUTES):
            has_failed = exchange.outcome not in {"ok", "client_closed"}
            self.history.count_request(has_failed=has_failed)
            if has_failed:
                self.failures.add(
                    Failure(
                        at=now,
                        id=exchange.id,
                        key=key,
                        model=self._get_label(exchange),
                        route=route,
                        code=exchange.outcome,
                    )
                )
        if exchange.ticket is not None:
            self.record_call(exchange, exchange.ticket, now)

    def record_call(self, exchange: EndedExchange, ticket: Ticket, now: float) -> None:
        """Count a call that has ended now; one in the background ends after its request."""
        if not ticket.has_started:
            return
        key = NONE if exchange.key is None else exchange.key.name
        model = self._get_label(exchange)
        prompt_tokens = ticket.prompt_tokens + ticket.lost_prompt_tokens
        output_tokens = ticket.output_tokens + ticket.lost_output_tokens
        self._tokens[key, model, "prompt"] += prompt_tokens
        self._tokens[key, model, "completion"] += output_tokens
        self.generated_tokens += output_tokens
        if exchange.key is not None:
            self.used_tokens[exchange.key.id] += prompt_tokens + output_tokens
        self._add("foundry_gateway_queue_seconds", model, ticket.queued_s)
        first_at = exchange.first_event_at
        if first_at is not None:
            first_s = first_at - exchange.started_at
            self._add("foundry_gateway_first_token_seconds", model, first_s)
            self.history.add_first_token(first_s)
            if ticket.output_tokens > 1 and now > first_at:
                rate = (ticket.output_tokens - 1) / (now - first_at)
                self._add("foundry_gateway_tokens_per_second", model, rate)

    def format(
        self,
        scheduler: Scheduler | Lanes,
        *,
        draining: bool,
        breaker_state: str,
        upstreams: Upstreams | None = None,
    ) -> bytes:
        """Return all metrics as text."""
        lines = format_family(
            "foundry_gateway_requests",
            "counter",
            "Requests that ended, by outcome: ok, client_closed, or the code of the error.",
            [
                format_sample(
                    "foundry_gateway_requests_total",
                    {"route": route, "key": key, "outcome": outcome},
                    count,
                )
                for (route, key, outcome), count in self._requests.items()
            ],
        )
        lines += format_family(
            "foundry_gateway_tokens",
            "counter",
            "Tokens of calls that started.",
            [
                format_sample(
                    "foundry_gateway_tokens_total",
                    {"key": key, "model": model, "direction": direction},
                    count,
                )
                for (key, model, direction), count in self._tokens.items()
            ],
        )
        lines += format_family(
            "foundry_gateway_request_seconds",
            "histogram",
            "Time from the head of a request to its end.",
            [
                line
                for route, histogram in self._durations.items()
                for line in format_histogram(
                    "foundry_gateway_request_seconds", {"route": route}, histogram.snapshot()
                )
            ],
        )
        for name, help_text in _HISTOGRAMS.items():
            samples = [
                line
                for (metric, model), histogram in self._histograms.items()
                if metric == name
                for line in format_histogram(name, {"model": model}, histogram.snapshot())
            ]
            lines += format_family(name, "histogram", help_text, samples)
        gauges = {
            "foundry_gateway_in_flight": ("Calls that have a slot.", scheduler.active),
            "foundry_gateway_waiting": ("Calls that wait for a slot.", scheduler.waiting),
            "foundry_gateway_draining": ("1 while the gateway shuts down.", draining),
        }
        for name, (help_text, value) in gauges.items():
            lines += format_family(name, "gauge", help_text, [format_sample(name, {}, value)])
        name = "foundry_gateway_upstream_state"
        states = {} if upstreams is None else upstreams.get_breaker_states()
        lines += format_family(
            name,
            "gauge",
            "1 for the current state of the circuit breaker of the model service.",
            [
                format_sample(name, {"upstream": upstream, "state": one}, one == state)
                for upstream, state in states.items()
                for one in BREAKER_STATES
            ]
            or [
                format_sample(name, {"state": one}, one == breaker_state) for one in BREAKER_STATES
            ],
        )
        if states and upstreams is not None:
            lines += _format_upstreams(upstreams)
        return "\n".join([*lines, "# EOF", ""]).encode()

    def _add(self, name: str, model: str, value: float) -> None:
        histogram = self._histograms.get((name, model))
        if histogram is None:
            bounds = RATES if name.endswith("per_second") else SECONDS
            histogram = self._histograms[name, model] = Histogram(bounds)
        histogram.add(value)

    def _get_label(self, exchange: EndedExchange) -> str:
        model = exchange.model or NONE
        if model in self._models:
            return model
        # A name that only failed may be anything.
        is_model = exchange.outcome == "ok" or self._is_model(model)
        if not is_model or len(self._models) >= MAX_MODELS:
            return OTHER
        self._models.add(model)
        return model


def _format_upstreams(upstreams: Upstreams) -> list[str]:
    lines: list[str] = []
    for name, help_text, values in upstreams.get_gauges():
        samples = [format_sample(name, {"upstream": one}, value) for one, value in values.items()]
        lines += format_family(name, "gauge", help_text, samples)
    name = "foundry_gateway_upstream_attempts"
    return lines + format_family(
        name,
        "counter",
        "Requests to the upstream that ended, by outcome: answered, failed or cancelled.",
        [
            format_sample(f"{name}_total", {"upstream": one, "outcome": outcome}, count)
            for (one, outcome), count in upstreams.counts.items()
        ],
    )
