"""Templates of `foundry-api chat`: a prompt with variables, a system message, a model, options."""

from __future__ import annotations

import re
import string
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.cli.conversation.options import CALL_OPTIONS, ConversationOptions
from foundry_api.cli.template_files import SUFFIXES, get_template_directory, list_templates
from foundry_api.cli.text_file import read_text_file
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.core.options import CompletionOptions

__all__ = ["Template", "load_template"]

FIELD = "template"
INPUT = "input"


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a template file has. `$name` in the prompt and the system message is a variable.

    Attributes:
        description: What `templates list` shows.
        model: The model.
        system: The system message.
        prompt: The prompt; `$input` is what the user gives, which follows it if it is not in there.
        options: Options of the call, such as `temperature`.
        defaults: Values of variables that need not be given.
    """

    description: str = ""
    model: str | None = None
    system: str | None = None
    prompt: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    defaults: dict[str, str] = msgspec.field(default_factory=dict[str, str])

    @property
    def variables(self) -> list[str]:
        """The variables besides `$input`, in the order of their first use."""
        names = [name for text in (self.system, self.prompt) for name in _find_variables(text)]
        return [name for name in dict.fromkeys(names) if name != INPUT]

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing to send without the user's text."""
        return not self.prompt.strip() or INPUT in _find_variables(self.prompt)

    def make_options(self) -> CompletionOptions:
        """Return the options of the call. Raises InvalidRequest."""
        options = ConversationOptions()
        for name, value in self.options.items():
            if name not in CALL_OPTIONS:
                raise InvalidRequest(
                    f"there is no option {name}", hint=f"One of {', '.join(CALL_OPTIONS)}."
                )
            options.set_chat_option(name, (value,) if name == "stop" and value else value)
        return options.chat

    def fill(self, text: str | None, params: Iterable[str]) -> tuple[str | None, str | None]:
        """Return the system message and the prompt; None for one that there is not.

        Args:
            text: What the user gave; None for a conversation.
            params: Values of the variables, such as `language=French`. Raises InvalidRequest if one
                is missing or unknown.
        """
        given = _parse_params(params)
        values = {**self.defaults, **given}
        if unknown := given.keys() - self.variables:
            raise InvalidRequest(
                f"the template has no variable {', '.join(sorted(unknown))}",
                hint=f"It has {', '.join(self.variables)}." if self.variables else "It has none.",
            )
        if missing := [name for name in self.variables if name not in values]:
            raise InvalidRequest(
                f"the template needs a value for {', '.join(missing)}",
                hint=f"Such as --param {missing[0]}=VALUE.",
            )
        system = string.Template(self.system or "").substitute(values, input=text or "")
        if text is None and self.needs_input:
            return system or None, None
        prompt = string.Template(self.prompt).substitute(values, input=text or "")
        if text and INPUT not in _find_variables(self.prompt):
            prompt = f"{prompt.rstrip()}\n\n{text}" if prompt.strip() else text
        return system or None, prompt


def load_template(argument: str) -> Template:
    """Read a template: a file, or a name in the user's directory. Raises InvalidRequest."""
    path = Path(argument)
    if path.suffix not in SUFFIXES and path.name == argument:
        found = list_templates().get(argument)
        if found is None:
            names = ", ".join(list_templates())
            raise InvalidRequest(
                f"there is no template {argument} in {get_template_directory()}",
                field=FIELD,
                hint=f"There are: {names}." if names else "Give a file, such as ./summary.toml.",
            )
        path = found
    text = read_text_file(str(path), "--template").text
    try:
        template = _parse(text) if path.suffix == ".toml" else Template(prompt=text.strip())
        template.make_options()
        _check_variables(template)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", field=FIELD, hint=error.hint) from None
    return template


def _parse(text: str) -> Template:
    try:
        return msgspec.convert(tomllib.loads(text), Template)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        names = ", ".join(Template.__struct_fields__)
        raise InvalidRequest(
            f"it is no template: {error}", hint=f"A template may have {names}."
        ) from error


def _parse_params(arguments: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if not (sign and re.fullmatch(r"[A-Za-z_]\w*", name)):
            raise InvalidRequest(f"--param {argument} is not NAME=VALUE", field="params")
        values[name] = value
    return values


def _check_variables(template: Template) -> None:
    for part in (template.system, template.prompt):
        if not string.Template(part or "").is_valid():
            raise InvalidRequest("a $ is followed by no name", hint="Write $$ for a $ sign.")


def _find_variables(text: str | None) -> list[str]:
    return string.Template(text or "").get_identifiers()
