"""OpenTelemetry: a span and four histograms for each call, named after the GenAI conventions.

    from foundry_api.observe.otel import OpenTelemetry

    client.events.subscribe(OpenTelemetry())

Needs `pip install foundry-api[otel]`. What to do with the spans and metrics is told to
OpenTelemetry's SDK as for any other library. Prompts and answers are in them only on request.
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
    from foundry_api.types.messages import ChatRequest

    Attributes = dict[str, AttributeValue]

__all__ = ["OpenTelemetry"]

PROVIDER = "foundry_local"
"""The conventions know no name for Foundry Local, and let a library choose its own."""

SECONDS = tuple(0.01 * 2**power for power in range(14))
"""The conventions' buckets for times: 10 ms to 81.92 s."""

TOKENS = tuple(4**power for power in range(14))
"""The conventions' buckets for tokens: 1 to 67,108,864."""


class OpenTelemetry:
    """A listener that makes a span of each call, under the span that its caller is in.

    It belongs to one client, whose calls it knows by their numbers.

    Args:
        tracer_provider: Makes the spans; default the global one.
        meter_provider: Takes the measurements; default the global one.
        content: Put prompts and answers on the spans too.
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
        """Take note of an event."""
        match event:
            case CallStarted():
                self._spans[event.call] = self._start_span(event)
            case FirstToken() | RetryScheduled() if event.call in self._spans:
                self._spans[event.call].add_event(type(event).__name__, _attempt_attributes(event))
            case CallEnded():
                self._end_span(event)
            case _:
                pass  # the span tells the same

    def _start_span(self, event: CallStarted) -> Span:
        attributes = _common_attributes(event.model, event.operation)
        if event.request is not None:
            attributes.update(_request_attributes(event.request))
            if self._content:
                attributes["gen_ai.input.messages"] = _encode_messages(event.request)
        return self._tracer.start_span(
            f"{event.operation} {event.model}", kind=SpanKind.CLIENT, attributes=attributes
        )

    def _end_span(self, event: CallEnded) -> None:
        self._instruments.record(event)
        span = self._spans.pop(event.call, None)
        if span is None:
            return  # it began before the listener came
        span.set_attributes(_response_attributes(event))
        if self._content and event.content:
            span.set_attribute("gen_ai.output.messages", _encode_answer(event))
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error.message))
        span.end()


class _Instruments:
    """The histograms."""

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


def _request_attributes(request: ChatRequest) -> Attributes:
    attributes: dict[str, Any] = {
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.stop_sequences": request.stop or None,
        "gen_ai.request.stream": True,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _response_attributes(event: CallEnded) -> Attributes:
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
    return attributes


def _server_attributes(service: str | None) -> Attributes:
    if service is None:
        return {}
    parts = urlsplit(service)
    attributes: Attributes = {"server.address": parts.hostname or service}
    return attributes if parts.port is None else {**attributes, "server.port": parts.port}


def _failure_attributes(event: CallEnded) -> Attributes:
    return {} if event.error is None else {"error.type": type(event.error).__name__}


def _attempt_attributes(event: FirstToken | RetryScheduled) -> Attributes:
    attributes: Attributes = {
        "foundry_api.core.attempt": event.attempt,
        **_server_attributes(event.service),
    }
    if isinstance(event, FirstToken):
        return attributes
    error = type(event.error).__name__
    return {**attributes, "error.type": error, "foundry_api.delay_s": event.delay_s}


def _encode_messages(request: ChatRequest) -> str:
    messages = [
        {"role": message.role, "parts": [{"type": "text", "content": message.content}]}
        for message in request.messages
    ]
    return msgspec.json.encode(messages).decode()


def _encode_answer(event: CallEnded) -> str:
    message = {
        "role": "assistant",
        "parts": [{"type": "text", "content": event.content}],
        "finish_reason": event.finish_reason or "error",
    }
    return msgspec.json.encode([message]).decode()
