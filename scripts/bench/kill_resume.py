"""Kill training with SIGKILL at random moments, start it again, and compare every figure.

A run that is never killed is the measure; ``--selftest`` forgets the drawn questions (RL) or the
momentum (SFT) at every kill, and exits with 1 unless the difference shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BAR = 1e-6
TOOLS = "{replies: compact, host: local, roborefer: {backend: light, show: [detect_one]}}"
Words = list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Two runs of one config compared."""

    trainer: str
    kills: int
    steps: int
    figures: int
    """Numbers compared; none of them is a time."""
    largest_difference: float
    where: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=5, help="of each trainer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a flaw is noticed")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error(f"--kills must be at least 1, not {options.kills}")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(Path(folder), options.kills, options.seed, spoil=options.selftest)
    if options.json:
        print(json.dumps({"bar": BAR, "runs": [asdict(outcome) for outcome in outcomes]}))
    else:
        for o in outcomes:
            print(
                f"{o.trainer:<10} {o.kills} kills, {o.steps} steps, {o.figures} figures: largest "
                f"difference {o.largest_difference:.3g} {o.where}"
            )
    equal = all(outcome.largest_difference <= BAR for outcome in outcomes)
    return int(equal == options.selftest)


def measure(folder: Path, kills: int, seed: int, *, spoil: bool = False) -> list[Outcome]:
    """Train both ways with ``sft.train`` and ``rl.train`` on the tiny model in ``folder``."""
    sft, rl = _prepare(folder)
    outcomes = [_compare("sft.train", sft, folder / "sft", kills, seed, _stale if spoil else None)]
    rl = [*rl, f"model={folder / 'sft' / 'whole'}"]
    outcomes.append(
        _compare("rl.train", rl, folder / "rl", kills, seed, _forgetful if spoil else None)
    )
    return outcomes


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
        f"data=[{{path: {questions}}}]",
        "steps=12",
        "num_prompts=4",
        "group_size=4",
        "selection.order=informative",
        "rollout.width=8",
        "save.every=3",
    ]
    return sft, rl


def _compare(
    trainer: str,
    words: Words,
    folder: Path,
    kills: int,
    seed: int,
    spoil: Callable[[Path], None] | None,
) -> Outcome:
    from sft.learner import CACHE_FIGURES

    whole, killed = folder / "whole", folder / "killed"
    _run(trainer, [*words, f"out={whole}"])
    wanted = _lines(whole)
    moments = random.Random(seed)
    for _ in range(kills):
        _kill(trainer, [*words, f"out={killed}"], killed, moments, len(wanted), kills)
        if spoil is not None:
            spoil(killed)
    _run(trainer, [*words, f"out={killed}"])
    found = _lines(killed)
    if [line["step"] for line in found] != [line["step"] for line in wanted]:
        return Outcome(
            trainer=trainer, kills=kills, steps=len(found), figures=0,
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
        trainer=trainer, kills=kills, steps=len(found), figures=len(pairs),
        largest_difference=difference, where=where if difference else "",
    )  # fmt: skip


def _kill(
    trainer: str, words: Words, out: Path, moments: random.Random, steps: int, kills: int
) -> None:
    """Start, wait for some new steps and a random moment more, then SIGKILL."""
    begun = _num_lines(out)
    new = moments.randint(1, max(1, (steps - 2) // (kills + 1)))
    process = _start(trainer, words)
    try:
        while _num_lines(out) < begun + new:
            if process.poll() is not None:
                raise RuntimeError(f"{trainer} ended before it was killed: {process.returncode}")
            # A resume first cuts the lines that no checkpoint covers.
            begun = min(begun, _num_lines(out))
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.5))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stale(out: Path) -> None:
    """The injected flaw of SFT: momentum is lost."""
    import torch

    for state in out.glob("global_step_*/state.pt"):
        content = torch.load(state, weights_only=False)
        for optimiser in content["optimisers"]:
            optimiser["state"] = {}
        torch.save(content, state)


def _forgetful(out: Path) -> None:
    """The injected flaw of RL: the questions are drawn from the beginning again."""
    for file in out.glob("global_step_*/streams.json"):
        states = json.loads(file.read_text())
        file.write_text(json.dumps([state | {"num_taken": 0} for state in states]))


def _start(module: str, words: Words) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


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
