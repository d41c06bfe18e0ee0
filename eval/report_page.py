"""The report as one HTML text: every section from a Summary, curves and drawn episodes.

A section whose figures are missing is left out or says what it waits for, so the page is whole
after every stage. Nothing is fetched: styles, script, charts and pictures are inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from eval.charts import Bar, Line, interval_chart, line_chart, time_bars
from eval.claims import Claim, claims
from eval.curves import Curve, TimeSplit
from eval.stages import BY_NAME, STAGES, TASK_CALLS, TASK_WORDS, TASKS
from eval.story import headline, honest, lede
from eval.summary import Result, Summary

_PAGE = Path(__file__).parent / "page"
_LANES = {"base": "Where it starts", "step": "The recipe", "control": "Controls"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PageData:
    """Everything that the page shows."""

    summary: Summary
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    """Curves of each RL stage."""
    splits: Sequence[TimeSplit] = ()
    episodes: Sequence[str] = ()
    """One HTML element each."""
    episode_stages: Sequence[str] = ()
    """Stages that have episodes, in the order of the table."""


def page(data: PageData) -> str:
    """The whole document."""
    css = (_PAGE / "page.css").read_text(encoding="utf-8")
    script = (_PAGE / "page.js").read_text(encoding="utf-8")
    sections = (
        _figures(data.summary),
        _honest(data.summary),
        _claims(data.summary),
        _learning(data),
        _time(data.splits),
        _gallery(data),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>SpaceTools – a small model learns to see with tools</title><style>{css}</style>"
        '</head><body class="no-script"><a class="skip" href="#episodes">Skip to the episodes</a>'
        f"{_top(data.summary)}<main>{''.join(sections)}</main>{_foot(data.summary)}"
        f"<script>{script}</script></body></html>\n"
    )


# ---- top --------------------------------------------------------------------------------------


def _top(summary: Summary) -> str:
    kind = "Smoke run" if summary.smoke else "Tabletop miniature"
    return (
        f'<header class="top"><p class="kicker">SpaceTools · {kind} · seed {summary.seed}</p>'
        f"<h1>{escape(headline(summary))}</h1>"
        f'<p class="lede">{escape(lede(summary))}</p>'
        + "".join(f'<p class="note">{escape(note)}</p>' for note in summary.notes)
        + _facts(summary)
        + _progress(summary)
        + "</header>"
    )


def _facts(summary: Summary) -> str:
    told = (
        ("run", _duration(summary.wall_s)),
        ("set-up", _duration(summary.setup_s)),
        ("CPU time", _duration(summary.cpu_s)),
        (
            "peak memory",
            f"{summary.peak_memory_mb / 1024:.1f} GB" if summary.peak_memory_mb else "",
        ),
        ("parameters", f"{summary.num_parameters / 1e6:.2f} M" if summary.num_parameters else ""),
    )
    cells = [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told if value]
    return f'<dl class="facts">{"".join(cells)}</dl>' if cells else ""


def _progress(summary: Summary) -> str:
    """The stages, those with figures ticked; left out once all are there."""
    if all(stage.name in summary.stages for stage in STAGES):
        return ""
    items = [
        f'<li class="{"done" if stage.name in summary.stages else "todo"}">'
        f"{escape(stage.label)}</li>"
        for stage in STAGES
    ]
    return f'<ol class="progress" aria-label="Stages evaluated so far">{"".join(items)}</ol>'


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# ---- figures ----------------------------------------------------------------------------------


def _figures(summary: Summary) -> str:
    tasks = [task for task in TASKS if any(result.task == task for result in summary.results)]
    tasks += [r.task for r in summary.results if r.task not in TASKS and r.task not in tasks]
    if not tasks:
        return "<section><h2>Figures</h2><p>No stage has been evaluated yet.</p></section>"
    charts = [_task_chart(summary, task) for task in tasks]
    return (
        '<section id="figures"><h2>What each stage can do</h2>'
        '<p class="intro">Share of questions answered rightly, over scenes that no stage was '
        "trained on. Intervals are 95 %.</p>"
        f'<div class="charts">{"".join(charts)}</div>{_LEGEND}{_table(summary, tasks)}</section>'
    )


_LEGEND = (
    '<ul class="legend"><li><i class="dotted"></i>sampled at temperature 1, with its interval</li>'
    '<li><i class="ringed"></i>greedy</li><li><i style="background:var(--accent)"></i>full RL</li>'
    '<li><i style="background:var(--step)"></i>earlier steps</li>'
    '<li><i style="background:var(--base)"></i>base</li>'
    '<li><i style="background:var(--control)"></i>controls</li>'
    "<li>dashed: what the tools allow</li></ul>"
)


def _task_chart(summary: Summary, task: str) -> str:
    results = [result for result in summary.results if result.task == task]
    bars = [
        Bar(
            label=_label(result.stage),
            style=_style(result.stage),
            greedy=result.greedy,
            sampled=result.sampled,
        )
        for result in results
    ]
    chart = interval_chart(f"Accuracy on {task} by stage", bars, summary.tool_ceiling.get(task))
    calls = TASK_CALLS.get(task)
    needs = "" if calls is None else f" · {calls} tool call{'s' if calls > 1 else ''}"
    words = f"<q>{escape(TASK_WORDS[task])}</q>" if task in TASK_WORDS else ""
    return f"<figure><figcaption><h3>{escape(task)}{needs}</h3>{words}</figcaption>{chart}</figure>"


def _table(summary: Summary, tasks: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(task)}</th>' for task in tasks)
    body = _ceiling_row(summary, tasks)
    for lane, title in _LANES.items():
        names = [name for name in summary.stages if _lane(name) == lane]
        if names:
            body += (
                f'<tr class="group"><th scope="rowgroup" colspan="{len(tasks) + 2}">'
                f"{title}</th></tr>"
            )
            body += "".join(_row(summary, name, tasks) for name in names)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of all stages">'
        '<table class="stages"><caption>Accuracy in percent: greedy with its interval; below it '
        "sampled answers and the share of sampled episodes that call a tool. "
        "<i>Broken</i> counts episodes in which our own machinery failed; they are neither right "
        f'nor wrong.</caption><thead><tr><th scope="col">stage</th>{head}'
        f'<th scope="col">broken</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _ceiling_row(summary: Summary, tasks: Sequence[str]) -> str:
    if not summary.tool_ceiling:
        return ""
    cells = ""
    for task in tasks:
        ceiling, blind = summary.tool_ceiling.get(task), summary.picture_rule.get(task)
        words = "–" if ceiling is None else f"<b>{100 * ceiling:.1f}</b>"
        if blind is not None:
            words += f'<span class="second">best picture-only rule {100 * blind:.1f}</span>'
        cells += f'<td data-label="{escape(task)}"><span>{words}</span></td>'
    return (
        '<tr><th scope="row">tool ceiling<small>the scripted teacher over the same tools</small>'
        f'</th>{cells}<td class="none"></td></tr>'
    )


def _row(summary: Summary, name: str, tasks: Sequence[str]) -> str:
    results = [summary.result(name, task) for task in tasks]
    cells = "".join(_cell(result, task) for result, task in zip(results, tasks, strict=True))
    broken = sum(result.failed for result in results if result)
    remark = BY_NAME[name].remark if name in BY_NAME else ""
    style = ' class="top"' if name == "full_rl" else ""
    return (
        f'<tr{style}><th scope="row">{escape(_label(name))}<small>{escape(remark)}</small></th>'
        f'{cells}<td data-label="broken" class="{"" if broken else "none"}">{broken}</td></tr>'
    )


def _cell(result: Result | None, task: str) -> str:
    if result is None:
        return f'<td class="none" data-label="{escape(task)}">–</td>'
    words = ""
    if result.greedy is not None:
        low, high = 100 * result.greedy.low, 100 * result.greedy.high
        words += (
            f'<b>{100 * result.greedy.mean:.1f}</b> <span class="range">{low:.0f}–{high:.0f}</span>'
        )
    if result.sampled is not None:
        low, high = 100 * result.sampled.low, 100 * result.sampled.high
        words += (
            f'<span class="second">sampled {100 * result.sampled.mean:.1f} '
            f'<span class="range">{low:.0f}–{high:.0f}</span></span>'
        )
    if result.call_rate is not None:
        words += f'<span class="second">calls {100 * result.call_rate:.0f} %</span>'
    return f'<td data-label="{escape(task)}"><span>{words}</span></td>'


def _label(name: str) -> str:
    return BY_NAME[name].label if name in BY_NAME else name


def _lane(name: str) -> str:
    return BY_NAME[name].lane if name in BY_NAME else "control"


def _style(name: str) -> str:
    return "final" if name == "full_rl" else _lane(name)


# ---- words, claims, curves, time, episodes ----------------------------------------------------


def _honest(summary: Summary) -> str:
    return (
        "<section><h2>What this shows, and what it does not</h2>"
        f"<p>{escape(honest(summary))}</p></section>"
    )


def _claims(summary: Summary) -> str:
    note = (
        " A smoke run takes too few steps to hold them; they are listed to show the form."
        if summary.smoke
        else ""
    )
    lines = "".join(_claim(claim) for claim in claims(summary))
    return (
        '<section id="claims"><h2>What had to be shown</h2><p class="intro">Each claim with the '
        f"figure that this run reached and the bar that was set before it.{note}</p>"
        f'<ul class="claims">{lines}</ul></section>'
    )


def _claim(claim: Claim) -> str:
    marks = {True: ("held", "✓"), False: ("missed", "✗"), None: ("pending", "·")}
    word, mark = marks[claim.held]
    hoped = " <small>(hoped for)</small>" if claim.stretch else ""
    return (
        f'<li><span class="mark {word}" role="img" aria-label="{word}">{mark}</span>'
        f"<span>{escape(claim.text)}{hoped}</span>"
        f'<span class="numbers">{escape(claim.figure)}'
        f"<small>{escape(claim.bar)}</small></span></li>"
    )


_CHARTS = (
    (
        "Step 1: point questions, one tool",
        (("point_rl", "real"), ("shuffled_point_rl", "shuffled")),
    ),
    (
        "Step 4: all tasks, all tools",
        (("full_rl", "real"), ("shuffled_rl", "shuffled"), ("toolfree_rl", "no tools")),
    ),
)
_FIGURE_WORDS = {
    "reward": "reward",
    "accuracy": "accuracy of rollouts",
    "call_rate": "share of rollouts that call a tool",
}


def _learning(data: PageData) -> str:
    blocks = []
    for title, members in _CHARTS:
        charts = [_curve_chart(data, figure, members) for figure in _FIGURE_WORDS]
        drawn = [chart for chart in charts if chart]
        if drawn:
            blocks.append(f'<h3>{title}</h3><div class="charts">{"".join(drawn)}</div>')
    if not blocks:
        return ""
    return (
        '<section id="learning"><h2>How it was learned</h2><p class="intro">Per RL step, over the '
        "rollouts of that step; faint: each step, strong: running mean over five. In the shuffled "
        "control the rewards of a group are permuted, so that they say nothing.</p>"
        + '<div class="gap"></div>'.join(blocks)
        + "</section>"
    )


def _curve_chart(data: PageData, figure: str, members: Sequence[tuple[str, str]]) -> str:
    lines = [
        Line(label=label, style="line " + _style(stage), curve=curve)
        for stage, label in members
        for curve in data.curves.get(stage, ())
        if curve.figure == figure
    ]
    if not lines:
        return ""
    words = _FIGURE_WORDS[figure]
    return f"<figure><figcaption>{words}</figcaption>{line_chart(words, lines)}</figure>"


def _time(splits: Sequence[TimeSplit]) -> str:
    if not splits:
        return ""
    return (
        '<section id="time"><h2>Where the time went</h2><p class="intro">Wall time of each stage; '
        "stages of two lanes run side by side, so the bars add up to more than the run.</p>"
        + time_bars(splits, [_label(split.stage) for split in splits])
        + '<ul class="legend"><li><i class="t-generate"></i>generation</li>'
        '<li><i class="t-tools"></i>tools</li><li><i class="t-update"></i>update</li>'
        '<li><i class="t-other"></i>the rest (start, evaluation, files)</li></ul></section>'
    )


def _gallery(data: PageData) -> str:
    if not data.episodes:
        return ""
    stages = "".join(
        f'<option value="{escape(name)}"{" selected" if name == _opening(data) else ""}>'
        f"{escape(_label(name))}</option>"
        for name in data.episode_stages
    )
    tasks = [task for task in TASKS if any(f'data-task="{task}"' in one for one in data.episodes)]
    return (
        '<section id="episodes"><h2>Episodes</h2><p class="intro">What the model saw, thought, '
        "called and read, and what it was given for its answer.</p>"
        '<form class="filters"><label>Stage <select name="stage"><option value="all">all stages'
        f"</option>{stages}</select></label>"
        + _chips("task", "Task", ("all", *tasks))
        + _chips("outcome", "Outcome", ("all", "right", "wrong"))
        + '</form><p class="hint"><span id="count" role="status"></span>. Choose a stage, a task '
        "and an outcome; open an episode with a click or <kbd>Enter</kbd>; <kbd>j</kbd> and "
        "<kbd>k</kbd> go to the next and the one before. The picture of each call is what that "
        "tool saw, with its result drawn on it.</p>" + "".join(data.episodes) + "</section>"
    )


def _opening(data: PageData) -> str:
    """The stage that the gallery opens with."""
    return "full_rl" if "full_rl" in data.episode_stages else data.episode_stages[-1]


def _chips(name: str, title: str, values: Sequence[str]) -> str:
    chips = "".join(
        f'<label><input type="radio" name="{name}" value="{escape(value)}"'
        f"{' checked' if value == 'all' else ''}><span>{escape(value)}</span></label>"
        for value in values
    )
    return f"<fieldset><legend>{title}</legend>{chips}</fieldset>"


def _foot(summary: Summary) -> str:
    return (
        "<footer><p>Numbers: <code>summary.json</code>; every one of them can be recomputed from "
        "<code>rows/STAGE.jsonl</code>. Seed "
        f"{summary.seed}. This page holds everything it shows; nothing is loaded from a network."
        "</p></footer>"
    )
