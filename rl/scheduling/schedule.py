"""Rollouts that stream to the learner by group: no barrier, bounded staleness, nothing wasted.

One knob, ``max_staleness``: 0 plays a step's groups and waits for all of them, with the same
figures as if they had been played alone; 1 begins the next step's while this one is trained; more
lets slow groups take longer than a step. Groups begin whole and in the order drawn; which may begin
and which may be trained is ``rl.scheduling.admission``'s. What is complete beyond a step's need is
kept for the next. Tool calls wait in the order in which their groups began, so that siblings end
together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rl.figures.schedule import StepFigures
from rl.rollout import Job, Player
from rl.scheduling.admission import Admission
from rl.scheduling.attempts import all_or_none, play_with_retries
from rl.scheduling.footprint import Footprints
from rl.scheduling.position import OpenOrder, Position
from rl.seeds import seed_of
from rl.types import Question, Reward, SamplingParams, Trajectory
from toolshed.errors import ToolFailure

_MAX_ATTEMPTS = 4
"""How often in a row the same question may come back too old before that is called a failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A question that is to be asked, and the part of the prompts it comes from."""

    question: Question
    source: int


class Draw(Protocol):
    """Where questions come from."""

    def __call__(self, step: int, num: int, refill: int) -> Sequence[Drawn]:
        """The next ``num`` questions; ``refill`` counts the draws of a step after its first."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How groups are played."""

    batch: int
    """Groups of one step."""
    group_size: int
    width: int
    """Trajectories in flight."""
    sampling: SamplingParams
    seed: int
    max_staleness: int = 0
    """Versions that the learner may be ahead of the oldest token it trains."""
    kv_tokens: int = 0
    """Places of the engine's cache; 0 for no limit besides ``width``."""
    max_length: int = 0
    """Places of one trajectory at most; what is reserved until lengths are known."""
    retries: int = 1
    """How often a trajectory that our machinery broke is played again."""
    steps: int = 0
    """Of the whole run: nothing is begun that none of them would train; 0 for no end."""
    extra: int = 0
    """Groups that may be taken beyond the batch at a step, in place of unwanted ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One group to be played."""

    number: int
    """In the order drawn, from 0; its trajectories are seeded by ``step`` and ``place``."""
    drawn: Drawn
    step: int
    place: int
    attempt: int = 0
    """How often it was played before and came too late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group that was played: siblings in their order, scored."""

    order: Order
    trajectories: tuple[Trajectory, ...]
    version: int
    """Of its oldest token."""
    num_retried: int
    begun_s: float
    ended_s: float
    """Times of the event loop's clock."""


