"""scripts/run_sft.sh: what it plans, and a life under SLURM with pretended sbatch and srun.

Checkpoint, ranks and training are real; only SLURM is not there.
"""

from __future__ import annotations

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sft.checkpoint import read_schema_hash
from sft.run_dir import whole_checkpoints
from tests.slurm import ROOT, Cluster, wait_for
from toolshed.toolset import ToolSet

SCRIPT = ROOT / "scripts" / "run_sft.sh"
TWO_NODES = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1"}
PUBLISHED = ROOT / "configs" / "tools" / "v1.yaml"
STEPS = 8
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed (train)"
)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, SCRIPT)


@pytest.fixture
def small(tmp_path: Path) -> tuple[str, ...]:
    """Words of a small run on a CPU, but its checkpoint, folder and length."""
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Say {i}."},
                {"from": "gpt", "value": f"<answer>{i}</answer>"},
            ],
            "system": "Answer the question.",
        }
        for i in range(6)
    ]
    (tmp_path / "drills.json").write_text(json.dumps(rows))
    return (
        "v1", "device=cpu", "dtype=float32", f"data.mixture={tmp_path}/drills.json",
        f"data.cache={tmp_path}/cache", "data.eval_rows=0", "data.batch=4", "tools.schema=any",
        "learner.optim.warmup_steps=2", "show.tensorboard=false",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ((), {"VERSION": "v3"}, "VERSION=v3 is neither v1 nor v2"),
        (("demo",), {"VERSION": "v2"}, "VERSION=v2 and the config demo are two tool sets"),
        (("v1", "v2"), {}, "two configs are given, v1 and v2"),
        (("v3",), {}, "no config 'v3' in configs/sft"),
        (("stepz=3",), {}, "did you mean steps?"),
        (("SAVE_FREQ=3",), {}, "SAVE_FREQ=3 bash scripts/run_sft.sh"),
        (("save_every=5",), {"SAVE_FREQ": "3"}, "SAVE_FREQ=3 and save_every=5 contradict"),
        (("out=a",), {"OUTPUT_DIR": "b"}, "OUTPUT_DIR=b and out=a are two folders"),
        ((), {"GPUS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1"},
         "GPUS_PER_NODE=8, but 2 GPUs are visible here"),
        ((), {"RANKS": "2"}, "RANKS=2 is for device=cpu"),
        (("device=cpu",), {"RANKS": "0"}, "RANKS=0: at least one process is needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_starts(
    cluster: Cluster, words: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    code, _, complained = cluster.run(*words, **variables)
    assert code == 2 and sentence in " ".join(complained.split()), complained
    assert cluster.processes() == []


def test_the_plan_names_processes_data_and_what_lacks(
    cluster: Cluster, tiny: Path, small: tuple[str, ...]
) -> None:
    out = cluster.folder / "out"
    seen = {"BASE_MODEL": str(tiny), "OUTPUT_DIR": str(out), "TOOL_CONFIG": str(PUBLISHED)}
    code, said, complained = cluster.run(*small, "--check", RANKS="2", SAVE_FREQ="7", **seen)
    assert code == 0, said + complained
    for words in (
        "2 of sft.train under torchrun here, device=cpu",
        f"checkpoint  {tiny}, 0.00112 billion parameters",
        f"tools       {PUBLISHED}: vision_ops.index_at",
        "3000 of 4 conversations, about 2 on each of 2 process(es)",
        "2 process(es), ZeRO 2; about",
        f"{out}: a checkpoint every 7 steps",
        "drills  sharegpt     6         6",
        f"a run in {out} can start",
    ):
        assert words in said, said
    code, said, _ = cluster.run(*small, "--check", "device=cuda", RANKS="", **seen)
    assert code == 2 and "missing: device=cuda, but no GPU is seen here" in said
    code, said, _ = cluster.run(*small, "--check", OUTPUT_DIR=str(out))
    assert code == 2 and "missing: models/Qwen2.5-VL-3B-Instruct is no checkpoint" in said
    assert not out.exists() and cluster.processes() == []


def test_two_nodes_meet_at_the_first(cluster: Cluster, tiny: Path, small: tuple[str, ...]) -> None:
    eight = ",".join(map(str, range(8)))
    seen = {**TWO_NODES, "BASE_MODEL": str(tiny), "OUTPUT_DIR": str(cluster.folder / "out")}
    shown = {**seen, "CUDA_VISIBLE_DEVICES": eight, "GPUS_PER_NODE": "8"}
    _, said, _ = cluster.run(*small, "--check", "device=cuda", **shown)
    assert (
        "16 of sft.train, 8 under torchrun on each node, device=cuda; they meet at n1:20007" in said
    )
    assert "about 0.25 on each of 16 process(es)" in said and "have nothing to learn" in said
    _, said, _ = cluster.run(*small, "--check", **seen)
    assert "with device=cpu the other nodes have nothing to do" in said
    assert "1, sft.train here, device=cpu" in said


def figures(out: Path) -> list[dict[str, Any]]:
    """Of each step, but times."""
    told = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{key: each[key] for key in each if not key.endswith("_s")} for each in told]


@pytest.mark.slow
@needs_deepspeed
def test_a_job_is_killed_asked_to_end_and_resubmitted_and_goes_on(
    cluster: Cluster, tiny: Path, small: tuple[str, ...]
) -> None:
    words = (str(SCRIPT), *small, f"steps={STEPS}", "tools.show=[roborefer.detect_one]")
    whole, out = cluster.folder / "whole", cluster.folder / "out"
    variables = {"BASE_MODEL": str(tiny), "TOOL_CONFIG": "light", "SAVE_FREQ": "2", "RANKS": "2"}

    def gone() -> bool:
        return not cluster.processes()

    def until(num: int) -> None:
        def there() -> bool:
            assert Path(f"/proc/{cluster.leader(job)}").exists(), cluster.told(job)
            return metrics.exists() and metrics.read_text().count("\n") >= num

        wait_for(there, 120, lambda: cluster.told(job))

    job = cluster.submit(*words, OUTPUT_DIR=str(whole), **variables)
    wait_for(gone, 120, lambda: cluster.told(job))
    assert (whole / "final" / "config.json").is_file(), cluster.told(job)

    metrics = out / "metrics.jsonl"
    job = cluster.submit(*words, OUTPUT_DIR=str(out), **variables)
    until(3)
    # What SLURM kills is torchrun; its ranks are in sessions of their own.
    os.killpg(cluster.leader(job), signal.SIGKILL)
    wait_for(gone, 20, cluster.processes)
    assert whole_checkpoints(out)[-1][0] < STEPS, "it was done before it could be killed"

    job = cluster.submit(*words, OUTPUT_DIR=str(out), **variables)
    until(5)
    os.kill(cluster.leader(job), signal.SIGTERM)
    wait_for(gone, 60, lambda: cluster.told(job))
    last = whole_checkpoints(out)[-1][0]
    assert f"the same command goes on from step {last}, the last" in cluster.told(job)
    assert last == figures(out)[-1]["step"] < STEPS

    job = cluster.submit(*words, OUTPUT_DIR=str(out), **variables)
    wait_for(gone, 120, lambda: cluster.told(job))
    assert figures(out) == figures(whole), cluster.told(job)
    assert [each["step"] for each in figures(out)] == [*range(1, STEPS + 1)]
    assert (
        read_schema_hash(out / "final")
        == ToolSet.named("light", ["roborefer.detect_one"]).schema_hash
    )
