"""``sft.train`` under torchrun: one folder, the figures and checkpoint of a run of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.checkpoint import check_schema
from sft.model import load_model
from sft.run_dir import whole_checkpoints
from sft.train import main
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def words(tiny: Path, tmp_path: Path) -> list[str]:
    """What every run is given, but its folder."""
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Say {i}." * (1 + i % 3)},
                {"from": "gpt", "value": f"<answer>{i}</answer>"},
            ],
            "system": "Answer the question.",
        }
        for i in range(6)
    ]
    (tmp_path / "drills.json").write_text(json.dumps(rows))
    (tmp_path / "drills.yaml").write_text("defaults: [schema, _self_]\nsteps: 4\nsave_every: 2\n")
    return [
        str(tmp_path / "drills.yaml"), f"model={tiny}", "tools.config=demo",
        "learner.optim.lr=1e-3",
        f"sources=[{{path: {tmp_path}/drills.json, batch_size: 3}}]", "show.tensorboard=false",
        f"data.cache={tmp_path}/cache",
    ]  # fmt: skip


def launch(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *LAUNCH, "-m", "sft.train", *words],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed (train)")
def test_two_ranks_leave_what_one_process_leaves(words: list[str], tmp_path: Path) -> None:
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    words = [*words, "data.eval_rows=1", "data.eval_every=2"]
    assert main([*words, f"out={alone}"]) == 0
    told = launch([*words, f"out={ranks}", "learner.shard.zero=3"])
    assert told.count(str(ranks / "final")) == 1
    for mine, other in zip(lines(ranks), lines(alone), strict=True):
        for name in ("step", "loss", "grad_norm", "tokens", "lr"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4)
        assert ("held_out_loss" in mine) == (mine["step"] % 2 == 0)
        held_out = other.get("held_out_loss", 0.0)
        assert mine.get("held_out_loss", 0.0) == pytest.approx(held_out, rel=1e-4)
    assert [step for step, _ in whole_checkpoints(ranks)] == [2, 4]
    assert check_schema(ranks / "final", ToolSet.named("demo").schema_hash, "same") is None
    expected, got = (
        torch.cat([w.detach().flatten() for w in load_model(out / "final").parameters()])
        for out in (alone, ranks)
    )
    assert float((got - expected).norm() / expected.norm()) <= 1e-4
    # The same command again finds the finished run and its sharded state.
    before = lines(ranks)
    launch([*words, f"out={ranks}", "learner.shard.zero=3"])
    assert lines(ranks) == before


@pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed (extra: train)")
def test_a_run_with_adapters_leaves_them_and_the_merged_checkpoint(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "sft.train", *words]
    subprocess.run([*command, f"out={out}", "learner.lora.rank=4"], check=True, timeout=240)
    assert (out / "adapters" / "adapter_model.safetensors").exists()
    assert not any("lora" in name for name, _ in load_model(out / "final").named_parameters())


def test_ranks_without_zero_are_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert main([*words, f"out={tmp_path / 'run'}"]) == 2
    assert (
        "torchrun started 2 ranks, and learner.shard.zero=0 trains on one"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "sources[0].batch_size=3 cannot be divided over 4 ranks"),
        (["data.mixture=drills", "data.batch=2"], "data.batch=2 cannot be divided over 4 ranks"),
    ],
)
def test_fewer_samples_than_ranks_are_refused(
    words: list[str], more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "4")
    assert main([*words, *more, f"out={tmp_path / 'run'}", "learner.shard.zero=2"]) == 2
    assert said in capsys.readouterr().err


def test_options_that_contradict_each_other_are_refused_at_once() -> None:
    from sft.config import LearnerConfig, LoraConfig

    with pytest.raises(ConfigError, match=r"set learner\.frozen=vision"):
        LearnerConfig(frozen="none", lora=LoraConfig(rank=4))
