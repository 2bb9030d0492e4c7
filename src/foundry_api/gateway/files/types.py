"""Uploaded and generated files, as they are stored and as the API shows them."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

__all__ = [
    "FILE_PURPOSES",
    "DeletedFile",
    "FileList",
    "FileObject",
    "ObjectList",
    "Purpose",
    "StoredFile",
    "StoredPurpose",
    "make_file_object",
]

Purpose = Literal["batch", "batch_output"]
# Anthropic's message batches have files too, which their own routes send and delete.
StoredPurpose = Purpose | Literal["message_batch", "message_batch_results"]
FILE_PURPOSES: tuple[Purpose, ...] = ("batch", "batch_output")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a key.

    Attributes:
        id: The id, which is also the name of its content on the disk.
        owner: The id of the key that it belongs to; None without keys.
        purpose: `batch` for an input, `batch_output` for the results of a batch; `message_batch`
            and `message_batch_results` for those of a message batch.
        filename: The name that its client gave; it is only shown.
        size: Bytes of its content.
        created_at: Seconds since the epoch, as all times.
        expires_at: When it is deleted.
    """

    id: str
    owner: str | None
    purpose: StoredPurpose
    filename: str
    size: int
    created_at: int
    expires_at: int


class FileObject(msgspec.Struct, kw_only=True):
    """OpenAI's description of a file."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class ObjectList(msgspec.Struct, kw_only=True):
    """A page of objects. The ids are those of its first and last object."""

    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


class FileList(ObjectList, kw_only=True):
    """A page of files."""

    data: list[FileObject]


class DeletedFile(msgspec.Struct, kw_only=True):
    """The response to `DELETE /v1/files/{id}`."""

    id: str
    deleted: Literal[True] = True
    object: Literal["file"] = "file"


def make_file_object(stored: StoredFile) -> FileObject:
    """Describe a file to a client; its purpose is one of `FILE_PURPOSES`."""
    return FileObject(
        id=stored.id,
        bytes=stored.size,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
        filename=stored.filename,
        purpose=cast("Purpose", stored.purpose),
    )
