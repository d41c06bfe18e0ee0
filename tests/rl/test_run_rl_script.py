"""scripts/run_rl.sh: what it plans, and a life under SLURM with pretended sbatch and srun.

Ray, tools, checkpoint and training are real; only SLURM is not there, and the two nodes are one
machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from rl.config import RLConfig
from rl.policy.sglang import preflight
from rl.policy.sglang.server import _engine_variables
from rl.start.preflight import examine
from rl.tabletop.dataset import Order, write_dataset
from sft.config import load_config
from sft.run_dir import RunDir
from tests.slurm import ROOT, Cluster, wait_for

SCRIPT = ROOT / "scripts" / "run_rl.sh"
EIGHT = "0,1,2,3,4,5,6,7"
TWO_NODES = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1"}
ONE_GPU = ("engine.colocated=true", "max_staleness=0")
STEPS = 6
SMALL = (
    *("policy=transformers", "device=cpu", "dtype=float32", "val.every=0", "val.data="),
    *("num_prompts=2", "group_size=2", "rollout.width=4", "rollout.max_turns=2"),
    *("rollout.max_tokens=24", "rollout.max_turn_tokens=12", "rollout.max_length=256"),
    *("show.tensorboard=false", "tools.schema=any"),
    "tools.show=[roborefer.detect_one]",
    # A random model is never right: rewards differ by form alone.
    "reward={correct: 0.5, format: 0.5}",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, SCRIPT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "train.parquet"
    write_dataset(path, Order(kinds=("point",), num=6, size=112))
    return path


# ---- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ((), {"VERSION": "v3"}, "VERSION=v3 is neither v1 nor v2"),
        (("point",), {"VERSION": "v2"}, "VERSION=v2 and the config point are two tool sets"),
        (("v1", "v2"), {}, "two configs are given, v1 and v2"),
        (("v3",), {}, "no config 'v3' in configs/rl"),
        (("stepz=3",), {}, "did you mean steps?"),
        (("SAVE_FREQ=3",), {}, "SAVE_FREQ=3 is a variable: write it before the command"),
        (("save.every=5",), {"SAVE_FREQ": "3"}, "SAVE_FREQ=3 and save.every=5 contradict"),
        (("out=a",), {"OUTPUT_DIR": "b"}, "OUTPUT_DIR=b and out=a are two folders"),
        ((), {"NUM_GPUS": "4"}, "NUM_GPUS=4, but 0 GPUs are visible here"),
        (
            (),
            {"CUDA_VISIBLE_DEVICES": EIGHT},
            "need 8 of the 8 GPUs on 1 node(s); give two",
        ),
        ((), {"CUDA_VISIBLE_DEVICES": EIGHT, "TRAIN_GPUS": "2", "ENGINE_GPUS": "2"}, "and 4 are"),
        (("device=cpu",), {"ENGINE_GPUS": "1"}, "ENGINE_GPUS=1, but 0 GPUs are used"),
        (
            ("engine.tensor_parallel=2", "engine.device=cuda"),
            {**TWO_NODES, "CUDA_VISIBLE_DEVICES": EIGHT, "ENGINE_GPUS": "3"},
            "ENGINE_GPUS=3 cannot be shared out to engines on engine.tensor_parallel=2 GPUs",
        ),
        (
            ONE_GPU,
            {**TWO_NODES, "CUDA_VISIBLE_DEVICES": EIGHT, "TRAIN_GPUS": "2"},
            "TRAIN_GPUS=2 and ENGINE_GPUS=0, and engine.colocated=true puts learner and engine",
        ),
        (
            ("policy=transformers",),
            {"CUDA_VISIBLE_DEVICES": EIGHT, "ENGINE_GPUS": "1"},
            "policy=transformers has no engine",
        ),
        (("engine.servers=2",), {}, "ENGINE_GPUS says which GPUs serve the policy"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    cluster: Cluster, words: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    code, _, complained = cluster.run(*words, **variables)
    assert code == 2 and sentence in " ".join(complained.split()), complained
    assert cluster.processes() == []


def test_the_plan_says_who_gets_which_gpus(cluster: Cluster, tiny: Path) -> None:
    out = cluster.folder / "out"
    seen = {
        **TWO_NODES,
        "CUDA_VISIBLE_DEVICES": EIGHT,
        "OUTPUT_DIR": str(out),
        "SFT_CHECKPOINT": str(tiny),
    }
    # On two nodes the first trains and plays, and the second serves tools.
    _, said, complained = cluster.run("--check", **seen)
    assert "2 of SLURM job 7, 8 GPUs on each" in said, complained
    assert "learner     4 GPUs of this node (0,1,2,3)" in said
    assert "engines     4 GPUs of this node (4,5,6,7)" in said
    assert "8 GPUs needed; theirs are none of this node, and all of the other nodes" in said
    assert f"folder      {out};" in said
    one = {**seen, "SLURM_JOB_NODELIST": "n1", "TOOL_CONFIG": "v1_4gpus", "TRAIN_GPUS": "1"}
    _, said, complained = cluster.run("v1_code", "--check", **one)
    assert "learner     1 GPUs of this node (0)" in said, complained
    assert "engines     3 GPUs of this node (1,2,3)" in said
    assert "v1_4gpus, 4 GPUs needed; theirs are 4,5,6,7 of this node" in said
    assert not out.exists() and cluster.processes() == []


@pytest.mark.parametrize(
    ("words", "variables", "ranks", "engines"),
    [
        ((), {}, 4, ["4", "5", "6", "7"]),
        (("engine.tensor_parallel=2",), {"TRAIN_GPUS": "2"}, 2, ["2,3", "4,5", "6,7"]),
        (ONE_GPU, {}, 1, ["0"]),
        # A job may be given any part of a node, and goes on with another part.
        ((), {"CUDA_VISIBLE_DEVICES": "2,3,GPU-a,7", "TOOL_CONFIG": "demo"}, 2, ["GPU-a", "7"]),
    ],
)
def test_what_the_script_starts_finds_its_gpus(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    variables: dict[str, str],
    ranks: int,
    engines: list[str],
) -> None:
    """The last command that bash says it runs, examined where there are as many GPUs."""
    shown = {**TWO_NODES, "CUDA_VISIBLE_DEVICES": EIGHT, "SHELLOPTS": "xtrace", **variables}
    _, _, traced = cluster.run("v1", "--check", *words, **shown)
    lines = [line for line in traced.splitlines() if " rl.train v1 " in line and "exec" in line]
    assert lines, traced
    command = shlex.split(lines[-1])
    given = command[command.index("v1") + 1 : command.index("--check")]
    assert command[command.index("--ranks") + 1] == str(ranks)
    (visible,) = re.findall(r"export CUDA_VISIBLE_DEVICES=(\S+)", traced)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    names = visible.split(",")
    monkeypatch.setattr(preflight, "visible_gpus", lambda: len(names))
    monkeypatch.setattr("toolshed.resources.visible_gpus", lambda: len(names))
    config = load_config(RLConfig, "rl", "v1", given)
    told = "\n".join(examine(config, ranks=ranks).missing)
    assert not re.search("engines need GPU|ranks need|the learner is on|shares the", told), told
    taken = [_engine_variables(config.engine, each) for each in range(config.engine.servers)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in taken] == engines


def test_step_1_starts_from_the_base_model(cluster: Cluster, tiny: Path, data: Path) -> None:
    cluster.script = ROOT / "scripts" / "run_rl_roborefer.sh"
    code, _, complained = cluster.run("--check", BASE_MODEL="no/such")
    assert code == 2 and "hf download Qwen/Qwen2.5-VL-3B-Instruct" in complained
    words = ("point_code", "--check", *SMALL, f"data=[{{path: {data}}}]", f"out={data.parent}/o")
    code, said, complained = cluster.run(*words, BASE_MODEL=str(tiny), TOOL_CONFIG="demo")
    assert code == 0, said + complained
    assert f"checkpoint  {tiny}" in said and "930 of 2 questions" in said
    code, said, complained = cluster.run(
        *words[1:], words[0], BASE_MODEL=str(tiny), TOOL_CONFIG="demo"
    )
    assert "930 of 2 questions" in said, complained
    code, _, complained = cluster.run("--check", "point", "point_code", BASE_MODEL=str(tiny))
    assert code == 2 and "two configs are given, point and point_code" in complained


# ---- a run on a plain machine -------------------------------------------------------------------


def test_a_laptop_needs_no_variables_and_no_cluster(
    cluster: Cluster, tiny: Path, data: Path
) -> None:
    out = cluster.folder / "out"
    words = ("demo", *SMALL, "tools.config=light", f"model={tiny}", f"out={out}", "steps=1")
    code, said, complained = cluster.run(*words, f"data=[{{path: {data}}}]")
    assert code == 0, complained
    assert "rl.train here" in said and "in the process of the learner" in said
    assert (out / "final" / "config.json").is_file()
    assert cluster.processes() == []


# ---- a life under SLURM -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_on_two_nodes_is_killed_and_resubmitted_and_goes_on(
    cluster: Cluster, tiny: Path, data: Path
) -> None:
    out = cluster.folder / "out"
    words = (str(SCRIPT), *SMALL, f"data=[{{path: {data}, rows: 6}}]", f"steps={STEPS}")
    variables = {
        # Ray asks the way to the second, so its name has to lead somewhere.
        "NODES": "n1,127.0.0.2",
        "SFT_CHECKPOINT": str(tiny),
        "TOOL_CONFIG": "demo",
        "OUTPUT_DIR": str(out),
        "SAVE_FREQ": "1",
    }
    metrics = out / "metrics.jsonl"

    def told() -> list[str]:
        return metrics.read_text().splitlines() if metrics.exists() else []

    def gone() -> bool:
        return not cluster.processes()

    def two_steps() -> bool:
        assert Path(f"/proc/{cluster.leader(job)}").exists(), cluster.told(job)
        return len(told()) >= 2

    job = cluster.submit(*words, **variables)
    wait_for(two_steps, 300, lambda: cluster.told(job))
    assert sum("raylet" in line for line in cluster.processes()) >= 2
    os.killpg(cluster.leader(job), signal.SIGKILL)
    wait_for(gone, 60, cluster.processes)
    assert "all 2 nodes have joined" in cluster.told(job)
    before = told()
    run = RunDir(out)
    found = run.latest_checkpoint()
    run.close()
    assert found is not None and 1 <= found[0] < STEPS, "it was done before it could be killed"

    last = cluster.submit(*words, **variables)
    wait_for(gone, 300, lambda: cluster.told(last))
    assert [json.loads(line)["step"] for line in told()] == [*range(1, STEPS + 1)], cluster.told(
        last
    )
    # What the checkpoint holds was not trained again.
    assert told()[: found[0]] == before[: found[0]]
    assert (out / "final" / "config.json").is_file()
