"""How commands end: whose fault it was, in one sentence and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from toolshed.command import INTERRUPTED, MACHINE_FAILURE, USER_ERROR, run_command
from toolshed.errors import ConfigError, ToolFailure


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


def interrupted_import() -> ImportError:
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no such tool"), USER_ERROR, "error: no such tool"),
        (ToolFailure("gone", "no GPU"), MACHINE_FAILURE, "error: gone: no GPU"),
        (
            OSError(errno.ENOSPC, "wrapped: [errno 28]", "runs/x"),
            USER_ERROR,
            "error: runs/x: no space left on device; free some space",
        ),
        (PermissionError(errno.EACCES, "no", "/a"), USER_ERROR, "error: /a: permission denied;"),
        (OSError(errno.EFBIG, "big"), USER_ERROR, "error: file too large; raise the limit"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted\n"),
        (KeyboardInterrupt("nothing was written"), INTERRUPTED, "interrupted; nothing was written"),
        (interrupted_import(), INTERRUPTED, "interrupted\n"),
    ],
)
def test_each_end_has_its_sentence_and_its_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), "toolshed") == code
    told = capsys.readouterr().err
    assert told.startswith(said) and told.count("\n") == 1


@pytest.mark.parametrize(
    "bug",
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x"),
        ImportError("no module named x"),
        ValueError("x"),
    ],
)
def test_a_bug_is_a_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        run_command(raising(bug), "toolshed")
