"""A run's folder as all ranks use it: rank 0 writes, and what one reads all hear from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sft.ranks import rank, told_by_all
from sft.run_dir import RunDir, write_atomic
from toolshed.types import Json


class RankedRun:
    """A ``RunDir`` whose methods every rank calls in the same order; alone it is one."""

    def __init__(
        self, path: str | Path, *, tensorboard: bool = False, track: Sequence[str] = ()
    ) -> None:
        self.path = Path(path)
        self._own = RunDir(path, tensorboard=tensorboard, track=track) if rank() == 0 else None
        told_by_all(None)

    def save_config(self, text: str) -> None:
        if self._own:
            self._own.save_config(text)

    def log(self, step: int, figures: dict[str, Json]) -> None:
        if self._own:
            self._own.log(step, figures)

    def metrics(self) -> list[dict[str, Json]]:
        lines = self._own.metrics() if self._own else []
        return list(told_by_all(lines)[0])

    def rewind(self, step: int) -> None:
        if self._own:
            self._own.rewind(step)

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        found: tuple[int, Path] | None = self._own.latest_checkpoint() if self._own else None
        found = told_by_all(found)[0]
        return found

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Let every rank ``write`` into the same new folder, which is named once it is whole."""

        def write_together(draft: Path) -> None:
            write(told_by_all(draft)[0])
            told_by_all(None)

        if self._own:
            self._own.save_checkpoint(step, write_together)
        else:
            write_together(self.path)
        told_by_all(None)

    def write(self, name: str, text: str) -> None:
        """A whole file in the run's folder."""
        if self._own:
            write_atomic(self.path / name, text)

    def way_on(self) -> str:
        return self._own.way_on() if self._own else "rank 0 says how the run goes on"

    def close(self) -> None:
        if self._own:
            self._own.close()
