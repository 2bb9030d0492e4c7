"""Reports changes of a service's state to functions, webhooks and programs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import subprocess
import tempfile
from inspect import isawaitable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from foundry_api.storage.process import NO_WINDOW
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.user_code import UserCode
from foundry_api.types.values import as_float, as_path, as_text, format_value, is_list_like
from foundry_api.wire.headers import validate_headers
from foundry_api.wire.transport import Request, fetch, get_origin, is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from foundry_api.monitor.types import HealthChanged

    Listener = Callable[[HealthChanged], object]

__all__ = ["AlertCommand", "AlertWebhook", "Notifier", "format_change"]

log = logging.getLogger("foundry_api")

WEBHOOK_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0
MAX_RESPONSE_BYTES = 64 * 1024
FIRST_ERROR_STATUS = 300  # redirects are not followed, so they are failures, too

# How long a monitor waits for its running alerts when it ends.
GRACE_S = 5.0

_ENCODER = msgspec.json.Encoder()


def format_change(change: HealthChanged) -> str:
    """Describe a change in one sentence."""
    service = change.sample.service or "the service"
    old = "" if change.old == "unknown" else f" (was {change.old})"
    reason = f": {change.reason}" if change.reason else ""
    return f"{service} is {change.new}{old}{reason}"


class AlertWebhook:
    """Posts every change of state to a URL as JSON.

    The object has the attributes of `HealthChanged`, and `text`, a sentence that chat services
    show. The first change is not posted if it is to `healthy`. A failure is logged, with only the
    origin of the URL, because the rest may be a secret.

    Args:
        url: An `https://` URL, or an `http://` URL on this machine.
        headers: Headers to send, such as a credential.
        timeout_s: Limit for the whole request in seconds, above 0; default 10.

    Raises:
        InvalidRequest: An argument is invalid, or the URL contains a user or a password.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = WEBHOOK_TIMEOUT_S,
    ) -> None:
        self._url = _check_url(url)
        own = validate_headers("headers", headers, InvalidRequest)
        self._headers = {"Content-Type": "application/json", **own}
        self._timeout_s = _check_seconds(timeout_s)

    def __repr__(self) -> str:
        return f"AlertWebhook({get_origin(self._url)}/…)"

    async def __call__(self, change: HealthChanged) -> None:
        """Post a change."""
        if _is_healthy_start(change):
            return
        # A monitor without a webhook needs no transport.
        from foundry_api.wire.http import HttpTransport  # noqa: PLC0415

        body = _ENCODER.encode({**msgspec.structs.asdict(change), "text": format_change(change)})
        request = Request("POST", self._url, self._headers, body)
        transport = HttpTransport(self._timeout_s)
        try:
            response = await fetch(
                transport, request, timeout_s=self._timeout_s, max_bytes=MAX_RESPONSE_BYTES
            )
            if response.status >= FIRST_ERROR_STATUS:
                log.warning("the webhook at %s returned %d", get_origin(self._url), response.status)
        except FoundryError as error:
            # Its text may contain the whole URL.
            log.warning("the webhook at %s failed: %s", get_origin(self._url), type(error).__name__)
        finally:
            await transport.aclose()