class Schedule:
    """Plays groups for a learner. Used in one event loop; ``aclose`` ends what is under way.

    ``score`` is asked for the reward of each trajectory as it ends, ``wanted`` whether a group
    counts for the batch.
    """

    def __init__(
        self,
        player: Player,
        rules: Rules,
        draw: Draw,
        score: Callable[[Trajectory], Reward | None],
        *,
        version: int = 0,
        wanted: Callable[[Sequence[Trajectory]], bool] = lambda group: True,
    ) -> None:
        self._player, self._rules = player, rules
        self._draw, self._score, self._wanted = draw, score, wanted
        self._admission = Admission(
            batch=rules.batch,
            max_staleness=rules.max_staleness,
            kv_tokens=rules.kv_tokens,
            version=version,
            last_version=rules.steps,
        )
        self._footprints = Footprints(most=rules.max_length, renderer=player.renderer)
        self._places = asyncio.Semaphore(rules.width)
        self._drawn: deque[Order] = deque()
        """Not begun yet."""
        self._tasks: dict[asyncio.Task[Group], Order] = {}
        self._groups: dict[int, Group] = {}
        """Complete and not taken yet."""
        self._moved = asyncio.Event()
        self._bug: BaseException | None = None
        self._next_number = version * rules.batch
        self._next_step, self._num_draws, self._next_place = version, 0, 0
        self._next_rank = self._next_number * rules.group_size
        self.figures = StepFigures()
        """Of the step that is being taken; whoever reads them calls ``clear``."""

    @property
    def version(self) -> int:
        return self._admission.version

    @property
    def batch(self) -> int:
        """Groups of one step."""
        return self._rules.batch

    @property
    def num_open(self) -> int:
        """Groups that are being played."""
        return len(self._tasks)

    @property
    def num_complete(self) -> int:
        """Groups that wait to be trained."""
        return len(self._groups)

    # ---- what the learner does ------------------------------------------------------------------

    async def step(self) -> list[Group]:
        """The groups of one step in the order drawn, unwanted ones among them."""
        groups = [group async for group in self.stream()]
        return sorted(groups, key=lambda group: group.order.number)

    async def stream(self) -> AsyncGenerator[Group, None]:
        """Each group of one step as soon as it may be taken; ToolFailure where the engine keeps
        sampling with weights that are too old."""
        lacking, extra = self._rules.batch, self._rules.extra
        while lacking:
            num_unwanted = 0
            for left in range(lacking, 0, -1):
                group = await self._next(left)
                num_unwanted += not self._wanted(group.trajectories)
                yield group
            lacking = min(num_unwanted, extra)
            extra -= lacking
            self._admission.spare(lacking)
        self.figures.num_carried = self._admission.num_ready
        self.figures.num_running = len(self._tasks)

    async def play(self, jobs: Sequence[Job]) -> list[Trajectory]:
        """Trajectories of no group, in the order of ``jobs``: beside the groups under way, within
        the same width and cache, their tool calls after those of the groups that have begun."""
        rank, self._next_rank = self._next_rank, self._next_rank + len(jobs)

        async def one(place: int, job: Job) -> Trajectory:
            # Before a place is taken: groups that hold the cache need places to give it back.
            while not self._admission.fits(tokens := self._footprints.group(1)):
                if self._bug is not None:
                    raise self._bug
                self._moved.clear()
                await self._moved.wait()
            self._admission.hold(-1 - place, tokens)
            try:
                trajectory, _ = await play_with_retries(
                    lambda again: replace(job, rank=rank + place, seed=job.seed + again),
                    self._player,
                    self._places,
                    self._rules.retries,
                )
            finally:
                self._admission.let_go(-1 - place)
                self._begin_waiting()
            return trajectory

        return await all_or_none([one(place, job) for place, job in enumerate(jobs)])

    def trained(self) -> None:
        """The learner has trained its step, and the engine has its weights."""
        self._admission.advance()
        self._num_draws = self._next_place = 0
        if self._rules.max_staleness:
            self._fill()

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        # Waited for, so that nothing of an abandoned step still runs, or is reported, later.
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- going on after a restart ---------------------------------------------------------------

    def position(self) -> Position:
        """To be saved between two steps: groups begun but not trained are to be played again."""
        orders = [*self._tasks.values(), *(group.order for group in self._groups.values())]
        orders = sorted([*orders, *self._drawn], key=lambda order: order.number)
        return Position(
            next_number=self._next_number,
            next_step=self._next_step,
            open=[
                OpenOrder(
                    number=order.number,
                    source=order.drawn.source,
                    question=order.drawn.question.id,
                    step=order.step,
                    place=order.place,
                    attempt=order.attempt,
                )
                for order in orders
            ],
        )

    def restore(self, position: Position, find: Callable[[int, str], Question]) -> None:
        """Go on where ``position`` was taken, before the first step. ``find`` knows the question
        of a source by its id."""
        self._next_number, self._next_step = position.next_number, position.next_step
        for each in position.open:
            drawn = Drawn(question=find(each.source, each.question), source=each.source)
            order = Order(number=each.number, drawn=drawn, step=each.step, place=each.place)
            self._drawn.append(replace(order, attempt=each.attempt))

    # ---- beginning ------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin every group that may begin."""
        while self._admission.room > 0 and self._bug is None:
            if not self._drawn:
                self._draw_more()
            tokens = self._footprints.group(self._rules.group_size)
            if not self._admission.may_begin(tokens):
                return
            self._begin(self._drawn.popleft(), tokens)

    def _draw_more(self) -> None:
        """Without staleness exactly what the step lacks, so that its draws are a step's own;
        else a batch at a time, ahead of the learner."""
        is_ahead = self._rules.max_staleness > 0
        num = self._rules.batch if is_ahead else self._admission.room
        step = self._next_step if is_ahead else self.version
        refill = 0 if is_ahead else self._num_draws
        first = 0 if is_ahead else self._next_place
        for place, drawn in enumerate(self._draw(step, num, refill), first):
            number = self._next_number
            self._drawn.append(Order(number=number, drawn=drawn, step=step, place=place))
            self._next_number += 1
        self._next_step = step + 1
        self._num_draws += 1
        self._next_place = first + num

    def _begin(self, order: Order, tokens: float) -> None:
        self._admission.begin(order.number, tokens)
        rank, self._next_rank = self._next_rank, self._next_rank + self._rules.group_size
        task = asyncio.ensure_future(self._play(order, rank))
        self._tasks[task] = order
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Group]) -> None:
        order = self._tasks.pop(task)
        self._moved.set()
        if task.cancelled():
            # Where not by us: its group would be waited for in vain.
            name = order.drawn.question.id
            self._bug = self._bug or RuntimeError(f"a rollout of {name} was cancelled from within")
            return
        if (error := task.exception()) is not None:
            self._bug = self._bug or error
            return
        self._groups[order.number] = task.result()
        self._admission.complete(order.number)
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        """Room was made perhaps. Without staleness nothing is drawn before the step that asks."""
        self._moved.set()
        if self._rules.max_staleness or self._drawn:
            self._fill()

    # ---- playing --------------------------------------------------------------------------------

    async def _play(self, order: Order, rank: int) -> Group:
        begun_s = asyncio.get_running_loop().time()
        num_left, num_retried = self._rules.group_size, 0

        async def sibling(index: int) -> Trajectory:
            nonlocal num_left, num_retried
            trajectory, num_again = await play_with_retries(
                lambda again: self._job(order, index, again, rank + index),
                self._player,
                self._places,
                self._rules.retries,
            )
            num_retried += num_again
            num_left -= 1
            if self._rules.kv_tokens:
                self._footprints.add(trajectory)
                self._admission.hold(order.number, self._footprints.group(num_left))
                self._begin_waiting()
            scored = replace(trajectory, reward=self._score(trajectory))
            if self._player.flight is not None:
                self._player.flight.ends(scored)
            return scored

        trajectories = await all_or_none([sibling(index) for index in range(num_left)])
        versions = [turn.completion.version for each in trajectories for turn in each.turns]
        return Group(
            order=order,
            trajectories=tuple(trajectories),
            version=min(versions, default=self.version),
            num_retried=num_retried,
            begun_s=begun_s,
            ended_s=asyncio.get_running_loop().time(),
        )

    def _job(self, order: Order, index: int, again: int, rank: int) -> Job:
        rules = self._rules
        parts: tuple[object, ...] = (rules.seed, "rollout", order.step, order.place, index)
        if order.attempt or again:
            parts = (*parts, order.attempt, again)
        return Job(
            question=order.drawn.question,
            sampling=rules.sampling,
            sample_index=order.place * rules.group_size + index,
            seed=seed_of(*parts),
            rank=rank,
        )

    # ---- taking ---------------------------------------------------------------------------------

    async def _next(self, left: int) -> Group:
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while True:
            self._fill()
            if self._bug is not None:
                raise self._bug
            number = self._admission.choose(left)
            if number is None:
                self._moved.clear()
                await self._moved.wait()
                continue
            group = self._groups.pop(number)
            if self.version - group.version > self._rules.max_staleness:
                self._drop(group)
                continue
            self._admission.take(number)
            self.figures.add(group.trajectories, self.version, group.num_retried)
            self.figures.ready_s.append(loop.time() - group.ended_s)
            self.figures.played_s.append(group.ended_s - group.begun_s)
            self.figures.learner_wait_s += loop.time() - asked_s
            return group

    def _drop(self, group: Group) -> None:
        """Too old in spite of all: the engine's weights lag behind. Its question is asked again."""
        self._admission.give_back(group.order.number)
        self.figures.num_dropped += 1
        attempt = group.order.attempt + 1
        if attempt == _MAX_ATTEMPTS:
            raise ToolFailure(
                "stale_engine",
                f"the engine sampled with weights of version {group.version} or before while the "
                f"learner was at {self.version}, {attempt} times for one question; see whether "
                "weights reach every engine, or raise max_staleness",
            )
        number, self._next_number = self._next_number, self._next_number + 1
        self._drawn.appendleft(replace(group.order, number=number, attempt=attempt))
