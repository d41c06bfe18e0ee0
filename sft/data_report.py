"""What people are told of a run's data: a line a source, what is odd, and the table of --check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sft.formats.table import AUTO
from sft.index import REJECTED
from sft.sources import Source
from sft.training_data import TrainingData
from toolshed.chat import system_prompt
from toolshed.toolset import ToolSet

_CHARS_PER_TOKEN = 4
_COLUMNS = ("source", "format", "rows", "accepted", "rejected", "filtered", "images", "tokens")
_SHOWN_TOOLS = 5


def summary_lines(data: TrainingData) -> list[str]:
    """A line for each source, and one for what is held out."""
    lines = []
    for source, share in zip(data.sources, data.shares, strict=True):
        how = " by its content" if share.format == AUTO else ""
        out = [_reasons("rejected", source), _reasons("filtered", source)]
        told = "".join(f"; {text}" for text in out if text)
        forms = "/".join(sorted({index.summary.format for index in source.indexes}))
        lines.append(
            f"{source.name}: {forms}{how}, {len(source)} of {_sum(source, 'rows')} rows{told}"
        )
    if data.held_out:
        told = f"held out: {len(data.held_out)} rows"
        if data.divided.templates:
            told += (
                f"; {data.divided.template_rows} rows ask one of {data.divided.templates} questions"
                f" that are put to more than {data.config.templates} sets of pictures, so that "
                "held-out rows may ask them too"
            )
        lines.append(told)
    return lines


def warnings(data: TrainingData, tools: ToolSet) -> list[str]:
    """Tools that conversations call and the system turn does not announce."""
    shown = {spec.name for spec in tools.specs}
    lines = []
    for source in data.sources:
        called = _counts(index.summary.tools for index in source.indexes)
        unknown = {name: num for name, num in called.most_common() if name not in shown}
        if unknown:
            some = ", ".join(f"{name} ({num} rows)" for name, num in unknown.items())
            lines.append(
                f"warning: {source.name} calls {_first(some)}, which the tools of this run do not "
                "announce; choose another tools.config, or leave their families out with "
                "data.leave_out"
            )
    return lines


def _first(names: str) -> str:
    parts = names.split(", ")
    more = f" and {len(parts) - _SHOWN_TOOLS} more" if len(parts) > _SHOWN_TOOLS else ""
    return ", ".join(parts[:_SHOWN_TOOLS]) + more


def table(data: TrainingData, tools: ToolSet, steps: int) -> str:
    """Sources in numbers, why rows are left out, and what an epoch is."""
    schema = len(system_prompt("", tools.specs)) // _CHARS_PER_TOKEN
    rows = [_COLUMNS, *(_row(source, schema) for source in data.sources)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            word.ljust(width) if i < 2 else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for source in data.sources:
        for kind in ("rejected", "filtered"):
            counts = _counts(getattr(index.summary, kind) for index in source.indexes)
            lines += [f"{source.name}: {num} {kind}: {why}" for why, num in counts.most_common()]
        for index in source.indexes:
            if index.summary.rejected or index.summary.filtered:
                lines.append(f"{source.name}: each of them is in {index.folder / REJECTED}")
    total = data.steps(steps)
    drawn = f"{data.epoch_rows()} rows an epoch" if data.parts else "sources drawn by weight"
    lines.append(f"{total} steps, {drawn}, {len(data.held_out)} rows held out")
    lines.append(
        f"tools: {len(tools.specs)}, {schema} tokens in each row, hash {tools.schema_hash}"
    )
    return "\n".join(lines)


def _row(source: Source, schema: int) -> tuple[str, ...]:
    forms = "/".join(sorted({index.summary.format for index in source.indexes}))
    wrong = [sum(_counts(getattr(index.summary, kind) for index in source.indexes).values())
             for kind in ("rejected", "filtered")]  # fmt: skip
    tokens = _sum(source, "tokens") + len(source) * schema
    numbers = (_sum(source, "rows"), len(source), *wrong, _sum(source, "pictures"), tokens)
    return (source.name, forms, *map(str, numbers))


def _sum(source: Source, field: str) -> int:
    return sum(int(getattr(index.summary, field)) for index in source.indexes)


def _reasons(kind: str, source: Source) -> str:
    counts = _counts(getattr(index.summary, kind) for index in source.indexes)
    told = ", ".join(f"{why} ({num})" for why, num in counts.most_common())
    return f"{sum(counts.values())} {kind}: {told}" if counts else ""


def _counts(many: Iterable[dict[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in many:
        counts.update(each)
    return counts
