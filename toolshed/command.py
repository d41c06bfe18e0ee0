"""How a command ends: one sentence for what stopped it, and an exit code that names its owner."""

from __future__ import annotations

import sys
from collections.abc import Callable

from toolshed.config import check_home
from toolshed.errors import ConfigError, ToolFailure

USER_ERROR, MACHINE_FAILURE, INTERRUPTED = 2, 3, 130
"""Exit codes; a bug is a traceback and 1."""


def run_command(body: Callable[[], int], *rooms: str) -> int:
    """Run a command's body from the checkout that holds ``rooms``; returns its exit code."""
    try:
        check_home(*rooms)
        return body()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except ToolFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return MACHINE_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
