"""The demo's full-tool stage trained through sglang: ``engine_demo.py [RUN]``, RUN a finished demo.

Begins with the SFT checkpoint of RUN and its questions, trains as ``configs/rl/demo.yaml`` says but
with ``policy=sglang``, examines the result as the demo does, and prints held-out accuracy beside
that of RUN's own stage. Exits with 1 unless all intervals overlap and both meet the demo's bars.
Needs ``bash setup_envs.sh sglang --cpu``. The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.demo.claims import Claim, claims
from eval.demo.stages import TASKS
from eval.demo.summary import read_stage_rows, read_summary, result_of, summarise
from eval.demo.works import DemoSettings, works
from eval.metrics import Estimate
from eval.rows import EvalRow
from rl.config import RLConfig
from rl.policy.sglang.config import EngineConfig
from rl.train import train
from toolshed.errors import ConfigError

TOOLS = Path(__file__).resolve().parents[2] / "configs" / "tools" / "demo.yaml"
STAGE = "full_rl"
ENGINE = EngineConfig(max_total_tokens=32768, checked_prompts=0.05, patience_s=120.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One task, answered greedily by both."""

    task: str
    transformers: Estimate
    sglang: Estimate

    @property
    def overlaps(self) -> bool:
        return not (self.sglang.above(self.transformers) or self.transformers.above(self.sglang))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo"), help="%(default)s")
    parser.add_argument("--out", type=Path, help="folder; RUN-engine if not given")
    parser.add_argument("--smoke", action="store_true", help="2 small steps, 4 questions a task")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    options = parser.parse_args(arguments)
    suffix = "-engine-smoke" if options.smoke else "-engine"
    out = options.out or options.run.with_name(options.run.name + suffix)
    try:
        begun = time.monotonic()
        summary = read_summary(options.run)
        train_and_examine(options.run, out, summary.seed, smoke=options.smoke)
        seconds = time.monotonic() - begun
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    own = read_stage_rows(options.run)
    rows = {"transformers": own, "sglang": {**own, STAGE: read_stage_rows(out)[STAGE]}}
    lines = compared(rows["transformers"][STAGE], rows["sglang"][STAGE])
    bars = {
        name: [each for each in claims(summarise(found, summary)) if each.group == "b"]
        for name, found in rows.items()
    }
    held = all(each.held or each.stretch for told in bars.values() for each in told)
    if options.json:
        tasks = [asdict(line) | {"overlaps": line.overlaps} for line in lines]
        shown = {name: [asdict(each) for each in told] for name, told in bars.items()}
        print(json.dumps({"seconds": seconds, "tasks": tasks, "bars": shown, "held": held}))
    else:
        _print(lines, bars, seconds)
    return int(not (held and all(line.overlaps for line in lines)))


def train_and_examine(run: Path, out: Path, seed: int, *, smoke: bool) -> None:
    """The stage and its rows in ``out``; what is there already is not done again."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("data", "sft"):
        if not (run / name).is_dir():
            raise ConfigError(f"{run / name} is not there; bash scripts/demo.sh makes it")
        if not (out / name).exists():
            (out / name).symlink_to((run / name).resolve())
    tools = yaml.safe_load(TOOLS.read_text())
    (out / "tools.yaml").write_text(yaml.safe_dump(tools | {"host": "local"}, sort_keys=False))
    stages = {each.name: each for each in works(DemoSettings(out=out, seed=seed, smoke=smoke))}
    config = stages[STAGE].config
    assert isinstance(config, tuple) and isinstance(config[0], RLConfig)
    train(replace(config[0], policy="sglang", engine=ENGINE))
    stages[f"eval_{STAGE}"].run()


def compared(first: Sequence[EvalRow], second: Sequence[EvalRow]) -> list[Line]:
    """Tasks that both answered."""
    lines = []
    for task in TASKS:
        mine, theirs = (
            result_of(STAGE, task, [row for row in rows if row.task == task]).greedy
            for rows in (first, second)
        )
        if mine is not None and theirs is not None:
            lines.append(Line(task=task, transformers=mine, sglang=theirs))
    return lines


def _print(lines: Sequence[Line], bars: Mapping[str, Sequence[Claim]], seconds: float) -> None:
    for line in lines:
        answers = ", ".join(
            f"{name} {each.mean:.3f} [{each.low:.3f}, {each.high:.3f}] of {each.n}"
            for name, each in (("transformers", line.transformers), ("sglang", line.sglang))
        )
        print(f"{line.task:<10} {answers}: {'overlap' if line.overlaps else 'APART'}")
    for name, told in bars.items():
        for each in told:
            verdict = "held" if each.held else "missed, as may be" if each.stretch else "MISSED"
            print(f"{name:<13}{each.text}: {each.figure}, bar {each.bar}: {verdict}")
    print(f"{seconds / 60:.1f} min in this call")


if __name__ == "__main__":
    sys.exit(main())
