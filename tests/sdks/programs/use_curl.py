"""`curl`, with requests as Aider, Continue, Cline and Open WebUI send them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from served import ANSWER, HELLO, KEY, QUESTION, SPEECH, URL, WRONG_KEY

CLIENT = "curl"
BEARER = ("-H", f"Authorization: Bearer {KEY}")
ASK = [{"role": "user", "content": QUESTION}]


def get_version() -> str:
    done = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def curl(path: str, *arguments: str, body: Any = None) -> str:
    """Return the head and the body of the answer."""
    if body is not None:
        arguments += ("-H", "Content-Type: application/json", "-d", json.dumps(body))
    command = ["curl", "-sS", "--max-time", "60", "-i", f"{URL}{path}", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def get_json(path: str, *arguments: str, body: Any = None, status: int = 200) -> Any:
    head, _, text = curl(path, *arguments, body=body).partition("\n\n")
    assert head.split()[1] == str(status), (head, text)
    return json.loads(text)


def get_events(path: str, *arguments: str, body: Any) -> list[Any]:
    """Return the data of the events of a stream, which must be whole."""
    answer = curl(path, "-N", *arguments, body={**body, "stream": True})
    assert "text/event-stream" in answer, answer
    lines = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def check_chat() -> None:
    """chat"""
    body = {"model": "demo", "messages": ASK, "temperature": 0}
    answer = get_json("/v1/chat/completions", *BEARER, body=body)
    assert answer["choices"][0]["message"]["content"] == ANSWER


def check_keys() -> None:
    """keys as `Bearer`, `x-api-key` and `api-key`"""
    for header in (BEARER[1], f"x-api-key: {KEY}", f"api-key: {KEY}"):
        assert get_json("/v1/models", "-H", header)["object"] == "list"
    # Continue sends both.
    assert get_json("/v1/models", *BEARER, "-H", f"x-api-key: {KEY}")
    error = get_json("/v1/models", "-H", f"Authorization: Bearer {WRONG_KEY}", status=401)
    assert error["error"]["code"] == "invalid_api_key"


def check_upload() -> None:
    """transcription by upload"""
    form = ("-F", f"file=@{SPEECH / 'paris.wav'}", "-F", "model=transcriber", "-F", "language=en")
    assert get_json("/v1/audio/transcriptions", *BEARER, *form)["text"]


def check_anthropic() -> None:
    """messages"""
    body = {"model": "demo", "max_tokens": 50, "messages": ASK}
    headers = ("-H", f"x-api-key: {KEY}", "-H", "anthropic-version: 2023-06-01")
    assert get_json("/v1/messages", *headers, body=body)["type"] == "message"


def check_cline() -> None:
    """as Cline"""
    body = {
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "You are Cline."},
            {"role": "user", "content": [{"type": "text", "text": "reason-aloud"}]},
        ],
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    events = get_events("/v1/chat/completions", *BEARER, body=body)
    *events, last = events
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Six times seven."
    assert "".join(delta.get("content", "") for delta in deltas) == "42"
    body.pop("stream_options")
    events = get_events("/v1/chat/completions", *BEARER, body=body)
    assert all(event["choices"] for event in events)


def check_continue() -> None:
    """as Continue"""
    body = {
        "model": "demo",
        "messages": ASK,
        "max_tokens": 4096,
        "temperature": 0,
        "stop": ["<|im_end|>", "<|im_start|>"],
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "tools": [],
        "stream_options": {"include_usage": True},
    }
    events = get_events("/v1/chat/completions", *BEARER, body=body)
    assert [bool(event["usage"]) for event in events] == [False] * (len(events) - 1) + [True]
    texts = [event["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(texts) == ANSWER
    body = {"model": "scripted", "prompt": "say-hello", "max_tokens": 50}
    events = get_events("/v1/completions", *BEARER, "-H", f"x-api-key: {KEY}", body=body)
    assert "".join(event["choices"][0]["text"] for event in events) == HELLO


def check_aider() -> None:
    """as Aider"""
    body = {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "Act as an expert software developer."},
            {"role": "user", "content": "I want you to act as a helpful assistant."},
            {"role": "assistant", "content": "Ok."},
            *ASK,
        ],
        "temperature": 0,
        "extra_headers": {},
    }
    headers = (*BEARER, "-H", "x-stainless-retry-count: 0", "-H", "x-stainless-read-timeout: 600")
    assert get_events("/v1/chat/completions", *headers, body=body)


def check_open_webui() -> None:
    """as Open WebUI"""
    models = get_json("/v1/models", *BEARER)
    assert {"demo", "scripted"} <= {model["id"] for model in models["data"]}
    body = {
        "model": "demo",
        "messages": ASK,
        "max_completion_tokens": 100,
        "temperature": 0,
        "metadata": {"chat_id": "1"},
        "user": "somebody",
        "stream_options": {"include_usage": True},
    }
    assert get_events("/v1/chat/completions", *BEARER, body=body)[-1]["usage"]
    names = {model["id"] for model in get_json("/models", *BEARER)["data"]}
    assert "demo" in names
    assert get_json("/models/load", *BEARER, body={"model": "demo"})["success"]
    assert "timings" not in models
