"""The page of a teaching set as one HTML text: nothing is fetched, pictures are inside."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sft.curation.config import CurateConfig
from sft.curation.samples import breakable, samples
from sft.curation.statistics import answer_rows
from sft.curation.steps import Curated

_STYLE = Path(__file__).with_name("page.css")
_SHOWN_CHAINS = 20


def page(name: str, curated: Curated, figures: Mapping[str, Any], config: CurateConfig) -> str:
    """The whole document; the same figures and rows give the same text."""
    title = f"SpaceTools – teaching set {name}"
    parts = [
        _top(name, figures),
        _steps(figures),
        _queries(figures),
        _unchecked(figures),
        _contamination(figures),
        _answers(figures),
        _chains(figures),
        _lengths(figures),
        _samples(curated, config),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body>{''.join(parts)}<footer>Made by <code>python -m sft.curate</code>; the figures are "
        f"in <code>{escape(name)}.stats.json</code>, every dropped row with its reason in "
        f"<code>{escape(name)}.dropped.jsonl</code>. What the steps do: docs/CURATION.md."
        "</footer></body></html>\n"
    )


def _top(name: str, figures: Mapping[str, Any]) -> str:
    rows = figures["rows"]
    told = {"read": rows["read"], "dropped": rows["dropped"], "written": rows["written"]}
    if rows["distinct"] != rows["written"]:
        told["different"] = rows["distinct"]
    told |= {f"from {source}": number for source, number in figures["sources"].items()}
    cells = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{number:,}</dd></div>" for key, number in told.items()
    )
    files = ", ".join(
        f"<code>{escape(one['file'])}</code> ({one['rows']:,})" for one in figures["files"]
    )
    return (
        '<header><p class="kicker">SpaceTools · Teaching set</p>'
        f'<h1>{escape(name)}</h1><dl class="facts">{cells}</dl></header>'
        f'<main><p class="intro files">From {files}, seed '
        f"{figures['config']['seed']}.</p>"
    )


def _bar(share: float, kind: str = "") -> str:
    words = " ".join(word for word in (kind, "" if share else "none") if word)
    named = f' class="{words}"' if words else ""
    return f'<i{named} style="width:{100 * share:.2f}%"></i>'


def _table(head: str, body: str) -> str:
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _steps(figures: Mapping[str, Any]) -> str:
    total = max(1, figures["rows"]["read"])
    body = f'<tr><th>read</th><td class="n">{total:,}</td><td class="bar">{_bar(1.0)}</td></tr>'
    for step in figures["steps"]:
        left = step["after"]
        body += (
            f'<tr><th>{step["step"]}</th><td class="n">{left:,}</td>'
            f'<td class="bar">{_bar(min(1.0, left / total))}</td></tr>'
        )
        for one in figures["dropped"]:
            if one["step"] == step["step"]:
                body += (
                    f'<tr class="why"><th>{escape(one["reason"].replace("_", " "))}</th>'
                    f'<td class="n">−{one["rows"]:,}</td>'
                    f'<td class="bar">{_bar(one["rows"] / total)}</td></tr>'
                )
    return (
        '<h2>What stayed</h2><p class="intro">Rows after each step, and why rows were dropped.</p>'
        + _table('<th>step</th><th class="n">rows</th><th></th>', body)
    )


def _queries(figures: Mapping[str, Any]) -> str:
    if not figures["rewriting"]:
        return ""
    body = "".join(
        f'<tr><th>{escape(why)}</th><td class="n">{rows:,}</td></tr>'
        for why, rows in figures["rewriting"].items()
    )
    return (
        '<h2>Queries</h2><p class="intro">Rows whose query was rewritten as the place that the '
        "question asks for, and why others stayed as they are.</p>"
        + _table('<th>what became of them</th><th class="n">rows</th>', body)
    )


def _unchecked(figures: Mapping[str, Any]) -> str:
    if not figures["unchecked"]:
        return ""
    body = "".join(
        f"<tr><th>{escape(one['rule'].replace('_', ' '))}</th><td>{escape(one['why'])}</td>"
        f'<td class="n">{one["rows"]:,}</td></tr>'
        for one in figures["unchecked"]
    )
    return (
        '<h2>What could not be checked</h2><p class="intro">These rows were kept by the rule '
        "because it cannot tell, not because they are fine.</p>"
        + _table('<th>rule</th><th>why</th><th class="n">rows</th>', body)
    )


def _contamination(figures: Mapping[str, Any]) -> str:
    sets = figures["contamination"]
    if not sets:
        return ""
    dropped = figures["config"]["contamination"]["drop"]
    ways = [key for key in sets[0] if key not in ("set", "rows")]
    head = "<th>evaluation set</th>" + "".join(
        f'<th class="n">{way.replace("_", " ")}{" (dropped)" if way in dropped else ""}</th>'
        for way in ways
    )
    body = "".join(
        f"<tr><th>{escape(one['set'])} ({one['rows']:,})</th>"
        + "".join(f'<td class="n">{one[way]:,}</td>' for way in ways)
        + "</tr>"
        for one in sets
    )
    return (
        '<h2>Evaluation sets</h2><p class="intro">Rows that share a picture or a question with a '
        "set. Templates ask the same of many pictures, so that a text alone says little.</p>"
        + _table(head, body)
    )


def _answers(figures: Mapping[str, Any]) -> str:
    body, last = "", ""
    for task, answer, before, after in answer_rows(figures):
        single = len(figures["answers"]["before"][task]) == 1
        if task != last and not single:
            body += f'<tr class="group"><th colspan="4">{escape(task)}</th></tr>'
        last, name = task, f"{task}: {answer}" if single else answer
        inside = "" if single else "within"
        body += (
            f'<tr class="{inside}"><th>{escape(name)}</th>'
            f'<td class="n">{before[0]:,} · {before[1]:.0%}</td>'
            f'<td class="n">{after[0]:,} · {after[1]:.0%}</td>'
            f'<td class="bar">{_bar(after[1])}{_bar(before[1], "before")}</td></tr>'
        )
    return (
        '<h2>Answers</h2><p class="intro">Rows by task and answer, and their share of the task. '
        "Answers that are no words are counted by their kind.</p>"
        '<p class="key"><span><i class="after"></i>in the set</span>'
        '<span><i class="was"></i>before balancing</span></p>'
        + _table('<th></th><th class="n">before</th><th class="n">in the set</th><th></th>', body)
    )


def _chains(figures: Mapping[str, Any]) -> str:
    chains, total = figures["chains"], max(1, figures["rows"]["written"])
    body = "".join(
        f"<tr><th><code>{breakable(chain)}</code></th>"
        f'<td class="n">{rows:,} · {rows / total:.0%}</td>'
        f'<td class="bar">{_bar(rows / total)}</td></tr>'
        for chain, rows in list(chains.items())[:_SHOWN_CHAINS]
    )
    more = len(chains) - _SHOWN_CHAINS
    told = f"; {more} rarer ones are in the figures" if more > 0 else ""
    return (
        f'<h2>Tool chains</h2><p class="intro">Tools in the order of their calls{told}.</p>'
        + _table('<th>chain</th><th class="n">rows</th><th></th>', body)
    )


def _lengths(figures: Mapping[str, Any]) -> str:
    charts = ""
    for name, one in figures["lengths"].items():
        most = max(rows for _, _, rows in one["histogram"])
        bins = "".join(
            f'<div style="height:{100 * rows / most:.1f}%" title="{low} to {high}: {rows} rows">'
            "</div>"
            for low, high, rows in one["histogram"]
        )
        charts += (
            f'<div><h3>{name}</h3><div class="bins">{bins}</div>'
            f'<div class="ends"><span>{one["least"]:,}</span><span>{one["most"]:,}</span></div>'
            f"<p>median {one['median']:,g}, 95 % up to {one['p95']:,.0f}</p></div>"
        )
    return (
        '<h2>Lengths</h2><p class="intro">Of a conversation: turns of the assistant, calls, '
        f'and the text of all turns.</p><div class="charts">{charts}</div>'
    )


def _samples(curated: Curated, config: CurateConfig) -> str:
    cards = samples(curated.rows, config.page.samples, config.seed)
    if not cards:
        return "</main>"
    return (
        '<h2>Samples</h2><p class="intro">Drawn by the seed, task by task.</p>'
        '<p class="key"><span><i class="tool"></i>what tools returned, in the order of calls</span>'
        '<span><i class="answered"></i>what was answered</span></p>'
        f'<div class="samples">{"".join(cards)}</div></main>'
    )
