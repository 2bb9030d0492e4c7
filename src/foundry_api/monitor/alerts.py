"""Telling people and programs that the state of a service changed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import subprocess
import sys
import tempfile
from inspect import isawaitable
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.user_code import UserCode
from foundry_api.types.values import as_float, as_path, as_text, format_value, is_list_like
from foundry_api.wire.headers import validate_headers
from foundry_api.wire.transport import Request, fetch, get_origin, is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from foundry_api.monitor.types import HealthChanged

__all__ = ["AlertCommand", "AlertWebhook", "Notifier", "format_change"]


log = logging.getLogger("foundry_api")

WEBHOOK_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0
MAX_RESPONSE_BYTES = 64 * 1024
HTTP_ERROR = 300
_ENCODER = msgspec.json.Encoder()


def format_change(change: HealthChanged) -> str:
    """A change in a sentence, for people."""
    where = change.sample.service or "the service"
    was = "" if change.old == "unknown" else f" (was {change.old})"
    why = f": {change.reason}" if change.reason else ""
    return f"{where} is {change.new}{was}{why}"


def _is_state_change(change: HealthChanged) -> bool:
    """Nobody wants to be woken because a service is well when its monitor starts."""
    return not (change.old == "unknown" and change.new == "healthy")


class AlertWebhook:
    """Posts every change as JSON: the members of `HealthChanged`, and `text`, a sentence.

    The sentence is what chat services show. A failure is logged; of an address only its origin,
    because the rest may be a secret.

    Args:
        url: Of https, or of http on this machine.
        headers: Sent along, such as a credential.
        timeout_s: Bound of the whole in seconds.

    Raises:
        InvalidRequest: The address is of another kind, or has a credential in it.
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
        if not _is_state_change(change):
            return
        # aiohttp takes 0.2 s to import, which a monitor without a webhook need not wait for.
        from foundry_api.wire.http import HttpTransport  # noqa: PLC0415

        body = _ENCODER.encode({**msgspec.structs.asdict(change), "text": format_change(change)})
        request = Request("POST", self._url, self._headers, body)
        transport = HttpTransport(self._timeout_s)
        try:
            reply = await fetch(
                transport, request, timeout_s=self._timeout_s, max_bytes=MAX_RESPONSE_BYTES
            )
            if reply.status >= HTTP_ERROR:
                log.warning("the webhook at %s answered %d", get_origin(self._url), reply.status)
        except FoundryError as error:
            # Its text may hold the whole address.
            log.warning("the webhook at %s failed: %s", get_origin(self._url), type(error).__name__)
        finally:
            await transport.aclose()


def _check_seconds(value: object) -> float:
    seconds = as_float(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise InvalidRequest(
            f"timeout_s is {format_value(value)}, but must be above 0", field="timeout_s"
        )
    return seconds


def _check_url(value: object) -> str:
    """The address of a webhook, which no error shows: it may be a secret."""
    url = as_text(value)
    if url is None:
        kind = type(value).__name__
        raise InvalidRequest(f"a webhook's address is of type {kind}, not a text", field="webhook")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # such as a bracket that is not closed; the text may hold a secret
        host = parts = None
    local = parts is not None and parts.scheme == "http" and is_loopback(url)
    if parts is None or not host or not (parts.scheme == "https" or local):
        raise InvalidRequest(
            "a webhook's address has to begin with https://, or be of this machine",
            field="webhook",
        )
    if parts.username is not None:
        raise InvalidRequest(
            "a webhook's address must not hold a user or a password", field="webhook"
        )
    return url


class AlertCommand:
    """Runs a program at every change, without a shell.

    It is given the change as JSON on its standard input, and in its environment
    `FOUNDRY_HEALTH_OLD`, `_NEW`, `_REASON`, `_SERVICE` and `_TEXT`, a sentence. A failure is
    logged.

    Args:
        command: The program and its arguments.
        timeout_s: Seconds after which it is killed.

    Raises:
        InvalidRequest: The command is empty.
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
        """Run it for a change."""
        if not _is_state_change(change):
            return
        name = self._command[0]
        with tempfile.TemporaryFile() as facts:
            facts.write(_ENCODER.encode(change))
            facts.seek(0)
            try:
                process = self._start(facts, change)
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

    def _start(self, payload: IO[bytes], change: HealthChanged) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - the user's own program, without a shell
            self._command,
            stdin=payload,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_make_environment(change)},
            creationflags=_get_creation_flags(),
        )


def _make_environment(change: HealthChanged) -> dict[str, str]:
    facts = {
        "OLD": change.old,
        "NEW": change.new,
        "REASON": change.reason,
        "SERVICE": change.sample.service or "",
        "TEXT": format_change(change),
    }
    return {f"FOUNDRY_HEALTH_{name}": value.replace("\0", "") for name, value in facts.items()}


def _get_creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0


if TYPE_CHECKING:
    Listener = Callable[[HealthChanged], object]


GRACE_S = 5.0
"""For the alerts that are under way when a monitor ends."""


class Notifier:
    """Whoever wants to hear of changes. None of them can delay or end the monitor.

    A function is called at once; what it gives back, if that can be awaited, goes on beside the
    monitor, one change after the other.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: dict[object, Listener] = {}
        self._last_tasks: dict[object, asyncio.Task[None]] = {}
        for listener in listeners:
            self.add(listener)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every change from now on. The returned function ends that."""
        key = object()
        self._listeners[key] = listener

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def notify(self, change: HealthChanged) -> None:
        """Tell everybody."""
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
        """Wait for what is under way, a moment long."""
        tasks = set(self._last_tasks.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        for task in late:
            task.cancel()
        if late:
            log.warning("%d alerts were given up, because the monitor ended", len(late))
            await asyncio.wait(late)

    def _start_task(self, key: object, pending: Awaitable[object]) -> None:
        previous = self._last_tasks.get(key)
        task = asyncio.create_task(_run_after(previous, pending), context=contextvars.Context())
        self._last_tasks[key] = task
        task.add_done_callback(lambda finished: self._on_done(key, finished))

    def _on_done(self, key: object, task: asyncio.Task[None]) -> None:
        if self._last_tasks.get(key) is task:
            del self._last_tasks[key]


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
