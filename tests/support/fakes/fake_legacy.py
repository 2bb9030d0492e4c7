"""A double of the command line's service up to 0.9, which does not run on this machine.

    async with LegacyServiceDouble() as double:
        client = FoundryAPIClient(base_url=double.base_url)

Sources, beside those of `kestrel`: the REST reference [docs-rest], foundry-local-sdk 0.5.1
[sdk 0.5.1], its C# tests [cs tests], and issues of microsoft/foundry-local [gh #N].
"""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from faults.hostile import LAST_CHUNK, encode_chunk, make_head
from support.fakes.fake_sdk1_server import (
    DoubledModel,
    KestrelDouble,
    encoded,
    exception_page,
    until_left,
    whole,
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


class LegacyServiceDouble(KestrelDouble):
    """A double, not the service: the documented and recorded bytes of 0.8.101.

    Args:
        models: What it knows.
        progress: How its downloads tell how far they are: a file and a fraction [docs-rest], or
            percent in a line [cs tests].
        wrapped_list: Whether `/foundry/list` is `{"models": […]}` [docs-rest] instead of an array
            [sdk 0.5.1].
        catalog: `there`; `empty`, as users saw it [gh #752]; `failing`.
        pascal_case: Whether `/openai/status` has the case of the documentation, instead of the one
            that was captured.
        failing_download: The message of a download that fails.
        held_download: Whether downloads stop half way, until the client leaves.
        transcribes: Whether it has the route that is documented, which 0.8.101 lacks [gh #388].

    Attributes:
        downloads_left: How many downloads were left by their client.
        uploads: The fields of the recordings that came.
    """

    default_max_tokens = 512  # [gh #243]: "about"

    def __init__(
        self,
        models: tuple[DoubledModel, ...] | None = None,
        *,
        progress: ProgressForm = "sdk",
        wrapped_list: bool = False,
        catalog: Literal["there", "empty", "failing"] = "there",
        pascal_case: bool = False,
        failing_download: str | None = None,
        held_download: bool = False,
        transcribes: bool = True,
    ) -> None:
        super().__init__(models)
        self.catalog = catalog
        self.downloads_left = 0
        self.failing_download = failing_download
        self._progress = progress
        self._wrapped_list = wrapped_list
        self._pascal_case = pascal_case
        self._held_download = held_download
        self._transcribes = transcribes
        self.uploads: list[dict[str, bytes]] = []

    async def _answer(self, peer: Peer, received: Received) -> None:
        url = urlsplit(received.path)
        match received.method, unquote(url.path).strip("/").split("/"):
            case "GET", ["openai", "load", name]:
                await peer.send(self._load(name, parse_qs(url.query)))
            case "GET", ["openai", "unload", name]:
                await peer.send(self._unload(name))
            case "POST", ["openai", "download"]:
                await self._download(peer, received.json)
            case "POST", ["v1", "chat", "completions"]:
                await self._complete(peer, received.json)
            case "POST", ["v1", "audio", "transcriptions"] if self._transcribes:
                await peer.send(self._transcribe(received))
            case "GET", route:
                await peer.send(self._to_listing("/".join(route)))
            case _:
                await peer.send(whole(404))

    def _to_listing(self, route: str) -> bytes:
        if route == "foundry/list" and self.catalog == "failing":
            return whole(500, exception_page("System.Exception", NO_CATALOG), text=True)
        cached = self._cached()
        routes: dict[str, Any] = {
            "openai/status": self._status(),
            "foundry/list": self._list(),
            "openai/models": cached,
            "openai/loadedmodels": [model.id for model in self.models if model.loaded],
            "v1/models": {"data": [{"id": name, "object": "model"} for name in cached], **LIST},
        }
        return whole(200, routes[route]) if route in routes else whole(404)

    def _cached(self) -> list[str]:
        return [model.id for model in self.models if model.cached]

    def _list(self) -> Any:
        listed = [] if self.catalog == "empty" else list(map(_listed, self.models))
        return {"models": listed} if self._wrapped_list else listed

    def _status(self) -> dict[str, Any]:
        """Camel case was captured, Pascal case is documented."""
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
        """`ttl` and `ep` are what its SDK sends [sdk 0.5.1]."""
        model = self.find(name)
        if model is None or not model.cached or not query["ttl"][0].isdecimal():
            return _no_provider(400, name)
        if model.broken:
            page = exception_page("System.Exception", f"Failed to load model {name}")
            return whole(500, page, text=True)  # its text is unknown
        model.loaded = True
        self.loads += 1
        return whole(200)

    def _unload(self, name: str) -> bytes:
        """It fails for a model that is not downloaded [sdk 0.5.1]."""
        model = self.find(name)
        if model is None or not model.cached:
            return _no_provider(400, name)
        model.loaded = False
        return whole(200)

    async def _complete(self, peer: Peer, asked: dict[str, Any]) -> None:
        model = self.find(asked["model"])
        if model is None or not model.cached:
            await peer.send(_no_provider(400, asked["model"]))  # [gh #92]
        elif (asked.get("response_format") or {}).get("type") == "json_schema":
            page = exception_page("System.NotSupportedException", "json_schema is not supported")
            await peer.send(whole(500, page, text=True))  # [gh #81]; its text is unknown
        else:
            model.loaded = True  # a request loads what was unloaded for want of use [gh #284]
            await self._chat(peer, asked)

    def _transcribe(self, received: Received) -> bytes:
        """A form of file, model, language, temperature and response_format [docs-rest]."""
        kind = received.headers["content-type"].encode()
        form: Any = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + received.body)
        fields = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in form.get_payload()
        }
        self.uploads.append(fields)
        return whole(200, {"text": f"{len(fields['file'])} bytes"})

    async def _download(self, peer: Peer, asked: dict[str, Any]) -> None:
        """Only what is named with its version and its source can be had [docs-rest]."""
        told = asked["model"]
        model = self.find(told["Name"])
        if model is None or told["ProviderType"] != "AzureFoundryLocal" or not told["Uri"]:
            await peer.send(_no_provider(400, told["Name"]))
            return
        await peer.send(make_head(content_type="text/plain"))
        async with until_left(peer, self._note_left):
            for percent in (0, 12.5, 50, 100):
                await peer.send(encode_chunk(self._step(percent)))
                if percent and self._held_download:
                    await asyncio.Event().wait()
        model.cached = self.failing_download is None
        await peer.send(encode_chunk(self._result()), LAST_CHUNK)

    def _note_left(self) -> None:
        self.downloads_left += 1

    def _step(self, percent: float) -> bytes:
        if self._progress == "docs":
            return f'("model.onnx.data", {percent / 100})\n'.encode()
        return f"Total {percent:.2f}% Downloading model.onnx.data\n".encode()

    def _result(self) -> bytes:
        """The keys have the case of the documentation, or of its SDK."""
        success, error = self.failing_download is None, self.failing_download
        if self._progress == "docs":
            return encoded({"Success": success, "ErrorMessage": error})
        return b'{\n  "success": %s,\n  "errorMessage": %s\n}' % (encoded(success), encoded(error))


def _no_provider(status: int, name: str) -> bytes:
    page = exception_page("System.InvalidOperationException", NO_PROVIDER.format(name))
    return whole(status, page, text=True)


def _listed(model: DoubledModel) -> dict[str, Any]:
    """A variant with every field that the SDK demands [sdk 0.5.1, models.py]."""
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
