"""A run's folder: resolved config, append-only metrics, checkpoints, and an exact resume.

A checkpoint is ``global_step_N``, a name that verl uses too; ``sft.checkpoint`` reads both.
``metrics.jsonl`` holds one line per step, never one beyond the last checkpoint after a resume:
the steps after it are trained again and their lines written again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import yaml

from sft.checkpoint import EXPORT, step_number
from sft.trackers import Trackers
from toolshed.command import place_words
from toolshed.errors import ConfigError
from toolshed.types import Json

_LOCK = ".lock"
_CONFIG = "config.yaml"
_BOARD = "tensorboard"
_SHOWN = "show"
_TRIED_BYTES = 1 << 16
"""Written and removed before any work."""
_MOST_KEYS = 6
"""Changed keys that an error lists."""


class RunDir:
    """One folder, one writer at a time."""

    def __init__(
        self, path: str | Path, *, tensorboard: bool = False, track: Sequence[str] = ()
    ) -> None:
        """``track``: services besides, names of ``sft.trackers.TRACKERS``."""
        self.path = Path(path)
        self._trackers = Trackers(track, self.path)
        self._lock = take_lock(
            self.path, "is in use by another process; wait for it or choose another out="
        )
        self._board = self._open_board() if tensorboard else None

    def _open_board(self) -> object:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path / _BOARD))

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def save_config(self, text: str) -> None:
        """Keep the resolved config; a folder in which another one made steps is refused."""
        if self.metrics():
            check_same_run(self.path, text)
        write_atomic(self.path / _CONFIG, text)
        self._trackers.start(yaml.safe_load(text))

    def log(self, step: int, figures: dict[str, Json]) -> None:
        """Append one line; figures that are times end in ``_s``."""
        with naming(self.metrics_file), self.metrics_file.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board is not None:
            with naming(self.path / _BOARD):
                for name, value in figures.items():
                    if isinstance(value, int | float):
                        self._board.add_scalar(name, value, step)  # type: ignore[attr-defined]
        self._trackers.log(step, figures)

    def metrics(self) -> list[dict[str, Json]]:
        """All whole lines; a line torn by a kill is dropped."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def save_checkpoint(
        self, step: int, write: Callable[[Path], None], *, exports: int = 0
    ) -> Path:
        """Let ``write`` fill a new folder and give it its name only when it is whole.

        Of those before the last two, what is left is their ``huggingface`` folder, if any; of all
        these folders the last ``exports`` are kept, 0 for all.
        """
        target = self.path / f"global_step_{step}"
        with draft_folder(target) as draft:
            write(draft)
        for _, old in whole_checkpoints(self.path)[:-2]:
            _leave_export(old)
        kept = sorted(self.path.glob(f"global_step_*/{EXPORT}"), key=_step_of_export)
        for old in kept[:-exports] if exports else []:
            shutil.rmtree(old)
            if not any(old.parent.iterdir()):
                old.parent.rmdir()
        return target

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint."""
        found = whole_checkpoints(self.path)
        return found[-1] if found else None

    def way_on(self) -> str:
        """What the same command does after an interruption."""
        found = self.latest_checkpoint()
        if found is None:
            return "there is no checkpoint yet, so the same command begins again"
        return f"the same command goes on from step {found[0]}, the last checkpoint"

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps that came after the checkpoint of ``step``."""
        kept = [
            json.dumps(line) + "\n" for line in self.metrics() if int(str(line["step"])) <= step
        ]
        write_atomic(self.metrics_file, "".join(kept))

    def close(self) -> None:
        self._trackers.close()
        self._lock.close()
        if self._board is not None:
            with naming(self.path / _BOARD):
                self._board.close()  # type: ignore[attr-defined]


def whole_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint that a run can go on from, oldest first."""
    found = [(step_number(path), path) for path in run.glob("global_step_*")]
    return sorted(
        (step, path)
        for step, path in found
        if step is not None and any(each.name != EXPORT for each in path.iterdir())
    )


def _step_of_export(folder: Path) -> int:
    return step_number(folder.parent) or 0


def _leave_export(folder: Path) -> None:
    """Turn a checkpoint into its export alone; one without an export goes."""
    rest = [each for each in folder.iterdir() if each.name != EXPORT]
    if not (folder / EXPORT).exists():
        rest = [folder]
    for each in rest:
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def take_lock(folder: Path, taken: str) -> IO[str]:
    """Make the folder its caller's until the file is closed; ``taken`` says what to do if it is
    another's, whose process and machine are named.

    The system gives the lock back when a process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / _LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise ConfigError(f"{folder} {taken}" + (f" ({owner})" if owner else "")) from error
    with naming(folder / _LOCK):
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
    return lock


def check_folder(folder: Path, *marks: str, key: str = "out=") -> None:
    """ConfigError where a run cannot be kept: nothing can be written, or others' files lie there.

    A run's own folder holds a lock, or one of ``marks``.
    """
    check_writable(folder)
    foreign = folder.is_dir() and any(folder.iterdir())
    if foreign and not any((folder / mark).exists() for mark in (_LOCK, *marks)):
        raise ConfigError(
            f"{folder} holds other files and no run; choose another {key}, a new or empty folder"
        )


def check_writable(folder: Path) -> None:
    """ConfigError where no file can be made in ``folder``, which need not exist yet."""
    folder = folder.absolute()
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not there.is_dir():
            raise ConfigError(f"no folder can be {folder}: {there} is a file; choose another place")
        with TemporaryFile(dir=there) as file:
            # A full disk still takes empty files.
            file.write(b"x" * _TRIED_BYTES)
    except OSError as error:
        error.filename = str(folder)
        raise ConfigError(f"cannot write in {place_words(error)}") from error


def _settled(text: str) -> dict[str, Json]:
    """What a config says but for how a run is shown, which may change while it goes on."""
    return {key: value for key, value in yaml.safe_load(text).items() if key != _SHOWN}


def check_same_run(folder: Path, text: str) -> None:
    """ConfigError where the folder's run was made with another config than ``text``."""
    path = folder / _CONFIG
    before, now = _settled(path.read_text()) if path.exists() else {}, _settled(text)
    if not before or before == now:
        return
    if before.keys() != now.keys():
        raise ConfigError(
            f"{folder} holds a run of another command, or of another version of this one; choose "
            "another out="
        )
    raise ConfigError(
        f"{folder} holds a run with another config ({changed_keys(before, now)}); choose another "
        f"out=, with model={folder} if its result is to be trained further"
    )


def changed_keys(before: Mapping[str, Json], now: Mapping[str, Json]) -> str:
    """Which entries of two configs differ, as they were and as they are."""
    old, new = leaves(before), leaves(now)
    changed = [
        f"{key}={old.get(key)} there, {key}={new.get(key)} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    more = [f"{len(changed) - _MOST_KEYS} more"] if len(changed) > _MOST_KEYS else []
    return "; ".join(changed[:_MOST_KEYS] + more)


def leaves(tree: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """The entries of nested mappings under dotted keys."""
    found: dict[str, Json] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


# ---- whole files --------------------------------------------------------------------------------


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def draft_file(path: Path) -> Iterator[Path]:
    """Where to write a file that gets its name once it is whole, and is removed if it is not."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with naming(path):
            yield draft
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Where to fill a folder that gets its name, and replaces what had it, once it is whole."""
    draft = path.with_name(f".{path.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with naming(path):
            draft.mkdir(parents=True)
            yield draft
            shutil.rmtree(path, ignore_errors=True)
            os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say which file an OSError is about: the system's own about a full disk do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
