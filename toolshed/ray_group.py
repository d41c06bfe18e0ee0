"""The replicas of one process word: who is free, who waits, and what becomes of one that is down.

Waiting and recovery are tasks of the event loop that calls; a replica that does not come back after
several starts is given up, and when all are, every call fails at once and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from toolshed.config import ToolshedConfig
from toolshed.errors import ConfigError, ToolFailure
from toolshed.hosting import Served
from toolshed.ray_replica import Replica, Started

_PROBE_PAUSE_S = 0.2
_RENEWAL_PAUSES_S = (0.2, 2.0, 10.0)
"""Before each new actor in the place of one that does not come back; then it is given up."""


@dataclass(kw_only=True, slots=True, eq=False)
class Member:
    """One replica as its router sees it."""

    index: int
    actor: Any
    num_running: int = 0
    ready: bool = True
    recovery: asyncio.Task[None] | None = None
    given_up: ToolFailure | None = None
    """Why it will not come back."""


class Group:
    """The replicas of families that share a process, and those who wait for one."""

    def __init__(self, key: str, families: list[Served], config: ToolshedConfig) -> None:
        self.families = families
        self.members: list[Member] = []
        self.num_replicas = max(each.config.replicas for each in families)
        self.cpus = max(each.config.cpus for each in families)
        self._gpus = max(each.config.gpus for each in families)
        # The config sees to it that families of one process agree.
        self._slots = families[0].config.slots
        self._start_timeout_s = max(each.config.start_timeout_s for each in families)
        self._names = ", ".join(each.name for each in families)
        self._key, self._config = key, config
        self._joined = self._named = False
        self._waiting: deque[asyncio.Future[Member]] = deque()

    def open(self, *, joined: bool, named: bool) -> None:
        self._joined, self._named = joined, named
        for index in range(self.num_replicas):
            try:
                actor = self._make(index)
            except ValueError as error:
                if self.members:
                    return
                place = f"{self._config.ray_address}, namespace {self._config.namespace!r}"
                raise ConfigError(
                    f"nobody serves {self._names} at {place}; start python -m toolshed.serve "
                    "with the same config and namespace"
                ) from error
            self.members.append(Member(index=index, actor=actor))

    def await_ready(self, started_s: float) -> None:
        """Block until every replica answers; the deadline counts from ``started_s``."""
        import ray
        from ray import exceptions

        wanted = {f"{each.name}.{name}" for each in self.families for name in each.methods}
        for member in self.members:
            remaining_s = self._start_timeout_s - (time.perf_counter() - started_s)
            probe = member.actor.started.remote()
            try:
                started: Started = ray.get(probe, timeout=max(0.1, remaining_s))
            except exceptions.GetTimeoutError:
                raise self._late() from None
            except exceptions.RayActorError as error:
                raise self._died(error) from error
            if started.user_error:
                raise ConfigError(f"{self._names} cannot start: {started.user_error}")
            missing = sorted(wanted - set(started.tools))
            if missing:
                raise ConfigError(f"the running tools lack {', '.join(missing)}")

    async def acquire(self) -> Member:
        """A ready replica with a free slot, counted as one call busier."""
        lost = self._lost()
        if lost is not None:
            raise lost
        self._watch()
        free = self._free()
        if free is not None and not self._waiting:
            free.num_running += 1
            return free
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._hand_out()
        try:
            return await asyncio.wait_for(waiter, self._config.queue_timeout_s)
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())
            if isinstance(error, TimeoutError):
                text = f"no free replica of {self._key} within {self._config.queue_timeout_s:g} s"
                raise ToolFailure("busy", text) from None
            raise

    def release(self, member: Member) -> None:
        member.num_running -= 1
        self._hand_out()

    def replace(self, member: Member, *, kill: bool) -> None:
        """Take a replica out until Ray has restarted it."""
        import ray

        if member.ready:
            member.ready = False
            if kill:
                ray.kill(member.actor, no_restart=False)
        self._watch()

    def close(self, *, kill: bool) -> None:
        import ray

        for member in self.members:
            if member.recovery is not None and not member.recovery.get_loop().is_closed():
                member.recovery.cancel()
            if kill:
                ray.kill(member.actor, no_restart=True)
        self.members = []

    def _make(self, index: int) -> Any:
        import ray

        name = f"toolshed/{self._key}/{index}"
        if self._joined:
            return ray.get_actor(name, namespace=self._config.namespace)
        options: dict[str, object] = {
            "num_cpus": self.cpus,
            "num_gpus": self._gpus,
            "max_concurrency": self._slots,
            "max_restarts": -1,
        }
        if self._named:
            options |= {"name": name, "namespace": self._config.namespace, "lifetime": "detached"}
        return ray.remote(Replica).options(**options).remote(self.families)

    def _free(self) -> Member | None:
        ready = [each for each in self.members if each.ready and each.num_running < self._slots]
        return min(ready, key=lambda each: each.num_running, default=None)

    def _hand_out(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.done() and not waiter.get_loop().is_closed():
                free, lost = self._free(), self._lost()
                if lost is not None:
                    waiter.set_exception(lost)
                elif free is None:
                    return
                else:
                    free.num_running += 1
                    waiter.set_result(free)
            self._waiting.popleft()

    def _watch(self) -> None:
        """See to it that somebody waits for every replica that is down."""
        loop = asyncio.get_running_loop()
        for member in self.members:
            watched = member.recovery
            if not (member.ready or member.given_up) and (
                watched is None or watched.done() or watched.get_loop() is not loop
            ):
                member.recovery = loop.create_task(self._recover(member))

    async def _recover(self, member: Member) -> None:
        """Wait until Ray has restarted the process; else try new actors, then give it up."""
        failure = await self._probe(member)
        for pause_s in _RENEWAL_PAUSES_S:
            if failure is None:
                break
            await asyncio.sleep(pause_s)
            self._renew(member)
            failure = await self._probe(member)
        member.ready = failure is None
        member.given_up = failure
        self._hand_out()

    async def _probe(self, member: Member) -> ToolFailure | None:
        """Wait for a replica as long as a start may take; why it did not come."""
        from ray import exceptions

        try:
            async with asyncio.timeout(self._start_timeout_s):
                while True:
                    probe = asyncio.wrap_future(member.actor.started.remote().future())
                    try:
                        started: Started = await probe
                    except exceptions.ActorUnavailableError:
                        await asyncio.sleep(_PROBE_PAUSE_S)
                        continue
                    return self._died(started.user_error) if started.user_error else None
        except exceptions.RayError as error:
            return self._died(error)
        except TimeoutError:
            return self._late()

    def _renew(self, member: Member) -> None:
        """Another actor in the place of one that does not come back."""
        import ray

        # First, or a hung process keeps its share of the GPU. An actor that others share is left
        # to Ray to restart, because none of those who joined it could make it anew.
        ray.kill(member.actor, no_restart=not self._joined)
        # The killed one may hold its name for a while, and a server may be gone: the old actor
        # stays in its place, and the next probe says what became of it.
        with contextlib.suppress(ValueError):
            member.actor = self._make(member.index)

    def _lost(self) -> ToolFailure | None:
        """Why no replica will ever answer again."""
        reasons = [each.given_up for each in self.members]
        last = reasons[-1] if reasons else None
        if last is None or None in reasons:
            return None
        return ToolFailure(last.reason, f"given up after several starts: {last.text}")

    def _died(self, why: object) -> ToolFailure:
        return ToolFailure("replica_died", f"{self._names} cannot start: {_last_line(why)}")

    def _late(self) -> ToolFailure:
        text = (
            f"{self._names} not ready within {self._start_timeout_s:g} s: the start is slow, or "
            "its process dies again and again, for example out of memory"
        )
        return ToolFailure("start_timeout", text)


def _last_line(error: object) -> str:
    return str(error).strip().split("\n")[-1]
