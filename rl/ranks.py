"""Ranks of one RL run: rank 0 plays the rollouts and says what all compute, the others follow.

A follower waits on a connection of its own, so rollouts may take as long as they need: no
collective has begun whose time limit could run out. The connection ends with the process at either
end of it, however that ends, and so each side knows at once that the other is gone.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sft.ending import Ending
from sft.ranks import check_launch, join_ranks, num_ranks, rank, told_by_all
from toolshed.command import MACHINE_FAILURE, REMEDIES, USER_ERROR, place_words
from toolshed.errors import ConfigError, ToolFailure, ToolshedError

if TYPE_CHECKING:
    from rl.config import RLConfig

T = TypeVar("T")

_NOTICE_S = 5.0
"""A collective may break a moment before the connection of the rank that broke it."""
_LATE_S = 1.0
"""torchrun may interrupt this process a moment before it sees why."""
_GRACE_S = 20.0
"""How long a process that lost the other side may take to end by itself; torchrun gives 30."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    """A method of ``rl.update.RankUpdate`` and what it is given."""

    verb: str
    words: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """The answer to a command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stop:
    """The last word of either side."""

    code: int = MACHINE_FAILURE
    """What the process that reads this ends with, or the one that says it did."""
    why: str = ""
    """What stopped a follower that the user can mend."""


class _Link:
    """One end of a connection. A thread reads it, so that its end is noticed at any time."""

    def __init__(self, connection: Connection, number: int, on_end: Callable[[_Link], None]):
        self.number = number
        """Of the rank at the other end."""
        self.ended = threading.Event()
        self.last = _Stop()
        """What the other end said last, once it has ended."""
        self._connection, self._on_end = connection, on_end
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                word = self._connection.recv()
                if isinstance(word, _Stop):
                    self.last = word
                    break
                self._inbox.put(word)
        except (EOFError, OSError):
            pass
        self.ended.set()
        self._inbox.put(self.last)
        self._on_end(self)

    def send(self, word: Any) -> None:
        """Where the other end is gone nothing is sent, and ``take`` says so."""
        if not self.ended.is_set():
            try:
                self._connection.send(word)
            except OSError:
                self.ended.wait(_NOTICE_S)

    def take(self) -> Any:
        """The next word, however long it takes; at the end a ``_Stop``."""
        return self._inbox.get()


class Leader:
    """Rank 0's side; in a process alone it leads nobody. As a context it lets the followers go.

    What broke because a follower was lost leaves the context as a ToolFailure, or as a ConfigError
    where the user can mend it.
    """

    def __init__(self, config: RLConfig) -> None:
        """Meet the followers that torchrun started."""
        self._links: list[_Link] = []
        self._lost: _Link | None = None
        self._is_lost, self._is_over = threading.Event(), threading.Event()
        # SIGTERM is also how torchrun ends the ranks beside one that failed.
        self._ending = Ending()
        check_launch(config.learner.shard.zero)
        if not config.learner.shard.zero:
            return
        join_ranks(config.device)
        if num_ranks() == 1:
            return
        key = secrets.token_bytes(32)
        with Listener((os.environ["MASTER_ADDR"], 0), backlog=num_ranks(), authkey=key) as door:
            told_by_all((door.address, key))
            met = [door.accept() for _ in range(1, num_ranks())]
        self._links = [_Link(each, each.recv(), self._miss) for each in met]
        self._links.sort(key=lambda link: link.number)

    def together(self, verb: str, words: Sequence[tuple[Any, ...]], own: Callable[..., T]) -> T:
        """Let every rank do ``verb`` with its words; ``own`` is how it is done here."""
        for link, given in zip(self._links, words[1:], strict=True):
            link.send(_Command(verb=verb, words=given))
        result = own(*words[0])
        for link in self._links:
            if isinstance(link.take(), _Stop):
                self._is_lost.wait(_NOTICE_S)
                raise self._failure("")
        return result

    def _miss(self, link: _Link) -> None:
        """In the thread of a link that ended."""
        if self._is_over.is_set() or self._is_lost.is_set():
            return
        self._lost = link
        self._is_lost.set()
        self._ending.at_once = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if not self._is_over.wait(_GRACE_S):
            # A collective of GPUs waits for lost ranks, and nothing interrupts it.
            print(f"error: {self._failure('')}", file=sys.stderr, flush=True)
            os._exit(MACHINE_FAILURE)

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a SIGTERM came: the run is to end after the step under way, saved."""
        return self._ending.is_asked

    def _failure(self, way_on: str) -> ToolshedError:
        lost = self._lost
        assert lost is not None
        way_on = way_on or "the same command goes on from the last checkpoint"
        who = f"rank {lost.number} of {len(self._links) + 1}"
        if lost.last.code == USER_ERROR:
            return ConfigError(f"{who}: {lost.last.why}")
        why = "has ended: it was killed, or printed a traceback of its own"
        return ToolFailure("rank_lost", f"{who} {why}; {way_on}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        try:
            if error is None or isinstance(error, ToolshedError) or not self._links:
                return
            if self._is_lost.wait(_LATE_S if is_interrupt else _NOTICE_S):
                raise self._failure("; ".join(map(str, error.args)) if is_interrupt else "")
        finally:
            self._is_over.set()
            for link in self._links:
                link.send(_Stop(code=MACHINE_FAILURE if error else 0))
            if not self._links:
                # Beside others torchrun still sends one, and why it ended is to be said first.
                self._ending.give_back()


def is_follower() -> bool:
    """Whether torchrun started this process as another rank than 0."""
    return int(os.environ.get("RANK", "0")) > 0


def follow(config: RLConfig) -> int:
    """Do what rank 0 says until it ends; returns the exit code of this process.

    Rank 0 tells the user what stopped a run; only a bug here is raised here.
    """
    # An interrupt reaches all ranks, and rank 0 decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    check_launch(config.learner.shard.zero)
    join_ranks(config.device)
    address, key = told_by_all(None)[0]
    is_over = threading.Event()

    def leave(link: _Link) -> None:
        if not is_over.wait(_GRACE_S):
            os._exit(MACHINE_FAILURE)

    connection = Client(address, authkey=key)
    connection.send(rank())
    try:
        return _obey(config, _Link(connection, 0, leave))
    finally:
        is_over.set()


def _obey(config: RLConfig, link: _Link) -> int:
    part: Any = None
    while True:
        command = link.take()
        if isinstance(command, _Stop):
            return command.code
        try:
            if part is None:
                from rl.update import RankUpdate

                part = RankUpdate(config, *command.words)
            else:
                getattr(part, command.verb)(*command.words)
        except (ConfigError, OSError, RuntimeError) as error:
            text = _users_fault(error)
            if text:
                link.send(_Stop(code=USER_ERROR, why=text))
                return USER_ERROR
            # Where rank 0 is gone, what broke here broke because of that.
            if link.ended.wait(_NOTICE_S):
                return MACHINE_FAILURE
            raise
        link.send(_Done())


def _users_fault(error: Exception) -> str:
    """The sentence of an error that the user can mend; empty for any other."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return place_words(error)
    return str(error) if isinstance(error, ConfigError) else ""
