"""The user's cache: where what is made of data files lies, and who may make it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.run_dir import check_writable
from toolshed.errors import ConfigError


def cache_folder(word: str, key: str) -> Path:
    """``word``, or else ``$XDG_CACHE_HOME/spacetools`` or ``~/.cache/spacetools``; ``key`` is the
    key of a config that gives it."""
    if word:
        return Path(word).expanduser().absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spacetools"
    except RuntimeError as error:
        raise ConfigError(f"there is no home folder for a cache; give {key}=FOLDER") from error


@contextmanager
def alone_with(folder: Path, key: str, what: str) -> Iterator[None]:
    """Wait for other processes that make ``folder``, which need not be there; a killed one has let
    go. ConfigError where nothing can be written there, which says ``what`` cannot be done."""
    try:
        check_writable(folder.parent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock").open("w")
    except (ConfigError, OSError) as error:
        raise ConfigError(f"{what}: {error}; give {key}=FOLDER, one that can be written") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
