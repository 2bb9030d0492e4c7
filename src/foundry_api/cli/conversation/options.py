"""The options of a conversation, which `/set` shows and changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.cli.conversation.context import CONTEXT_POLICIES
from foundry_api.core.chat import make_chat_request
from foundry_api.core.options import CompletionOptions
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import Message
from foundry_api.types.values import is_list_like

if TYPE_CHECKING:
    from foundry_api.cli.conversation.context import ContextPolicy

__all__ = ["CALL_OPTIONS", "DEFAULT_WORD", "OPTION_NAMES", "ConversationOptions"]

_NUMBERS = ("temperature", "top_p", "max_tokens", "seed")
CALL_OPTIONS = (*_NUMBERS, "stop")
OPTION_NAMES = (*CALL_OPTIONS, "system", "context", "think")
DEFAULT_WORD = "default"
_SWITCHES = {"on": True, "off": False}
_PROBE = (Message("user", "-"),)


@dataclass(slots=True)
class ConversationOptions:
    """What `/set` changes.

    Attributes:
        chat: Options of the calls; only those that are set.
        system: The system message.
        context: What happens when the conversation outgrows the context.
        think: Whether the model's reasoning is shown.
    """

    chat: CompletionOptions = field(default_factory=CompletionOptions)
    system: str | None = None
    context: ContextPolicy = "trim"
    think: bool = True

    def set(self, name: str, text: str) -> None:
        """Set an option from text; `default` unsets it. Raises InvalidRequest."""
        if name not in OPTION_NAMES:
            raise InvalidRequest(
                f"there is no option {name}", hint=f"One of {', '.join(OPTION_NAMES)}."
            )
        is_default = text.lower() == DEFAULT_WORD
        if name == "system":
            self.system = None if is_default else text
        elif name == "context":
            policies: dict[str, ContextPolicy] = {policy: policy for policy in CONTEXT_POLICIES}
            if text not in policies and not is_default:
                raise InvalidRequest(f"context is {text}", hint=f"One of {', '.join(policies)}.")
            self.context = policies.get(text, "trim")
        elif name == "think":
            if text not in _SWITCHES and not is_default:
                raise InvalidRequest(f"think is {text}", hint="Either on or off.")
            self.think = _SWITCHES.get(text, True)
        else:
            self.set_chat_option(name, _parse(name, text))

    def get(self, name: str) -> str:
        """Return the value of an option as text."""
        if name == "think":
            return "on" if self.think else "off"
        if name in {"system", "context"}:
            return getattr(self, name) or DEFAULT_WORD
        value = self.chat.get(name)
        if is_list_like(value):
            return ", ".join(map(repr, value)) or DEFAULT_WORD
        return DEFAULT_WORD if value is None else str(value)

    def get_set_options(self) -> dict[str, Any]:
        """Return the options of the calls that are set."""
        given = ((name, self.chat.get(name)) for name in CALL_OPTIONS)
        return {name: value for name, value in given if value not in (None, (), [])}

    def show(self) -> str:
        """Return a line for each option."""
        width = max(map(len, OPTION_NAMES))
        return "\n".join(f"{name.ljust(width)}  {self.get(name)}" for name in OPTION_NAMES)

    def set_chat_option(self, name: str, value: object) -> None:
        """Set an option of the calls; None unsets it. Raises InvalidRequest."""
        changed: Any = {**self.chat, name: value}
        # Raises for a value out of range.
        make_chat_request(_PROBE, **{key: changed.get(key) for key in CALL_OPTIONS})
        self.chat = changed


def _parse(name: str, text: str) -> object:
    if text.lower() == DEFAULT_WORD:
        return None
    if name not in _NUMBERS:
        return (text,)
    try:
        return msgspec.json.decode(text.replace("_", "").encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidRequest(f"{name} is {text}, not a number", field=name) from error
