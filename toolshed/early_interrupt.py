"""An interrupt while ``python -m ROOM.NAME`` still imports what it needs: one sentence, as later.

The rooms' packages call this before anything else is imported; ``run_command`` takes over.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


def until_the_command_runs() -> None:
    """End at once with ``interrupted`` and 130, where a command of a room is being imported.

    Programs that import a room keep their own ways, and so do processes that commands start.
    """
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""
    # The first word is -m only until the module is found, which its package is imported for.
    is_command = sys.argv[:1] == ["-m"] and module.count(".") == 1
    if not is_command or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def no_longer() -> None:
    """Let interrupts be exceptions again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    # Extension modules make other errors of an exception that reaches them; nothing is open yet.
    os.write(2, b"interrupted\n")
    os._exit(130)
