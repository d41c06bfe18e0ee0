"""Trainable tensors from this process to all engines at once, through gloo or NCCL."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rl.policy.base import PolicyFailure, Weights
from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.names import for_loader
from rl.policy.sglang.requests import BeginUpdate, EndUpdate, JoinGroup, LeaveGroup, ReceiveBucket
from rl.policy.sglang.server import SESSIONS_SINCE, EngineLost, Server, free_port
from rl.policy.sglang.weights import Completeness, ask_each, paused

if TYPE_CHECKING:
    from rl.policy.sglang.policy import SglangPolicy

_BUCKET_BYTES = 512 << 20
_JOIN_S = 60.0
"""For all engines to join, and for one bucket; they are alive and near."""


class Broadcast:
    """A ``Sync`` that sends each trainable tensor once, in flat buckets.

    A copy of what was sent last stays in this machine's memory: the learner moves on in place, and
    an engine that was started again begins with older weights.
    """

    def __init__(
        self,
        policy: SglangPolicy,
        backend: Literal["gloo", "nccl"],
        *,
        host: str = "127.0.0.1",
        bucket_bytes: int = _BUCKET_BYTES,
    ) -> None:
        self.policy, self.backend, self.host = policy, backend, host
        self.bucket_bytes = bucket_bytes
        self.num_bytes = 0
        """Sent in the last update, once for all engines."""
        self._completeness = Completeness(policy)
        self._group: _Group | None = None
        self._kept: dict[str, Tensor] = {}
        self._version = 0
        """Of what is kept."""

    async def update(self, weights: Weights, version: int) -> None:
        """Send the trainable tensors.

        ConfigError where an engine would skip one of them, or keeps picture features that a
        trained tower makes stale; PolicyFailure where no engine took them.
        """
        tensors = for_loader(weights.trained())
        fleet = self.policy.fleet
        await self._completeness.check(tensors, fleet.usable)
        async with paused(fleet):
            # First, so that an engine that starts meanwhile gets these.
            self._kept = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
            self._version = version
            with contextlib.ExitStack() as undo:
                undo.callback(self._give_up)
                await self._send(await self._joined(fleet.usable), tensors)
                undo.pop_all()
        self.policy.version = version

    async def catch_up(self, server: Server) -> None:
        """Send one engine what the others hold; they go on meanwhile."""
        await self.policy.fleet.load_newest(server)
        if not self._kept or server.version >= self._version:
            return
        await self._completeness.check(self._kept, [server])
        async with self._group_of([server]) as group:
            await self._send(group, self._kept)

    async def aclose(self) -> None:
        """Leave the group, engines first."""
        group, self._group = self._group, None
        if group is not None:
            await group.leave(self.policy.fleet.usable)

    def _give_up(self) -> None:
        """Engines may wait for the rest of an update that never comes, or hold half of it."""
        for server in self.policy.fleet.usable:
            self.policy.fleet.quarantine(server, "an update of its weights broke off")

    async def _joined(self, servers: Sequence[Server]) -> _Group:
        """The group of all engines; anew when one was started again."""
        if self._group is None or self._group.members != _members(servers):
            await self.aclose()
            self._group = await self._join(servers)
        return self._group

    async def _join(self, servers: Sequence[Server]) -> _Group:
        config = self.policy.config
        group = _Group(servers, self.backend, self.host, config.tensor_parallel)
        await group.join(self.policy.fleet)
        return group

    @contextlib.asynccontextmanager
    async def _group_of(self, servers: Sequence[Server]) -> AsyncIterator[_Group]:
        group = await self._join(servers)
        try:
            yield group
        finally:
            await group.leave(servers)

    async def _send(self, group: _Group, tensors: dict[str, Tensor]) -> None:
        fleet, servers = self.policy.fleet, group.servers
        await ask_each(fleet, _begin, servers)
        buckets = list(in_buckets(tensors, self.bucket_bytes))
        self.num_bytes = 0
        for number, bucket in enumerate(buckets):
            version = self._version if number == len(buckets) - 1 else None
            self.num_bytes += await group.send(fleet, bucket, version)
        await ask_each(fleet, _end, servers)
        for server in servers:
            server.version = self._version


class _Group:
    """A process group of this process, which is rank 0, and some engines."""

    def __init__(
        self, servers: Sequence[Server], backend: Literal["gloo", "nccl"], host: str, tp: int
    ) -> None:
        self.servers = tuple(servers)
        self.members = _members(servers)
        self._backend, self._host, self._tp = backend, host, tp
        # An engine takes a name once; another sender may have been here before.
        self._name = f"weights-{uuid.uuid4().hex[:12]}"
        self._handle: Any = None

    async def join(self, fleet: Fleet) -> None:
        """PolicyFailure where not all are there in time."""
        size = 1 + self._tp * len(self.servers)
        port = free_port()
        rank_of = {each.number: 1 + self._tp * place for place, each in enumerate(self.servers)}

        async def join(server: Server) -> None:
            await server.post(
                JoinGroup(
                    master_address=self._host,
                    master_port=port,
                    rank_offset=rank_of[server.number],
                    world_size=size,
                    group_name=self._name,
                    backend=self._backend,
                )
            )

        # A rendezvous blocks until all are there, so ours waits beside the event loop; where an
        # engine refuses, it ends by its limit.
        ours = asyncio.to_thread(_rank_0, self._backend, self._host, port, size, self._name)
        with _naming():
            self._handle, _ = await asyncio.gather(ours, ask_each(fleet, join, self.servers))

    async def send(self, fleet: Fleet, bucket: dict[str, Tensor], version: int | None) -> int:
        """Bytes that were sent; ``version`` ends the update. PolicyFailure where it breaks off."""
        request = ReceiveBucket(
            names=tuple(bucket),
            dtypes=tuple(str(each.dtype).removeprefix("torch.") for each in bucket.values()),
            shapes=tuple(tuple(each.shape) for each in bucket.values()),
            group_name=self._name,
            flush_cache=version is not None,
            weight_version=None if version is None else str(version),
        )
        flat = torch.cat([each.contiguous().view(-1).view(torch.uint8) for each in bucket.values()])
        if self._backend == "nccl":
            flat = flat.cuda()

        async def receive(server: Server) -> None:
            await server.post(request)

        ours = asyncio.to_thread(torch.distributed.broadcast, flat, src=0, group=self._handle)
        with _naming():
            await asyncio.gather(ours, ask_each(fleet, receive, self.servers))
        return flat.numel()

    async def leave(self, servers: Sequence[Server]) -> None:
        """Those of ``servers`` that are members leave first."""
        left = [each for each in servers if (each.number, each.num_starts) in self.members]
        await asyncio.gather(*(_leave(each, self._name) for each in left))
        handle, self._handle = self._handle, None
        if handle is not None:
            torch.distributed.destroy_process_group(handle)


def _members(servers: Sequence[Server]) -> tuple[tuple[int, int], ...]:
    """(number, start) of each."""
    return tuple((each.number, each.num_starts) for each in servers)


@contextlib.contextmanager
def _naming() -> Iterator[None]:
    """torch has one error for all that breaks between processes: RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise PolicyFailure("engine_weights", f"the broadcast broke off: {error}") from error


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


async def _leave(server: Server, name: str) -> None:
    # An engine that cannot leave is found out by the next group that it has to join.
    with contextlib.suppress(PolicyFailure, EngineLost):
        await server.post(LeaveGroup(group_name=name))


def _rank_0(backend: str, host: str, port: int, size: int, name: str) -> Any:
    """Rank 0 of a group beside the default one, by the steps that engines take as well.

    torch offers no public way to a group whose members are not all in the default one.
    """
    distributed: Any = torch.distributed
    c10d = distributed.distributed_c10d

    limit = timedelta(seconds=_JOIN_S)
    store = distributed.TCPStore(
        host, port, size, is_master=True, timeout=limit, wait_for_workers=False, multi_tenant=True
    )
    group, _ = c10d._new_process_group_helper(
        size,
        0,
        [],
        c10d.Backend(backend),
        c10d.PrefixStore(name, store),
        group_name=name,
        timeout=limit,
    )
    c10d._world.pg_group_ranks[group] = {each: each for each in range(size)}
    return group
