"""The stage of chaos in RL: a run of its own, what of it can be killed, and what its records say.

The learner is ``python -m rl.train``, its tools are served by another program, and everything is
found from outside: by process ids, and by the files that the run writes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import yaml

from rl.config import RLConfig
from rl.scheduling.selection import PromptSelection
from rl.start.plan import prepare
from sft.config import load_config
from sft.run_dir import whole_checkpoints
from toolshed.call_log import read_calls
from toolshed.serving.remote import status

ROOT = Path(__file__).resolve().parents[2]
STUCK_S = 2400.0
"""An engine starts within a minute, on a busy machine within ten; what takes longer has hung."""
NUM_QUESTIONS, NUM_PROMPTS, GROUP_SIZE, SAVE_EVERY = 5, 2, 2, 2
_POLL_S, _LOOK_S = 0.01, 0.2
_FAMILY = "roborefer"
_GONE_S = 20.0
"""Within so many seconds what belongs to a killed learner has ended."""


# ---- what a run needs ---------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """Questions, and a tiny checkpoint that mostly calls the tool and answers, in ``folder``."""
    from rl.collect import main as collect
    from rl.tabletop.dataset import main as tabletop
    from rl.tiny import TinyConfig, make_random, tool_sets
    from sft.train import main as sft

    tools, questions = folder / "local.yaml", folder / "questions.parquet"
    tools.write_text(yaml.safe_dump(_tools(host="local")))
    make_random(folder / "tiny", tool_sets(TinyConfig()), seed=0)
    said = [f"tools.config={tools}", "reward={correct: 0.9, format: 0.1, point: binary}"]
    traces = folder / "traces.json"
    learn = [f"sources=[{{path: {traces}, batch_size: {NUM_QUESTIONS}}}]", f"model={folder}/tiny"]
    learn += [f"tools.config={tools}", "show.tensorboard=false", "steps=16", f"out={folder}/sft"]
    number, size = str(NUM_QUESTIONS), "112"
    failed = (
        tabletop([str(questions), "--kinds", "point", "--num", number, "--size", size])
        or collect(["teacher", str(questions), str(traces), *said])
        or sft(["demo", *learn])
    )
    if failed:
        raise RuntimeError(f"the inputs of the runs could not be made in {folder}")


@contextmanager
def served_tools(folder: Path, ray_address: str | None = None) -> Iterator[Path]:
    """Two replicas in a program of their own; the tool YAML of the learners that use them."""
    served, told = folder / "served.yaml", folder / "address.json"
    namespace = f"chaos-{folder.name}"
    served.write_text(yaml.safe_dump(_tools()))
    command = [sys.executable, "-m", "toolshed.serve", str(served), "--namespace", namespace]
    command += ["--address-file", str(told)]
    command += ["--ray-address", ray_address] if ray_address else []
    with (folder / "serve.txt").open("w") as said:
        server = subprocess.Popen(command, cwd=ROOT, env=_variables(), stdout=said, stderr=said)
    try:
        wait_until(told.exists, server)
        used = folder / "tools.yaml"
        where = {"host": "ray", "ray_address": str(told), "namespace": namespace}
        used.write_text(yaml.safe_dump(_tools(**where, call_log=str(folder / "calls.jsonl"))))
        yield used
    finally:
        if ray_address is None:
            _leave()
        server.terminate()
        server.wait()


def _leave() -> None:
    """Ray ends a program whose cluster is lost."""
    import ray

    ray.shutdown()


def _tools(**settings: str) -> dict[str, Any]:
    family = {"backend": "light", "show": ["detect_one"], "replicas": 2, "cache": False}
    return {"replies": "compact", **settings, _FAMILY: family}


def _variables() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """RuntimeError where the process ends before, or where it takes too long."""
    deadline = time.monotonic() + STUCK_S
    while not true():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before its time")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} hangs")
        time.sleep(_POLL_S)


# ---- a run --------------------------------------------------------------------------------------


class ChaosRun:
    """A run in ``folder``; its learner is started as often as it takes, and ends with ``with``."""

    def __init__(self, folder: Path, words: list[str], *, trainer: list[str] | None = None) -> None:
        """``words`` are those of ``rl.train``; ``trainer`` is another program that takes them."""
        self.out = folder / "run"
        self.words = [*words, f"out={self.out}"]
        self.said = folder / "said.txt"
        """What the learner printed since it was started last."""
        self.num_left_over = 0
        """Processes that outlived their learner."""
        self._trainer = trainer or ["-m", "rl.train"]
        self._learner: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ChaosRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._learner is not None and self._learner.poll() is None:
            self.kill_learner()

    @property
    def learner(self) -> subprocess.Popen[bytes]:
        assert self._learner is not None
        return self._learner

    def start(self) -> None:
        command = [sys.executable, *self._trainer, *self.words]
        with self.said.open("w") as said:
            self._learner = subprocess.Popen(
                command, cwd=ROOT, env=_variables(), stdout=said, stderr=said
            )

    def num_steps(self) -> int:
        """The last one in the metrics."""
        file = self.out / "metrics.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: self.num_steps() >= step, self.learner)

    def finish(self) -> int:
        """Wait for the end of the learner; its exit code."""
        family = self._family()
        deadline = time.monotonic() + STUCK_S
        while self.learner.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.learner.args!r} hangs")
            family = self._family() or family
            time.sleep(_LOOK_S)
        self._see_them_gone(family)
        return self.learner.wait()

    def checkpoints(self) -> list[int]:
        """Steps of the whole ones."""
        return [step for step, _ in whole_checkpoints(self.out)]

    # ---- faults -----------------------------------------------------------------------------

    def kill_engine(self) -> None:
        """All processes of one engine."""
        os.killpg(self.engines()[0], signal.SIGKILL)

    def kill_learner(self) -> None:
        """It alone: what belongs to it has to notice."""
        family = self._family()
        self.learner.kill()
        self.learner.wait()
        self._see_them_gone(family)

    def kill_tool(self, tools: Path) -> None:
        """One replica, while it has calls: both are held until some must have come."""
        content = yaml.safe_load(tools.read_text())
        seats = status(content["ray_address"], content["namespace"]).of_group(_FAMILY)
        replicas = [psutil.Process(each.health.process_id) for each in seats if each.health]
        for each in replicas:
            each.suspend()
        time.sleep(1.0)
        replicas[0].kill()
        for each in replicas[1:]:
            each.resume()

    def fill_disk(self) -> None:
        """From now on the learner can write weights, but not the larger state beside them."""
        weights = max(each.stat().st_size for each in self._source().glob("*.safetensors"))
        _, most = resource.prlimit(self.learner.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.learner.pid, resource.RLIMIT_FSIZE, (weights * 3 // 2, most))

    def engines(self) -> list[int]:
        """Process groups of the engines."""
        children = psutil.Process(self.learner.pid).children()
        return [each.pid for each in children if "sglang.launch_server" in _words(each)]

    def _source(self) -> Path:
        word = next(each for each in self.words if each.startswith("model="))
        return Path(word.removeprefix("model="))

    def _family(self) -> list[psutil.Process]:
        """The children of the learner, and theirs."""
        try:
            return list(psutil.Process(self.learner.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def _see_them_gone(self, family: list[psutil.Process]) -> None:
        deadline = time.monotonic() + _GONE_S
        while (left := [each for each in family if _runs(each)]) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        self.num_left_over += len(left)
        for each in left:
            each.kill()


def _runs(process: psutil.Process) -> bool:
    """Ended ones may wait for ever for a parent that asks."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# ---- what became of it --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The records of a run beside what it drew."""

    steps: int
    """Lines of the metrics."""
    questions_lost: int
    """Draws that no step trained."""
    questions_twice: int
    """Groups trained beyond once per draw."""
    trajectories_twice: int
    """Scored trajectories that are in the records again."""
    trajectories: int
    recomputed: int
    """Trajectories that called a tool and are in no record."""

    @property
    def recomputed_share(self) -> float:
        return self.recomputed / max(1, self.trajectories)


