"""One process with the back-ends of one or several families: admission, turns, batches, remembered
answers. It imports numpy and the standard library, so that it runs in any tool environment.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from toolshed.backend import Answer, BackEnd, BackEndSpec, Request
from toolshed.byte_lru import Abandoned, SingleFlight
from toolshed.errors import CallEnded, ConfigError, ToolFailure, ToolRefusal, first_line
from toolshed.serving.batches import Worker
from toolshed.serving.turns import Turnstile
from toolshed.serving.wire import Asked, Buffers, Inbox, Told, Word, two_parts

_BACKLOG = 4
"""Calls that a replica accepts beyond those that it runs, at least: it is not idle between."""
_SPARE_THREADS = 4
"""For saying ``busy`` while every accepted call has a thread of its own. Each thread more costs
calls that are short: they all wake up and push for the interpreter's lock."""
_SHORT_S = 0.005
"""While no running call has lasted for longer, nobody is sent away: it is soon their turn."""
_REMEMBERED_BYTES = 64 << 20
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
"""Numbers of glibc's malloc.h."""
_Reply: TypeAlias = tuple[Told, Buffers]


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilySettings:
    """How a replica runs one family."""

    spec: BackEndSpec
    max_batch_size: int
    max_wait_s: float
    may_repeat: bool = True
    """Whether a call that broke may be executed again; not where calls have effects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """How a replica's start ended."""

    tools: tuple[str, ...]
    """Dotted names of what is answered there."""
    user_error: str = ""
    """Why these back-ends cannot be had. Told, because of what a constructor raises Ray keeps only
    a text, which does not say whose fault it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a replica says of itself."""

    node: str
    """Name of the machine."""
    process_id: int
    num_accepted: int
    """Calls that are here now."""
    num_waiting: int
    """Of those, how many wait for their turn."""
    longest_s: float
    """How long the oldest running call has run."""
    num_calls: int
    """Calls taken since the start."""
    num_executed: int
    """Calls that reached a back-end."""
    draining: bool
    device_lost: bool
    resident_bytes: int


class Replica:
    """Answers calls of its families. Ray gives each call a thread; see ``num_threads``."""

    def __init__(self, families: Sequence[FamilySettings], slots: int) -> None:
        _give_memory_back()
        self._turns = Turnstile(slots)
        self._workers: dict[str, Worker] = {}
        self._capacity = capacity(families, slots)
        self._inbox = Inbox()
        self._remembered: SingleFlight[_Reply] = SingleFlight(_REMEMBERED_BYTES)
        self._lock = threading.Lock()
        self._num_accepted = self._num_calls = 0
        self._draining = self._device_lost = False
        self._started = self._start(families)

    def started(self) -> Started:
        """That this returns without a user's error says that the replica is ready."""
        return self._started

    def health(self) -> Health:
        """Called in a concurrency group of its own, so that work cannot delay it."""
        return Health(
            node=os.uname().nodename,
            process_id=os.getpid(),
            num_accepted=self._num_accepted,
            num_waiting=self._turns.num_waiting,
            longest_s=self._turns.longest_s(),
            num_calls=self._num_calls,
            num_executed=sum(each.num_executed for each in self._workers.values()),
            draining=self._draining,
            device_lost=self._device_lost,
            resident_bytes=_resident_bytes(),
        )

    def drain(self) -> None:
        """Take no more calls; those that are here are finished."""
        self._draining = True

    def call(self, fields: list[Any]) -> tuple[list[Any], Buffers]:
        """Answer one call (the fields of an Asked) with the fields of a Told, and with its large
        buffers; every end of it but the death of this process is told."""
        told, stored = self._told(Asked(*fields))
        return list(told), stored

    def call_small(self, fields: list[Any]) -> list[Any]:
        """The same for methods whose replies have no large arrays: one part is cheaper than two."""
        told, stored = self._told(Asked(*fields))
        if stored is None:
            return list(told)
        assert told.buffers is not None, "what has a second part has a first"
        pairs = zip(told.buffers, stored, strict=True)
        buffers = [far if near is None else near for near, far in pairs]
        return list(told._replace(buffers=buffers))

    # ---- inside --------------------------------------------------------------------------------

    def _told(self, asked: Asked) -> tuple[Told, Buffers]:
        began_s = time.perf_counter()
        with self._lock:
            if self._draining:
                return Told("busy", "draining"), None
            if self._num_accepted >= self._capacity and self._turns.longest_s() > _SHORT_S:
                return Told("busy", "full"), None
            self._num_accepted += 1
            self._num_calls += 1
        try:
            told, stored = self._remembered_or_run(asked, time.monotonic() + asked.budget_s)
        except Exception:  # the host boundary: from here a bug looks like a broken machine
            told, stored = Told("failed", "error", traceback.format_exc()), None
        finally:
            with self._lock:
                self._num_accepted -= 1
        return told._replace(total_s=time.perf_counter() - began_s), stored

    def _start(self, families: Sequence[FamilySettings]) -> Started:
        user_error = ""
        try:
            for each in families:
                self._workers[each.spec.name] = Worker(
                    BackEnd(each.spec),
                    self._turns,
                    max_batch_size=each.max_batch_size,
                    max_wait_s=each.max_wait_s,
                    may_repeat=each.may_repeat,
                )
        except (ConfigError, ImportError, FileNotFoundError) as error:
            user_error = str(error)
        tools = tuple(f"{each.spec.name}.{name}" for each in families for name in each.spec.methods)
        return Started(tools=tools, user_error=user_error)

    def _remembered_or_run(self, asked: Asked, until_s: float) -> tuple[Told, Buffers]:
        """Equal calls of a deterministic family are executed once; failures are not kept."""
        if not asked.key:
            return self._run(asked, until_s)
        flight, is_first = self._remembered.enter(asked.key)
        if not is_first:
            try:
                told, stored = flight.result(max(0.0, until_s - time.monotonic()))
            except TimeoutError:
                return Told("failed", "deadline", f"{asked.name}: an equal call still runs"), None
            except Abandoned:
                return self._run(asked, until_s)
            return told._replace(queue_s=0.0, run_s=0.0, encode_s=0.0), stored
        try:
            reply = self._run(asked, until_s)
            if reply[0].word != "failed":
                self._remembered.land(asked.key, flight, reply, 1024 + _num_bytes(reply))
        finally:
            self._remembered.drop(asked.key, flight)
        return reply

    def _run(self, asked: Asked, until_s: float) -> tuple[Told, Buffers]:
        family, _, method = asked.name.partition(".")
        try:
            arguments = self._inbox.unpacked(asked, lambda refs: _fetch(refs, until_s))
            request = Request(
                family=family,
                method=method,
                arguments=arguments,
                kind_read=asked.kind_read,
                priority=asked.priority,
            )
            answer = self._workers[family].run(request, until_s)
        except ToolRefusal as refusal:
            return _ended("refused", refusal), None
        except ToolFailure as failure:
            self._device_lost |= failure.reason == "device_lost"
            return _ended("failed", failure), None
        return _told(answer)


