"""Trainable tensors to an engine on the learner's own GPU, by handles of memory that both see.

Only handles travel by HTTP: those of CUDA IPC, or on a CPU names of shared memory. They are pickled
as torch.multiprocessing does it, in plain lists and tensors, which the engine's list of what it
unpickles allows (sglang.srt.utils.common.SafeUnpickler).
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.requests import ReceiveHandles
from rl.policy.sglang.server import Server
from rl.policy.sglang.tensor_sync import TensorSync
from rl.policy.sglang.weights import ask_each

_DEVICE = 6
"""Place of the device among the arguments of ``reductions.rebuild_cuda_tensor``."""


class IpcSync(TensorSync):
    """A ``Sync`` without a way through the host: the engine copies from the learner's memory."""

    async def aclose(self) -> None:
        """Nothing is shared between updates."""

    @contextlib.asynccontextmanager
    async def _link(self, servers: Sequence[Server], *, lasting: bool) -> AsyncIterator[_Handles]:
        device = self.fleet.config.device
        ranks = self.fleet.config.tensor_parallel
        try:
            yield _Handles(self.fleet, servers, torch.device(device), ranks)
        finally:
            if device == "cuda":
                # Engines let go of a bucket as they answer; only now is its memory ours again.
                torch.cuda.ipc_collect()


class _Handles:
    """To some engines, each with as many ranks."""

    def __init__(
        self, fleet: Fleet, servers: Sequence[Server], device: torch.device, ranks: int
    ) -> None:
        self.fleet, self.servers, self.device, self.ranks = fleet, servers, device, ranks

    async def send(self, bucket: dict[str, Tensor], version: int | None) -> int:
        # A buffer of its own: the learner's memory is never mapped elsewhere.
        here = (each if each.is_cuda else each.to(self.device) for each in bucket.values())
        flat = torch.cat([each.reshape(-1) for each in here])
        parts = flat.split([each.numel() for each in bucket.values()])
        named = [
            (name, part.view(each.shape))
            for (name, each), part in zip(bucket.items(), parts, strict=True)
        ]

        async def receive(server: Server) -> None:
            # A handle can be opened once, so each rank of each engine has its own.
            handles = [base64.b64encode(pickled(named)).decode("ascii") for _ in range(self.ranks)]
            await server.post(
                ReceiveHandles(
                    serialized_named_tensors=tuple(handles),
                    flush_cache=version is not None,
                    weight_version=None if version is None else str(version),
                )
            )

        await ask_each(self.fleet, receive, self.servers)
        return flat.nbytes


def pickled(named: Sequence[tuple[str, Tensor]]) -> bytes:
    """Names and handles; the tensors have to live until the other side has opened them."""
    buffer = io.BytesIO()
    with _names_of_memory():
        _Pickler(buffer).dump(list(named))
    return buffer.getvalue()


class _Pickler(ForkingPickler):
    """Names a GPU by its UUID, as the two processes may count devices from different ones."""

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, Tensor) or not value.is_cuda:
            return NotImplemented
        found: tuple[Callable[..., Tensor], tuple[Any, ...]] = reductions.reduce_tensor(value)
        rebuild, words = found
        uuid = str(torch.cuda.get_device_properties(value.device).uuid)
        return rebuild, (*words[:_DEVICE], uuid, *words[_DEVICE + 1 :])


@contextlib.contextmanager
def _names_of_memory() -> Iterator[None]:
    """File descriptors, the other strategy, pass only between relatives."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
