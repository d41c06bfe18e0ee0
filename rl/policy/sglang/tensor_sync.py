"""What the ways of sending tensors to running engines have in common: pause, buckets, versions."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from torch import Tensor

from rl.policy.base import Weights
from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.names import for_loader
from rl.policy.sglang.requests import BeginUpdate, EndUpdate
from rl.policy.sglang.server import SESSIONS_SINCE, Server
from rl.policy.sglang.weights import Completeness, ask_each, paused

BUCKET_BYTES = 512 << 20


class Link(Protocol):
    """A way to some engines."""

    async def send(self, bucket: dict[str, Tensor], version: int | None) -> int:
        """Bytes that were sent; ``version`` ends the update. PolicyFailure where it breaks off."""
        ...


class TensorSync(ABC):
    """A ``Sync`` that sends each trainable tensor once, in buckets.

    A copy of what was sent last stays in this machine's memory: the learner moves on in place, and
    an engine that was started again begins with older weights.
    """

    def __init__(self, fleet: Fleet, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.fleet, self.bucket_bytes = fleet, bucket_bytes
        self.num_bytes = 0
        """Sent in the last update, once for all engines."""
        self._completeness = Completeness(fleet)
        self._kept: dict[str, Tensor] = {}
        self._version = 0
        """Of what is kept."""

    async def update(self, weights: Weights, version: int) -> None:
        """Send the trainable tensors.

        ConfigError where an engine would skip one of them, or keeps picture features that a
        trained tower makes stale; PolicyFailure where no engine took them.
        """
        # In threads, and before engines are paused: rollouts and calls of tools go on meanwhile.
        tensors = for_loader(await asyncio.to_thread(weights.trained))
        fleet = self.fleet
        await self._completeness.check(tensors, fleet.usable)
        kept = await asyncio.to_thread(_copied, tensors)
        async with paused(fleet):
            # First, so that an engine that starts meanwhile gets these.
            self._kept, self._version = kept, version
            with contextlib.ExitStack() as undo:
                undo.callback(self._give_up)
                servers = fleet.usable
                async with self._link(servers, lasting=True) as link:
                    await self._send(link, tensors, servers)
                undo.pop_all()
        fleet.version = version

    async def catch_up(self, server: Server) -> None:
        """Send one engine what the others hold; they go on meanwhile."""
        await self.fleet.load_newest(server)
        if not self._kept or server.version >= self._version:
            return
        await self._completeness.check(self._kept, [server])
        async with self._link([server], lasting=False) as link:
            await self._send(link, self._kept, [server])

    @abstractmethod
    def _link(
        self, servers: Sequence[Server], *, lasting: bool
    ) -> AbstractAsyncContextManager[Link]:
        """``lasting``: it is that of all engines, which the next update will want again."""

    def _give_up(self) -> None:
        """Engines may wait for the rest of an update that never comes, or hold half of it."""
        for server in self.fleet.usable:
            self.fleet.quarantine(server, "an update of its weights broke off")

    async def _send(
        self, link: Link, tensors: dict[str, Tensor], servers: Sequence[Server]
    ) -> None:
        fleet = self.fleet
        await ask_each(fleet, _begin, servers)
        buckets = list(in_buckets(tensors, self.bucket_bytes))
        self.num_bytes = 0
        for number, bucket in enumerate(buckets):
            version = self._version if number == len(buckets) - 1 else None
            self.num_bytes += await link.send(bucket, version)
        await ask_each(fleet, _end, servers)
        for server in servers:
            server.version = self._version


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In this machine's memory."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def in_buckets(tensors: dict[str, Tensor], most_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in order, in buckets of one dtype and of at most so many bytes or one tensor."""
    buckets: list[dict[str, Tensor]] = []
    room, dtype = 0, None
    for name, tensor in tensors.items():
        if tensor.nbytes > room or tensor.dtype != dtype:
            buckets.append({})
            room, dtype = most_bytes, tensor.dtype
        buckets[-1][name] = tensor
        room -= tensor.nbytes
    return buckets


async def _begin(server: Server) -> None:
    if server.sglang >= SESSIONS_SINCE:
        await server.post(BeginUpdate())


async def _end(server: Server) -> None:
    if server.sglang >= SESSIONS_SINCE:
        await server.post(EndUpdate())
