"""SIGTERM, as a job gets one before its time is over: the step under way is finished and kept."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any, Self


class Ending:
    """Listens for SIGTERM: the first one asks, a second one interrupts.

    As a context it gives the signal back at its end. Outside of the main thread it hears nothing.
    """

    def __init__(self) -> None:
        self.is_asked = False
        """Whether the run is to end after the step under way, saved."""
        self.at_once = False
        """Whether the next signal interrupts, be it the first."""
        self._is_stopping = False
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        if not self.is_asked and not self.at_once:
            self.is_asked = True
        elif not self._is_stopping:
            self._is_stopping = True
            raise KeyboardInterrupt

    def give_back(self) -> None:
        """Let the signal do again what it did before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()
