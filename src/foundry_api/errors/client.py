"""The client itself refuses."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError

__all__ = ["ClientClosed", "ConfigurationError", "HookFailed", "QueueFull"]


class ConfigurationError(FoundryError):
    """A setting or an environment variable cannot be used."""


class ClientClosed(FoundryError):
    """The client was closed before or during the call."""

    default_hint = "Create a new client, or keep this one open until its calls are done."


class QueueFull(FoundryError):
    """Too many calls wait for their turn in this client; nothing was sent."""

    default_hint = "Call again later, start fewer calls at once, or allow a longer queue."


class HookFailed(FoundryError):
    """A hook, the callable that gives the credential, or a transport of the caller's own failed."""

    default_hint = "See the exception that it was raised from, and correct the hook."