def account_of(run: ChaosRun, calls: Path) -> Account:
    """Of a run whose questions are drawn in uniform order; ``calls`` is its tools' log."""
    drawn = _drawn(load_config(RLConfig, "rl", run.words[0], run.words[1:]))
    metrics = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    lines = (run.out / "trajectories.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    trained = Counter((each["step"], each["group"], each["question_id"]) for each in records)
    asked: Counter[str] = Counter()
    for (_, _, question), count in trained.items():
        # A group that is there again doubles the lines of its place.
        asked[question] += -(-count // GROUP_SIZE)
    seeds = Counter(each["seed"] for each in records if each["reward"] is not None)
    sessions = {str(each["session"]) for each in read_calls(calls)}
    once = {each["seed"]: each for each in records}.values()
    called = sum(any(turn["calls"] for turn in each["turns"]) for each in once)
    return Account(
        steps=len(metrics),
        questions_lost=(drawn - asked).total(),
        questions_twice=(asked - drawn).total(),
        trajectories_twice=seeds.total() - len(seeds),
        trajectories=len(records),
        recomputed=max(0, len(sessions) - called),
    )


def _drawn(config: RLConfig) -> Counter[str]:
    """How often each question is drawn in a whole run, by its id."""
    selection = PromptSelection(
        prepare(config).questions,
        [part.weight for part in config.data],
        seed=config.seed,
        group_size=config.group_size,
        config=config.selection,
    )
    draws = [selection.draw(step, config.num_prompts) for step in range(config.steps)]
    return Counter(each.question.id for draw in draws for each in draw)
