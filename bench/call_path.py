"""The path of one warm call: our files that it passes, and our functions that it calls.

python bench/call_path.py          # the two figures, and the files
python bench/call_path.py --calls  # every call, indented by its depth
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from parts import server

import foundry_api

if TYPE_CHECKING:
    from types import FrameType

WARM_UP_CALLS = 20
_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
PACKAGE = Path(foundry_api.__file__).parent


class Tracer:
    """Records the calls of this package's functions. To go on with a coroutine is no call.

    Attributes:
        calls: Depth, file and name of each, in order.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, str]] = []
        self._started: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """See `sys.setprofile`."""
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(str(PACKAGE)):
            return
        if frame in self._started:
            return
        if frame.f_code.co_flags & _SUSPENDABLE:
            self._started.add(frame)  # kept, so that no later frame has the same identity
        depth, outer = 0, frame.f_back
        while outer is not None:
            depth += outer.f_code.co_filename.startswith(str(PACKAGE))
            outer = outer.f_back
        name = str(Path(path).relative_to(PACKAGE))
        self.calls.append((depth, name, f"{frame.f_code.co_qualname}:{frame.f_lineno}"))


async def trace(url: str) -> Tracer:
    """Trace one short call of a client that has made some before."""
    tracer = Tracer()
    async with foundry_api.FoundryAPIClient(url, model=server.MODEL) as client:
        for _ in range(WARM_UP_CALLS):
            await client.complete(prompt="short", max_tokens=64)
        sys.setprofile(tracer)
        await client.complete(prompt="short", max_tokens=64)
        sys.setprofile(None)
    return tracer


def main() -> None:
    """Trace a call and print what it passed."""
    with server.started() as url:
        tracer = asyncio.run(trace(url))
    if "--calls" in sys.argv:
        for depth, file, name in tracer.calls:
            print("  " * depth + f"{file} {name}")
    files = Counter(file for _, file, _ in tracer.calls)
    for file, calls in files.most_common():
        print(f"{calls:4} {file}")
    print(f"{len(tracer.calls)} calls in {len(files)} files")


if __name__ == "__main__":
    main()
