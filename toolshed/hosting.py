"""Where calls are answered: the Host protocol, the host in this process, and remembered answers.

A host either answers or raises: ToolRefusal where the tool declines, ToolFailure where machinery
broke. In this process a bug of a back-end propagates, so that tests meet the bug itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from toolshed.config import FamilyConfig, ToolshedConfig
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.registry import backend_of, contract_of, load_class
from toolshed.tools.robot import RobotReply
from toolshed.toolset import ToolSet
from toolshed.types import Json, Point, ToolImage, ToolValue

T = TypeVar("T")
Outcome: TypeAlias = ToolValue | RobotReply


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One checked call, its variables resolved."""

    family: str
    method: str
    arguments: dict[str, object]

    @property
    def name(self) -> str:
        return f"{self.family}.{self.method}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a back-end returned, and how long the call waited and ran."""

    value: Outcome
    queue_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A family that a host is to serve."""

    name: str
    location: str
    """Back-end as ``module:Class``."""
    arguments: dict[str, Json]
    methods: tuple[str, ...]
    """Those that are shown."""
    idempotent: bool
    config: FamilyConfig


class Host(Protocol):
    """Answers requests until it is closed."""

    async def call(self, request: Request) -> Answer: ...

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def served_families(config: ToolshedConfig, tools: ToolSet) -> list[Served]:
    """What a host needs to know of these tools; a ConfigError where a family cannot be had."""
    found = []
    for name in tools.families:
        family = config.families[name]
        contract = contract_of(name, family.backend)
        backend = backend_of(name, family.backend)
        found.append(
            Served(
                name=name,
                location=backend.location,
                arguments={**backend.arguments, **family.arguments},
                methods=tuple(spec.method for spec in tools.specs if spec.family == name),
                idempotent=contract.idempotent,
                config=family,
            )
        )
    return found


class BackEndInstance:
    """A constructed back-end with its tool methods by name."""

    def __init__(
        self, name: str, location: str, arguments: dict[str, Json], methods: Sequence[str]
    ):
        found = load_class(location)
        try:
            instance = found(**arguments)
        except TypeError as error:
            raise ConfigError(f"{name}: {location} cannot be made: {error}") from error
        self._methods: dict[str, Callable[..., Outcome]] = {}
        for method in methods:
            # Back-ends are chosen by name in a config, so their methods are found by name as well.
            bound = getattr(instance, method, None)
            if not callable(bound):
                raise ConfigError(f"{name}: {location} has no method {method!r}")
            self._methods[method] = bound

    def call(self, method: str, arguments: dict[str, object]) -> Outcome:
        """Answer, or raise what the back-end raises; machine limits become ToolFailure."""
        try:
            return self._methods[method](**arguments)
        except MemoryError as error:
            raise ToolFailure("out_of_memory", f"{method}: {error}") from error
        except TimeoutError as error:
            raise ToolFailure("timeout", f"{method}: {error}") from error


class LocalHost:
    """Back-ends in this process, one call at a time."""

    def __init__(self, families: Sequence[Served]) -> None:
        self._back_ends = {
            each.name: BackEndInstance(each.name, each.location, each.arguments, each.methods)
            for each in families
        }

    async def call(self, request: Request) -> Answer:
        # Sibling calls of one turn must all be resolved before the first leaves a variable behind.
        await asyncio.sleep(0)
        started_s = time.perf_counter()
        value = self._back_ends[request.family].call(request.method, request.arguments)
        return Answer(value=value, run_s=time.perf_counter() - started_s)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._back_ends.clear()


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
        self._kept: OrderedDict[object, tuple[Remembered, int]] = OrderedDict()
        self._running: dict[object, asyncio.Task[Remembered]] = {}
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
            task = asyncio.create_task(self._ask(key, request))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        # A caller that gives up must not take the answer from those who wait for the same one.
        answered = await asyncio.shield(task)
        return answered if isinstance(answered, Answer) else _unpacked(answered)

    async def aclose(self) -> None:
        await self._host.aclose()

    def close(self) -> None:
        self._host.close()

    async def _ask(self, key: object, request: Request) -> Remembered:
        answered: Remembered
        try:
            answered = await self._host.call(request)
        except ToolRefusal as refusal:
            answered = refusal
        self._keep(key, answered)
        return answered

    def _keep(self, key: object, answered: Remembered) -> None:
        size = 1024 + (num_bytes(answered.value) if isinstance(answered, Answer) else 0)
        self._kept[key] = (answered, size)
        self._num_bytes += size
        while self._num_bytes > self._max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._num_bytes -= dropped

    def _forget(self, key: object, task: asyncio.Task[Remembered]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    def _key(self, request: Request) -> object:
        parts = tuple((name, self._content(value)) for name, value in request.arguments.items())
        return (request.family, request.method, parts)

    def _content(self, value: object) -> object:
        """Something hashable that is equal exactly where the contents are."""
        if isinstance(value, ToolImage):
            return value.sha256
        if isinstance(value, np.ndarray):
            return self._digest(value)
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
    return dataclasses.replace(answered, queue_s=0.0, run_s=0.0)


class ByIdentity(Generic[T]):
    """A fact about each array, kept as long as the array itself lives."""

    def __init__(self) -> None:
        self._facts: dict[int, tuple[weakref.ref[np.ndarray], T]] = {}

    def get(self, array: np.ndarray) -> T | None:
        found = self._facts.get(id(array))
        return found[1] if found is not None and found[0]() is array else None

    def put(self, array: np.ndarray, fact: T) -> None:
        key = id(array)
        self._facts[key] = (weakref.ref(array, lambda gone: self._drop(key, gone)), fact)

    def _drop(self, key: int, gone: weakref.ref[np.ndarray]) -> None:
        found = self._facts.get(key)
        if found is not None and found[0] is gone:
            del self._facts[key]


def num_bytes(value: object) -> int:
    """Bytes in the arrays of a value."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(num_bytes(getattr(value, each.name)) for each in dataclasses.fields(value))
    return 0
