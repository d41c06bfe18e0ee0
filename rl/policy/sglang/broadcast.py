"""Trainable tensors from this process to all engines at once, through gloo or NCCL."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor

from rl.policy.base import PolicyFailure
from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.requests import JoinGroup, LeaveGroup, ReceiveBucket
from rl.policy.sglang.server import EngineLost, Server, free_port
from rl.policy.sglang.tensor_sync import BUCKET_BYTES, TensorSync
from rl.policy.sglang.weights import ask_each

_JOIN_S = 60.0
"""For all engines to join, and for one bucket; they are alive and near."""


class Broadcast(TensorSync):
    """A ``Sync`` by broadcast; the group of all engines lasts until one was started again."""

    def __init__(
        self,
        fleet: Fleet,
        backend: Literal["gloo", "nccl"],
        *,
        host: str = "127.0.0.1",
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        super().__init__(fleet, bucket_bytes)
        self.backend, self.host = backend, host
        self._group: _Group | None = None

    async def aclose(self) -> None:
        """Leave the group, engines first."""
        group, self._group = self._group, None
        if group is not None:
            await group.leave(self.fleet.usable)

    @contextlib.asynccontextmanager
    async def _link(self, servers: Sequence[Server], *, lasting: bool) -> AsyncIterator[_Group]:
        if lasting:
            if self._group is None or self._group.members != _members(servers):
                await self.aclose()
                self._group = await self._join(servers)
            yield self._group
            return
        group = await self._join(servers)
        try:
            yield group
        finally:
            await group.leave(servers)

    async def _join(self, servers: Sequence[Server]) -> _Group:
        config = self.fleet.config
        group = _Group(self.fleet, servers, self.backend, self.host, config.tensor_parallel)
        await group.join()
        return group


class _Group:
    """A process group of this process, which is rank 0, and some engines."""

    def __init__(
        self,
        fleet: Fleet,
        servers: Sequence[Server],
        backend: Literal["gloo", "nccl"],
        host: str,
        tp: int,
    ) -> None:
        self.fleet = fleet
        self.servers = tuple(servers)
        self.members = _members(servers)
        self._backend, self._host, self._tp = backend, host, tp
        # An engine takes a name once; another sender may have been here before.
        self._name = f"weights-{uuid.uuid4().hex[:12]}"
        self._handle: Any = None

    async def join(self) -> None:
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
            self._handle, _ = await asyncio.gather(ours, ask_each(self.fleet, join, self.servers))

    async def send(self, bucket: dict[str, Tensor], version: int | None) -> int:
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
            await asyncio.gather(ours, ask_each(self.fleet, receive, self.servers))
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
