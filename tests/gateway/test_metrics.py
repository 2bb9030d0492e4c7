"""`/metrics`, read with Prometheus' own parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.helpers import post, stream
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

CHAT = "/v1/chat/completions"


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
