"""Tools in Ray actors: the router lives in the caller, payloads travel straight to a replica.

A call goes to the ready replica with the fewest calls under way and has a deadline. A replica that
dies or hangs is replaced in the background; its call is tried once more elsewhere if the family is
idempotent, then it fails with a reason. Awaiting costs no thread.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from toolshed.config import ToolshedConfig
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.hosting import Answer, ByIdentity, Request, Served, num_bytes
from toolshed.ray_replica import KEPT_BYTES, Cluster, Replica, Sent, Told
from toolshed.types import ToolImage

T = TypeVar("T")

_BY_REFERENCE_BYTES = 100_000
_PROBE_PAUSE_S = 0.2


class _Broken(Exception):
    """A call was lost with its replica; ``retry`` says whether another replica may do better."""

    def __init__(self, failure: ToolFailure, *, retry: bool) -> None:
        super().__init__(failure)
        self.failure, self.retry = failure, retry


@dataclass(kw_only=True, slots=True, eq=False)
class _Member:
    """One replica as its router sees it."""

    index: int
    actor: Any
    num_running: int = 0
    ready: bool = True
    recovery: asyncio.Task[None] | None = None


class RayHost:
    """Serves families from replica processes; with ``serve`` under names that others can join."""

    def __init__(
        self, config: ToolshedConfig, families: Sequence[Served], *, serve: bool = False
    ) -> None:
        self._groups = [
            _Group(key, members, config) for key, members in _by_process(families).items()
        ]
        self._of_family = {each.name: group for group in self._groups for each in group.families}
        self._outbox = _Outbox()
        self._joined = config.ray_address is not None and not serve
        self._say("joining" if self._joined else "starting", "Ray")
        Cluster.enter(config, sum(each.cpus * each.num_replicas for each in self._groups))
        try:
            for group in self._groups:
                group.open(joined=self._joined, named=serve)
            self._await_ready()
        except BaseException:
            self.close()
            raise

    async def call(self, request: Request) -> Answer:
        group = self._of_family[request.family]
        served = next(each for each in group.families if each.name == request.family)
        created_s = time.perf_counter()
        queue_s = 0.0
        for is_last in (not served.idempotent, True):
            member = await group.acquire()
            sent_s = time.perf_counter()
            try:
                told = await self._ask(group, member, request, served.config.timeout_s)
                break
            except _Broken as broken:
                if is_last or not broken.retry:
                    raise broken.failure from None
            finally:
                queue_s = sent_s - created_s
                group.release(member)
        return _answer(told, queue_s)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop the replicas that this host started, and the cluster if nobody else uses it."""
        if not self._groups:
            return
        for group in self._groups:
            group.close(kill=not self._joined)
        self._groups = []
        self._outbox.clear()
        Cluster.leave()

    async def _ask(
        self, group: _Group, member: _Member, request: Request, timeout_s: float
    ) -> Told:
        from ray import exceptions

        packed = {name: self._outbox.packed(each) for name, each in request.arguments.items()}
        called = member.actor.call.remote(request.family, request.method, packed)
        try:
            told: Told = await asyncio.wait_for(asyncio.wrap_future(called.future()), timeout_s)
        except TimeoutError:
            group.replace(member, kill=True)
            text = f"{request.name} did not answer within {timeout_s:g} s"
            raise _Broken(ToolFailure("timeout", text), retry=True) from None
        except exceptions.RayActorError as error:
            group.replace(member, kill=False)
            text = f"the replica of {request.name} died: {_first_line(error)}"
            raise _Broken(ToolFailure("replica_died", text), retry=True) from None
        except exceptions.RayError as error:
            text = f"{request.name}: {error}"
            raise _Broken(ToolFailure("ray_error", text), retry=True) from None
        if told.status == "failed":
            text = f"{request.name}: {told.text}"
            # A bug fails everywhere alike; a replica that is out of memory may be alone in that.
            raise _Broken(ToolFailure(told.reason, text), retry=told.reason == "out_of_memory")
        return told

    def _await_ready(self) -> None:
        started_s = time.perf_counter()
        for group in self._groups:
            group.await_ready(started_s)
            took_s = time.perf_counter() - started_s
            for each in group.families:
                num = len(group.members)
                self._say(each.name, f"ready, {num} replica{'s' * (num > 1)} ({took_s:.1f} s)")

    @staticmethod
    def _say(what: str, state: str) -> None:
        print(f"tools: {what} {state}", file=sys.stderr, flush=True)


