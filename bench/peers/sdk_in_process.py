"""The baseline of `start.py`: print the first token of the demo model with the SDK in process."""

import os
import sys

from foundry_local_sdk import (
    CatalogType,
    ChatSession,
    Configuration,
    FoundryLocalManager,
    MessageItem,
    MessageRole,
    ModelInfoBuilder,
    Request,
)


def main(directory: str, home: str, prompt: str) -> None:
    """Print the first piece of the answer and exit immediately."""
    FoundryLocalManager.initialize(
        Configuration(
            "bench", app_data_dir=home, logs_dir=home, disable_nonessential_telemetry=True
        )
    )
    catalog = FoundryLocalManager.instance.get_catalog(CatalogType.LOCAL)
    model = catalog.get_model("demo")
    if model is None:
        with ModelInfoBuilder() as builder:
            builder.set_string_property("task", "chat-completion")
            model = catalog.register_model(directory, "demo:1", builder)
    model.load()
    session = ChatSession(model)
    session.set_streaming(enabled=True)
    request = Request()
    request.add_item(MessageItem(MessageRole.USER, prompt))
    for item in session.process_streaming_request(request):
        print(item.text, end="", flush=True)
        # Closing the manager takes 2 s, which are not part of the measurement.
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
