"""Remembered answers: equal calls are executed once, and those under way are waited for.

Only for families whose back-ends are deterministic. Failures are never remembered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NoReturn, TypeAlias

import numpy as np

from toolshed.arrays import ByIdentity, num_bytes
from toolshed.backend import Answer, Request
from toolshed.byte_lru import Abandoned, SingleFlight
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.hosting import Host
from toolshed.types import Point, StoredArray, ToolImage

Remembered: TypeAlias = Answer | ToolRefusal


class _Flight(Future[Remembered]):
    """A call under way in one event loop. There callers wait for its task; those of other loops
    wait for this, and as long as somebody there waits for the task, that loop runs."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[Remembered] | None = None
        self.num_near = 0
        """Callers in ``loop``; read and written there alone."""


class RememberingHost:
    """Answers equal calls of ``families`` once, whichever threads and event loops they come from;
    what is remembered takes ``max_bytes`` at most."""

    def __init__(self, host: Host, families: Sequence[str], *, max_bytes: int = 64 << 20) -> None:
        self._host = host
        self._families = frozenset(families)
        self._answers: SingleFlight[Remembered] = SingleFlight(max_bytes, _Flight)
        self._digests = ByIdentity[bytes]()

    async def call(self, request: Request) -> Answer:
        if request.family not in self._families:
            return await self._host.call(request)
        key = self._key(request)
        while True:
            flight, is_first = self._answers.enter(key)
            assert isinstance(flight, _Flight)
            if flight.done() and flight.exception() is None:
                return _unpacked(flight.result())
            if is_first:
                request = dataclasses.replace(request, key=key)
                flight.task = asyncio.create_task(self._ask(request, flight))
            try:
                if flight.loop is asyncio.get_running_loop():
                    answered = await self._near(key, flight)
                    return answered if isinstance(answered, Answer) else _raise(answered, is_first)
                return _unpacked(await asyncio.wrap_future(flight))
            except Abandoned:
                continue

    async def aclose(self) -> None:
        await self._host.aclose()

    def close(self) -> None:
        self._host.close()

    async def _near(self, key: str, flight: _Flight) -> Remembered:
        """Wait in the flight's own loop. A caller that gives up takes nothing from the others, but
        with the last of them the call is given up: the loop may stand still from then on."""
        task = flight.task
        assert task is not None, "it is made before anybody else in this loop has a turn"
        flight.num_near += 1
        try:
            return await asyncio.shield(task)
        finally:
            flight.num_near -= 1
            if not flight.num_near:
                # Both of no effect where the call has ended.
                self._answers.drop(key, flight)
                task.cancel()

    async def _ask(self, request: Request, flight: _Flight) -> Remembered:
        answered: Remembered
        try:
            try:
                answered = await self._host.call(request)
            except ToolRefusal as refusal:
                answered = refusal
            size = 1024 + (num_bytes(answered) if isinstance(answered, Answer) else 0)
            self._answers.land(request.key, flight, answered, size)
        except ToolFailure as failure:
            if failure.reason == "expired":
                # Which of the remembered arrays went with the node that held them is not known.
                self._answers.clear()
            self._answers.drop(request.key, flight, failure)
            raise
        finally:
            self._answers.drop(request.key, flight)
        return answered

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


def _raise(refusal: ToolRefusal, is_first: bool) -> NoReturn:
    """A copy, because one that is raised again and again keeps every frame it passed."""
    copy = ToolRefusal(refusal.reason, refusal.text)
    if is_first:
        copy.queue_s, copy.transfer_s = refusal.queue_s, refusal.transfer_s
        copy.run_s, copy.num_retries = refusal.run_s, refusal.num_retries
    raise copy


def _unpacked(answered: Remembered) -> Answer:
    if isinstance(answered, ToolRefusal):
        _raise(answered, is_first=False)
    return dataclasses.replace(
        answered, queue_s=0.0, transfer_s=0.0, run_s=0.0, encode_s=0.0, num_retries=0
    )
