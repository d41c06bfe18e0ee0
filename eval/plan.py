"""What an evaluation is going to ask: everything that is decided before anything is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.benchmarks import BENCHMARKS, RELEASED, benchmark_named, check_data, origin_of
from eval.config import EvalConfig, check_same_settings
from eval.live_tools import missing_tools, tool_lines
from eval.rows import Draw, EvalRow, read_rows
from eval.subject import BASELINE, Subject, subject_of
from sft.run_dir import check_folder
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from toolshed.toolset import ToolSet

PUBLISHED = tuple(key for key, entry in BENCHMARKS.items() if entry.data is RELEASED)
"""The nine of the paper, which are asked where no benchmark is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything decided before anything is loaded."""

    subject: Subject
    keys: tuple[str, ...]
    config: EvalConfig
    out: Path
    tools: ToolSet
    missing: tuple[str, ...] = ()
    """Sentences about what keeps it from being carried out here."""

    @property
    def name(self) -> str:
        """Of the policy, in rows and tables."""
        return self.subject.name

    @property
    def data(self) -> Path | None:
        return Path(self.config.data) if self.config.data else None

    @property
    def draws(self) -> tuple[Draw, ...]:
        """Of one question in one whole run."""
        return (*(("greedy",) if self.config.greedy else ()), *range(self.config.draws))

    def rows_file(self, key: str) -> Path:
        return self.out / "rows" / f"{key}.jsonl"

    def num_questions(self, key: str) -> int:
        size = BENCHMARKS[key].size
        return min(self.config.limit or size, size)

    def is_whole(self, key: str) -> bool:
        """Whether all questions of a benchmark are asked, so that any answer there counts."""
        return self.num_questions(key) == BENCHMARKS[key].size

    def check(self) -> None:
        """ConfigError with all that is missing."""
        if self.missing:
            raise ConfigError("; ".join(self.missing))


def make_plan(word: str, keys: Sequence[str], config: EvalConfig) -> Plan:
    """Check everything that can be checked cheaply; ConfigError names what is wrong.

    What is merely not here (tools, data, a key, a GPU) is in ``missing``.
    """
    from rl.start.needs import check_answerable
    from toolshed.toolset import ToolSet

    for key in keys:
        benchmark_named(key)
    keys = tuple(dict.fromkeys(keys)) or PUBLISHED
    if not config.greedy and config.draws < 1:
        raise ConfigError("greedy=false and draws=0 ask nothing; give draws=N")
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    subject, config = subject_of(word, config, tools)
    if not word.startswith(BASELINE):
        check_answerable(keys, tools, config.tools.config)
    out = Path(config.out) if config.out else Path("runs") / "eval" / subject.run
    config = replace(config, out=str(out))
    check_folder(out, "rows", "data")
    if (out / "rows").is_file():
        raise ConfigError(f"{out / 'rows'} is a file, where a run keeps a folder; move it away")
    check_same_settings(out, config)
    missing = [*subject.missing(config), *missing_tools(config, tools), *_no_data(keys, config)]
    return Plan(
        subject=subject,
        keys=tuple(keys),
        config=config,
        out=out,
        tools=tools,
        missing=tuple(missing),
    )


def plan_text(plan: Plan) -> str:
    """What would be asked, what is done already, and what is missing."""
    config = plan.config
    rows = {key: rows_in(plan, key) for key in plan.keys}
    lines = {key: _benchmark_line(plan, key, rows[key]) for key in plan.keys}
    num_missing = sum(
        max(0, _num_asked(plan, key) - _num_done(plan, rows[key]) * plan.is_whole(key))
        for key in plan.keys
    )
    told = [
        *plan.subject.plan_lines(config, plan.tools, num_missing),
        *tool_lines(config, plan.tools),
        f"schema      {plan.tools.schema_hash[:12]}",
        f"out         {plan.out}",
    ]
    if plan.keys == PUBLISHED:
        told.append("benchmarks  the nine published ones")
    return "\n".join([*told, *lines.values(), *(f"missing: {words}" for words in plan.missing)])


def rows_in(plan: Plan, key: str) -> list[EvalRow]:
    """Settled rows that a benchmark's file holds already."""
    file = plan.rows_file(key)
    return read_rows(file) if file.is_file() else []


def _benchmark_line(plan: Plan, key: str, rows: Sequence[EvalRow]) -> str:
    config = plan.config
    num_done = _num_done(plan, rows)
    done = f"{num_done} answers there"
    if not plan.is_whole(key) and num_done:
        # Which questions a part is made of is known once they are read.
        done += (
            " of this or another part, which is seen at the start; until then all count as missing"
        )
    runs = f" x {config.repeats} runs" if config.repeats > 1 else ""
    beyond = Counter(row.repeat for row in rows if row.repeat >= config.repeats)
    hidden = f"; {len(beyond)} further runs are there and not shown" if beyond else ""
    num_other = sum(row.draw not in plan.draws for row in rows)
    hidden += f"; {num_other} answers of other draws are there and not shown" if num_other else ""
    try:
        origin = origin_of(key, plan.data)
    except ConfigError:
        origin = "nowhere yet"
    part = "" if plan.is_whole(key) else f", drawn by seed {config.seed}"
    return (
        f"{key:<24}{plan.num_questions(key):>5} questions x {len(plan.draws)}{runs}, "
        f"{done}{part}; score: {BENCHMARKS[key].scored}; from {origin}{hidden}"
    )


def _num_asked(plan: Plan, key: str) -> int:
    return plan.num_questions(key) * len(plan.draws) * plan.config.repeats


def _num_done(plan: Plan, rows: Sequence[EvalRow]) -> int:
    """Answers of these draws and runs; of which questions is not looked at."""
    repeats = plan.config.repeats
    return sum(not row.failed for row in rows if row.repeat < repeats and row.draw in plan.draws)


def _no_data(keys: Sequence[str], config: EvalConfig) -> list[str]:
    """Benchmarks whose questions are not here, in as few sentences as there are reasons."""
    found: list[str] = []
    for key in keys:
        try:
            check_data(key, Path(config.data) if config.data else None)
        except ConfigError as error:
            found.append(str(error))
    return found if len(found) < 3 else [f"{found[0]}; so it is with {len(found) - 1} others"]
