"""Kill training with SIGKILL at random moments, start it again, and compare every figure.

``sft.train`` alone and on two ranks (gloo, ``learner.shard.zero=2``, both killed at once), and
``rl.train``. A run that is never killed is the measure; ``--selftest`` forgets the drawn questions
(RL) or the momentum (SFT) at every kill, and exits with 1 unless the difference shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BAR = 1e-6
TOOLS = "{replies: compact, host: local, roborefer: {backend: light, show: [detect_one]}}"
TRAINERS = ("sft", "sft-ranks", "rl")
Words = list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Two runs of one config compared."""

    trainer: str
    ranks: int
    kills: int
    steps: int
    figures: int
    """Numbers compared; none of them is a time."""
    largest_difference: float
    where: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=10, help="of each trainer (%(default)s)")
    parser.add_argument("--only", choices=TRAINERS, help="one trainer alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a flaw is noticed")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error(f"--kills must be at least 1, not {options.kills}")
    asked = (options.only,) if options.only else TRAINERS
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(
            Path(folder), options.kills, options.seed, spoil=options.selftest, trainers=asked
        )
    if options.json:
        print(json.dumps({"bar": BAR, "runs": [asdict(outcome) for outcome in outcomes]}))
    else:
        for o in outcomes:
            print(
                f"{o.trainer:<10} {o.ranks} ranks, {o.kills} kills, {o.steps} steps, "
                f"{o.figures} figures: largest difference {o.largest_difference:.3g} {o.where}"
            )
    equal = [outcome.largest_difference <= BAR for outcome in outcomes]
    return int(any(equal) if options.selftest else not all(equal))


def measure(
    folder: Path,
    kills: int,
    seed: int,
    *,
    spoil: bool = False,
    trainers: Sequence[str] = TRAINERS,
) -> list[Outcome]:
    """Train with ``sft.train`` and ``rl.train`` on the tiny model in ``folder``."""
    sft, rl = _prepare(folder)
    jobs = {
        "sft": _Job(trainer="sft.train", words=sft, flaw=_stale),
        # Momentum is cut over ranks, and Muon needs whole matrices.
        "sft-ranks": _Job(
            trainer="sft.train",
            words=[*sft, "learner.shard.zero=2", "learner.optim.muon_lr=0"],
            ranks=2,
            flaw=_stale,
        ),
        "rl": _Job(trainer="rl.train", words=rl, flaw=_forgetful),
    }
    if "rl" in trainers and "sft" not in trainers:
        _finish(jobs["sft"], folder / "sft" / "whole")
    outcomes = []
    for name in trainers:
        outcomes.append(_compare(jobs[name], folder / name, kills, seed, spoil=spoil))
    return outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    trainer: str
    words: Words
    """What every run is given, but its folder."""
    ranks: int = 1
    flaw: Callable[[Path], None]
    """What ``--selftest`` does to a run's folder at every kill."""


def _prepare(folder: Path) -> tuple[Words, Words]:
    """Checkpoint, questions and transcripts; returns the words of both trainers."""
    from rl.tiny import TinyConfig, make_random, tool_sets

    tools, questions = folder / "tools.yaml", folder / "questions.parquet"
    tools.write_text(TOOLS)
    make_random(folder / "tiny", tool_sets(TinyConfig()), seed=0)
    _run("rl.tabletop", [str(questions), "--kinds", "point", "--num", "24", "--size", "112"])
    said = [f"tools.config={tools}", "reward={correct: 0.9, format: 0.1, point: binary}"]
    _run("rl.collect", ["teacher", str(questions), str(folder / "traces.json"), *said])
    shared = [f"tools.config={tools}", "show.tensorboard=false", "learner.optim.clip_norm=1.0"]
    sft = [
        "demo",
        *shared,
        f"model={folder / 'tiny'}",
        f"sources=[{{path: {folder / 'traces.json'}, batch_size: 8}}]",
        "steps=60",
        "save_every=7",
    ]
    rl = [
        "demo",
        *shared,
        f"model={folder / 'sft' / 'whole'}",
        f"data=[{{path: {questions}}}]",
        "steps=12",
        "num_prompts=4",
        "group_size=4",
        "selection.order=informative",
        "rollout.width=8",
        "save.every=3",
    ]
    return sft, rl


