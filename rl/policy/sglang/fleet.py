"""Several engines as one: each trajectory keeps its engine, one that is lost is started again.

An engine that is lost, hung or half updated is quarantined: nobody is sent to it until it was
started anew from the newest checkpoint and has rejoined.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rl.policy.base import PolicyFailure
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.requests import EngineRequest, LoadFolder
from rl.policy.sglang.server import EngineLost, Server
from toolshed.errors import ToolshedError

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.25
"""How often it is looked whether processes are alive, which costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What an engine is started from."""

    folder: Path
    version: int


class Fleet:
    """All engines of a run."""

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, logs: Path, first: EngineRequest
    ) -> None:
        """``first`` is what an engine has to answer before it is used."""
        self.config = config
        self.first = first
        self.checkpoint = checkpoint
        """The newest on disk; an engine that is started again loads it."""
        self.catch_up: Callable[[Server], Awaitable[None]] = self.load_newest
        """Gives an engine that was started again what the others hold, before it is used."""
        self.servers = [
            Server(config, number, logs / f"engine_{number}.log")
            for number in range(config.servers)
        ]
        self.num_restarts = 0
        self.updating = asyncio.Lock()
        """Held while weights change: nobody is watched, nobody rejoins."""
        self.num_updates = 0
        """Begun ones."""
        self.starting: dict[int, Path] = {}
        """What engines that are not up yet are started from, by number; to be kept until then."""
        self._usable: set[int] = set()
        self._lost: set[int] = set()
        """Given up."""
        self._place_of: dict[str, int] = {}
        self._load: Counter[int] = Counter()
        """Trajectories by number of engine."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all engines; what keeps one of them from starting is raised."""
        await asyncio.gather(*(self._start(each, self.checkpoint) for each in self.servers))
        self._usable = {each.number for each in self.servers}
        self._watch_task = asyncio.ensure_future(self._watch())

    async def _start(self, server: Server, checkpoint: Checkpoint) -> None:
        self.starting[server.number] = checkpoint.folder
        try:
            await server.start(checkpoint.folder, checkpoint.version, self.first)
        finally:
            del self.starting[server.number]

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._watch_task] if self._watch_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.stop() for each in self.servers))

    @property
    def usable(self) -> list[Server]:
        return [each for each in self.servers if each.number in self._usable]

    @property
    def kv_tokens(self) -> int:
        """Places of all caches together; 0 where the engines do not tell."""
        return sum(each.kv_tokens for each in self.servers)

    async def any_usable(self) -> None:
        """Wait while no engine is usable; PolicyFailure where all were given up."""
        while not self._usable:
            if len(self._lost) == len(self.servers):
                logs = ", ".join(str(each.log) for each in self.servers)
                raise PolicyFailure("engine_lost", f"all engines were given up; see {logs}")
            self._changed.clear()
            await self._changed.wait()

    async def server_for(self, trajectory: str) -> Server:
        """The trajectory's own engine, or the one with the fewest; waits while none is usable.

        PolicyFailure where all were given up.
        """
        await self.any_usable()
        own = self._place_of.get(trajectory)
        if own is not None and own in self._usable:
            return self.servers[own]
        self.release(trajectory)
        fewest = min(sorted(self._usable), key=lambda number: self._load[number])
        self._place_of[trajectory] = fewest
        self._load[fewest] += 1
        return self.servers[fewest]

    def release(self, trajectory: str) -> None:
        """Forget where a trajectory is; unknown ones are ignored."""
        place = self._place_of.pop(trajectory, None)
        if place is not None:
            self._load[place] -= 1

    def quarantine(self, server: Server, why: str) -> None:
        """Send nobody to an engine, and start it again; once, whoever notices."""
        if server.number not in self._usable:
            return
        self._usable.discard(server.number)
        log.warning("%s is quarantined: %s", server, why)
        server.kill()
        task = asyncio.ensure_future(self._mend(server))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- mending --------------------------------------------------------------------------------

    async def _mend(self, server: Server) -> None:
        try:
            await self._start_again(server)
        finally:
            if server.number not in self._usable:
                self._lost.add(server.number)
                self._changed.set()

    async def _start_again(self, server: Server) -> None:
        while server.num_starts <= self.config.restarts:
            await server.stop()
            self.num_restarts += 1
            try:
                await self._start(server, self.checkpoint)
                async with self.updating:
                    await self.catch_up(server)
                    self._usable.add(server.number)
                    self._changed.set()
                return
            except (EngineLost, ToolshedError) as error:
                log.warning("%s did not come back: %s", server, error)
        await server.stop()
        log.error("%s is given up after %d starts", server, server.num_starts)

    async def load_newest(self, server: Server) -> None:
        """Let an engine load the newest checkpoint, which may have appeared while it started."""
        newest = self.checkpoint
        if server.version != newest.version:
            folder, version = str(newest.folder.resolve()), str(newest.version)
            await server.post(LoadFolder(model_path=folder, weight_version=version))
            server.version = newest.version

    async def _watch(self) -> None:
        """Quarantine engines whose process ended or whose scheduler says nothing."""
        looks = max(1, round(self.config.health_every_s / _LOOK_EVERY_S))
        checks: dict[int, asyncio.Task[None]] = {}
        turn = 0
        try:
            while True:
                await asyncio.sleep(_LOOK_EVERY_S)
                turn += 1
                for server in self.usable:
                    if not server.is_alive():
                        self.quarantine(server, f"its process ended; it said: {server.words()}")
                    elif turn % looks == 0 and (
                        server.number not in checks or checks[server.number].done()
                    ):
                        checks[server.number] = asyncio.ensure_future(self._ask(server))
        finally:
            for task in checks.values():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*checks.values(), return_exceptions=True)

    async def _ask(self, server: Server) -> None:
        before = self.num_updates
        if self.updating.locked() or await server.is_healthy(self.config.patience_s):
            return
        # An engine that is paused for new weights answers nobody.
        if not self.updating.locked() and self.num_updates == before:
            self.quarantine(server, f"no answer within {self.config.patience_s:g} s")
