"""Kill parts of an RL run at random moments, and count in its records what became of its questions.

A fault is the end of an engine, a tool replica or the learner by SIGKILL, or a disk that takes no
more at a checkpoint; the last two end the learner, and the same command is given again.
``--selftest`` never forgets the lines that no checkpoint covers, and exits with 1 unless it shows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.rl_chaos_scene import (
    GROUP_SIZE,
    NUM_PROMPTS,
    SAVE_EVERY,
    Account,
    ChaosRun,
    account_of,
    make_inputs,
    served_tools,
)
from toolshed.command import USER_ERROR

FAULTS = ("engine", "tool", "learner", "disk")
_KEPT = """
import sys
from rl.dump import TrajectoryLog
from rl.train import main
TrajectoryLog.rewind = lambda self, step: None
sys.exit(main())
"""
"""The injected flaw, as a trainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A disturbed run."""

    policy: str
    max_staleness: int
    kills: int
    """Faults of all kinds."""
    account: Account
    left_over: int
    """Processes that outlived their learner."""
    most_since_checkpoint: int
    """Trajectories of steps after a checkpoint, which may be played again."""
    most_in_flight: int
    """Trajectories of groups that were begun and not trained, which may be played again, too."""

    @property
    def is_sound(self) -> bool:
        lost = self.account.questions_lost or self.account.questions_twice
        most = self.most_since_checkpoint + self.most_in_flight
        again = self.account.trajectories_twice or self.account.recomputed > most
        return not (lost or again or self.left_over)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=8, help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of faults and moments")
    parser.add_argument("--policy", choices=("sglang", "transformers"), default="sglang")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a flaw is noticed")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error(f"--kills must be at least 1, not {options.kills}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        make_inputs(folder)
        outcomes = [
            measure(
                folder, staleness, options.kills, options.seed, options.policy, options.selftest
            )
            for staleness in (0, 1)
        ]
    if options.json:
        print(json.dumps({"runs": [figures(outcome) for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            print(", ".join(f"{name} {value}" for name, value in figures(outcome).items()))
    is_sound = all(outcome.is_sound for outcome in outcomes)
    return int(is_sound == options.selftest)


def figures(outcome: Outcome) -> dict[str, object]:
    """What is printed of a run."""
    told = {name: value for name, value in asdict(outcome).items() if name != "account"}
    share = outcome.account.recomputed_share
    return {**told, **asdict(outcome.account), "recomputed_share": round(share, 3)}


def words_of(folder: Path, tools: Path, policy: str, staleness: int, steps: int) -> list[str]:
    """The words of a run of ``rl.train`` on the inputs in ``folder``."""
    sizes = [f"num_prompts={NUM_PROMPTS}", f"group_size={GROUP_SIZE}", "rollout.width=8"]
    engine = ["engine.max_total_tokens=32768", "engine.start_timeout_s=1800"]
    return [
        "demo",
        f"tools.config={tools}",
        f"model={folder / 'sft' / 'final'}",
        f"data=[{{path: {folder / 'questions.parquet'}}}]",
        f"policy={policy}",
        f"max_staleness={staleness}",
        f"steps={steps}",
        f"save.every={SAVE_EVERY}",
        "save.dump_every=1",
        # With its KL term every group is trained, whatever its rewards.
        "algorithm=grpo",
        "overrides.kl=0.001",
        "show.tensorboard=false",
        *sizes,
        *(engine if policy == "sglang" else []),
    ]


def most_recomputed(staleness: int, num_stops: int) -> tuple[int, int]:
    """Trajectories that were not in a checkpoint when the learner ended, over all its ends:
    (trained since the checkpoint, in flight)."""
    step = num_stops * NUM_PROMPTS * GROUP_SIZE
    return SAVE_EVERY * step, (staleness + 1) * step


def measure(
    folder: Path, staleness: int, kills: int, seed: int, policy: str, spoil: bool
) -> Outcome:
    """One run on the inputs in ``folder``, with faults of all kinds in random order."""
    rng = random.Random(seed)
    faults = [each for each in FAULTS if each != "engine" or policy == "sglang"]
    chosen = [faults[place % len(faults)] for place in range(kills)]
    rng.shuffle(chosen)
    place = folder / f"staleness_{staleness}"
    place.mkdir()
    with served_tools(place) as tools:
        words = words_of(folder, tools, policy, staleness, steps=6 * kills + 6)
        with ChaosRun(place, words, trainer=["-c", _KEPT] if spoil else None) as run:
            run.start()
            for fault in chosen:
                run.wait_for_step(run.num_steps() + rng.randint(2, 5))
                disturb(run, fault, tools)
            if code := run.finish():
                raise RuntimeError(f"the run ended with {code}: {run.said.read_text()[-2000:]}")
        account = account_of(run, place / "calls.jsonl")
    stops = chosen.count("learner") + chosen.count("disk")
    since_checkpoint, in_flight = most_recomputed(staleness, stops)
    return Outcome(
        policy=policy,
        max_staleness=staleness,
        kills=kills,
        account=account,
        left_over=run.num_left_over,
        most_since_checkpoint=since_checkpoint,
        most_in_flight=in_flight,
    )


def disturb(run: ChaosRun, fault: str, tools: Path) -> None:
    """Let one thing go wrong; where it ends the learner, start it again."""
    now: dict[str, Callable[[], None]] = {
        "engine": run.kill_engine,
        "tool": lambda: run.kill_tool(tools),
        "learner": run.kill_learner,
        "disk": run.fill_disk,
    }
    now[fault]()
    if fault == "disk" and run.finish() != USER_ERROR:
        raise RuntimeError(f"the disk was full, and the run said {run.said.read_text()[-2000:]}")
    if fault in ("learner", "disk"):
        run.start()


if __name__ == "__main__":
    sys.exit(main())
