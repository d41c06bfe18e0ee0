"""Everything that is made of a run's rows when it ends, or when somebody asks again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.report.anatomy import anatomies
from eval.report.anchors import PAGE
from eval.report.facts import RunFacts
from eval.report.page import page
from eval.report.payload import payload
from eval.report.results import results_of
from eval.report.store import write_facts, write_results
from eval.report.terminal import table
from eval.rows import EvalRow
from rl.show.episodes import shown_pictures
from rl.show.thumbnails import Thumbnails
from sft.run_dir import write_atomic

CACHE = Path("pictures") / "thumbnails.sqlite"


def publish(
    out: Path,
    rows: Sequence[EvalRow],
    facts: RunFacts,
    *,
    folders: Sequence[Path] = (),
    everything: bool = False,
) -> str:
    """Write ``results.json``, ``report.html`` and what they are made of besides rows into ``out``;
    returns the table for a terminal. ``folders`` are those whose pictures are shown, without them
    ``out`` itself."""
    found = anatomies(rows, facts.verdict.findings)
    results = results_of(rows, facts, found)
    write_facts(out, facts)
    write_results(out, results)
    thumbnails = Thumbnails(out / CACHE, folders or (out,)).of(
        shown_pictures(row.episode for row in rows)
    )
    numbers = {sha256: number for number, sha256 in enumerate(thumbnails)}
    episodes = payload(rows, found, facts.verdict.findings, numbers, scored=results.shown)
    write_atomic(out / PAGE, page(results, facts.verdict.findings, episodes, thumbnails))
    words = table(results, everything=everything)
    places = ", ".join(str(folder / "rows") for folder in folders or (out,))
    return f"{words}\nrows: {places}\nreport: {out / PAGE}"
