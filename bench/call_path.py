"""Trace one warm call: the files of this package that it passes, and the functions it calls.

python bench/call_path.py          # the number of calls, and the files
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
    """Records the depth, file and name of each call of a function of this package, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, str]] = []
        self._started: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(str(PACKAGE)):
            return
        if frame in self._started:
            return
        if frame.f_code.co_flags & _SUSPENDABLE:
            # Resuming a coroutine is no call. The reference keeps the frame alive, so that no later
            # frame has the same identity.
            self._started.add(frame)
        depth, outer = 0, frame.f_back
        while outer is not None:
            depth += outer.f_code.co_filename.startswith(str(PACKAGE))
            outer = outer.f_back
        name = str(Path(path).relative_to(PACKAGE))
        self.calls.append((depth, name, f"{frame.f_code.co_qualname}:{frame.f_lineno}"))


async def trace(url: str) -> Tracer:
    """Trace one short call of a client that is warmed up."""
    tracer = Tracer()
    async with foundry_api.FoundryAPIClient(url, model=server.MODEL) as client:
        for _ in range(WARM_UP_CALLS):
            await client.complete(prompt="short", max_tokens=64)
        sys.setprofile(tracer)
        await client.complete(prompt="short", max_tokens=64)
        sys.setprofile(None)
    return tracer


def main() -> None:
    with server.start() as url:
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
