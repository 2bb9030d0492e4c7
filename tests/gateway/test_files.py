"""`/v1/files`: uploads, downloads, whose files they are, and the room that they have."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.files.store import FileStore, make_file_id
from foundry_api.gateway.files.stored_bytes import MIN_FILE_BYTES, measure_directory
from foundry_api.gateway.keys.types import NewKey
from foundry_api.testing import FakeService
from foundry_api.types.errors import ConfigurationError
from gateway.keys.helpers import START, FakeClock
from gateway.serving import serve
from gateway.shapes import check_shape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.gateway.gateway import Gateway
    from gateway.serving import ServedGateway

PATH = "/v1/files"
CONTENT = b'{"custom_id":"1"}\n' * 40_000


def make_form(content: bytes | io.BytesIO = CONTENT, **fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("file", content, filename="../../etc/batch.jsonl")
    for name, value in {"purpose": "batch", **fields}.items():
        form.add_field(name, value)
    return form


async def upload(
    http: aiohttp.ClientSession,
    status: int = 200,
    content: bytes | io.BytesIO = CONTENT,
    **fields: str,
) -> Any:
    async with http.post(PATH, data=make_form(content, **fields)) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def get(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


def list_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "files").iterdir())


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_the_openai_sdk_uploads_lists_downloads_and_deletes(client: AsyncOpenAI) -> None:
    first = await client.files.create(file=("a.jsonl", CONTENT), purpose="batch")
    second = await client.files.create(
        file=("b.jsonl", b"b\n"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (first.bytes, first.filename, first.status) == (len(CONTENT), "a.jsonl", "processed")
    assert second.expires_at == second.created_at + 3600
    assert (await client.files.wait_for_processing(first.id)).id == first.id
    assert [file.id async for file in client.files.list()] == [second.id, first.id]
    assert [file.id async for file in client.files.list(limit=1, order="asc")] == [
        first.id,
        second.id,
    ]
    assert [file.id async for file in client.files.list(purpose="batch_output")] == []
    assert (await client.files.content(first.id)).content == CONTENT
    assert (await client.files.delete(first.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.content(first.id)


async def test_azures_prefix_and_the_shapes(http: aiohttp.ClientSession) -> None:
    stored = await upload(http)
    check_shape("file", stored)
    check_shape("file.list", await get(http, "/openai/v1/files"))
    async with http.head(f"{PATH}/{stored['id']}/content") as response:
        assert response.headers["Content-Length"] == str(len(CONTENT))


async def test_p24_names_are_no_paths_and_contents_are_private(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    stored = await upload(http)
    assert stored["filename"] == "../../etc/batch.jsonl"
    assert list_names(tmp_path / "gateway") == [stored["id"]]
    path = tmp_path / "gateway" / "files" / stored["id"]
    assert path.read_bytes() == CONTENT
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        database = tmp_path / "gateway" / "files.db"
        assert stat.S_IMODE(database.stat().st_mode) == 0o600
    for name in ("..%2Ffiles.db", "%2e%2e%2ffiles.db", "x' or '1'='1", stored["id"] + "%00"):
        assert (await get(http, f"{PATH}/{name}/content", 404))["error"]["code"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "assistants"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"expires_after[seconds]": "3599"}, "expires_after.seconds"),
        ({"expires_after[seconds]": "soon"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "last_used_at"}, "expires_after.seconds"),
    ],
)
async def test_a_wrong_form_leaves_no_file(
    http: aiohttp.ClientSession, tmp_path: Path, fields: dict[str, str], param: str
) -> None:
    refused = await upload(http, 400, **fields)
    assert refused["error"]["param"].startswith(param.split(".", maxsplit=1)[0])
    assert list_names(tmp_path / "gateway") == []


async def test_a_request_that_is_no_form(http: aiohttp.ClientSession) -> None:
    async with http.post(PATH, json={"purpose": "batch", "file": "/etc/passwd"}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_content_type"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=²", "limit=10001", "order=up", "after=file-x"),
        *(f"limit=000000001{'9' * digits}" for digits in (20, 5000)),
    ],
    ids=lambda query: query[:12],
)
async def test_a_wrong_page(http: aiohttp.ClientSession, query: str) -> None:
    error = (await get(http, f"{PATH}?{query}", 400))["error"]
    assert error["param"] == query.partition("=")[0]


async def test_an_error_is_not_sent_within_a_file(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    stored = await upload(http, content=io.BytesIO(b"x" * 2**24))
    received = bytearray()

    async def read_all(content: aiohttp.StreamReader) -> None:
        while block := await content.readany():
            received.extend(block)

    async with http.get(f"{PATH}/{stored['id']}/content") as response:
        received += await response.content.readany()
        await gateway.drain(0)
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_all(response.content)
    assert set(received) == {ord("x")}


async def test_a_client_that_leaves_leaves_no_file(gateway: Gateway, tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    files = gateway.context.files
    async with aiohttp.ClientSession(gateway.url) as http:

        async def send() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            yield b"x" * 2**20
            # The gateway has begun to write when the connection breaks.
            while not (names := list_names(directory)) or not names[0].endswith(".part"):
                yield b"x" * 2**16
            raise RuntimeError("the client leaves")

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        with pytest.raises((RuntimeError, aiohttp.ClientError)):
            await http.post(PATH, data=send(), headers=headers)
    running = [exchange.ended for exchange in gateway.context.running]
    for ended in running:
        await ended
    assert list_names(directory) == []
    assert files.stored_bytes.total == 0
    files.check_space(gateway.context.config.max_stored_bytes, None)


class TestLimits:
    @pytest.fixture
    def config(self) -> GatewayConfig:
        return GatewayConfig(
            port=0, max_body_bytes=100, max_file_bytes=50_000, max_stored_bytes=120_000
        )

    async def test_a_file_that_is_too_large(
        self, http: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        error = (await upload(http, 413))["error"]
        assert error["code"] == "payload_too_large"
        assert list_names(tmp_path / "gateway") == []

    async def test_no_room_is_413_with_the_reason(self, http: aiohttp.ClientSession) -> None:
        stored = [await upload(http, content=b"x" * 49_000) for _ in range(2)]
        async with http.post(PATH, data=make_form(b"x" * 49_000)) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (413, "storage_full")
            assert response.headers["x-should-retry"] == "false"
        assert "98000 bytes and may have 120000 (max_stored_bytes)" in error["message"]
        async with http.delete(f"{PATH}/{stored[0]['id']}") as response:
            assert response.status == 200
        await upload(http, content=b"x" * 49_000)

    async def test_many_small_files_need_room_too(self, http: aiohttp.ClientSession) -> None:
        for _ in range(120_000 // MIN_FILE_BYTES):
            await upload(http, content=b"x")
        assert (await upload(http, 413, content=b"x" * 49_000))["error"]["code"] == "storage_full"


class TestOwners:
    @pytest.fixture
    async def served(self, tmp_path: Path) -> AsyncIterator[ServedGateway]:
        keys = [
            NewKey(name="a"),
            NewKey(name="b"),
            NewKey(name="manager", scopes=frozenset({"manage"})),
            NewKey(name="metrics", scopes=frozenset({"metrics"})),
        ]
        async with FakeService() as upstream, serve(tmp_path, upstream.base_url, *keys) as served:
            yield served

    async def test_a_key_sees_its_own_files_and_a_manager_all(self, served: ServedGateway) -> None:
        other, manager = served.open_session(1), served.open_session(2)
        stored = await upload(served.http, content=b"secret\n")
        path = f"{PATH}/{stored['id']}"
        assert (await get(other, PATH))["data"] == []
        assert (await get(other, f"{PATH}?after={stored['id']}", 400))["error"]["param"] == "after"
        for method, place in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            async with other.request(method, place) as response:
                assert response.status == 404
        assert [one["id"] for one in (await get(manager, PATH))["data"]] == [stored["id"]]
        async with manager.get(f"{path}/content") as response:
            assert await response.read() == b"secret\n"
        await upload(manager, 403)
        await get(served.open_session(3), PATH, 403)
        async with manager.delete(path) as response:
            assert response.status == 200

    @pytest.mark.parametrize(
        ("settings", "limit"),
        [({}, 60_000), ({"max_stored_bytes_per_key": 70_000}, 70_000)],
        ids=["half of all", "a setting"],
    )
    async def test_a_key_does_not_fill_the_room_of_others(
        self, tmp_path: Path, settings: dict[str, int], limit: int
    ) -> None:
        config = {"max_file_bytes": 50_000, "max_stored_bytes": 120_000, **settings}
        keys = [NewKey(name="a"), NewKey(name="b"), NewKey(name="c")]
        async with FakeService() as upstream:
            async with serve(tmp_path, upstream.base_url, *keys, config=config) as served:
                first, second = served.http, served.open_session(1)
                stored = [await upload(first, content=b"x" * 40_000)]
                error = (await upload(first, 413, content=b"x" * 40_000))["error"]
                assert error["code"] == "storage_full"
                reason = f"this key have 40000 bytes and may have {limit} (max_stored_bytes_per_key"
                assert reason in error["message"]
                await upload(first, content=b"x")
                await upload(second, content=b"x" * 40_000)
                stored_bytes = served.gateway.context.files.stored_bytes
                assert stored_bytes.total == measure_directory(tmp_path / "files")
            # A restart counts what there is.
            async with serve(tmp_path, upstream.base_url, config=config) as served:
                files = served.gateway.context.files
                assert files.stored_bytes.total == 80_000 + MIN_FILE_BYTES
                await files.delete([stored[0]["id"], "file-unknown"])
                await files.delete([stored[0]["id"]])
                assert files.stored_bytes.total == measure_directory(tmp_path / "files")


class TestTime:
    async def test_files_end_with_their_time(self, tmp_path: Path) -> None:
        clock = FakeClock()
        async with (
            FakeService() as upstream,
            serve(tmp_path, upstream.base_url, wall_clock=clock) as served,
        ):
            files = served.gateway.context.files
            short = await upload(served.http, **{"expires_after[seconds]": "3600"})
            used = await upload(served.http, **{"expires_after[seconds]": "3600"})
            long = await upload(served.http)
            assert long["expires_at"] == START + 30 * 86_400
            files.in_use.add(used["id"])
            async with served.http.delete(f"{PATH}/{used['id']}") as response:
                assert response.status == 409
            clock.now += 3600
            await get(served.http, f"{PATH}/{short['id']}", 404)
            await files.delete_expired()
            assert list_names(tmp_path) == sorted([used["id"], long["id"]])


async def test_a_restart_keeps_files_and_removes_what_was_cut_off(tmp_path: Path) -> None:
    async with FakeService() as upstream:
        async with serve(tmp_path, upstream.base_url) as served:
            stored = await upload(served.http)
        for suffix in (".part", "", ".batch"):
            (tmp_path / "files" / f"{make_file_id()}{suffix}").write_bytes(b"half")
        async with serve(tmp_path, upstream.base_url) as served:
            assert await get(served.http, f"{PATH}/{stored['id']}") == stored
        assert list_names(tmp_path) == [stored["id"]]


async def test_a_file_that_is_being_downloaded_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows does not remove a file that is open: the next start of the gateway does."""

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(13, f"The process cannot access the file {path} {missing_ok}")

    async with FakeService() as upstream:
        async with serve(tmp_path, upstream.base_url) as served:
            stored = await upload(served.http)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", refuse)
                async with served.http.delete(f"{PATH}/{stored['id']}") as response:
                    assert response.status == 200, await response.text()
            async with served.http.get(f"{PATH}/{stored['id']}") as response:
                assert response.status == 404
        assert list_names(tmp_path) == [stored["id"]]
        async with serve(tmp_path, upstream.base_url) as served:
            await get(served.http, PATH)
        assert list_names(tmp_path) == []


async def test_files_of_others_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "files" / "thesis"
    thesis.mkdir(parents=True)
    names = ["draft.part", "file-list.txt", "thesis/chapter-1.txt"]
    for name in names:
        (tmp_path / "files" / name).write_text("mine", encoding="utf-8")
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url) as served:
        await upload(served.http)
    assert all((tmp_path / "files" / name).exists() for name in names)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "files.db"
    path.write_bytes(b"My notes. " * 100)
    store = FileStore(tmp_path, max_bytes=1, max_key_bytes=1, wall_clock=FakeClock())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await store.open()
    await store.close()
    assert path.read_bytes() == b"My notes. " * 100
