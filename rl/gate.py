"""Quality gates before RL: ``python -m rl.gate CKPT [QUESTIONS|CONFIG] [key=value ...]``.

Plays some of the RL prompts with live tools, several samples each, and judges what was seen
(``rl/start/gates.py``). QUESTIONS is a parquet, or what else ``data[].path`` may be; CONFIG is one
of ``rl.train``, whose questions, tools, reward and limits are taken. The trajectories are kept as a
run that ``rl.view`` shows, each question as a step. Exit code 0 if every gate passed, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from rl.config import RLConfig
from rl.dump import TrajectoryLog
from rl.player import check_tools, load_player
from rl.questions.data import check_depth
from rl.questions.sources import load_source
from rl.rewards import score
from rl.rollout import Job, Limits, run_rollouts
from rl.seeds import seed_of
from rl.show.verdicts import table, verdict_json
from rl.start.gate_config import GateConfig, config_of
from rl.start.gates import Seen, Verdict, judge, seen_of, why_no_chain
from rl.start.needs import check_answerable, check_room
from rl.types import Question, SamplingParams, Trajectory
from sft.checkpoint import run_name
from sft.config import (
    check_device,
    help_text,
    to_yaml,
)
from sft.render import Renderer
from sft.run_dir import check_folder, draft_folder
from toolshed.command import run_command
from toolshed.config import load_tools
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import Json

FILE = "gates.json"
PASSED, FAILED = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Gating:
    """One gating, checked before anything is loaded."""

    config: GateConfig
    folder: Path
    """Of the checkpoint."""
    tools: ToolSet
    questions: tuple[Question, ...]
    num_there: int
    """Questions that these were drawn from."""
    out: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """What became of a gating."""

    verdicts: tuple[Verdict, ...]
    num_scored: int
    num_broken: int
    """By our machinery: kept, not judged."""
    accuracy: float
    """Share of right answers."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def prepare(checkpoint: str, config: GateConfig, *, force: bool = False) -> Gating:
    """Everything that can be wrong is said here, before any work."""
    if not config.data:
        raise ConfigError(
            "no questions: give a parquet, or a config of rl.train that names its data, or "
            "data=[{path: train.parquet}]"
        )
    check_device(config.device)
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    schema: Literal["same", "any"] = "any" if config.tools.schema == "any" else "same"
    folder = check_tools(checkpoint, tools, schema)
    out = Path(config.out or Path("runs/gate") / run_name(folder))
    _check_out(out, force)
    every = [
        load_source(item.path, rows=item.rows, limit=item.limit, cache=config.cache)
        for item in config.data
    ]
    questions = drawn(every, [item.weight for item in config.data], config.questions, config.seed)
    check_depth(questions, tools, config.tools.config)
    check_answerable([each.source for each in questions], tools, config.tools.config)
    renderer = Renderer.load(folder, max_pixels=config.max_pixels)
    limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
    check_room(questions, tools.specs, renderer, **limits)
    return Gating(
        config=config,
        folder=folder,
        tools=tools,
        questions=tuple(questions),
        num_there=sum(map(len, every)),
        out=out,
    )


def _check_out(out: Path, force: bool) -> None:
    check_folder(out, FILE)
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / FILE).is_file():
        raise ConfigError(f"{out} is a run, not a gating; choose another out=")
    if not force:
        raise ConfigError(f"{out} exists; name another out= or pass --force to make it again")


def drawn(
    parts: Sequence[Sequence[Question]], weights: Sequence[float], num: int, seed: int
) -> list[Question]:
    """``num`` questions, of each part as its weight says and as many as it has; 0 for all."""
    if not num:
        return list(chain(*parts))
    # Where each part's share ends, so that shares sum to the whole.
    ends = np.rint(np.cumsum([0.0, *weights]) / sum(weights) * num).astype(int)
    chosen: list[Question] = []
    for place, part in enumerate(parts):
        rng = np.random.default_rng(seed_of(seed, "gate", place))
        order = rng.permutation(len(part))[: ends[place + 1] - ends[place]]
        chosen += [part[index] for index in sorted(order)]
    return chosen


def gate(gating: Gating, shed: Toolshed | None = None) -> Gated:
    """Play, keep and judge; ``shed`` lends tools that are already open. ToolFailure where our
    machinery broke too often: then nothing is kept."""
    try:
        with draft_folder(gating.out) as draft:
            groups, num_broken = asyncio.run(_play(gating, shed, draft))
            seen = list(chain(*groups))
            gated = Gated(
                verdicts=tuple(judge(groups, gating.config.bars, gating.tools)),
                num_scored=len(seen),
                num_broken=num_broken,
                accuracy=sum(each.is_right for each in seen) / len(seen) if seen else 0.0,
            )
            (draft / "config.yaml").write_text(to_yaml(_as_run(gating)), encoding="utf-8")
            told = json.dumps(told_of(gating, gated), indent=1, ensure_ascii=False)
            (draft / FILE).write_text(told + "\n", encoding="utf-8")
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("nothing was judged or kept") from stop
    return gated


async def _play(gating: Gating, shed: Toolshed | None, draft: Path) -> tuple[list[list[Seen]], int]:
    """What was seen of each question's scored siblings, and how many trajectories broke."""
    from tqdm import tqdm

    config = gating.config
    own = shed is None and config.tools.config != "none"
    if own:
        shed = Toolshed.open(load_tools(config.tools.config), show=config.tools.show or None)
    try:
        player = load_player(
            gating.folder,
            shed,
            limits=Limits(
                max_turns=config.max_turns,
                max_tokens=config.max_tokens,
                max_calls=config.max_calls,
                max_reply_chars=config.max_reply_chars,
            ),
            width=config.width,
            max_length=config.max_length,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
            max_pixels=config.max_pixels,
        )
        jobs, kept = _jobs(gating), _Kept(gating, draft)
        with tqdm(total=len(jobs), desc=f"gate {gating.out.name}", disable=None) as bar:
            async with aclosing(run_rollouts(jobs, player, width=config.width)) as played:
                async for index, trajectory in played:
                    reward = score(trajectory.question, trajectory, config.reward)
                    kept.add(index, replace(trajectory, reward=reward))
                    bar.update()
        await player.policy.aclose()
        return kept.groups, kept.num_broken
    finally:
        if own and shed is not None:
            await shed.aclose()


