"""The control actor: starts replicas, asks after their health, replaces those that are lost, and
tells callers which there are. No call and no payload passes through it.

Replicas outlive it: when it dies, Ray starts it again, and it adopts those that it finds. When
nobody has renewed its lease for a while, it ends everything and itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Any

from toolshed.errors import ConfigError
from toolshed.serving.kept import forget_wanted, living_replicas, load_wanted, save_wanted
from toolshed.serving.placement import Reservation, check_number
from toolshed.serving.registry import GroupSpec, Registry
from toolshed.serving.replica import Replica, Started, num_threads
from toolshed.serving.reports import ReportDesk
from toolshed.serving.seats import Seat

NAME = "toolshed/control"
HEALTH_GROUP = "health"
GIVEN_UP = "given up after several starts: "
_HEALTH_PERIOD_S = 0.5
_HEALTH_TIMEOUT_S = 5.0
_DRAIN_POLL_S = 0.1
_WATCH_S = 10.0


class Control(ReportDesk):
    """An async actor, one per namespace; every public method answers at once or waits."""

    def __init__(
        self, namespace: str, groups: Sequence[GroupSpec], reservation: Reservation, lease_s: float
    ) -> None:
        self._namespace = namespace
        super().__init__({each.key: each.names for each in groups})
        self._groups = {each.key: each for each in groups}
        self._reservation = reservation
        self._lease_s = lease_s
        # Who asks keeps the lease; so nobody is kept waiting for as long as that.
        self._watch_s = min(_WATCH_S, lease_s / 3)
        self._renewed_s = time.monotonic()
        self._seats: list[Seat] = []
        # Never one that a caller knows from before a restart of this actor.
        self._version = time.time_ns()
        self._changed = asyncio.Condition()
        self._is_started = False
        self._tasks: set[asyncio.Task[Any]] = set()
        # Where Ray has started this actor again, there may be nobody left who would.
        _current_actor().start.remote()

    async def start(self) -> None:
        """Fill every place; works once in each life of this actor."""
        if self._is_started:
            return
        self._is_started = True
        living = living_replicas(self._namespace)
        wanted = load_wanted(self._namespace)
        for group in self._groups.values():
            for index in wanted.get(group.key, range(group.replicas)):
                self._open_seat(group, index, living.pop((group.key, index), None))
        for (key, index), adopted in living.items():
            # It was leaving when the earlier life ended.
            self._open_seat(self._groups[key], index, adopted, leaving=True)
        self._spawn(self._watch_lease())
        await self._tell()

    async def registry(self) -> Registry:
        return Registry(version=self._version, seats=tuple(each.report() for each in self._seats))

    async def watch(self, version: int) -> Registry:
        """The registry, as soon as it is another than ``version``; renews the lease."""
        self._renewed_s = time.monotonic()
        await self.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._watch_s), self._changed:
                await self._changed.wait_for(lambda: self._version != version)
        return await self.registry()

    async def look_at(self, name: str) -> None:
        """A caller suspects this replica: ask after it now."""
        for seat in self._seats:
            if seat.name == name:
                seat.looked_at.set()

    async def scale(self, family: str, replicas: int) -> None:
        """Have so many replicas of the group that serves a family; ConfigError, and no change,
        where more of them can never be placed."""
        group = self._group_of(family)
        if replicas < 0:
            raise ConfigError(f"scale {family} to {replicas}: a number from 0 on is needed")
        check_number(group.names, replicas)
        staying = [each for each in self._seats_of(group) if not each.leaving]
        alive = sorted((each for each in staying if each.state != "dead"), key=Seat.worth)
        gone = [each for each in staying if each.state == "dead"]
        used = {each.index for each in self._seats_of(group) if each not in gone}
        free = (index for index in itertools.count() if index not in used)
        new = list(itertools.islice(free, max(0, replicas - len(alive))))
        if new:
            others = [each for each in self._seats if not (each.leaving or each in gone)]
            places = [(each.group.key, each.index) for each in others]
            places += [(group.key, index) for index in new]
            self._reservation.check_growth(tuple(self._groups.values()), places)
        for seat in gone + alive[replicas:]:
            self._leave(seat)
        for index in new:
            self._open_seat(group, index, None)
        await self._settle(group)

    async def drain(self, family: str, index: int) -> str:
        """Let one replica finish its calls, then end it; its place is not filled again. Answers at
        once, with the replica's name, which the registry has until it is out."""
        group = self._group_of(family)
        found = [each for each in self._seats_of(group) if each.index == index]
        if not found:
            known = ", ".join(str(each.index) for each in self._seats_of(group))
            raise ConfigError(f"{family} has no replica {index}; it has {known or 'none'}")
        name = found[0].name
        self._leave(found[0])
        await self._settle(group)
        return name

    async def stop(self) -> None:
        """End all replicas; whoever calls this ends this actor afterwards."""
        import ray

        for seat in self._seats:
            if seat.keeper is not None:
                seat.keeper.cancel()
            if seat.actor is not None:
                ray.kill(seat.actor, no_restart=True)
            seat.enter("dead", "stopped")
        self._reservation.remove()
        forget_wanted(self._namespace)
        await self._tell()

    # ---- one place -----------------------------------------------------------------------------

    def _open_seat(
        self,
        group: GroupSpec,
        index: int,
        adopted: tuple[int, Any] | None,
        *,
        leaving: bool = False,
    ) -> None:
        seat = Seat(group, index)
        seat.leaving = leaving
        if adopted is not None:
            seat.generation, seat.actor = adopted
        self._seats.append(seat)
        seat.keeper = self._spawn(self._keep(seat))

    async def _keep(self, seat: Seat) -> None:
        """Fill a place until it is given up."""
        while True:
            reason = await self._fill(seat)
            if reason is None:
                reason = await self._attend(seat)
            self._kill(seat)
            if seat.leaving:
                self._seats.remove(seat)
                await self._tell()
                return
            pause_s = None if seat.user_error else seat.pause_s()
            if pause_s is None:
                given_up = "" if seat.user_error else GIVEN_UP
                seat.enter("dead", given_up + reason, user_error=seat.user_error)
                await self._tell()
                return
            seat.enter("down", reason)
            await self._tell()
            await asyncio.sleep(pause_s)
            seat.generation += 1

    async def _fill(self, seat: Seat) -> str | None:
        """Start a replica, or meet one that runs; why it did not come, None when it is ready."""
        from ray import exceptions

        seat.enter("starting", seat.reason)
        await self._tell()
        try:
            if seat.actor is None:
                seat.actor = self._make(seat)
            async with asyncio.timeout(seat.group.start_timeout_s):
                started: Started = await seat.actor.started.remote()
        except exceptions.RayError as error:
            return f"replica_died: {seat.group.names} cannot start: {_last_line(error)}"
        except ValueError as error:
            return f"replica_died: {seat.group.names} cannot start: {_last_line(error)}"
        except TimeoutError:
            return (
                f"start_timeout: {seat.group.names} not ready within "
                f"{seat.group.start_timeout_s:g} s: the start is slow, or the cluster has no room"
            )
        if started.user_error and seat.was_ready:
            return f"replica_died: {seat.group.names} cannot start again: {started.user_error}"
        if started.user_error:
            seat.user_error = True
            return f"user_error: {seat.group.names} cannot start: {started.user_error}"
        seat.enter("ready")
        await self._tell()
        return None

    async def _attend(self, seat: Seat) -> str:
        """Ask after a ready replica until it is lost or leaves; says why it is to be ended."""
        from ray import exceptions

        silent_since_s = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEALTH_PERIOD_S):
                    await seat.looked_at.wait()
            seat.looked_at.clear()
            asked = seat.actor.health.options(concurrency_group=HEALTH_GROUP).remote()
            try:
                async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                    seat.health = await asked
            except exceptions.RayError as error:
                return f"replica_died: {_last_line(error)}"
            except TimeoutError:
                silent_since_s = silent_since_s or time.monotonic() - _HEALTH_TIMEOUT_S
                if time.monotonic() - silent_since_s > seat.group.run_timeout_s:
                    return "hung: it does not even say how it is"
                await self._suspect(seat)
                continue
            silent_since_s = None
            assert seat.health is not None
            if seat.health.device_lost:
                return "device_lost: the GPU's context is gone"
            if seat.health.longest_s > seat.group.run_timeout_s:
                return f"hung: one call has run for {seat.health.longest_s:.1f} s"
            if seat.leaving and await self._drained(seat):
                return "drained"
            if seat.state == "suspect":
                seat.enter("ready")
                await self._tell()

    async def _suspect(self, seat: Seat) -> None:
        if seat.state == "ready":
            seat.enter("suspect", "does not answer its health check")
            await self._tell()

    async def _drained(self, seat: Seat) -> bool:
        if seat.state != "draining":
            await seat.actor.drain.options(concurrency_group=HEALTH_GROUP).remote()
            seat.enter("draining")
            await self._tell()
            return False
        await asyncio.sleep(_DRAIN_POLL_S)
        assert seat.health is not None
        seat.looked_at.set()
        return seat.health.draining and seat.health.num_accepted == 0

    def _leave(self, seat: Seat) -> None:
        seat.leaving = True
        seat.looked_at.set()
        if seat.state in ("dead", "down", "starting"):
            # Nobody waits there: it can go at once.
            if seat.keeper is not None:
                seat.keeper.cancel()
            self._kill(seat)
            self._seats.remove(seat)

    def _make(self, seat: Seat) -> Any:
        import ray

        group = seat.group
        threads = num_threads(group.families, group.slots)
        options: dict[str, Any] = {
            "name": seat.name,
            "namespace": self._namespace,
            "lifetime": "detached",
            "num_cpus": group.cpus,
            "num_gpus": group.gpus,
            "max_restarts": 0,
            "max_concurrency": threads,
            # Ray would record every call a second time, at a tenth of its cost.
            "enable_task_events": False,
        }
        if group.runtime_env:
            options["runtime_env"] = group.runtime_env
        needs_nothing = not (group.cpus or group.gpus)
        strategy = self._reservation.strategy((group.key, seat.index), needs_nothing=needs_nothing)
        if strategy is not None:
            options["scheduling_strategy"] = strategy
        actor = ray.remote(concurrency_groups={HEALTH_GROUP: 2})(Replica)
        return actor.options(**options).remote(group.families, group.slots)

    def _kill(self, seat: Seat) -> None:
        import ray

        if seat.actor is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                ray.kill(seat.actor, no_restart=True)
        seat.actor, seat.health = None, None

    # ---- all of it -----------------------------------------------------------------------------

    async def _watch_lease(self) -> None:
        import ray

        while time.monotonic() - self._renewed_s < self._lease_s:
            await asyncio.sleep(min(1.0, self._lease_s / 4))
        await self.stop()
        ray.kill(_current_actor(), no_restart=True)

    async def _settle(self, group: GroupSpec) -> None:
        """Keep which places are to be filled, for the next life of this actor, and tell of it."""
        staying = [each.index for each in self._seats_of(group) if not each.leaving]
        save_wanted(self._namespace, {**load_wanted(self._namespace), group.key: staying})
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _group_of(self, family: str) -> GroupSpec:
        for group in self._groups.values():
            if any(each.spec.name == family for each in group.families):
                return group
        known = ", ".join(each.names for each in self._groups.values())
        raise ConfigError(f"no tool family {family!r} is served here; served: {known}")

    def _seats_of(self, group: GroupSpec) -> list[Seat]:
        found = [each for each in self._seats if each.group.key == group.key]
        return sorted(found, key=lambda each: each.index)


def _current_actor() -> Any:
    import ray

    return ray.get_runtime_context().current_actor


def _last_line(error: object) -> str:
    """What Ray says last is the error itself, except of a process that was killed."""
    lines = [each.strip() for each in str(error).strip().split("\n")]
    told = [each for each in lines if not each.startswith("The actor never ran")]
    return (told or lines)[-1].removeprefix("toolshed.errors.ToolFailure: ")
