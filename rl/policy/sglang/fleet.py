"""Several engines as one: each trajectory keeps its engine, one that is lost is started again.

An engine that is lost, hung or half updated is quarantined: nobody is sent to it until it was
started anew from the newest checkpoint and has rejoined.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
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
RESTARTS_WITHIN_S = 3600.0
"""Restarts that are longer ago are forgiven."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a trajectory is."""

    engine: int
    question: str
    """Whose other trajectories have the same prompt and pictures; empty where nobody tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What an engine is started from."""

    folder: Path
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """The adapters of one version."""

    name: str
    """That engines know."""
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
        self.version = checkpoint.version
        """Of the newest weights, however they came."""
        self.adapter: Adapter | None = None
        """That samples, where adapters are synced alone."""
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
        self._place_of: dict[str, _Place] = {}
        self._load: Counter[int] = Counter()
        """Trajectories by number of engine."""
        self._restarts_of: dict[int, list[float]] = {each.number: [] for each in self.servers}
        """Moments of the clock, by number of engine."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all engines; what keeps one of them from starting is raised."""
        starts = [asyncio.ensure_future(self._start_first(each)) for each in self.servers]
        try:
            await asyncio.gather(*starts)
        finally:
            for each in starts:
                each.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        self._usable = {each.number for each in self.servers}
        self._watch_task = asyncio.ensure_future(self._watch())

    async def _start_first(self, server: Server) -> None:
        """One that ends early is started again: another program may have taken its port."""
        deadline = time.monotonic() + self.config.start_timeout_s
        for left in reversed(range(self.config.restarts + 1)):
            try:
                await self._start(server, self.checkpoint)
                return
            except EngineLost as error:
                if not left or time.monotonic() > deadline:
                    raise
                log.warning("%s is started again: %s", server, error)

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

    async def server_for(self, trajectory: str, question: str = "") -> Server:
        """The trajectory's own engine, or one that has its siblings, or the one with the fewest.

        Siblings are those of the same ``question``: their prompt is in the engine's cache already.
        Waits while none is usable; PolicyFailure where all were given up.
        """
        await self.any_usable()
        own = self._place_of.get(trajectory)
        if own is not None and own.engine in self._usable:
            return self.servers[own.engine]
        self.release(trajectory)
        chosen = self._best_for(question)
        self._place_of[trajectory] = _Place(engine=chosen, question=question)
        self._load[chosen] += 1
        return self.servers[chosen]

    def _best_for(self, question: str) -> int:
        fewest = min(sorted(self._usable), key=lambda number: self._load[number])
        siblings = Counter(
            place.engine
            for place in self._place_of.values()
            if question and place.question == question and place.engine in self._usable
        )
        for engine, num in siblings.most_common(1):
            # Never more above the others than by the siblings themselves, so that whole groups
            # are spread as single trajectories are.
            if self._load[engine] - self._load[fewest] <= num:
                return engine
        return fewest

    def release(self, trajectory: str) -> None:
        """Forget where a trajectory is; unknown ones are ignored."""
        place = self._place_of.pop(trajectory, None)
        if place is not None:
            self._load[place.engine] -= 1

    async def doubt(self, server: Server, why: str) -> None:
        """Quarantine an engine that a request failed on, unless it is alive and well after all."""
        start = server.num_starts
        if server.is_alive():
            # While it is paused for new weights it answers nobody, and is quarantined by the
            # update where that fails on it.
            async with self.updating:
                pass
            if await self._is_well(server):
                return
        if server.num_starts == start:
            self.quarantine(server, why)

    async def _is_well(self, server: Server) -> bool:
        """Whether it answers; an update that began meanwhile asks by itself."""
        before = self.num_updates
        is_healthy = await server.is_healthy(self.config.patience_s)
        return is_healthy or self.updating.locked() or self.num_updates != before

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
        begun, recent = time.monotonic(), self._restarts_of[server.number]
        # Once, here: an engine that cannot start is given up however long its starts take.
        recent[:] = [each for each in recent if begun - each < RESTARTS_WITHIN_S]
        while len(recent) < self.config.restarts:
            await server.stop()
            recent.append(time.monotonic())
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
        log.error("%s is given up after %d restarts", server, len(recent))

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
        # An engine that is paused for new weights answers nobody.
        if not self.updating.locked() and not await self._is_well(server):
            self.quarantine(server, f"no answer within {self.config.patience_s:g} s")
