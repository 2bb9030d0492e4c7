"""A long run of the gateway with faults: what is lost, wrong, without an end, or grows.

python3 dev.py bench gateway_soak [MINUTES]    # default 10

Streams and whole answers of several routes and keys, on the real engine with the demo model. Each
minute the engine is killed; a fifth of the clients leave early; one request in twenty is hostile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from parts.results import save_figures

from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey

if TYPE_CHECKING:
    from collections.abc import Generator

MODEL = "demo"
MINUTES = 10.0
CLIENTS = 24
KILL_INTERVAL_S = 60.0
# When the first memory is read: caches and pools are full by then.
SETTLED_S = 120.0
# A call that has no end by then has none. The gateway's own limits are longer.
CALL_LIMIT_S = 120.0
REST_LIMIT_S = 30.0
LEAVING, HOSTILE = 0.2, 0.05
STREAMED, FOR_ANTHROPIC = 0.5, 0.2
QUESTIONS = ("What is the capital of France?", "What is 2 plus 3?", "Tell me a short story.")
OK, SERVER_ERROR = 200, 500
# Refusals that a gateway may send while its engine starts again.
UNAVAILABLE = frozenset({502, 503, 504})

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\n"
HOSTILE_REQUESTS = (
    b"GET / HTTP/1.1\r\n\r\n",
    CHAT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    CHAT + b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n" + b"[" * 20,
    b"GET /v1/models HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
)


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    texts: dict[str, str] = field(default_factory=dict[str, str])
    wrong: list[str] = field(default_factory=list[str])

    def compare(self, question: str, text: str) -> None:
        """Count an answer as wrong if it differs from the first one to the same question."""
        if self.texts.setdefault(question, text) == text:
            self.outcomes["answered"] += 1
        else:
            self.outcomes["wrong"] += 1
            self.wrong.append(f"{question!r}: {text!r}")


@dataclass(frozen=True, slots=True)
class Server:
    """The gateway under test."""

    url: str
    tokens: tuple[str, ...]
    process: psutil.Process

    def find_engines(self) -> list[psutil.Process]:
        return self.process.children()

    def get_memory(self) -> int:
        return self.process.memory_info().rss


class Client:
    """One client, which makes calls until a time."""

    def __init__(self, server: Server, tally: Tally, seed: int) -> None:
        self._server = server
        self._tally = tally
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._headers = {"Authorization": f"Bearer {server.tokens[seed % len(server.tokens)]}"}

    async def run(self, session: aiohttp.ClientSession, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            draw = self._random.random()
            try:
                async with asyncio.timeout(CALL_LIMIT_S):
                    if draw < HOSTILE:
                        await self._attack()
                    else:
                        await self._call(session, leaves=draw < HOSTILE + LEAVING)
            except TimeoutError:
                self._tally.outcomes["without an end"] += 1
            except (aiohttp.ClientError, ConnectionError) as error:
                self._tally.outcomes[f"connection: {type(error).__name__}"] += 1

    async def _call(self, session: aiohttp.ClientSession, *, leaves: bool) -> None:
        question = self._random.choice(QUESTIONS)
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 24,
            "stream": self._random.random() < STREAMED,
        }
        path = "/v1/messages" if self._random.random() < FOR_ANTHROPIC else "/v1/chat/completions"
        url = f"{self._server.url}{path}"
        async with session.post(url, json=body, headers=self._headers) as response:
            if leaves:
                self._tally.outcomes["left"] += 1
                return
            if response.status != OK:
                unexpected = response.status not in UNAVAILABLE
                kind = "unexpected status" if unexpected else "refused"
                self._tally.outcomes[f"{kind} {response.status}"] += 1
                await response.read()
                return
            text = await response.text()
        if not body["stream"]:
            self._tally.compare(question, read_answer(json.loads(text)))
        elif '"error"' in text:
            self._tally.outcomes["stream with an error"] += 1
        elif "[DONE]" in text or "message_stop" in text:
            self._tally.outcomes["streams with an end"] += 1
            self._tally.compare(question, read_stream(text))
        else:
            self._tally.outcomes["stream without an end"] += 1

    async def _attack(self) -> None:
        address = urlsplit(self._server.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            request = self._random.choice(HOSTILE_REQUESTS)
            writer.write(request.replace(b"%b", address.netloc.encode()))
            writer.write_eof()
            answer = await reader.read()
            status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
            served = status == OK or status >= SERVER_ERROR
            self._tally.outcomes["hostile, served" if served else "hostile, refused"] += 1
        finally:
            writer.close()


def read_answer(answer: dict[str, Any]) -> str:
    if "content" in answer:  # Anthropic's
        return "".join(part["text"] for part in answer["content"])
    text: str = answer["choices"][0]["message"]["content"]
    return text


def read_stream(text: str) -> str:
    parts: list[str] = []
    for line in text.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        delta = event.get("delta") or {}
        parts += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
        parts.append(delta.get("text", "") if event.get("type") == "content_block_delta" else "")
    return "".join(parts)


@contextmanager
def start_gateway(home: Path) -> Generator[Server]:
    database = KeyDatabase(home / "gateway")
    tokens = tuple(database.create(NewKey(name=f"team-{number}"))[1] for number in range(4))
    _, metrics_token = database.create(NewKey(name="metrics", scopes=frozenset({"metrics"})))
    command = [sys.executable, "-m", "foundry_api", "serve", "-m", MODEL, "--port", "0"]
    with (
        (home / "gateway.log").open("wb") as log,
        subprocess.Popen(
            [*command, "--service", "embedded"],
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            env={**os.environ, "FOUNDRY_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            url = process.stdout.readline().split()[2].rstrip(".").removesuffix("/v1")
            yield Server(url, (*tokens, metrics_token), psutil.Process(process.pid))
        finally:
            process.terminate()


async def kill_engines(server: Server, ends_at: float) -> int:
    kills = 0
    while time.monotonic() + KILL_INTERVAL_S < ends_at:
        await asyncio.sleep(KILL_INTERVAL_S)
        for engine in server.find_engines():
            engine.kill()
            kills += 1
    return kills


async def read_slots(session: aiohttp.ClientSession, server: Server) -> float:
    """Return how many calls have a slot or wait for one."""
    headers = {"Authorization": f"Bearer {server.tokens[-1]}"}
    async with session.get(f"{server.url}/metrics", headers=headers) as response:
        lines = (await response.text()).splitlines()
    names = ("foundry_gateway_in_flight{", "foundry_gateway_waiting{")
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


async def run(server: Server, minutes: float) -> dict[str, float]:
    tally = Tally()
    ends_at = time.monotonic() + 60 * minutes
    settled_s = min(SETTLED_S, 60 * minutes / 4)
    callers = Server(server.url, server.tokens[:-1], server.process)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        killer = tasks.create_task(kill_engines(server, ends_at))
        running = [
            tasks.create_task(Client(callers, tally, seed).run(session, ends_at))
            for seed in range(CLIENTS)
        ]
        await asyncio.sleep(settled_s)
        memory = server.get_memory()
        await asyncio.wait(running)
        grown = server.get_memory() / memory
        rest_until = time.monotonic() + REST_LIMIT_S
        while (slots := await read_slots(session, server)) > 0:
            if time.monotonic() > rest_until:
                break
            await asyncio.sleep(0.1)
    for text in tally.wrong[:5]:
        print("wrong:", text)
    figures = {"minutes": minutes, "engines killed": float(killer.result())}
    figures |= {name: float(count) for name, count in sorted(tally.outcomes.items())}
    figures |= {"slots and waiting calls at the end": slots}
    return figures | {"memory at the end / when settled": grown}


def main() -> None:
    minutes = float(sys.argv[1]) if sys.argv[1:] else MINUTES
    with (
        tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as name,
        start_gateway(Path(name)) as server,
    ):
        save_figures("gateway_soak", asyncio.run(run(server, minutes)))


if __name__ == "__main__":
    main()
