"""All steps of curation in their order: rewrite, clean, compare, balance, mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sft.curation.answers import clean
from sft.curation.balance import answer_counts, balance
from sft.curation.config import CurateConfig
from sft.curation.contamination import HashList, Meeting, without_contamination
from sft.curation.duplicates import without_duplicates
from sft.curation.ledger import Ledger
from sft.curation.mixture import mix
from sft.curation.pictures import Fingerprints
from sft.curation.rewriting import rewrite
from sft.curation.traces import Trace


@dataclass(frozen=True, kw_only=True, slots=True)
class Curated:
    """What came out."""

    rows: tuple[Trace, ...]
    """Of the set, in its order; rows that are repeated stand there as often."""
    ledger: Ledger
    rewriting: dict[str, int]
    """Rows by what became of their query; empty where nothing was to be rewritten."""
    meetings: tuple[Meeting, ...]
    before: dict[str, dict[str, int]]
    """Rows by task and answer before balancing."""


def curate(traces: Sequence[Trace], config: CurateConfig, lists: Sequence[HashList]) -> Curated:
    """Every step in turn; ConfigError where one cannot do what it is asked for."""
    ledger = Ledger()
    rows, rewriting = rewrite([*traces], config.rewrite, config.clean.tolerance)
    kept = clean(rows, config.clean, ledger)
    ledger.passed("clean", rows, kept)
    prints = Fingerprints()
    if config.duplicates.by != "none" or lists:
        prints.read(kept)
    rows, kept = kept, without_duplicates(kept, config.duplicates, prints, ledger)
    ledger.passed("duplicates", rows, kept)
    rows = kept
    kept, meetings = without_contamination(rows, lists, config.contamination.drop, prints, ledger)
    ledger.passed("contamination", rows, kept)
    if not lists:
        told = "not checked: no list in contamination.lists"
        ledger.unchecked["contamination", told] = len(kept)
    before = answer_counts(kept)
    rows, kept = kept, balance(kept, config.balance, config.seed, ledger)
    ledger.passed("balance", rows, kept)
    rows, kept = kept, mix(kept, config.mix, config.repeat, config.seed, ledger)
    ledger.passed("mix", rows, kept)
    return Curated(
        rows=tuple(kept),
        ledger=ledger,
        rewriting=rewriting,
        meetings=tuple(meetings),
        before=before,
    )
