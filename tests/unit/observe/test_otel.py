"""Spans and metrics as received by OpenTelemetry's SDK."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from foundry_api import FoundryAPIClient, MemoryCache, ServerError, Usage
from foundry_api.observe.otel import SECONDS, TOKENS, OpenTelemetry
from foundry_api.testing import ErrorReply, FakeService, Reply, Stall, skip_sleeps

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

ANSWER = Reply("my answer is long", usage=Usage(7, 5, 12))


class Telemetry:
    """The spans and metrics that an SDK received from a client."""

    def __init__(self, *, content: bool = False) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader])
        self.listener = OpenTelemetry(
            tracer_provider=self.tracers, meter_provider=self._meters, content=content
        )

    def client(self, service: FakeService) -> FoundryAPIClient:
        return FoundryAPIClient(service.base_url, model="fake", listeners=[self.listener])

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Finished spans."""
        return self._spans.get_finished_spans()

    def points(self) -> dict[str, list[HistogramDataPoint]]:
        """Measurements by the name of the metric."""
        data = self._reader.get_metrics_data()
        assert data is not None
        found: dict[str, list[Any]] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            found[metric.name] = list(metric.data.data_points)
        return found


@pytest.fixture
def telemetry() -> Telemetry:
    """A listener without prompts and answers."""
    return Telemetry()


async def test_span_has_the_attributes_of_the_conventions(telemetry: Telemetry) -> None:
    async with FakeService(ANSWER) as service, telemetry.client(service) as client:
        await client.complete("my prompt", max_tokens=9, temperature=0.5, seed=3, stop=["my stop"])
    (span,) = telemetry.spans
    assert (span.name, span.kind) == ("chat fake", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    shown = dict(span.attributes or {})
    assert shown.pop("gen_ai.response.time_to_first_chunk") > 0
    assert shown == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "foundry_local",
        "gen_ai.request.model": "fake",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("my stop",),
        "gen_ai.response.model": "fake:1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": int(service.base_url.rsplit(":", 1)[1]),
        "foundry_api.outcome": "answered",
        "foundry_api.attempts": 1,
        "foundry_api.queued_s": 0.0,
    }


async def test_span_is_a_child_of_the_callers_span(
    telemetry: Telemetry,
) -> None:
    tracer = telemetry.tracers.get_tracer("program")
    async with FakeService(ANSWER) as service, telemetry.client(service) as client:
        with tracer.start_as_current_span("outer") as outer:
            stream = client.stream_complete("Hi")
            await anext(stream)
            tracer.start_span("sibling").end()
            assert [chunk async for chunk in stream]
    spans = {span.name: span for span in telemetry.spans}
    for name in ("chat fake", "sibling"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == outer.get_span_context().span_id


async def test_retries_and_first_token_are_span_events(telemetry: Telemetry) -> None:
    async with FakeService(ErrorReply(), ANSWER) as service, telemetry.client(service) as client:
        with skip_sleeps():
            await client.complete("Hi")
    (span,) = telemetry.spans
    retry, first = span.events
    assert (retry.name, first.name) == ("RetryScheduled", "FirstToken")
    assert dict(retry.attributes or {})["error.type"] == "ServerError"
    assert dict(retry.attributes or {})["foundry_api.attempt"] == 1
    assert dict(span.attributes or {})["foundry_api.attempts"] == 2


async def test_failed_call_has_an_error_status(telemetry: Telemetry) -> None:
    async with (
        FakeService(ErrorReply(message="boom")) as service,
        telemetry.client(service) as client,
    ):
        with skip_sleeps(), pytest.raises(ServerError):
            await client.complete("Hi")
    (span,) = telemetry.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "boom"
    assert dict(span.attributes or {})["error.type"] == "ServerError"
    (point,) = telemetry.points()["gen_ai.client.operation.duration"]
    assert dict(point.attributes or {})["error.type"] == "ServerError"


async def test_cancelled_call_has_no_error_status(telemetry: Telemetry) -> None:
    script = Stall(after="some words")
    async with FakeService(script) as service, telemetry.client(service) as client:
        stream = client.stream_complete("Hi")
        await anext(stream)
        await stream.aclose()
    (span,) = telemetry.spans
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {})["foundry_api.outcome"] == "cancelled"


async def test_metrics_have_the_names_and_buckets_of_the_conventions(telemetry: Telemetry) -> None:
    async with FakeService(ANSWER) as service, telemetry.client(service) as client:
        for _ in range(2):
            await client.complete("Hi")
    points = telemetry.points()
    duration, first = "gen_ai.client.operation.duration", "time_to_first_chunk"
    for name in (duration, f"gen_ai.client.operation.{first}"):
        (point,) = points[name]
        assert (point.count, tuple(point.explicit_bounds)) == (2, SECONDS)
    tokens = {
        dict(point.attributes or {})["gen_ai.token.type"]: point
        for point in points["gen_ai.client.token.usage"]
    }
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 14, "output": 10}
    assert tuple(tokens["input"].explicit_bounds) == TOKENS
    assert SECONDS[-1] == 81.92
    assert TOKENS[-1] == 67_108_864


async def test_content_is_not_exported_by_default(telemetry: Telemetry) -> None:
    async with FakeService(ANSWER) as service, telemetry.client(service) as client:
        await client.complete("my prompt")
    shown = telemetry.spans[0].to_json() + repr(telemetry.points())
    assert "my prompt" not in shown
    assert "my answer" not in shown


async def test_content_is_exported_on_request() -> None:
    telemetry = Telemetry(content=True)
    async with FakeService(ANSWER) as service, telemetry.client(service) as client:
        await client.complete("my prompt")
    shown = dict(telemetry.spans[0].attributes or {})
    (turn,) = json.loads(str(shown["gen_ai.input.messages"]))
    assert turn == {"role": "user", "parts": [{"type": "text", "content": "my prompt"}]}
    (turn,) = json.loads(str(shown["gen_ai.output.messages"]))
    assert turn["parts"] == [{"type": "text", "content": "my answer is long"}]


async def test_all_spans_end(telemetry: Telemetry) -> None:
    async with FakeService(ErrorReply(), ANSWER) as service, telemetry.client(service) as client:
        with skip_sleeps():
            for _ in range(3):
                await client.complete("Hi")
    assert telemetry.listener._spans == {}
    assert len(telemetry.spans) == 3


async def test_cached_answer_has_a_span_but_no_token_usage(
    telemetry: Telemetry,
) -> None:
    tracer = telemetry.tracers.get_tracer("program")
    async with FakeService(ANSWER) as service:
        client = FoundryAPIClient(
            service.base_url, model="fake", listeners=[telemetry.listener], cache=MemoryCache()
        )
        async with client:
            with tracer.start_as_current_span("outer") as outer:
                for _ in range(2):
                    await client.complete("Hi", temperature=0)
    first, cached = (span for span in telemetry.spans if span.name == "chat fake")
    assert "foundry_api.cached" not in (first.attributes or {})
    assert (cached.attributes or {})["foundry_api.cached"] is True
    for span in (first, cached):
        assert span.parent is not None
        assert span.parent.span_id == outer.get_span_context().span_id
    points = telemetry.points()
    assert [point.count for point in points["gen_ai.client.token.usage"]] == [1, 1]
    assert points["gen_ai.client.operation.duration"][0].count == 2