class _Group:
    """The replicas of families that share a process, and those who wait for one."""

    def __init__(self, key: str, families: list[Served], config: ToolshedConfig) -> None:
        self.families = families
        self.members: list[_Member] = []
        self.num_replicas = max(each.config.replicas for each in families)
        self.cpus = max(each.config.cpus for each in families)
        self._gpus = max(each.config.gpus for each in families)
        self._slots = max(each.config.slots for each in families)
        self._start_timeout_s = max(each.config.start_timeout_s for each in families)
        self._key, self._config = key, config
        self._joined = self._named = False
        self._waiting: deque[asyncio.Future[_Member]] = deque()

    def open(self, *, joined: bool, named: bool) -> None:
        self._joined, self._named = joined, named
        for index in range(self.num_replicas):
            try:
                actor = self._make(index)
            except ValueError as error:
                if self.members:
                    return
                place = f"{self._config.ray_address}, namespace {self._config.namespace!r}"
                names = ", ".join(each.name for each in self.families)
                raise ConfigError(
                    f"nobody serves {names} at {place}; start python -m toolshed.serve "
                    "with the same config and namespace"
                ) from error
            self.members.append(_Member(index=index, actor=actor))

    def await_ready(self, started_s: float) -> None:
        """Block until every replica answers; the deadline counts from ``started_s``."""
        import ray
        from ray import exceptions

        wanted = {f"{each.name}.{name}" for each in self.families for name in each.methods}
        names = ", ".join(each.name for each in self.families)
        for member in self.members:
            remaining_s = self._start_timeout_s - (time.perf_counter() - started_s)
            try:
                served = ray.get(member.actor.tools.remote(), timeout=max(0.1, remaining_s))
            except exceptions.GetTimeoutError:
                limit = f"{self._start_timeout_s:g} s"
                raise ToolFailure("start_timeout", f"{names} not ready within {limit}") from None
            except exceptions.RayActorError as error:
                raise ConfigError(f"{names} cannot start: {_last_line(error)}") from error
            missing = sorted(wanted - set(served))
            if missing:
                raise ConfigError(f"the running tools lack {', '.join(missing)}")

    async def acquire(self) -> _Member:
        """A ready replica with a free slot, counted as one call busier."""
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

    def release(self, member: _Member) -> None:
        member.num_running -= 1
        self._hand_out()

    def replace(self, member: _Member, *, kill: bool) -> None:
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

    def _free(self) -> _Member | None:
        ready = [each for each in self.members if each.ready and each.num_running < self._slots]
        return min(ready, key=lambda each: each.num_running, default=None)

    def _hand_out(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.done() and not waiter.get_loop().is_closed():
                free = self._free()
                if free is None:
                    return
                free.num_running += 1
                waiter.set_result(free)
            self._waiting.popleft()

    def _watch(self) -> None:
        """See to it that somebody waits for every replica that is down."""
        loop = asyncio.get_running_loop()
        for member in self.members:
            watched = member.recovery
            if not member.ready and (
                watched is None or watched.done() or watched.get_loop() is not loop
            ):
                member.recovery = loop.create_task(self._recover(member))

    async def _recover(self, member: _Member) -> None:
        """Wait until Ray has restarted the process; make a new actor where Ray has given it up."""
        from ray import exceptions

        while True:
            probe = asyncio.wrap_future(member.actor.tools.remote().future())
            try:
                await asyncio.wait_for(probe, self._start_timeout_s)
            except exceptions.ActorUnavailableError:
                await asyncio.sleep(_PROBE_PAUSE_S)
            except (exceptions.RayActorError, TimeoutError):
                await asyncio.sleep(_PROBE_PAUSE_S)
                try:
                    member.actor = self._make(member.index)
                except ValueError:
                    continue
            else:
                member.ready = True
                self._hand_out()
                return


class _Outbox:
    """What was sent before, so that a group of rollouts sends a picture once."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, Sent] = OrderedDict()
        self._num_bytes = 0
        self._keys = ByIdentity[str]()

    def packed(self, value: object) -> object:
        """The value itself if it is small, else what a replica can fetch it by."""
        key = self._key(value)
        if key is None:
            return value
        sent = self._sent.pop(key, None)
        if sent is None:
            import ray

            sent = Sent(key=key, reference=ray.put(value), num_bytes=num_bytes(value))
            self._num_bytes += sent.num_bytes
        self._sent[key] = sent
        while self._num_bytes > KEPT_BYTES and len(self._sent) > 1:
            _, dropped = self._sent.popitem(last=False)
            self._num_bytes -= dropped.num_bytes
        return sent

    def clear(self) -> None:
        self._sent.clear()
        self._num_bytes = 0

    def _key(self, value: object) -> str | None:
        if isinstance(value, ToolImage):
            return value.sha256
        if not isinstance(value, np.ndarray) or value.nbytes <= _BY_REFERENCE_BYTES:
            return None
        key = self._keys.get(value)
        if key is None:
            key = uuid.uuid4().hex
            self._keys.put(value, key)
        return key


def _by_process(families: Sequence[Served]) -> dict[str, list[Served]]:
    groups: dict[str, list[Served]] = {}
    for each in families:
        groups.setdefault(each.config.process or each.name, []).append(each)
    return groups


def _answer(told: Told, queue_s: float) -> Answer:
    if told.status == "refused":
        raise ToolRefusal(told.reason, told.text)
    assert told.value is not None, "an answer has a value"
    return Answer(value=_owned(told.value), queue_s=queue_s, run_s=told.run_s)


def _owned(value: T) -> T:
    """A copy whose arrays do not pin Ray's object store as long as a trajectory lives."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, object] = {}
    for each in fields(value):
        held = getattr(value, each.name)
        if isinstance(held, np.ndarray):
            changes[each.name] = held.copy()
        elif is_dataclass(held):
            changes[each.name] = _owned(held)
    return replace(value, **changes) if changes else value


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[-1]
