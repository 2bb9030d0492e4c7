"""The page at `/docs`: the OpenAPI document as HTML, without scripts and without other files."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from foundry_api.types.values import is_dict

__all__ = ["HEADERS", "format_page"]

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing is loaded, run, sent or framed; the style sheet within the page is allowed by its digest.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
# Limits of a schema: of numbers, characters and items.
_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
)


def format_page(document: dict[str, Any]) -> str:
    """Return the HTML page of an OpenAPI document. All texts of the document are escaped."""
    info = document["info"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    groups: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for method, path, operation in operations:
        groups[operation["tags"][0]].append(_format_operation(method, path, operation))
    title = escape(info["title"])
    names = [(_get_id("group", name), name) for name in groups]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in names)
    sections = "".join(
        f'<section><h2 id="{_get_id("group", name)}">{escape(name)}</h2>{"".join(items)}</section>'
        for name, items in groups.items()
    )
    schemas = document["components"]["schemas"]
    types = "".join(_format_type(name, schema) for name, schema in sorted(schemas.items()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        f"<header><h1>{title} <small>{escape(info['version'])}</small></h1>"
        f"{_format_paragraphs(info['description'])}"
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
        f'<nav>{links}<a href="#keys">Keys</a><a href="#errors">Errors</a>'
        '<a href="#types">Types</a></nav></header>'
        f"<main>{sections}"
        f'<section><h2 id="keys">Keys</h2>{_format_keys(document)}</section>'
        f'<section><h2 id="errors">Errors</h2>{_format_errors(document)}</section>'
        f'<section><h2 id="types">Types</h2>{types}</section></main></body></html>\n'
    )


def _format_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    head = (
        f'<span class="method {method}">{method.upper()}</span> '
        f"<code>{_break_path(path)}</code> <span>{escape(operation['summary'])}</span>"
    )
    if original := operation.get("x-alias-of"):
        return f'<p><a href="#{_get_id("op", original)}">{head}</a></p>'
    parts = [_format_paragraphs(operation["description"])]
    if operation["parameters"]:
        rows = "".join(
            _format_row(
                one["name"],
                f"{_format_schema(one['schema'])}, in the {escape(one['in'])}",
                one.get("description", ""),
                is_required=one["required"],
            )
            for one in operation["parameters"]
        )
        parts.append(f"<h4>Parameters</h4><dl>{rows}</dl>")
    if body := operation.get("requestBody"):
        parts.append(_format_body(method, path, body))
    parts.append(_format_answers(operation["responses"]))
    # The anchor is inside, so that a link to it opens the element around it.
    anchor = f'<a id="{_get_id("op", operation["operationId"])}"></a>'
    return f"<details><summary>{head}</summary><div>{anchor}{''.join(parts)}</div></details>"


def _format_body(method: str, path: str, body: dict[str, Any]) -> str:
    [(media_type, media)] = body["content"].items()
    text = (
        f"<h4>Body</h4><p><code>{escape(media_type)}</code>: {_format_schema(media['schema'])}</p>"
    )
    if (example := media.get("example")) is not None:
        data = msgspec.json.encode(example).decode()
        command = (
            f'curl -X {method.upper()} "$GATEWAY{path}" -H "Authorization: Bearer $KEY" \\\n'
            f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(data)}"
        )
        text += f"<pre><code>{escape(command)}</code></pre>"
    return text


def _format_answers(answers: dict[str, Any]) -> str:
    rows, errors = "", ""
    for status, answer in answers.items():
        if ref := answer.get("$ref"):
            name = ref.rpartition("/")[2]
            errors += f' <a href="#{_get_id("error", name)}">{escape(status)}</a>'
            continue
        kinds: list[str] = []
        for media_type, media in answer["content"].items():
            schema = media.get("x-itemSchema", media["schema"])
            events = "events of " if "x-itemSchema" in media else ""
            kinds.append(f"<code>{escape(media_type)}</code>: {events}{_format_schema(schema)}")
        rows += _format_row(status, "<br>".join(kinds), "")
    rows += _format_row("errors", errors, "")
    return f"<h4>Answers</h4><dl>{rows}</dl>"


def _format_keys(document: dict[str, Any]) -> str:
    rows = "".join(
        _format_row(
            name,
            "<code>Authorization: Bearer KEY</code>"
            if scheme["type"] == "http"
            else f"<code>{escape(scheme['name'])}: KEY</code>",
            scheme["description"],
        )
        for name, scheme in document["components"]["securitySchemes"].items()
    )
    return f"<dl>{rows}</dl>"


def _format_errors(document: dict[str, Any]) -> str:
    rows = "".join(
        f'<dt id="{_get_id("error", name)}">{escape(_name_error(name))}</dt>'
        f"<dd>{_format_schema(answer['content']['application/json']['schema'])}. "
        f"{_format_text(answer['description'])}</dd>"
        for name, answer in document["components"]["responses"].items()
    )
    return f"<dl>{rows}</dl>"


def _name_error(name: str) -> str:
    """Return `404` or `404, Anthropic` for Error404 or AnthropicError404."""
    shape, _, status = name.partition("Error")
    return f"{status}, {shape}" if shape else status


def _format_type(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    members = "".join(
        _format_row(
            member,
            _format_schema(of_member),
            of_member.get("description", ""),
            is_required=member in required,
        )
        for member, of_member in schema.get("properties", {}).items()
    )
    anchor = f'<a id="{_get_id("type", name)}"></a>'
    text = _format_text(schema.get("description", ""))
    return (
        f"<details><summary><code>{escape(name)}</code> <span>{text}</span></summary>"
        f"<div>{anchor}<dl>{members}</dl></div></details>"
    )


def _format_row(name: str, value: str, text: str, *, is_required: bool = False) -> str:
    """Return an entry of a list; `value` is HTML."""
    mark = " <b>required</b>" if is_required else ""
    meaning = f"<p>{_format_text(text)}</p>" if text else ""
    return f"<dt>{escape(name)}{mark}</dt><dd>{value}{meaning}</dd>"


def _format_schema(schema: dict[str, Any]) -> str:
    """Return a schema as a phrase of HTML with links to types."""
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f'<a href="#{_get_id("type", name)}">{escape(name)}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_format_schema(one) for one in schema[union])
    if "allOf" in schema:
        return " and ".join(_format_schema(one) for one in schema["allOf"])
    if "enum" in schema:
        return " or ".join(_format_constant(value) for value in schema["enum"])
    if "const" in schema:
        return _format_constant(schema["const"])
    return escape(_name_kind(schema)) + _format_items(schema) + _format_bounds(schema)


def _format_items(schema: dict[str, Any]) -> str:
    if is_dict(items := schema.get("items")):
        return f" of {_format_schema(items)}" if items else ""
    values = schema.get("additionalProperties")
    if is_dict(values) and values:
        return f" of {_format_schema(values)}"
    if schema.get("properties") and schema.get("type") == "object":
        return f" with {', '.join(f'<code>{escape(name)}</code>' for name in schema['properties'])}"
    return ""


def _format_bounds(schema: dict[str, Any]) -> str:
    for least, most, unit in _BOUNDS:
        if least in schema and most in schema:
            return escape(f" ({schema[least]} to {schema[most]}{unit})")
        if least in schema:
            return escape(f" ({schema[least]}{unit} or more)")
    return escape(f" (above {low})") if (low := schema.get("exclusiveMinimum")) is not None else ""


def _name_kind(schema: dict[str, Any]) -> str:
    if schema.get("format") == "binary":
        return "file"
    return {"array": "list", None: "any value"}.get(schema.get("type"), str(schema.get("type")))


def _format_constant(value: object) -> str:
    return f"<code>{escape(msgspec.json.encode(value).decode())}</code>"


def _format_paragraphs(text: str) -> str:
    return "".join(f"<p>{_format_text(part)}</p>" for part in text.strip().split("\n\n"))


def _format_text(text: str) -> str:
    """Escape a text, and show what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _break_path(path: str) -> str:
    """Escape a path, and let narrow screens break it."""
    return escape(path).replace("/", "<wbr>/")


def _get_id(kind: str, name: str) -> str:
    return f"{kind}-{re.sub('[^0-9A-Za-z]+', '-', name).strip('-').lower()}"
