"""The report as one HTML text: every section from a Summary, curves and drawn episodes.

A section whose figures are missing is left out or says what it waits for, so the page is whole
after every stage. Nothing is fetched: styles, script, charts and pictures are inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from eval.demo.charts import Line, line_chart, time_bars
from eval.demo.claims import Claim, claims
from eval.demo.curves import Curve, TimeSplit
from eval.demo.figures import figures, stage_label, stage_style, tasks_shown
from eval.demo.stages import STAGES
from eval.demo.story import headline, honest, lede
from eval.demo.summary import Summary
from rl.show.gallery import page_text

_PAGE = Path(__file__).resolve().parents[1] / "page"


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
    subject: str = ""
    """Name of the policy of a plain evaluation; empty for the demo, whose stages tell a story."""


def page(data: PageData) -> str:
    """The whole document."""
    css = page_text("base.css") + (_PAGE / "demo.css").read_text(encoding="utf-8")
    script = (_PAGE / "demo.js").read_text(encoding="utf-8")
    sections = [figures(data.summary, is_demo=not data.subject)]
    if not data.subject:
        sections += [_honest(data.summary), _claims(data.summary)]
        sections += [_learning(data), _time(data.splits)]
    sections.append(_gallery(data))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(_title(data))}</title><style>{css}</style>"
        '</head><body class="no-script"><a class="skip" href="#episodes">Skip to the episodes</a>'
        f"{_top(data)}<main>{''.join(sections)}</main>{_foot(data.summary)}"
        f"<script>{script}</script></body></html>\n"
    )


def _title(data: PageData) -> str:
    if data.subject:
        return f"SpaceTools – evaluation of {data.subject}"
    return "SpaceTools – a small model learns to see with tools"


# ---- top --------------------------------------------------------------------------------------


def _top(data: PageData) -> str:
    summary = data.summary
    if data.subject:
        return (
            '<header class="top"><p class="kicker">SpaceTools · Evaluation</p>'
            f"<h1>{escape(data.subject)}</h1>{_facts(summary)}</header>"
        )
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


# ---- words, claims, curves, time, episodes ----------------------------------------------------


def _honest(summary: Summary) -> str:
    return (
        "<section><h2>What this shows, and what it does not</h2>"
        f'<p class="honest">{escape(honest(summary))}</p></section>'
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
        f'<span class="reached">{escape(claim.figure)}</span>'
        f'<span class="bar">{escape(claim.bar)}</span></li>'
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
            blocks.append(
                f'<h3 class="block">{title}</h3><div class="charts">{"".join(drawn)}</div>'
            )
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
        Line(label=label, style=f"line {stage_style(stage)} {label.replace(' ', '-')}", curve=curve)
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
        "stages of two lanes run side by side, so the bars add up to more than the run. Generation "
        "and tools run at the same time for many episodes: the time of a rollout is divided by how "
        "long its episodes waited for each, summed, and not measured apart.</p>"
        + time_bars(splits, [stage_label(split.stage) for split in splits])
        + '<ul class="legend"><li><i class="t-generate"></i>generation</li>'
        '<li><i class="t-tools"></i>tools</li><li><i class="t-update"></i>update</li>'
        '<li><i class="t-other"></i>the rest (start, evaluation, files)</li></ul></section>'
    )


def _gallery(data: PageData) -> str:
    if not data.episodes:
        return ""
    stages = "".join(
        f'<option value="{escape(name)}"{" selected" if name == _opening(data) else ""}>'
        f"{escape(stage_label(name))}</option>"
        for name in data.episode_stages
    )
    heads = [one[:200] for one in data.episodes]
    tasks = [
        task
        for task in tasks_shown(data.summary)
        if any(f'data-task="{escape(task)}"' in head for head in heads)
    ]
    outcomes = ["right", "wrong"]
    outcomes += ["partly"] if any('data-outcome="partly"' in head for head in heads) else []
    return (
        '<section id="episodes"><h2>Episodes</h2><p class="intro">What the model saw, thought, '
        "called and read, and what it was given for its answer.</p>"
        '<form class="filters"><label>Stage <select name="stage"><option value="all">all stages'
        f"</option>{stages}</select></label>"
        + _chips("task", "Task", ("all", *tasks))
        + _chips("outcome", "Outcome", ("all", *outcomes))
        + '</form><p class="hint"><span id="count" role="status"></span>. Choose a stage, a task '
        "and an outcome; open an episode with a click or <kbd>Enter</kbd>; <kbd>j</kbd> and "
        "<kbd>k</kbd> go to the next and the one before. The picture of each call is what that "
        "tool saw, with its result drawn on it.</p>" + "".join(_one_open(data)) + "</section>"
    )


def _one_open(data: PageData) -> list[str]:
    """The episodes, the first right one that needs a look at the picture opened."""
    stage = f'data-stage="{_opening(data)}"'
    told = [number for number, one in enumerate(data.episodes) if stage in one[:200]]
    wanted = 'data-task="leftmost" data-outcome="right"'
    told.sort(key=lambda number: wanted not in data.episodes[number][:200])
    return [
        one.replace("<details", "<details open", 1) if number in told[:1] else one
        for number, one in enumerate(data.episodes)
    ]


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