def _compare(job: _Job, folder: Path, kills: int, seed: int, *, spoil: bool) -> Outcome:
    from sft.learner import CACHE_FIGURES

    whole, killed = folder / "whole", folder / "killed"
    _finish(job, whole)
    wanted = _lines(whole)
    moments = random.Random(seed)
    for _ in range(kills):
        _kill(job, killed, moments, len(wanted), kills)
        if spoil:
            job.flaw(killed)
    _finish(job, killed)
    found = _lines(killed)
    if [line["step"] for line in found] != [line["step"] for line in wanted]:
        return Outcome(
            trainer=job.trainer, ranks=job.ranks, kills=kills, steps=len(found), figures=0,
            largest_difference=float("inf"), where="(other steps)",
        )  # fmt: skip
    pairs = [
        (abs(float(value) - float(again.get(name, "inf"))), f"(step {line['step']}, {name})")
        for line, again in zip(wanted, found, strict=True)
        for name, value in line.items()
        if isinstance(value, int | float) and not name.endswith("_s") and name not in CACHE_FIGURES
    ]
    difference, where = max(pairs)
    return Outcome(
        trainer=job.trainer, ranks=job.ranks, kills=kills, steps=len(found), figures=len(pairs),
        largest_difference=difference, where=where if difference else "",
    )  # fmt: skip


def _kill(job: _Job, out: Path, moments: random.Random, steps: int, kills: int) -> None:
    """Start, wait for some new steps and a random moment more, then SIGKILL to every rank."""
    begun = _num_lines(out)
    new = moments.randint(1, max(1, (steps - 2) // (kills + 1)))
    processes = _start(job, out, subprocess.DEVNULL)
    try:
        while _num_lines(out) < begun + new:
            for process in processes:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{job.trainer} ended before it was killed: {process.returncode}"
                    )
            # A resume first cuts the lines that no checkpoint covers.
            begun = min(begun, _num_lines(out))
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.5))
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
        for process in processes:
            process.wait()


def _finish(job: _Job, out: Path) -> None:
    """Run to the end, from the last checkpoint if there is one."""
    with tempfile.TemporaryFile("w+") as said:
        processes = _start(job, out, said)
        codes = [process.wait() for process in processes]
        if any(codes):
            said.seek(0)
            raise RuntimeError(f"{job.trainer} ended with {codes}: {said.read()[-2000:]}")


def _stale(out: Path) -> None:
    """The injected flaw of SFT: momentum is lost."""
    import torch

    for state in out.glob("global_step_*/state.pt"):
        shards = state.glob("state/*_optim_states.pt") if state.is_dir() else [state]
        for path in shards:
            content = torch.load(path, weights_only=False)
            _forget_momentum(content)
            torch.save(content, path)


def _forget_momentum(content: Any) -> None:
    each = content.values() if isinstance(content, dict) else content
    if isinstance(content, dict) and "exp_avg" in content:
        content["exp_avg"].zero_()
    if isinstance(content, dict | list | tuple):
        for value in each:
            _forget_momentum(value)


def _forgetful(out: Path) -> None:
    """The injected flaw of RL: the questions are drawn from the beginning again."""
    for file in out.glob("global_step_*/streams.json"):
        states = json.loads(file.read_text())
        file.write_text(json.dumps([state | {"num_taken": 0} for state in states]))


def _start(job: _Job, out: Path, said: IO[str] | int) -> list[subprocess.Popen[bytes]]:
    """The processes of a run, one a rank: as torchrun starts them, whose workers outlive it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = {"WORLD_SIZE": str(job.ranks), **meeting} if job.ranks > 1 else {}
    return [
        subprocess.Popen(
            [sys.executable, "-m", job.trainer, *job.words, f"out={out}"],
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **(world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}),
            },
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        for rank in range(job.ranks)
    ]


def _run(module: str, words: Words) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"python -m {module} {' '.join(words)}: {done.stderr[-2000:]}")


def _num_lines(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
