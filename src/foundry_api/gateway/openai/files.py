"""`/v1/files`: upload, list, describe, download and delete files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.gateway.checks import make_invalid, make_missing
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.file_sending import send_files
from foundry_api.gateway.files.types import (
    FILE_PURPOSES,
    DeletedFile,
    FileList,
    StoredFile,
    make_file_object,
)
from foundry_api.gateway.forms import FormReader, convert_form, require_form
from foundry_api.gateway.openai.pages import (
    get_bounds,
    get_visibility,
    make_wrong_cursor,
    read_page_query,
)

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange

__all__ = [
    "DEFAULT_LIFETIME_S",
    "MAX_LIFETIME_S",
    "MIN_LIFETIME_S",
    "ExpiresAfter",
    "FileForm",
    "create_file",
    "delete_file",
    "get_file",
    "get_file_content",
    "get_lifetime_s",
    "list_files",
    "make_file_not_found",
]

# As OpenAI's: the files of batches are deleted after 30 days, unless the client says when.
DEFAULT_LIFETIME_S = 30 * 86_400
MIN_LIFETIME_S, MAX_LIFETIME_S = 3600, 30 * 86_400
MAX_PAGE = 10_000
MAX_NAME_CHARS = 255


class ExpiresAfter(msgspec.Struct, kw_only=True):
    """When a file is deleted."""

    seconds: int
    anchor: Literal["created_at"] = "created_at"


class FileForm(msgspec.Struct, kw_only=True):
    """The fields of the form, besides the file."""

    purpose: str
    expires_after: ExpiresAfter | None = None


async def create_file(exchange: Exchange) -> web.StreamResponse:
    """Store an upload."""
    context = exchange.context
    require_form(exchange, "a file and purpose=batch")
    most = context.config.max_file_bytes
    declared = exchange.request.content_length
    size = most if declared is None else min(declared, most)
    owner = exchange.owner
    async with context.files.receive(size, owner) as draft:
        reader = FormReader(exchange, draft.file, setting="max_file_bytes")
        await reader.read()
        form = _read_form(reader.fields)
        if reader.digest is None:
            raise make_missing("file")
        now = int(context.wall_clock())
        stored = StoredFile(
            id=draft.id,
            owner=owner,
            purpose="batch",
            filename=_clean_name(reader.filename),
            size=reader.size,
            created_at=now,
            expires_at=now + get_lifetime_s("expires_after", form.expires_after),
        )
        await context.files.keep(draft, stored)
    return exchange.respond_json(make_file_object(stored))


async def list_files(exchange: Exchange) -> web.StreamResponse:
    """List the files that the caller sees."""
    query = read_page_query(exchange, default=MAX_PAGE, most=MAX_PAGE)
    visibility = get_visibility(exchange)
    purpose = exchange.request.query.get("purpose")
    purposes = [one for one in FILE_PURPOSES if purpose in {None, one}]
    page = await exchange.context.files.query(
        lambda database: database.files.find_page(
            visibility,
            limit=query.limit,
            after=query.after,
            kinds=purposes,
            is_ascending=query.is_ascending,
        )
    )
    if page is None:
        raise make_wrong_cursor()
    data = [make_file_object(stored) for stored in page.rows]
    return exchange.respond_json(
        FileList(data=data, has_more=page.has_more, **get_bounds([one.id for one in data]))
    )


async def get_file(exchange: Exchange) -> web.StreamResponse:
    """Describe a file."""
    return exchange.respond_json(make_file_object(await _find(exchange)))


async def delete_file(exchange: Exchange) -> web.StreamResponse:
    """Delete a file."""
    stored, files = await _find(exchange), exchange.context.files
    if stored.id in files.in_use:
        raise RequestError(
            409,
            "file_in_use",
            "A batch that has not ended reads this file. Cancel the batch first.",
            param="id",
            should_retry=False,
        )
    await files.delete([stored.id])
    return exchange.respond_json(DeletedFile(id=stored.id))


async def get_file_content(exchange: Exchange) -> web.StreamResponse:
    """Send the content of a file, block by block."""
    stored = await _find(exchange)
    return await send_files(
        exchange, [stored], "application/octet-stream", make_file_not_found("id")
    )


async def _find(exchange: Exchange) -> StoredFile:
    visibility, identifier = get_visibility(exchange), exchange.path_id
    stored = await exchange.context.files.query(
        lambda database: database.files.get(identifier, visibility)
    )
    if (
        stored is None
        or stored.purpose not in FILE_PURPOSES
        or stored.expires_at <= exchange.context.wall_clock()
    ):
        raise make_file_not_found("id")
    return stored


def make_file_not_found(field: str) -> RequestError:
    """Return the error for a file that does not exist, or belongs to another key."""
    return RequestError(404, "file_not_found", "There is no file with this id.", param=field)


def get_lifetime_s(field: str, expires_after: ExpiresAfter | None) -> int:
    """Return the seconds for which a file is kept.

    Raises:
        RequestError: They are too few or too many.
    """
    if expires_after is None:
        return DEFAULT_LIFETIME_S
    if not MIN_LIFETIME_S <= expires_after.seconds <= MAX_LIFETIME_S:
        raise make_invalid(
            f"{field}.seconds",
            f"{field}.seconds is {expires_after.seconds}; {MIN_LIFETIME_S} to {MAX_LIFETIME_S} "
            "are allowed.",
        )
    return expires_after.seconds


def _read_form(fields: dict[str, str]) -> FileForm:
    members: dict[str, object] = {
        name: text for name, text in fields.items() if not name.startswith("expires_after")
    }
    expires_after = {
        name.removeprefix("expires_after[").removesuffix("]"): text
        for name, text in fields.items()
        if name.startswith("expires_after[")
    }
    if expires_after:
        members["expires_after"] = expires_after
    form = convert_form(members, FileForm)
    if form.purpose != "batch":
        raise make_invalid(
            "purpose", "The gateway keeps files for batches only. Send purpose=batch."
        )
    return form


def _clean_name(name: str) -> str:
    printable = "".join(character for character in name if character.isprintable())
    return printable[:MAX_NAME_CHARS] or "file"
