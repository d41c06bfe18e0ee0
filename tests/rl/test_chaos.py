"""Chaos in an RL run with live engines and tools: whatever ends, each draw is trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.rl_chaos import most_recomputed, words_of
from scripts.bench.rl_chaos_scene import (
    SAVE_EVERY,
    ChaosRun,
    account_of,
    make_inputs,
    served_tools,
    wait_until,
)
from tests.rl.engines import skip_without_engine
from toolshed.command import USER_ERROR

pytestmark = [pytest.mark.slow, pytest.mark.ray]
STEPS = 24


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def records(run: ChaosRun) -> list[str]:
    return (run.out / "trajectories.jsonl").read_text().splitlines()


def settled(run: ChaosRun) -> list[str]:
    """The records that the newest checkpoint covers, of a run that stands still."""
    step = run.checkpoints()[-1]
    assert run.num_steps() - step <= SAVE_EVERY, "no more than that is done again"
    return [each for each in records(run) if int(each.split(",")[0].split(":")[1]) <= step]


def lose_learner(run: ChaosRun) -> None:
    run.kill_learner()
    kept = settled(run)
    run.start()
    run.wait_for_step(run.num_steps() + 1)
    assert records(run)[: len(kept)] == kept, "what a checkpoint covers is never done again"


def fill_disk(run: ChaosRun) -> None:
    run.fill_disk()
    assert run.finish() == USER_ERROR
    told = run.said.read_text().strip().splitlines()[-1]
    (first, second) = run.checkpoints()
    assert told.startswith("error: ") and f"{run.out}/global_step_{run.num_steps()}" in told
    assert second == run.num_steps() - SAVE_EVERY and second - first == SAVE_EVERY
    assert not [*run.out.glob(".*draft")]


def check(run: ChaosRun, calls: Path, staleness: int, num_stops: int) -> None:
    assert run.finish() == 0, run.said.read_text()
    account = account_of(run, calls)
    assert account.steps == STEPS
    assert (account.questions_lost, account.questions_twice, account.trajectories_twice) == (
        0,
        0,
        0,
    )
    assert 0 <= account.recomputed <= sum(most_recomputed(staleness, num_stops))
    assert run.num_left_over == 0


def test_a_tool_and_the_learner_are_killed_and_the_disk_is_full_under_a_policy_in_process(
    inputs: Path, tmp_path: Path, ray_cluster: str
) -> None:
    with served_tools(tmp_path, ray_cluster) as tools:
        words = words_of(inputs, tools, "transformers", 0, STEPS)
        with ChaosRun(tmp_path, words) as run:
            run.start()
            run.wait_for_step(1)
            run.kill_tool(tools)
            run.wait_for_step(run.num_steps() + 3)
            lose_learner(run)
            run.wait_for_step(run.num_steps() + 3)
            fill_disk(run)
            run.start()
            check(run, tmp_path / "calls.jsonl", 0, num_stops=2)


def test_all_of_it_one_step_ahead_and_the_learner_while_its_engine_comes_back(
    inputs: Path, tmp_path: Path, ray_cluster: str
) -> None:
    skip_without_engine()
    with served_tools(tmp_path, ray_cluster) as tools:
        words = words_of(inputs, tools, "sglang", 1, STEPS)
        with ChaosRun(tmp_path, words) as run:
            run.start()
            run.wait_for_step(1)
            run.kill_tool(tools)
            run.wait_for_step(run.num_steps() + 3)
            first = run.engines()
            run.kill_engine()
            wait_until(lambda: bool(run.engines()) and run.engines() != first, run.learner)
            lose_learner(run)
            fill_disk(run)
            run.start()
            check(run, tmp_path / "calls.jsonl", 1, num_stops=2)
