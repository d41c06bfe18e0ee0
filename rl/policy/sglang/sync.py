"""How the learner's weights get to the engines, and the one place that chooses among the ways."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Protocol

from rl.policy.base import Weights
from rl.policy.sglang.adapters import AdapterSync
from rl.policy.sglang.broadcast import Broadcast
from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.ipc import IpcSync
from rl.policy.sglang.server import Server
from rl.policy.sglang.weights import update_from_folder

_KEPT_FOLDERS = 2
"""Besides those that engines are still starting from."""


class Sync(Protocol):
    """One way."""

    num_bytes: int
    """Of the last update."""

    async def update(self, weights: Weights, version: int) -> None:
        """Give all engines these weights. PolicyFailure where none took them: those that may hold
        half of them are started again, and the update may be repeated."""
        ...

    async def catch_up(self, server: Server) -> None:
        """Give one engine that was started again what the others hold; nobody is sent to it
        before, and no update runs meanwhile. PolicyFailure or EngineLost where it does not take
        it."""
        ...

    async def aclose(self) -> None: ...


def sync_of(fleet: Fleet, folder: Path) -> Sync:
    """The way that the fleet's config names; ``folder`` is for what goes over the disk."""
    if fleet.config.way == "folder":
        return FolderSync(fleet, folder / "weights")
    if fleet.config.way == "adapters":
        return AdapterSync(fleet, folder / "adapters")
    if fleet.config.way == "ipc":
        return IpcSync(fleet)
    return Broadcast(fleet, "gloo" if fleet.config.device == "cpu" else "nccl")


class FolderSync:
    """All weights as a checkpoint folder, which engines also start from; the last two are kept."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        """Versions that a killed run left in ``folder`` are deleted with the first update."""
        self.fleet, self.folder = fleet, folder
        self.num_bytes = 0
        self._written: list[Path] = []

    async def update(self, weights: Weights, version: int) -> None:
        """Write the folder, unless it was for this version, and let all engines load it."""
        path = self.folder / f"version_{version:06d}"
        if not self._written:
            self._clear()
        if path not in self._written:
            # In a thread, so that rollouts go on meanwhile.
            await asyncio.to_thread(weights.export, path)
            self._written.append(path)
            self.num_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        await update_from_folder(self.fleet, path, version)
        for old in self._written[:-_KEPT_FOLDERS]:
            if old not in self.fleet.starting.values():
                self._written.remove(old)
                shutil.rmtree(old, ignore_errors=True)

    async def catch_up(self, server: Server) -> None:
        """It began with the newest folder, or loads the one that was written meanwhile."""
        await self.fleet.load_newest(server)

    async def aclose(self) -> None:
        """Forget the folders."""
        if self._written:
            self._clear()

    def _clear(self) -> None:
        for each in self.folder.glob("version_*"):
            shutil.rmtree(each, ignore_errors=True)
