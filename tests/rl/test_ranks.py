"""``rl.train`` on two gloo ranks: what one process learns, and nobody hangs when one is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.config import PolicyLearnerConfig, RLConfig
from rl.tabletop.dataset import Order, write_dataset
from sft.config import LoraConfig, ShardConfig
from sft.learner import CACHE_FIGURES
from sft.model import load_model
from sft.run_dir import whole_checkpoints
from toolshed.command import MACHINE_FAILURE, USER_ERROR
from toolshed.errors import ConfigError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed (train)"),
]
SCRIPT = str(Path(__file__).with_name("rank_run.py"))
PATIENCE_S = 300.0
BAR = 1e-4
CONFIG = """
defaults: [schema, _self_]
steps: 6
num_prompts: 2
group_size: 3
rollout: {width: 6, max_turns: 2, max_tokens: 24, max_turn_tokens: 12, max_length: 256}
save: {every: 2}
learner: {optim: {lr: 1e-3}}
show: {tensorboard: false}
"""


@dataclass
class Runs:
    """Runs of one config in folders of their own."""

    folder: Path
    words: list[str]

    def start(self, out: str, rank: int | None, *words: str, **env: str) -> subprocess.Popen[str]:
        """One process; ``rank`` of two started by hand, or with None under torchrun."""
        (self.folder / f"{out}-pids").mkdir(exist_ok=True)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [
            sys.executable, "-W", "ignore", *([] if rank is not None else launch), SCRIPT,
            str(self.folder / f"{out}-pids"), *self.words, f"out={self.folder / out}", *words,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env={**os.environ, **env}, text=True, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def pair(self, out: str, *words: str, **env: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | env
        return [
            self.start(out, rank, *words, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
            for rank in range(2)
        ]

    def lines(self, out: str) -> list[dict[str, Any]]:
        told = map(json.loads, (self.folder / out / "metrics.jsonl").read_text().splitlines())
        return [
            {k: v for k, v in line.items() if not k.endswith("_s") and k not in CACHE_FIGURES}
            for line in told
        ]

    def weights(self, out: str) -> torch.Tensor:
        found = load_model(self.folder / out / "final").parameters()
        return torch.cat([weight.detach().flatten() for weight in found])


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "tools.yaml").write_text(
        "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"
    )
    write_dataset(folder / "point.parquet", Order(kinds=("point",), num=6, size=112))
    words = [
        str(folder / "run.yaml"), f"model={tiny}", f"tools.config={folder / 'tools.yaml'}",
        f"data=[{{path: {folder / 'point.parquet'}}}]",
    ]  # fmt: skip
    return Runs(folder, words)


def finish(process: subprocess.Popen[str]) -> str:
    """What a process that ends well said."""
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said[-4000:]
    return said


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> str:
    """A run of two ranks that nothing happened to."""
    finish(runs.start("whole", None, "learner.shard.zero=2"))
    return "whole"


def test_two_ranks_leave_what_one_process_leaves(runs: Runs, whole: str) -> None:
    finish(runs.start("alone", 0))
    mine, alone = runs.lines(whole), runs.lines("alone")
    assert len(mine) == 6 and sum(line.get("grad_norm", 0) > 0 for line in alone) >= 3
    for got, expected in zip(mine, alone, strict=True):
        assert got.keys() == expected.keys()
        for name in ("reward", "loss", "grad_norm", "tokens", "lr", "mismatch"):
            if name in expected:
                assert got[name] == pytest.approx(expected[name], rel=BAR, abs=1e-6), name
    apart = runs.weights(whole) - runs.weights("alone")
    assert float(apart.norm() / runs.weights("alone").norm()) <= BAR
    assert [step for step, _ in whole_checkpoints(runs.folder / whole)] == [4, 6]
    assert (runs.folder / whole / "global_step_2" / "huggingface" / "config.json").exists()


def test_a_run_that_loses_a_rank_ends_at_once_and_goes_on_exactly(runs: Runs, whole: str) -> None:
    # Without torchrun, which would end the others.
    for victim, step in ((1, 2), (0, 4)):
        pair = runs.pair("killed", "learner.shard.zero=2")
        wait_for(runs.folder / "killed" / f"global_step_{step}", pair[0])
        pair[victim].kill()
        pair[victim].communicate()
        other = pair[1 - victim]
        _, said = other.communicate(timeout=60)
        assert other.returncode == MACHINE_FAILURE, said[-4000:]
        if victim == 1:
            (last,) = [line for line in said.splitlines() if "error" in line]
            assert last.startswith("error: rank_lost: rank 1 of 2 has ended: it was killed, or ")
            assert "the same command goes on from" in last
    finish(runs.start("killed", None, "learner.shard.zero=2"))
    assert runs.lines("killed") == runs.lines(whole)
    assert torch.equal(runs.weights("killed"), runs.weights(whole))


def test_a_full_disk_of_another_rank_is_told_by_the_first(runs: Runs) -> None:
    pair = runs.pair("full", "learner.shard.zero=2", LARGEST_FILE="200000")
    (_, said), (_, quiet) = (each.communicate(timeout=PATIENCE_S) for each in pair)
    assert [each.returncode for each in pair] == [USER_ERROR, USER_ERROR], said[-4000:]
    assert "error: rank 1 of 2: " in said and "file too large; raise the limit" in said
    assert "error" not in quiet and not whole_checkpoints(runs.folder / "full")


def test_cut_weights_and_a_policy_in_this_process_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set policy=sglang, or learner\.shard\.zero=2"):
        RLConfig(learner=PolicyLearnerConfig(shard=ShardConfig(zero=3)))
    with pytest.raises(ConfigError, match=r"set learner\.frozen=vision"):
        PolicyLearnerConfig(frozen="none", lora=LoraConfig(rank=4))
