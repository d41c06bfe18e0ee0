"""Remembered answers: equal calls are executed once, and those under way are waited for.

Only for families whose back-ends are deterministic. Failures are never remembered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from toolshed.arrays import ByIdentity, num_bytes
from toolshed.backend import Answer, Request
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.hosting import Host
from toolshed.types import Point, StoredArray, ToolImage

Remembered: TypeAlias = Answer | ToolRefusal


class RememberingHost:
    """Answers equal calls once: while one runs the others wait for it, later ones look it up.

    Only for families whose back-ends are deterministic. Failures are never remembered.
    """

    def __init__(self, host: Host, families: Sequence[str], *, max_bytes: int = 64 << 20) -> None:
        self._host = host
        self._families = frozenset(families)
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, tuple[Remembered, int]] = OrderedDict()
        self._running: dict[str, asyncio.Task[Remembered]] = {}
        self._digests = ByIdentity[bytes]()

    async def call(self, request: Request) -> Answer:
        if request.family not in self._families:
            return await self._host.call(request)
        key = self._key(request)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return _unpacked(known[0])
        task = self._running.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.create_task(self._ask(dataclasses.replace(request, key=key)))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        # A caller that gives up must not take the answer from those who wait for the same one.
        answered = await asyncio.shield(task)
        return answered if isinstance(answered, Answer) else _unpacked(answered)

    async def aclose(self) -> None:
        await self._host.aclose()

    def close(self) -> None:
        self._host.close()

    async def _ask(self, request: Request) -> Remembered:
        answered: Remembered
        try:
            answered = await self._host.call(request)
        except ToolRefusal as refusal:
            answered = refusal
        except ToolFailure as failure:
            if failure.reason == "expired":
                # Which of the remembered arrays went with the node that held them is not known.
                self._kept.clear()
                self._num_bytes = 0
            raise
        self._keep(request.key, answered)
        return answered

    def _keep(self, key: str, answered: Remembered) -> None:
        size = 1024 + (num_bytes(answered) if isinstance(answered, Answer) else 0)
        # Two event loops may have executed the same call at the same time.
        _, replaced = self._kept.pop(key, (None, 0))
        self._kept[key] = (answered, size)
        self._num_bytes += size - replaced
        while self._num_bytes > self._max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._num_bytes -= dropped

    def _forget(self, key: str, task: asyncio.Task[Remembered]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    def _key(self, request: Request) -> str:
        parts = [(name, self._content(value)) for name, value in request.arguments.items()]
        whole = repr((request.family, request.method, request.kind_read, parts))
        return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def _content(self, value: object) -> object:
        """Something whose ``repr`` is equal exactly where the contents are."""
        if isinstance(value, ToolImage):
            return value.sha256
        if isinstance(value, np.ndarray):
            return self._digest(value)
        if isinstance(value, StoredArray):
            return value.key
        if isinstance(value, list | tuple):
            return tuple(self._content(each) for each in value)
        assert isinstance(value, str | int | float | Point), f"{type(value)} as an argument"
        return value

    def _digest(self, array: np.ndarray) -> object:
        digest = self._digests.get(array)
        if digest is None:
            digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
            self._digests.put(array, digest)
        return (array.dtype.str, array.shape, digest)


def _unpacked(answered: Remembered) -> Answer:
    if isinstance(answered, ToolRefusal):
        raise ToolRefusal(answered.reason, answered.text)
    return dataclasses.replace(
        answered, queue_s=0.0, transfer_s=0.0, run_s=0.0, encode_s=0.0, num_retries=0
    )
