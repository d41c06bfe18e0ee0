"""Training on the batches that a run kept, without engine or tools.

``python -m rl.replay RUN [STEP] [key=value ...]`` begins at the run's newest checkpoint before STEP
and ends with STEP; without STEP it begins where the run did and goes to its end. Unchanged it takes
the run's own steps again, bit by bit on the same machine; with words for the algorithm, the
optimiser or the packing it tells what those would have made of the same batches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from rl.config import RLConfig
from rl.dump import StoredBatches
from rl.figures.rollouts import mean
from rl.ranks import Leader, follow, is_follower
from rl.types import Trajectory
from sft.checkpoint import resolve_checkpoint
from sft.config import check_device, check_out, load_config, to_yaml
from sft.run_dir import RunDir, leaves, whole_checkpoints
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.types import Json

if TYPE_CHECKING:
    from rl.update import PolicyUpdate

_CHANGED = (
    *("model", "algorithm", "overrides", "learner.optim", "learner.frozen"),
    *("learner.micro_tokens", "shuffle_rewards"),
)
"""Keys that words may change, those inside them included, ..."""
_ANYWHERE = ("out", "device", "dtype", "threads", "show.tensorboard")
"""... and those that say where it is computed and kept."""


def replay(run: Path, config: RLConfig, *, step: int | None = None) -> Path:
    """Train on the batches of ``run`` up to ``step``; returns the folder of the weights.

    ConfigError where the run did not keep a batch or a picture, or is not at ``step`` yet.
    """
    with Leader(config) as leader:
        return _replay(run, config, step, leader)


def _replay(run: Path, config: RLConfig, step: int | None, leader: Leader) -> Path:
    from rl.update import PolicyUpdate

    stored = StoredBatches(run)
    last = stored.last_step()
    if step is not None and not 1 <= step <= last:
        raise ConfigError(f"step {step} is none of 1 to {last}, those that {run} kept")
    check_device(config.device)
    folder = resolve_checkpoint(config.model)
    update = PolicyUpdate(config, folder, leader=leader)
    if step is not None:
        _go_to(update, run, step - 1)
    before = _metrics(run)
    into = RunDir(check_out(config.out), tensorboard=config.show.tensorboard)
    try:
        into.save_config(to_yaml(config))
        into.rewind(0)
        for number, groups in stored.read(update.learner.step + 1, step or last):
            figures = _step(update, groups, stored)
            into.log(number, figures)
            print(_line(number, figures, before.get(number, {})))
        update.export(into.path / "final")
        return into.path / "final"
    finally:
        into.close()


def _step(
    update: PolicyUpdate, groups: Sequence[Sequence[Trajectory]], stored: StoredBatches
) -> dict[str, Json]:
    begun = time.monotonic()
    made = update.samples(groups, stored.queries)
    rewards = [t.reward.value for group in groups for t in group if t.reward is not None]
    return {
        "reward": mean(rewards),
        "dead_groups": made.counts.num_dead / made.counts.num_groups,
        "failures": made.counts.num_untrainable,
        **update.learn(made),
        "update_s": time.monotonic() - begun,
    }


def _go_to(update: PolicyUpdate, run: Path, most: int) -> None:
    """Take over the newest checkpoint of at most that step; without one, the run's beginning."""
    fitting = [folder for step, folder in whole_checkpoints(run) if step <= most]
    if fitting:
        update.load(fitting[-1])


def _metrics(run: Path) -> dict[int, dict[str, Json]]:
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    return {int(told["step"]): told for told in map(json.loads, lines)}


def _line(step: int, figures: dict[str, Json], before: dict[str, Json]) -> str:
    words = [
        f"{name} {figures[name]:.6g} (then {_short(before.get(name))})"
        for name in ("loss", "grad_norm", "mismatch")
        if name in figures
    ]
    return f"step {step}: " + (", ".join(words) or "nothing to learn")


def _short(value: Json) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "none"


def replay_config(run: Path, words: Sequence[str]) -> RLConfig:
    """The run's config with ``words``; ConfigError where a word would change nothing here."""
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} is no run: it holds no config.yaml; give a run's folder")
    kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    # How fast a scripted engine played (rl.mock) changes nothing in what it said.
    kept.pop("mock", None)
    before = leaves(kept)
    config = _loaded(yaml.safe_dump(kept), words)
    now = leaves(yaml.safe_load(to_yaml(config)))
    for key in sorted({*before, *now}):
        if _may_change(key) or before.get(key) == now.get(key):
            continue
        raise ConfigError(
            f"{key}={now.get(key)} was {before.get(key)} when the batches of {run} were made, and "
            f"changes nothing in them; words may change {', '.join((*_CHANGED, *_ANYWHERE))}"
        )
    if "out" not in {word.partition("=")[0] for word in words}:
        config = replace(config, out=str(run / "replay"))
    return config


def _may_change(key: str) -> bool:
    return any(f"{key}.".startswith(f"{free}.") for free in (*_CHANGED, *_ANYWHERE))


def _loaded(text: str, words: Sequence[str]) -> RLConfig:
    """A kept config says every key, but not that it is one of a run."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(f"defaults: [schema, _self_]\n{text}", encoding="utf-8")
        return load_config(RLConfig, "rl", str(path), words)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.replay",
        description="Train again on the batches that a run kept, without engine or tools.",
        epilog=f"keys that may change: {', '.join((*_CHANGED, *_ANYWHERE))}",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a run of rl.train")
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="[STEP] key=value",
        help="the last step, else all; and overrides",
    )
    args = parser.parse_args(words)

    def run() -> int:
        rest = list(args.words)
        step = int(rest.pop(0)) if rest and rest[0].isdecimal() else None
        config = replay_config(args.run, rest)
        if is_follower():
            return follow(config)
        print(replay(args.run, config, step=step))
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
