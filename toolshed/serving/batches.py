"""Calls answered together: collected while they wait for their turn, halved when memory runs out.

The first call of a batch leads it: it waits for others and for a slot, asks the back-end for all of
them, and hands out the answers. What one call did wrong is its own: where a batch breaks, each is
asked again alone.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from toolshed.backend import Answer, BackEnd, Request
from toolshed.errors import CallEnded, ToolFailure, ToolRefusal
from toolshed.serving.turns import Turnstile

_STICKY = ("illegal memory access", "device-side assert", "unspecified launch failure")


@dataclass(kw_only=True, slots=True, eq=False)
class _Ticket:
    request: Request
    until_s: float
    done: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    answer: Answer | Exception | None = None


class Worker:
    """Runs the calls of one back-end."""

    def __init__(
        self,
        back_end: BackEnd,
        turns: Turnstile,
        *,
        max_batch_size: int,
        max_wait_s: float,
        may_repeat: bool = True,
    ) -> None:
        self._back_end, self._turns, self._may_repeat = back_end, turns, may_repeat
        self._max_batch_size, self._max_wait_s = max_batch_size, max_wait_s
        self._lock = threading.Condition()
        self._pending: dict[object, list[_Ticket]] = {}
        self.num_executed = 0
        """Calls that were handed to the back-end, those of a batch counted one by one."""

    def run(self, request: Request, until_s: float) -> Answer:
        """Answer one call, perhaps together with others; its queue time is in the answer."""
        key = None
        if self._max_batch_size > 1:
            key = self._back_end.batch_key(request)
        arrived_s = time.perf_counter()
        try:
            if key is None:
                answered, run_s = self._alone(request, until_s)
            else:
                answered = self._batched(key, request, until_s)
                run_s = answered.run_s if isinstance(answered, Answer) else 0.0
        except CallEnded as ended:
            # Its turn did not come.
            ended.queue_s = time.perf_counter() - arrived_s
            raise
        queue_s = max(0.0, time.perf_counter() - arrived_s - run_s)
        if isinstance(answered, CallEnded):
            answered.queue_s, answered.run_s = queue_s, run_s
        if isinstance(answered, Exception):
            raise answered
        return replace(answered, queue_s=queue_s)

    def _alone(self, request: Request, until_s: float) -> tuple[Answer | Exception, float]:
        """The answer, and the seconds that its turn took."""
        with self._turns.turn(request.priority, until_s):
            began_s = time.perf_counter()
            answered = self._asked([request], until_s)[0]
            return answered, time.perf_counter() - began_s

    def _batched(self, key: object, request: Request, until_s: float) -> Answer | Exception:
        ticket = _Ticket(request=request, until_s=until_s)
        with self._lock:
            pending = self._pending.setdefault(key, [])
            pending.append(ticket)
            ticket.leads = len(pending) == 1
            self._lock.notify_all()
        while not ticket.leads:
            if not ticket.done.wait(max(0.0, until_s - time.monotonic())):
                self._leave(key, ticket)
            if ticket.answer is not None:
                return ticket.answer
            ticket.done.clear()
        self._lead(key, ticket)
        assert ticket.answer is not None, "who leads a batch is in it"
        return ticket.answer

    def _leave(self, key: object, ticket: _Ticket) -> None:
        """Give up waiting, unless the batch is already under way or waits to be led."""
        with self._lock:
            pending = self._pending.get(key, [])
            if ticket in pending and not ticket.leads:
                pending.remove(ticket)
            if not ticket.leads and ticket.answer is None:
                text = f"{ticket.request.name}: no time was left in its batch"
                ticket.answer = ToolFailure("deadline", text)

    def _lead(self, key: object, ticket: _Ticket) -> None:
        began_s = time.monotonic()
        batch: list[_Ticket] = []
        try:
            with self._turns.turn(ticket.request.priority, ticket.until_s):
                self._collect(key, began_s)
                batch = self._taken(key, self._max_batch_size)
                answers = self._asked([each.request for each in batch], ticket.until_s)
        except ToolFailure as failure:
            batch = batch or self._taken(key, 1)
            answers = [failure] * len(batch)
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer
            each.done.set()

    def _collect(self, key: object, began_s: float) -> None:
        """Wait for more calls, at most ``max_wait_s`` after the first came."""
        with self._lock:
            while len(self._pending[key]) < self._max_batch_size:
                remaining_s = began_s + self._max_wait_s - time.monotonic()
                if remaining_s <= 0:
                    return
                self._lock.wait(remaining_s)

    def _taken(self, key: object, size: int) -> list[_Ticket]:
        """Take a batch out of those who wait; the first of the rest leads the next one."""
        with self._lock:
            pending = self._pending.pop(key)
            batch, rest = pending[:size], pending[size:]
            if rest:
                self._pending[key] = rest
                rest[0].leads = True
                rest[0].done.set()
        return batch

    # ---- asking the back-end -------------------------------------------------------------------

    def _asked(self, requests: Sequence[Request], until_s: float) -> list[Answer | Exception]:
        """One answer or error per call, whatever breaks."""
        try:
            return self._tried(requests)
        except Exception as error:
            text = _told(error) if is_out_of_memory(error) else None
            if not self._may_repeat or (text is None and len(requests) == 1):
                return [_typed(each, error, text) for each in requests]
        # Out here, because an error that is being handled keeps alive what its frames hold: the
        # very arrays whose memory the next try needs.
        if len(requests) == 1:
            return [self._tried_alone(requests[0], text or "", until_s)]
        size = 1
        if text is not None:
            free_memory()
            size = (len(requests) + 1) // 2
        # Where it was not memory, one of them broke it: which one shows when each is asked alone.
        parts = [requests[first : first + size] for first in range(0, len(requests), size)]
        return [each for part in parts for each in self._asked(part, until_s)]

    def _tried(self, requests: Sequence[Request]) -> list[Answer | Exception]:
        with self._lock:
            self.num_executed += len(requests)
        if len(requests) == 1:
            return [self._back_end.answer(requests[0])]
        return list(self._back_end.answer_batch(requests))

    def _tried_alone(self, request: Request, text: str, until_s: float) -> Answer | Exception:
        """Once more with nothing else running here; then it is a typed failure."""
        try:
            with self._turns.alone(until_s):
                free_memory()
                return self._tried([request])[0]
        except Exception as error:
            return _typed(request, error, text if is_out_of_memory(error) else None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the host or of a GPU ran out; knows torch's error without torch."""
    if isinstance(error, ToolRefusal):
        # Its text may repeat what a model wrote.
        return False
    if isinstance(error, ToolFailure):
        return error.reason == "out_of_memory"
    if isinstance(error, MemoryError):
        return True
    names = {each.__name__ for each in type(error).__mro__}
    return "OutOfMemoryError" in names or "out of memory" in str(error).lower()


def is_sticky(error: BaseException) -> bool:
    """Whether the GPU's context is lost, so that only a new process helps."""
    return any(word in str(error) for word in _STICKY)


def _typed(request: Request, error: Exception, out_of_memory: str | None) -> Exception:
    """The failure that an error is, where it is one of the machine; else the error itself."""
    if out_of_memory is not None:
        return ToolFailure("out_of_memory", out_of_memory)
    if isinstance(error, ToolRefusal) or not is_sticky(error):
        return error
    return ToolFailure("device_lost", f"{request.method}: {error}")


def _told(error: Exception) -> str:
    return error.text if isinstance(error, ToolFailure) else f"{type(error).__name__}: {error}"


def free_memory() -> None:
    """Give back what can be given back before another try."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
