"""`/metrics`, read with Prometheus' own parser, and the dashboard of Grafana that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.helpers import post, stream
from gateway.serving import serve
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.gateway.gateway import Gateway

CHAT = "/v1/chat/completions"
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"


def make_body(prompt: str, model: str = "scripted") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}]}


async def read(http: aiohttp.ClientSession) -> dict[tuple[str, ...], float]:
    """Return the values by the metric's name and its sorted labels."""
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        text = await response.text()
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): float(
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_p41_streams_and_answers_are_counted_alike(http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello")
    answer = await post(http, CHAT, body)
    await stream(http, CHAT, body)
    values = await read(http)
    labels = ("key=none", "model=scripted")
    prompt = ("foundry_gateway_tokens_total", "direction=prompt", *labels)
    assert values[prompt] == 2 * prompt_tokens(body["messages"])  # type: ignore[arg-type]
    completion = ("foundry_gateway_tokens_total", "direction=completion", *labels)
    assert values[completion] == 2 * answer["usage"]["completion_tokens"]
    requests = ("foundry_gateway_requests_total", "key=none", "outcome=ok", f"route={CHAT}")
    assert values[requests] == 2
    assert values["foundry_gateway_first_token_seconds_count", "model=scripted"] == 1
    assert values["foundry_gateway_queue_seconds_count", "model=scripted"] == 2
    assert values["foundry_gateway_in_flight",] == 0
    assert values["foundry_gateway_upstream_state", "state=closed"] == 1
    assert script("say-hello").text not in str(values)


async def test_p40_junk_names_add_no_series(http: aiohttp.ClientSession) -> None:
    await post(http, CHAT, make_body("x", "junk"), 404)
    async with http.get("/junk") as response:
        assert response.status == 404
    await read(http)
    before = set(await read(http))
    for number in range(30):
        await post(http, CHAT, make_body("x", f"junk-{number}"), 404)
        async with http.get(f"/junk-{number}?x={number}") as response:
            assert response.status == 404
    assert set(await read(http)) == before


@pytest.mark.parametrize("is_default", [False, True])
async def test_a_model_that_only_failed_is_named_if_it_is_known(
    engine: Endpoint, tmp_path: Path, *, is_default: bool
) -> None:
    body = {"model": "scripted", "input": "x"}  # for a model that makes no vectors
    config = {"model": "scripted"} if is_default else {}
    async with serve(tmp_path, engine.base_url, config=config) as served:
        if not is_default:
            await post(served.http, "/v1/embeddings", body, 400)
            async with served.http.get("/v1/models") as response:
                assert response.status == 200
        await post(served.http, "/v1/embeddings", body, 400)
        await post(served.http, "/v1/embeddings", {**body, "model": "SCRIPTED"}, 400)
        failures = served.gateway.context.metrics.failures.list()
    expected = ["other", "scripted"] if is_default else ["other", "scripted", "other"]
    assert [one.model for one in failures] == expected


async def test_p4_a_client_that_left_is_no_success(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(CHAT, json={**make_body("say-slowly"), "stream": True}) as response:
        await response.content.readany()
        [exchange] = gateway.context.running
    await exchange.ended
    values = await read(http)
    left = ("foundry_gateway_requests_total", "key=none", "outcome=client_closed", f"route={CHAT}")
    assert values[left] == 1
    assert (*left[:2], "outcome=ok", left[3]) not in values


def find_metrics(expression: str) -> dict[str, set[str]]:
    """Return the metrics of a PromQL expression, with the labels that it selects or groups by."""
    found: dict[str, set[str]] = {}
    for name, selectors in re.findall(r"(foundry_\w+)(?:\{([^}]*)\})?", expression):
        found[name] = set(re.findall(r"(\w+)\s*[=!]~?", selectors))
    return found


async def test_the_dashboard_of_grafana_queries_metrics_that_exist(
    http: aiohttp.ClientSession,
) -> None:
    body = make_body("say-hello")
    await post(http, CHAT, body)
    await stream(http, CHAT, body)
    labels: dict[str, set[str]] = {}
    for name, *pairs in await read(http):
        labels.setdefault(name, {"instance"}).update(pair.partition("=")[0] for pair in pairs)
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels, variables = dashboard["panels"], dashboard["templating"]["list"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [one["definition"] for one in variables if one["type"] == "query"]
    for expression in expressions:
        metrics = find_metrics(expression)
        assert metrics, expression
        grouped = {
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", expression)
            for label in group.split(",")
        }
        listed = set(re.findall(r"label_values\(\w+, (\w+)\)", expression))
        for name, selected in metrics.items():
            assert selected | grouped | listed <= labels[name], expression
    shown = {name for expression in expressions for name in find_metrics(expression)}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in labels}
    assert families == {re.sub(r"_bucket$", "", name) for name in shown}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
