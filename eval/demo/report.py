"""The report of a demo run: ``report.html``, rewritten after each stage, and the terminal table.

``python -m eval.demo.report RUN`` makes both again from the files of a run's folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.demo.curves import FIGURES, Curve, TimeSplit, curve, read_metrics, time_split
from eval.demo.gallery import choose, gallery_html
from eval.demo.page import PageData, page
from eval.demo.stages import BY_NAME
from eval.demo.summary import (
    RunFacts,
    Summary,
    read_stage_rows,
    read_summary,
    write_summary,
)
from eval.metrics import Estimate
from eval.rows import EvalRow
from rl.show.viewer import Album
from sft.run_dir import write_atomic
from toolshed.command import run_command

RL_STAGES = ("point_rl", "shuffled_point_rl", "full_rl", "shuffled_rl", "toolfree_rl")


def publish(run: Path, facts: RunFacts) -> Summary:
    """Write ``summary.json`` and ``report.html`` from a run's rows and metrics as they are now."""
    rows = read_stage_rows(run)
    summary = write_summary(run, facts, rows)
    write_report(run, summary, rows)
    return summary


def write_report(
    run: Path, summary: Summary, rows: Mapping[str, Sequence[EvalRow]], *, subject: str = ""
) -> Path:
    """Write ``report.html`` in one move; returns its path. ``subject`` names the one policy of a
    plain evaluation, which has no story to tell."""
    chosen = choose(rows)
    album = Album(root=run / "pictures")
    episodes = gallery_html(chosen, album, run / "gallery")
    metrics = {name: read_metrics(run, name) for name in BY_NAME}
    data = PageData(
        summary=summary,
        curves={name: _curves(metrics[name], name) for name in RL_STAGES},
        splits=_splits(metrics, summary),
        episodes=episodes,
        episode_stages=[name for name in summary.stages if name in {c.stage for c in chosen}],
        subject=subject,
    )
    path = run / "report.html"
    write_atomic(path, page(data))
    return path


def _curves(metrics: Sequence[Mapping[str, float]], stage: str) -> list[Curve]:
    found = [curve(metrics, stage, figure) for figure in FIGURES]
    return [one for one in found if one is not None]


def _splits(
    metrics: Mapping[str, Sequence[Mapping[str, float]]], summary: Summary
) -> list[TimeSplit]:
    names = [*BY_NAME, *(name for name in summary.seconds if name not in BY_NAME)]
    found = [time_split(metrics.get(name, ()), name, summary.seconds.get(name)) for name in names]
    return [split for split in found if split is not None and split.total_s > 0]


# ---- terminal ---------------------------------------------------------------------------------


def table(summary: Summary) -> str:
    """The stages in a fixed-width table: accuracy and interval, sampled beside, calls."""
    tasks = list(dict.fromkeys(result.task for result in summary.results))
    lines = [f"{'stage':<18}" + "".join(f"{task:<27}" for task in tasks) + "broken"]
    lines.append(f"{'':<18}" + f"{'greedy 95 %  sampled calls':<27}" * len(tasks))
    if summary.tool_ceiling:
        ceilings = [summary.tool_ceiling.get(task) for task in tasks]
        cells = [f"{_percent(ceiling):<27}" for ceiling in ceilings]
        lines.append(f"{'tool ceiling':<18}" + "".join(cells))
    for name in summary.stages:
        results = [summary.result(name, task) for task in tasks]
        cells = [f"{_cell(r.greedy, r.sampled, r.call_rate) if r else '':<27}" for r in results]
        broken = sum(result.failed for result in results if result)
        lines.append(f"{name:<18}" + "".join(cells) + str(broken))
    if summary.p_vs_sft:
        told = ", ".join(f"{task} {p:.4f}" for task, p in summary.p_vs_sft.items())
        lines.append(f"p of full_rl against sft (paired, sampled): {told}")
    return "\n".join(lines)


def _cell(greedy: Estimate | None, sampled: Estimate | None, call_rate: float | None) -> str:
    span = f"{100 * greedy.low:.0f}-{100 * greedy.high:.0f}" if greedy else ""
    first = _percent(greedy.mean if greedy else None)
    second = _percent(sampled.mean if sampled else None)
    calls = "" if call_rate is None else f"{100 * call_rate:.0f}%"
    return f"{first:>5} {span:<6} {second:>5} {calls:>5}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.demo.report``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.demo.report", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="folder of a demo run, for example runs/demo")
    args = parser.parse_args(words)
    return run_command(lambda: _run(args.run), "toolshed", "sft", "rl", "eval")


def _run(run: Path) -> int:
    summary = publish(run, read_summary(run))
    print(table(summary))
    print(f"report: {run / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
