"""Traces for SFT: play questions, keep what passes a score filter, write one transcript file.

    python -m rl.collect POLICY QUESTIONS.parquet OUT.json [key=value ...]

POLICY is `teacher` (the scripted one), a checkpoint, or `api:MODEL`. The same command gives the
same file, goes on after any interruption, and asks for nothing twice (docs/TEACHERS.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rl.collection.config import CollectConfig
from rl.collection.costs import estimate_line, spent_line
from rl.collection.filter import Ended, counted_reasons, ended
from rl.collection.journal import Journal, keep_settings
from rl.collection.playing import num_missing, play_missing
from rl.collection.prepare import TEACHER, Collection, prepare
from rl.collection.writing import write
from rl.policy.api_config import PREFIX, whole_words
from sft.config import help_text, load_config
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed

__all__ = ["TEACHER", "CollectConfig", "Collected", "collect", "main", "prepare"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What became of the trajectories, and of the questions."""

    num_kept: int
    num_rejected: int
    """Scored, but below the filter."""
    num_failed: int
    """Broken by our machinery: neither kept nor scored."""
    reasons: dict[str, int]
    """Why those that the filter rejected were, by kind of question."""
    questions: dict[str, int]
    """How many ended as ``kept``, ``filtered`` and ``failed``."""
    spent: str = ""
    """What all commands of this collection have cost, where a model behind an API played."""


def collect(collection: Collection, shed: Toolshed | None = None) -> Collected:
    """Play what is missing, filter and write; ``shed`` lends tools that are already open.

    Raises ToolFailure where too much broke, and ConfigError for what the user has to mend, a limit
    of cost among it; what was played until then is kept.
    """
    config = collection.config
    journal = Journal(
        collection.questions, collection.working, retry_failed=collection.retry_failed
    )
    with contextlib.closing(journal):
        if collection.working is not None:
            keep_settings(collection.working, collection.settings())
        try:
            asyncio.run(play_missing(collection, journal, shed))
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_way_on(collection)) from stop
        every = [
            ended(question, journal.samples(question.id), config, collection.prices)
            for question in collection.questions
        ]
        write(collection, every)
        replies = journal.open_replies() if config.api.model else None
        kept = sum(len(each.kept) for each in every)
        spent = spent_line(collection, replies, kept) if replies is not None else ""
    return _collected(every, spent)


def _way_on(collection: Collection) -> str:
    if collection.working is None:
        return "nothing was written"
    return f"{collection.out} is not written; the same command goes on where this one stopped"


def _collected(every: Sequence[Ended], spent: str) -> Collected:
    ends = Counter(each.end for each in every)
    return Collected(
        num_kept=sum(len(each.kept) for each in every),
        num_rejected=sum(len(each.reasons) for each in every),
        num_failed=sum(played.reward is None for each in every for played in each.played),
        reasons=counted_reasons(every),
        questions={end: ends[end] for end in ("kept", "filtered", "failed")},
        spent=spent,
    )


# ---- command line -------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.collect",
        description="Play questions and write the good trajectories as transcripts for SFT.",
        epilog="keys and defaults:\n" + help_text(CollectConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "policy", help="'teacher' (scripted, tabletop only), a checkpoint folder, or api:MODEL"
    )
    parser.add_argument("questions", help="parquet in the released layout")
    parser.add_argument("out", help="JSON file to write")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    parser.add_argument(
        "--config",
        default="",
        help="collect, collect_api, collect_demo, or a YAML file (collect, for api: collect_api)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="play again what machinery broke in earlier commands",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what it may cost, and stop"
    )
    args = parser.parse_intermixed_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl")


def _run(args: argparse.Namespace) -> int:
    name = args.config or ("collect_api" if args.policy.startswith(PREFIX) else "collect")
    config = load_config(CollectConfig, "rl", name, whole_words(args.words))
    ready = prepare(
        args.policy,
        args.questions,
        args.out,
        config,
        force=args.force,
        retry_failed=args.retry_failed,
    )
    _tell_plan(ready, dry_run=args.dry_run)
    if args.dry_run:
        return 0
    done = collect(ready)
    counts = f"kept {done.num_kept}, rejected {done.num_rejected}, failed {done.num_failed}"
    ends = ", ".join(f"{num} {end}" for end, num in done.questions.items())
    print(f"{ready.out}: {counts} (questions: {ends})")
    for reason, num in done.reasons.items():
        print(f"  {num:>6} {reason}")
    if done.spent:
        print(f"spent by {done.spent}")
    if not done.num_kept:
        raise ConfigError(
            f"nothing passed the filter, so {ready.out} is not written; lower "
            f"min_score={config.min_score}, or allow need_call=false, need_form=false"
        )
    return 0


def _tell_plan(ready: Collection, *, dry_run: bool) -> None:
    """How much is left to be played, and what it may cost; of an API also before it begins."""
    if not (dry_run or ready.config.api.model):
        return
    total = len(ready.questions) * ready.config.samples
    there = ready.working if ready.working is not None and ready.working.exists() else None
    journal = Journal(ready.questions, there, retry_failed=ready.retry_failed)
    with contextlib.closing(journal):
        num = num_missing(ready, journal)
    if dry_run:
        known = f" ({total - num} are played already)" if num < total else ""
        print(f"would play {num} trajectories with {ready.policy} and write {ready.out}{known}")
    if ready.config.api.model and num:
        print(estimate_line(ready, num))


if __name__ == "__main__":
    sys.exit(main())
