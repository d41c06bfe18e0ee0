"""What a checkpoint is called and where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.checkpoint import resolve_checkpoint, run_name
from toolshed.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/runs/my_rl", "my_rl"),
        ("/a/runs/demo/full_rl", "demo_full_rl"),
        ("/a/runs/demo-smoke/full_rl/final", "demo-smoke_full_rl"),
        ("/a/runs/demo/base/raw", "demo_base_raw"),
        ("/runs/old/runs/demo/sft", "demo_sft"),
        ("/models/qwen/7b", "qwen_7b"),
        ("/runs", "runs"),
    ],
)
def test_runs_of_one_name_in_two_folders_are_told_apart(path: str, name: str) -> None:
    assert run_name(path) == name


def test_a_relative_path_is_called_after_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "demo")
    assert run_name("full_rl") == "demo_full_rl"


@pytest.mark.parametrize("path", ["", " "])
def test_no_checkpoint_is_asked_for_by_name(path: str) -> None:
    with pytest.raises(ConfigError, match="no checkpoint given"):
        resolve_checkpoint(path)