class AlertCommand:
    """Runs a program at every change of state, without a shell.

    The program receives the change as JSON on its standard input, and in its environment the
    variables `FOUNDRY_HEALTH_OLD`, `_NEW`, `_REASON`, `_SERVICE` and `_TEXT`, a sentence. It does
    not run for the first change if that is to `healthy`. A failure is logged.

    Args:
        command: The program and its arguments.
        timeout_s: Seconds after which it is killed, above 0; default 30.

    Raises:
        InvalidRequest: The command is empty or not a list, or the time-out is invalid.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        words = (
            [as_path(word) or as_text(word) for word in command] if is_list_like(command) else []
        )
        if not words or None in words:
            raise InvalidRequest(
                "an alert's command has to be a list: the program and its arguments",
                field="command",
            )
        self._command = [word for word in words if word is not None]
        self._timeout_s = _check_seconds(timeout_s)

    def __repr__(self) -> str:
        return f"AlertCommand({self._command[0]!r}, …)"

    async def __call__(self, change: HealthChanged) -> None:
        """Run the program for a change."""
        if _is_healthy_start(change):
            return
        name = self._command[0]
        # A file instead of a pipe, so that a program that does not read its input blocks nothing.
        with tempfile.TemporaryFile() as payload:
            payload.write(_ENCODER.encode(change))
            payload.seek(0)
            try:
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - the user's program, no shell
                    self._command,
                    stdin=payload,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **_make_environment(change)},
                    creationflags=NO_WINDOW,
                )
            except (OSError, ValueError) as error:
                log.warning("the alert command %s cannot be run: %s", name, error)
                return
        try:
            status = await asyncio.to_thread(process.wait, self._timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("the alert command %s was killed after %g s", name, self._timeout_s)
        else:
            if status:
                log.warning("the alert command %s ended with status %d", name, status)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class Notifier:
    """Calls the listeners of a monitor. None of them can delay or end the monitor."""

    # A listener is called at once. If it returns an awaitable, that runs in a task, and the
    # awaitables of one listener run in the order of the changes.

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: dict[object, Listener] = {}
        self._last_tasks: dict[object, asyncio.Task[None]] = {}
        for listener in listeners:
            self.add(listener)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every change, until the returned function is called."""
        key = object()  # the same listener may be added twice
        self._listeners[key] = listener

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def notify(self, change: HealthChanged) -> None:
        for key, listener in list(self._listeners.items()):
            try:
                pending = listener(change)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.exception("a listener failed on %s -> %s", change.old, change.new)
                continue
            if isawaitable(pending):
                self._start_task(key, pending)

    async def aclose(self) -> None:
        """Wait a few seconds for the tasks that still run, then cancel them."""
        tasks = set(self._last_tasks.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        for task in late:
            task.cancel()
        if late:
            log.warning("%d alerts were cancelled because the monitor ended", len(late))
            await asyncio.wait(late)

    def _start_task(self, key: object, pending: Awaitable[object]) -> None:
        previous = self._last_tasks.get(key)
        # An empty context: a deadline around the code that started the monitor must not apply.
        task = asyncio.create_task(_run_after(previous, pending), context=contextvars.Context())
        self._last_tasks[key] = task

        def forget(finished: asyncio.Task[None]) -> None:
            if self._last_tasks.get(key) is finished:
                del self._last_tasks[key]

        task.add_done_callback(forget)


async def _run_after(previous: asyncio.Task[None] | None, pending: Awaitable[object]) -> None:
    if previous is not None:
        await asyncio.wait({previous})
    code = UserCode()
    try:
        await pending
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        log.exception("an alert failed")


# An alert for a service that is healthy when its monitor starts would have no use.
def _is_healthy_start(change: HealthChanged) -> bool:
    return change.old == "unknown" and change.new == "healthy"


def _make_environment(change: HealthChanged) -> dict[str, str]:
    values = {
        "OLD": change.old,
        "NEW": change.new,
        "REASON": change.reason,
        "SERVICE": change.sample.service or "",
        "TEXT": format_change(change),
    }
    # Null bytes, which a service's message may contain, are not allowed in the environment.
    return {f"FOUNDRY_HEALTH_{name}": value.replace("\0", "") for name, value in values.items()}


def _check_seconds(value: object) -> float:
    seconds = as_float(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise InvalidRequest(
            f"timeout_s is {format_value(value)}, but must be above 0", field="timeout_s"
        )
    return seconds


def _check_url(value: object) -> str:
    # No error shows the URL: it may be a secret.
    url = as_text(value)
    if url is None:
        kind = type(value).__name__
        raise InvalidRequest(f"a webhook's URL is of type {kind}, not a string", field="webhook")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # such as a bracket that is not closed; its text may contain a secret
        host = parts = None
    is_local = parts is not None and parts.scheme == "http" and is_loopback(url)
    if parts is None or not host or not (parts.scheme == "https" or is_local):
        raise InvalidRequest(
            "a webhook's URL has to begin with https://, or be on this machine", field="webhook"
        )
    if parts.username is not None:
        raise InvalidRequest(
            "a webhook's URL must not contain a user or a password", field="webhook"
        )
    return url
