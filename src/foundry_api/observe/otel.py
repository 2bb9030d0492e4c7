"""Export a span and four histograms per call to OpenTelemetry, named after its GenAI conventions.

    from foundry_api.observe.otel import OpenTelemetry

    client.events.subscribe(OpenTelemetry())

Needs `pip install foundry-api[otel]`. Configure the export in OpenTelemetry's SDK. Prompts and
answers are exported only with `content=True`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from foundry_api._version import __version__
from foundry_api.types.events import CallEnded, CallStarted, FirstToken, RetryScheduled

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from foundry_api.types.events import Event, OperationName

    Attributes = dict[str, AttributeValue]

__all__ = ["OpenTelemetry"]

# The conventions define no name for Foundry Local, and let a library choose its own.
PROVIDER = "foundry_local"

# The conventions' buckets: 10 ms to 81.92 s, and 1 to 67,108,864 tokens.
SECONDS = tuple(0.01 * 2**power for power in range(14))
TOKENS = tuple(4**power for power in range(14))


class OpenTelemetry:
    """A listener that creates a span per call, as a child of the caller's current span.

    Use one listener per client: calls are identified by their number.

    Args:
        tracer_provider: Creates the spans; the global one by default.
        meter_provider: Receives the measurements; the global one by default.
        content: Whether to add prompts and answers to the spans.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        content: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer("foundry_api", __version__, tracer_provider)
        self._instruments = _Instruments(meter_provider)
        self._content = content
        self._spans: dict[int, Span] = {}

    def __call__(self, event: Event) -> None:
        """Record an event."""
        match event:
            case CallStarted():
                self._spans[event.call] = self._start_span(event)
            case FirstToken() | RetryScheduled() if event.call in self._spans:
                attributes: Attributes = {
                    "foundry_api.attempt": event.attempt,
                    **_server_attributes(event.service),
                }
                if isinstance(event, RetryScheduled):
                    attributes["error.type"] = type(event.error).__name__
                    attributes["foundry_api.delay_s"] = event.delay_s
                self._spans[event.call].add_event(type(event).__name__, attributes)
            case CallEnded():
                self._instruments.record(event)
                # Without a span, the call began before the listener was subscribed.
                if span := self._spans.pop(event.call, None):
                    self._end_span(span, event)
            case _:
                pass

    def _start_span(self, event: CallStarted) -> Span:
        attributes = _common_attributes(event.model, event.operation)
        if (request := event.request) is not None:
            parameters: dict[str, Any] = {
                "gen_ai.request.max_tokens": request.max_tokens,
                "gen_ai.request.temperature": request.temperature,
                "gen_ai.request.top_p": request.top_p,
                "gen_ai.request.seed": request.seed,
                "gen_ai.request.stop_sequences": request.stop or None,
                "gen_ai.request.stream": True,
            }
            attributes |= {name: value for name, value in parameters.items() if value is not None}
            if self._content:
                messages = [
                    {"role": message.role, "parts": [{"type": "text", "content": message.content}]}
                    for message in request.messages
                ]
                attributes["gen_ai.input.messages"] = msgspec.json.encode(messages).decode()
        return self._tracer.start_span(
            f"{event.operation} {event.model}", kind=SpanKind.CLIENT, attributes=attributes
        )

    def _end_span(self, span: Span, event: CallEnded) -> None:
        attributes: Attributes = {
            "gen_ai.response.model": event.model,
            "foundry_api.outcome": event.outcome,
            "foundry_api.attempts": len(event.attempts),
            "foundry_api.queued_s": event.timings.queued_s,
            **_server_attributes(event.service),
            **_failure_attributes(event),
        }
        if event.cached:
            attributes["foundry_api.cached"] = True
        if event.finish_reason is not None:
            attributes["gen_ai.response.finish_reasons"] = (event.finish_reason,)
        if event.timings.time_to_first_token_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = event.timings.time_to_first_token_s
        if event.usage is not None:
            attributes["gen_ai.usage.input_tokens"] = event.usage.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = event.usage.completion_tokens
        if self._content and event.content:
            message = {
                "role": "assistant",
                "parts": [{"type": "text", "content": event.content}],
                "finish_reason": event.finish_reason or "error",
            }
            attributes["gen_ai.output.messages"] = msgspec.json.encode([message]).decode()
        span.set_attributes(attributes)
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error.message))
        span.end()


class _Instruments:
    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter("foundry_api", __version__, provider)

        def make_histogram(
            name: str, unit: str, description: str, bounds: tuple[float, ...]
        ) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.client.{name}",
                unit,
                description,
                explicit_bucket_boundaries_advisory=bounds,
            )

        self._duration = make_histogram(
            "operation.duration", "s", "GenAI operation duration.", SECONDS
        )
        self._first = make_histogram(
            "operation.time_to_first_chunk", "s", "Time from the request to a chunk.", SECONDS
        )
        self._gap = make_histogram(
            "operation.time_per_output_chunk",
            "s",
            "Time per chunk after the first, on average over one answer.",
            SECONDS,
        )
        self._tokens = make_histogram(
            "token.usage", "{token}", "Number of input and output tokens used.", TOKENS
        )

    def record(self, event: CallEnded) -> None:
        common = _common_attributes(event.model, event.operation)
        attributes = {**common, **_server_attributes(event.service), **_failure_attributes(event)}
        timings = event.timings
        self._duration.record(timings.total_s, attributes)
        if timings.time_to_first_token_s is not None:
            self._first.record(timings.time_to_first_token_s, attributes)
        if timings.tokens_per_second and event.usage and event.chunks > 1:
            streamed_s = (event.usage.completion_tokens - 1) / timings.tokens_per_second
            self._gap.record(streamed_s / (event.chunks - 1), attributes)
        # The tokens of a cached answer were counted when it was generated.
        if event.usage is not None and not event.cached:
            counts = {"input": event.usage.prompt_tokens, "output": event.usage.completion_tokens}
            for kind, count in counts.items():
                self._tokens.record(count, {**attributes, "gen_ai.token.type": kind})


def _common_attributes(model: str, operation: OperationName) -> Attributes:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
    }


def _server_attributes(service: str | None) -> Attributes:
    if service is None:
        return {}
    parts = urlsplit(service)
    attributes: Attributes = {"server.address": parts.hostname or service}
    return attributes if parts.port is None else {**attributes, "server.port": parts.port}


def _failure_attributes(event: CallEnded) -> Attributes:
    return {} if event.error is None else {"error.type": type(event.error).__name__}
