"""A fake of the CLI service up to 0.9, which does not run on this machine.

    async with FakeLegacyService() as fake:
        client = FoundryAPIClient(base_url=fake.base_url)

Sources, in addition to those of `fake_sdk1_server`: the REST reference [docs-rest],
foundry-local-sdk 0.5.1 [sdk 0.5.1], its C# tests [cs tests], and issues of microsoft/foundry-local
[gh #N].
"""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from faults.hostile import LAST_CHUNK, encode_chunk, make_head
from support.fakes.fake_sdk1_server import (
    FakeKestrelServer,
    FakeModel,
    cancel_on_disconnect,
    encode_json,
    make_exception_page,
    make_response,
)

if TYPE_CHECKING:
    from faults.hostile import Peer, Received

ProgressForm = Literal["docs", "sdk"]
LIST = {"IsDelta": False, "Successful": True, "HttpStatusCode": 0, "object": "list"}
"""[gh #752]"""

NO_PROVIDER = "No OpenAIService provider found for modelName:{}"
"""[gh #92]"""

NO_CATALOG = "No models were returned from the Azure Foundry catalog."
"""[gh #78]"""


class FakeLegacyService(FakeKestrelServer):
    """A fake service that sends the documented and recorded bytes of 0.8.101.

    Args:
        models: Its models.
        progress: The format of the progress of downloads: a file and a fraction [docs-rest], or
            lines with a percentage [cs tests].
        wrapped_list: Whether `/foundry/list` is `{"models": […]}` [docs-rest] instead of an array
            [sdk 0.5.1].
        catalog: `available`; `empty`, as users observed it [gh #752]; `failing`.
        pascal_case: Whether `/openai/status` has the documented member names, which are in Pascal
            case, instead of the recorded ones.
        failing_download: The error message of downloads, which fail if it is set.
        stalled_download: Whether downloads stall half way until the client disconnects.
        transcribes: Whether it has the documented route, which 0.8.101 lacks [gh #388].

    Attributes:
        abandoned_downloads: Number of downloads whose client disconnected.
        uploads: The form fields of the transcription requests.
    """

    default_max_tokens = 512  # [gh #243]: "about"

    def __init__(
        self,
        models: tuple[FakeModel, ...] | None = None,
        *,
        progress: ProgressForm = "sdk",
        wrapped_list: bool = False,
        catalog: Literal["available", "empty", "failing"] = "available",
        pascal_case: bool = False,
        failing_download: str | None = None,
        stalled_download: bool = False,
        transcribes: bool = True,
    ) -> None:
        super().__init__(models)
        self.catalog = catalog
        self.abandoned_downloads = 0
        self.failing_download = failing_download
        self._progress = progress
        self._wrapped_list = wrapped_list
        self._pascal_case = pascal_case
        self._stalled_download = stalled_download
        self._transcribes = transcribes
        self.uploads: list[dict[str, bytes]] = []

    async def _answer(self, peer: Peer, request: Received) -> None:
        url = urlsplit(request.path)
        match request.method, unquote(url.path).strip("/").split("/"):
            case "GET", ["openai", "load", name]:
                await peer.send(self._load(name, parse_qs(url.query)))
            case "GET", ["openai", "unload", name]:
                await peer.send(self._unload(name))
            case "POST", ["openai", "download"]:
                await self._download(peer, request.json)
            case "POST", ["v1", "chat", "completions"]:
                await self._complete(peer, request.json)
            case "POST", ["v1", "audio", "transcriptions"] if self._transcribes:
                await peer.send(self._transcribe(request))
            case "GET", route:
                await peer.send(self._make_listing("/".join(route)))
            case _:
                await peer.send(make_response(404))

    def _make_listing(self, route: str) -> bytes:
        if route == "foundry/list" and self.catalog == "failing":
            return make_response(
                500, make_exception_page("System.Exception", NO_CATALOG), text=True
            )
        cached = self._get_cached_ids()
        routes: dict[str, Any] = {
            "openai/status": self._make_status(),
            "foundry/list": self._make_list(),
            "openai/models": cached,
            "openai/loadedmodels": [model.id for model in self.models if model.loaded],
            "v1/models": {"data": [{"id": name, "object": "model"} for name in cached], **LIST},
        }
        return make_response(200, routes[route]) if route in routes else make_response(404)

    def _get_cached_ids(self) -> list[str]:
        return [model.id for model in self.models if model.cached]

    def _make_list(self) -> Any:
        models = [] if self.catalog == "empty" else list(map(_make_list_item, self.models))
        return {"models": models} if self._wrapped_list else models

    def _make_status(self) -> dict[str, Any]:
        """Camel case was recorded, Pascal case is documented."""
        if self._pascal_case:
            return {"Endpoints": [self.base_url], "ModelDirPath": "/models", "PipeName": None}
        return {
            "endpoints": [self.base_url],
            "modelDirPath": "C:\\Users\\me\\.foundry\\cache\\models",
            "pipeName": None,
            "isAutoRegistrationResolved": True,
            "autoRegistrationStatus": "Successfully downloaded and registered the following EPs: ",
        }

    def _load(self, name: str, query: dict[str, list[str]]) -> bytes:
        """Its SDK sends `ttl` and `ep` [sdk 0.5.1]."""
        model = self.find(name)
        if model is None or not model.cached or not query["ttl"][0].isdecimal():
            return _make_no_provider_error(400, name)
        if model.broken:
            page = make_exception_page("System.Exception", f"Failed to load model {name}")
            return make_response(500, page, text=True)  # the real text is unknown
        model.loaded = True
        self.loads += 1
        return make_response(200)

    def _unload(self, name: str) -> bytes:
        """Unloading fails for a model that is not downloaded [sdk 0.5.1]."""
        model = self.find(name)
        if model is None or not model.cached:
            return _make_no_provider_error(400, name)
        model.loaded = False
        return make_response(200)

    async def _complete(self, peer: Peer, body: dict[str, Any]) -> None:
        model = self.find(body["model"])
        if model is None or not model.cached:
            await peer.send(_make_no_provider_error(400, body["model"]))  # [gh #92]
        elif (body.get("response_format") or {}).get("type") == "json_schema":
            page = make_exception_page(
                "System.NotSupportedException", "json_schema is not supported"
            )
            # [gh #81]; the real text is unknown
            await peer.send(make_response(500, page, text=True))
        else:
            model.loaded = True  # a request loads an idle model that was unloaded [gh #284]
            await self._chat(peer, body)

    def _transcribe(self, request: Received) -> bytes:
        """The form has file, model, language, temperature and response_format [docs-rest]."""
        kind = request.headers["content-type"].encode()
        form: Any = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + request.body)
        fields = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in form.get_payload()
        }
        self.uploads.append(fields)
        return make_response(200, {"text": f"{len(fields['file'])} bytes"})

    async def _download(self, peer: Peer, body: dict[str, Any]) -> None:
        """A model is downloaded by its id with version and its source [docs-rest]."""
        model_info = body["model"]
        model = self.find(model_info["Name"])
        if (
            model is None
            or model_info["ProviderType"] != "AzureFoundryLocal"
            or not model_info["Uri"]
        ):
            await peer.send(_make_no_provider_error(400, model_info["Name"]))
            return
        await peer.send(make_head(content_type="text/plain"))
        async with cancel_on_disconnect(peer, self._count_abandoned):
            for percent in (0, 12.5, 50, 100):
                await peer.send(encode_chunk(self._encode_progress(percent)))
                if percent and self._stalled_download:
                    await asyncio.Event().wait()
        model.cached = self.failing_download is None
        await peer.send(encode_chunk(self._encode_result()), LAST_CHUNK)

    def _count_abandoned(self) -> None:
        self.abandoned_downloads += 1

    def _encode_progress(self, percent: float) -> bytes:
        if self._progress == "docs":
            return f'("model.onnx.data", {percent / 100})\n'.encode()
        return f"Total {percent:.2f}% Downloading model.onnx.data\n".encode()

    def _encode_result(self) -> bytes:
        """The member names are those of the documentation or of the SDK."""
        success, error = self.failing_download is None, self.failing_download
        if self._progress == "docs":
            return encode_json({"Success": success, "ErrorMessage": error})
        return b'{\n  "success": %s,\n  "errorMessage": %s\n}' % (
            encode_json(success),
            encode_json(error),
        )


def _make_no_provider_error(status: int, name: str) -> bytes:
    page = make_exception_page("System.InvalidOperationException", NO_PROVIDER.format(name))
    return make_response(status, page, text=True)


def _make_list_item(model: FakeModel) -> dict[str, Any]:
    """Return a list item with every field that the SDK requires [sdk 0.5.1, models.py]."""
    name, _, version = model.id.partition(":")
    return {
        "name": model.id,
        "displayName": name,
        "modelType": "ONNX",
        "providerType": "AzureFoundry",
        "uri": f"azureml://registries/azureml/models/{name}/versions/{version}",
        "version": version,
        "promptTemplate": {"prompt": "<|user|>{Content}<|end|><|assistant|>"},
        "publisher": "Microsoft",
        "task": "chat-completion",
        "runtime": {"deviceType": model.device, "executionProvider": model.provider},
        "fileSizeMb": 29,
        "modelSettings": {"parameters": []},
        "alias": model.alias,
        "supportsToolCalling": False,
        "license": "MIT",
        "licenseDescription": "",
        "parentModelUri": "",
        "maxOutputTokens": 2048,
        "minFLVersion": None,
    }
