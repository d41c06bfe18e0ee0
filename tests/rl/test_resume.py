"""Training that is killed goes on exactly as if it had not been (scripts/bench/kill_resume.py); two
ranks that are killed are in tests/sft/test_run_sft_script.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.kill_resume import BAR, measure


@pytest.mark.slow
def test_figures_of_killed_runs_equal_those_of_whole_ones(tmp_path: Path) -> None:
    for outcome in measure(tmp_path, kills=2, seed=1, trainers=("sft", "rl")):
        assert outcome.figures > 100, outcome
        assert outcome.largest_difference <= BAR, outcome
