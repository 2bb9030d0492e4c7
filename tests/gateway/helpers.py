"""Requests to the gateway, and what the tests of its routes share."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING, Any

from gateway.shapes import parse_events

if TYPE_CHECKING:
    import aiohttp

CALCULATE = {
    "type": "object",
    "properties": {"expression": {"type": "string"}},
    "required": ["expression"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "born": {"type": "integer"},
        "languages": {"type": "array", "items": {"type": "string"}},
        "name": {"type": "string"},
    },
    "required": ["born", "languages", "name"],
    "additionalProperties": False,
}


async def post(http: aiohttp.ClientSession, path: str, body: Any, status: int = 200) -> Any:
    async with http.post(path, json=body) as response:
        answer = await response.json()
        assert response.status == status, answer
        assert response.headers["x-request-id"]
        return answer


async def stream(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> list[Any]:
    async with http.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        return parse_events(await response.text())


def make_recording(seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\0\0" * int(16000 * seconds))
    return buffer.getvalue()
