"""Benchmarks that cannot measure a figure: exit code 3 and the reason, not a pass."""

from __future__ import annotations

import pytest

from scripts.bench import learner, rollout


def test_without_trl_the_comparison_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise RuntimeError("no network")

    monkeypatch.setattr("scripts.bench.grpo_speed.peer_python", missing)
    for words in (["--only", "trl"], ["--only", "trl", "--selftest"]):
        assert learner.main(words) == 3
        said = capsys.readouterr().err
        assert "no network" in said and "trl_grpo_speedup: not measured" in said


def test_without_an_engine_its_figures_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout, "why_not", lambda: "no environment")
    monkeypatch.setattr(rollout, "measure", lambda seeds: {"makespan_ratio": 1.0})
    monkeypatch.setattr(rollout, "handicapped", lambda seeds: {"makespan_ratio": 2.0})
    for words in ([], ["--selftest"]):
        assert rollout.main(words) == 3
        assert "sync_bytes_ratio: not measured, no environment" in capsys.readouterr().err
        assert rollout.main([*words, "--only", "own"]) == 0
