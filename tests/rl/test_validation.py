"""Validation beside rollouts that are ahead of the learner: within their limits, behind them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from rl.policy.base import PolicyFailure, Prompt
from rl.policy.paced import PacedPolicy, Said
from rl.rollout import Job
from rl.scheduling.schedule import Schedule
from rl.scheduling.virtual_time import run_virtual
from rl.types import Completion, SamplingParams, StopReason, Trajectory
from tests.rl.paced_run import RULES, SIZE, Learner, Questions, judge, plain, player

GREEDY = SamplingParams(temperature=0.0)
JOBS = [Job(question=plain(9, place), sampling=GREEDY) for place in range(6)]
LENGTH = 10


class Counting(PacedPolicy):
    """Ten seconds a turn; who plays at once, and a validation answer that breaks the first time."""

    def __init__(self, *, breaks: bool = False) -> None:
        super().__init__(lambda prompt: Said(text="ok", num_tokens=10), token_s=1.0)
        self.playing: set[str] = set()
        self.most = self.most_greedy = 0
        self._breaks = breaks

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        self.playing.add(prompt.trajectory)
        self.most = max(self.most, len(self.playing))
        greedy = [name for name in self.playing if name.startswith("9-")]
        self.most_greedy = max(self.most_greedy, len(greedy))
        said = await super().generate(prompt, sampling)
        if self._breaks and sampling == GREEDY:
            self._breaks = False
            raise PolicyFailure("broken", "broke once")
        return said

    def release(self, trajectory: str) -> None:
        self.playing.discard(trajectory)


async def validated(
    policy: Counting, *, width: int = 100, kv_tokens: int = 0, staleness: int = 1
) -> list[Trajectory]:
    """What a step's validation brought, with the next steps' groups begun before it."""
    rules = replace(
        RULES, max_staleness=staleness, width=width, kv_tokens=kv_tokens, max_length=LENGTH
    )
    schedule = Schedule(player(policy), rules, Questions(), judge)
    async with aclosing(schedule):
        learner = Learner(policy, schedule, step_s=0.0)
        await learner.train()
        assert (schedule.num_open + schedule.num_complete > 0) == (staleness > 0)
        played = await schedule.play(JOBS)
        for _ in range(2):
            await learner.train()
        return played


@pytest.mark.parametrize("staleness", [0, 1])
def test_validation_and_training_share_the_width(staleness: int) -> None:
    policy = Counting()
    played = run_virtual(validated(policy, width=4, staleness=staleness))
    assert [each.question.id for each in played] == [job.question.id for job in JOBS]
    assert policy.most == 4


def test_validation_and_training_share_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    # A script has no tokens; its lengths stay unknown, so that each holds LENGTH places.
    monkeypatch.setattr("rl.scheduling.footprint.Footprints.add", lambda self, trajectory: None)
    policy = Counting()
    # Room for two groups.
    run_virtual(validated(policy, kv_tokens=2 * SIZE * LENGTH))
    alone = Counting()
    run_virtual(validated(alone, kv_tokens=LENGTH, staleness=0))
    assert 0 < policy.most <= 2 * SIZE
    assert alone.most_greedy == 1


def test_what_broke_is_validated_again() -> None:
    played = run_virtual(validated(Counting(breaks=True)))
    assert {each.stop_reason for each in played} == {StopReason.ANSWERED}


def test_calls_of_validation_wait_behind_groups_that_have_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks: dict[bool, list[int]] = {True: [], False: []}

    async def seen(job: Job, playing: object) -> Trajectory:
        ranks[job.sampling == GREEDY].append(job.rank)
        await asyncio.sleep(1)
        raise asyncio.CancelledError

    async def main() -> None:
        schedule = Schedule(player(Counting()), replace(RULES, max_staleness=1), Questions(), judge)
        async with aclosing(schedule):
            schedule.trained()
            with pytest.raises(asyncio.CancelledError):
                await schedule.play(JOBS)

    monkeypatch.setattr("rl.scheduling.attempts.run_episode", seen)
    run_virtual(main())
    assert ranks[False] and min(ranks[True]) > max(ranks[False])
    assert len(set(ranks[True])) == len(JOBS)
