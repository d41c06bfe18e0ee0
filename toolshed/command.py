"""How a command ends: one sentence for what stopped it, and an exit code that names its owner."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable

from toolshed import early_interrupt
from toolshed.errors import ConfigError, ToolFailure

USER_ERROR, MACHINE_FAILURE, INTERRUPTED = 2, 3, 130
"""Exit codes; a bug is a traceback and 1."""

_ELSEWHERE = "choose another place, or mend this one"
_ROOM = "free some space or choose a place on another disk, then give the same command again"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit of this shell (ulimit -f), then give the same command again",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOTDIR: "a part of this path is a file; choose another place",
    errno.EISDIR: "this is a folder; name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about a place that cannot be written or read; any other OSError is a bug."""


def run_command(body: Callable[[], int], *rooms: str) -> int:
    """Run a command's body from the checkout that holds ``rooms``; returns its exit code.

    What a KeyboardInterrupt carries is said after ``interrupted``: how to go on.
    """
    # Imported here: until then an interrupt would be a traceback.
    try:
        early_interrupt.no_longer()
        from toolshed.config import check_home

        check_home(*rooms)
        return body()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except ToolFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return MACHINE_FAILURE
    except BrokenPipeError:
        if not _output_closed():
            raise
        return 0
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        print(f"error: {place_words(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except ImportError as error:
        # So an extension module says that it was interrupted while it was loaded.
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return _interrupted(error.__cause__)


def _output_closed() -> bool:
    """Whether whoever reads the output has had enough, as ``head`` has; then no more is written."""
    try:
        output = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(state & select.POLLERR for _, state in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _interrupted(stop: KeyboardInterrupt) -> int:
    print("; ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
    return INTERRUPTED


def place_words(error: OSError) -> str:
    """One sentence about a place that cannot be used: which, why, and what to do."""
    place = "" if error.filename is None else f"{error.filename}: "
    # Libraries wrap the system's words in their own.
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"{place}{why}; {REMEDIES.get(error.errno or 0, _ELSEWHERE)}"
