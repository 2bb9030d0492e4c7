"""HTML and SVG, written so that a text cannot become markup by mistake."""

from __future__ import annotations

from html import escape

from foundry_api.plain_text import printable

__all__ = ["Markup", "join", "tag"]


class Markup(str):
    """Text that is markup already. All other text is escaped when it goes into an element."""

    __slots__ = ()


def join(*parts: str) -> Markup:
    """Several pieces as one."""
    return Markup(
        "".join(part if isinstance(part, Markup) else escape(printable(part)) for part in parts)
    )


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """An element.

    Args:
        name: Its name.
        children: What is in it; text that is not `Markup` is escaped.
        attributes: By their names, an underscore for each hyphen, and one behind `class_`.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{told}>{join(*children)}</{name}>")


def _value(value: str | float) -> str:
    return escape(printable(value)) if isinstance(value, str) else f"{value:.6g}"
