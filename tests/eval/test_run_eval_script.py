"""scripts/run_eval.sh: what it plans, and a life under SLURM with pretended sbatch and scontrol.

Ray, tools, checkpoint and evaluation are real; only SLURM is not there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from rl.questions.data import write_questions
from rl.tabletop.dataset import Order, make_questions
from tests.slurm import ROOT, Cluster, wait_for

SCRIPT = ROOT / "scripts" / "run_eval.sh"
NUM_QUESTIONS = 16


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, SCRIPT)


# ---- the plan -----------------------------------------------------------------------------------

EIGHT = "0,1,2,3,4,5,6,7"
TWO_NODES = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURMD_NODENAME": "n1",
}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"VERSION": "v3"}, "VERSION=v3 is neither v1 nor v2"),
        ({"NUM_GPUS": "4"}, "NUM_GPUS=4, but 0 GPUs are visible here"),
        ({"NUM_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, "NUM_GPUS=0, but 2 GPUs are visible"),
        ({"GPUS_PER_NODE": "8", "NUM_GPUS": "4"}, "GPUS_PER_NODE=8 and NUM_GPUS=4 are two names"),
        ({"NUM_GPUS": "many"}, "NUM_GPUS=many: a whole number"),
        ({"SLURM_GPUS_ON_NODE": "8"}, "SLURM gave this node 8 GPUs, but 0 are visible here"),
        ({"CUDA_VISIBLE_DEVICES": EIGHT}, "the tools of v1 need 8 GPUs on one node, and 7 are"),
        ({}, "the tools of v1 need 8 GPUs on one node, and 0 are left"),
        (
            {"CUDA_VISIBLE_DEVICES": "0,1", "TOOLS": "none", "EVAL_GPUS": "3"},
            "EVAL_GPUS=3, but 2 GPUs are used on this node",
        ),
        ({"TOOLS": "lihgt"}, "did you mean 'light'"),
        ({**TWO_NODES, "SLURMD_NODENAME": "", "SLURM_JOB_NODELIST": "x"}, "cannot list the nodes"),
        ({**TWO_NODES, "SLURM_STEP_NUM_TASKS": "2"}, "srun has started this 2 times"),
        (
            {**TWO_NODES, "CUDA_VISIBLE_DEVICES": EIGHT, "DEPTH_CHECKPOINT": "/no/depth_pro.pt"},
            "DEPTH_CHECKPOINT=/no/depth_pro.pt does not exist",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    cluster: Cluster, tiny: Path, variables: dict[str, str], sentence: str
) -> None:
    code, _, complained = cluster.run(
        str(tiny), OUTPUT_DIR=str(cluster.folder / "out"), **variables
    )
    assert code == 2 and sentence in " ".join(complained.split()), complained
    assert not (cluster.folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no checkpoint given"),
        (("CKPT", "out=a", "tools=none"), "are two folders"),
        (("CKPT", "tools=none"), "TOOLS=light and tools=none are two tool sets"),
    ],
)
def test_words_that_contradict_variables_are_said(
    cluster: Cluster, words: tuple[str, ...], sentence: str
) -> None:
    code, _, complained = cluster.run(*words, TOOLS="light", OUTPUT_DIR="b")
    assert code == 2 and sentence in complained


def test_the_plan_says_who_gets_which_gpus(cluster: Cluster, tiny: Path) -> None:
    out = cluster.folder / "out"
    for name in ("robo", "depth.pt"):
        (cluster.folder / name).touch()
    words = (str(tiny), "tabletop-point", "--check", "max_length=9000")
    seen = {
        **TWO_NODES,
        "VERSION": "v1",
        "CUDA_VISIBLE_DEVICES": EIGHT,
        "OUTPUT_DIR": str(out),
        "ROBOREFER_MODEL": str(cluster.folder / "robo"),
        "DEPTH_CHECKPOINT": str(cluster.folder / "depth.pt"),
    }
    code, said, complained = cluster.run(*words, **seen)
    # Everything is counted but what this machine lacks: a GPU for the policy, environments.
    assert code == 2 and "missing: device=cuda" in said and "tool environments" in said
    assert "GPUs: its replicas" not in said
    # On two nodes the first serves the policy and the second the tools.
    assert "2 of SLURM job 7, 8 GPUs on each" in said
    assert f"on 8 GPUs of this node ({EIGHT})" in said
    assert "8 GPUs needed; theirs are none of this node, and all of the other nodes" in said
    assert f"ROBOREFER_MODEL={cluster.folder / 'robo'}" in said
    assert f"folder      {out};" in said and "0 answers there" in said
    code, said, complained = cluster.run(*words, **{**seen, "EVAL_GPUS": "2"})
    assert code == 2, complained
    assert "on 2 GPUs of this node (0,1)" in said and "theirs are 2,3,4,5,6,7 of this" in said
    assert not out.exists()
    assert cluster.processes() == []


def test_the_folder_is_the_jobs_own_and_a_new_one_elsewhere(cluster: Cluster) -> None:
    script = """
    set -euo pipefail
    stage=eval check=no
    . "$ROOT/scripts/allocation.sh"
    choose_folder v1 "$@"; echo "$folder"
    """

    def chosen(*words: str, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script, "bash", *words],
            env=cluster.environment(ROOT=str(ROOT), **variables),
            cwd=cluster.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.strip()

    first = chosen("a")
    assert re.fullmatch(r"experiments/eval_v1_\d{8}_\d{6}", first)
    assert (cluster.folder / first).is_dir()
    assert chosen("a") != first
    assert chosen("a", OUTPUT_DIR="mine") == "mine"
    job = chosen("a", SLURM_JOB_ID="5")
    assert chosen("a", SLURM_JOB_ID="5", SLURM_RESTART_COUNT="1") == job
    assert len({job, chosen("b", SLURM_JOB_ID="5"), chosen("a", SLURM_JOB_ID="6"), first}) == 4


# ---- a run on a plain machine -------------------------------------------------------------------


def write_data(folder: Path, num: int) -> None:
    questions = make_questions(Order(kinds=("point",), num=num, seed=70), folder, name="q")
    write_questions(folder / "tabletop-point.parquet", questions)


def test_a_laptop_needs_no_variables_and_no_cluster(cluster: Cluster, tiny: Path) -> None:
    data, out = cluster.folder / "data", cluster.folder / "out"
    write_data(data, 3)
    words = ["tabletop-point", f"data={data}", "tools=light", "tools.schema=any", "max_length=600"]
    words.append("tools.show=[roborefer.detect_one]")
    code, said, complained = cluster.run(str(tiny), *words, OUTPUT_DIR=str(out), NUM_GPUS="0")
    assert code == 0, complained
    assert "eval.run here" in said and "in the process of the policy" in said
    assert len((out / "rows" / "tabletop-point.jsonl").read_text().splitlines()) == 3
    assert cluster.processes() == []


# ---- a life under SLURM -------------------------------------------------------------------------


def keys_of(rows: Path) -> list[tuple[str, object]]:
    """Of all whole lines."""
    if not rows.exists():
        return []
    lines = rows.read_text().split("\n")[:-1]
    return [(row["question_id"], row["draw"]) for row in map(json.loads, lines)]


@pytest.mark.slow
def test_a_job_is_killed_and_resubmitted_until_it_is_done(cluster: Cluster, tiny: Path) -> None:
    """Killed once as a node dies (SIGKILL), once as at a time limit (SIGTERM to the batch shell);
    between them SLURM starts it again, then a new job goes on by OUTPUT_DIR."""
    data, out = cluster.folder / "data", cluster.folder / "out"
    write_data(data, NUM_QUESTIONS)
    rows = out / "rows" / "tabletop-point.jsonl"
    words = (str(SCRIPT), str(tiny), "tabletop-point", f"data={data}", "width=1", "draws=2")
    # Light tools in Ray's actors, as on a cluster, and the same folder in each job.
    variables = {"TOOLS": "demo", "OUTPUT_DIR": str(out)}

    def gone() -> bool:
        return not cluster.processes()

    def after(job: str, num: int) -> None:
        def has_come_so_far() -> bool:
            assert Path(f"/proc/{cluster.leader(job)}").exists(), cluster.told(job)
            return len(keys_of(rows)) >= num

        wait_for(has_come_so_far, 300, lambda: cluster.told(job))

    first = cluster.submit(*words, **variables)
    after(first, 8)
    assert any("raylet" in line for line in cluster.processes())
    os.killpg(cluster.leader(first), signal.SIGKILL)
    wait_for(gone, 60, cluster.processes)
    num = len(keys_of(rows))
    assert 8 <= num < 3 * NUM_QUESTIONS

    assert cluster.submit("--requeue-of", first, *words, **variables) == first
    after(first, num + 8)
    os.kill(cluster.leader(first), signal.SIGTERM)
    wait_for(gone, 60, cluster.processes)
    num = len(keys_of(rows))
    assert num < 3 * NUM_QUESTIONS, "it was done before it could be killed"

    last = cluster.submit(*words, **variables)
    wait_for(gone, 300, lambda: cluster.told(last))
    keys = keys_of(rows)
    assert len(keys) == len(set(keys)) == 3 * NUM_QUESTIONS, cluster.told(last)
    assert len({question for question, _ in keys}) == NUM_QUESTIONS
    assert (out / "report.html").is_file()
    for lock in (rows, *out.glob(".lock")):
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
