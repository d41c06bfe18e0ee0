"""Training that is killed goes on exactly as if it had not been (scripts/bench/kill_resume.py)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.bench.kill_resume import BAR, measure


@pytest.mark.slow
def test_figures_of_killed_runs_equal_those_of_whole_ones(tmp_path: Path) -> None:
    for outcome in measure(tmp_path, kills=2, seed=1, trainers=("sft", "rl")):
        assert outcome.figures > 100, outcome
        assert outcome.largest_difference <= BAR, outcome


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_figures_of_killed_ranks_equal_those_of_ranks_that_were_not(tmp_path: Path) -> None:
    (outcome,) = measure(tmp_path, kills=1, seed=1, trainers=("sft-ranks",))
    assert outcome.ranks == 2 and outcome.figures > 100, outcome
    assert outcome.largest_difference <= BAR, outcome
