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
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import numpy as np

from toolshed.config import ToolshedConfig
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.hosting import Answer, ByIdentity, Request, Served, num_bytes
from toolshed.ray_group import Group, Member
from toolshed.ray_replica import KEPT_BYTES, Cluster, Sent, Told
from toolshed.types import ToolImage

T = TypeVar("T")

_BY_REFERENCE_BYTES = 100_000


class _Broken(Exception):
    """A call was lost with its replica; ``retry`` says whether another replica may do better."""

    def __init__(self, failure: ToolFailure, *, retry: bool) -> None:
        super().__init__(failure)
        self.failure, self.retry = failure, retry


class RayHost:
    """Serves families from replica processes; with ``serve`` under names that others can join."""

    def __init__(
        self, config: ToolshedConfig, families: Sequence[Served], *, serve: bool = False
    ) -> None:
        self._groups = [
            Group(key, members, config) for key, members in _by_process(families).items()
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

    async def _ask(self, group: Group, member: Member, request: Request, timeout_s: float) -> Told:
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
