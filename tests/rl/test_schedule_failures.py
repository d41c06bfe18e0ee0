"""What breaks under a schedule: engines that lag, rollouts that fail, bugs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar

import pytest

from rl.policy.base import PolicyFailure, Prompt
from rl.policy.paced import PacedPolicy, Said
from rl.scheduling.schedule import Schedule
from rl.scheduling.virtual_time import run_virtual
from rl.types import Completion, SamplingParams
from tests.rl.paced_run import RULES, SIZE, Learner, Questions, judge, player
from toolshed.errors import ToolFailure


class Lagging(PacedPolicy):
    """An engine that is given new weights one time too late, or never."""

    lag: Callable[[Prompt], int]

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        completion = await super().generate(prompt, sampling)
        return replace(completion, version=max(0, completion.version - self.lag(prompt)))


def test_groups_that_are_too_old_are_dropped_counted_and_asked_again() -> None:
    async def main() -> None:
        policy = Lagging(lambda prompt: Said(text="ok", num_tokens=1), token_s=1.0)
        asked: Counter[str] = Counter()

        def lag(prompt: Prompt) -> int:
            asked[prompt.question.id] += 1
            return 2 if prompt.question.id == "2-1" and asked["2-1"] <= SIZE else 0

        policy.lag = lag
        schedule = Schedule(player(policy), RULES, Questions(), judge)
        async with aclosing(schedule):
            learner = Learner(policy, schedule)
            steps = []
            for _ in range(4):
                steps.append(sorted(await learner.train()))
                told = schedule.figures.read()
                assert told["dropped"] == (len(steps) == 3) and told["staleness_max"] == 0
        assert steps == [[f"{step}-{place}" for place in range(3)] for step in range(4)]

    run_virtual(main())


def test_an_engine_that_never_gets_new_weights_is_named() -> None:
    async def main() -> None:
        policy = Lagging(lambda prompt: Said(text="ok", num_tokens=1), token_s=1.0)
        policy.lag = lambda prompt: 100
        schedule = Schedule(player(policy), RULES, Questions(), judge)
        async with aclosing(schedule):
            await Learner(policy, schedule).train()
            with pytest.raises(ToolFailure, match=r"weights of version 0 .* learner was at 1"):
                await Learner(policy, schedule).train()

    run_virtual(main())


def test_failed_trajectories_are_played_again_and_counted() -> None:
    class Flaky(PacedPolicy):
        asked: ClassVar[Counter[str]] = Counter()

        async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
            name = prompt.trajectory.rpartition("/")[0]
            self.asked[name] += 1
            if self.asked[name] == 1 or name == "0-1/2":
                raise PolicyFailure("server_died", "no answer")
            return await super().generate(prompt, sampling)

    async def main() -> None:
        policy = Flaky(lambda prompt: Said(text="ok", num_tokens=1), token_s=1.0)
        schedule = Schedule(player(policy), RULES, Questions(), judge)
        async with aclosing(schedule):
            groups = await schedule.step()
            played = [each for group in groups for each in group.trajectories]
            assert [t.stop_reason.is_trainable for t in played] == [i != 2 for i in range(6)]
            assert len({t.seed for t in played}) == 6
            assert schedule.figures.read()["retried"] == 6
            assert set(policy.asked.values()) == {2}

    run_virtual(main())


def test_a_bug_in_one_episode_is_raised_as_it_is_and_leaves_nothing_running() -> None:
    def script(prompt: Prompt) -> Said:
        if prompt.question.id == "0-1":
            raise KeyError("a bug")
        return Said(text="ok", num_tokens=50)

    async def main() -> int:
        schedule = Schedule(player(PacedPolicy(script, token_s=1.0)), RULES, Questions(), judge)
        async with aclosing(schedule):
            with pytest.raises(KeyError, match="a bug"):
                await schedule.step()
        return len(asyncio.all_tasks())

    assert run_virtual(main()) == 1


def test_a_rollout_that_cancels_itself_is_said_and_not_waited_for() -> None:
    class Cancelling(PacedPolicy):
        async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
            if prompt.question.id == "0-1":
                raise asyncio.CancelledError
            return await super().generate(prompt, sampling)

    async def main() -> None:
        policy = Cancelling(lambda prompt: Said(text="ok", num_tokens=1), token_s=1.0)
        schedule = Schedule(player(policy), RULES, Questions(), judge)
        async with aclosing(schedule):
            with pytest.raises(RuntimeError, match="0-1 was cancelled from within"):
                await schedule.step()

    run_virtual(main())
