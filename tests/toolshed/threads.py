"""Threads of tests: started, waited for with generous limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONG_S = 60.0


def later(seconds: float = LONG_S) -> float:
    return time.monotonic() + seconds


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(true: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it never became true")


def joined(threads: list[threading.Thread]) -> None:
    for each in threads:
        each.join(LONG_S)
        assert not each.is_alive()
