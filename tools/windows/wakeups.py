"""Keep event loops awake under Wine, which refuses one of two sends over a socket at the same time.

A thread that has a result wakes the loop by a byte over a socket, and asyncio ignores that this
fails, because a full socket wakes the loop too. Under Wine it also fails while another thread is
still sending, and the loop then waits until something else wakes it. `proofs/concurrent_sends.py`
shows it.
"""

from __future__ import annotations

import threading
from asyncio.proactor_events import BaseProactorEventLoop
from typing import Any

__all__ = ["PROOF", "send_one_at_a_time"]

PROOF = "concurrent_sends.py"


def send_one_at_a_time() -> None:
    """Make the threads that wake the loops of this process wait for each other."""
    loop_type: Any = BaseProactorEventLoop
    wake = loop_type._write_to_self  # noqa: SLF001 - there is no public name
    lock = threading.RLock()  # a handler of signals may wake the loop amid it

    def wake_alone(loop: Any) -> None:
        with lock:
            wake(loop)

    loop_type._write_to_self = wake_alone  # noqa: SLF001
