"""Evaluate: ``python -m eval.run CKPT|api:MODEL|baseline:NAME [BENCHMARK...] [key=value ...]``.

Rows are appended to ``OUT/rows/BENCHMARK.jsonl`` as episodes finish; the same command again asks
only what is missing. At the end: the table with its intervals, and ``OUT/report.html``
(docs/EVALUATION.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING

from eval.benchmarks import BENCHMARKS, TABLETOP, QuestionSet, benchmark_named, open_benchmark
from eval.config import CONFIG_FILE, EvalConfig
from eval.live_tools import open_tools
from eval.plan import Plan, make_plan, plan_text, rows_in
from eval.subject import usual_config, usual_words
from rl.policy.api_config import whole_words
from sft.config import help_text, load_config, to_yaml
from sft.run_dir import take_lock, write_atomic
from toolshed.command import MACHINE_FAILURE, USER_ERROR, run_command
from toolshed.errors import ToolFailure

if TYPE_CHECKING:
    from eval.evaluate import Asked, Asking
    from eval.report.facts import RunFacts
    from eval.rows import EvalRow
    from rl.rollout import Player
    from rl.types import Question

_GO_ON = "the same command asks only what is missing"
_TAKEN = "is in use by another run; wait for it or choose another out="


def examine(plan: Plan) -> int:
    """Carry a plan out in its folder, which nobody else may use meanwhile; returns an exit code.

    ToolFailure where too much broke; the report then says so, and shows no scores.
    """
    with contextlib.closing(take_lock(plan.out, _TAKEN)):
        try:
            sets = _open_sets(plan)
            facts = _facts(plan, sets)
            try:
                run(plan, sets, facts)
            except ToolFailure as failure:
                if any(facts.selection.of(rows_in(plan, key)) for key in plan.keys):
                    _report(plan, replace(facts, stopped=failure.text))
                raise
            return _report(plan, facts)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_GO_ON) from stop


def _open_sets(plan: Plan) -> dict[str, QuestionSet]:
    return {
        key: open_benchmark(
            key,
            plan.data,
            plan.out / "data",
            limit=plan.config.limit,
            seed=plan.config.seed,
            cache=plan.config.cache,
        )
        for key in plan.keys
    }


def run(plan: Plan, sets: Mapping[str, QuestionSet], facts: RunFacts) -> None:
    """Ask everything that is missing; first of all keep what is asked, for any later report."""
    from eval.report.store import write_facts

    questions = {key: sets[key].questions for key in plan.keys}
    policy = plan.subject.policy()
    is_answered = _is_answered(plan, questions, policy)
    if not is_answered:
        _check_questions(plan, [*chain(*questions.values())])
    write_atomic(plan.out / CONFIG_FILE, to_yaml(plan.config))
    write_facts(plan.out, facts)
    if not is_answered:
        asyncio.run(_ask_all(plan, questions, policy))


def _check_questions(plan: Plan, questions: Sequence[Question]) -> None:
    """ConfigError where questions cannot be asked with these tools and limits."""
    from rl.questions.data import check_depth

    check_depth(questions, plan.tools, plan.config.tools.config)
    plan.subject.check(questions, plan.config, plan.tools)


def _is_answered(plan: Plan, questions: Mapping[str, Sequence[Question]], policy: str) -> bool:
    """Whether no row is missing, so that no tool has to start; ConfigError for a clash."""
    from eval.evaluate import rows_there

    num_missing = 0
    for key in plan.keys:
        asked = _asked(plan, key, policy)
        for asking in _askings(plan.config):
            rows = rows_there(questions[key], asked, asking, plan.tools.schema_hash)
            num_missing += len(questions[key]) * len(asking.draw_names)
            num_missing -= sum(not row.failed for row in rows)
    return not num_missing


async def _ask_all(plan: Plan, questions: Mapping[str, Sequence[Question]], policy: str) -> None:
    """One whole run of all benchmarks after the other."""
    shed = open_tools(plan.config)
    try:
        player = await plan.subject.player(plan.config, plan.tools, shed)
        try:
            for repeat in range(plan.config.repeats):
                for key in plan.keys:
                    asked = _asked(plan, key, policy)
                    await _ask(plan, questions[key], player, asked, repeat)
        finally:
            plan.subject.close(player, plan.out)
            await player.policy.aclose()
    finally:
        if shed is not None:
            await shed.aclose()


async def _ask(
    plan: Plan, questions: Sequence[Question], player: Player, asked: Asked, repeat: int
) -> None:
    from tqdm import tqdm

    from eval.evaluate import evaluate

    label = f"{asked.benchmark} {repeat + 1}" if plan.config.repeats > 1 else asked.benchmark
    with tqdm(desc=label, unit="episode", disable=None) as bar:
        num_broken = 0

        def count(row: EvalRow) -> None:
            nonlocal num_broken
            num_broken += row.failed
            bar.set_postfix(broken=num_broken, refresh=False)
            bar.update()

        for asking in _askings(plan.config):
            if asking.repeat == repeat:
                await evaluate(questions, player, asked, asking, on_row=count)


def _asked(plan: Plan, key: str, policy: str) -> Asked:
    from eval.evaluate import Asked

    return Asked(
        out=plan.rows_file(key),
        policy=policy,
        benchmark=key,
        keep_pictures=plan.config.keep_pictures,
    )


def _askings(config: EvalConfig) -> list[Asking]:
    """Of each whole run greedy, then sampled, whichever are wanted."""
    from eval.evaluate import asking_of

    greedy = asking_of(config)
    sampled = replace(greedy, temperature=config.temperature, draws=config.draws)
    wanted = [greedy] * config.greedy + [sampled] * (config.draws > 0)
    return [replace(each, repeat=repeat) for repeat in range(config.repeats) for each in wanted]


# ---- what it tells ----------------------------------------------------------------------------


def _facts(plan: Plan, sets: Mapping[str, QuestionSet]) -> RunFacts:
    from eval.gate import Limits
    from eval.report.facts import RunFacts, Selection

    config = plan.config
    return RunFacts(
        subject=plan.name,
        tools=config.tools.config,
        schema_hash=plan.tools.schema_hash,
        settings=_settings(plan) | _data_facts(sets),
        selection=Selection(
            question_ids={key: tuple(q.id for q in sets[key].questions) for key in plan.keys},
            draws=plan.draws,
            num_repeats=config.repeats,
        ),
        limits=Limits(
            infrastructure=config.max_infrastructure,
            phantom=config.max_phantom,
            empty=config.max_empty,
        ),
        told_to_show=config.show_poisoned,
    )


def _report(plan: Plan, facts: RunFacts) -> int:
    """Write the report as ``python -m eval.report`` does and print the table; the exit code is a
    machine's failure where the rows are poisoned and nobody asked to see their scores all the
    same."""
    from eval.report.publish import publish
    from eval.report.store import read_run, write_facts

    write_facts(plan.out, facts)
    found = read_run([plan.out])
    print(publish(plan.out, found.rows, found.facts))
    withheld = found.facts.verdict.poisoned and not facts.told_to_show
    return MACHINE_FAILURE if withheld else 0


def _settings(plan: Plan) -> dict[str, str]:
    config = plan.config
    names = (
        *("seed", "limit", "repeats", "greedy", "draws", "temperature", "max_turns", "max_calls"),
        *("max_reply_chars", "max_pixels"),
        *("max_tokens", "max_turn_tokens", "max_length", "width", "device", "dtype", "data"),
        *("retries", "max_failures", "max_infrastructure", "max_phantom", "max_empty"),
    )
    return {name: str(getattr(config, name)) for name in names}


def _data_facts(sets: Mapping[str, QuestionSet]) -> dict[str, str]:
    """Where the questions came from, each with its full revision or hash."""
    return {
        f"data {key} {name}": fact
        for key, each in sets.items()
        for name, fact in each.facts.items()
    }


# ---- command ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {key:<24}{entry.scored}" for key, entry in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description="Evaluate on benchmarks; run again to go on where it stopped.",
        epilog=f"benchmarks and their scores:\n{listed}\n\nkeys and defaults, of which --config "
        f"changes some:\n{help_text(EvalConfig)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="checkpoint folder, a run's folder, api:MODEL, or baseline:oracle|random|empty",
    )
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="BENCHMARK | key=value",
        help="without a benchmark the nine published ones; tools=v1|light|none or a YAML",
    )
    parser.add_argument(
        "--config",
        help="name in configs/eval or a YAML file; without it paper (tools=v1) where a published "
        "benchmark is asked for, demo (tools=demo) for tabletop ones alone, api for api:MODEL",
    )
    parser.add_argument(
        "--limit", type=int, help="questions per benchmark, a random part drawn by seed="
    )
    parser.add_argument("--repeats", type=int, help="whole runs of the same asking")
    parser.add_argument(
        "--check", action="store_true", help="print the plan and load nothing; 2 if something lacks"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.run``."""
    args = _parser().parse_intermixed_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl", "eval")


def _stop(number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C: so a job's time limit loses no account of what was used."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _run(args: argparse.Namespace) -> int:
    keys = [word for word in args.words if "=" not in word]
    overrides = usual_words(args.checkpoint)
    overrides += whole_words([word for word in args.words if "=" in word])
    for name in ("limit", "repeats"):
        if getattr(args, name) is not None:
            overrides.append(f"{name}={getattr(args, name)}")
    published = not keys or any(
        not key.startswith(TABLETOP) for key in keys if benchmark_named(key)
    )
    name = args.config or usual_config(args.checkpoint, published=published)
    plan = make_plan(args.checkpoint, keys, load_config(EvalConfig, "eval", name, overrides))
    if args.check:
        print(plan_text(plan))
        return USER_ERROR if plan.missing else 0
    plan.check()
    print(plan_text(plan))
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
    return examine(plan)


if __name__ == "__main__":
    sys.exit(main())
