"""What the commands for running tools have in common: how they are told which ones.

Either by ``--address``, or by the file in which ``toolshed serve`` names its tools to the other
commands of the same user. Its server holds a lock on it, so a file without one is stale.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from toolshed.errors import ConfigError
from toolshed.serving.cluster import prepare

NAMESPACE = "toolshed"
_FILE = "toolshed.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Tools that a ``toolshed serve`` of this user keeps running on this machine."""

    address: str
    namespace: str
    config: str
    """The word of its tool config, or the whole path."""
    schema_hash: str
    """Of all the tools that the config shows."""
    families: tuple[str, ...]


class Announcement:
    """Running tools, named in the user's file for as long as this is open.

    Another server takes the file over, and then it is the other's to remove.
    """

    def __init__(self, running: Running) -> None:
        """Write the file; OSError or ConfigError where it cannot be had."""
        self._path = _folder() / _FILE
        number, partial = tempfile.mkstemp(prefix=f"{_FILE}-", dir=self._path.parent)
        self._file: IO[str] = os.fdopen(number, "w", encoding="utf-8")
        # Whoever reads the file must find the lock, and never half of the text.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        json.dump(asdict(running), self._file)
        self._file.flush()
        os.replace(partial, self._path)

    def close(self) -> None:
        own = os.fstat(self._file.fileno())
        try:
            if os.path.samestat(own, self._path.stat()):
                self._path.unlink()
        except FileNotFoundError:
            pass
        self._file.close()


def announced_path() -> Path:
    """Where this user's running tools are named."""
    return _place() / _FILE


def find_running() -> Running | None:
    """The tools that this user's file names; None without one. ConfigError, in one sentence, where
    they run no longer or where somebody else may have written it."""
    path = announced_path()
    try:
        _check_private(path.parent)
        with path.open(encoding="utf-8") as file:
            text = file.read()
            lives = _is_locked(file)
        fields = json.loads(text)
        running = Running(**{**fields, "families": tuple(fields["families"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} names no running tools ({error}); remove it") from error
    if not lives:
        raise ConfigError(
            f"{path} names tools at {running.address} that run no longer; start them again with "
            "toolshed serve CONFIG, or give --address"
        )
    return running


def config_name(word_or_path: str | Path) -> str:
    """A tool config as two commands in different folders mean the same by it."""
    path = Path(word_or_path)
    return str(path.resolve()) if path.is_file() else str(word_or_path)


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _place() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given)
    return Path(tempfile.gettempdir()) / f"toolshed-{os.getuid()}"


def _folder() -> Path:
    place = _place()
    place.mkdir(mode=0o700, exist_ok=True)
    _check_private(place)
    return place


def _check_private(folder: Path) -> None:
    """Whoever else may write there could lead us into a cluster of theirs, and Ray runs what it is
    sent."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{folder} is no folder that you alone may write to, so what it says of running tools "
            "is not read; mend it with chmod 700, or set XDG_RUNTIME_DIR to another"
        )


# ---- flags ---------------------------------------------------------------------------------------


def parser_for(command: str, description: str) -> argparse.ArgumentParser:
    """A parser that knows ``--address`` and ``--namespace``."""
    parser = argparse.ArgumentParser(prog=f"toolshed {command}", description=description)
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """``--address`` and ``--namespace``."""
    parser.add_argument(
        "--address",
        default=None,
        help="address of the running tools, or the file that toolshed serve --address-file wrote "
        "(default: those that your toolshed serve keeps on this machine)",
    )
    parser.add_argument(
        "--namespace", default=None, help=f"Ray namespace of the tools (default: {NAMESPACE})"
    )


def options_of(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """What was typed, with the tools found; see ``locate`` for what it raises."""
    options = parser.parse_args(arguments)
    locate(options)
    return options


def locate(options: argparse.Namespace, *, otherwise: str | None = None) -> None:
    """Fill in ``address`` and ``namespace`` where they were not typed. ConfigError where no address
    is typed, known, or given as ``otherwise``, or where Ray is missing, through which running tools
    are asked."""
    namespace = NAMESPACE
    if options.address is None:
        running = find_running()
        if running is not None:
            options.address, namespace = running.address, running.namespace
        elif otherwise is not None:
            options.address = otherwise
        else:
            raise ConfigError(
                f"no --address is given, and {announced_path()} names no running tools; start "
                "some with toolshed serve CONFIG, or give the address"
            )
    options.namespace = options.namespace or namespace
    prepare()


def at_least_zero(text: str) -> int:
    """A whole number for argparse."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number
