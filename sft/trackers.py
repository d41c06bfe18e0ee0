"""Services that show a run's figures elsewhere: Weights & Biases, Trackio.

``metrics.jsonl`` and TensorBoard need none of them. A service that cannot be reached never stops a
run: that is said once, and counted.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from toolshed.errors import ConfigError
from toolshed.types import Json

TRACKERS = ("wandb", "trackio")
"""What ``track`` may name; each is the package that it needs and the extra that installs it."""
_PROJECT = "spacetools"
_ID_FILE = "track_id"
"""In the run's folder: what goes on after a kill is the same run there."""


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError where one of ``names`` is unknown or its package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"show.track={name} is none of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"show.track={name} needs the package {name}, which is not installed; run "
                f'pip install -e ".[{name}]", or leave it out'
            )


class _Service(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _Wandb:
    """Whether and where it sends is set as everywhere: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Json]) -> None:
        self._run: Any = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=name,
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        # Its own counter takes no step twice, as a run does that goes on from a checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Where it sends is set as everywhere: TRACKIO_SPACE_ID; else it stays on this machine."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Json]) -> None:
        self._package: Any = importlib.import_module("trackio")
        self._package.init(
            project=_PROJECT,
            name=f"{folder.name}-{name[:6]}",
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._package.log(dict(figures), step=step)

    def close(self) -> None:
        self._package.finish()


_SERVICES: dict[str, Callable[[Path, str, Mapping[str, Json]], _Service]] = {
    "wandb": _Wandb,
    "trackio": _Trackio,
}


class Trackers:
    """The services of one run, from ``start`` on."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        """ConfigError as ``check_trackers``."""
        check_trackers(names)
        self._names, self._folder = names, folder
        self._services: dict[str, _Service] = {}
        self.num_lost = dict.fromkeys(names, 0)
        """Steps that each did not take."""

    def start(self, config: Mapping[str, Json]) -> None:
        """Begin, or go on where this folder's run was known before."""
        for name in self._names:
            with _Told(self, name):
                self._services[name] = _SERVICES[name](self._folder, self._id(), config)

    def log(self, step: int, figures: Mapping[str, Json]) -> None:
        """Send the figures that are numbers."""
        numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        for name in self._names:
            service = self._services.get(name)
            if service is None:
                self.num_lost[name] += 1
                continue
            with _Told(self, name):
                service.log(step, numbers)

    def close(self) -> None:
        for name, service in self._services.items():
            with _Told(self, name, is_step=False):
                service.close()
        for name, num in self.num_lost.items():
            if num:
                print(
                    f"warning: {name} did not get {num} steps; metrics.jsonl in {self._folder} "
                    "has them all",
                    file=sys.stderr,
                )

    def _id(self) -> str:
        path = self._folder / _ID_FILE
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        return path.read_text()


class _Told:
    """Says the first error of a service and counts the others."""

    def __init__(self, trackers: Trackers, name: str, *, is_step: bool = True) -> None:
        self._trackers, self._name, self._is_step = trackers, name, is_step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> bool:
        # Whatever a service raises is its own affair; an interrupt is not.
        if kind is None or not issubclass(kind, Exception):
            return False
        lost = self._trackers.num_lost
        if not lost[self._name]:
            print(
                f"warning: {self._name}: {kind.__name__}: {str(error)[:300]}; the run goes on, "
                "further errors are counted",
                file=sys.stderr,
            )
        lost[self._name] += self._is_step
        return True
