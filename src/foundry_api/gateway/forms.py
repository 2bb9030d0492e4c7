"""Forms with one file: `multipart/form-data` that is written to the disk as it arrives."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar

import msgspec
from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
    web,
)
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TRANSFER_ENCODING
from aiohttp.http import HttpProcessingError

from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.exchange import BODY_BYTES_PER_S, BODY_GRACE_S, make_too_large

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from foundry_api.gateway.exchange import Exchange

__all__ = ["FormReader", "convert_form", "require_form"]

MAX_PARTS = 32
MAX_FIELD_BYTES = 64 * 1024
BLOCK_BYTES = 256 * 1024
MAX_NAME_CHARS = 64
# What does not change the content of a part.
_ENCODINGS = frozenset({"", "7bit", "8bit", "binary", "identity"})

_T = TypeVar("_T")


def require_form(exchange: Exchange, content: str) -> None:
    """Refuse a request without a form; `content` says what it has to contain.

    Raises:
        RequestError: 400.
    """
    content_type = exchange.request.headers.get("Content-Type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise RequestError(
            400,
            "invalid_content_type",
            f"Upload the file: send multipart/form-data with {content}. Paths are not accepted.",
            param="file",
        )


def convert_form(fields: Mapping[str, object], kind: type[_T]) -> _T:
    """Return the fields of a form as a type.

    Raises:
        RequestError: A field is missing or has another type; `param` is its name.
    """
    try:
        # Not strict: a form has only text.
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        if not place and problem.startswith("Object missing required field `"):
            name = problem.partition("`")[2].rstrip("`")
            raise RequestError(
                400, "missing_required_parameter", f"{name} is missing.", param=name
            ) from None
        field = place.rstrip("`")
        raise RequestError(400, "invalid_type", f"{field}: {problem}.", param=field) from None


async def _read_head(reader: MultipartReader) -> MultipartReader | BodyPartReader | None:
    """Return the next part."""
    try:
        return await reader.next()
    except RuntimeError as error:  # of a part `_charset_` that is too long
        raise ValueError(str(error)) from error


def _get_names(part: BodyPartReader) -> tuple[str, str]:
    """Return the name of a part and of its file; refuse a part that is encoded.

    Raises:
        ValueError: It has no name, or names that are not UTF-8.
    """
    name, filename = part.name, part.filename or ""
    if not name:
        raise ValueError("a part has no name")
    f"{name}{filename}".encode()
    for header in (CONTENT_ENCODING, CONTENT_TRANSFER_ENCODING):
        if part.headers.get(header, "").strip().lower() not in _ENCODINGS:
            name = name[:MAX_NAME_CHARS]
            raise RequestError(
                415,
                "unsupported_encoding",
                f"Encoded parts are not accepted. Send {name} as it is, without {header}.",
                param=name,
            )
    return name, filename


class FormReader:
    """Reads a form, and writes its part `file` to a file as it arrives.

    Args:
        exchange: The exchange.
        file: Where the part `file` is written to.
        setting: The setting that says how many bytes the part `file` may have.

    Attributes:
        fields: The other parts; the values of a list are joined by commas.
        filename: The name that the client gave the part `file`; it may be anything.
        digest: The digest of the part `file`; None without one.
        size: Bytes of the part `file`.
    """

    def __init__(
        self,
        exchange: Exchange,
        file: BinaryIO,
        *,
        setting: Literal["max_file_bytes", "max_upload_bytes"],
    ) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.digest: str | None = None
        self.size = 0
        self._exchange = exchange
        self._request = exchange.request
        self._setting = setting
        self._max_bytes: int = getattr(exchange.context.config, setting)
        self._file = file
        self._received = 0

    async def read(self) -> None:
        """Read all parts.

        Raises:
            RequestError: The form is invalid, too large, or arrives too slowly.
        """
        if (self._request.content_length or 0) > self._max_bytes + MAX_PARTS * MAX_FIELD_BYTES:
            raise make_too_large(self._max_bytes, self._setting)
        await self._exchange.ask_for_body()
        started_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(BODY_GRACE_S) as time_limit:
                reader = MultipartReader(self._request.headers, self._request.content)
                for _ in range(MAX_PARTS):
                    part = await _read_head(reader)
                    if part is None:
                        return
                    if not isinstance(part, BodyPartReader):
                        raise make_invalid("file", "A part of the form is a form itself.")
                    async for _ in self._read_part(part):
                        time_limit.reschedule(
                            started_at + BODY_GRACE_S + self._received / BODY_BYTES_PER_S
                        )
        except TimeoutError:
            raise RequestError(
                408, "request_timeout", "The body of the request arrived too slowly."
            ) from None
        except (
            BadContentDispositionHeader,
            BadContentDispositionParam,
            HttpProcessingError,  # a header of a part
            ValueError,  # also a text that is not UTF-8
            web.RequestPayloadError,
        ) as error:
            raise RequestError(
                400, "invalid_multipart", "The body is not valid multipart/form-data."
            ) from error
        raise make_invalid("file", f"The form has more than {MAX_PARTS} parts.")

    async def _read_part(self, part: BodyPartReader) -> AsyncGenerator[None]:
        """Read a part; yield after each block."""
        name, filename = _get_names(part)
        is_file = name == "file"
        if is_file and self.digest is not None:
            raise make_invalid("file", "The form has several files. Send one.")
        # Several values of one field are a list if its name says so.
        if name in self.fields and not name.endswith("[]"):
            name = name[:MAX_NAME_CHARS]
            raise make_invalid(name, f"The form has {name} twice. Send it once.")
        limit = self._max_bytes if is_file else MAX_FIELD_BYTES
        content, size, digest = bytearray(), 0, hashlib.sha256()
        while block := await part.read_chunk(BLOCK_BYTES):
            size += len(block)
            self._received += len(block)
            if size > limit and is_file:
                raise make_too_large(limit, self._setting)
            if size > limit:
                raise make_invalid(name, f"{name} is larger than {limit} bytes.")
            if is_file:
                digest.update(block)
                await asyncio.to_thread(self._file.write, block)
            else:
                content += block
            yield
        if not is_file:
            text = content.decode()
            self.fields[name] = f"{self.fields[name]},{text}" if name in self.fields else text
        elif not size:
            raise make_invalid("file", "file is empty.")
        else:
            self.digest, self.size = digest.hexdigest(), size
            self.filename = filename