def capacity(families: Sequence[FamilySettings], slots: int) -> int:
    """How many calls a replica accepts at a time: what it runs, and as much again."""
    running = slots * max(each.max_batch_size for each in families)
    return running + max(running, _BACKLOG)


def num_threads(families: Sequence[FamilySettings], slots: int) -> int:
    """How many threads Ray must give it; more calls than that wait in Ray's mailbox."""
    return capacity(families, slots) + _SPARE_THREADS


def _told(answer: Answer) -> tuple[Told, Buffers]:
    started_s = time.perf_counter()
    packed, stored = two_parts(answer)
    encode_s = answer.encode_s + time.perf_counter() - started_s
    told = Told(
        word="ok",
        text=answer.text,
        tree=packed.tree,
        buffers=packed.buffers,
        queue_s=answer.queue_s,
        run_s=answer.run_s,
        encode_s=encode_s,
    )
    return told, stored


def _ended(word: Word, ended: CallEnded) -> Told:
    return Told(word, ended.reason, ended.text, queue_s=ended.queue_s, run_s=ended.run_s)


def _fetch(references: list[Any], until_s: float) -> list[Any]:
    import ray
    from ray import exceptions

    try:
        lists: list[Any] = ray.get(references, timeout=max(0.0, until_s - time.monotonic()))
    except exceptions.GetTimeoutError:
        raise ToolFailure("deadline", "no time was left to fetch the arguments") from None
    except exceptions.RayError as error:
        text = f"an argument is gone with the process that held it: {first_line(error)}"
        raise ToolFailure("expired", text) from error
    return lists


def _num_bytes(reply: _Reply) -> int:
    buffers = [*(reply[0].buffers or []), *(reply[1] or [])]
    return sum(memoryview(each).nbytes for each in buffers if each is not None)


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _give_memory_back() -> None:
    """Have what large arrays took returned to the system when they go.

    A replica has dozens of threads, and the C library would give each a heap of its own and keep in
    every one the largest arrays that were ever there: ten times what is in use.
    """
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):  # another system, whose library does otherwise
        return
    mallopt(_ARENA_MAX, 2)
    mallopt(_MMAP_THRESHOLD, 1 << 20)