class _Kept:
    """Writes each question's trajectories in their order, and holds on to what gates read."""

    def __init__(self, gating: Gating, draft: Path) -> None:
        self.groups: list[list[Seen]] = []
        self.num_broken = 0
        self._config = gating.config
        self._num = len(gating.questions) * gating.config.samples
        self._log = TrajectoryLog(draft, 1, gating.config.cache)
        self._waiting: dict[int, Trajectory] = {}

    def add(self, index: int, trajectory: Trajectory) -> None:
        """ToolFailure where too many have broken."""
        config = self._config
        if trajectory.reward is None:
            self.num_broken += 1
            if self.num_broken > config.max_failure_share * self._num:
                raise ToolFailure(
                    "too_many_failures",
                    f"{self.num_broken} of {self._num} trajectories failed, the last with "
                    f"{trajectory.failure[:300]}; nothing was judged or kept",
                )
        self._waiting[index] = trajectory
        while all(place in self._waiting for place in self._next()):
            step = len(self.groups) + 1
            group = [self._waiting.pop(place) for place in self._next()]
            self._log.write(step, [group])
            seen = [seen_of(each, step, config.right) for each in group]
            self.groups.append([each for each in seen if each is not None])

    def _next(self) -> range:
        """Jobs of the question to be written next."""
        begin = len(self.groups) * self._config.samples
        return range(begin, begin + self._config.samples)


def _jobs(gating: Gating) -> list[Job]:
    config = gating.config
    sampling = SamplingParams(temperature=config.temperature, max_tokens=config.max_turn_tokens)
    return [
        Job(
            question=question,
            sampling=sampling,
            sample_index=sample,
            seed=seed_of(config.seed, "gate", place, question.id, sample),
        )
        for place, question in enumerate(gating.questions)
        for sample in range(config.samples)
    ]


def _as_run(gating: Gating) -> RLConfig:
    """A run with a question a step that would train on what was played; ``rl.view`` asks for it."""
    config = gating.config
    return RLConfig(
        model=str(gating.folder.absolute()),
        out=str(gating.out.absolute()),
        data=config.data,
        tools=config.tools,
        reward=config.reward,
        steps=len(gating.questions),
        num_prompts=1,
        group_size=config.samples,
        seed=config.seed,
    )


# ---- telling ------------------------------------------------------------------------------------


def told_of(gating: Gating, gated: Gated) -> dict[str, Json]:
    gates: list[Json] = [dict(verdict_json(verdict)) for verdict in gated.verdicts]
    return {
        "passed": gated.passed,
        "checkpoint": str(gating.folder),
        "questions": len(gating.questions),
        "of_questions": gating.num_there,
        "samples": gating.config.samples,
        "trajectories": gated.num_scored,
        "broken": gated.num_broken,
        "accuracy": gated.accuracy,
        "gates": gates,
        "out": str(gating.out),
    }


def text_of(gating: Gating, gated: Gated) -> str:
    asked = f"{len(gating.questions)} of {gating.num_there} questions"
    lines = [
        f"{gating.folder}",
        f"{asked} x {gating.config.samples} samples: {gated.num_scored} trajectories judged, "
        f"{100 * gated.accuracy:.1f} % right",
    ]
    if gated.num_broken:
        lines.append(f"{gated.num_broken} broken by our machinery: not judged")
    lines += ["", *table(gated.verdicts), ""]
    failed = sum(not verdict.passed for verdict in gated.verdicts)
    words = f"{failed} gate{'s' * (failed > 1)} failed"
    lines.append(words if failed else "every gate that was asked passed")
    step = next((v.examples[0][0] for v in gated.verdicts if v.examples), 0)
    more = f" --step {step}" if step else ""
    return "\n".join([*lines, f"trajectories: python -m rl.view {gating.out}{more}"])


# ---- command line -------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.gate",
        description="Quality gates before RL: is there anything that reinforcement can teach?",
        epilog="keys and defaults:\n" + help_text(GateConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint or run folder")
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="[QUESTIONS|CONFIG] key=value",
        help="a parquet, a folder or a set of the hub, or a config of rl.train; and overrides",
    )
    parser.add_argument("--config", default="gate", help="gate, or a YAML file with its keys")
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--force", action="store_true", help="replace the gating in out=")
    parser.add_argument("--dry-run", action="store_true", help="check everything and stop")
    args = parser.parse_intermixed_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl")


def _run(args: argparse.Namespace) -> int:
    gating = prepare(args.checkpoint, config_of(args.words, args.config), force=args.force)
    if args.dry_run:
        num = len(gating.questions) * gating.config.samples
        why = why_no_chain(gating.tools)
        print(f"would play {num} trajectories with {gating.folder} and write {gating.out}")
        print(f"tool chains: {f'not asked, {why}' if why else 'asked'}")
        return PASSED
    gated = gate(gating)
    if args.json:
        print(json.dumps(told_of(gating, gated), ensure_ascii=False))
    else:
        print(text_of(gating, gated))
    return PASSED if gated.passed else FAILED


if __name__ == "__main__":
    sys.exit(main())
