"""A run's folder: resolved config, append-only metrics, checkpoints, and an exact resume.

``metrics.jsonl`` holds one line per step, never one beyond the last checkpoint after a resume:
the steps after it are trained again and their lines written again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from toolshed.errors import ConfigError
from toolshed.types import Json

_CHECKPOINTS = "checkpoints"


class RunDir:
    """One folder, one writer at a time."""

    def __init__(self, path: str | Path, *, tensorboard: bool = False) -> None:
        self.path = Path(path)
        (self.path / _CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        self._board = self._open_board() if tensorboard else None

    def _take_lock(self) -> IO[str]:
        lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ConfigError(
                f"{self.path} is in use by another process; wait for it or choose another out="
            ) from error
        return lock

    def _open_board(self) -> object:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path / "tensorboard"))

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def save_config(self, yaml: str) -> None:
        """Keep the resolved config; a folder in which another one made steps is refused."""
        path = self.path / "config.yaml"
        if path.exists() and path.read_text() != yaml and self.metrics():
            raise ConfigError(
                f"{self.path} holds a run with another config (config.yaml differs); "
                "choose another out=, or delete the folder to start again"
            )
        write_atomic(path, yaml)

    def log(self, step: int, figures: dict[str, Json]) -> None:
        """Append one line; figures that are times end in ``_s``."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)  # type: ignore[attr-defined]

    def metrics(self) -> list[dict[str, Json]]:
        """All whole lines; a line torn by a kill is dropped."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder and give it its name only when it is whole."""
        target = self.path / _CHECKPOINTS / f"step_{step:06d}"
        draft = target.with_name(f".{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        write(draft)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
        for old in self._checkpoints()[:-2]:
            shutil.rmtree(old)
        return target

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint."""
        found = self._checkpoints()
        return (int(found[-1].name.removeprefix("step_")), found[-1]) if found else None

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps that came after the checkpoint of ``step``."""
        kept = [
            json.dumps(line) + "\n" for line in self.metrics() if int(str(line["step"])) <= step
        ]
        write_atomic(self.metrics_file, "".join(kept))

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / _CHECKPOINTS).glob("step_*"))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()  # type: ignore[attr-defined]
        self._lock.close()


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    os.replace(draft, path)
